"""Classifiers for tens of labelled utterances beside those of the probes: LDA, the support vector machine, a choice.

- LDA: Fisher, "The Use of Multiple Measurements in Taxonomic Problems" (1936), with the covariance of each class
  shrunk as in Ledoit and Wolf, "A Well-Conditioned Estimator for Large-Dimensional Covariance Matrices" (2004), so that
  it is defined with more dimensions than shots; scikit-learn's, with equal priors, which optimise UAR. In scikit-learn:
  ``LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")`` after ``StandardScaler()``. Where a class has a single
  shot, or all of a class are equal, there is no covariance, and the nearest class mean is the answer.
- SVM: kernel, C and gamma are chosen on the shots alone, by balanced accuracy under the folds of `shot_folds`.
- Choice: the classifier with the highest balanced accuracy over the folds of the shots (grouped by speaker where
  possible), each with its own settings chosen inside the fitted part; ties go to the first. Too few shots for
  folds: the first.
"""

import warnings
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from speechssl.metrics.baselines import MFCC_DIM
from speechssl.metrics.probe_classifiers import predict_logistic, shot_folds

ClassifierName = Literal["LDA", "logistic", "SVM"]

SVM_GRID: list[dict[str, list[Any]]] = [
    {"kernel": ["rbf"], "C": [0.1, 1.0, 10.0, 100.0], "gamma": [0.1 / MFCC_DIM, 0.3 / MFCC_DIM, 1 / MFCC_DIM]},
    {"kernel": ["linear"], "C": [0.001, 0.01, 0.1, 1.0], "gamma": ["scale"]},
]
SVM_FIXED: dict[str, Any] = {"kernel": "rbf", "C": 10.0, "gamma": 0.3 / MFCC_DIM}  # shots too few to choose on

Train = Float[np.ndarray, "trains dim"]
Held = Float[np.ndarray, "tests dim"]
Targets = Int[np.ndarray, " trains"]
Answers = Int[np.ndarray, " tests"]


def lda_scores(train: Train, targets: Targets, test: Held) -> Float[np.ndarray, "tests classes"]:
    """Log posteriors of LDA; of the nearest class mean, minus half the squared distance per dimension.

    Args:
        train: standardised features.
        targets: class numbers from 0, every one present.
        test: features standardised as `train` was.

    >>> features = np.array([[-1.0, 0.1], [-1.1, 0.0], [1.0, 0.0], [1.2, 0.1]])
    >>> lda_scores(features, np.array([0, 0, 1, 1]), features).argmax(axis=1).tolist()
    [0, 0, 1, 1]
    """
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    classes, sizes = np.unique(targets, return_counts=True)
    within = np.concatenate([train[targets == number] - train[targets == number].mean(axis=0) for number in classes])
    if sizes.min() < 2 or np.allclose(within, 0):
        means = np.stack([train[targets == number].mean(axis=0) for number in classes])
        return -np.square(test[:, None] - means).mean(axis=-1) / 2
    equal = np.full(len(classes), 1 / len(classes))
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto", priors=equal).fit(train, targets)
    scores = np.asarray(model.decision_function(test))
    if scores.ndim == 1:  # for two classes scikit-learn gives the difference
        scores = np.stack([-scores, scores], axis=1) / 2
    return scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)


def predict_lda(train: Train, targets: Targets, test: Held) -> Answers:
    """Predicted classes of :func:`lda_scores`."""
    return lda_scores(train, targets, test).argmax(axis=1)


def predict_svm(train: Train, targets: Targets, test: Held, *, groups: Sequence[Hashable | None], seed: int) -> Answers:
    """Predicted classes of the support vector machine for `test`; its settings are chosen on `train` alone.

    Args:
        train: standardised features.
        targets: numbers of classes.
        test: features standardised as `train` was.
        groups: the speaker of each training row.
        seed: seed of the folds.
    """
    from sklearn.model_selection import GridSearchCV
    from sklearn.svm import SVC

    folds = shot_folds(targets, groups, seed=seed)
    if not folds:
        return np.asarray(SVC(class_weight="balanced", **SVM_FIXED).fit(train, targets).predict(test))
    search = GridSearchCV(SVC(class_weight="balanced"), SVM_GRID, scoring="balanced_accuracy", cv=folds)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="y_pred contains classes not in y_true")  # a small fold may lack one
        return np.asarray(search.fit(train, targets).predict(test))


def predict_with(
    name: ClassifierName,
    train: Train,
    targets: Targets,
    test: Held,
    *,
    groups: Sequence[Hashable | None],
    seed: int,
) -> Answers:
    """Predicted classes of one classifier by its name.

    Args:
        name: the classifier.
        train: standardised features.
        targets: class numbers from 0, every one present.
        test: features standardised as `train` was.
        groups: the speaker of each training row.
        seed: seed of the folds that settings are chosen on.
    """
    if name == "LDA":
        return predict_lda(train, targets, test)
    predict: Callable[..., Answers] = predict_logistic if name == "logistic" else predict_svm
    return predict(train, targets, test, groups=groups, seed=seed)


def choose_classifier(
    names: Sequence[ClassifierName],
    train: Train,
    targets: Targets,
    *,
    groups: Sequence[Hashable | None],
    seed: int,
) -> ClassifierName:
    """The classifier with the highest balanced accuracy over folds of the shots; see the head of this file.

    Args:
        names: candidates; the first wins ties, and where there are too few shots for folds.
        train: standardised features.
        targets: class numbers from 0, every one present.
        groups: the speaker of each training row.
        seed: seed of the folds.
    """
    chosen, best = names[0], -1.0
    folds = shot_folds(targets, groups, seed=seed)
    for name in names if folds else ():
        hits = np.zeros(len(targets), dtype=bool)
        for fitted, held in folds:
            inner = [groups[i] for i in fitted.tolist()]
            answers = predict_with(name, train[fitted], targets[fitted], train[held], groups=inner, seed=seed)
            hits[held] = answers == targets[held]
        score = float(np.mean([hits[targets == number].mean() for number in np.unique(targets)]))
        if score > best + 1e-9:
            chosen, best = name, score
    return chosen
