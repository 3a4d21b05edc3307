"""Result rows: how they are stored, which contender clearly wins a column, and what the rows say in a sentence.

`results.json` is a list of objects, one a row. Embedding writes it and the report reads it; both tell winners and
losers by the functions here, so that the terminal and the page never disagree.
"""

import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from speechssl.config import UserError

MODEL, RANDOM, MFCC, LOGMEL, CHANCE = "model", "random encoder", "MFCC", "log-mel", "chance"
"""Families of contenders. A contender is a family or "FAMILY (which layer)"."""


@dataclass(frozen=True)
class ResultRow:
    """One score of one contender.

    Attributes:
        task: `label`, `speaker` or `text`.
        contender: whose features, for example `model (last layer)` or `MFCC`.
        probe: `k-NN`, `logistic`, or `none` for chance.
        labels: shots: labelled utterances per class.
        metric: `UAR` or `WA`.
        value: mean over seeds.
        low: lower end of the 95 % interval.
        high: upper end.
        n: test utterances, summed over seeds.
        seeds: repetitions.
        split: what is disjoint between training and test.
        classes: number of classes.
        command: the command line that made the row.
        gains: by name of a baseline: this value minus the baseline's, with the ends of the paired interval.
        corpus: name of the prepared corpus.
        synthetic: whether a machine made the speech.
    """

    task: str
    contender: str
    probe: str
    labels: int
    metric: str
    value: float
    low: float
    high: float
    n: int
    seeds: int
    split: str = ""
    classes: int = 0
    command: str = ""
    gains: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    corpus: str = ""
    synthetic: bool = False

    @property
    def family(self) -> str:
        """The contender without its layer.

        >>> ResultRow("label", "model (last layer)", "k-NN", 5, "UAR", 0.5, 0.4, 0.6, 10, 1).family
        'model'
        """
        return self.contender.split(" (")[0]


def write_results(rows: Iterable[ResultRow], path: Path) -> None:
    """Write `results.json`, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write("[\n" + ",\n".join(json.dumps(asdict(row), ensure_ascii=False) for row in rows) + "\n]\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def read_results(path: Path) -> list[ResultRow]:
    """The rows of `results.json`; keys this version does not know are passed over.

    Raises:
        UserError: cannot be read, not a list of rows, or a row without a needed key.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({' '.join(str(error).split())})") from None
    known = {each.name for each in fields(ResultRow)}
    try:
        return [ResultRow(**{key: value for key, value in row.items() if key in known}) for row in rows]
    except (TypeError, AttributeError) as error:
        raise UserError(f"{path}: not a list of result rows ({error})") from None


def clear_winner(rows: Sequence[ResultRow]) -> str | None:
    """The contender with the best value, if its interval overlaps that of no other family; else None.

    Two layers of one encoder do not compete with each other here.

    >>> a = ResultRow("label", "model (last layer)", "k-NN", 5, "UAR", 0.5, 0.45, 0.55, 10, 1)
    >>> b = ResultRow("label", "MFCC", "k-NN", 5, "UAR", 0.4, 0.35, 0.44, 10, 1)
    >>> c = ResultRow("label", "log-mel", "k-NN", 5, "UAR", 0.46, 0.41, 0.51, 10, 1)
    >>> clear_winner([a, b]), clear_winner([a, b, c])
    ('model (last layer)', None)
    """
    if not rows:
        return None
    best = max(rows, key=lambda row: row.value)
    rivals = [row for row in rows if row.family != best.family]
    return best.contender if rivals and all(row.high < best.low for row in rivals) else None


def columns_of(rows: Iterable[ResultRow], *, task: str, metric: str = "UAR") -> dict[tuple[str, int], list[ResultRow]]:
    """Rows of a task by (probe, shots), in a fixed order; chance stands in every column."""
    mine = [row for row in rows if row.task == task and row.metric == metric]
    keys = sorted({(row.probe, row.labels) for row in mine if row.probe != "none"})
    return {key: [row for row in mine if row.labels == key[1] and row.probe in (key[0], "none")] for key in keys}


def verdicts(rows: Sequence[ResultRow], *, metric: str = "UAR") -> list[str]:
    """Plain sentences: does the model beat the random encoder and the fixed features, by the paired intervals?

    One sentence for each task, probe and layer of the model. "Beats" means that the whole 95 % interval of the
    difference lies above zero, "loses to" that it lies below, "is level with" that it holds zero: the data cannot tell.
    The random encoder is the one of the same layer.

    >>> gains = {"MFCC": [0.1, 0.05, 0.15], "random encoder (last layer)": [0.01, -0.02, 0.04]}
    >>> row = ResultRow("label", "model (last layer)", "k-NN", 5, "UAR", 0.5, 0.4, 0.6, 10, 1, gains=gains)
    >>> print(*verdicts([row]))
    label, k-NN, model (last layer): beats MFCC at 5 shots (+.10 [+.05, +.15]); is level with random encoder at 5 shots
    (+.01 [−.02, +.04]).
    """
    sentences: list[str] = []
    mine = [row for row in rows if row.metric == metric and row.gains]
    for task, probe, contender in dict.fromkeys((row.task, row.probe, row.contender) for row in mine):
        series = sorted(
            (row for row in mine if (row.task, row.probe, row.contender) == (task, probe, contender)),
            key=lambda row: row.labels,
        )
        baselines = dict.fromkeys(name for row in series for name in row.gains)
        parts = [_against(series, name) for name in baselines]
        sentences.append(f"{task}, {probe}, {contender}: {'; '.join(parts)}.")
    return sentences


def outcome(gain: Sequence[float]) -> str:
    """`beats`, `loses to` or `is level with` (nothing shown), of [value, low, high] of a difference.

    >>> outcome([0.1, 0.05, 0.15])
    'beats'
    """
    _, low, high = gain
    return "beats" if low > 0 else "loses to" if high < 0 else "is level with"


def _against(series: Sequence[ResultRow], baseline: str) -> str:
    """Against one baseline, runs of shots with one outcome put together; the difference is given for the most shots."""
    found: dict[str, list[ResultRow]] = {}
    for row in series:
        if baseline in row.gains:
            found.setdefault(outcome(row.gains[baseline]), []).append(row)
    parts: list[str] = []
    for number, (words, group) in enumerate(found.items()):
        shots = _listed([str(row.labels) for row in group])
        value, low, high = group[-1].gains[baseline]
        name = baseline.split(" (")[0] if number == 0 else "it"
        parts.append(f"{words} {name} at {shots} shots ({signed(value)} [{signed(low)}, {signed(high)}])")
    return ", ".join(parts)


def signed(value: float) -> str:
    """A difference of two scores with its sign and two decimals; the sign stays where rounding leaves zero.

    >>> signed(0.034), signed(-0.2), signed(-0.001), signed(0.0)
    ('+.03', '−.20', '−.00', '±.00')
    """
    sign = "+" if value > 0 else "−" if value < 0 else "±"
    return sign + plain(abs(value))


def plain(value: float) -> str:
    """A score in [0, 1] with two decimals and no leading zero.

    >>> plain(0.256), plain(1.0), plain(float("nan"))
    ('.26', '1.00', '–')
    """
    if math.isnan(value):
        return "–"
    text = f"{value:.2f}"
    return text[1:] if text.startswith("0") else text


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
