"""Weighted fusion of blocks of features (encoder, prosody, MFCC) by the scores of one LDA per block.

Stacking (Wolpert, "Stacked Generalization", 1992) with one non-negative weight per block (Breiman, "Stacked
Regressions", 1996): each block's LDA (`shot_classifiers.lda_scores`) gives log posteriors, and the answer is the class
with the largest weighted sum. The weights are quarters that sum to one, or equal ones: those with the highest balanced
accuracy out of fold, over the folds of the shots (`shot_folds`, grouped by speaker where possible), minus PULL times
their squared distance from equal weights. So no label beyond the shots is used, a block that does harm gets no
weight, and a difference within the noise of so few shots changes little. Too few shots for folds: equal weights.

PULL was chosen on words and digits, where equal weights are best: .1 and .03 are up to .01 worse at five shots.

The log posteriors are used as they are: an LDA of many informative dimensions is more certain, and should be. Weights
by the log loss out of fold, and scores scaled to one spread per block, were worse on words and digits of unseen
speakers. A concatenation of the blocks under one LDA has no weights: its covariance is estimated from standardised
features, so that scaling a block changes nothing.
"""

import itertools
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from speechssl.metrics.probe_classifiers import shot_folds
from speechssl.metrics.shot_classifiers import lda_scores

PULL = 0.3  # balanced accuracy per squared distance: a block alone, of three, has to be better than equal ones by .2
_PARTS = 4  # weights are multiples of a quarter

Scores = Float[np.ndarray, "blocks rows classes"]


@dataclass(frozen=True)
class Fusion:
    """Fused scores and the weight of each block.

    Attributes:
        scores: log posteriors.
        weights: of the blocks, in the order given; zero or more.
    """

    scores: Float[np.ndarray, "tests classes"]
    weights: Float[np.ndarray, " blocks"]


def fuse(
    train: Sequence[Float[np.ndarray, "trains _"]],
    targets: Int[np.ndarray, " trains"],
    test: Sequence[Float[np.ndarray, "tests _"]],
    *,
    groups: Sequence[Hashable | None],
    seed: int,
) -> Fusion:
    """Fit one LDA per block and the weights of their scores.

    Args:
        train: the features of each block, standardised.
        targets: class numbers from 0, every one present.
        test: the same blocks of the test side, standardised as `train` was.
        groups: the speaker of each training row.
        seed: seed of the folds.

    >>> rng = np.random.default_rng(0)
    >>> targets = np.arange(60) % 2
    >>> good, noise = rng.normal(size=(60, 3)) + 2 * targets[:, None], rng.normal(size=(60, 3))
    >>> found = fuse([good, noise], targets, [good, noise], groups=[i // 2 % 6 for i in range(60)], seed=0)
    >>> bool(found.weights[0] >= found.weights[1]), float((found.scores.argmax(axis=1) == targets).mean()) > 0.9
    (True, True)
    """
    held_out = [_out_of_fold(block, targets, groups=groups, seed=seed) for block in train]
    weights = np.full(len(train), 1 / len(train))
    known = [scores for scores in held_out if scores is not None]
    if known:
        weights = block_weights(np.stack(known), targets)
    scores = np.stack([lda_scores(mine, targets, held) for mine, held in zip(train, test, strict=True)])
    fused = np.tensordot(weights, scores, axes=1)
    return Fusion(fused - np.logaddexp.reduce(fused, axis=1, keepdims=True), weights)


def block_weights(scores: Scores, targets: Int[np.ndarray, " rows"]) -> Float[np.ndarray, " blocks"]:
    """The weights of blocks whose scores are out of fold; see the head of this file.

    Args:
        scores: log posteriors of each block.
        targets: class numbers from 0.
    """
    blocks = len(scores)
    best = equal = np.full(blocks, 1 / blocks)
    highest = balanced_accuracy(np.tensordot(equal, scores, axes=1), targets)
    for chosen in itertools.combinations_with_replacement(range(blocks), _PARTS):
        weights = np.bincount(chosen, minlength=blocks) / _PARTS
        value = balanced_accuracy(np.tensordot(weights, scores, axes=1), targets)
        value -= PULL * float(np.square(weights - equal).sum())
        if value > highest + 1e-9:
            best, highest = weights, value
    return best


def balanced_accuracy(scores: Float[np.ndarray, "rows classes"], targets: Int[np.ndarray, " rows"]) -> float:
    """Mean over classes of the share of rows whose largest score is that of their class.

    >>> balanced_accuracy(np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]), np.array([0, 0, 1]))
    0.5
    """
    hits = scores.argmax(axis=1) == targets
    sizes = np.bincount(targets)
    return float(np.mean(np.bincount(targets[hits], minlength=len(sizes))[sizes > 0] / sizes[sizes > 0]))


def _out_of_fold(
    features: Float[np.ndarray, "trains dim"],
    targets: Int[np.ndarray, " trains"],
    *,
    groups: Sequence[Hashable | None],
    seed: int,
) -> Float[np.ndarray, "trains classes"] | None:
    """Scores of every row by an LDA that did not see its fold; None where there are too few shots for folds."""
    folds = shot_folds(targets, groups, seed=seed)
    if not folds:
        return None
    scores = np.zeros((len(targets), len(np.unique(targets))))
    for fitted, held in folds:
        scores[held] = lda_scores(features[fitted], targets[fitted], features[held])
    return scores
