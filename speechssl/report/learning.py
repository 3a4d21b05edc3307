"""Learning curves of a run: the panels that its `metrics.json` names, drawn from its `log.jsonl`.

They are declared as `CURVES` in the module of the objective, and in `train/criteria.py` for fine-tuning.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from speechssl.report.markup import Element
from speechssl.report.plots import BLUE, CLASS_COLOURS, DASHES, GREY, PALE_GREY, SKY, as_svg, label_text, page_figure
from speechssl.report.records import CurveRecord
from speechssl.report.run import Run, series

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PER_FIGURE = 2  # panels side by side
_DOTS = (0, (1, 2))
_MARKED: dict[str, Any] = {"marker": "o", "markersize": 3.5}  # validations are few


def learning_figures(run: Run) -> list[tuple[Element, str]]:
    """Figures with their captions; curves without a row in the log are left out.

    Args:
        run: a run with a log.
    """
    known = [
        curve for curve in run.curves if any(curve.metric in row.values for row in (*run.training, *run.validation))
    ]
    panels = [list(group) for _, group in groupby(known, key=lambda curve: curve.title)]
    figures: list[tuple[Element, str]] = []
    for first in range(0, len(panels), _PER_FIGURE):
        shown = panels[first : first + _PER_FIGURE]
        with page_figure(1, _PER_FIGURE, height=3.1) as (figure, axes):
            for number, place in enumerate(axes):
                if number < len(shown):
                    _panel(place, run, shown[number])
                else:
                    place.set_axis_off()
            titles = ", ".join(label_text(panel[0].title) for panel in shown)
            picture = as_svg(figure, f"Over updates: {titles}")
        captions = [curve.caption for panel in shown for curve in panel if curve.caption]
        if run.reference is not None and not figures:
            captions.append(run.reference.caption)
        figures.append((picture, " ".join(captions)))
    return figures


def _panel(axes: "Axes", run: Run, curves: Sequence[CurveRecord]) -> None:
    for number, curve in enumerate(curves):
        several = len(curves) > 1 or curve.lines(run.training) > 1
        _reference(axes, run, curve, named=number == 0)
        if several:
            _coloured(axes, run, curve, first=number)
        else:
            if curve.lines(run.training):
                axes.plot(*series(run.training, curve.metric), color=SKY, linewidth=1.2, label="training")
            axes.plot(*series(run.validation, curve.metric), color=BLUE, label="validation", **_MARKED)
        colour = CLASS_COLOURS[number % len(CLASS_COLOURS)] if several else GREY
        if curve.chance is not None:
            logged = series(run.training, curve.chance)
            steps, values = logged if logged[0] else series(run.validation, curve.chance)
            axes.plot(steps, values, color=GREY, linestyle=DASHES, linewidth=1.2, label="chance")
        if curve.bound is not None:
            axes.axhline(curve.bound, color=GREY, linestyle=DASHES, linewidth=1.2, label=f"{curve.bound:g} at most")
        if curve.alarm is not None:
            axes.axhline(curve.alarm, color=colour, linestyle=_DOTS, linewidth=1.2, label=f"alarm at {curve.alarm:g}")
    axes.set_title(label_text(curves[0].title))
    limits = curves[0].limits
    axes.set_ylim(*limits or (None, None))
    axes.set_xlabel("updates")
    if axes.get_legend_handles_labels()[0]:
        axes.legend()


def _reference(axes: "Axes", run: Run, curve: CurveRecord, *, named: bool) -> None:
    """The same metric of the reference run, behind the others."""
    rows = [] if run.reference is None else run.reference.rows
    for line in range(curve.lines(rows)):
        label = "reference" if named and line == 0 else None
        axes.plot(*series(rows, curve.metric, line=line), color=PALE_GREY, linewidth=2.2, zorder=1, label=label)


def _coloured(axes: "Axes", run: Run, curve: CurveRecord, *, first: int) -> None:
    """Several lines of one panel in different colours; validations have markers, and replace missing update values."""
    lines = curve.lines(run.training) or curve.lines(run.validation)
    for line in range(lines):
        colour = CLASS_COLOURS[(first + line) % len(CLASS_COLOURS)]
        name = curve.label or curve.metric if lines == 1 else f"group {line + 1}"
        rows, style = (run.training, {}) if curve.lines(run.training) else (run.validation, _MARKED)
        axes.plot(*series(rows, curve.metric, line=line), color=colour, label=label_text(name), **style)
