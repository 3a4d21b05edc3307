"""What is to be embedded: folders, manifests, globs, lists on standard input, addresses of object stores.

A plan is read lazily and in a fixed order, so that a million files start in seconds: no audio is opened, folders are
listed one at a time (once before, for their number and for what the names of the sub-folders say; then again as the
work goes on). A clip is known again by its path, its stretch, what the manifest says of it, and the state of its file.
"""

import glob
import hashlib
import math
import os
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import overload

from speechssl.audio import file_state
from speechssl.config import UserError
from speechssl.data.columns import NAMED
from speechssl.data.corpora.contained import open_contained
from speechssl.data.corpora.folder import AudioFolder
from speechssl.data.corpora.folder_walk import is_audio, is_metadata
from speechssl.data.corpora.foreign import refuse_described
from speechssl.data.findings import Findings, Known
from speechssl.data.manifest_lines import parse_lines, read_lines
from speechssl.data.members import file_status
from speechssl.data.places import advice_on, is_address, local_path, located, nearest, scheme_of
from speechssl.data.stretches import contradictions_note, repeated, samples_of
from speechssl.data.tables import is_table
from speechssl.data.utterance import Utterance
from speechssl.data.values import Extra
from speechssl.extract.columns import ColumnType, SeenColumns, output_name
from speechssl.extract.remote import list_address, read_address

KNOWN = NAMED
_GLOB = frozenset("*?[")


@dataclass(frozen=True)
class Item:
    """One clip to embed.

    Attributes:
        path: as the output names it: below the source where it lies there.
        location: where to read it from: a path or an address.
        offset: where it starts, s.
        duration: its length, s; 0 to the end of the file.
        metadata: what is known of it, by column.
        fingerprint: state of the file (size, times, inode), empty where they cost a question to a server.
        fault: why it cannot be used, where that is known before it is opened.
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
        """Eight bytes that tell this clip, in this state of its file, from every other."""
        stretch = _samples(self.offset, self.duration) if self.offset or self.duration else (0.0, 0.0)
        told = (self.path, *stretch, self.metadata, self.fingerprint, *([self.fault] if self.fault else []))
        return hashlib.blake2b(repr(told).encode("utf-8", "surrogateescape"), digest_size=8).digest()


@dataclass(frozen=True)
class Plan:
    """What is to be done, in order.

    Attributes:
        source: in words, as the output's settings keep it.
        items: the clips, from the first, each time it is called.
        files: how many, None when not known yet.
        seconds: of audio in all, None when not known.
        columns: metadata columns in order, with their type.
        known: of how many clips label, text and speaker are known.
        findings: what was understood of the source, and what was not.
        seen: what the metadata columns hold.
    """

    source: str
    items: Callable[[], Iterator[Item]]
    files: int | None
    seconds: float | None
    columns: dict[str, ColumnType]
    known: Known = field(default_factory=Known)
    findings: Findings = field(default_factory=Findings)
    seen: SeenColumns = field(default_factory=SeenColumns)


def read_plan(source: str | Path | Sequence[str | Path], *, allow_remote: bool = False) -> Plan:
    """Look at a source without opening any audio.

    Args:
        source: a folder, a manifest (`.jsonl`, also behind an address), a table (`.csv`, `.tsv`, `metadata.jsonl`), one
            audio file, a glob (`**` for any depth), `-` for paths or addresses on standard input, one per line, an
            address (`https://…`, `s3://bucket/folder`, `s3://bucket/*.flac`), or a list of files and addresses; tars,
            Parquet and Arrow files with audio, and data sets of Hugging Face (`hf:org/name`), see `corpora.contained`.
        allow_remote: a manifest or table may also name addresses (by default those of its own scheme only).

    Raises:
        UserError: nothing there, or nothing in it that could be audio.

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
        raise _missing(path)
    refuse_described(path)
    raise UserError(
        f"{source}: {advice_on(path) or 'not a source of audio'}; allowed: a folder of audio, a manifest (.jsonl), a "
        "table (.csv, .tsv), an audio file, a .tar, a .parquet or .arrow file with audio, hf:org/name, a glob, an "
        "address or '-'"
    )


def _missing(path: Path) -> UserError:
    return UserError(f"{path}: no such file or folder; {nearest(str(path.absolute()), path.absolute().parent)}")


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
            yield Item(_readable(each), location, 0.0, 0.0, fingerprint=mark)

    findings = Findings(no_label="names of files say none; a table or a manifest can")
    return Plan(name, items, len(locations), None, {}, Known(clips=len(locations)), findings)


def _found(location: str) -> tuple[str, str]:
    """The location of a file as it is on the disk, and its fingerprint."""
    mark = fingerprint(location)
    if not mark and not is_address(location):
        location = located(".", location) if not os.path.isabs(location) else located("/", location)  # noqa: PTH117
        mark = fingerprint(location)
    return location, mark


def _addressed(address: str) -> Plan:
    found = list_address(address)
    if not found:
        raise UserError(f"{address}: no audio files there")

    def items() -> Iterator[Item]:
        return (Item(each.path, each.address, 0.0, 0.0, fingerprint=each.fingerprint) for each in found)

    findings = Findings(no_label="folders behind an address are no labels; a table or a manifest can name them")
    return Plan(address, items, len(found), None, {}, Known(clips=len(found)), findings)


def _utterances(
    source: str,
    root: Path,
    read: Callable[[], Iterator[Utterance]],
    *,
    allow_remote: bool,
    findings: Findings | None = None,
    missing: Mapping[str, int] | None = None,
) -> Plan:
    """A plan of utterances: one look at all of them for columns, durations and duplicates, then one by one.

    `missing` are the words that `read` counts as missing, where no `findings` are given.
    """
    seen, known, seconds, timed = SeenColumns(), Known(), 0.0, True
    places: set[int] = set()
    twice: set[int] = set()
    for each in read():
        _check_pointer(each.audio, source, allow_remote=allow_remote)
        try:
            told = {name: getattr(each, name) for name in KNOWN}
            seen.add(told, each.extras)
        except UserError as error:
            raise UserError(f"{source}: {error}") from None
        known.add(told)
        seconds, timed = seconds + each.duration, timed and each.duration > 0
        place = hash(_stretch(each))
        if place in places:
            twice.add(place)
        places.add(place)
    if not seen.rows:
        raise UserError(f"{source}: the manifest is empty")
    del places

    def items() -> Iterator[Item]:
        return (_item(each, root, fault) for each, fault in _with_faults(read(), twice))

    findings = findings or Findings(no_label="no line of the manifest has a 'label'", missing=dict(missing or {}))
    if twice and (note := contradictions_note(fault for _, fault in _with_faults(read(), twice))):
        findings.notes.append(note)
    return Plan(source, items, seen.rows, seconds if timed else None, seen.ordered(), known, findings, seen)


def _with_faults(utterances: Iterable[Utterance], twice: Collection[int]) -> Iterator[tuple[Utterance, str]]:
    """Each utterance, and why it is left out where an earlier one has its stretch; `twice` has the hashes of these."""
    before: dict[Stretch, Utterance] = {}
    for each in utterances:
        fault = ""
        if twice and hash(place := _stretch(each)) in twice:
            first = before.setdefault(place, each)
            fault = "" if first is each else repeated(each, first)
        yield each, fault


Stretch = tuple[str, int | float, int | float]


def _stretch(each: Utterance) -> Stretch:
    """Which stretch it is. Hashes find the few that may be there twice: a million are in memory."""
    return (os.path.normpath(each.audio), *_samples(each.offset, each.duration))


def _samples(offset: float, duration: float) -> tuple[int | float, int | float]:
    """First sample and number of samples; what no file can have as it is, decoding gives the reason."""
    return samples_of(offset, duration) if math.isfinite(offset + duration) else (offset, duration)


def _check_pointer(audio: str, source: str, *, allow_remote: bool) -> None:
    """Refuses what a manifest may not point to.

    Raises:
        UserError: an address of another scheme than the manifest's without leave, or a local file from afar.
    """
    own, other = scheme_of(source), scheme_of(audio)
    if own and not other:
        raise UserError(f"{source}: names the local file {audio}; a manifest behind an address may name addresses only")
    if other != own and not allow_remote:
        what = "an address" if not own else f"an address of another scheme than {own}"
        raise UserError(f"{source}: names {audio}, {what}; --allow-remote (allow_remote=True) reads it")


def _item(each: Utterance, root: Path, fault: str) -> Item:
    known = [(name, _readable(getattr(each, name))) for name in KNOWN if getattr(each, name) is not None]
    extras = [(output_name(name), _readable(value)) for name, value in each.extras.items() if value is not None]
    shown, (location, mark) = each.audio, _found(each.audio)
    if not is_address(shown) and Path(shown).is_relative_to(root):
        shown = Path(shown).relative_to(root).as_posix()
    return Item(_readable(shown), location, each.offset, each.duration, tuple(known + extras), mark, fault)


@overload
def _readable(value: str) -> str: ...
@overload
def _readable(value: Extra) -> Extra: ...
def _readable(value: Extra) -> Extra:
    """Words as an output can hold them: bytes of a file's name that are not UTF-8 are spelt out."""
    if not isinstance(value, str):
        return value
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _table(path: Path, *, allow_remote: bool) -> Plan:
    """A manifest, or a table of another kind."""
    if not path.exists():
        raise _missing(path)
    source = str(path.absolute())
    if not is_metadata(path.name):
        refuse_described(path)
    if path.suffix.lower() == ".jsonl" and not is_metadata(path.name):
        missing: dict[str, int] = {}
        return _utterances(
            source,
            path.absolute().parent,
            lambda: read_lines(path, missing=missing),
            allow_remote=allow_remote,
            missing=missing,
        )
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

    def read() -> Iterator[Utterance]:
        return parse_lines(lines, address, lambda audio: f"{base}/{audio}", missing=missing)

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
            yield Item(_readable(shown), location, 0.0, 0.0, metadata, fingerprint(location))

    ordered: dict[str, ColumnType] = {name: columns[name] for name in KNOWN if name in columns}
    return Plan(str(folder.root), items, known.clips, None, ordered, known, folder.findings)
