"""Purities, PNMI and the effective rank in closed form, and against scikit-learn."""

import numpy as np
import pytest

from speechssl.metrics.unit_quality import effective_rank, unit_quality


def test_counts_of_the_definition():
    units = [0, 0, 0, 1, 1, 2, 2, 2, 9]
    phones = ["a", "a", "b", "b", "b", "c", "c", "a", None]
    found = unit_quality(units, phones)
    assert found.phone_purity == pytest.approx((2 + 2 + 2) / 8)
    assert found.cluster_purity == pytest.approx((2 + 2 + 2) / 8)
    assert (found.frames, found.units, found.phones) == (8, 3, 3)


def test_mutual_information_equals_scikit_learn():
    from sklearn.metrics import mutual_info_score

    rng = np.random.default_rng(0)
    phones = rng.integers(0, 5, 500)
    units = np.where(rng.random(500) < 0.5, phones, rng.integers(0, 12, 500))
    entropy = mutual_info_score(phones, phones)
    found = unit_quality(units.tolist(), [f"p{phone}" for phone in phones])
    assert found.pnmi == pytest.approx(mutual_info_score(phones, units) / entropy)
    assert 0.1 < found.pnmi < 0.9


def test_bounds():
    phones = ["a", "b"] * 10
    assert unit_quality([0] * 20, phones).pnmi == 0
    assert unit_quality([0] * 20, phones).cluster_purity == 1
    assert unit_quality(list(range(20)), phones).pnmi == pytest.approx(1)
    assert unit_quality(list(range(20)), phones).cluster_purity == pytest.approx(0.1)


def test_what_cannot_be_scored_is_refused():
    with pytest.raises(ValueError, match="one phone per unit, got 1 for 2"):
        unit_quality([0, 1], ["a"])
    with pytest.raises(ValueError, match="at least 2 phones, got 1"):
        unit_quality([0, 1], ["a", "a"])
    with pytest.raises(ValueError, match="at least 2 phones, got 0"):
        unit_quality([0], [None])


def test_effective_rank():
    values = np.array([4.0, 2.0, 1.0])
    share = values / values.sum()
    expected = np.exp(-(share * np.log(share)).sum())
    left, _ = np.linalg.qr(np.random.default_rng(2).normal(size=(6, 3)))
    right, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))
    matrix = (left * values) @ right
    assert effective_rank(matrix) == pytest.approx(expected)
    assert effective_rank(7 * matrix) == pytest.approx(expected)  # the scale does not matter
    shifted = np.random.default_rng(4).normal(size=(200, 5)).astype(np.float32) + 1000
    assert effective_rank(shifted) < 1.1  # the mean is one direction
    assert 4.9 < effective_rank(shifted, centre=True) <= 5


@pytest.mark.parametrize("vectors", [np.zeros((3, 2)), np.full((2, 2), np.nan), np.zeros((0, 2))])
def test_vectors_without_a_direction_are_refused(vectors):
    with pytest.raises(ValueError, match=r"finite vectors|no direction"):
        effective_rank(vectors)


def test_equal_vectors_have_no_direction_about_their_mean():
    with pytest.raises(ValueError, match="no direction"):
        effective_rank(np.full((7, 3), 0.1), centre=True)
