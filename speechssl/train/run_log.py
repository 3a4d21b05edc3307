"""Log of a run: ``log.jsonl``, TensorBoard when installed, and the progress bar."""

import json
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from speechssl.files import naming, write_atomic
from speechssl.objectives.base import Metrics
from speechssl.train.health import HealthError
from speechssl.train.progress import ProgressBar, TensorBoard
from speechssl.train.trainer import Update


class RunLog:
    """Log of a run; a context manager.

    Args:
        out: the run folder.
        name: label of the progress bar.
        summary: main metrics of a row, as text.
        step: steps done before; later rows of a killed run are dropped.
        seconds_seen: seconds of audio seen before.
        every: steps between rows of training.
        active: False on all ranks but the main one, which alone logs.
        show: whether to show progress on stderr and write TensorBoard files.
    """

    def __init__(
        self,
        out: Path,
        *,
        name: str,
        summary: Callable[[Mapping[str, Any]], str],
        step: int,
        seconds_seen: float,
        every: int,
        active: bool = True,
        show: bool = True,
    ):
        self.path, self.every = out / "log.jsonl", every
        self._name, self._summary, self._active, self._show = name, summary, active, show
        self._open = False
        self._ends = ExitStack()
        self._step, self._seconds_seen = step, seconds_seen
        self._begin = (time.monotonic(), seconds_seen)
        self._bar: ProgressBar | None = None
        self._board: TensorBoard | None = None

    def __enter__(self) -> "RunLog":
        if self._active:
            truncate_log(self.path, self._step)
            self._file = self._ends.enter_context(self.path.open("a", encoding="utf-8"))
            self._open = True
            if self._show:
                self._board = TensorBoard(self.path.parent, self._step)
                self._ends.callback(self._board.close)
                self._bar = ProgressBar(self._name, self._summary, start=self._step)
                self._ends.callback(self._bar.stop)
                self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        with naming(self.path):  # rows that a full disk rejected are written once more
            self._ends.close()

    def train(
        self, update: Update, metrics: Metrics, *, steps: int, waited: float, last: bool, left: float | None = None
    ) -> None:
        """Log an update; the first, the last and every ``every``-th are written to the file.

        Args:
            update: number and place in the run.
            metrics: of the update.
            steps: updates of the whole run; an estimate where its length is a time.
            waited: seconds for which the loop has waited for batches.
            last: whether the run ends here.
            left: seconds to the end, where the length of the run is a time.
        """
        if not self._open:
            return
        step, self._seconds_seen = update.step, update.seconds_seen
        self._step = step
        elapsed = time.monotonic() - self._begin[0]
        speed = (self._seconds_seen - self._begin[1]) / max(elapsed, 1e-9)
        if self._bar is not None:
            self._bar.update(step, steps, metrics, speed, left=left)
        if step % self.every == 0 or last or step == 1:
            speeds = {"seconds_per_second": round(speed, 2), "wait_share": round(waited / max(elapsed, 1e-9), 4)}
            self._write(metrics | speeds)

    @contextmanager
    def alarm(self) -> Generator[None, None, None]:
        """Log the alarm that stops a run."""
        try:
            yield
        except HealthError as error:
            if self._open:
                self._write({"alarm": error.state, "evidence": error.evidence, "advice": error.advice})
            raise

    def validation(self, metrics: Metrics) -> None:
        """Log a validation."""
        if self._bar is not None:
            self._bar.validation(self._step, metrics)
        if self._open:
            self._write({"valid": True} | metrics)

    def _write(self, metrics: dict[str, Any]) -> None:
        row = {"step": self._step} | metrics | {"seconds_seen": round(self._seconds_seen, 3)}
        with naming(self.path):
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
        if self._board is not None:
            self._board.write(row)


def truncate_log(path: Path, step: int) -> None:
    """Drop rows that a killed run wrote after its last checkpoint: the resumed run writes them again."""
    if not path.exists():
        return
    kept: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:  # the line that was being written when the run was killed
            continue
        if row["step"] <= step:
            kept.append(line + "\n")
    write_atomic(path, "".join(kept).encode())
