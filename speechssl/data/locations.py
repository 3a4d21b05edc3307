"""Files of a prepared corpus: on a disk, or behind an address of fsspec (`s3://`, `gs://`, `https://` …)."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechssl.config import UserError
from speechssl.data.places import is_address, local_path
from speechssl.data.remote import fsspec_module, words_of

# A path that was made of an address has one slash behind the scheme: Path("s3://bucket/x") is "s3:/bucket/x".
_COLLAPSED = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]+):/+", re.IGNORECASE)


@dataclass(frozen=True)
class Address:
    """A file or folder behind an address; `/` and `name` are as those of a path."""

    text: str

    def __truediv__(self, name: str) -> "Address":
        return Address(f"{self.text.rstrip('/')}/{name}")

    def __str__(self) -> str:
        return self.text

    @property
    def name(self) -> str:
        """The last part."""
        return self.text.rstrip("/").rpartition("/")[2]


Location = Path | Address


def location_of(place: str | Location) -> Location:
    """A path or an address; also an address that was made a path, which has lost a slash.

    >>> location_of("corpus"), location_of(Path("s3://bucket/corpus")), location_of("file:///corpus")
    (PosixPath('corpus'), Address(text='s3://bucket/corpus'), PosixPath('/corpus'))
    """
    if isinstance(place, Address):
        return place
    text = local_path(str(place))
    if is_address(text):
        return Address(text)
    found = _COLLAPSED.match(text)
    if isinstance(place, Path) and found and not place.exists():
        return Address(f"{found['scheme']}://{text[found.end() :]}")
    return Path(text)


def read_location(file: Location) -> bytes:
    """Content of a file.

    Raises:
        FileNotFoundError, NotADirectoryError: there is none.
        OSError: it cannot be read, on a disk.
        UserError: it cannot be read, behind an address.
    """
    if isinstance(file, Path):
        return file.read_bytes()
    system, path = file_system(file)
    return _answered(file, lambda: system.cat_file(path))


def size_of(file: Location) -> int | None:
    """Bytes of a file; -1 where there is none, None where a server does not say.

    Raises:
        UserError: the server refuses.
    """
    if isinstance(file, Path):
        return file.stat().st_size if file.is_file() else -1
    system, path = file_system(file)
    try:
        size = _answered(file, lambda: system.info(path)).get("size")
    except FileNotFoundError:
        return -1
    return None if size is None else int(size)


def read_range(file: Address, start: int, stop: int) -> bytes:
    """Some bytes of a file behind an address.

    Raises:
        UserError: they cannot be read, or the server gives others than these.
    """
    system, path = file_system(file)
    try:
        content: bytes = _answered(file, lambda: system.cat_file(path, start=start, end=stop))
    except FileNotFoundError as error:
        raise UserError(f"{file}: cannot be read ({words_of(error, str(file))})") from error
    if len(content) != stop - start:
        raise UserError(
            f"{file}: {len(content)} bytes instead of bytes {start} to {stop}; "
            "the file has changed, or its server gives no ranges"
        )
    return content


def file_system(file: Address) -> tuple[Any, str]:
    """The file system of an address, and the path in it.

    Raises:
        UserError: fsspec or its package for the protocol is not installed, or it does not know the protocol.
    """
    fsspec = fsspec_module()
    try:
        return fsspec.core.url_to_fs(str(file))
    except (ImportError, OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be opened ({words_of(error, str(file))})") from error


def _answered(file: Address, ask: Any) -> Any:
    try:
        return ask()
    except FileNotFoundError:
        raise
    except Exception as error:  # each protocol's own client has its own errors
        raise UserError(f"{file}: cannot be read ({words_of(error, str(file))})") from error
