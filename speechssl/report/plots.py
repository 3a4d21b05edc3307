"""Figures of a report as inline SVG.

Colours are those of Okabe and Ito ("Color Universal Design", 2008), which colour-blind readers can distinguish, also in
print. Text stays text, so that the page can be searched and the reader's font is used.
"""

import io
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from speechssl.metrics.results import CHANCE, LOGMEL, MFCC, MODEL, RANDOM, ResultRow
from speechssl.report.markup import Element, from_svg
from speechssl.report.run import EmbeddingMap
from speechssl.terminal import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, RED, PINK, SKY, YELLOW = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#B8A800",
)
DASHES = (0, (4, 3))
INK, GREY, PALE_GREY, PALE = "#222222", "#767676", "#B5B5B5", "#DDDDDD"
CLASS_COLOURS = (BLUE, ORANGE, GREEN, RED, PINK, SKY, YELLOW, INK)
FAMILY_COLOURS = {MODEL: BLUE, RANDOM: ORANGE, MFCC: GREEN, LOGMEL: PINK, CHANCE: GREY}
LEGEND_CLASSES = 16  # maximum number of names listed beside a map
_LABEL = 48  # characters of a label; the tables of the page have the whole label
_LINE = 140  # characters per line of a legend


def shots_curves(rows: Sequence[ResultRow], task: str, *, metric: str = "UAR") -> Element:
    """Score over shots, one panel per probe, with a bar for each interval; contenders are shifted horizontally."""
    mine = [row for row in rows if row.task == task and row.metric == metric]
    probes = list(dict.fromkeys(row.probe for row in mine if row.probe != "none"))
    with page_figure(1, len(probes), height=3.7, sharey=True) as (figure, panels):
        for axes, probe in zip(panels, probes, strict=True):
            _shots_panel(axes, [row for row in mine if row.probe in (probe, "none")])
            axes.set_title(f"{label_text(probe)} probe")
        panels[0].set_ylabel(label_text(metric))
        named = sorted(zip(*panels[0].get_legend_handles_labels(), strict=True), key=lambda pair: pair[1] == CHANCE)
        handles, labels = [handle for handle, _ in named], [label for _, label in named]
        figure.legend(handles, labels, loc="outside lower center", ncols=_columns(labels, 4), frameon=False)
        return as_svg(figure, f"{metric} over labelled utterances per class for the task {task}, with 95 % intervals")


def embedding_map(embedding: EmbeddingMap) -> Element:
    """The map twice: coloured by label and by speaker (a side without names is left out)."""
    sides = [
        (name, names) for name, names in (("label", embedding.label), ("speaker", embedding.speaker)) if any(names)
    ]
    with page_figure(1, max(1, len(sides)), height=4.4) as (figure, panels):
        for axes, (title, names) in zip(
            panels, sides or [("no names known", [""] * len(embedding.label))], strict=True
        ):
            _scatter(axes, embedding.points, names)
            axes.set_title(f"by {title}" if sides else title)
            axes.set(xticks=[], yticks=[], aspect="equal", box_aspect=1)
            axes.set_adjustable("datalim")
            axes.grid(visible=False)
            axes.spines[:].set(visible=True, color=PALE)
        return as_svg(figure, f"Map of embeddings in two dimensions ({embedding.method})")


def _shots_panel(axes: "Axes", rows: Sequence[ResultRow]) -> None:
    shots = sorted({row.labels for row in rows})
    place = {count: number for number, count in enumerate(shots)}  # equal steps, since 5, 10, 25 overlap on a log scale
    contenders = [name for name in dict.fromkeys(row.contender for row in rows) if name != CHANCE]
    for number, contender in enumerate(contenders):
        points = sorted((row for row in rows if row.contender == contender), key=lambda row: row.labels)
        aside = 0.11 * (number - (len(contenders) - 1) / 2)
        values = np.array([row.value for row in points])
        bars = np.array([[row.value - row.low, row.high - row.value] for row in points]).T
        axes.errorbar(
            [place[row.labels] + aside for row in points],
            values,
            yerr=np.maximum(bars, 0),
            color=FAMILY_COLOURS.get(points[0].family, INK),
            linestyle="-" if "mean of" not in contender else (0, (3, 2)),
            marker="o" if "mean of" not in contender else "s",
            markerfacecolor=FAMILY_COLOURS.get(points[0].family, INK) if "mean of" not in contender else "white",
            markersize=5,
            linewidth=1.3,
            elinewidth=1.1,
            capsize=2,
            label=label_text(contender),
        )
    chance = next((row.value for row in rows if row.contender == CHANCE), None)
    if chance is not None:
        axes.axhline(chance, color=GREY, linestyle=DASHES, linewidth=1.2, label=CHANCE)
    axes.set_xticks(range(len(shots)), [str(count) for count in shots])
    axes.set_xlim(-0.5, len(shots) - 0.5)
    axes.set_xlabel("labelled utterances per class")


def _scatter(axes: "Axes", points: np.ndarray, names: Sequence[str]) -> None:
    classes = sorted(set(names))
    few = len(classes) <= LEGEND_CLASSES
    members = np.array(names)
    # Drawn class by class, the later classes would cover the earlier ones: draw in a seeded random order.
    order = np.random.default_rng(0).permutation(len(points))
    colours = dict(zip(classes, _colours(len(classes)), strict=True))
    size = float(np.clip(6000 / len(points), 7, 22))  # points²: fewer clips, larger dots
    axes.scatter(
        points[order, 0],
        points[order, 1],
        s=size,
        c=[colours[name] for name in members[order]],
        linewidths=0,
        alpha=0.8,
    )
    if few:
        for name in classes:
            axes.scatter([], [], s=24, color=colours[name], label=label_text(name or "unknown"))
        axes.legend(
            loc="upper center",
            bbox_to_anchor=(0.5, -0.02),
            ncols=_columns(list(map(label_text, classes)), 6),
            handletextpad=0.1,
            columnspacing=0.9,
        )
    else:
        axes.set_xlabel(f"{len(classes)} different, one colour each")


def _colours(count: int) -> list[str]:
    """Distinct colours; beyond the palette, hues spread evenly in three rows of lightness."""
    if count <= len(CLASS_COLOURS):
        return list(CLASS_COLOURS[:count])
    from colorsys import hsv_to_rgb

    mixed = [hsv_to_rgb(number / count, 0.85, (0.85, 0.6, 1.0)[number % 3]) for number in range(count)]
    return ["#" + "".join(f"{round(255 * part):02x}" for part in colour) for colour in mixed]


def label_text(text: str, *, most: int = _LABEL) -> str:
    """Label of a figure from a text of a run folder: one printable line, shortened in the middle.

    >>> label_text("x" * 30 + "y" * 30, most=20), label_text("_hidden"), label_text("")
    ('xxxxxxxxxxx … yyyyyy', ' _hidden', '–')
    """
    words = printable(text)
    if len(words) > most:
        words = f"{words[: most - most // 3 - 3]} … {words[-(most // 3) :]}"
    # matplotlib leaves labels that are empty, or begin with an underscore, out of its legends
    return f" {words}" if words.startswith("_") else words or "–"


def _columns(labels: Sequence[str], most: int) -> int:
    """Columns of a legend under a figure such that the longest label fits."""
    return max(1, min(most, len(labels), _LINE // (4 + max(map(len, labels), default=0))))


@contextmanager
def page_figure(
    rows: int, columns: int, *, height: float, sharey: bool = False
) -> "Generator[tuple[Figure, Sequence[Axes]]]":
    """A figure of the page's width in the page's style, without global state or a window."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {
        "text.parse_math": False,  # a dollar sign is text
        "svg.fonttype": "none",
        "svg.hashsalt": "speechssl",
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans"],
        "font.size": 9,
        "axes.titlesize": 10,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.edgecolor": GREY,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": PALE,
        "grid.linewidth": 0.6,
        "axes.axisbelow": True,
        "legend.frameon": False,
        "legend.fontsize": 8,
        "lines.linewidth": 1.4,
        "xtick.color": INK,
        "ytick.color": INK,
    }
    with mpl.rc_context(style):
        figure = Figure(figsize=(9.2, height), layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(rows, columns, squeeze=False, sharey=sharey)
        yield figure, list(panels.flat)


def as_svg(figure: "Figure", description: str) -> Element:
    """The figure as an SVG element that scales with the page and has a description for screen readers."""
    from hashlib import sha256

    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # Text stays text: the reader's fonts have glyphs that the measuring font lacks. Long names may leave no space
        # for the axes; the tables of the page have all values.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        warnings.filterwarnings("ignore", message="constrained_layout not applied", category=UserWarning)
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    source = buffer.getvalue()
    about = {"role": "img", "aria-label": description}
    return from_svg(source, prefix=sha256(source + description.encode()).hexdigest()[:8], attributes=about)
