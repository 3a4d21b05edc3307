"""Reading tars in place: their files and the positions of these, without unpacking."""

import functools
import logging
import os
import posixpath
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from speechssl.audio import file_state
from speechssl.config import UserError

COMPRESSED = {b"\x1f\x8b": "gunzip", b"BZ": "bunzip2", b"\xfd7": "unxz", b"(\xb5": "unzstd"}
_CACHED = 16  # indices held at once

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TarFile:
    """One regular file of a tar.

    Attributes:
        name: its path in the tar, normalised: no "./" in front.
        start: its first byte in the tar.
        size: bytes.
    """

    name: str
    start: int
    size: int


class TarIndex:
    """Positions of the files of a tar."""

    def __init__(self, path: str):
        self._places: dict[str, tuple[int, int]] = {}
        self._twice: set[str] = set()
        for file in iterate_tar(path):
            if file.name in self._places:
                self._twice.add(file.name)
            self._places[file.name] = file.start, file.size

    def find(self, name: str) -> tuple[int, int]:
        """First byte and number of bytes of a file.

        Raises:
            LookupError: no file of that name, or two.
        """
        if name in self._twice:
            raise LookupError(f"the tar holds {name!r} more than once")
        if name not in self._places:
            raise LookupError(f"no file {name!r} in the tar")
        return self._places[name]


def tar_index(path: str) -> TarIndex:
    """The index of a tar, cached as long as the file does not change.

    Raises:
        OSError: no such file.
        LookupError: no tar that can be read in place.
    """
    status = os.stat(path)  # noqa: PTH116 -- once per clip
    try:
        return _index(path, file_state(status))
    except UserError as error:
        raise LookupError(str(error)) from error


@functools.lru_cache(maxsize=_CACHED)
def _index(path: str, state: str) -> TarIndex:  # noqa: ARG001 -- part of the key
    return TarIndex(path)


def iterate_tar(path: str | Path) -> Iterator[TarFile]:
    """The regular files of a tar, in order; only headers are read, and none is kept.

    A link to a file of the tar is that file under another name. Folders and devices are skipped; so are sparse
    files and links to missing files, with a warning.

    Args:
        path: of a tar that is not compressed.

    Raises:
        UserError: no tar, a compressed one, or one that is cut short.

    >>> import io, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with tarfile.open(folder + "/a.tar", "w") as tar:
    ...         member = tarfile.TarInfo("./b/c.txt")
    ...         member.size = 4
    ...         tar.addfile(member, io.BytesIO(b"text"))
    ...     [(file.name, file.size) for file in iterate_tar(folder + "/a.tar")]
    [('b/c.txt', 4)]
    """
    places: dict[str, TarFile] | None = None
    try:
        with Path(path).open("rb") as raw:
            size = os.fstat(raw.fileno()).st_size
            unpack = COMPRESSED.get(raw.read(2))
            if unpack is not None:
                raise UserError(f"{path}: a compressed tar cannot be read in place; uncompress it first: {unpack}")
            raw.seek(0)
            with tarfile.open(fileobj=raw, mode="r:", errorlevel=1) as tar:
                while (member := tar.next()) is not None:
                    tar.members.clear()  # pyright: ignore[reportAttributeAccessIssue] -- it keeps 1 kB of each
                    if member.islnk() or member.issym():
                        places = _regular_files(path) if places is None else places
                        yield from _linked(path, member, places)
                        continue
                    if not member.isreg() or member.issparse():
                        if member.issparse():
                            _log.warning(
                                "%s: %s is a sparse file, which cannot be read in place; left out", path, member.name
                            )
                        continue
                    if member.offset_data + member.size > size:
                        raise UserError(f"{path}: truncated: {member.name!r} reaches beyond the end of the tar")
                    yield TarFile(posixpath.normpath(member.name), member.offset_data, member.size)
                _check_end(path, raw, tar.offset)
    except (tarfile.TarError, EOFError) as error:
        raise UserError(f"{path}: not a tar ({error})") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None


def _linked(path: str | Path, member: tarfile.TarInfo, places: Mapping[str, TarFile]) -> Iterator[TarFile]:
    """The target of a link, under the link's name; hard links count from the top of the tar."""
    target = member.linkname if member.islnk() else posixpath.join(posixpath.dirname(member.name), member.linkname)
    found = places.get(posixpath.normpath(target))
    if found is None:
        _log.warning(
            "%s: %s is a link to %s, which is no file of the tar; left out", path, member.name, member.linkname
        )
    else:
        yield TarFile(posixpath.normpath(member.name), found.start, found.size)


def _regular_files(path: str | Path) -> dict[str, TarFile]:
    """The files of a tar that are no links, by name; used only where there is a link."""
    found: dict[str, TarFile] = {}
    with tarfile.open(path, mode="r:") as tar:
        while (member := tar.next()) is not None:
            tar.members.clear()  # pyright: ignore[reportAttributeAccessIssue] -- as above
            if member.isreg() and not member.issparse():
                name = posixpath.normpath(member.name)
                found[name] = TarFile(name, member.offset_data, member.size)
    return found


def _check_end(path: str | Path, raw: BinaryIO, end: int) -> None:
    """Refuses a damaged header, which tarfile takes for the end without an error."""
    raw.seek(end)
    block = raw.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE:
        raise UserError(f"{path}: truncated: it stops at byte {end + len(block)} without the end mark of a tar")
    if block.strip(b"\0"):
        raise UserError(f"{path}: damaged: no header at byte {end}, and no end of the tar either")


def read_range(path: str | Path, file: TarFile, limit: int) -> bytes:
    """The bytes of a small file of a tar.

    Args:
        path: of the tar.
        file: to read.
        limit: the most bytes that are read.

    Raises:
        UserError: the file is larger than the limit, or is not whole.
    """
    if file.size > limit:
        raise UserError(f"{path}: {file.name!r} has {file.size} bytes; at most {limit} are read")
    with Path(path).open("rb") as raw:
        raw.seek(file.start)
        content = raw.read(file.size)
    if len(content) != file.size:
        raise UserError(f"{path}: truncated within {file.name!r}")
    return content
