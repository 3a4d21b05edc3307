"""HDF5 output, and the file that HDF5 writes into: on a full disk the library itself would crash the process."""

import io
import os
from pathlib import Path
from typing import Any

import numpy as np

from speechssl.extract.formats.rows import Finished


def write_h5(out: Path, finished: Finished) -> None:
    """Writes one HDF5 file."""
    import h5py

    with WritableFile(out) as target:
        with h5py.File(target, "w") as file:
            file.attrs["speechssl"] = finished.described()
            for name, column in finished.columns():
                words = column.dtype.kind == "U"
                kind = h5py.string_dtype() if words else None
                file.create_dataset(name, data=column.astype(object) if words else column, dtype=kind)
                target.check()
            name, shape = finished.body()
            body, start = file.create_dataset(name, shape, np.float32), 0
            for block in finished.blocks():
                body[start : start + len(block)] = block
                start += len(block)
                target.check()
        target.check()


def read_h5(out: Path) -> str:
    """The settings in an HDF5 file."""
    import h5py

    with h5py.File(out, "r") as file:
        return str(file.attrs["speechssl"])


class WritableFile(io.RawIOBase):
    """A file whose writes never fail for the library; data that the disk refuses is kept in memory until `check`.

    libhdf5 cannot close a file after a failed write, and crashes when the process ends. It can close this one.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, WritableFile(Path(folder, "a")) as file:
    ...     _ = file.write(b"abc"), file.seek(1)
    ...     file.read(5), file.check()
    (b'bc', None)
    """

    def __init__(self, path: Path):
        super().__init__()
        self._file = path.open("w+b", buffering=0)
        self._at = self._size = 0
        self._kept: list[tuple[int, bytes]] = []  # data that could not be written, by its first byte
        self._error: OSError | None = None

    def check(self) -> None:
        """Raises the first error of a write.

        Raises:
            OSError: the file cannot be written.
        """
        if self._error is not None:
            raise self._error

    def write(self, data: Any, /) -> int:  # noqa: D102 -- as any file
        left = memoryview(data).cast("B")
        size = len(left)
        try:
            while len(left) and self._error is None:
                written = os.pwrite(self._file.fileno(), left, self._at)
                left, self._at = left[written:], self._at + written
        except OSError as error:
            self._error = error
        if len(left):
            self._kept.append((self._at, bytes(left)))
            self._at += len(left)
        if size:
            self._size = max(self._size, self._at)
        return size

    def readinto(self, buffer: Any, /) -> int:  # noqa: D102 -- as any file
        size = max(0, min(len(buffer), self._size - self._at))
        found = bytearray(os.pread(self._file.fileno(), size, self._at).ljust(size, b"\0"))
        for start, data in self._kept:
            first, last = max(start, self._at), min(start + len(data), self._at + size)
            if first < last:
                found[first - self._at : last - self._at] = data[first - start : last - start]
        buffer[:size] = found
        self._at += size
        return size

    def readable(self) -> bool:  # noqa: D102 -- as any file
        return True

    def writable(self) -> bool:  # noqa: D102 -- as any file
        return True

    def seekable(self) -> bool:  # noqa: D102 -- as any file
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:  # noqa: D102 -- as any file
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:  # noqa: D102 -- as any file
        return self._at

    def truncate(self, size: int | None = None, /) -> int:  # noqa: D102 -- as any file
        self._size = self._at if size is None else size
        try:
            self._file.truncate(self._size)
        except OSError as error:
            self._error = self._error or error
        return self._size

    def close(self) -> None:  # noqa: D102 -- as any file
        self._file.close()
        super().close()
