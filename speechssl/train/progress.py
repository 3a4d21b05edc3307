"""Progress of a run: a bar on a terminal, plain lines in a log file, TensorBoard when installed."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from speechssl.files import naming

PLAIN_EVERY = 15.0  # seconds between lines where there is no terminal


class ProgressBar:
    """Progress on standard error: main metrics, audio seconds per second, time left.

    Args:
        name: label of the bar.
        summary: main metrics of a row of the log, as text.
        start: steps done before.
    """

    def __init__(self, name: str, summary: Callable[[Mapping[str, Any]], str], *, start: int):
        self._console = Console(stderr=True)
        self._summary, self._start = summary, start
        self._begin = self._last = time.monotonic()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._progress.add_task(name, total=None, completed=start, numbers="")

    def start(self) -> None:
        """Show the bar."""
        self._progress.start()

    def stop(self) -> None:
        """Remove the bar and restore the terminal."""
        self._progress.stop()

    def update(
        self, step: int, steps: int, metrics: Mapping[str, Any], speed: float, *, left: float | None = None
    ) -> None:
        """Show an update, one of so many.

        Args:
            step: its number.
            steps: updates of the whole run.
            metrics: of the update.
            speed: seconds of audio per second.
            left: seconds to the end of the run; None: as long per update as those before.
        """
        now = time.monotonic()
        if left is None:
            left = (now - self._begin) / max(step - self._start, 1) * (steps - step)
        numbers = f"{self._summary(metrics)}, {speed:.0f} s/s, {left / 60:.1f} min left"
        self._progress.update(self._task, total=steps, completed=step, numbers=numbers)
        if not self._console.is_terminal and (now - self._last > PLAIN_EVERY or step == steps):
            self._console.print(f"step {step}/{steps}: {numbers}", soft_wrap=True, highlight=False)
            self._last = now

    def validation(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Print a validation."""
        self._console.print(f"step {step}: validation {self._summary(metrics)}", soft_wrap=True, highlight=False)


class TensorBoard:
    """Writer of TensorBoard scalars; does nothing where TensorBoard is not installed."""

    def __init__(self, folder: Path, step: int):
        """Append in ``folder`` after ``step``; later rows of a killed run are hidden."""
        self._folder = folder / "tensorboard"
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            self._writer = None
        else:
            self._writer = SummaryWriter(str(self._folder), purge_step=step + 1)

    def write(self, row: Mapping[str, Any]) -> None:
        """Write a row of the log; each number of a list is its own scalar."""
        if self._writer is None:
            return
        prefix = "valid" if row.get("valid") else "train"
        for name, value in row.items():
            values = (
                {f"{name}/{index}": each for index, each in enumerate(value)}
                if isinstance(value, list)
                else {name: value}
            )
            for key, each in values.items():
                if isinstance(each, int | float) and not isinstance(each, bool) and key != "step":
                    with naming(self._folder):
                        self._writer.add_scalar(f"{prefix}/{key}", each, row["step"])

    def close(self) -> None:
        """Flush."""
        if self._writer is not None:
            with naming(self._folder):
                self._writer.close()
