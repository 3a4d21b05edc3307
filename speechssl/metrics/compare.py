"""Paired comparison of two result files: gain of B over A on the same test items, with its interval.

Both sides use the same draws of speakers (in general, of the items' groups), so what makes a speaker hard for both
cancels: Bisani and Ney, "Bootstrap Estimates for Confidence Intervals in ASR Performance Evaluation" (ICASSP 2004),
section 4, for word errors; `classification.bootstrap_difference` for classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float

from speechssl.config import UserError
from speechssl.metrics.classification import METRICS, REPLICATES, Interval, Metric, bootstrap_difference, metric_of
from speechssl.metrics.items import Answers, items_path, read_items
from speechssl.metrics.results import LOWER_IS_BETTER, ResultRow, outcome, read_results, signed

_TOLERANCE = 1e-6  # between a row and what its items give: rounding only


_NAMES = {"groups": "speakers", "words": "number of words", "truth": "labels"}  # of what is compared, in messages


@dataclass(frozen=True)
class Comparison:
    """A row of A and the matching row of B. `difference` is B minus A, paired.

    `amount` is the amount of labels, in words; `n` the number of test items.
    """

    task: str
    metric: str
    amount: str
    contender_a: str
    contender_b: str
    a: float
    b: float
    difference: Interval
    n: int

    @property
    def verdict(self) -> str:
        """`B is better`, `A is better` or `undecided`, by the interval; error rates are better when lower."""
        found = outcome([self.difference.value, self.difference.low, self.difference.high])
        if found == "is level with":
            return "undecided"
        return "B is better" if (found == "beats") != (self.metric in LOWER_IS_BETTER) else "A is better"

    def line(self) -> str:
        """The comparison as one line of text.

        >>> Comparison("emotion", "UAR", "5 shots", "fine-tuned", "fine-tuned", 0.5, 0.6, Interval(0.1, 0.05, 0.15),
        ...            100).line()
        'emotion, 5 shots, UAR: A .500, B .600, B − A +.10 [+.05, +.15]: B is better (fine-tuned, n 100)'
        """
        names = self.contender_a if self.contender_a == self.contender_b else f"{self.contender_a} / {self.contender_b}"
        gap = f"{signed(self.difference.value)} [{signed(self.difference.low)}, {signed(self.difference.high)}]"
        values = ", ".join(f"{name} {value:.3f}".replace(" 0.", " .") for name, value in (("A", self.a), ("B", self.b)))
        return f"{self.task}, {self.amount}, {self.metric}: {values}, B − A {gap}: {self.verdict} ({names}, n {self.n})"


def compare(
    a: Path, b: Path, *, contender_a: str | None = None, contender_b: str | None = None, seed: int = 0
) -> list[Comparison]:
    """Compare every row of A with the row of B that has its task, metric, amount of labels and contender.

    Args:
        a: a result file with its items beside it.
        b: another, or the same with other contenders.
        contender_a: only this contender of A, against `contender_b` of B; the names may differ.
        contender_b: see above; None: the contender of the same name. A contender that is the only one in both files is
            compared even if the names differ.
        seed: seed of the resampling.

    Raises:
        UserError: a file that cannot be read, no row in common, a different split, corpus or test side (says which), or
            items that the rows were not computed from.
    """
    rows_a, rows_b = _chosen(a, contender_a), _chosen(b, contender_b or contender_a)
    pairs = _pairs(rows_a, rows_b, any_name=contender_a is not None)
    if not pairs:
        raise UserError(f"{a} and {b} have no row of one task, metric, amount of labels and contender in common")
    items_a, items_b = read_items(items_path(a)), read_items(items_path(b))
    found: list[Comparison] = []
    for row_a, row_b in pairs:
        _refuse_other_split(row_a, row_b, a=a, b=b)
        answers_a, answers_b = _answers(row_a, items_a, a), _answers(row_b, items_b, b)
        found.append(
            Comparison(
                task=row_a.task,
                metric=row_a.metric,
                amount=row_a.amount if row_a.amount == row_b.amount else f"{row_a.amount} / {row_b.amount}",
                contender_a=_name(row_a),
                contender_b=_name(row_b),
                a=row_a.value,
                b=row_b.value,
                difference=_difference(answers_b, _aligned(answers_a, answers_b, a=a, b=b), row_a.metric, seed=seed),
                n=len(answers_a.ids),
            )
        )
    return found


def rate(answers: Answers) -> float:
    """Errors per word over all items.

    >>> rate(Answers("asr", "x", "", 10, "minutes", "", ["a", "b"], ["a", "b"], [0, 0], metric="WER",
    ...              errors=[1, 0], words=[3, 1]))
    0.25
    """
    return sum(answers.errors) / max(1, sum(answers.words))


def _chosen(path: Path, contender: str | None) -> list[ResultRow]:
    rows = read_results(path)
    mine = [row for row in rows if row.split_hash and contender in (None, row.contender)]
    if rows and not mine and contender is not None:
        known = ", ".join(dict.fromkeys(row.contender for row in rows))
        raise UserError(f"{path}: no contender {contender!r}; there are {known}")
    if not mine:
        raise UserError(f"{path}: no row with a split hash, so nothing in it can be paired")
    return [row for row in mine if row.contender != "chance"]


def _pairs(
    rows_a: Sequence[ResultRow], rows_b: Sequence[ResultRow], *, any_name: bool
) -> list[tuple[ResultRow, ResultRow]]:
    alone = all(len({(row.contender, row.probe, row.labels) for row in rows}) == 1 for rows in (rows_a, rows_b))

    def fit(one: ResultRow, other: ResultRow) -> bool:
        if (one.task, one.metric) != (other.task, other.metric):
            return False
        amounts = (one.labels, one.unit) == (other.labels, other.unit)
        names = (one.contender, one.probe) == (other.contender, other.probe)
        return alone or (amounts and (names or (any_name and one.probe == other.probe)))

    return [(one, other) for one in rows_a for other in rows_b if fit(one, other)]


def _name(row: ResultRow) -> str:
    """Contender with its decoding or probe, where there is one: `fine-tuned (n-gram)`."""
    return f"{row.contender} ({row.probe})" if row.probe else row.contender


def _refuse_other_split(row_a: ResultRow, row_b: ResultRow, *, a: Path, b: Path) -> None:
    if row_a.split_hash == row_b.split_hash:
        return
    corpora = [Path(row.corpus).as_posix() for row in (row_a, row_b)]
    if row_a.corpus != row_b.corpus:
        raise UserError(f"{a} and {b} were tested on different corpora: {corpora[0]} and {corpora[1]}")
    draws = f", {row_a.seeds} and {row_b.seeds} draws" if row_a.seeds != row_b.seeds else ""
    raise UserError(
        f"{a} and {b} have different splits of {corpora[0]} at {row_a.amount}: "
        f"{row_a.split_hash} and {row_b.split_hash} ({row_a.n} and {row_b.n} test items{draws})"
    )


def _answers(row: ResultRow, items: Sequence[Answers], path: Path) -> Answers:
    answers = next((each for each in items if each.belongs_to(row)), None)
    if answers is None:
        raise UserError(f"{items_path(path)}: no answers of {row.contender} at {row.amount}; it belongs to another run")
    value = rate(answers) if answers.metric else _class_value(answers, row.metric)
    if abs(value - row.value) > _TOLERANCE:
        raise UserError(
            f"{items_path(path)}: its answers give {row.metric} {value:.4f} for {row.contender} at {row.amount}, "
            f"{path.name} has {row.value:.4f}; the two files are of different runs"
        )
    return answers


def _aligned(answers: Answers, model: Answers, *, a: Path, b: Path) -> Answers:
    """The answers in the order of the model's items."""
    place = {key: i for i, key in enumerate(zip(answers.repetitions, answers.ids, strict=True))}
    keys = list(zip(model.repetitions, model.ids, strict=True))
    if len(place) != len(keys) or set(place) != set(keys):
        raise UserError(f"{a} and {b} were not tested on the same items ({len(place)} and {len(keys)})")
    order = [place[key] for key in keys]
    columns = {
        name: [getattr(answers, name)[i] for i in order] if getattr(answers, name) else []
        for name in ("ids", "groups", "repetitions", "truth", "predicted", "errors", "words")
    }
    same = ("groups", "words") if answers.metric else ("groups", "truth")
    for name in same:
        if columns[name] != list(getattr(model, name)):
            raise UserError(f"{a} and {b} disagree about the {_NAMES[name]} of their test items")
    return replace(answers, **columns)


def _difference(answers: Answers, other: Answers, metric: str, *, seed: int) -> Interval:
    if answers.metric:
        return _rate_difference(answers, other, seed=seed)
    # Over the classes of both sides, so that the two have the same shape.
    classes = sorted({*answers.truth, *answers.predicted, *other.predicted})
    counts, others = answers.counts(classes), other.counts(classes)
    return bootstrap_difference(counts, others, metric=_metric(metric), seed=seed)


def _rate_difference(answers: Answers, other: Answers, *, seed: int) -> Interval:
    names = {name: number for number, name in enumerate(sorted(set(answers.groups)))}
    if len(names) < 2:
        raise UserError(
            "an interval needs at least 2 speakers (utterances, where no speaker is known) on the test side, got "
            f"{len(names)}"
        )
    rows = np.array([names[name] for name in answers.groups])
    words, errors, others = (
        _sums(rows, column, len(names)) for column in (answers.words, answers.errors, other.errors)
    )
    weights = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=REPLICATES)
    drawn = weights @ words
    means = (weights @ (errors - others))[drawn > 0] / drawn[drawn > 0]
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(value=rate(answers) - rate(other), low=float(low), high=float(high))


def _sums(rows: np.ndarray, column: Sequence[int], groups: int) -> Float[np.ndarray, " groups"]:
    return np.bincount(rows, weights=np.array(column, dtype=float), minlength=groups)


def _class_value(answers: Answers, metric: str) -> float:
    return metric_of(answers.counts(), _metric(metric))


def _metric(name: str) -> Metric:
    return next(metric for metric in METRICS if metric == name)
