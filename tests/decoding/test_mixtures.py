"""Mixtures: likelihoods are those of scikit-learn, re-estimation is the closed form, splitting follows the frames."""

import itertools

import numpy as np
import pytest
from sklearn.mixture import GaussianMixture

from speechssl.decoding.mixtures import LEAST_SPLIT, StateMixtures, Statistics, estimated, split


def two_states(rng):
    weights = np.array([0.3, 0.7, 1.0])
    return StateMixtures(np.array([0, 0, 1]), weights, rng.standard_normal((3, 4)), rng.uniform(0.5, 2.0, size=(3, 4)))


def test_the_likelihoods_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    mixtures, frames = two_states(rng), rng.standard_normal((20, 4))
    found = mixtures.log_probs(frames)
    for state in (0, 1):
        own = mixtures.states == state
        known = GaussianMixture(int(own.sum()), covariance_type="diag")
        known.weights_, known.means_ = mixtures.weights[own], mixtures.means[own]
        known.covariances_ = mixtures.variances[own]
        known.precisions_cholesky_ = 1 / np.sqrt(mixtures.variances[own])
        np.testing.assert_allclose(found[:, state], known.score_samples(frames), rtol=1e-10)


def test_one_gaussian_per_state_becomes_mean_and_variance_of_its_frames():
    rng = np.random.default_rng(1)
    start = StateMixtures(np.arange(2), np.ones(2), np.zeros((2, 3)), np.ones((2, 3)))
    frames, states = rng.normal(5.0, 2.0, size=(90, 3)), np.arange(90) % 2
    found = estimated(start, Statistics.of(start, frames, states), floor=np.full(3, 1e-3), gaussians=2, rng=rng)
    for state in (0, 1):
        np.testing.assert_allclose(found.means[state], frames[states == state].mean(axis=0))
        np.testing.assert_allclose(found.variances[state], frames[states == state].var(axis=0))


def test_statistics_count_frames_of_the_aligned_state_alone():
    rng = np.random.default_rng(2)
    mixtures, frames = two_states(rng), rng.standard_normal((30, 4))
    states = (np.arange(30) % 3 == 0).astype(np.int64)
    found = Statistics.of(mixtures, frames, states)
    assert found.counts[:2].sum() == pytest.approx(20)
    assert found.counts[2] == pytest.approx(10)
    np.testing.assert_allclose(found.sums[2], frames[states == 1].sum(axis=0))
    np.testing.assert_allclose(found.squares[:2].sum(axis=0), (frames[states == 0] ** 2).sum(axis=0))


def test_re_estimation_never_lowers_the_likelihood_and_splitting_raises_it():
    rng = np.random.default_rng(3)
    frames = np.concatenate([rng.normal(-3, 1, (100, 2)), rng.normal(3, 1, (100, 2))])
    states = np.zeros(200, dtype=np.int64)
    mixtures = StateMixtures(np.zeros(1, dtype=np.int64), np.ones(1), np.zeros((1, 2)), np.ones((1, 2)))
    history = []
    for step in range(12):
        found = Statistics.of(mixtures, frames, states)
        mixtures = estimated(mixtures, found, floor=np.full(2, 1e-3), gaussians=1 if step < 2 else 2, rng=rng)
        history.append(mixtures.log_probs(frames).mean())
    assert len(mixtures.states) == 2
    assert all(later >= before - 1e-9 for before, later in itertools.pairwise(history[3:]))
    assert history[-1] > history[1] + 0.4
    assert sorted(mixtures.means[:, 0].round()) == [-3, 3]


def test_states_with_few_frames_are_not_split():
    mixtures = StateMixtures(np.arange(2), np.ones(2), np.zeros((2, 2)), np.ones((2, 2)))
    counts = np.array([10_000.0, LEAST_SPLIT + 1])
    found = split(mixtures, counts, gaussians=9, rng=np.random.default_rng(0))
    assert np.bincount(found.states).tolist() == [8, 1]
    np.testing.assert_allclose(np.bincount(found.states, weights=found.weights), 1.0)


def test_a_gaussian_without_frames_is_removed_unless_it_is_the_last_of_its_state():
    rng = np.random.default_rng(4)
    mixtures = two_states(rng)
    counts = np.array([0.0, 50.0, 0.0])
    found = Statistics(counts, counts[:, None] * mixtures.means, counts[:, None] * (mixtures.means**2 + 1))
    left = estimated(mixtures, found, floor=np.full(4, 1e-3), gaussians=1, rng=rng)
    assert left.states.tolist() == [0, 1]
    np.testing.assert_allclose(left.means[1], mixtures.means[2])
    assert left.weights.tolist() == [1.0, 1.0]
