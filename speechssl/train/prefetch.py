"""Batches prepared in a thread while the previous one is used."""

import itertools
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Generic, TypeVar

T = TypeVar("T")


class Prefetched(Generic[T]):
    """Numbered batches in order.

    Attributes:
        waited: seconds for which a batch was not ready when it was asked for.
    """

    def __init__(self, submit: Callable[[int], "Future[T]"], start: int, stop: int | None):
        self._submit, self._start, self._stop = submit, start, stop
        self.waited = 0.0

    def __iter__(self) -> Iterator[tuple[int, T]]:
        if self._stop is not None and self._start >= self._stop:
            return
        ahead = self._submit(self._start)
        for number in itertools.count(self._start) if self._stop is None else range(self._start, self._stop):
            begin = time.monotonic()
            batch = ahead.result()
            self.waited += time.monotonic() - begin
            if self._stop is None or number + 1 < self._stop:
                ahead = self._submit(number + 1)
            yield number, batch


@contextmanager
def prefetch(batches: Callable[[int], T], start: int, stop: int | None) -> Generator[Prefetched[T], None, None]:
    """Batches in order, without end where ``stop`` is None; a thread prepares the next while one is used."""
    with ThreadPoolExecutor(1) as pool:
        yield Prefetched(lambda number: pool.submit(batches, number), start, stop)
