"""LDA, the choice by folds of the shots, and weighted fusion: closed forms, other implementations, planted blocks."""

import numpy as np
import pytest

from speechssl.experiments.frozen_answers import predict_self_trained
from speechssl.metrics.classification import uar
from speechssl.metrics.fusion import block_weights, fuse
from speechssl.metrics.shot_classifiers import choose_classifier, lda_scores, predict_lda, predict_svm, predict_with

LINEAR = ("LDA", "logistic")


def shots(*, classes=3, per_class=24, dim=6, speakers=6, distance=2.0, seed=0):
    """Gaussian classes; every speaker has some of each class."""
    rng = np.random.default_rng(seed)
    targets = np.repeat(np.arange(classes), per_class)
    means = distance * rng.normal(size=(classes, dim)) / dim**0.5
    groups = [f"s{i % speakers}" for i in range(len(targets))]
    return means[targets] + rng.normal(size=(len(targets), dim)), targets, groups


def test_two_classes_with_equal_covariance_are_divided_by_fishers_direction():
    rng = np.random.default_rng(0)
    shape = np.array([[2.0, 0.9], [0.0, 0.5]])
    targets = np.arange(20000) % 2
    features = rng.normal(size=(20000, 2)) @ shape + np.array([1.0, -1.0]) * targets[:, None]
    scores = lda_scores(features, targets, np.array([[0.3, 0.2]]))
    log_odds = scores[0, 1] - scores[0, 0]
    direction = np.linalg.solve(shape.T @ shape, [1.0, -1.0])
    assert log_odds == pytest.approx(direction @ (np.array([0.3, 0.2]) - [0.5, -0.5]), abs=0.1)
    assert np.exp(scores).sum() == pytest.approx(1)


@pytest.mark.parametrize("classes", [2, 3])
def test_more_dimensions_than_shots_are_no_obstacle(classes):
    features, targets, _ = shots(classes=classes, per_class=4, dim=200, distance=20)
    held, truth, _ = shots(classes=classes, per_class=50, dim=200, distance=20)
    assert uar(truth.tolist(), predict_lda(features, targets, held).tolist()) > 0.95


def test_classes_of_different_sizes_count_the_same():
    rng = np.random.default_rng(0)
    targets = np.repeat([0, 1], [200, 10])
    features = rng.normal(size=(210, 2)) + 2 * targets[:, None]
    middle = (features[targets == 0].mean(axis=0) + features[targets == 1].mean(axis=0)) / 2
    scores = lda_scores(features, targets, middle[None])
    assert scores[0, 0] == pytest.approx(scores[0, 1], abs=1e-6)


def test_one_shot_per_class_gives_the_nearest_mean():
    features = np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]])
    held = np.array([[1.9, 0.0], [2.1, 0.0], [0.1, 3.0]])
    assert predict_lda(features, np.arange(3), held).tolist() == [0, 1, 2]


def test_the_choice_is_the_classifier_that_is_better_out_of_fold():
    rng = np.random.default_rng(0)
    targets = np.arange(120) % 2
    radius = np.where(targets == 0, 0.5, 3.0)  # a circle within a ring: no line divides them
    angle = rng.uniform(0, 2 * np.pi, size=120)
    ring = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    groups = [f"s{i // 2 % 6}" for i in range(120)]
    assert choose_classifier((*LINEAR, "SVM"), ring, targets, groups=groups, seed=0) == "SVM"
    line, targets, groups = shots(distance=9)
    assert choose_classifier(LINEAR, line, targets, groups=groups, seed=0) == "LDA"  # both right: the first
    assert choose_classifier(LINEAR[::-1], line, targets, groups=groups, seed=0) == "logistic"
    assert choose_classifier(LINEAR, line[::24], targets[::24], groups=groups[::24], seed=0) == "LDA"  # no folds


def test_a_classifier_by_its_name_is_that_classifier():
    features, targets, groups = shots()
    held, _, _ = shots(seed=1)
    found = {name: predict_with(name, features, targets, held, groups=groups, seed=0) for name in (*LINEAR, "SVM")}
    assert (found["LDA"] == predict_lda(features, targets, held)).all()
    assert (found["SVM"] == predict_svm(features, targets, held, groups=groups, seed=0)).all()
    assert (found["logistic"] != found["SVM"]).any()


def test_a_block_that_knows_speakers_only_does_no_harm():
    good, targets, groups = shots(distance=4)
    other = {f"s{number}": np.random.default_rng(number).permutation(3) for number in range(6)}
    means = 20 * np.eye(3)  # each speaker has another order of the classes: certain, and wrong for the next speaker
    confused = means[[other[group][target] for group, target in zip(groups, targets.tolist(), strict=True)]]
    confused = confused + np.random.default_rng(0).normal(size=confused.shape)
    held, truth, _ = shots(distance=4)
    noise = means[np.random.default_rng(7).integers(3, size=len(held))]
    alone = uar(truth.tolist(), predict_lda(good, targets, held).tolist())
    found = fuse([confused, good], targets, [noise, held], groups=groups, seed=0)
    assert found.weights.sum() == pytest.approx(1)
    assert uar(truth.tolist(), found.scores.argmax(axis=1).tolist()) > alone - 0.03
    assert np.exp(found.scores).sum(axis=1) == pytest.approx(np.ones(len(truth)))


def test_two_halves_of_the_evidence_are_better_than_one():
    features, targets, groups = shots(dim=8, distance=2.5)
    held, truth, _ = shots(dim=8, per_class=200, distance=2.5)
    score = {
        name: uar(truth.tolist(), scores.argmax(axis=1).tolist())
        for name, scores in {
            "first": lda_scores(features[:, :4], targets, held[:, :4]),
            "second": lda_scores(features[:, 4:], targets, held[:, 4:]),
            "fused": fuse([features[:, :4], features[:, 4:]], targets, [held[:, :4], held[:, 4:]], groups=groups,
                          seed=0).scores,
        }.items()
    }  # fmt: skip
    assert score["fused"] > max(score["first"], score["second"]) + 0.02


def test_equal_blocks_and_too_few_shots_have_equal_weights():
    features, targets, groups = shots()
    same = fuse([features, features], targets, [features, features], groups=groups, seed=0)
    assert same.weights.tolist() == [0.5, 0.5]
    few = fuse([features[::24]] * 3, targets[::24], [features] * 3, groups=groups[::24], seed=0)
    assert few.weights == pytest.approx(np.full(3, 1 / 3))


def test_a_small_advantage_does_not_move_the_weights():
    targets = np.repeat([0, 1], 50)
    right = np.where(np.arange(2) == targets[:, None], 0.0, -1.0)  # (rows, classes)
    wrong = right.copy()
    wrong[:2] = right[:2, ::-1] * 30  # two errors in a hundred, of great certainty
    assert block_weights(np.stack([right, wrong]), targets).tolist() == [0.5, 0.5]
    wrong[:40] = right[:40, ::-1] * 30
    assert block_weights(np.stack([right, wrong]), targets).tolist() == [1.0, 0.0]


def test_equal_shots_of_a_class_still_tell_the_classes_apart():
    """Their covariance is zero, with which LDA's scores would all be equal and the first class always the answer."""
    shots = np.repeat(np.array([[1.0, 2.0, 0.0], [-1.0, 0.0, 3.0]]), 4, axis=0)
    scores = lda_scores(shots, np.repeat([0, 1], 4), shots[[0, 4]] + 0.1)
    assert scores.argmax(axis=1).tolist() == [0, 1]
    assert scores.max() > np.log(0.6)


def test_self_training_on_fewer_recordings_than_shots():
    shots = np.array([[1.0, 0.0], [1.2, 0.1], [0.8, 0.2], [-1.0, 0.0], [-1.2, 0.1], [-0.8, 0.2]])
    answers = predict_self_trained(shots, np.repeat([0, 1], 3), shots, shots[[0, 3]] * 1.1)  # warnings are errors
    assert answers.tolist() == [0, 0, 0, 1, 1, 1]
