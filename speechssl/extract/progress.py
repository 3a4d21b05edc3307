"""How far an extraction is."""

import threading
from collections.abc import Callable
from dataclasses import dataclass

from speechssl.extract.plan import Plan


@dataclass(frozen=True)
class Progress:
    """How far an extraction is.

    Attributes:
        files: clips done or given up, those of an earlier run included.
        failed: of them, those that cannot be used.
        seconds: of audio encoded by this run.
        total_files: None where not known.
        total_seconds: None where not known.
    """

    files: int
    failed: int
    seconds: float
    total_files: int | None
    total_seconds: float | None


class Tally:
    """Counts from several threads, told to one listener, one call at a time."""

    def __init__(self, plan: Plan, listener: Callable[[Progress], None] | None):
        self.files, self.failed, self.seconds = 0, 0, 0.0
        self._plan, self._listener = plan, listener
        self._lock = threading.Lock()
        self.tell()

    def tell(self, files: int = 0, seconds: float = 0.0, failed: int = 0) -> None:
        """So much more is done."""
        with self._lock:
            self.files, self.failed, self.seconds = self.files + files, self.failed + failed, self.seconds + seconds
            if self._listener is not None:
                told = Progress(self.files, self.failed, self.seconds, self._plan.files, self._plan.seconds)
                self._listener(told)

    def known(self, *, failed: bool) -> None:
        """A clip that an earlier run has done; heard of with the next that is new."""
        with self._lock:
            self.files, self.failed = self.files + 1, self.failed + failed
