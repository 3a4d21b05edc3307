"""Audio behind an address: listed and fetched through fsspec, file by file, into a local folder.

Any protocol of fsspec: `https://`, `s3://` (needs s3fs), `gs://` (gcsfs), `hf://`, `file://`, `memory://`.
"""

import contextlib
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechssl.answers import answer, status_of
from speechssl.audio import AUDIO_SUFFIXES, FOREIGN_SUFFIXES, AudioError
from speechssl.config import UserError

_MARKS = ("etag", "ETag", "mtime", "LastModified", "last_modified", "created")


@dataclass(frozen=True)
class RemoteFile:
    """One file behind an address; `path` is relative to the listed folder, `fingerprint` its size and time or tag."""

    path: str
    address: str
    fingerprint: str


def list_address(address: str) -> list[RemoteFile]:
    """The audio files behind an address, by path: one file, a folder and all below it, or a glob.

    Raises:
        UserError: fsspec or its package for the protocol is not installed, or the server refuses.
    """
    fsspec = fsspec_module()
    try:
        system, path = fsspec.core.url_to_fs(address)
        if any(sign in path for sign in "*?["):
            found: dict[str, Any] = system.glob(path, detail=True)
            root = path.split("*", maxsplit=1)[0].rpartition("/")[0]
        elif _is_audio(path):
            return [RemoteFile(address, address, "")]
        else:
            found, root = system.find(path, detail=True), path
        if not found:
            system.ls(root)  # raises for a missing folder, for which `find` gives no files and no error
    except Exception as error:
        # ImportError, OSError, ValueError, and the errors of each protocol's own client.
        raise UserError(f"{address}: cannot be listed ({words_of(error, address)})") from error
    root = root.strip("/")
    files = [
        name
        for name in sorted(found)
        if _is_audio(name) and not _is_hidden(name) and found[name].get("type") != "directory"
    ]
    return [
        RemoteFile(name.strip("/").removeprefix(root).lstrip("/"), system.unstrip_protocol(name), _mark(found[name]))
        for name in files
    ]


def read_address(address: str) -> bytes:
    """Content of a small file, such as a manifest.

    Raises:
        UserError: it cannot be read.
    """
    fsspec = fsspec_module()
    try:
        with fsspec.open(address, "rb") as source:
            return source.read()
    except (ImportError, OSError, ValueError) as error:
        raise UserError(f"{address}: cannot be read ({words_of(error, address)})") from error


@contextmanager
def fetched(address: str, spool: Path) -> Generator[Path]:
    """A local copy of a file until the block ends.

    Args:
        address: of the file.
        spool: an existing folder for copies.

    Raises:
        AudioError: it cannot be fetched.
    """
    fsspec = fsspec_module()
    handle = tempfile.NamedTemporaryFile(dir=spool, suffix=Path(address).suffix.split("?")[0], delete=False)  # noqa: SIM115 -- closed below
    copy = Path(handle.name)
    try:
        try:
            with handle, fsspec.open(address, "rb") as source:
                shutil.copyfileobj(source, handle, 1 << 20)
        except Exception as error:
            raise AudioError(address, f"cannot be fetched ({words_of(error, address)})") from error
        yield copy
    finally:
        with contextlib.suppress(OSError):
            copy.unlink(missing_ok=True)


def fsspec_module() -> Any:
    """The package fsspec.

    Raises:
        UserError: it is not installed.
    """
    try:
        import fsspec
    except ImportError:
        raise UserError("addresses need fsspec: pip install 'speechssl[remote]'") from None
    return fsspec


def _is_audio(name: str) -> bool:
    suffix = Path(name.partition("?")[0]).suffix.lower()
    return suffix in AUDIO_SUFFIXES or suffix in FOREIGN_SUFFIXES


def _is_hidden(name: str) -> bool:
    return name.rpartition("/")[2].startswith(".")


def _mark(info: dict[str, Any]) -> str:
    marks = [str(info[name]) for name in ("size", *_MARKS) if info.get(name) is not None]
    return "-".join(marks[:2])


def words_of(error: Exception, address: str) -> str:
    """The reason of a failed request, in words."""
    status = status_of(error)
    if status is None and isinstance(error, FileNotFoundError) and address.lower().startswith("http"):
        status = 404  # fsspec keeps only this error of it
    if status is not None:
        return answer(status)
    if isinstance(error, FileNotFoundError):
        return "no such file or folder there: check the address"
    if isinstance(error, TimeoutError):
        return "no answer in time; try again later"
    return " ".join(str(error).split()) or type(error).__name__
