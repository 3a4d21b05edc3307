"""Results of threads in the order of their tasks: used to decode clips, encode parts, and read ahead in a long clip.

A free worker takes the next task, so that there is no queue of tasks; workers pause when `ahead` results wait for an
earlier one. An error, of a task or of reading the tasks, is raised in place of its result: all earlier results come
first, and no further task is begun.
"""

import sys
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class _Raised:
    error: BaseException


class InOrder(Generic[T, R]):
    """Results in the order of the tasks; one thread iterates over it.

    Args:
        tasks: read by the workers, one at a time.
        ahead: most tasks that are begun and whose results are not taken yet.
        budget: for the amounts that tasks `reserve`, for example bytes.

    Attributes:
        held: amount of the budget in use.
        most_held: largest amount so far.

    >>> squares = InOrder(iter(range(5)), ahead=3)
    >>> with squares.running([lambda _, number: number**2] * 2, name="square"):
    ...     list(squares)
    [0, 1, 4, 9, 16]
    """

    def __init__(self, tasks: Iterator[T], *, ahead: int, budget: int = sys.maxsize):
        self._tasks, self._ahead, self._budget = tasks, ahead, budget
        self.held = self.most_held = 0
        self._reading = threading.Lock()  # held by the worker that reads the next task
        self._changed = threading.Condition()  # guards everything below
        self._results: dict[int, R | _Raised] = {}
        self._begun = self._due = 0  # number of tasks; index of the result to take next
        self._ended = self._stopped = False

    @contextmanager
    def running(
        self, workers: Sequence[Callable[[int, T], R]], *, name: str, wait: bool = True
    ) -> Generator[None, None, None]:
        """Threads until the block ends; each finishes the task that it has begun.

        Args:
            workers: one thread each, for one task at a time: (index, task) -> result.
            name: of the threads.
            wait: whether the end of the block waits for the threads.
        """
        threads = [
            threading.Thread(target=self._work, args=(do,), name=f"{name}-{number}", daemon=True)
            for number, do in enumerate(workers)
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            with self._changed:
                self._stopped = True
                self._changed.notify_all()
            for thread in threads if wait else ():
                thread.join()

    def __iter__(self) -> Iterator[R]:
        """The results; raises the error of a task, or of reading the tasks."""
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._stopped or self._due in self._results or (self._ended and self._due >= self._begun)
                )
                if self._due not in self._results:
                    return
                result = self._results.pop(self._due)
                self._due += 1
                self._changed.notify_all()
            if isinstance(result, _Raised):
                raise result.error
            yield result

    def reserve(self, amount: int, *, index: int) -> None:
        """Blocks a worker until the amount fits into the budget, unless the result of its task is the next to be taken.

        The next result is always made, if necessary beyond the budget, so that there is no deadlock.

        Args:
            amount: to reserve.
            index: of the worker's task.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or index <= self._due or self.held + amount <= self._budget)
            self.held += amount
            self.most_held = max(self.most_held, self.held)

    def release(self, amount: int) -> None:
        """Gives back an amount of the budget."""
        with self._changed:
            self.held -= amount
            self._changed.notify_all()

    def _work(self, do: Callable[[int, T], R]) -> None:
        while (found := self._next()) is not None:
            index, task = found
            result: R | _Raised
            try:
                result = task if isinstance(task, _Raised) else do(index, task)
            except BaseException as error:  # noqa: BLE001 -- it is raised again where the result is taken
                result = _Raised(error)
            del found, task  # the memory of a task is free before the next one is read
            with self._changed:
                self._results[index] = result
                self._ended = self._ended or isinstance(result, _Raised)
                self._changed.notify_all()

    def _next(self) -> tuple[int, T | _Raised] | None:
        """The next task, or the error of reading it, with its index; None where no task is to be begun."""
        with self._reading:
            with self._changed:
                self._changed.wait_for(lambda: self._stopped or self._ended or self._begun < self._due + self._ahead)
                if self._stopped or self._ended:
                    return None
            task: T | _Raised
            try:
                task = next(self._tasks)
            except StopIteration:
                with self._changed:
                    self._ended = True
                    self._changed.notify_all()
                return None
            except BaseException as error:  # noqa: BLE001 -- as above
                task = _Raised(error)
            with self._changed:
                self._begun += 1
                self._ended = self._ended or isinstance(task, _Raised)
                return None if self._stopped else (self._begun - 1, task)
