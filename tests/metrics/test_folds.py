"""Folds are speaker-disjoint and whole, shots nested and independent of the manifest's order, leaks named."""

import numpy as np
import pytest

from speechssl.config import UserError
from speechssl.metrics.folds import make_folds, refuse_shared_speaker
from speechssl.metrics.shots import ALL, few_labels, read_shots


def corpus(speakers=10, classes=3, takes=6):
    rows = [(f"s{s}", f"c{c}", f"s{s}/c{c}-{t}") for s in range(speakers) for c in range(classes) for t in range(takes)]
    who, labels, ids = (list(column) for column in zip(*rows, strict=True))
    return labels, who, ids


def drawn(*, order=None, shots=(1, 5, ALL), **words):
    labels, who, ids = corpus()
    order = range(len(ids)) if order is None else order
    labels, who, ids = ([column[i] for i in order] for column in (labels, who, ids))
    return few_labels(labels, who, ids=ids, shots=shots, **words)


def named(task, shots):
    return [([task.ids[i] for i in draw.train(shots)], sorted(task.ids[i] for i in draw.test)) for draw in task.draws]


def test_five_draws_test_every_speaker_once():
    task = drawn()
    assert task.rule == "5 speaker-disjoint folds"
    tested = [i for draw in task.draws for i in draw.test.tolist()]
    assert sorted(tested) == list(range(180))
    for draw in task.draws:
        train = {task.speakers[i] for i in draw.train(ALL).tolist()}
        test = {task.speakers[i] for i in draw.test.tolist()}
        assert (len(train), len(test), train & test) == (8, 2, set())
        assert len(draw.train(ALL)) + len(draw.test) == 180


def test_ten_draws_are_two_different_partitions():
    task = drawn(draws=10)
    assert [draw.partition for draw in task.draws] == [0] * 5 + [1] * 5
    folds = [{frozenset(task.speakers[i] for i in draw.test.tolist()) for draw in part} for part in
             (task.draws[:5], task.draws[5:])]  # fmt: skip
    assert folds[0] != folds[1]
    assert named(drawn(draws=5), 5) == named(task, 5)[:5]


def test_shots_are_nested_and_balanced():
    for draw in drawn().draws:
        few, more, everything = (set(draw.train(shots).tolist()) for shots in (1, 5, ALL))
        assert few < more < everything
        assert (len(few), len(more), len(everything)) == (3, 15, 144)


def test_the_order_of_the_manifest_does_not_matter():
    shuffled = np.random.default_rng(1).permutation(180).tolist()
    assert named(drawn(), 5) == named(drawn(order=shuffled), 5)
    assert named(drawn(test_limit=20), 5) == named(drawn(order=shuffled, test_limit=20), 5)
    assert drawn().split_hash(5) == drawn(order=shuffled).split_hash(5)


def test_other_levels_do_not_change_the_shots():
    assert named(drawn(shots=[1]), 1) == named(drawn(shots=[1, 5, ALL]), 1)


def test_the_hash_tells_levels_and_draws_apart():
    task = drawn()
    hashes = {task.split_hash(1), task.split_hash(5), task.split_hash(ALL), drawn(draws=10).split_hash(1)}
    assert len(hashes) == 4
    assert all(len(each) == 16 for each in hashes)


def test_few_speakers_are_left_out_one_by_one():
    labels, who, ids = corpus(speakers=4)
    task = few_labels(labels, who, ids=ids, shots=[2], draws=4)
    assert task.rule == "leave one speaker out"
    assert [{task.speakers[i] for i in draw.test.tolist()} for draw in task.draws] == [{f"s{n}"} for n in range(4)]


def test_sessions_are_left_out_one_by_one_and_hold_their_speakers():
    labels, who, ids = corpus(speakers=6)
    sessions = [f"session {int(name[1:]) // 2}" for name in who]
    task = few_labels(labels, who, ids=ids, shots=[2], sessions=sessions, draws=3)
    assert task.rule == "leave one session out"
    assert [{task.speakers[i] for i in draw.test.tolist()} for draw in task.draws] == [
        {"s0", "s1"}, {"s2", "s3"}, {"s4", "s5"}]  # fmt: skip
    sessions[0] = "session 2"
    with pytest.raises(ValueError, match="speaker 's0' is in two sessions"):
        make_folds(labels, who, sessions=sessions)


def test_draws_are_rounded_up_to_whole_partitions_or_told_to_be_partial():
    task = drawn(draws=7)
    assert len(task.draws) == 10
    assert "10 draws instead of 7" in task.notes[0]
    task = drawn(draws=2)
    assert len(task.draws) == 2
    assert "2 of 5 folds" in task.notes[0]


def test_folds_are_balanced_by_class():
    rng = np.random.default_rng(0)
    labels, who = [], []
    for speaker in range(20):
        for name, count in zip("ab", rng.integers(2, 20, size=2), strict=True):
            labels += [name] * count
            who += [f"s{speaker}"] * count
    folded = make_folds(labels, who)
    for name in "ab":
        sizes = np.bincount(folded.of[[label == name for label in labels]], minlength=5)
        assert sizes.max() < 1.5 * sizes.min()


def test_a_level_that_cannot_be_filled_is_left_out_with_a_note():
    task = drawn(shots=[5, 100, ALL])
    assert task.levels == (5, ALL)
    assert "100 shots left out, class 'c0' has only 48 training utterances" in task.notes[-1]
    with pytest.raises(ValueError, match="no number of shots can be filled: class 'c0' has only 48"):
        drawn(shots=[100])


def test_who_cannot_take_part_is_told():
    labels, who, ids = corpus()
    labels[0] = "rare"
    who[1] = None
    task = few_labels(labels, who, ids=ids, shots=[1])
    assert task.notes[:2] == (
        "left out, with one speaker only: 'rare'",
        "1 labelled utterances without a speaker left out",
    )
    assert task.targets[:3] == (None, None, "c0")
    assert not {0, 1} & set(task.utterances().tolist())


def test_the_test_side_is_cut_with_equal_shares():
    task = drawn(test_limit=12)
    for draw in task.draws:
        assert [sum(task.targets[i] == name for i in draw.test.tolist()) for name in task.classes] == [4, 4, 4]


def test_a_shared_speaker_is_named():
    with pytest.raises(ValueError, match="1 speaker is on both the training and the test side, for example 'ben'"):
        refuse_shared_speaker(np.array([0, 1]), np.array([2, 3]), speakers=["anna", "ben", "ben", "carl"])
    with pytest.raises(ValueError, match="without a speaker"):
        refuse_shared_speaker(np.array([0]), np.array([1]), speakers=["anna", None])


def test_what_cannot_be_is_named():
    labels, who, ids = corpus()
    with pytest.raises(ValueError, match="at least 2 classes"):
        few_labels(["a"] * 180, who, ids=ids, shots=[1])
    with pytest.raises(ValueError, match="at least 2 classes"):
        few_labels(labels, ["s0"] * 180, ids=ids, shots=[1])
    with pytest.raises(ValueError, match="different ids"):
        few_labels(labels, who, ids=["same"] * 180, shots=[1])
    with pytest.raises(ValueError, match="must be positive"):
        few_labels(labels, who, ids=ids, shots=[])


@pytest.mark.parametrize("text", ["", "5,", "0", "-1", "5 10", "alle", "1.5"])
def test_shots_that_are_none_are_refused(text):
    with pytest.raises(UserError, match="whole numbers or all"):
        read_shots(text)
