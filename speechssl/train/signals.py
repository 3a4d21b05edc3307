"""Signals that stop a run after its current step."""

import signal
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass
class Stop:
    """Whether a signal has asked for the end of the run."""

    requested: bool = False


@contextmanager
def stop_signals() -> Generator[Stop, None, None]:
    """SIGTERM and Ctrl-C stop the run after the current step; a second Ctrl-C stops at once."""
    stop = Stop()

    def request(number: int, _frame: FrameType | None) -> None:
        if stop.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.requested = True

    numbers = (signal.SIGTERM, signal.SIGINT)
    try:
        before = [signal.signal(number, request) for number in numbers]
    except ValueError:  # not the main thread: the caller handles signals
        yield stop
        return
    try:
        yield stop
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
