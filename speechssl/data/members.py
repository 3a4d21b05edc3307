"""Audio within a container: `shard.tar::clips/a.wav`, `train.parquet::audio/17`, `waves.ark::1234`.

A location is the path of an audio file, or `CONTAINER::MEMBER`. A member is copied to a temporary file while it is
read, so that a corpus in tars or tables is neither unpacked nor held in memory as a whole:

    x.tar::clips/a.wav       the file clips/a.wav of a tar that is not compressed
    x.parquet::audio/17      row 17 of the column "audio" of a Parquet file: bytes, or Hugging Face's {bytes, path}
    x.arrow::audio/17        the same of an Arrow file, as `datasets` saves it
    x.ark::1234              the RIFF (wav) file that starts at byte 1234 of a Kaldi archive

A path that exists is a plain file, also if its name contains `::`.
"""

import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from speechssl.audio import AudioError

SEPARATOR = "::"
CONTAINERS = frozenset({".tar", ".parquet", ".arrow", ".ark"})
_BLOCK = 1 << 20  # bytes copied at once
_LONGEST_NAME = 100  # bytes of the name of a copy
_NO_CHUNK_SIZES = (0, 0xFFFFFFFF)  # lengths in the header of a wav from a pipe


@dataclass(frozen=True)
class Member:
    """A place within a container.

    Attributes:
        container: path of the container; it exists.
        name: the part behind the `::`.
    """

    container: str
    name: str


@dataclass(frozen=True)
class Content:
    """The bytes of a member, and their file name (empty where there is none)."""

    data: bytes
    name: str


def member_location(container: str | Path, name: str) -> str:
    """The location of a member.

    >>> member_location("/data/a.tar", "b/c.wav")
    '/data/a.tar::b/c.wav'
    """
    return f"{container}{SEPARATOR}{name}"


def find_member(location: str) -> Member | None:
    """The container and the member that a location names; None for a plain or missing file.

    >>> find_member("a.wav") is None, find_member("no-such.tar::a.wav") is None
    (True, True)
    """
    if SEPARATOR not in location or _is_file(location):
        return None
    at = location.find(SEPARATOR)
    while at >= 0:
        if at and _is_file(location[:at]):
            return Member(location[:at], location[at + len(SEPARATOR) :])
        at = location.find(SEPARATOR, at + 1)
    return None


def file_status(location: str) -> os.stat_result:
    """Size and time of a file; of the container for a member.

    Raises:
        OSError: no such file.
        ValueError: a null character in the name.
    """
    member = find_member(location)
    return os.stat(location if member is None else member.container)  # noqa: PTH116 -- once per clip


@contextmanager
def local_file(location: str, spool: Path | None = None) -> Generator[str]:
    """The path of a file with the audio of a location: the file itself, or a copy of a member while the block runs.

    Args:
        location: a path, or `CONTAINER::MEMBER`.
        spool: an existing folder for the copy; None for the system's temporary folder.

    Raises:
        AudioError: no such member, or it cannot be read; it names the location.

    >>> with local_file("a.wav") as path:
    ...     path
    'a.wav'
    """
    member = find_member(location)
    if member is None:
        yield location
        return
    with tempfile.TemporaryDirectory(dir=spool, prefix="member-", ignore_cleanup_errors=True) as folder:
        yield _copy(member, location, Path(folder))


def _copy(member: Member, location: str, folder: Path) -> str:
    """Copies a member under its own file name; returns the path of the copy, or of the file that a table row names."""
    suffix = PurePosixPath(member.container).suffix.lower()
    try:
        if suffix == ".tar":
            return _copy_range(member.container, _tar_range(member), folder, PurePosixPath(member.name).name)
        if suffix in (".parquet", ".arrow"):
            return _write_row(member, folder)
        if _is_place(member.name):
            return _copy_range(member.container, _riff_range(member), folder, f"{member.name}.wav")
    except OSError as error:
        raise AudioError(location, f"cannot be read ({error.strerror or error})") from error
    except LookupError as error:
        raise AudioError(location, str(error.args[0])) from error
    raise AudioError(location, f"no member can be read of this kind of file ({suffix or 'no suffix'})")


def _tar_range(member: Member) -> tuple[int, int]:
    from speechssl.data.tars import tar_index  # here: most corpora are plain files

    return tar_index(member.container).find(member.name)


def _write_row(member: Member, folder: Path) -> str:
    from speechssl.data.arrow import read_audio  # here: pyarrow is slow to import

    column, _, row = member.name.rpartition("/")
    if not column or not _is_place(row):
        raise LookupError(f"a row of a table is COLUMN/ROW, got {member.name!r}")
    content = read_audio(member.container, column, int(row))
    if isinstance(content, str):
        return content
    copy = folder / _short(PurePosixPath(content.name).name or row)
    copy.write_bytes(content.data)
    return str(copy)


def _is_place(text: str) -> bool:
    """Whether a text is the number of a row or a byte, of at most 18 digits."""
    return text.isascii() and text.isdecimal() and len(text) <= 18


def _riff_range(member: Member) -> tuple[int, int]:
    """First byte and length of a wav file within an archive, by the length in its own header."""
    start = int(member.name)
    with Path(member.container).open("rb") as file:
        file.seek(start)
        head = file.read(8)
        size = os.fstat(file.fileno()).st_size
    if len(head) < 8 or head[:4] != b"RIFF":
        raise LookupError(f"no wav file at byte {start} of the archive (only archives of wav files can be read)")
    length = int.from_bytes(head[4:], "little")
    if length in _NO_CHUNK_SIZES:
        raise LookupError(f"the wav file at byte {start} of the archive does not say its length")
    if start + 8 + length > size:
        raise LookupError(f"truncated: the wav file at byte {start} has {8 + length} bytes, {size - start} are there")
    return start, 8 + length


def _copy_range(container: str, place: tuple[int, int], folder: Path, name: str) -> str:
    start, left = place
    copy = folder / _short(name)
    with Path(container).open("rb") as source, copy.open("wb") as target:
        source.seek(start)
        while left:
            block = source.read(min(left, _BLOCK))
            if not block:
                raise LookupError(f"truncated: {left} bytes of the member are missing")
            target.write(block)
            left -= len(block)
    return str(copy)


def _short(name: str) -> str:
    """A file name that is valid on every file system, with its suffix."""
    clean = name.replace("\0", "").strip(".") or "audio"
    raw = os.fsencode(clean)
    return os.fsdecode(raw[-_LONGEST_NAME:]) if len(raw) > _LONGEST_NAME else clean


def _is_file(path: str) -> bool:
    try:
        return os.path.isfile(path)  # noqa: PTH113 -- once per clip
    except (OSError, ValueError):
        return False
