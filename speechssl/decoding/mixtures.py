"""Gaussian mixtures with diagonal covariances, one per HMM state: likelihoods, re-estimation, splitting.

The rules are those of Kaldi's monophone training (`gmm-est`: Povey et al. 2011, "The Kaldi Speech Recognition
Toolkit"): Gaussians are given to states by the power 0.2 of their frames, the one with the largest weight is split, and
one with too few frames is removed.
"""

import heapq
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

SPLIT_POWER = 0.2  # of a state's frames: its share of the Gaussians grows that slowly
LEAST_SPLIT = 20.0  # frames per Gaussian, below which a state gets no more of them
LEAST_KEPT = 10.0  # frames; a Gaussian with fewer is removed where its state has others
APART = 0.1  # standard deviations between the halves of a split Gaussian and its mean, times a normal random number
FLOOR = 0.01  # of the variance over all frames

Frames = Float64[np.ndarray, "frames dim"]


@dataclass(frozen=True)
class StateMixtures:
    """Mixtures of all states, Gaussian by Gaussian in the order of the states.

    Attributes:
        states: state of each Gaussian, ascending; every state has at least one.
        weights: its weight in the mixture of its state.
        means: its mean.
        variances: its variances.
    """

    states: Int64[np.ndarray, " gaussians"]
    weights: Float64[np.ndarray, " gaussians"]
    means: Float64[np.ndarray, "gaussians dim"]
    variances: Float64[np.ndarray, "gaussians dim"]

    def gaussian_log_probs(self, frames: Frames) -> Float64[np.ndarray, "frames gaussians"]:
        """Natural logarithm of weight times density, per Gaussian."""
        precisions = 1 / self.variances
        constants = np.log(self.weights) - 0.5 * np.sum(
            np.log(2 * np.pi * self.variances) + self.means**2 * precisions, axis=1
        )
        return constants + frames @ (self.means * precisions).T - 0.5 * frames**2 @ precisions.T

    def log_probs(self, frames: Frames) -> Float64[np.ndarray, "frames states"]:
        """Natural logarithm of the density of each state's mixture."""
        each = self.gaussian_log_probs(frames)
        first = np.flatnonzero(np.diff(self.states, prepend=-1))
        highest = np.maximum.reduceat(each, first, axis=1)
        return highest + np.log(np.add.reduceat(np.exp(each - highest[:, self.states]), first, axis=1))


@dataclass
class Statistics:
    """Sums over frames, per Gaussian: what a re-estimation needs."""

    counts: Float64[np.ndarray, " gaussians"]
    sums: Float64[np.ndarray, "gaussians dim"]
    squares: Float64[np.ndarray, "gaussians dim"]

    @classmethod
    def of(cls, mixtures: StateMixtures, frames: Frames, states: Int64[np.ndarray, " frames"]) -> "Statistics":
        """Those of frames that are aligned with states."""
        found = cls(np.zeros(len(mixtures.states)), np.zeros(mixtures.means.shape), np.zeros(mixtures.means.shape))
        order = np.argsort(states, kind="stable")
        aligned = np.searchsorted(states[order], np.arange(int(mixtures.states[-1]) + 2))
        gaussians = np.searchsorted(mixtures.states, np.arange(int(mixtures.states[-1]) + 2))
        for state in np.unique(states).tolist():
            x = frames[order[aligned[state] : aligned[state + 1]]]
            own = slice(int(gaussians[state]), int(gaussians[state + 1]))
            each = StateMixtures(
                mixtures.states[own], mixtures.weights[own], mixtures.means[own], mixtures.variances[own]
            ).gaussian_log_probs(x)
            posteriors = np.exp(each - each.max(axis=1, keepdims=True))
            posteriors /= posteriors.sum(axis=1, keepdims=True)
            found.counts[own] = posteriors.sum(axis=0)
            found.sums[own] = posteriors.T @ x
            found.squares[own] = posteriors.T @ x**2
        return found


def estimated(
    mixtures: StateMixtures,
    found: Statistics,
    *,
    floor: Float64[np.ndarray, " dim"],
    gaussians: int,
    rng: np.random.Generator,
) -> StateMixtures:
    """Maximum-likelihood mixtures, with more Gaussians where they are allowed.

    Args:
        mixtures: the ones that the statistics were counted with; a Gaussian without frames keeps its parameters.
        found: the statistics.
        floor: least variances.
        gaussians: number of Gaussians to split up to, over all states.
        rng: of the directions of splitting.
    """
    counts = found.counts
    occupied = counts >= LEAST_KEPT
    share = np.maximum(counts, 1e-10)[:, None]
    means = np.where(counts[:, None] > 1, found.sums / share, mixtures.means)
    variances = np.where(occupied[:, None], found.squares / share - means**2, mixtures.variances)
    variances = np.maximum(variances, floor)
    best = np.zeros(len(counts), dtype=bool)  # of each state: it is never removed
    order = np.lexsort((counts, mixtures.states))
    best[order[np.flatnonzero(np.diff(mixtures.states[order], append=-1))]] = True
    kept = occupied | best
    states, counts = mixtures.states[kept], np.maximum(counts[kept], 1e-3)
    weights = counts / np.bincount(states, weights=counts)[states]
    left = StateMixtures(states, weights, means[kept], variances[kept])
    return split(left, counts, gaussians=gaussians, rng=rng)


def split(
    mixtures: StateMixtures,
    counts: Float64[np.ndarray, " gaussians"],
    *,
    gaussians: int,
    rng: np.random.Generator,
) -> StateMixtures:
    """Split the Gaussians with the largest weights, in the states that most deserve it, up to a total number.

    Args:
        mixtures: the mixtures.
        counts: frames of each Gaussian.
        gaussians: total number; no more are made where the frames are too few.
        rng: of the directions.
    """
    frames = np.bincount(mixtures.states, weights=counts)
    sizes = np.bincount(mixtures.states)
    queue = [(-(frames[state] ** SPLIT_POWER) / sizes[state], state) for state in range(len(sizes))]
    heapq.heapify(queue)
    wanted = sizes.copy()
    left = gaussians - len(mixtures.states)
    while left > 0 and queue:
        _, state = heapq.heappop(queue)
        if frames[state] < LEAST_SPLIT * (wanted[state] + 1):
            continue
        wanted[state] += 1
        left -= 1
        heapq.heappush(queue, (-(frames[state] ** SPLIT_POWER) / wanted[state], state))
    parts = [_split_state(mixtures, state, int(wanted[state]), rng) for state in range(len(sizes))]
    return StateMixtures(
        np.repeat(np.arange(len(sizes)), [len(part.weights) for part in parts]),
        np.concatenate([part.weights for part in parts]),
        np.concatenate([part.means for part in parts]),
        np.concatenate([part.variances for part in parts]),
    )


def _split_state(mixtures: StateMixtures, state: int, size: int, rng: np.random.Generator) -> StateMixtures:
    own = mixtures.states == state
    weights, means, variances = (list(each[own]) for each in (mixtures.weights, mixtures.means, mixtures.variances))
    while len(weights) < size:
        place = int(np.argmax(weights))
        apart = APART * np.sqrt(variances[place]) * rng.standard_normal(len(means[place]))
        weights[place] = weights[place] / 2
        weights.append(weights[place])
        means.append(means[place] + apart)
        means[place] = means[place] - apart
        variances.append(variances[place])
    states = np.full(len(weights), state, dtype=np.int64)
    return StateMixtures(states, np.array(weights), np.array(means), np.array(variances))
