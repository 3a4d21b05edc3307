"""Section about phones: ABX errors and effective ranks of the frames of every layer."""

from collections.abc import Sequence
from pathlib import Path

from speechssl.metrics.results import ABX_ERROR, ResultRow, abx_columns, abx_value
from speechssl.report.markup import Child, Element, tag
from speechssl.report.tables import table


def phone_sections(rows: Sequence[ResultRow]) -> list[Element]:
    """The table of one alignment; nothing without rows.

    Args:
        rows: those of `ResultRow.is_abx`.
    """
    if not rows:
        return []
    columns = abx_columns(rows)
    lowest = {key: min(row.value for row in column) for key, column in columns.items() if key[0] == ABX_ERROR}
    body: list[Element] = []
    for contender in dict.fromkeys(row.contender for row in rows):
        cells: list[Element] = []
        for key, column in columns.items():
            row = next((row for row in column if row.contender == contender), None)
            words = "" if row is None else abx_value(row)
            best = row is not None and row.value == lowest.get(key)
            cells.append(tag("td", tag("b", words) if best else words))
        kind = {"class_": "model"} if contender.startswith("model") else {}
        body.append(tag("tr", tag("td", contender), cells, **kind))
    first = rows[0]
    synthetic = " (synthetic speech)" if first.synthetic else ""
    on = f" on {Path(first.corpus).name}" if first.corpus else ""
    return [
        tag("h2", f"Phones{on}{synthetic}"),
        *table(
            ["", *(_head(column[0]) for column in columns.values())],
            body,
            f"ABX error of {first.classes} phones, {first.split}: how often a phone is nearer to another phone than to "
            "one of its own kind, all by one speaker (within) or with the other token by another speaker (across). "
            "Chance is 50 %; the lowest of a column is bold; there is no interval. Effective rank: how many dimensions "
            "the frames use. Layer 0 is the input to the first block.",
        ),
    ]


def _head(row: ResultRow) -> list[Child]:
    if row.metric == ABX_ERROR:
        return [f"ABX error, {row.probe}", tag("br"), f"{row.n:,} triples"]
    return [row.metric, tag("br"), f"{row.n:,} frames"]
