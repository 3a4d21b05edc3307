"""The result table of a README: `results.json` as Markdown, so that no number is typed by hand."""

from collections.abc import Sequence
from pathlib import Path

from speechssl.config import UserError
from speechssl.scoring.results import LOWER_IS_BETTER, ResultRow, outcome, plain, read_results

MAIN = ("UAR", "WER", "CER")  # metrics a table is made for, where there are rows


def write_markdown(run: Path, out: Path) -> None:
    """Write the tables of a run folder's `results.json`.

    Raises:
        UserError: no results there.
    """
    results = run / "results.json"
    if not results.is_file():
        raise UserError(f"{run}: no results.json in it")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.partial")
    partial.write_text(markdown_tables(read_results(results)), encoding="utf-8")
    partial.replace(out)


def markdown_tables(rows: Sequence[ResultRow]) -> str:
    """A table a metric: contenders down, amounts of labels and ways to decode across, intervals in brackets.

    The best of a column is bold; a dagger marks a contender that the best one's paired interval does not tell apart
    from itself, where such differences were computed.

    >>> row = ResultRow("emotion", "MFCC + SVM", "", 5, "UAR", 0.5, 0.4, 0.6, 10, 1)
    >>> print(markdown_tables([row]))
    | UAR | 5 shots |
    |---|---|
    | MFCC + SVM | **.50** (.40–.60) |
    <BLANKLINE>
    """
    tables: list[str] = []
    for metric in MAIN:
        mine = [row for row in rows if row.metric == metric]
        if mine:
            tables.append(_table(mine, metric))
    return "\n".join(tables)


def _table(rows: Sequence[ResultRow], metric: str) -> str:
    columns = list(dict.fromkeys((row.labels, row.probe) for row in rows if row.probe != "none"))
    columns.sort(key=lambda column: (column[0] == 0, column[0]))
    amounts = {row.labels: row.amount for row in rows}
    head = [f"{amounts[labels]}{f', {probe}' if probe else ''}" for labels, probe in columns]
    lines = [f"| {' | '.join([metric, *head])} |", "|---" * (len(head) + 1) + "|"]
    best = {column: _best(rows, column, metric) for column in columns}
    for contender in dict.fromkeys(row.contender for row in rows):
        cells = [_cell(_find(rows, contender, column), best[column]) for column in columns]
        lines.append(f"| {' | '.join([contender, *cells])} |")
    return "\n".join(lines) + "\n"


def _find(rows: Sequence[ResultRow], contender: str, column: tuple[int, str]) -> ResultRow | None:
    """The row of a contender; chance has one for every way to decode."""
    labels, probe = column
    fits = (row for row in rows if row.contender == contender and row.labels == labels and row.probe in (probe, "none"))
    return next(fits, None)


def _best(rows: Sequence[ResultRow], column: tuple[int, str], metric: str) -> ResultRow | None:
    mine = [row for row in rows if (row.labels, row.probe) == column]
    sign = -1 if metric in LOWER_IS_BETTER else 1
    return max(mine, key=lambda row: sign * row.value, default=None)


def _cell(row: ResultRow | None, best: ResultRow | None) -> str:
    if row is None:
        return ""
    value = f"**{plain(row.value)}**" if row is best else plain(row.value)
    level = best is not None and _undecided(row, best)
    interval = f" ({plain(row.low)}–{plain(row.high)})" if row.low < row.high else ""
    return f"{value}{'†' if level else ''}{interval}"


def _undecided(row: ResultRow, best: ResultRow) -> bool:
    """Whether the paired difference of the two, kept by either of them, has zero in its interval."""
    for one, other in ((best, row), (row, best)):
        gain = one.gains.get(other.contender)
        if gain is not None and one is not other:
            return outcome(gain) == "is level with"
    return False
