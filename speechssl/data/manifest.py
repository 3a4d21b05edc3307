"""Manifests: one utterance a line of JSON, in seconds, never in samples.

A manifest names stretches of audio files and what is known about them. Everything here is a pure function of its
arguments: a split or a few-label subset depends on the utterances and the seed alone, not on their order.
"""

import json
import math
import os
import random
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar, get_args

from pydantic import Field, ValidationError

from speechssl.config import Config, UserError

ClassKey = Literal["label", "speaker", "language", "text", "split"]
Item = TypeVar("Item")


class Utterance(Config):
    """One labelled or unlabelled stretch of an audio file.

    Attributes:
        audio: path of the file; in a manifest a relative one is relative to the manifest's folder.
        offset: where the stretch starts, s.
        duration: its length, s; 0 when it is not known yet, then it reaches to the end of the file.
        speaker: an identifier that is unique in the manifest.
        text: the transcript.
        label: the class, for example an emotion or a word.
        language: an identifier such as "en".
        split: for example "train" or "test", where the corpus has official ones.
        extras: whatever else is known, flat.
    """

    audio: str
    offset: float = 0.0
    duration: float
    speaker: str | None = None
    text: str | None = None
    label: str | None = None
    language: str | None = None
    split: str | None = None
    extras: dict[str, str | int | float | bool | None] = Field(default_factory=dict)


class Reject(Config):
    """An utterance that was left out, and why.

    Attributes:
        audio: path of the file.
        reason: why, in one line.
        offset: where the utterance starts, s; None when it starts with the file.
    """

    audio: str
    reason: str
    offset: float | None = None


@dataclass(frozen=True)
class ManifestStatistics:
    """What a manifest holds.

    Attributes:
        utterances: number of utterances.
        seconds: total duration, s.
        shortest: shortest duration, s; 0 for an empty manifest.
        longest: longest duration, s; 0 for an empty manifest.
        speakers: number of different speakers.
        transcribed: number of utterances with a text.
        labels: utterances of each label, most frequent first.
        languages: utterances of each language, most frequent first.
        splits: utterances of each split, most frequent first.
    """

    utterances: int
    seconds: float
    shortest: float
    longest: float
    speakers: int
    transcribed: int
    labels: dict[str, int]
    languages: dict[str, int]
    splits: dict[str, int]


def read_manifest(path: str | Path) -> list[Utterance]:
    """The utterances of a manifest, with absolute audio paths.

    Args:
        path: a JSONL file; empty lines are skipped.

    Raises:
        UserError: no such file, or a line that is no utterance (named by its number).

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_manifest([Utterance(audio="a.wav", duration=1.5)], folder + "/m.jsonl")
    ...     [utterance] = read_manifest(folder + "/m.jsonl")
    ...     utterance.audio == folder + "/a.wav", utterance.duration
    (True, 1.5)
    """
    folder = Path(path).absolute().parent
    try:
        content = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UserError(f"{path}: the manifest cannot be read ({reason})") from error
    utterances: list[Utterance] = []
    for number, line in enumerate(content.split("\n"), start=1):  # not splitlines(): a text may hold U+2028
        if not line.strip():
            continue
        try:
            utterance = Utterance.model_validate_json(line)
        except ValidationError as error:
            raise UserError(f"{path} line {number}: {_first_problem(error)}") from error
        if not Path(utterance.audio).is_absolute():
            utterance = utterance.model_copy(update={"audio": str(folder / utterance.audio)})
        utterances.append(utterance)
    return utterances


def write_manifest(utterances: Iterable[Utterance], path: str | Path) -> None:
    """Writes a manifest: whole or not at all. Paths and values are written as they are, empty fields left out.

    Args:
        utterances: what to write, in order.
        path: the file to write; its folder is made when missing.
    """
    write_lines((json_line(utterance) for utterance in utterances), Path(path))


def json_line(record: Config) -> str:
    """One record as a line of JSON without the fields that hold their default."""
    return record.model_dump_json(exclude_defaults=True)


def write_lines(lines: Iterable[str], path: Path) -> None:
    """Writes text lines under a temporary name, flushes them to the disk and renames the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(line + "\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def validate_manifest(utterances: Iterable[Utterance], *, check_files: bool = False) -> list[str]:
    """What is wrong with a manifest, one line each; an empty list when nothing is.

    Args:
        utterances: the manifest.
        check_files: look for the audio files too.

    >>> validate_manifest([Utterance(audio="a.wav", duration=-1.0)])
    ['utterance 0 (a.wav): duration must not be negative, got -1']
    """
    problems: list[str] = []
    first: dict[tuple[str, float], int] = {}
    missing: dict[str, bool] = {}
    for index, utterance in enumerate(utterances):
        name = f"utterance {index} ({utterance.audio})"
        if not utterance.audio:
            problems.append(f"{name}: no audio path")
        for field, value in (("offset", utterance.offset), ("duration", utterance.duration)):
            if not math.isfinite(value):
                problems.append(f"{name}: {field} must be finite, got {value:g}")
            elif value < 0:
                problems.append(f"{name}: {field} must not be negative, got {value:g}")
        key = (utterance.audio, utterance.offset)
        if key in first:
            problems.append(f"{name}: the same audio and offset as utterance {first[key]}")
        first.setdefault(key, index)
        if check_files:
            if utterance.audio not in missing:
                missing[utterance.audio] = not Path(utterance.audio).exists()
            if missing[utterance.audio]:
                problems.append(f"{name}: no such file")
    return problems


def filter_manifest(
    utterances: Iterable[Utterance],
    *,
    min_duration: float = 0.0,
    max_duration: float = math.inf,
    speakers: Iterable[str] | None = None,
    labels: Iterable[str] | None = None,
    languages: Iterable[str] | None = None,
    splits: Iterable[str] | None = None,
    keep: Callable[[Utterance], bool] | None = None,
) -> list[Utterance]:
    """The utterances that meet every condition, in order.

    Args:
        utterances: the manifest.
        min_duration: shortest duration kept, s.
        max_duration: longest duration kept, s.
        speakers: speakers kept; None keeps all.
        labels: labels kept; None keeps all.
        languages: languages kept; None keeps all.
        splits: splits kept; None keeps all.
        keep: any other condition.

    >>> few = [Utterance(audio="a", duration=1.0), Utterance(audio="b", duration=3.0)]
    >>> [utterance.audio for utterance in filter_manifest(few, min_duration=2.0)]
    ['b']
    """
    wanted = {
        field: None if values is None else frozenset(values)
        for field, values in (("speaker", speakers), ("label", labels), ("language", languages), ("split", splits))
    }
    return [
        utterance
        for utterance in utterances
        if min_duration <= utterance.duration <= max_duration
        and all(values is None or getattr(utterance, field) in values for field, values in wanted.items())
        and (keep is None or keep(utterance))
    ]


def split_by_speaker(
    utterances: Sequence[Utterance], fractions: Mapping[str, float], *, seed: int
) -> dict[str, list[Utterance]]:
    """Splits a manifest so that no speaker is in two parts.

    Speakers are taken in seeded order and each goes to the part that lacks most. A part therefore exceeds its share by
    one speaker at most; every part gets at least one.

    Args:
        utterances: the manifest; every utterance needs a speaker.
        fractions: share of each part, in seconds of audio (in utterances when a duration is unknown); sums to 1.
        seed: another seed is another split.

    Returns:
        The utterances of each part in their old order.

    Raises:
        ValueError: utterances without speaker, fractions that are not positive or do not sum to 1, or fewer speakers
            than parts.

    >>> few = [Utterance(audio=f"{i}.wav", duration=1.0, speaker=f"s{i % 4}") for i in range(8)]
    >>> parts = split_by_speaker(few, {"train": 0.75, "test": 0.25}, seed=0)
    >>> {name: len(part) for name, part in parts.items()}
    {'train': 6, 'test': 2}
    """
    if any(not fraction > 0 for fraction in fractions.values()) or abs(sum(fractions.values()) - 1) > 1e-6:
        raise ValueError(f"fractions must be above 0 and sum to 1, got {dict(fractions)}")
    nameless = sum(utterance.speaker is None for utterance in utterances)
    if nameless:
        raise ValueError(f"{nameless} of {len(utterances)} utterances have no speaker; a split by speaker needs one")
    by_count = any(utterance.duration <= 0 for utterance in utterances)
    weights: dict[str, float] = defaultdict(float)
    for utterance in utterances:
        weights[str(utterance.speaker)] += 1.0 if by_count else utterance.duration
    if len(weights) < len(fractions):
        raise ValueError(f"{len(weights)} speakers cannot fill {len(fractions)} parts")
    part_of = _assign(weights, fractions, seed)
    return {
        name: [utterance for utterance in utterances if part_of[str(utterance.speaker)] == name] for name in fractions
    }


def _assign(weights: Mapping[str, float], fractions: Mapping[str, float], seed: int) -> dict[str, str]:
    """A part for each speaker."""
    total = math.fsum(weights.values())
    lacking = {name: fraction * total for name, fraction in fractions.items()}
    part_of: dict[str, str] = {}
    for speaker in _shuffled(sorted(weights), seed, "speakers"):
        name = max(lacking, key=lacking.__getitem__)
        part_of[speaker] = name
        lacking[name] -= weights[speaker]
    for name in fractions:  # a share below one speaker may still be empty: give it the lightest that can be spared
        if name not in part_of.values():
            sizes = Counter(part_of.values())
            spare = [speaker for speaker in part_of if sizes[part_of[speaker]] > 1]
            part_of[min(spare, key=lambda speaker: (weights[speaker], speaker))] = name
    return part_of


def k_shot(utterances: Sequence[Utterance], shots: int, *, seed: int, key: ClassKey = "label") -> list[Utterance]:
    """Draws the same number of utterances of each class. With one seed, fewer shots are a subset of more.

    Args:
        utterances: the manifest; those without a class are left out.
        shots: utterances per class.
        seed: another seed is another draw.
        key: the field that holds the class.

    Returns:
        `shots` utterances of each class, in their old order.

    Raises:
        ValueError: no utterance has a class, or a class has too few (named).

    >>> few = [Utterance(audio=f"{i}.wav", duration=1.0, label="ab"[i % 2]) for i in range(10)]
    >>> [utterance.label for utterance in k_shot(few, 2, seed=0)].count("a")
    2
    """
    if shots < 1:
        raise ValueError(f"shots must be at least 1, got {shots}")
    if key not in get_args(ClassKey):
        raise ValueError(f"key must be one of {', '.join(get_args(ClassKey))}; got {key!r}")
    classes: dict[str, list[int]] = defaultdict(list)
    for index, utterance in enumerate(utterances):
        value = getattr(utterance, key)
        if value is not None:
            classes[value].append(index)
    if not classes:
        raise ValueError(f"no utterance has a {key}")
    few = {name: len(members) for name, members in sorted(classes.items()) if len(members) < shots}
    if few:
        listed = ", ".join(f"{name!r} has {count}" for name, count in few.items())
        raise ValueError(f"{shots} shots asked for, but {key} {listed}")
    chosen: set[int] = set()
    for name, members in classes.items():
        members.sort(key=lambda index: _identity(utterances[index]))
        chosen.update(_shuffled(members, seed, name)[:shots])
    return [utterances[index] for index in sorted(chosen)]


def minutes_subset(utterances: Sequence[Utterance], minutes: float, *, seed: int) -> list[Utterance]:
    """Draws utterances of at most so many minutes. With one seed, fewer minutes are a subset of more.

    The draw stops before the first utterance that would not fit, so it falls short by less than one utterance.

    Args:
        utterances: the manifest, durations known.
        minutes: total to draw.
        seed: another seed is another draw.

    Returns:
        The drawn utterances in their old order.

    Raises:
        ValueError: the manifest holds less, or a duration is unknown.

    >>> few = [Utterance(audio=f"{i}.wav", duration=30.0) for i in range(10)]
    >>> len(minutes_subset(few, 2.0, seed=0))
    4
    """
    if not minutes > 0:
        raise ValueError(f"minutes must be above 0, got {minutes:g}")
    unknown = sum(utterance.duration <= 0 for utterance in utterances)
    if unknown:
        raise ValueError(f"{unknown} of {len(utterances)} utterances have no duration")
    total = math.fsum(utterance.duration for utterance in utterances)
    wanted = minutes * 60
    if total < wanted - 1e-6:
        raise ValueError(f"{minutes:g} minutes asked for, the manifest holds {total / 60:.2f}")
    order = sorted(range(len(utterances)), key=lambda index: _identity(utterances[index]))
    chosen: list[int] = []
    seconds = 0.0
    for index in _shuffled(order, seed, "minutes"):
        seconds += utterances[index].duration
        if seconds > wanted + 1e-6:
            break
        chosen.append(index)
    return [utterances[index] for index in sorted(chosen)]


def statistics(utterances: Sequence[Utterance]) -> ManifestStatistics:
    """Counts of a manifest.

    >>> statistics([Utterance(audio="a", duration=2.0, label="x")]).labels
    {'x': 1}
    """
    durations = [utterance.duration for utterance in utterances]

    def counts(field: str) -> dict[str, int]:
        values = (getattr(utterance, field) for utterance in utterances)
        found = Counter(value for value in values if value is not None)
        return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))

    return ManifestStatistics(
        utterances=len(durations),
        seconds=math.fsum(durations),
        shortest=min(durations, default=0.0),
        longest=max(durations, default=0.0),
        speakers=len(counts("speaker")),
        transcribed=sum(utterance.text is not None for utterance in utterances),
        labels=counts("label"),
        languages=counts("language"),
        splits=counts("split"),
    )


def _identity(utterance: Utterance) -> tuple[str, float]:
    return (utterance.audio, utterance.offset)


def _shuffled(items: Sequence[Item], seed: int, salt: str) -> list[Item]:
    """A seeded order; the salt keeps one class's order independent of which other classes there are."""
    shuffled = list(items)
    random.Random(f"{seed}/{zlib.crc32(salt.encode())}").shuffle(shuffled)
    return shuffled


def _first_problem(error: ValidationError) -> str:
    """The first thing pydantic found, in one line."""
    problem = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in problem["loc"])
    given = json.dumps(problem.get("input"), default=str)
    shown = given if len(given) <= 60 else given[:57] + "..."
    return f"{where}: {problem['msg']} (given {shown})" if where else str(problem["msg"])
