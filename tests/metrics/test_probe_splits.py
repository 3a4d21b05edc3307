"""Splits: disjoint groups, nested shots, every class on both sides, and errors where that is impossible."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechssl.metrics.probe_splits import make_task, refuse_leak


def corpus(speakers=8, classes=3, each=6):
    """Every speaker says every class `each` times; texts repeat over speakers."""
    rows = [(f"c{c}", f"s{s}", f"text {e % 4}") for s in range(speakers) for c in range(classes) for e in range(each)]
    labels, names, texts = zip(*rows, strict=True)
    return {"labels": labels, "speakers": names, "texts": texts}


@given(
    rows=st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9)), min_size=60, max_size=120),
    shots=st.lists(st.integers(1, 4), min_size=1, max_size=3),
)
def test_no_speaker_is_ever_on_both_sides_and_every_class_is(rows, shots):
    labels = [label for label, _ in rows]
    speakers = [f"s{speaker}" for _, speaker in rows]
    try:
        task = make_task("label", labels=labels, speakers=speakers, texts=[None] * len(rows), shots=shots, seeds=2)
    except ValueError:
        return  # too little of a class: refused with its name, which is tested below
    for split in task.splits:
        train = split.shots.ravel()
        assert not {speakers[i] for i in train} & {speakers[i] for i in split.test}
        assert {labels[i] for i in split.test} == set(task.classes)
        assert [[labels[i] for i in row] for row in split.shots] == [[c] * max(task.shots) for c in task.classes]
        assert len(set(train.tolist())) == len(train)


def test_about_half_of_the_speakers_train():
    data = corpus(speakers=9)
    task = make_task("label", **data, shots=[1])
    for split in task.splits:
        tested = {data["speakers"][i] for i in split.test}
        assert len(tested) in (4, 5)


def test_shots_are_nested():
    data = corpus()
    small = make_task("label", **data, shots=[2, 5])
    for split in small.splits:
        assert split.shots.shape == (3, 5)
        assert set(split.shots[:, :2].ravel().tolist()) <= set(split.shots.ravel().tolist())


def test_the_draw_depends_on_the_seed_and_the_manifest_only():
    data = corpus()
    one, two = make_task("label", **data, shots=[5]), make_task("label", **data, shots=[5])
    for a, b in zip(one.splits, two.splits, strict=True):
        np.testing.assert_array_equal(a.shots, b.shots)
        np.testing.assert_array_equal(a.test, b.test)
    assert len({split.shots.tobytes() for split in one.splits}) == 5


def test_voices_are_told_apart_by_other_texts():
    data = corpus(each=12)
    task = make_task("speaker", **data, shots=[3])
    assert task.rule == "texts disjoint"
    assert task.classes == tuple(sorted(set(data["speakers"])))
    for split in task.splits:
        heard = {data["texts"][i] for i in split.shots.ravel()}
        assert not heard & {data["texts"][i] for i in split.test}


def test_the_same_words_in_other_letters_are_the_same_text():
    data = corpus(each=12)
    texts = [text.upper() if number // 12 % 2 else f" {text}  " for number, text in enumerate(data["texts"])]
    task = make_task("speaker", **{**data, "texts": texts}, shots=[3])
    words = [" ".join(text.lower().split()) for text in texts]
    for split in task.splits:
        assert not {words[i] for i in split.shots.ravel()} & {words[i] for i in split.test}


def test_without_texts_voices_are_divided_by_utterance_and_the_row_says_so():
    data = corpus()
    task = make_task("speaker", **{**data, "texts": [None] * len(data["labels"])}, shots=[3])
    assert task.rule == "utterances disjoint"
    for split in task.splits:
        assert not set(split.shots.ravel().tolist()) & set(split.test.tolist())


def test_a_planted_leak_is_refused_by_name():
    with pytest.raises(ValueError, match=r"2 speakers are on both .* for example 'anna'"):
        refuse_leak(np.array([0, 1, 2]), np.array([3, 4]), groups=["anna", "ben", "carl", "ben", "anna"])
    refuse_leak(np.array([0, 1, 2]), np.array([3, 4]), groups=["anna", "ben", "carl", "dora", "emma"])


def test_a_rare_class_of_two_speakers_lands_on_both_sides():
    data = corpus(speakers=20)
    labels = list(data["labels"])
    owners = [i for i, s in enumerate(data["speakers"]) if s in ("s3", "s17")]
    for number in owners[::2]:
        labels[number] = "rare"
    task = make_task("label", **{**data, "labels": labels}, shots=[2])
    assert "rare" in task.classes
    for split in task.splits:
        assert "rare" in {labels[i] for i in split.test}


def test_a_class_with_too_little_is_left_out_loudly():
    data = corpus()
    labels = [*data["labels"], "lonely", "lonely"]
    speakers = [*data["speakers"], "s0", "s1"]
    task = make_task("label", labels=labels, speakers=speakers, texts=[None] * len(labels), shots=[5])
    assert "lonely" not in task.classes
    assert "'lonely'" in task.notes[0]
    assert "1 of 4 classes left out" in task.notes[0]


def test_a_class_of_one_speaker_is_left_out_loudly():
    data = corpus()
    labels = ["mine" if s == "s0" and c == "c0" else c for c, s in zip(data["labels"], data["speakers"], strict=True)]
    task = make_task("label", **{**data, "labels": labels}, shots=[2])
    assert "mine" not in task.classes
    assert "only one speaker" in task.notes[0]


def test_a_number_of_shots_that_a_class_cannot_fill_is_left_out_loudly():
    task = make_task("label", **corpus(speakers=4, each=6), shots=[5, 10, 25])  # 12 training utterances a class
    assert task.shots == (5, 10)
    assert any("25 shots left out, class 'c" in note for note in task.notes)


def test_what_cannot_be_is_refused():
    data = corpus()
    nobody = [None] * len(data["labels"])
    with pytest.raises(ValueError, match="no utterance has a speaker"):
        make_task("label", **{**data, "speakers": nobody})
    with pytest.raises(ValueError, match="at least 2 classes"):
        make_task("label", **{**data, "labels": nobody})
    with pytest.raises(ValueError, match="at least 2 classes"):
        make_task("label", **{**data, "speakers": ["s0"] * len(nobody)})
    with pytest.raises(ValueError, match="task must be one of label, speaker, text, got 'age'"):
        make_task("age", **data)
    with pytest.raises(ValueError, match="shots and seeds must be at least 1"):
        make_task("label", **data, shots=[0])
    with pytest.raises(ValueError, match="differ in length"):
        make_task("label", **{**data, "texts": ["one"]})


def test_the_test_side_is_cut_with_equal_shares():
    data = corpus(speakers=40, each=20)
    labels = ["c0" if label == "c1" else label for label in data["labels"]]  # two thirds c0
    task = make_task("label", **{**data, "labels": labels}, shots=[5], test_limit=300)
    for split in task.splits:
        tested = [labels[i] for i in split.test]
        assert len(tested) == pytest.approx(300, abs=2)
        assert tested.count("c0") == pytest.approx(200, abs=2)


def test_many_classes_are_cut_to_the_largest_and_it_is_told():
    data = corpus(speakers=12, classes=6, each=6)
    task = make_task("label", **data, shots=[2], max_classes=4)
    assert len(task.classes) == 4
    assert any("4 classes with the most utterances of 6" in note for note in task.notes)
