"""The classifiers of the few-shot probes: k-NN and logistic regression on standardised features.

- k-NN: cosine similarity, votes weighted by inverse distance, k = the odd number nearest to the square root of the
  shots per class (1, 3, 3, 5 for 1, 5, 10, 25 shots).
- Logistic regression: L2, multinomial, scikit-learn's lbfgs. C is chosen on the shots alone, by accuracy under three
  folds (ties by log loss): grouped by speaker where every class has shots of three speakers or more, else stratified
  where there are at least three shots per class, else C = FIXED_C.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

# Measured on MFCC and log-mel statistics of three small corpora (digits, emotions; 1 to 25 shots): the best C is
# between 0.01 and 1, and 0.1 is the best single value at one and two shots. Choosing by log loss alone picked far too
# small a C where few speakers train (digits, 25 shots: .41 instead of .50).
STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
FIXED_C = 1e-1  # where there are too few shots to choose C
_FOLDS = 3
_TIE = 1e-3  # weight of the log loss against one hit: it only decides between equal numbers of hits


def knn_neighbours(shots: int) -> int:
    """Number of neighbours that vote, for a number of shots per class.

    >>> [knn_neighbours(shots) for shots in (1, 2, 5, 10, 25, 100)]
    [1, 1, 3, 3, 5, 9]
    """
    return 2 * round((shots**0.5 - 1) / 2) + 1


def predict_knn(
    train: Float[np.ndarray, "trains dim"],
    targets: Int[np.ndarray, " trains"],
    test: Float[np.ndarray, "tests dim"],
    *,
    neighbours: int,
) -> Int[np.ndarray, " tests"]:
    """Predicted classes of the cosine k-NN for `test`; features are used as given."""
    from sklearn.neighbors import KNeighborsClassifier

    model = KNeighborsClassifier(n_neighbors=neighbours, metric="cosine", weights="distance", algorithm="brute")
    return np.asarray(model.fit(train, targets).predict(test))


@dataclass(frozen=True)
class LogisticProbe:
    """A fitted linear probe: the answer is the class with the largest of ``features @ weights.T + bias``."""

    weights: Float[np.ndarray, "classes dim"]
    bias: Float[np.ndarray, " classes"]


def fit_logistic(
    train: Float[np.ndarray, "trains dim"],
    targets: Int[np.ndarray, " trains"],
    *,
    groups: Sequence[Hashable | None],
    seed: int,
) -> LogisticProbe:
    """The L2 logistic regression on standardised features; C is chosen on them alone (see the head of this file).

    Args:
        train: standardised features.
        targets: class numbers from 0, every one present.
        groups: group of each row, such as its speaker.
        seed: seed of the folds.
    """
    # The weights of an L2-regularised linear model are in the span of its training rows. Where there are more
    # dimensions than shots, the rotation into that span changes no prediction and makes the fit several times faster.
    basis = None
    if train.shape[1] > train.shape[0]:
        _, _, basis = np.linalg.svd(train, full_matrices=False)  # (trains, dim)
        train = train @ basis.T
    strength = choose_strength(train, targets, groups=groups, seed=seed)
    model = _logistic(strength).fit(train, targets)
    weights = model.coef_ if basis is None else model.coef_ @ basis
    if len(model.classes_) == 2:  # for two classes scikit-learn keeps one row, the difference
        return LogisticProbe(
            np.concatenate([-weights, weights]) / 2, np.concatenate([-model.intercept_, model.intercept_]) / 2
        )
    return LogisticProbe(weights, model.intercept_)


def predict_logistic(
    train: Float[np.ndarray, "trains dim"],
    targets: Int[np.ndarray, " trains"],
    test: Float[np.ndarray, "tests dim"],
    *,
    groups: Sequence[Hashable | None],
    seed: int,
) -> Int[np.ndarray, " tests"]:
    """Predicted classes of :func:`fit_logistic` for ``test``; the classes are numbered from 0."""
    probe = fit_logistic(train, targets, groups=groups, seed=seed)
    return (test @ probe.weights.T + probe.bias).argmax(axis=1)


def choose_strength(
    train: Float[np.ndarray, "trains dim"],
    targets: Int[np.ndarray, " trains"],
    *,
    groups: Sequence[Hashable | None],
    seed: int,
) -> float:
    """C with the most held-out hits over three folds of the shots, or FIXED_C where they are too few."""
    folds = shot_folds(targets, groups, seed=seed)
    if not folds:
        return FIXED_C
    scores = np.zeros(len(STRENGTHS))
    for fitted, held in folds:
        model = _logistic(STRENGTHS[0])
        for number, strength in enumerate(STRENGTHS):  # from strong to weak: each fit starts at the one before
            model.set_params(C=strength).fit(train[fitted], targets[fitted])
            truth = np.searchsorted(model.classes_, targets[held])
            logs = model.predict_log_proba(train[held])  # (held, classes)
            hits = float(np.sum(logs.argmax(axis=1) == truth))
            loss = -float(np.mean(logs[np.arange(len(held)), truth]))
            scores[number] += hits - _TIE * min(loss, 1 / _TIE)
    return STRENGTHS[int(np.argmax(scores))]


def _logistic(strength: float):
    from sklearn.linear_model import LogisticRegression

    # Balanced weights are all one where every class has the same number of shots; elsewhere they optimise UAR.
    return LogisticRegression(C=strength, max_iter=2000, warm_start=True, class_weight="balanced")


def shot_folds(
    targets: Int[np.ndarray, " trains"], groups: Sequence[Hashable | None], *, seed: int
) -> list[tuple[Int[np.ndarray, " fitted"], Int[np.ndarray, " held"]]]:
    """Folds of the shots to choose a setting on: by speaker, else stratified, else none (see the head of this file)."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    numbers = {name: number for number, name in enumerate(dict.fromkeys(groups))}
    members = np.array([numbers[group] for group in groups])
    classes, sizes = np.unique(targets, return_counts=True)
    if min(len(np.unique(members[targets == name])) for name in classes) >= _FOLDS:
        grouped = StratifiedGroupKFold(n_splits=_FOLDS, shuffle=True, random_state=seed)
        folds = list(grouped.split(targets, targets, members))
        # A class that few speakers have may still be missing from the fitted part of a fold.
        if all(len(held) and len(np.unique(targets[fitted])) == len(classes) for fitted, held in folds):
            return folds
    if sizes.min() < _FOLDS:
        return []
    return list(StratifiedKFold(n_splits=_FOLDS, shuffle=True, random_state=seed).split(targets, targets))
