"""A source to a plan: the clips of folders, manifests, globs, lists on standard input, addresses of object stores.

A plan is read lazily and in a fixed order, so that a million files start in seconds: no audio is opened, and folders
are listed one at a time (once before, for their number and the labels in their names; then again during the run). A
clip is identified by its path, its stretch, its values in the manifest, and the state of its file.
"""

import functools
import glob
import hashlib
import math
import os
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from speechssl.audio import file_state
from speechssl.config import UserError
from speechssl.data.columns import NAMED
from speechssl.data.corpora.contained import open_contained
from speechssl.data.corpora.folder import AudioFolder
from speechssl.data.corpora.folder_walk import is_audio, is_metadata
from speechssl.data.corpora.foreign import refuse_described
from speechssl.data.findings import Findings, Known
from speechssl.data.manifest_lines import parse_lines, read_lines
from speechssl.data.members import file_status, local_file
from speechssl.data.places import advice_on, check_pointer, is_address, local_path, located, missing_path
from speechssl.data.remote import fetched, list_address, read_address
from speechssl.data.repeats import Repeats
from speechssl.data.stretches import DUPLICATE, contradictions_note, samples_of
from speechssl.data.tables import is_table
from speechssl.data.utterance import Utterance
from speechssl.data.values import readable
from speechssl.extract.formats.columns import ColumnType, SeenColumns, output_name

_GLOB = frozenset("*?[")


@dataclass(frozen=True)
class Item:
    """One clip to embed.

    Attributes:
        path: its name in the output: relative to the source where it is below it.
        location: a path or an address to read it from.
        offset: its start, s.
        duration: its length, s; 0: to the end of the file.
        metadata: its values by column.
        fingerprint: state of the file (size, times, inode); empty where they would need a request to a server.
        fault: the reason why it cannot be used, where that is known before it is opened.
    """

    path: str
    location: str
    offset: float
    duration: float
    metadata: tuple[tuple[str, str | int | float | bool | None], ...] = ()
    fingerprint: str = ""
    fault: str = ""

    @property
    def key(self) -> bytes:
        """Eight bytes that identify this clip in this state of its file."""
        stretch = _samples(self.offset, self.duration) if self.offset or self.duration else (0.0, 0.0)
        content = (self.path, *stretch, self.metadata, self.fingerprint, *([self.fault] if self.fault else []))
        return hashlib.blake2b(repr(content).encode("utf-8", "surrogateescape"), digest_size=8).digest()


@dataclass(frozen=True)
class Plan:
    """The clips to encode, in order.

    Attributes:
        source: its name in the output's settings.
        items: gives the clips, from the first, on each call.
        files: number of clips; None when not known yet.
        seconds: of audio in all; None when not known.
        columns: metadata columns in order, with their types.
        known: numbers of clips with a label, a text and a speaker.
        findings: what was read from the source, and what was not.
        seen: content of the metadata columns.
        parts: the plans of several sources that this one joins; empty for one source.
    """

    source: str
    items: Callable[[], Iterator[Item]]
    files: int | None
    seconds: float | None
    columns: dict[str, ColumnType]
    known: Known = field(default_factory=Known)
    findings: Findings = field(default_factory=Findings)
    seen: SeenColumns = field(default_factory=SeenColumns)
    parts: tuple["Plan", ...] = ()


def read_plan(source: str | Path | Sequence[str | Path], *, allow_remote: bool = False) -> Plan:
    """Reads a source without opening any audio.

    Args:
        source: a folder, a manifest (`.jsonl`, also behind an address), a table (`.csv`, `.tsv`, `metadata.jsonl`), one
            audio file, a glob (`**` for any depth), `-` for paths or addresses on standard input, one per line, an
            address (`https://…`, `s3://bucket/folder`, `s3://bucket/*.flac`), or a list of files and addresses; tars,
            Parquet and Arrow files with audio, and data sets of Hugging Face (`hf:org/name`), see `corpora.contained`.
        allow_remote: a manifest or table may also name addresses (by default those of its own scheme only).

    Raises:
        UserError: no such source, or no audio in it.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Path(folder, "b.wav").touch(); Path(folder, "a.flac").touch(); Path(folder, "notes.txt").touch()
    ...     plan = read_plan(folder)
    ...     [item.path for item in plan.items()], plan.files
    (['a.flac', 'b.wav'], 2)
    """
    if not isinstance(source, str | Path):
        return _listed([str(each) for each in source], "a list")
    name = local_path(str(source))
    if name == "-":
        lines = [line for line in (line.rstrip("\r\n") for line in sys.stdin) if line]
        return _listed(lines, "-", empty="standard input: no paths on it")
    if is_address(name):
        return _remote_manifest(name, allow_remote=allow_remote) if name.endswith(".jsonl") else _addressed(name)
    path = Path(name)
    contained = open_contained(name)
    if contained is not None:
        read, findings = contained.utterances, contained.findings
        return _utterances(name, contained.root, read, allow_remote=allow_remote, findings=findings)
    if path.is_dir():
        return _folder(path, allow_remote=allow_remote)
    if is_table(name) and (path.is_file() or not _GLOB & set(name)):
        return _table(path, allow_remote=allow_remote)
    if not path.exists() and _GLOB & set(name):
        return _listed(sorted(glob.glob(name, recursive=True)), name, empty=f"{name}: no file fits")  # noqa: PTH207 -- an absolute pattern
    if path.is_file() and is_audio(path.name):
        return _listed([name], name)
    if not path.exists():
        raise missing_path(path)
    refuse_described(path)
    raise UserError(
        f"{source}: {advice_on(path) or 'not a source of audio'}; allowed: a folder of audio, a manifest (.jsonl), a "
        "table (.csv, .tsv), an audio file, a .tar, a .parquet or .arrow file with audio, hf:org/name, a glob, an "
        "address or '-'"
    )


def fingerprint(location: str) -> str:
    """What a file is known by (`file_state`); empty for an address and for what is not there."""
    if is_address(location):
        return ""
    try:
        status = file_status(location)
    except (OSError, ValueError):
        return ""
    return file_state(status)


def _listed(locations: Sequence[str], name: str, *, empty: str = "an empty list of files") -> Plan:
    if not locations:
        raise UserError(empty)

    def items() -> Iterator[Item]:
        for each in map(local_path, locations):
            location, mark = _found(each)
            yield Item(readable(each), location, 0.0, 0.0, fingerprint=mark)

    findings = Findings(no_label="names of files say none; a table or a manifest can")
    return Plan(name, lambda: each_once(items()), len(locations), None, {}, Known(clips=len(locations)), findings)


def each_once(items: Iterator[Item]) -> Iterator[Item]:
    """The same clips; one whose stretch of a file was there before has the fault of a duplicate."""
    seen: set[int] = set()
    for item in items:
        file = item.location if is_address(item.location) else os.path.abspath(item.location)  # noqa: PTH100 -- a million times
        place = hash((file, *_samples(item.offset, item.duration)))
        yield replace(item, fault=DUPLICATE) if place in seen and not item.fault else item
        seen.add(place)


def _found(location: str) -> tuple[str, str]:
    """The location of a file as the disk spells it, and its fingerprint."""
    mark = fingerprint(location)
    if not mark and not is_address(location):
        location = located(".", location) if not os.path.isabs(location) else located("/", location)  # noqa: PTH117
        mark = fingerprint(location)
    return location, mark


def _addressed(address: str) -> Plan:
    found = [Item(each.path, each.address, 0.0, 0.0, (), each.fingerprint) for each in list_address(address)]
    if not found:
        raise UserError(f"{address}: no audio files there")
    findings = Findings(no_label="folders behind an address are no labels; a table or a manifest can name them")
    return Plan(address, lambda: iter(found), len(found), None, {}, Known(clips=len(found)), findings)


def _utterances(
    source: str,
    root: Path,
    read: Callable[[], Iterator[Utterance]],
    *,
    allow_remote: bool,
    findings: Findings | None = None,
    missing: Mapping[str, int] | None = None,
) -> Plan:
    """A plan of utterances: all are read once for columns, durations and duplicates, then again one by one.

    `missing` are the words that `read` counts as missing, where no `findings` are given.
    """
    seen, known, seconds, timed = SeenColumns(), Known(), 0.0, True
    repeats = Repeats(_opened)
    for each in read():
        check_pointer(each.audio, source, allow_remote=allow_remote)
        values = {name: getattr(each, name) for name in NAMED}
        try:
            seen.add(values, each.extras)
        except UserError as error:
            raise UserError(f"{source}: {error}") from None
        known.add(values)
        seconds, timed = seconds + each.duration, timed and each.duration > 0
        repeats.add(each)
    if not seen.rows:
        raise UserError(f"{source}: the manifest is empty")

    def items() -> Iterator[Item]:
        return (_item(each, root, fault) for each, fault in repeats.faults(read()))

    findings = findings or Findings(no_label="no line of the manifest has a 'label'", missing=dict(missing or {}))
    if repeats:
        repeats.resolve(read())
        note = contradictions_note(fault for _, fault in repeats.faults(read()))
        findings.notes += [note] if note else []
    return Plan(source, items, seen.rows, seconds if timed else None, seen.ordered(), known, findings, seen)


@contextmanager
def _opened(location: str) -> Generator[str]:
    """A local file with the audio of a location while the block runs; what is behind an address is fetched."""
    if not is_address(location):
        with local_file(_found(location)[0]) as path:
            yield path
        return
    with tempfile.TemporaryDirectory(prefix="speechssl-") as folder, fetched(location, Path(folder)) as path:
        yield str(path)


def _samples(offset: float, duration: float) -> tuple[int | float, int | float]:
    """First sample and number of samples; values that no file can have stay as they are, and decoding fails."""
    return samples_of(offset, duration) if math.isfinite(offset + duration) else (offset, duration)


def _item(each: Utterance, root: Path, fault: str) -> Item:
    known = [(name, readable(getattr(each, name))) for name in NAMED if getattr(each, name) is not None]
    extras = [
        (output_name(name), readable(value) if isinstance(value, str) else value)
        for name, value in each.extras.items()
        if value is not None
    ]
    shown, (location, mark) = each.audio, _found(each.audio)
    if not is_address(shown) and Path(shown).is_relative_to(root):
        shown = Path(shown).relative_to(root).as_posix()
    return Item(readable(shown), location, each.offset, each.duration, tuple(known + extras), mark, fault)


def _table(path: Path, *, allow_remote: bool) -> Plan:
    """A manifest, or a table of another kind."""
    if not path.exists():
        raise missing_path(path)
    source = str(path.absolute())
    if not is_metadata(path.name):
        refuse_described(path)
    if path.suffix.lower() == ".jsonl" and not is_metadata(path.name):
        missing: dict[str, int] = {}
        read = functools.partial(read_lines, path, missing=missing)
        return _utterances(source, path.absolute().parent, read, allow_remote=allow_remote, missing=missing)
    rows = AudioFolder(path.absolute().parent, tables=[path.absolute()])
    return _utterances(source, rows.root, rows.utterances, allow_remote=allow_remote, findings=rows.findings)


def _remote_manifest(address: str, *, allow_remote: bool) -> Plan:
    try:
        text = read_address(address).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{address}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    lines = list(enumerate(text.split("\n"), start=1))
    base = address.rpartition("/")[0]
    missing: dict[str, int] = {}
    read = functools.partial(parse_lines, lines, address, lambda audio: f"{base}/{audio}", missing=missing)
    return _utterances(address, Path("/"), read, allow_remote=allow_remote, missing=missing)


def _folder(root: Path, *, allow_remote: bool) -> Plan:
    if (root / "waveforms.json").is_file():
        raise UserError(f"{root}: a prepared corpus; give its {root / 'manifest.jsonl'} to embed its files")
    folder = AudioFolder(root)
    if folder.metadata:
        source, findings = str(folder.root), folder.findings
        return _utterances(source, folder.root, folder.utterances, allow_remote=allow_remote, findings=findings)
    known, columns = Known(), dict[str, ColumnType]()
    for part, count in folder.clips.items():
        known.add(folder.meanings[part], clips=count)
        columns |= dict.fromkeys(folder.meanings[part], "text")

    def items() -> Iterator[Item]:
        for location, part in folder.files():
            shown = "/".join((*part, os.path.basename(location)))  # noqa: PTH119 -- a million times
            metadata = tuple(folder.meanings[part].items())
            yield Item(readable(shown), location, 0.0, 0.0, metadata, fingerprint(location))

    ordered: dict[str, ColumnType] = {name: columns[name] for name in NAMED if name in columns}
    return Plan(str(folder.root), items, known.clips, None, ordered, known, folder.findings)
