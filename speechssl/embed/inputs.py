"""What is to be embedded: folders, manifests, globs, lists on standard input, addresses of object stores.

A plan is read lazily and in a fixed order, so that a million files start in seconds: no audio is opened, folders are
listed one at a time (once before, for their number and for what the names of the sub-folders say; then again as the
work goes on). A clip is known again by its path, its stretch, what the manifest says of it, and the size and time of
its file.
"""

import glob
import hashlib
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, overload

from pydantic import ValidationError

from speechssl.audio import AUDIO_SUFFIXES, FOREIGN_SUFFIXES
from speechssl.config import UserError
from speechssl.data.corpora import folder as audio_folder
from speechssl.data.corpora.folder_metadata import METADATA_NAMES
from speechssl.data.manifest import Utterance
from speechssl.embed.remote import is_address, list_address

KNOWN = ("speaker", "text", "label", "language", "split")
_GLOB = frozenset("*?[")
_TAKEN = ("path", "offset", "duration", "fingerprint", "key", "num_frames", "first_frame", "file", "speechssl")
_Value = str | int | float | bool | None
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Item:
    """One clip to embed.

    Attributes:
        path: as the output names it: below the source where it lies there.
        location: where to read it from: a path or an address.
        offset: where it starts, s.
        duration: its length, s; 0 to the end of the file.
        metadata: what is known of it, by column.
        fingerprint: size and time of the file, empty where they cost a question to a server.
    """

    path: str
    location: str
    offset: float
    duration: float
    metadata: tuple[tuple[str, str | int | float | bool | None], ...] = ()
    fingerprint: str = ""

    @property
    def key(self) -> bytes:
        """Eight bytes that tell this clip, in this state of its file, from every other."""
        told = (self.path, self.offset, self.duration, self.metadata, self.fingerprint)
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
    """

    source: str
    items: Callable[[], Iterator[Item]]
    files: int | None
    seconds: float | None
    columns: dict[str, "ColumnType"]


ColumnType = Literal["text", "integer", "number", "truth"]
_TYPES: dict[type, ColumnType] = {bool: "truth", int: "integer", float: "number"}


def read_plan(source: str | Path | Sequence[str | Path]) -> Plan:
    """Look at a source without opening any audio.

    Args:
        source: a folder, a manifest (`.jsonl`), one audio file, a glob (`**` for any depth), `-` for paths or addresses
            on standard input, one a line, an address (`https://…`, `s3://bucket/folder`, `s3://bucket/*.flac`), or a
            list of files and addresses.

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
    name = str(source)
    if name == "-":
        lines = [line for line in (line.rstrip("\r\n") for line in sys.stdin) if line]
        return _listed(lines, "-", empty="standard input: no paths on it")
    if is_address(name):
        return _addressed(name)
    path = Path(source)
    if path.is_dir():
        return _folder(path)
    if path.suffix == ".jsonl":
        return _manifest(path)
    if not path.exists() and _GLOB & set(name):
        return _listed(sorted(glob.glob(name, recursive=True)), name, empty=f"{name}: no file fits")  # noqa: PTH207 -- an absolute pattern
    if path.is_file() and path.suffix.lower() in AUDIO_SUFFIXES | FOREIGN_SUFFIXES:
        return _listed([name], name)
    if not path.exists():
        raise UserError(f"{source}: no such folder or manifest")
    raise UserError(f"{source}: give a folder of audio, a manifest (.jsonl), an audio file, a glob, an address or '-'")


def fingerprint(location: str) -> str:
    """Size and time of a file; empty for an address and for what is not there."""
    if is_address(location):
        return ""
    try:
        status = os.stat(location)  # noqa: PTH116 -- a million times, and a Path takes longer than the question
    except (OSError, ValueError):
        return ""
    return f"{status.st_size}-{status.st_mtime_ns}"


def column_types(seen: Iterable[tuple[str, object]]) -> dict[str, ColumnType]:
    """The narrowest type for every column with a value, in order of first appearance.

    >>> column_types([("age", 3), ("age", 2.5), ("old", True), ("note", None), ("mixed", 1), ("mixed", "one")])
    {'age': 'number', 'old': 'truth', 'mixed': 'text'}
    """
    found: dict[str, ColumnType] = {}
    for name, value in seen:
        if value is None:
            continue
        kind, before = _TYPES.get(type(value), "text"), found.get(name)
        numbers = {"integer", "number"}
        if before is None or before == kind:
            found[name] = kind
        else:
            found[name] = "number" if {before, kind} == numbers else "text"
    return found


def _listed(locations: Sequence[str], name: str, *, empty: str = "an empty list of files") -> Plan:
    if not locations:
        raise UserError(empty)

    def items() -> Iterator[Item]:
        return (Item(_readable(each), each, 0.0, 0.0, fingerprint=fingerprint(each)) for each in locations)

    return Plan(name, items, len(locations), None, {})


def _addressed(address: str) -> Plan:
    found = list_address(address)
    if not found:
        raise UserError(f"{address}: no audio files there")

    def items() -> Iterator[Item]:
        return (Item(each.path, each.address, 0.0, 0.0, fingerprint=each.fingerprint) for each in found)

    return Plan(address, items, len(found), None, {})


def _utterances(source: str, root: Path, read: Callable[[], Iterator[Utterance]]) -> Plan:
    """A plan of utterances: one look at all of them for columns and durations, then one by one."""
    files, seconds, known = 0, 0.0, True

    def seen() -> Iterator[tuple[str, object]]:
        nonlocal files, seconds, known
        for item in read():
            files, seconds, known = files + 1, seconds + item.duration, known and item.duration > 0
            yield from ((name, getattr(item, name)) for name in KNOWN)
            yield from ((_extra(name), value) for name, value in item.extras.items())

    types = column_types(seen())
    columns = dict(sorted(types.items(), key=lambda column: column[0] not in KNOWN))  # stable: the known ones first
    if not files:
        raise UserError(f"{source}: the manifest is empty")

    def items() -> Iterator[Item]:
        return (_item(each, root, fingerprint(each.audio)) for each in read())

    return Plan(source, items, files, seconds if known else None, columns)


def _item(each: Utterance, root: Path, mark: str) -> Item:
    known = [(name, _readable(getattr(each, name))) for name in KNOWN if getattr(each, name) is not None]
    extras = [(_extra(name), _readable(value)) for name, value in each.extras.items() if value is not None]
    path = Path(each.audio)
    shown = each.audio
    if not is_address(shown) and path.is_relative_to(root):
        shown = path.relative_to(root).as_posix()
    return Item(_readable(shown), each.audio, each.offset, each.duration, tuple(known + extras), mark)


@overload
def _readable(value: str) -> str: ...
@overload
def _readable(value: _Value) -> _Value: ...
def _readable(value: _Value) -> _Value:
    """Words as an output can hold them: bytes of a file's name that are not UTF-8 are spelt out."""
    if not isinstance(value, str):
        return value
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _extra(name: str) -> str:
    """The column of an extra; one that would hide a column of the output is called `extra_NAME`."""
    own = name in _TAKEN or name in KNOWN or name.startswith(("vector", "frames"))
    return f"extra_{name}" if own else name


def _manifest(path: Path) -> Plan:
    folder = path.absolute().parent

    def read() -> Iterator[Utterance]:
        try:
            with path.open(encoding="utf-8-sig", newline="\n") as file:
                for number, line in enumerate(file, start=1):
                    if line.strip():
                        yield _utterance(line, folder, f"{path} line {number}")
        except FileNotFoundError:
            raise UserError(f"{path}: no such folder or manifest") from None
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            raise UserError(f"{path}: the manifest cannot be read ({reason})") from error

    return _utterances(str(path.absolute()), folder, read)


def _utterance(line: str, folder: Path, where: str) -> Utterance:
    try:
        found = Utterance.model_validate_json(line)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in problem["loc"])
        raise UserError(f"{where}: {key}: {problem['msg']}" if key else f"{where}: {problem['msg']}") from error
    if is_address(found.audio) or os.path.isabs(found.audio):  # noqa: PTH117 -- a million times
        return found
    return found.model_copy(update={"audio": str(folder / found.audio)})


def _folder(root: Path) -> Plan:
    if (root / "waveforms.json").is_file():
        raise UserError(f"{root}: a prepared corpus; give its {root / 'manifest.jsonl'} to embed its files")
    root = root.resolve()
    parts: set[tuple[str, ...]] = set()
    files = 0
    for folder, names in _walk(root):
        if METADATA_NAMES[0] in names or METADATA_NAMES[1] in names:
            return _utterances(str(root), root, lambda: audio_folder.prepare(root, probe=None))
        count = sum(_is_audio(name) for name in names)
        files += count
        if count:
            parts.add(Path(folder).relative_to(root).parts)
    if not files:
        raise UserError(f"{root}: no audio files in it")
    meanings = audio_folder.labels_of_folders(parts)

    def items() -> Iterator[Item]:
        for folder, names in _walk(root):
            inside = Path(folder).relative_to(root)
            metadata = tuple(meanings.get(inside.parts, {}).items())
            prefix = "" if inside == Path() else f"{inside.as_posix()}/"
            for name in names:
                if _is_audio(name):
                    location = os.path.join(folder, name)  # noqa: PTH118 -- a million times
                    yield Item(_readable(prefix + name), location, 0.0, 0.0, metadata, fingerprint(location))

    columns: dict[str, ColumnType] = {name: "text" for meaning in meanings.values() for name in meaning}
    return Plan(str(root), items, files, None, {name: columns[name] for name in KNOWN if name in columns})


def _walk(root: Path) -> Iterator[tuple[str, list[str]]]:
    """Folders with the names of their files, sorted, nothing hidden; each once, however many links lead to it."""
    seen: set[tuple[int, int]] = set()
    for folder, subfolders, names in os.walk(root, followlinks=True, onerror=_report):
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in seen:
            subfolders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        yield folder, sorted(name for name in names if not name.startswith("."))


def _report(error: OSError) -> None:
    _log.warning("%s: %s; passed over", error.filename, error.strerror)


def _is_audio(name: str) -> bool:
    suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122 -- a million times
    return suffix in AUDIO_SUFFIXES or suffix in FOREIGN_SUFFIXES
