"""Tables and page of the comparison of objectives, from its files of results alone."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from speechssl.files import write_atomic
from speechssl.metrics.classification import Interval
from speechssl.metrics.objective_results import (
    BUDGETS,
    Budget,
    Column,
    ObjectiveResult,
    Summary,
    probe_column,
    read_results,
    summaries,
)
from speechssl.metrics.results import plain
from speechssl.report.html import document
from speechssl.report.label_efficiency import look_of
from speechssl.report.markdown import Text, table_line
from speechssl.report.markup import Element, render, tag
from speechssl.report.plots import DASHES, GREY, as_svg, label_text, page_figure
from speechssl.report.tables import captioned, missing, table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

AMOUNTS: Mapping[Budget, str] = {"time": "core-minutes", "audio": "hours of audio"}
CAPTION = (
    "UAR of probes on the frozen mean of layers, with 95 % intervals over seeds and draws; EER: equal error rate of "
    "speaker verification (lower is better), with the mean interval by speaker. Bold: the best of a column among "
    "objectives, where its interval overlaps that of no other row but the bundled model. Updates, audio and "
    "core-minutes are means over seeds; core-minutes include validations and checkpoints."
)
NOTHING = "No results yet."
_AGED = "saw far more audio"  # the note of rows that are no rivals


def write_tables(results: Path, page: Path) -> None:
    """Write `table.md` into a folder of results, and the page with tables and figure.

    Raises:
        UserError: a file of the folder is no result.
    """
    found = read_results(results)
    rows = summaries(found)
    for path in (results / "table.md", page):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(results / "table.md", objective_tables(rows))
    content = document("Comparison of objectives", _page(rows, found))
    write_atomic(page, f"<!doctype html>\n{render(content)}\n")


def objective_tables(rows: Sequence[Summary]) -> str:
    r"""One Markdown table per budget, with the baselines at its end.

    >>> objective_tables([])
    'No results yet.\n'
    """
    parts: list[str] = []
    for title, group in _by_budget(rows):
        head, body, best = _cells(group)
        lines = [table_line(list(map(Text, head))), "|---" * len(head) + "|"]
        for row, cells in zip(group, body, strict=True):
            shown = [Text(cell, bold=(row.name, head[place]) in best) for place, cell in enumerate(cells)]
            lines.append(table_line(shown))
        parts.append(f"{title}\n\n" + "\n".join(lines))
    return "\n\n".join([*parts, CAPTION] if parts else [NOTHING]) + "\n"


def _by_budget(rows: Sequence[Summary]) -> list[tuple[str, list[Summary]]]:
    """Rows of each budget and size of encoder under a title, with the baselines behind them."""
    baselines = [row for row in rows if row.budget is None]
    groups: dict[tuple[Budget, float, str], list[Summary]] = {}
    for row in rows:
        if row.budget is not None:
            groups.setdefault((row.budget, row.amount, row.preset), []).append(row)
    found = [
        (f"Equal {AMOUNTS[budget]}: {amount:g}, encoder {preset}", [*group, *baselines])
        for (budget, amount, preset), group in sorted(groups.items(), key=lambda item: BUDGETS.index(item[0][0]))
    ]
    return found or ([("Baselines", baselines)] if baselines else [])


def _cells(rows: Sequence[Summary]) -> tuple[list[str], list[list[str]], set[tuple[str, str]]]:
    """Headings, texts of the cells, and the cells that are bold by name and heading."""
    columns = _columns(rows)
    head = ["objective", "seeds", "updates", "audio h", "core-min", *(column.title for column in columns)]
    best = {(winner, column.title) for column in columns if (winner := _winner(rows, column))}
    return head, [_row(row, columns) for row in rows], best


def _columns(rows: Sequence[Summary]) -> list[Column]:
    """All scores, probes first, in the order in which they occur."""
    found = dict.fromkeys(column for row in rows for column in row.scores)
    return sorted(found, key=lambda column: column.lower_is_better)


def _row(row: Summary, columns: Sequence[Column]) -> list[str]:
    name = f"{row.name} ({row.note})" if row.note else row.name
    failed = f" ({row.failed} failed)" if row.failed else ""
    seeds = "" if row.budget is None else f"{row.seeds}{failed}"
    costs = ["" if math.isnan(row.updates) else f"{row.updates:,.0f}"]
    costs += ["" if math.isnan(value) else f"{value:.1f}" for value in (row.hours, row.core_minutes)]
    return [name, seeds, *costs, *(_score(row.scores.get(column)) for column in columns)]


def _score(score: Interval | None) -> str:
    return "" if score is None else f"{_digits(score.value)} ({_digits(score.low)}–{_digits(score.high)})"


def _digits(value: float) -> str:
    """A score with three decimals and no leading zero.

    >>> _digits(0.1234), _digits(1.0)
    ('.123', '1.000')
    """
    return f"{value:.3f}".removeprefix("0")


def _winner(rows: Sequence[Summary], column: Column) -> str | None:
    """The best objective of a column, if its interval overlaps that of no rival."""
    rivals = [row for row in rows if column in row.scores and row.note != _AGED]
    trained = [row for row in rivals if row.budget is not None]
    if not trained:
        return None
    sign = -1 if column.lower_is_better else 1
    best = max(trained, key=lambda row: sign * row.scores[column].value)
    others = [row.scores[column] for row in rivals if row is not best]
    apart = all(sign * (best.scores[column].value - other.value) > 0 for other in others)
    return best.name if others and apart and not any(best.scores[column].overlaps(other) for other in others) else None


def _page(rows: Sequence[Summary], results: Sequence[ObjectiveResult]) -> list[Element]:
    parts = [tag("h1", "Comparison of objectives")]
    if not rows:
        return [*parts, missing(NOTHING)]
    for title, group in _by_budget(rows):
        head, body, best = _cells(group)
        lines = [
            tag(
                "tr",
                [
                    tag("td", tag("b", cell) if (row.name, head[place]) in best else cell)
                    for place, cell in enumerate(cells)
                ],
            )
            for row, cells in zip(group, body, strict=True)
        ]
        parts += [tag("h2", title), *table(head, lines, CAPTION)]
    if any("linear" in column.measure for column in _columns(rows)):
        parts += [tag("h2", "Quality against cost"), _costs(rows)]
    return [*parts, tag("h2", "Layers"), *_layers(results)]


def _costs(rows: Sequence[Summary]) -> Element:
    """Mean UAR of the linear probes over core-minutes and over hours of audio; baselines are dashed lines."""
    columns = [column for column in _columns(rows) if "linear" in column.measure]
    scored = [
        (number, row, _mean(row, columns)) for number, row in enumerate(rows) if set(columns) <= row.scores.keys()
    ]
    with page_figure(1, 2, height=4.2, sharey=True) as (figure, panels):
        for axes, cost in zip(panels, ("core-minutes", "hours of audio seen"), strict=True):
            for number, row, score in scored:
                if row.budget is None:
                    _baseline(axes, row.name, score)
                else:
                    _point(axes, row, score, row.core_minutes if axes is panels[0] else row.hours, number=number)
            axes.set_xlabel(cost)
        panels[0].set_ylabel("UAR, mean of corpora")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
        picture = as_svg(figure, "Mean UAR of the linear probes over core-minutes and over hours of audio seen")
    words = (
        "UAR of the linear probe on the mean of layers, mean over the corpora; a bar joins the means of the ends of "
        "their intervals. Rows without a score on every corpus are left out."
    )
    return tag("figure", picture, tag("figcaption", words))


def _baseline(axes: "Axes", name: str, score: Interval) -> None:
    axes.axhline(score.value, color=GREY, linestyle=DASHES, linewidth=1)
    place = (0.01, score.value)
    axes.annotate(label_text(name), place, xycoords=("axes fraction", "data"), fontsize=7, va="bottom")


def _point(axes: "Axes", row: Summary, score: Interval, cost: float, *, number: int) -> None:
    assert row.budget is not None
    colour, mark = look_of(row.name, number)
    bars = [[score.value - score.low], [score.high - score.value]]
    name = label_text(f"{row.name}, {row.amount:g} {AMOUNTS[row.budget]}")
    axes.errorbar([cost], [score.value], bars, color=colour, marker=mark, capsize=2, label=name)


def _mean(row: Summary, columns: Sequence[Column]) -> Interval:
    """Mean of some scores of a row, and of the ends of their intervals."""
    ends = [(score.value, score.low, score.high) for score in (row.scores[column] for column in columns)]
    return Interval(*(math.fsum(values) / len(columns) for values in zip(*ends, strict=True)))


def _layers(results: Sequence[ObjectiveResult]) -> list[Element]:
    """For every probe the UAR of each layer, mean over runs of one name."""
    found: dict[Column, dict[str, dict[str, list[float]]]] = {}
    for result in results:
        for probe in result.probes:
            name = result.name if result.trained is None else f"{result.name}, {_budget_words(result)}"
            rows = found.setdefault(probe_column(probe), {})
            rows.setdefault(name, {}).setdefault(probe.layer, []).append(probe.uar)
    parts: list[Element] = []
    for column, rows in found.items():
        layers = list(dict.fromkeys(layer for row in rows.values() for layer in row))
        body = [
            tag(
                "tr",
                tag("td", name),
                [tag("td", plain(math.fsum(row[layer]) / len(row[layer])) if layer in row else "") for layer in layers],
            )
            for name, row in rows.items()
        ]
        parts.append(tag("details", tag("summary", column.title), table([column.measure, *layers], body, "")))
    return [*parts, captioned("Layer 0 is the input of the first block. No layer of the tables was chosen by these.")]


def _budget_words(result: ObjectiveResult) -> str:
    trained = result.trained
    assert trained is not None
    return f"{trained.amount:g} {AMOUNTS[trained.budget]}"
