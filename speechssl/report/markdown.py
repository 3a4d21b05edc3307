"""Result tables of a README: `results.json` as Markdown."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from speechssl.config import UserError
from speechssl.files import write_atomic
from speechssl.metrics.results import (
    ABX_ERROR,
    LOWER_IS_BETTER,
    ResultRow,
    abx_value,
    outcome,
    plain,
    read_results,
)
from speechssl.terminal import printable

MAIN = ("UAR", "WER", "CER", ABX_ERROR)  # metrics with a table, where there are rows


def write_markdown(run: Path, out: Path) -> None:
    """Write the tables of a run folder's `results.json`.

    Raises:
        UserError: no results in the folder.
    """
    results = run / "results.json"
    if not results.is_file():
        raise UserError(f"{run}: no results.json in it")
    tables = markdown_tables(read_results(results))
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, tables)


def markdown_tables(rows: Sequence[ResultRow]) -> str:
    """One table per metric: contenders as rows, amounts of labels and decodings as columns, intervals in brackets.

    The best of a column is bold; a dagger marks a contender whose paired difference from the best one has an interval
    that includes zero, where such differences were computed.

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
    lines = [table_line([Text(metric), *map(Text, head)]), "|---" * (len(head) + 1) + "|"]
    best = {column: _best(rows, column, metric) for column in columns}
    for contender in dict.fromkeys(row.contender for row in rows):
        cells = [_cell(_find(rows, contender, column), best[column]) for column in columns]
        lines.append(table_line([Text(contender), *cells]))
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Text:
    """Text of a cell; only `table_line` turns it into Markdown, and escapes all of it."""

    words: str
    after: str = ""
    bold: bool = False


def table_line(cells: Sequence[Text]) -> str:
    """Line of a table: the only function that makes Markdown of texts."""
    made = (
        f"{f'**{_escaped(cell.words)}**' if cell.bold else _escaped(cell.words)}{_escaped(cell.after)}"
        for cell in cells
    )
    return f"| {' | '.join(made)} |"


def _escaped(text: str) -> str:
    r"""Text that Markdown shows as it is: no element, link, code, emphasis, formula, cell or line begins in it.

    >>> print(_escaped("a|b <i> [x](y) `c` www.d http://e\n"))
    a\|b &lt;i&gt; \[x\](y) \`c\` www&#46;d http&#58;//e\\n
    """
    words = printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    words = re.sub(r"([\\`*_\[\]|~$!])", r"\\\1", words)
    return words.replace("://", "&#58;//").replace("www.", "www&#46;").replace("@", "&#64;")


def _find(rows: Sequence[ResultRow], contender: str, column: tuple[int, str]) -> ResultRow | None:
    """The row of a contender; chance has the same row for every decoding."""
    labels, probe = column
    fits = (row for row in rows if row.contender == contender and row.labels == labels and row.probe in (probe, "none"))
    return next(fits, None)


def _best(rows: Sequence[ResultRow], column: tuple[int, str], metric: str) -> ResultRow | None:
    mine = [row for row in rows if (row.labels, row.probe) == column]
    sign = -1 if metric in LOWER_IS_BETTER else 1
    return max(mine, key=lambda row: sign * row.value, default=None)


def _cell(row: ResultRow | None, best: ResultRow | None) -> Text:
    if row is None:
        return Text("")
    level = best is not None and _undecided(row, best)
    interval = f" ({plain(row.low)}–{plain(row.high)})" if row.low < row.high else ""
    value = abx_value(row) if row.is_abx else plain(row.value)
    return Text(value, after=f"{'†' if level else ''}{interval}", bold=row is best)


def _undecided(row: ResultRow, best: ResultRow) -> bool:
    """Whether the interval of the paired difference of the two, stored in either row, includes zero."""
    for one, other in ((best, row), (row, best)):
        gain = one.gains.get(other.contender)
        if gain is not None and one is not other:
            return outcome(gain) == "is level with"
    return False
