"""Manifests of NVIDIA NeMo: JSON lines with `audio_filepath`, `text` (or `label`, `command`), `duration`, `offset`.

Story: any data prepared for NeMo.
Licence and citation: those of the recordings.

Relative paths start from the manifest's folder, as in NeMo. Of a tarred data set the manifest beside `audio_0.tar` …
is read, and the recordings in place. The split is the word in the manifest's name (`train_manifest.json`), else the
folder in a relative path (`train/a.wav`).
(`nemo` is another corpus: nEMO, emotions in Polish.)
"""

import functools
from collections.abc import Iterator
from pathlib import Path, PurePath

from speechssl.config import Config, UserError
from speechssl.data.channels import OneChannel
from speechssl.data.columns import NAMED, EmptyStretchError, empty_note, understand
from speechssl.data.corpora import CorpusInfo, duration_of
from speechssl.data.corpora.folder_names import split_of_folders
from speechssl.data.corpora.rows import Description, json_lines, split_of
from speechssl.data.coverage import Coverage
from speechssl.data.findings import Findings, Found, some
from speechssl.data.places import local_path
from speechssl.data.tables import Row, Table, json_object
from speechssl.data.utterance import Utterance

INFO = CorpusInfo(
    name="nemo_manifest",
    story="Any manifest of NVIDIA NeMo: JSON lines with audio_filepath, text, duration and offset.",
    licence="that of the recordings",
    citation="",
    source="--root MANIFEST.json or a folder of them",
    hours=None,
    utterances=None,
    speakers=None,
    synthetic=False,
)

_FILE, _SHARD, _COMMAND = "audio_filepath", "shard_id", "command"
_HEAD = 1 << 20  # bytes of the first line that are read


class Settings(Config):
    """Options of a NeMo manifest.

    Attributes:
        files: names of the manifests to read, where a folder holds several; empty for all.
    """

    files: tuple[str, ...] = ()


def prepare(root: Path, settings: Settings = Settings()) -> Found:  # noqa: B008 -- settings are frozen
    """The utterances of manifests, in the order of their lines.

    Args:
        root: a manifest, or a folder of manifests.
        settings: see `Settings`.

    Returns:
        An iterator of utterances; its `findings` are complete at its end. Utterances. A file that is missing or
        cannot be read has duration 0.0, so that packing gives the reason.

    Raises:
        UserError: no manifest, or a wrong line in it.
    """
    findings = Findings(no_label="no line has a 'label', 'class', 'emotion', 'category' or 'command'")
    return Found(_utterances(Path(root), settings, findings), findings)


def _utterances(root: Path, settings: Settings, findings: Findings) -> Iterator[Utterance]:
    root = Path(root).absolute()
    if root.is_file():
        manifests = [root]
    else:
        manifests = [root / name for name in settings.files] or sorted(filter(is_manifest, root.glob("*.json*")))
    if not manifests:
        raise UserError(f"{root}: no manifest of NeMo: looked for *.json or *.jsonl with {_FILE!r} in the first line")
    for manifest in manifests:
        yield from _read(manifest, findings)


def is_manifest(path: Path) -> bool:
    """Whether the first line of a file is an entry of a NeMo manifest."""
    try:
        with path.open("rb") as file:
            line = file.readline(_HEAD).decode("utf-8-sig")
        return _FILE in json_object(line, str(path))
    except (OSError, ValueError):  # UserError is one
        return False


def _read(manifest: Path, findings: Findings) -> Iterator[Utterance]:
    columns = _columns(manifest)
    if _FILE not in columns:
        raise UserError(f"{manifest}: no {_FILE!r}; there are: {', '.join(columns) or 'no lines'}")
    # The speech commands recipe of NeMo calls the class a command.
    names = ["label" if name == _COMMAND and "label" not in columns else name for name in columns]
    meaning = understand(Table(manifest, tuple(names), ""))
    probe = functools.lru_cache(maxsize=16)(duration_of)  # the stretches of a long file are adjacent
    split, coverage, channels = split_of(manifest.stem), Coverage(), OneChannel(columns)
    meaning.missing = findings.missing
    given = dict(zip(names, columns, strict=True))
    read = {field: given[name] for field in NAMED if (name := meaning.column(field)) is not None}
    findings.columns |= {field: name for field, name in read.items() if name != field}
    findings.unused += [name for name in meaning.unused if name not in findings.unused]
    empty: list[int] = []
    single: dict[int, list[str]] = {}  # files of which one channel is named, by their number of channels
    for line, values in json_lines(manifest):
        try:
            entry = meaning.entry(Row(line, tuple(values.get(name) for name in columns)))
        except EmptyStretchError:
            empty.append(line)
            continue
        channels.check(entry.file, entry.extras, f"{manifest}:{line}")
        place = _place(manifest.parent, entry.file, values.get(_SHARD))
        if count := channels.left_out(entry.extras, place):
            single.setdefault(count, []).append(entry.file)
            continue
        offset = entry.offset or 0.0
        whole, duration = probe(place), entry.duration
        if whole:
            end = None if duration is None else offset + duration
            coverage.add(entry.file, end=end, whole=whole)
        duration = max(0.0, whole - offset) if duration is None else duration
        described = Description(entry.known, entry.extras)
        inside = split_of_folders(PurePath(entry.file).parent.parts) if not Path(entry.file).is_absolute() else None
        yield described.utterance(place, offset=offset, duration=duration, split=split or inside)
    note = coverage.note()
    apart = [
        f"left out: {some(list(dict.fromkeys(files)))}: one channel is named, and the file has {count}; write each "
        "channel to a file of its own"
        for count, files in single.items()
    ]
    notes = [each for each in (empty_note(empty) if empty else None, *apart, note) if each]
    findings.notes += [*(f"{manifest}: {each}" for each in notes), *meaning.hints]


def _place(folder: Path, name: str, shard: object) -> str:
    from speechssl.data.members import member_location

    name = local_path(name)
    tar = folder / f"audio_{shard}.tar"
    if isinstance(shard, int) and not (folder / name).is_file() and tar.is_file():
        return member_location(tar, name)
    return str(folder / Path(name).expanduser())


def _columns(manifest: Path) -> list[str]:
    """Names of all entries, in order of appearance."""
    found: dict[str, None] = {}
    for _, values in json_lines(manifest):
        found.update(dict.fromkeys(values))
    return list(found)
