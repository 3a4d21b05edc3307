"""Utterance classification scores (UAR, WA, macro F1, confusion) and bootstrap intervals by group.

UAR (unweighted average recall, also balanced accuracy; "UA" in the IEMOCAP literature) is the mean over classes of the
fraction of that class's utterances that were recognised. WA is plain accuracy. Both definitions follow Schuller, Steidl
and Batliner, "The INTERSPEECH 2009 Emotion Challenge" (2009), section 3. The point values are scikit-learn's.

Intervals are percentile bootstrap intervals (Efron, "Bootstrap Methods: Another Look at the Jackknife", 1979) that
resample whole groups, usually speakers: utterances of one speaker are not independent, and an interval over utterances
would be far too narrow. Where an experiment was repeated over seeds, seeds and groups are resampled independently and
every cell (seed, group) is weighted by the product of the two draws: Owen, "The pigeonhole bootstrap" (Annals of
Applied Statistics, 2007), and Owen and Eckles, "Bootstrapping data arrays of arbitrary order" (2012, arXiv 1106.2125),
who show that it errs mildly towards intervals that are too wide. A speaker who is tested under several seeds is
therefore drawn, or not drawn, in all of them at once.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

Metric = Literal["UAR", "WA", "macro F1"]
METRICS: tuple[Metric, ...] = ("UAR", "WA", "macro F1")
Resample = Literal["groups", "classes"]

# 1,000 replicates put the ends of a 95 % percentile interval at about a tenth of its width (Efron and Tibshirani,
# "An Introduction to the Bootstrap", 1993, section 13.3, ask for 1,000 or more).
REPLICATES = 1000


@dataclass(frozen=True)
class Interval:
    """A score in [0, 1], or the difference of two scores, with its interval; `low <= high`."""

    value: float
    low: float
    high: float

    def overlaps(self, other: "Interval") -> bool:
        """Whether the two intervals share a point.

        >>> Interval(0.6, 0.5, 0.7).overlaps(Interval(0.8, 0.71, 0.9))
        False
        """
        return self.low <= other.high and other.low <= self.high


@dataclass(frozen=True)
class GroupCounts:
    """Counts that every metric here is computed from, per repetition (seed), group (speaker) and class.

    `correct`: utterances of the class predicted as the class; `truth`: utterances of the class; `predicted`:
    utterances predicted as the class. All three have shape (seeds, groups, classes).
    """

    correct: Float[np.ndarray, "seeds groups classes"]
    truth: Float[np.ndarray, "seeds groups classes"]
    predicted: Float[np.ndarray, "seeds groups classes"]


def uar(truth: Sequence[Hashable], predicted: Sequence[Hashable]) -> float:
    """Unweighted average recall: the mean recall over the classes that occur in `truth`, in [0, 1].

    Raises:
        ValueError: when the two lengths differ or are zero.

    >>> uar(["a", "a", "a", "b"], ["a", "a", "a", "a"])
    0.5
    """
    return float(metric_of(count(truth, predicted), "UAR"))


def wa(truth: Sequence[Hashable], predicted: Sequence[Hashable]) -> float:
    """Weighted accuracy, which is plain accuracy, in [0, 1].

    Raises:
        ValueError: when the two lengths differ or are zero.

    >>> wa(["a", "a", "a", "b"], ["a", "a", "a", "a"])
    0.75
    """
    return float(metric_of(count(truth, predicted), "WA"))


def macro_f1(truth: Sequence[Hashable], predicted: Sequence[Hashable]) -> float:
    """Mean over classes of F1 = 2 correct / (truth + predicted), over the classes that occur on either side.

    Raises:
        ValueError: when the two lengths differ or are zero.

    >>> round(macro_f1(["a", "a", "a", "b"], ["a", "a", "a", "a"]), 4)
    0.4286
    """
    return float(metric_of(count(truth, predicted), "macro F1"))


def confusion(
    truth: Sequence[Hashable], predicted: Sequence[Hashable], *, classes: Sequence[Hashable]
) -> Int[np.ndarray, "classes classes"]:
    """Confusion matrix: how often class i (row) was predicted as class j (column), in the order of `classes`.

    Raises:
        ValueError: when the lengths differ or a value is not among `classes`.

    >>> confusion(["a", "a", "b"], ["a", "b", "b"], classes=["a", "b"]).tolist()
    [[1, 1], [0, 1]]
    """
    _check_lengths(truth, predicted)
    index = {name: number for number, name in enumerate(classes)}
    unknown = sorted({str(name) for name in [*truth, *predicted] if name not in index})
    if unknown:
        raise ValueError(f"class {unknown[0]!r} is not among the given classes {[str(c) for c in classes]}")
    matrix = np.zeros((len(classes), len(classes)), dtype=np.int64)
    np.add.at(matrix, ([index[t] for t in truth], [index[p] for p in predicted]), 1)
    return matrix


def count(
    truth: Sequence[Hashable], predicted: Sequence[Hashable], *, groups: Sequence[Hashable] | None = None
) -> GroupCounts:
    """Counts of one repetition; without `groups` all utterances are one group.

    Classes and groups are sorted by their text, so that the result does not depend on the order of the utterances.

    Raises:
        ValueError: when lengths differ or are zero.

    >>> count(["a", "b"], ["a", "a"], groups=["s1", "s2"]).correct.tolist()
    [[[1.0, 0.0], [0.0, 0.0]]]
    """
    groups = ["all"] * len(truth) if groups is None else groups
    classes = sorted({*truth, *predicted}, key=str)
    names = sorted(set(groups), key=str)
    return count_repetitions([truth], [predicted], groups=[groups], classes=classes, group_names=names)


def count_repetitions(
    truth: Sequence[Sequence[Hashable]],
    predicted: Sequence[Sequence[Hashable]],
    *,
    groups: Sequence[Sequence[Hashable]],
    classes: Sequence[Hashable],
    group_names: Sequence[Hashable],
) -> GroupCounts:
    """Counts of several repetitions (one inner sequence per seed) over common classes and groups.

    A group that is not tested under a seed has zeros there.

    Raises:
        ValueError: when lengths differ or are zero.
    """
    class_index = {name: number for number, name in enumerate(classes)}
    group_index = {name: number for number, name in enumerate(group_names)}
    shape = (len(truth), len(group_names), len(classes))
    correct, total, answered = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    for seed, (right, got, members) in enumerate(zip(truth, predicted, groups, strict=True)):
        _check_lengths(right, got)
        _check_lengths(right, members)
        rows = np.array([group_index[name] for name in members])
        truths = np.array([class_index[name] for name in right])
        answers = np.array([class_index[name] for name in got])
        np.add.at(total[seed], (rows, truths), 1.0)
        np.add.at(answered[seed], (rows, answers), 1.0)
        hit = truths == answers
        np.add.at(correct[seed], (rows[hit], truths[hit]), 1.0)
    return GroupCounts(correct=correct, truth=total, predicted=answered)


def metric_of(counts: GroupCounts, metric: Metric) -> float:
    """The metric of each repetition over all its groups, averaged over the repetitions."""
    _, groups, classes = counts.truth.shape
    return float(np.mean(_metric(counts, metric, np.ones((1, groups)), np.ones((1, classes)))))


def bootstrap_interval(
    counts: GroupCounts,
    metric: Metric,
    *,
    resample: Resample = "groups",
    seed: int = 0,
    replicates: int = REPLICATES,
    level: float = 0.95,
) -> Interval:
    """Point value and percentile interval, resampling groups (or classes) and, where there are several, repetitions.

    Args:
        counts: from `count` or `count_repetitions`.
        metric: one of `METRICS`.
        resample: `groups`, or `classes` where the classes themselves are the sample, as in speaker classification:
            there a speaker who is drawn twice counts twice in the mean over classes.
        seed: seed of the resampling; one seed gives one interval.
        replicates: number of bootstrap replicates.
        level: fraction of the replicates inside the interval, in (0, 1).

    Returns:
        The value (mean over repetitions of the metric over all groups) and the interval. When groups are resampled, a
        replicate in which a class has no utterance takes the mean over the other classes.

    Raises:
        ValueError: with fewer than two groups (classes), no replicates, or a level outside (0, 1).

    >>> counts = count(["a", "b"] * 20, ["a", "b"] * 20, groups=["s1", "s2", "s3", "s4"] * 10)
    >>> bootstrap_interval(counts, "UAR")
    Interval(value=1.0, low=1.0, high=1.0)
    """
    means = _replicates(counts, metric, resample=resample, seed=seed, replicates=replicates)
    return _percentile(means, metric_of(counts, metric), level=level)


def bootstrap_difference(
    counts: GroupCounts,
    other: GroupCounts,
    *,
    metric: Metric,
    resample: Resample = "groups",
    seed: int = 0,
    replicates: int = REPLICATES,
    level: float = 0.95,
) -> Interval:
    """The metric of `counts` minus that of `other` on the same test utterances, with a paired interval.

    Both use the same draws of speakers and repetitions, so what makes a speaker hard for both cancels. Two contenders
    whose own intervals overlap may differ clearly; this interval then excludes zero.

    Raises:
        ValueError: when the two were not tested on the same utterances; otherwise as `bootstrap_interval`.

    >>> good = count(["a", "b"] * 20, ["a", "b"] * 20, groups=["s1", "s2", "s3", "s4"] * 10)
    >>> bootstrap_difference(good, good, metric="UAR")
    Interval(value=0.0, low=0.0, high=0.0)
    """
    if counts.truth.shape != other.truth.shape or not np.array_equal(counts.truth, other.truth):
        raise ValueError("a paired difference needs the same seeds, speakers and classes on both sides")
    means = _replicates(counts, metric, resample=resample, seed=seed, replicates=replicates)
    others = _replicates(other, metric, resample=resample, seed=seed, replicates=replicates)
    return _percentile(means - others, metric_of(counts, metric) - metric_of(other, metric), level=level)


def _replicates(
    counts: GroupCounts, metric: Metric, *, resample: Resample, seed: int, replicates: int
) -> Float[np.ndarray, " drawn"]:
    """The metric, averaged over repetitions, of each bootstrap draw; the draws depend on the shape and seed only."""
    seeds, groups, classes = counts.truth.shape
    units = groups if resample == "groups" else classes
    if units < 2:
        what = "classes" if resample == "classes" else "speakers (utterances, where no speaker is known)"
        raise ValueError(f"an interval needs at least 2 {what} on the test side, got {units}")
    if replicates < 1:
        raise ValueError(f"replicates must be at least 1, got {replicates}")
    rng = np.random.default_rng(seed)
    unit_weights = rng.multinomial(units, np.full(units, 1 / units), size=replicates).astype(float)
    seed_weights = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=replicates).astype(float)
    if resample == "groups":
        values = _metric(counts, metric, unit_weights, np.ones((1, classes)))  # (replicates, seeds)
    else:
        values = _metric(counts, metric, np.ones((1, groups)), unit_weights)  # (replicates, seeds)
    seed_weights = np.where(np.isnan(values), 0.0, seed_weights)
    mass = seed_weights.sum(axis=1)
    drawn = mass > 0  # a draw without a tested speaker has no value
    return (seed_weights * np.nan_to_num(values)).sum(axis=1)[drawn] / mass[drawn]


def _percentile(means: Float[np.ndarray, " drawn"], value: float, *, level: float) -> Interval:
    if not 0 < level < 1:
        raise ValueError(f"level must be in (0, 1), got {level}")
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value=value, low=float(low), high=float(high))


def _metric(
    counts: GroupCounts,
    metric: Metric,
    group_weights: Float[np.ndarray, "#replicates groups"],
    class_weights: Float[np.ndarray, "#replicates classes"],
) -> Float[np.ndarray, "replicates seeds"]:
    """The metric with weighted groups and classes; NaN where nothing with a weight was tested.

    One of the two has a single row (weights of one), the other a row per replicate.
    """
    if metric not in METRICS:
        raise ValueError(f"metric must be one of {', '.join(METRICS)}, got {metric!r}")
    weights = class_weights[:, None, :]  # (draws, 1, classes)
    correct = np.einsum("bg,sgc->bsc", group_weights, counts.correct, optimize=True)
    truth = np.einsum("bg,sgc->bsc", group_weights, counts.truth, optimize=True)
    with np.errstate(invalid="ignore", divide="ignore"):  # 0 / 0 gives the NaN of the docstring
        if metric == "WA":
            return (weights * correct).sum(axis=-1) / (weights * truth).sum(axis=-1)
        if metric == "UAR":
            return _mean_of_defined(correct / truth, weights)
        predicted = np.einsum("bg,sgc->bsc", group_weights, counts.predicted, optimize=True)
        return _mean_of_defined(2 * correct / (truth + predicted), weights)


def _mean_of_defined(
    values: Float[np.ndarray, "#replicates seeds classes"], weights: Float[np.ndarray, "#replicates 1 classes"]
) -> Float[np.ndarray, "replicates seeds"]:
    defined = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return (weights * np.where(defined, values, 0.0)).sum(axis=-1) / (weights * defined).sum(axis=-1)


def _check_lengths(truth: Sequence[Hashable], other: Sequence[Hashable]) -> None:
    if len(truth) != len(other) or len(truth) == 0:
        raise ValueError(f"need two sequences of one length above zero, got {len(truth)} and {len(other)}")
