"""Speaker verification by similarity: trials, their scores, and the equal error rate with an interval by speaker.

A trial is a pair of recordings, of one speaker or of two. Its score is the cosine of their vectors. The equal error
rate is the error at the threshold where as large a fraction of the trials of one speaker is rejected as of the trials
of two speakers is accepted, with straight lines between thresholds: Martin et al., "The DET curve in assessment of
detection task performance" (Eurospeech 1997). Chance is one half.

Intervals resample speakers, not trials: the trials of a speaker are not independent. A speaker who is drawn n times
has n times the trials of that speaker, and n m times those with a speaker who is drawn m times (Owen, "The pigeonhole
bootstrap", Annals of Applied Statistics, 2007).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from speechssl.metrics.classification import REPLICATES, Interval

TRIALS = 2000


@dataclass(frozen=True)
class Trials:
    """Pairs of recordings, by their numbers in the corpus.

    Attributes:
        first: one recording of each trial.
        second: the other one.
        same: whether both are of one speaker.
    """

    first: Int[np.ndarray, " trials"]
    second: Int[np.ndarray, " trials"]
    same: Bool[np.ndarray, " trials"]

    def utterances(self) -> Int[np.ndarray, " used"]:
        """Sorted numbers of the recordings that need vectors."""
        return np.unique(np.concatenate([self.first, self.second]))


def draw_trials(speakers: Sequence[str | None], *, count: int = TRIALS, seed: int = 0) -> Trials:
    """Draw trials, half of them of one speaker; every speaker is equally likely, whatever the number of recordings.

    Args:
        speakers: of each recording; one without a speaker takes no part.
        count: number of trials, an even number; a pair may be drawn more than once.
        seed: of the draw.

    Raises:
        ValueError: fewer than two speakers with two recordings each.

    >>> trials = draw_trials(["a", "a", "b", "b", None], count=4)
    >>> trials.same.tolist(), bool(trials.utterances().max() < 4)
    ([True, True, False, False], True)
    """
    members: dict[str, list[int]] = {}
    for index, speaker in enumerate(speakers):
        if speaker is not None:
            members.setdefault(speaker, []).append(index)
    everyone = [members[name] for name in sorted(members)]
    several = [each for each in everyone if len(each) > 1]
    if len(several) < 2:
        raise ValueError(f"verification needs two speakers with two recordings each, found {len(several)}")
    rng = np.random.default_rng(seed)
    pairs = [rng.choice(several[rng.integers(len(several))], 2, replace=False) for _ in range(count // 2)]
    for _ in range(count // 2):
        one, other = rng.choice(len(everyone), 2, replace=False)
        pairs.append(np.array([rng.choice(everyone[one]), rng.choice(everyone[other])]))
    first, second = np.stack(pairs).T
    return Trials(first, second, np.arange(len(pairs)) < count // 2)


def cosine_scores(vectors: Float[np.ndarray, "recordings dim"], trials: Trials) -> Float[np.ndarray, " trials"]:
    """Cosine of the two vectors of each trial; zero where one of them is zero."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.where(norms > 0, norms, 1.0)
    return (unit[trials.first] * unit[trials.second]).sum(axis=1).astype(np.float64)


def equal_error_rate(scores: Float[np.ndarray, " trials"], same: Bool[np.ndarray, " trials"]) -> float:
    """Equal error rate of scores that are higher for one speaker, in [0, 1]; trials of equal scores move together.

    Raises:
        ValueError: scores that are not finite, or trials of one kind only.

    >>> equal_error_rate(np.array([0.9, 0.8, 0.2, 0.1]), np.array([True, True, False, False]))
    0.0
    >>> equal_error_rate(np.ones(4), np.array([True, True, False, False]))
    0.5
    """
    if not np.isfinite(scores).all():
        raise ValueError(f"{int((~np.isfinite(scores)).sum())} scores are not finite")
    if same.all() or not same.any():
        raise ValueError("an equal error rate needs trials of one speaker and trials of two")
    return float(_error_rates(scores, same, np.ones((1, len(scores))))[0])


def verification_interval(
    scores: Float[np.ndarray, " trials"],
    trials: Trials,
    speakers: Sequence[str | None],
    *,
    seed: int = 0,
    replicates: int = REPLICATES,
    level: float = 0.95,
) -> Interval:
    """Equal error rate with its percentile interval over resampled speakers.

    Args:
        scores: of each trial.
        trials: from `draw_trials`.
        speakers: of each recording of the corpus.
        seed: of the resampling.
        replicates: number of bootstrap replicates; those without trials of both kinds are left out.
        level: fraction of the replicates inside the interval, in (0, 1).
    """
    value = equal_error_rate(scores, trials.same)
    weights = _resampled(trials, speakers, seed=seed, replicates=replicates)
    return _percentiles(value, _error_rates(scores, trials.same, weights), level)


def verification_gain(
    scores: Float[np.ndarray, " trials"],
    others: Float[np.ndarray, " trials"],
    trials: Trials,
    speakers: Sequence[str | None],
    *,
    seed: int = 0,
    replicates: int = REPLICATES,
    level: float = 0.95,
) -> Interval:
    """How much lower the equal error rate of `scores` is than that of `others`, with its paired percentile interval.

    Both are resampled by the same draws of speakers. Above zero, `scores` are better.

    Args:
        scores: of each trial.
        others: of each trial, by other vectors.
        trials: from `draw_trials`.
        speakers: of each recording of the corpus.
        seed: of the resampling.
        replicates: number of bootstrap replicates; those without trials of both kinds are left out.
        level: fraction of the replicates inside the interval, in (0, 1).

    >>> trials = Trials(np.array([0, 2, 0, 1]), np.array([1, 3, 2, 3]), np.array([True, True, False, False]))
    >>> verification_gain(np.array([0.9, 0.8, 0.2, 0.1]), np.ones(4), trials, ["a", "a", "b", "b"])
    Interval(value=0.5, low=0.5, high=0.5)
    """
    value = equal_error_rate(others, trials.same) - equal_error_rate(scores, trials.same)
    weights = _resampled(trials, speakers, seed=seed, replicates=replicates)
    mine, theirs = (_error_rates(each, trials.same, weights) for each in (scores, others))
    return _percentiles(value, theirs - mine, level)


def _resampled(
    trials: Trials, speakers: Sequence[str | None], *, seed: int, replicates: int
) -> Float[np.ndarray, "draws trials"]:
    """Weights of the trials in each draw of the speakers that has trials of both kinds."""
    names = {name: number for number, name in enumerate(sorted({str(speakers[i]) for i in trials.utterances()}))}
    first, second = (np.array([names[str(speakers[i])] for i in side]) for side in (trials.first, trials.second))
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=replicates).astype(np.float64)
    weights = drawn[:, first] * np.where(trials.same, 1.0, drawn[:, second])
    usable = (weights[:, trials.same].sum(axis=1) > 0) & (weights[:, ~trials.same].sum(axis=1) > 0)
    return weights[usable]


def _percentiles(value: float, replicates: Float[np.ndarray, " draws"], level: float) -> Interval:
    low, high = np.quantile(replicates, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value=value, low=float(low), high=float(high))


def _error_rates(
    scores: Float[np.ndarray, " trials"],
    same: Bool[np.ndarray, " trials"],
    weights: Float[np.ndarray, "draws trials"],
) -> Float[np.ndarray, " draws"]:
    """Equal error rates of weighted trials, one per row of weights."""
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    weights, same = weights[:, order], same[order]

    def accepted(kind: Bool[np.ndarray, " trials"]) -> Float[np.ndarray, "draws thresholds"]:
        """Fraction of the trials of a kind at or above each threshold, from none to all."""
        total = np.where(kind, weights, 0.0).cumsum(axis=1)
        return np.pad(total[:, ends] / total[:, -1:], ((0, 0), (1, 0)))

    false, missed = accepted(~same), 1 - accepted(same)
    gap = false - missed  # rises from -1 to 1
    rows, after = np.arange(len(weights)), (gap >= 0).argmax(axis=1)
    part = -gap[rows, after - 1] / (gap[rows, after] - gap[rows, after - 1])
    return false[rows, after - 1] + part * (false[rows, after] - false[rows, after - 1])
