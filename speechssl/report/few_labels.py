"""Sections about a few-label experiment: curves, tables, paired gains, a confusion matrix."""

from collections.abc import Sequence
from pathlib import Path

from speechssl.metrics.results import CHANCE, LOWER_IS_BETTER, ResultRow, amounts, outcome, plain
from speechssl.report.label_efficiency import efficiency_curves, levels_of
from speechssl.report.markup import Element, tag
from speechssl.report.plots import BLUE
from speechssl.report.records import Confusion
from speechssl.report.tables import gain_cell, in_short, score_cell, table

_WORDS = {"beats": "better", "loses to": "worse", "is level with": "undecided"}


def few_label_summary(rows: Sequence[ResultRow]) -> list[Element]:
    """Outcome of each contender with gains against each other one, one line per pair."""
    lines: list[Element] = []
    for task, metric in _parts(rows):
        mine = [row for row in rows if (row.task, row.metric) == (task, metric)]
        for contender, other in dict.fromkeys((row.contender, name) for row in mine for name in row.gains):
            words = _outcomes([row for row in mine if row.contender == contender and other in row.gains], other)
            lines.append(tag("li", tag("b", contender), f" against {other}: ", words))
    return in_short(
        lines,
        "Better or worse where the 95 % interval of the paired difference (by speaker or utterance) excludes zero.",
    )


def few_label_sections(rows: Sequence[ResultRow], confusion: Confusion) -> list[Element]:
    """All other content, one section per task.

    Args:
        rows: of whole experiments, not of probes.
        confusion: `confusion.json`.
    """
    parts: list[Element] = []
    for task, metric in _parts(rows):
        mine = [row for row in rows if row.task == task]
        main = [row for row in mine if row.metric == metric]
        parts += _heading(main)
        parts.append(tag("figure", efficiency_curves(main), tag("figcaption", _caption(main))))
        parts += [*amount_table(main), *_gain_tables(main)]
        for other in dict.fromkeys(row.metric for row in mine if row.metric != metric):
            scores = amount_table([row for row in mine if row.metric == other])
            parts.append(tag("details", tag("summary", other), scores))
        parts += _confusion(main, confusion)
    return parts


def amount_table(rows: Sequence[ResultRow]) -> list[Element]:
    """Contenders by amount of labels, rows of one task and metric; the best of each column is bold."""
    levels = levels_of(rows)
    best = {level: _best(rows, level) for level in levels}
    body: list[Element] = []
    for contender in dict.fromkeys(row.contender for row in rows):
        found = (
            next((row for row in rows if (row.contender, row.labels) == (contender, level)), None) for level in levels
        )
        cells = [score_cell(row, best=row is not None and row is best[row.labels]) for row in found]
        body.append(tag("tr", tag("td", contender), cells))
    return table(
        [rows[0].metric, *(_amount(rows, level) for level in levels)],
        body,
        "95 % interval in brackets. Bold: the best value of a column; whether it is clearly the best is shown by the "
        "paired differences.",
    )


def _parts(rows: Sequence[ResultRow]) -> list[tuple[str, str]]:
    """Each task with its first metric, which is the main one."""
    first: dict[str, str] = {}
    for row in rows:
        first.setdefault(row.task, row.metric)
    return list(first.items())


def _outcomes(rows: Sequence[ResultRow], other: str) -> list[str | Element]:
    """For example `better at 5, 10 shots; undecided at all`."""
    found: dict[str, list[ResultRow]] = {}
    for row in rows:
        found.setdefault(_WORDS[outcome(row.gains[other])], []).append(row)
    classes = {"better": "beats", "worse": "loses", "undecided": "level"}
    parts: list[str | Element] = []
    for word, at in found.items():
        parts += ["; "] if parts else []
        parts += [tag("span", word, class_=classes[word]), f" at {amounts(at)}"]
    return parts


def _heading(rows: Sequence[ResultRow]) -> list[Element]:
    first = rows[0]
    corpus = Path(first.corpus).name
    corpus = Path(first.corpus).parent.name if corpus in ("corpus", "prepared") else corpus
    synthetic = " (synthetic speech)" if first.synthetic else ""
    facts = [f"{first.classes} classes"] if first.classes else []
    facts += [words for words in (first.split, f"{first.seeds} draws" if first.seeds > 1 else "") if words]
    on = f" on {corpus}" if corpus else ""
    return [tag("h2", f"{first.task}{on}{synthetic}"), tag("p", f"{', '.join(facts)}.")]


def _caption(rows: Sequence[ResultRow]) -> str:
    test = max(row.n for row in rows)
    last = " “all” is every utterance of the training side." if any(row.labels == 0 for row in rows) else ""
    return f"Every contender has the same labels and the same {test:,} test utterances. Bands: 95 % interval.{last}"


def _gain_tables(rows: Sequence[ResultRow]) -> list[Element]:
    levels = levels_of(rows)
    pairs = dict.fromkeys((row.contender, name) for row in rows for name in row.gains)
    if not pairs:
        return []
    body: list[Element] = []
    for contender, other in pairs:
        found = (
            next((r for r in rows if (r.contender, r.labels) == (contender, level) and other in r.gains), None)
            for level in levels
        )
        cells = [gain_cell(None if row is None else row.gains[other]) for row in found]
        body.append(tag("tr", tag("td", f"{contender} − {other}"), cells))
    kind = "reduction of" if rows[0].metric in LOWER_IS_BETTER else "difference in"
    return [
        tag("h3", "Paired differences"),
        *table(
            [f"{kind} {rows[0].metric}", *(_amount(rows, level) for level in levels)],
            body,
            "Same test utterances on both sides, 95 % interval: green where the first is better, orange where it is "
            "worse, grey undecided.",
        ),
    ]


def _confusion(rows: Sequence[ResultRow], confusion: Confusion) -> list[Element]:
    """The matrix of the best contender with the most labels."""
    level = levels_of(rows)[-1]
    best = _best(rows, level)
    cells = confusion.cells
    found = next((cell for cell in cells if best and (cell.contender, cell.labels) == (best.contender, level)), None)
    if best is None or found is None:
        return []
    body: list[Element] = []
    for name, counts in zip(confusion.classes, found.matrix, strict=True):
        total = max(1, sum(counts))
        body.append(tag("tr", tag("td", name), [_shade(count, count / total) for count in counts]))
    return [
        tag("h3", f"Confusion matrix: {best.contender}, {best.amount}"),
        *table(
            ["is / is taken for", *confusion.classes],
            body,
            "Test utterances of all draws, with their share of the row. The best contender at this amount of labels is "
            "shown.",
        ),
    ]


def _shade(count: int, share: float) -> Element:
    red, green, blue = (int(BLUE[i : i + 2], 16) for i in (1, 3, 5))
    ink = "#fff" if share > 0.55 else "inherit"
    style = f"background:rgba({red},{green},{blue},{share:.2f});color:{ink}"
    return tag("td", f"{count:,} ", tag("small", plain(share), style=f"color:{ink}"), style=style)


def _best(rows: Sequence[ResultRow], level: int) -> ResultRow | None:
    mine = [row for row in rows if row.labels == level and row.contender != CHANCE]
    if not mine:
        return None
    return (min if mine[0].metric in LOWER_IS_BETTER else max)(mine, key=lambda row: row.value)


def _amount(rows: Sequence[ResultRow], level: int) -> str:
    return next(row.amount for row in rows if row.labels == level)
