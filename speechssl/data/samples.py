"""Files of int16 samples: mapped where they are on a disk, read by ranges of bytes behind an address."""

import threading
from collections import OrderedDict
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int16

from speechssl.data.locations import Address, Location, read_range

PAGE = 1 << 14
"""Bytes that are read and cached together, half a second of audio; whole pages are read."""
CACHE_BYTES = 1 << 28
"""Default bound of the cached pages of a corpus in a process."""


@runtime_checkable
class Samples(Protocol):
    """Access to a file of samples."""

    def read(self, start: int, stop: int) -> Int16[np.ndarray, " samples"]:
        """Some int16 of the file, read-only."""
        ...


class PageCache:
    """The pages of remote files that were used last, in memory, for all threads of a process.

    Args:
        most: bytes of all pages together.
    """

    def __init__(self, most: int):
        self.most, self.bytes = most, 0
        self._pages: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, file: str, number: int) -> bytes | None:
        """A page, or None where it is not cached."""
        with self._lock:
            page = self._pages.get((file, number))
            if page is not None:
                self._pages.move_to_end((file, number))
            return page

    def put(self, file: str, number: int, page: bytes) -> None:
        """Adds a page, and removes those that were used least recently."""
        with self._lock:
            self.bytes += len(page) - len(self._pages.pop((file, number), b""))
            self._pages[file, number] = page
            while self.bytes > self.most:
                self.bytes -= len(self._pages.popitem(last=False)[1])


class MappedSamples:
    """Samples of a file on a disk, memory-mapped."""

    def __init__(self, path: Path, size: int):
        if not size:  # an empty file cannot be mapped
            self._samples = np.zeros(0, dtype="<i2")
        else:
            # A plain array over the same memory: slicing it is several times faster than slicing numpy's subclass.
            self._samples = np.memmap(path, dtype="<i2", mode="r").view(np.ndarray)

    def read(self, start: int, stop: int) -> Int16[np.ndarray, " samples"]:
        """A view of the mapped file."""
        return self._samples[start:stop]


class RangedSamples:
    """Samples of a file behind an address: missing pages of a range are read, neighbouring ones in one request."""

    def __init__(self, file: Address, size: int, cache: PageCache):
        self._file, self._size, self._cache = file, size, cache

    def read(self, start: int, stop: int) -> Int16[np.ndarray, " samples"]:
        """A copy.

        Raises:
            UserError: the file cannot be read.
        """
        if start == stop:
            return np.zeros(0, dtype="<i2")
        first, last = 2 * start // PAGE, (2 * stop - 1) // PAGE
        pages = {number: self._cache.get(str(self._file), number) for number in range(first, last + 1)}
        missing = [number for number, page in pages.items() if page is None]
        for run in np.split(np.array(missing, dtype=np.int64), np.flatnonzero(np.diff(missing) > 1) + 1):
            if len(run):
                pages.update(self._fetched(int(run[0]), int(run[-1])))
        content = b"".join(page for page in pages.values() if page is not None)
        return np.frombuffer(content, dtype="<i2")[start - first * PAGE // 2 :][: stop - start]

    def _fetched(self, first: int, last: int) -> dict[int, bytes]:
        begin = first * PAGE
        content = read_range(self._file, begin, min((last + 1) * PAGE, self._size))
        found = {number: content[number * PAGE - begin :][:PAGE] for number in range(first, last + 1)}
        for number, page in found.items():
            self._cache.put(str(self._file), number, page)
        return found


def open_samples(file: Location, size: int, cache: PageCache) -> Samples:
    """The samples of a file of `size` bytes."""
    return MappedSamples(file, size) if isinstance(file, Path) else RangedSamples(file, size, cache)
