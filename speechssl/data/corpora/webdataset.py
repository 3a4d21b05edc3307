"""WebDataset: samples as neighbouring files of tars, `KEY.wav` with `KEY.txt`, `KEY.json`, `KEY.cls`. Also plain tars.

Story: any content of the shards.
Licence and citation: those of the recordings.

The key of a file is its path up to the first dot of its name, the rest is its extension. `.txt` is the text, `.cls` the
label, a `.json` holds columns by name (`text`, `speaker`, …; others become extras); a file whose extension is such a
name holds that value. The audio of a sample is the whole utterance: seconds in the JSON are extras. The tars are read
in place, never unpacked; an utterance is `SHARD.tar::KEY.wav`.
"""

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from speechssl.config import Config, UserError
from speechssl.data.corpora import CorpusInfo
from speechssl.data.corpora.folder_names import split_of_folders
from speechssl.data.corpora.folder_walk import is_audio, note_on_others, visible_files
from speechssl.data.corpora.rows import Describer, comparable, named_field, split_of
from speechssl.data.findings import Findings, Found
from speechssl.data.members import member_location
from speechssl.data.places import missing_path
from speechssl.data.tables import json_object
from speechssl.data.tars import TarFile, iterate_tar, read_range
from speechssl.data.utterance import Utterance

INFO = CorpusInfo(
    name="webdataset",
    story="Any tars of audio: the shards of a WebDataset, or recordings put into a tar.",
    licence="that of the recordings",
    citation="",
    source="--root",
    hours=None,
    utterances=None,
    speakers=None,
    synthetic=False,
)

_LARGEST = 1 << 20  # bytes of a text or JSON of a sample
_COLUMNS = {"txt": "text", "cls": "label"}
_BRACES = re.compile(r"\{([^{}]*)\}")
_SHARDS = 100_000  # paths of a pattern, at most


class Settings(Config):
    """Options of a WebDataset.

    Attributes:
        audio: extension of the audio to read, where samples hold several, such as "mic1.wav"; empty: the only one.
    """

    audio: str = ""


def prepare(root: Path, settings: Settings = Settings()) -> Found:  # noqa: B008 -- settings are frozen
    """The utterances of tars, in the order of their names and of their files.

    Args:
        root: a tar, a folder of tars, or a pattern such as `shard-{000000..000010}.tar`.
        settings: see `Settings`.

    Returns:
        An iterator of utterances; its `findings` are complete at its end. Utterances with duration 0.0 (not known
        yet): no audio is opened.

    Raises:
        UserError: no tar, no audio in any of them, or ambiguous samples. A damaged shard is used up to the damage, with
            a warning, unless it is the only one.
    """
    findings = Findings(no_label="no sample has a .cls file, nor a 'label' in its .json")
    return Found(_utterances(Path(root), settings, findings), findings)


def _utterances(root: Path, settings: Settings, findings: Findings) -> Iterator[Utterance]:
    shards = list_shards(Path(root))
    found, reading = 0, _Reading(settings.audio, findings)
    problem: UserError | None = None
    for shard in shards:
        before = found
        try:
            for utterance in _samples(shard, reading):
                found += 1
                yield utterance
        except _DamagedError as error:
            problem = UserError(str(error))
            findings.notes.append(f"{error}; the {found - before} samples before that are used")
    if not found:
        raise problem or UserError(f"{root}: no audio in {len(shards)} tars")
    if reading.without_audio:
        audio = f".{reading.audio}" if reading.audio else "audio"
        findings.notes.append(
            f"{reading.without_audio} samples have a text, label or columns and no {audio} of the same name; the first "
            f"is {reading.first_without}"
        )
    findings.notes += note_on_others(Path(root), (".tar",), "tars", audio=True)
    if reading.in_folders:
        findings.no_label += "; folders in a tar are no labels: unpack the tars to use their names (prepare folder)"
    if reading.unused:
        words = ", ".join(f".{name} ({count})" for name, count in reading.unused.most_common(5))
        findings.notes.append(f"files of the tars that are not used: {words}")


@dataclass
class _Reading:
    """State of all shards: the extension of the audio (empty: the only one), and findings."""

    audio: str
    findings: Findings
    unused: Counter[str] = field(default_factory=Counter)
    without_audio: int = 0
    first_without: str = ""
    in_folders: bool = False


class _DamagedError(Exception):
    """The rest of a tar cannot be read."""


def list_shards(root: Path) -> list[Path]:
    """The tars that a root names.

    >>> [path.name for path in expand("a-{08..10}.tar")], [path.name for path in expand("{x,y}.tar")]
    (['a-08.tar', 'a-09.tar', 'a-10.tar'], ['x.tar', 'y.tar'])
    """
    if root.is_dir():
        shards = [path.absolute() for path in visible_files(root, "**/*.tar")]
        if not shards:
            raise UserError(f"{root}: no .tar in it")
        return shards
    if root.is_file():
        return [root.absolute()]
    shards = expand(str(root)) if _BRACES.search(str(root)) else [root]
    missing = next((path for path in shards if not path.is_file()), None)
    if missing is not None:
        raise missing_path(missing)
    return [path.absolute() for path in shards]


def expand(pattern: str) -> list[Path]:
    """The paths of a pattern with braces: `{000..010}` counts with the width of its start, `{a,b}` lists.

    Raises:
        UserError: a pattern of more than 100,000 paths.
    """
    parts = _BRACES.split(pattern)
    choices: list[Sequence[str]] = []
    count = 1
    for number, part in enumerate(parts):
        words: Sequence[str] = [part]
        limits = re.fullmatch(r"(\d+)\.\.(\d+)", part)
        if number % 2 and limits:
            first, last = int(limits[1]), int(limits[2])
            count *= max(last - first + 1, 0)
            if count > _SHARDS:
                raise UserError(f"{pattern}: more than {_SHARDS} paths")
            words = [f"{value:0{len(limits[1])}}" for value in range(first, last + 1)]
        elif number % 2:
            words = part.split(",")
            count *= len(words)
        choices.append(words)
    return [Path("".join(words)) for words in itertools.product(*choices)]


def _samples(shard: Path, reading: _Reading) -> Iterator[Utterance]:
    seen: set[int] = set()  # hashes of keys: a shard may hold a million
    split_of_shard = split_of(shard.stem)
    group: list[TarFile] = []
    last = ""
    files = iterate_tar(shard)
    while True:
        try:
            file = next(files, None)
        except UserError as error:  # the sample before the damage may lack a part: it is left out
            raise _DamagedError(str(error)) from None
        if file is not None and _is_hidden(file.name):
            continue
        key = "" if file is None else _key(file.name)
        if group and key != last:
            inside = split_of_folders(PurePosixPath(last).parent.parts)
            split = split_of_shard or inside or split_of(shard.parent.name)
            yield from _of_sample(shard, group, split, reading)
            group = []
        if file is None:
            return
        if key != last and hash(key) in seen:
            raise UserError(f"{shard}: the files of sample {key!r} are not neighbours; write the tar sorted by name")
        seen.add(hash(key))
        group.append(file)
        last = key


def _is_hidden(name: str) -> bool:
    """Whether a file is hidden, or is metadata that macOS writes beside each file (`._a.wav`, `__MACOSX/a.wav`).

    >>> [_is_hidden(name) for name in ("a.wav", ".config/a.wav", "x/._a.wav", "__MACOSX/x/a.wav")]
    [False, False, True, True]
    """
    path = PurePosixPath(name)
    return path.name.startswith(".") or "__MACOSX" in path.parts


def _key(name: str) -> str:
    folder, slash, file = name.rpartition("/")
    return f"{folder}{slash}{file.partition('.')[0]}"


def _of_sample(shard: Path, group: Sequence[TarFile], split: str | None, reading: _Reading) -> Iterator[Utterance]:
    """The utterances of one sample: one, or several where a plain tar has names with dots."""
    audio, unused = reading.audio, reading.unused
    key = _key(group[0].name)
    extensions = {file.name[len(key) + 1 :]: file for file in group}
    if len(extensions) < len(group):
        raise UserError(f"{shard}: sample {key!r} holds a file twice")
    sounds = [name for name in extensions if (name == audio if audio else is_audio(f"x.{name}"))]
    others = {name: file for name, file in extensions.items() if name not in sounds and not is_audio(f"x.{name}")}
    if len(sounds) > 1:
        named = [name for name in others if any(_beside(name, sound) for sound in sounds)]
        if len(named) < len(others):
            raise UserError(
                f"{shard}: sample {key!r} holds {len(sounds)} recordings ({', '.join(sounds[:4])}); name the one to "
                f"read: speechssl prepare webdataset --set audio={sounds[0]}"
            )
    if not sounds:
        unused.update(extensions.keys())
        fields = [name for name in extensions if name.lower() == "json" or _field_of(name) is not None]
        if fields:
            reading.without_audio += 1
            first = f"{member_location(shard, key)} with {', '.join(f'.{name}' for name in fields)}"
            reading.first_without = reading.first_without or first
    for sound in sounds:
        mine = {
            name.rpartition(".")[2] if len(sounds) > 1 else name: file
            for name, file in others.items()
            if len(sounds) == 1 or _beside(name, sound)
        }
        values = _values(shard, key, mine, unused)
        found = Describer(f"{shard}::{key}", values, reading.findings, first=[values]).describe(values, 1)
        reading.in_folders |= PurePosixPath(key).parent != PurePosixPath()
        yield found.utterance(member_location(shard, extensions[sound].name), split=split)


def _field_of(extension: str) -> str | None:
    """The field that a file with an extension holds; None for any other file."""
    name = extension.lower()
    return named_field(_COLUMNS.get(name, name))


def _beside(name: str, sound: str) -> bool:
    """Whether a file belongs to one of several recordings: all but the last suffix is the same."""
    return name.rpartition(".")[0] == sound.rpartition(".")[0]


def _values(shard: Path, key: str, files: dict[str, TarFile], unused: Counter[str]) -> dict[str, Any]:
    """Values of the files beside the audio, by column."""
    values: dict[str, Any] = {}
    for extension, file in files.items():
        name = extension.lower()
        column = _COLUMNS.get(name, name)
        if name != "json" and _field_of(name) is None:
            unused[extension] += 1
            continue
        where = f"{shard}: {file.name}"
        try:
            content = read_range(shard, file, _LARGEST).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise UserError(f"{where}: not UTF-8 text at byte {error.start}") from None
        found = json_object(content, where) if name == "json" else {column: content}
        for each, value in found.items():
            before, after = comparable(values.get(each)), comparable(value)
            if None not in (before, after) and before != after:
                raise UserError(f"{shard}: sample {key!r}: two files have different values of {each!r}")
            values[each] = value if before is None else values[each]
    return values
