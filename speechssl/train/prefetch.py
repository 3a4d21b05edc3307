"""Batches prepared in a thread while the previous one is used."""

import itertools
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def prefetch(
    batches: Callable[[int], T], start: int, stop: int | None
) -> Generator[Iterator[tuple[int, T]], None, None]:
    """Batches in order, without end where ``stop`` is None; a thread prepares the next while one is used."""
    with ThreadPoolExecutor(1) as pool:

        def numbered() -> Iterator[tuple[int, T]]:
            if stop is not None and start >= stop:
                return
            ahead = pool.submit(batches, start)
            for number in itertools.count(start) if stop is None else range(start, stop):
                batch = ahead.result()
                if stop is None or number + 1 < stop:
                    ahead = pool.submit(batches, number + 1)
                yield number, batch

        yield numbered()
