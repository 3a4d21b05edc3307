"""Lists of utterances by identifier: labelled minutes, development set for the decoder, test set.

A list is a text file: lines with `#` state its source, every other line is an identifier. An identifier is
`SPEAKER/FILE` without folder and suffix, so that a corpus in its official layout and the same corpus as a pack agree.

`draw_lists` is the rule behind the committed lists in `data/lists/`: a pure function of a corpus's identifiers and
durations. The labelled sets of a corpus are nested, and share no utterance with its development and test sets; where
the corpus has enough speakers, they share no speaker either.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from speechssl.config import UserError
from speechssl.data.manifest import write_lines
from speechssl.data.members import CONTAINERS, SEPARATOR
from speechssl.data.stretches import identifiers, long_identifier, start_mark
from speechssl.data.subsets import minutes_subset, split_by_speaker
from speechssl.data.utterance import Utterance
from speechssl.data.values import composed

SEED = 0
RULES: Mapping[str, str] = MappingProxyType(
    {
        "speechocean762": "of the official train split, dev: a tenth by speaker; 10min, 1h: of the other speakers",
        "cmu_arctic": "slt-10min: of sentences a; slt-dev: 10 minutes of the rest of them; "
        "bdl-test, slt-test: all sentences b",
        "festvox_ru": "test: 20 minutes; dev: 10 minutes of the rest; 10min, 1h: of what remains",
    }
)
_SHOWN = 3  # identifiers in a message


def utterance_id(utterance: Utterance) -> str:
    """The identifier of an utterance: speaker and file name, and where it starts unless that is the file's start.

    >>> utterance_id(Utterance(audio="/data/cmu_us_slt_arctic/wav/arctic_a0001.wav", duration=3.0, speaker="slt"))
    'slt/arctic_a0001'
    >>> utterance_id(Utterance(audio="/data/train-0.parquet::audio/17", duration=3.0, speaker="slt"))
    'slt/train-0/audio/17'
    """
    return f"{_file(utterance)}{start_mark(utterance.offset)}"


def list_ids(utterances: Sequence[Utterance]) -> list[str]:
    """The identifiers of a corpus: those of `utterance_id`, with the length where several stretches start together."""
    return identifiers(utterances, [_file(each) for each in utterances])


def _file(utterance: Utterance) -> str:
    speaker = f"{utterance.speaker}/" if utterance.speaker is not None else ""
    container, _, member = utterance.audio.rpartition(SEPARATOR)
    if Path(container).suffix in CONTAINERS:  # rows and positions are numbered from 0 in each file
        return composed(f"{speaker}{Path(container).stem}/{member.removesuffix(Path(member).suffix)}")
    return composed(f"{speaker}{Path(utterance.audio).stem}")


def read_list(path: str | Path) -> set[str]:
    r"""The identifiers of a list.

    Args:
        path: a text file with one identifier per line; empty lines and lines that start with `#` are skipped.

    Raises:
        UserError: the file cannot be read, holds no identifier, or one twice.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
    ...     _ = file.write("# seed: 0\nslt/arctic_a0001\n")
    ...     file.flush()
    ...     read_list(file.name)
    {'slt/arctic_a0001'}
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UserError(f"{path}: the list cannot be read ({reason})") from None
    ids = [composed(line.strip()) for line in lines if line.strip() and not line.startswith("#")]
    if not ids:
        raise UserError(f"{path}: no identifier in it")
    twice = [name for name, count in Counter(ids).items() if count > 1]
    if twice:
        raise UserError(f"{path}: {_some(twice)} in it more than once")
    return set(ids)


def select(utterances: Sequence[Utterance], ids: Collection[str]) -> list[int]:
    """Places of the utterances of a list.

    Args:
        utterances: the corpus.
        ids: identifiers, as `read_list` gives them.

    Returns:
        Indices in ascending order, one for each identifier.

    Raises:
        UserError: identifiers that the corpus does not have, or has more than once; some are named.

    >>> select([Utterance(audio=f"{name}.wav", duration=1.0) for name in "abc"], {"c", "a"})
    [0, 2]
    """
    wanted = {composed(name) for name in ids}
    found = [
        (index, name)
        for index, each in enumerate(utterances)
        for name in (utterance_id(each), long_identifier(each, _file(each)))
        if name in wanted
    ]
    counts = Counter(name for _, name in found)
    missing = sorted(wanted - set(counts))
    if missing:
        raise UserError(f"{len(missing)} of {len(wanted)} listed utterances are not in the corpus: {_some(missing)}")
    twice = sorted(name for name, count in counts.items() if count > 1)
    if twice:
        raise UserError(f"{len(twice)} listed utterances are in the corpus more than once: {_some(twice)}")
    return [index for index, _ in found]


def draw_lists(corpus: str, utterances: Sequence[Utterance]) -> dict[str, list[Utterance]]:
    """All lists of a corpus, drawn by its rule with seed 0.

    Args:
        corpus: one of `RULES`.
        utterances: the whole corpus, durations known.

    Returns:
        Utterances by the name of the list, in the order of their identifiers.

    Raises:
        UserError: there is no rule for the corpus.

    >>> few = [Utterance(audio=f"ru_{i:04}.wav", duration=10.0, speaker="nsh") for i in range(560)]
    >>> {name: len(drawn) for name, drawn in draw_lists("festvox_ru", few).items()}
    {'festvox_ru-test': 120, 'festvox_ru-dev': 60, 'festvox_ru-10min': 60, 'festvox_ru-1h': 360}
    """
    if corpus not in RULES:
        raise UserError(f"no lists of {corpus!r}; allowed: {', '.join(RULES)}")
    # Draws go by the path, which differs between layouts; identifiers do not.
    origin = dict(zip(list_ids(utterances), utterances, strict=True))
    drawn = _RULES[corpus](
        sorted((each.model_copy(update={"audio": name}) for name, each in origin.items()), key=_audio)
    )
    return {f"{corpus}-{name}": [origin[each.audio] for each in part] for name, part in drawn.items()}


def write_list(path: str | Path, utterances: Sequence[Utterance], *, corpus: str) -> None:
    """Writes a list from `draw_lists`, with its source.

    Args:
        path: a text file.
        utterances: of the list.
        corpus: one of `RULES`.
    """
    minutes = sum(each.duration for each in utterances) / 60
    head = [
        f"corpus: {corpus}",
        f"rule: {RULES[corpus]} (speechssl.data.lists.draw_lists)",
        f"seed: {SEED}",
        f"utterances: {len(utterances)}",
        f"speakers: {len({each.speaker for each in utterances})}",
        f"minutes: {minutes:.2f}",
    ]
    write_lines([*(f"# {line}" for line in head), *sorted(list_ids(utterances))], Path(path))


def _draw_speechocean762(utterances: Sequence[Utterance]) -> dict[str, list[Utterance]]:
    train = [each for each in utterances if each.in_split("train")]
    parts = split_by_speaker(train, {"train": 0.9, "dev": 0.1}, seed=SEED)
    return {"dev": parts["dev"], **_labelled(parts["train"])}


def _draw_cmu_arctic(utterances: Sequence[Utterance]) -> dict[str, list[Utterance]]:
    """Every voice reads the same sentences: those of the test must be new to the language model, too."""
    sentences_a = [each for each in utterances if each.audio.startswith("slt/arctic_a")]
    labelled = minutes_subset(sentences_a, 10.0, seed=SEED)
    return {
        "slt-10min": labelled,
        "slt-dev": minutes_subset(_without(sentences_a, labelled), 10.0, seed=SEED),
        **{
            f"{voice}-test": [each for each in utterances if each.audio.startswith(f"{voice}/arctic_b")]
            for voice in ("bdl", "slt")
        },
    }


def _draw_festvox_ru(utterances: Sequence[Utterance]) -> dict[str, list[Utterance]]:
    test = minutes_subset(utterances, 20.0, seed=SEED)
    rest = _without(utterances, test)
    dev = minutes_subset(rest, 10.0, seed=SEED)
    return {"test": test, "dev": dev, **_labelled(_without(rest, dev))}


_RULES = MappingProxyType(
    {"speechocean762": _draw_speechocean762, "cmu_arctic": _draw_cmu_arctic, "festvox_ru": _draw_festvox_ru}
)


def _labelled(utterances: Sequence[Utterance]) -> dict[str, list[Utterance]]:
    return {name: minutes_subset(utterances, minutes, seed=SEED) for name, minutes in (("10min", 10.0), ("1h", 60.0))}


def _without(utterances: Sequence[Utterance], taken: Sequence[Utterance]) -> list[Utterance]:
    names = {each.audio for each in taken}
    return [each for each in utterances if each.audio not in names]


def _audio(utterance: Utterance) -> str:
    return utterance.audio


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"
