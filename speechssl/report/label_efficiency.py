"""Label-efficiency curves: a score over the amount of labels, one line per contender, with a band for its interval."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from speechssl.metrics.results import CHANCE, ResultRow
from speechssl.report.markup import Element
from speechssl.report.plots import (
    BLUE,
    CLASS_COLOURS,
    DASHES,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PINK,
    RED,
    SKY,
    YELLOW,
    as_svg,
    label_text,
    page_figure,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Colour and mark of each, so that a contender looks the same on every page; others get pairs that are not among these.
LOOKS = {
    "fine-tuned": (BLUE, "o"),
    "frozen probe": (SKY, "s"),
    "frozen random encoder": (ORANGE, "D"),
    "MFCC + SVM": (GREEN, "^"),
    "log-mel CNN": (PINK, "v"),
    "from scratch": (RED, "P"),
    "MFCC + SVM, level removed": (YELLOW, "X"),
}
_MARKS = "o^sDvPX*"
_OTHER_LOOKS = [
    (colour, mark)
    for shift in range(len(_MARKS))
    for colour, mark in zip(CLASS_COLOURS[:8], _MARKS[shift:] + _MARKS[:shift], strict=True)
    if (colour, mark) not in LOOKS.values()
]
_ALL_FACTOR = 2.2  # "all" is placed at this factor times the largest number of labels
_BAND = 0.10  # opacity: seven overlapping bands stay visible


def levels_of(rows: Sequence[ResultRow]) -> list[int]:
    """The amounts of labels, ascending; 0, which is all of them, is last.

    >>> levels_of([ResultRow("emotion", "a", "", n, "UAR", 1.0, 1.0, 1.0, 1, 1) for n in (0, 25, 5)])
    [5, 25, 0]
    """
    return sorted({row.labels for row in rows}, key=lambda labels: (labels == 0, labels))


def efficiency_curves(rows: Sequence[ResultRow]) -> Element:
    """The curves of one task and metric.

    Args:
        rows: of one task, unit and metric.
    """
    levels = levels_of(rows)
    known = [level for level in levels if level]
    place = {level: float(level) for level in known} | {0: _ALL_FACTOR * max(known, default=1)}
    contenders = [name for name in dict.fromkeys(row.contender for row in rows) if name != CHANCE]
    with page_figure(1, 1, height=4.6) as (figure, (axes,)):
        axes.set_xscale("log")
        for number, contender in enumerate(contenders):
            _curve(axes, [row for row in rows if row.contender == contender], place, number=number)
        chance = next((row.value for row in rows if row.contender == CHANCE), None)
        if chance is not None:
            axes.axhline(chance, color=GREY, linestyle=DASHES, linewidth=1.2, label=CHANCE)
        _ticks(axes, rows, levels, place)
        axes.set_ylabel(label_text(rows[0].metric))
        figure.legend(loc="outside right upper", frameon=False)
        return as_svg(figure, f"{rows[0].metric} over the amount of labels, with 95 % intervals")


def look_of(contender: str, number: int) -> tuple[str, str]:
    """Colour and mark of a contender; that of one without its own depends on its place in the figure.

    Args:
        contender: its name.
        number: its place; the first 57 have different looks.

    >>> look_of("fine-tuned", 5) == LOOKS["fine-tuned"]
    True
    """
    return LOOKS.get(contender, _OTHER_LOOKS[number % len(_OTHER_LOOKS)])


def _curve(axes: "Axes", rows: Sequence[ResultRow], place: dict[int, float], *, number: int) -> None:
    colour, mark = look_of(rows[0].contender, number)
    points = sorted(rows, key=lambda row: place[row.labels])
    x = np.array([place[row.labels] for row in points])
    low, high = np.array([row.low for row in points]), np.array([row.high for row in points])
    value = np.array([row.value for row in points])
    if len(points) == 1:  # a band over one point has no width
        bars = np.maximum([value - low, high - value], 0)
        axes.errorbar(x * 1.02**number, value, bars, color=colour, capsize=2, linewidth=1.2)
    else:
        axes.fill_between(x, low, high, color=colour, alpha=_BAND, linewidth=0)
    x = x * 1.02**number if len(points) == 1 else x
    axes.plot(x, value, color=colour, marker=mark, markersize=5, linewidth=1.6, label=label_text(rows[0].contender))


def _ticks(axes: "Axes", rows: Sequence[ResultRow], levels: Sequence[int], place: dict[int, float]) -> None:
    from matplotlib.ticker import FixedLocator, NullLocator

    amounts = {row.labels: row.amount.removesuffix(" shots") for row in rows}
    axes.xaxis.set_major_locator(FixedLocator([place[level] for level in levels]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([label_text(amounts[level], most=16) for level in levels])
    edges = [place[level] for level in levels]
    axes.set_xlim(edges[0] / 1.25, edges[-1] * 1.25)
    axes.set_xlabel("labelled utterances per class" if rows[0].unit == "shots" else "transcribed speech", color=INK)
