"""Equal error rates: a slow definition, closed forms, and trials that are balanced whatever the speakers have."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechssl.metrics.verification import (
    Trials,
    cosine_scores,
    draw_trials,
    equal_error_rate,
    verification_gain,
    verification_interval,
)


def slow_rate(scores: list[float], same: list[bool]) -> float:
    """Both errors at every threshold by counting; straight lines between neighbours, until they cross."""
    before = (0.0, 1.0)
    for threshold in sorted(set(scores), reverse=True):
        accepted = [score >= threshold for score in scores]
        false = sum(a and not s for a, s in zip(accepted, same, strict=True)) / same.count(False)
        missed = sum(s and not a for a, s in zip(accepted, same, strict=True)) / same.count(True)
        if false >= missed:
            gap, last = false - missed, before[0] - before[1]
            return before[0] + (false - before[0]) * (0 - last) / (gap - last)
        before = (false, missed)
    raise AssertionError("all trials are accepted at the lowest score")


@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=30))
def test_the_slow_definition(trials: list[tuple[int, bool]]) -> None:
    scores, same = [float(score) for score, _ in trials], [one for _, one in trials]
    if len(set(same)) == 2:
        found = equal_error_rate(np.array(scores), np.array(same))
        assert found == pytest.approx(slow_rate(scores, same), abs=1e-12)
        assert equal_error_rate(-np.array(scores), np.array(same)) == pytest.approx(1 - found, abs=1e-12)


def test_two_normal_distributions() -> None:
    """Of unit variance and means 2 apart the errors are equal at the middle: the tail of a normal beyond 1."""
    rng = np.random.default_rng(0)
    scores = np.concatenate([rng.normal(2, 1, 50_000), rng.normal(0, 1, 50_000)])
    assert equal_error_rate(scores, np.arange(100_000) < 50_000) == pytest.approx(0.158655, abs=0.003)


def test_trials_are_balanced_by_speaker() -> None:
    speakers = ["many"] * 500 + ["few"] * 2 + ["other"] * 2 + ["once"] + [None] * 50
    trials = draw_trials(speakers, count=3000, seed=1)
    assert trials.same.sum() == 1500
    first, second = (np.array([speakers[i] for i in side]) for side in (trials.first, trials.second))
    assert ((first == second) == trials.same).all()
    assert (trials.first != trials.second).all()
    assert not {None, "once"} & set(first[trials.same])
    for name in ("many", "few", "other"):
        assert (first[trials.same] == name).mean() == pytest.approx(1 / 3, abs=0.05)
    again = draw_trials(speakers, count=3000, seed=1)
    assert (again.first == trials.first).all()
    assert (draw_trials(speakers, count=3000, seed=2).first != trials.first).any()


def test_vectors_of_speakers_give_an_interval_that_resamples_speakers() -> None:
    """Half of the speakers are recognised without an error, the others by chance: far wider than over trials."""
    rng = np.random.default_rng(0)
    speakers = [f"s{index // 20}" for index in range(240)]
    centres = rng.normal(size=(12, 64)) * (np.arange(12) < 6)[:, None]
    vectors = np.repeat(centres, 20, axis=0) + 0.1 * rng.normal(size=(240, 64))
    trials = draw_trials(speakers)
    found = verification_interval(cosine_scores(vectors, trials), trials, speakers)
    assert found.low < found.value < found.high
    assert found.value == pytest.approx(equal_error_rate(cosine_scores(vectors, trials), trials.same))
    assert found.high - found.low > 4 * np.sqrt(found.value * (1 - found.value) / len(trials.same))
    assert verification_interval(cosine_scores(vectors, trials), trials, speakers) == found


def test_a_gain_is_paired_by_the_draws_of_speakers() -> None:
    """Two vectors that err alike have nearly no interval of their difference, however wide their own ones are."""
    rng = np.random.default_rng(0)
    speakers = [f"s{index // 20}" for index in range(240)]
    centres = rng.normal(size=(12, 64)) * (np.arange(12) < 6)[:, None]
    vectors = np.repeat(centres, 20, axis=0) + 0.1 * rng.normal(size=(240, 64))
    trials = draw_trials(speakers)
    scores = cosine_scores(vectors, trials)
    alike = cosine_scores(vectors + 1e-3 * rng.normal(size=(240, 64)), trials)
    worse = rng.normal(size=len(scores))
    rates = [equal_error_rate(each, trials.same) for each in (scores, alike, worse)]
    found = verification_gain(scores, worse, trials, speakers)
    assert found.value == pytest.approx(rates[2] - rates[0])
    assert 0 < found.low < found.value < found.high
    mirrored = verification_gain(worse, scores, trials, speakers)
    assert [mirrored.value, mirrored.low, mirrored.high] == pytest.approx([-found.value, -found.high, -found.low])
    own, close = verification_interval(scores, trials, speakers), verification_gain(scores, alike, trials, speakers)
    assert close.high - close.low < (own.high - own.low) / 5


def test_a_speaker_who_is_drawn_twice_counts_twice() -> None:
    """Trials written down as often as their speakers are drawn give the same interval."""
    rng = np.random.default_rng(3)
    speakers = [f"s{index // 3}" for index in range(15)]
    trials = draw_trials(speakers, count=60)
    scores = rng.normal(size=60) + trials.same
    drawn = np.random.default_rng(0).multinomial(5, np.full(5, 0.2), size=100)
    rates: list[float] = []
    for draw in drawn.tolist():
        rows = [
            row
            for row in range(60)
            for _ in range(draw[trials.first[row] // 3] * (1 if trials.same[row] else draw[trials.second[row] // 3]))
        ]
        if len(set(trials.same[rows])) == 2:
            rates.append(equal_error_rate(scores[rows], trials.same[rows]))
    found = verification_interval(scores, trials, speakers, replicates=100)
    assert [found.low, found.high] == pytest.approx(np.quantile(rates, [0.025, 0.975]).tolist())


def test_cosine() -> None:
    trials = Trials(np.array([0, 0, 0]), np.array([1, 2, 3]), np.array([True, False, False]))
    vectors = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0], [0.0, 0.0]])
    assert cosine_scores(vectors, trials).tolist() == [1.0, 0.0, 0.0]


def test_refused() -> None:
    with pytest.raises(ValueError, match="two speakers with two recordings each, found 1"):
        draw_trials(["a", "a", "b", None])
    with pytest.raises(ValueError, match="trials of one speaker and trials of two"):
        equal_error_rate(np.ones(2), np.array([True, True]))
    with pytest.raises(ValueError, match="1 scores are not finite"):
        equal_error_rate(np.array([1.0, np.nan]), np.array([True, False]))
