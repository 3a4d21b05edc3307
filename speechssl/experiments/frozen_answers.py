"""Answers of the contenders that train no network, from their features (`contenders.RECIPES`)."""

from collections.abc import Hashable, Sequence

import numpy as np
from jaxtyping import Float, Int

from speechssl.experiments.contenders import RECIPES
from speechssl.experiments.frozen_features import Features
from speechssl.metrics.fusion import fuse
from speechssl.metrics.shot_classifiers import choose_classifier, predict_with

_ROUNDS = 5  # of self-training; each adds as many recordings as there are shots

Block = Float[np.ndarray, "rows dim"]


def answer_frozen(
    contender: str,
    blocks: Sequence[Features],
    *,
    train: Int[np.ndarray, " trains"],
    targets: Sequence[str],
    test: Int[np.ndarray, " tests"],
    speakers: Sequence[str | None],
    seed: int,
    pool: Int[np.ndarray, " pool"] | None = None,
) -> list[str]:
    """Fit the contender on the training utterances and name the class of each test utterance.

    Args:
        contender: a name in RECIPES.
        blocks: its features, one row per utterance of the corpus.
        train: training utterances.
        targets: their classes.
        test: test utterances.
        speakers: speaker of every utterance of the corpus.
        seed: seed of the folds that settings are chosen on.
        pool: unlabelled utterances of the training side; None: none. Only self-training uses them.
    """
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    recipe = RECIPES[contender]
    classes = sorted(set(targets))
    numbers = np.array([classes.index(name) for name in targets])
    groups: list[Hashable] = [speakers[i] for i in train.tolist()]
    rest = np.array([], dtype=np.int64) if pool is None else pool
    with threadpool_limits(limits=1):
        sides: list[list[Block]] = [[], [], []]
        for block in blocks:
            scaler = StandardScaler().fit(block[train].astype(np.float64))
            for side, rows in zip(sides, (train, test, rest), strict=True):
                side.append(np.asarray(scaler.transform(block[rows].astype(np.float64))) if len(rows) else block[rows])
        fitted, held, unlabelled = sides
        if recipe.method == "fused":
            answers = fuse(fitted, numbers, held, groups=groups, seed=seed).scores.argmax(axis=1)
        elif recipe.method == "self-training":
            answers = predict_self_trained(fitted[0], numbers, held[0], unlabelled[0])
        else:
            name = recipe.method
            if name == "chosen":
                name = choose_classifier(recipe.among, fitted[0], numbers, groups=groups, seed=seed)
            answers = predict_with(name, fitted[0], numbers, held[0], groups=groups, seed=seed)
    return [classes[number] for number in answers.tolist()]


def predict_self_trained(
    train: Float[np.ndarray, "trains dim"],
    targets: Int[np.ndarray, " trains"],
    test: Float[np.ndarray, "tests dim"],
    pool: Float[np.ndarray, "pool dim"],
) -> Int[np.ndarray, " tests"]:
    """Answers of an LDA that is fitted again on its most confident answers for the pool; scikit-learn's wrapper.

    Args:
        train: standardised features.
        targets: class numbers from 0, every one present.
        test: features standardised as `train` was.
        pool: the same, unlabelled; may be empty.
    """
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.semi_supervised import SelfTrainingClassifier

    from speechssl.metrics.shot_classifiers import predict_lda

    if not len(pool) or np.bincount(targets).min() < 2:
        return predict_lda(train, targets, test)
    classes = len(np.unique(targets))
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto", priors=np.full(classes, 1 / classes))
    both = np.concatenate([train, pool])
    known = np.concatenate([targets, np.full(len(pool), -1)])
    added = min(len(train), len(pool))
    trained = SelfTrainingClassifier(model, criterion="k_best", k_best=added, max_iter=_ROUNDS).fit(both, known)
    return np.asarray(trained.predict(test))
