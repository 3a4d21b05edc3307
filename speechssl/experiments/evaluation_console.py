"""Output of an evaluation on stderr: progress bars, notes, and the table of results."""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from types import TracebackType

from speechssl.metrics.results import (
    ABX_ERROR,
    ResultRow,
    abx_columns,
    abx_value,
    baseline_summaries,
    clear_winner,
    columns_of,
    plain,
)
from speechssl.terminal import printable

CAPTION = (
    "UAR, mean over seeds, with its 95 % interval by speaker. Bold: best, and its interval overlaps that of no other "
    "kind of features. A comparison below is one layer, probe and number of shots, by the paired interval of the "
    "difference."
)

ABX_CAPTION = (
    "ABX error: how often a phone is nearer to another phone than to one of its own kind; within: all by one speaker, "
    "across: the other token by another speaker. Bold: the lowest. Effective rank: how many dimensions the frames use."
)

_NAME_WIDTH, _CELL_WIDTH = 35, 14  # characters of the longest contender and of one cell, with their rules


class EvaluationConsole:
    """Context manager that shows progress bars."""

    def __enter__(self) -> "EvaluationConsole":
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self.console = Console(stderr=True)
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self.console,
        )
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def say(self, sentence: str) -> None:
        """Print one line above the bars."""
        self.console.print(printable(sentence), markup=False, highlight=False)

    @contextmanager
    def progress(self, words: str, *, total: int) -> Generator[Callable[[int], None]]:
        """Show a bar; the yielded function is called with the number of items done since the last call."""
        task = self._bars.add_task(words, total=total)
        yield lambda done: self._bars.advance(task, done)

    def results(self, rows: Sequence[ResultRow]) -> None:
        """Print the tables and the summaries, after the bars."""
        self._bars.stop()
        probes, aligned = [row for row in rows if row.is_probe], [row for row in rows if row.is_abx]
        if probes:
            self._probes(probes)
        if aligned:
            self.console.print(_abx_table(aligned))
            self.say(ABX_CAPTION)

    def _probes(self, rows: Sequence[ResultRow]) -> None:
        for task in dict.fromkeys(row.task for row in rows):
            columns = list(columns_of(rows, task=task))
            probes = dict.fromkeys(probe for probe, _ in columns)
            # One table where it fits, else one per probe: a table that wraps cannot be read.
            fits = _NAME_WIDTH + _CELL_WIDTH * len(columns) <= self.console.width
            for part in [columns] if fits else [[key for key in columns if key[0] == probe] for probe in probes]:
                self.console.print(_table(rows, task, part))
        self.say(CAPTION)
        for each in baseline_summaries(rows):
            self.say(f"{each.task}: the model {each.verdict} {each.baseline}: {each.count}")


def _table(rows: Sequence[ResultRow], task: str, keys: Sequence[tuple[str, int]]):
    from rich.table import Table

    found = columns_of(rows, task=task)
    columns = {key: found[key] for key in keys}
    first = next(row for row in rows if row.task == task)
    synthetic = ", synthetic speech" if first.synthetic else ""
    table = Table(title=f"{task}: {first.classes} classes, {first.split}, {first.seeds} seeds{synthetic}")
    table.add_column("features", no_wrap=True)
    for probe, shots in columns:
        table.add_column(f"{probe}\n{shots} shots", justify="right", no_wrap=True)
    winners = {key: clear_winner(column) for key, column in columns.items()}
    for contender in dict.fromkeys(row.contender for row in rows if row.task == task):
        cells: list[str] = []
        for key, column in columns.items():
            row = next((row for row in column if row.contender == contender), None)
            cells.append("" if row is None else _cell(row, bold=winners[key] == contender))
        table.add_row(contender, *cells)
    return table


def _abx_table(rows: Sequence[ResultRow]):
    from rich.table import Table

    first = rows[0]
    synthetic = ", synthetic speech" if first.synthetic else ""
    table = Table(title=f"{first.task}: {first.classes} phones, {first.split}{synthetic}")
    table.add_column("frames", no_wrap=True)
    columns = abx_columns(rows)
    for (metric, probe), column in columns.items():
        words = f"{probe}\n{column[0].n:,} triples" if metric == ABX_ERROR else metric.replace(" ", "\n")
        table.add_column(words, justify="right", no_wrap=True)
    lowest = {key: min(row.value for row in column) for key, column in columns.items() if key[0] == ABX_ERROR}
    for contender in dict.fromkeys(row.contender for row in rows):
        cells: list[str] = []
        for key, column in columns.items():
            row = next((row for row in column if row.contender == contender), None)
            words = "" if row is None else abx_value(row)
            cells.append(f"[bold]{words}[/bold]" if row is not None and row.value == lowest.get(key) else words)
        table.add_row(contender, *cells)
    return table


def _cell(row: ResultRow, *, bold: bool) -> str:
    value = f"[bold]{plain(row.value)}[/bold]" if bold else plain(row.value)
    return value + (f" [dim]{plain(row.low)}–{plain(row.high)}[/dim]" if row.low < row.high else "")
