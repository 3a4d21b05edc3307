"""Scores against scikit-learn and slow loops, intervals against closed forms."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from speechssl.metrics import classification as scores

PAIRS = st.integers(1, 60).flatmap(
    lambda n: st.tuples(
        st.lists(st.sampled_from("abcd"), min_size=n, max_size=n),
        st.lists(st.sampled_from("abcd"), min_size=n, max_size=n),
    )
)


@given(PAIRS)
def test_metrics_are_those_of_scikit_learn(pair):
    truth, predicted = pair
    recalls = metrics.recall_score(truth, predicted, labels=sorted(set(truth)), average="macro", zero_division=0)
    assert math.isclose(scores.uar(truth, predicted), recalls)
    assert math.isclose(scores.wa(truth, predicted), metrics.accuracy_score(truth, predicted))
    expected = metrics.f1_score(truth, predicted, average="macro", zero_division=0)
    assert math.isclose(scores.macro_f1(truth, predicted), expected)
    classes = sorted({*truth, *predicted})
    matrix = scores.confusion(truth, predicted, classes=classes)
    slow = [[sum(pair == (t, p) for pair in zip(truth, predicted, strict=True)) for p in classes] for t in classes]
    assert matrix.tolist() == slow
    if len(classes) > 1:  # scikit-learn warns about a single one
        assert matrix.tolist() == metrics.confusion_matrix(truth, predicted, labels=classes).tolist()


def test_uar_is_the_mean_recall_by_hand():
    truth = ["a"] * 90 + ["b"] * 10
    predicted = ["a"] * 81 + ["b"] * 9 + ["b"] * 5 + ["a"] * 5
    assert scores.uar(truth, predicted) == pytest.approx((0.9 + 0.5) / 2)
    assert scores.wa(truth, predicted) == pytest.approx(0.86)


def test_a_value_outside_the_classes_is_named():
    with pytest.raises(ValueError, match="class 'c' is not among the given classes"):
        scores.confusion(["a"], ["c"], classes=["a", "b"])


@pytest.mark.parametrize("call", [scores.uar, scores.wa, scores.macro_f1])
def test_lengths_are_checked(call):
    with pytest.raises(ValueError, match="got 2 and 1"):
        call(["a", "b"], ["a"])
    with pytest.raises(ValueError, match="got 0 and 0"):
        call([], [])


def noisy(groups, per_group, rng, *, by_group=0.0):
    """Two balanced classes, answers right with probability 0.7, moved per group by a normal step."""
    truth, predicted, members = [], [], []
    for group in range(groups):
        hit = np.clip(0.7 + by_group * rng.normal(), 0, 1)
        for number in range(per_group):
            target = "ab"[number % 2]
            truth.append(target)
            predicted.append(target if rng.random() < hit else "ba"[number % 2])
            members.append(f"s{group}")
    return scores.count(truth, predicted, groups=members)


def test_interval_of_accuracy_is_that_of_the_binomial():
    counts = noisy(400, 1, np.random.default_rng(0))  # one utterance a group: groups are independent coin throws
    interval = scores.bootstrap_interval(counts, "WA", replicates=4000)
    value = interval.value
    half = 1.96 * math.sqrt(value * (1 - value) / 400)
    assert interval.low == pytest.approx(value - half, abs=0.006)
    assert interval.high == pytest.approx(value + half, abs=0.006)


def test_whole_groups_are_resampled():
    """Answers that agree within a group carry no more than the group does: sqrt(20) times the naive width."""
    truth = [name for _ in range(40) for name in ["a", "b"] * 10]
    rng = np.random.default_rng(1)
    right = rng.random(40) < 0.7
    predicted = [t if right[i // 20] else "ba"["ab".index(t)] for i, t in enumerate(truth)]
    counts = scores.count(truth, predicted, groups=[f"s{i // 20}" for i in range(800)])
    interval = scores.bootstrap_interval(counts, "UAR", replicates=4000)
    half = 1.96 * math.sqrt(interval.value * (1 - interval.value) / 40)
    assert interval.high - interval.low == pytest.approx(2 * half, rel=0.1)


def test_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(2)
    inside = 0
    for trial in range(200):
        interval = scores.bootstrap_interval(noisy(40, 6, rng, by_group=0.1), "UAR", seed=trial, replicates=300)
        inside += interval.low <= 0.7 <= interval.high
    assert 0.88 <= inside / 200 <= 0.99


def test_one_seed_gives_one_interval_and_order_does_not_matter():
    truth, predicted, groups = list("abab" * 20), list("abba" * 20), [f"s{i % 7}" for i in range(80)]
    counts = scores.count(truth, predicted, groups=groups)
    order = np.random.default_rng(0).permutation(80)
    shuffled = scores.count([truth[i] for i in order], [predicted[i] for i in order], groups=[groups[i] for i in order])
    one = scores.bootstrap_interval(counts, "UAR", seed=3)
    assert one == scores.bootstrap_interval(shuffled, "UAR", seed=3)
    assert one != scores.bootstrap_interval(counts, "UAR", seed=4)


def test_a_speaker_under_several_seeds_stays_one_speaker():
    """Five repetitions with equal answers say no more than one: the interval must not shrink."""
    rng = np.random.default_rng(5)
    one = noisy(30, 8, rng, by_group=0.2)
    five = scores.GroupCounts(*(np.repeat(field, 5, axis=0) for field in (one.correct, one.truth, one.predicted)))
    single = scores.bootstrap_interval(one, "UAR", replicates=4000)
    repeated = scores.bootstrap_interval(five, "UAR", replicates=4000)
    assert repeated.value == pytest.approx(single.value)
    assert repeated.high - repeated.low == pytest.approx(single.high - single.low, rel=0.1)


def test_resampling_classes_counts_a_class_drawn_twice_twice():
    """Recalls 0 and 1 in equal numbers: the mean of n draws has standard error 0.5 / sqrt(n)."""
    names = [f"v{i:03d}" for i in range(100)]
    predicted = [name if number % 2 else names[0] for number, name in enumerate(names)]
    predicted[0] = names[1]
    counts = scores.count(names, predicted, groups=names)
    interval = scores.bootstrap_interval(counts, "UAR", resample="classes", replicates=4000)
    assert interval.value == 0.5
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * 0.05, rel=0.08)


def test_paired_difference_is_narrower_than_the_two_intervals():
    rng = np.random.default_rng(6)
    groups = np.repeat([f"s{i:02d}" for i in range(30)], 20).tolist()
    skill = np.repeat(rng.uniform(0.3, 0.9, 30), 20)  # hard and easy speakers, for both contenders
    truth = list("ab" * 300)
    flip = {"a": "b", "b": "a"}
    luck = rng.random(600)
    weak = [t if u < p else flip[t] for t, u, p in zip(truth, luck, skill, strict=True)]
    strong = [t if u < p + 0.05 else flip[t] for t, u, p in zip(truth, luck, skill, strict=True)]
    a, b = scores.count(truth, strong, groups=groups), scores.count(truth, weak, groups=groups)
    difference = scores.bootstrap_difference(a, b, metric="UAR")
    assert 0 < difference.low < difference.value < difference.high < 0.2
    assert difference.value == pytest.approx(scores.uar(truth, strong) - scores.uar(truth, weak))
    assert scores.bootstrap_interval(a, "UAR").overlaps(scores.bootstrap_interval(b, "UAR"))


def test_a_pair_must_share_its_test_utterances():
    a = scores.count(["a", "b"], ["a", "b"], groups=["s", "t"])
    b = scores.count(["a", "a"], ["a", "b"], groups=["s", "t"])
    with pytest.raises(ValueError, match="the same seeds, speakers and classes"):
        scores.bootstrap_difference(a, b, metric="UAR")


def test_an_interval_over_one_group_is_refused():
    with pytest.raises(ValueError, match=r"at least 2 speakers .*, got 1"):
        scores.bootstrap_interval(scores.count(["a", "b"], ["a", "b"]), "UAR")


def test_a_speaker_missing_under_a_seed_and_a_class_missing_in_a_draw_are_no_trouble():
    counts = scores.count_repetitions(
        [["a", "b"], ["a", "b"]],
        [["a", "b"], ["b", "b"]],
        groups=[["s", "t"], ["u", "u"]],
        classes=["a", "b"],
        group_names=["s", "t", "u"],
    )
    interval = scores.bootstrap_interval(counts, "UAR")
    assert interval.value == pytest.approx(0.75)
    assert 0 <= interval.low <= interval.high <= 1
