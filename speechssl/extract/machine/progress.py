"""Progress of an extraction: counted by its threads, shown on a bar."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from speechssl.extract.plan import Plan
from speechssl.terminal import Update


@dataclass(frozen=True)
class ExtractionProgress:
    """Counts of an extraction so far.

    Attributes:
        files: clips that are finished or failed, those of an earlier run included.
        failed: of these, the clips that cannot be used.
        seconds: of audio encoded by this run.
        total_files: None where not known.
        total_seconds: None where not known.
    """

    files: int
    failed: int
    seconds: float
    total_files: int | None
    total_seconds: float | None


class ProgressCounter:
    """Counts from several threads; calls one listener, one call at a time."""

    def __init__(self, plan: Plan, listener: Callable[[ExtractionProgress], None] | None):
        self.files, self.failed, self.seconds = 0, 0, 0.0
        self._plan, self._listener = plan, listener
        self._lock = threading.Lock()
        self.add()

    def add(self, files: int = 0, seconds: float = 0.0, failed: int = 0, *, show: bool = True) -> None:
        """Adds to the counts, and calls the listener unless `show` is False."""
        with self._lock:
            self.files, self.failed, self.seconds = self.files + files, self.failed + failed, self.seconds + seconds
            if show and self._listener is not None:
                now = ExtractionProgress(self.files, self.failed, self.seconds, self._plan.files, self._plan.seconds)
                self._listener(now)


def shown_on(bar: Update) -> Callable[[ExtractionProgress], None]:
    """A listener that shows files, hours and times real time on a bar.

    >>> listener = shown_on(lambda done, total, remark="": print(done, total, remark.partition(",")[0]))
    >>> listener(ExtractionProgress(files=3, failed=1, seconds=5400.0, total_files=9, total_seconds=None))
    3 9 1.50 h
    """
    began = time.monotonic()

    def listen(now: ExtractionProgress) -> None:
        speed = now.seconds / max(1e-3, time.monotonic() - began)
        hours = f"{now.seconds / 3600:.2f}" + (f"/{now.total_seconds / 3600:.2f}" if now.total_seconds else "")
        failed = f", {now.failed} bad" if now.failed else ""
        bar(now.files, now.total_files, f"{hours} h, {speed:.0f}x real time{failed}")

    return listen
