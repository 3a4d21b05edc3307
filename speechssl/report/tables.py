"""Result tables of the page, and their summaries."""

from collections.abc import Sequence

from speechssl.metrics.results import ResultRow, baseline_summaries, clear_winner, columns_of, outcome, plain, signed
from speechssl.report.markup import Child, Element, tag

_KINDS = {"beats": "beats", "partly beats": "beats", "loses to": "loses", "partly loses to": "loses"}


def summary(rows: Sequence[ResultRow]) -> list[Element]:
    """Whether the model beats the random encoder and MFCC: one line per task and baseline, by paired intervals."""
    lines = [
        tag(
            "li",
            tag("b", each.task),
            ": the model ",
            tag("span", f"{each.verdict} {each.baseline}", class_=_KINDS.get(each.verdict, "level")),
            f": {each.count}",
        )
        for each in baseline_summaries(rows)
    ]
    return in_short(
        lines,
        "A comparison is one layer, probe and number of shots. It counts as won or lost when the 95 % interval of the "
        "difference in UAR, paired by speaker and draw, excludes zero. The random encoder is the same network with "
        "random weights: the gain of training is the difference from it.",
    )


def in_short(lines: Sequence[Element], caption: str) -> list[Element]:
    """The outcomes under a heading; empty where there are none."""
    return [tag("h2", "In short"), tag("ul", lines), captioned(caption)] if lines else []


def score_table(rows: Sequence[ResultRow], task: str, *, metric: str) -> list[Element]:
    """Every contender's score at every probe and number of shots, with intervals."""
    columns = columns_of(rows, task=task, metric=metric)
    winners = {key: clear_winner(column) for key, column in columns.items()}
    body: list[Element] = []
    for contender in dict.fromkeys(row.contender for row in rows if row.task == task and row.metric == metric):
        cells: list[Element] = []
        family = contender
        for key, column in columns.items():
            row = next((row for row in column if row.contender == contender), None)
            cells.append(score_cell(row, best=winners[key] == contender))
            family = family if row is None else row.family
        kind = {"class_": "model"} if family == "model" else {}
        body.append(tag("tr", tag("td", contender), cells, **kind))
    return table(
        [metric, *([probe, tag("br"), f"{shots} shots"] for probe, shots in columns)],
        body,
        "Mean over draws with 95 % interval by speaker. Bold: best, and its interval overlaps that of no other kind of "
        "features. Layers were not chosen by their scores.",
    )


def gain_table(rows: Sequence[ResultRow], task: str) -> list[Element]:
    """Gains of the model over each baseline, with paired intervals."""
    columns = columns_of(rows, task=task)
    mine = [row for row in rows if row.task == task and row.metric == "UAR" and row.gains]
    pairs = dict.fromkeys((row.contender, name) for row in mine for name in row.gains)
    if not pairs:
        return [missing("The baselines were not run, so the gain of training is not known.")]
    body: list[Element] = []
    for contender, baseline in pairs:
        rows_at = (
            next((row for row in column if row.contender == contender and baseline in row.gains), None)
            for column in columns.values()
        )
        cells = [gain_cell(None if row is None else row.gains[baseline]) for row in rows_at]
        body.append(tag("tr", tag("td", f"{contender} − {baseline.split(' (')[0]}"), cells))
    return table(
        ["difference in UAR", *([probe, tag("br"), f"{shots} shots"] for probe, shots in columns)],
        body,
        "Paired by speaker and draw, 95 % interval: green above zero, orange below, grey undecided. The random encoder "
        "is taken at the same layer.",
    )


def table(head: Sequence[Child | Sequence[Child]], body: Sequence[Element], caption: str) -> list[Element]:
    """A table that scrolls where the page is narrow, and the sentence under it.

    Args:
        head: the content of each cell of the first line.
        body: the other lines, elements `tr`.
        caption: the sentence under the table.
    """
    first = tag("thead", tag("tr", [tag("th", cell) for cell in head]))
    return [tag("div", tag("table", first, tag("tbody", body)), class_="scroll"), captioned(caption)]


def score_cell(row: ResultRow | None, *, best: bool) -> Element:
    """A value with its interval; bold where it is the best."""
    if row is None:
        return tag("td")
    value = tag("b", plain(row.value)) if best else plain(row.value)
    interval = [" ", tag("small", f"[{plain(row.low)}, {plain(row.high)}]")] if row.low < row.high else []
    return tag("td", value, interval)


def gain_cell(gain: Sequence[float] | None, *, apart: Child | None = None) -> Element:
    """A difference with its interval, coloured by the outcome.

    Args:
        gain: value, low and high; None for an empty cell.
        apart: separator of the two; None for a new line.
    """
    if gain is None:
        return tag("td")
    value, low, high = gain
    kind = _KINDS.get(outcome(gain), "level")
    interval = tag("small", f"[{signed(low)}, {signed(high)}]")
    return tag("td", tag("span", signed(value), class_=kind), tag("br") if apart is None else apart, interval)


def captioned(sentence: str) -> Element:
    """A caption."""
    return tag("p", sentence, class_="caption")


def missing(sentence: str) -> Element:
    """A note in the place of missing content."""
    return tag("p", sentence, class_="missing")
