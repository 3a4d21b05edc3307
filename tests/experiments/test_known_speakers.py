"""The protocol "speakers known": what it gains, what it is called, and the trap of speakers with one class."""

import json

import numpy as np
import pytest

from speechssl.config import UserError
from speechssl.experiments.emotion import label_efficiency
from speechssl.experiments.frozen_answers import answer_frozen
from speechssl.experiments.frozen_features import standardise_speakers
from speechssl.experiments.known_speakers import PROTOCOL, collapsed, one_class_note
from speechssl.metrics.classification import uar
from speechssl.metrics.compare import compare
from speechssl.metrics.items import Answers


def voices(*, one_class=False):
    """Each speaker's place is far larger than the class; with `one_class` every speaker has a single class."""
    rng = np.random.default_rng(0)
    speakers = [f"s{n // 20}" for n in range(200)]
    targets = ["ab"[n // 20 % 2] if one_class else "ab"[n % 2] for n in range(200)]
    place = 20 * rng.normal(size=(10, 4))
    features = place[[n // 20 for n in range(200)]] + rng.normal(size=(200, 4))
    features[:, 0] += [6.0 if target == "b" else 0.0 for target in targets]
    return features.astype(np.float32), targets, speakers


def score(features, targets, speakers):
    train, test = np.arange(100), np.arange(100, 200)
    found = answer_frozen("MFCC + LDA", [features], train=train, targets=[targets[i] for i in train], test=test,
                          speakers=speakers, seed=0)  # fmt: skip
    return uar([targets[i] for i in test], found)


def test_taking_out_the_speaker_shows_the_class():
    features, targets, speakers = voices()
    standard = standardise_speakers(features, speakers, used=np.arange(200))
    assert score(standard, targets, speakers) > 0.95 > 0.75 > score(features, targets, speakers)


def test_where_speakers_have_one_class_it_takes_out_the_class():
    features, targets, speakers = voices(one_class=True)
    standard = standardise_speakers(features, speakers, used=np.arange(200))
    assert abs(score(standard, targets, speakers) - 0.5) < 0.15
    note = one_class_note(targets, speakers)
    assert note.startswith("the labelled recordings of 10 of 10 speakers have one class (s0, s1, s2, …): ")
    assert one_class_note(*voices()[1:]) == ""


def test_only_used_rows_count_and_constants_are_centred():
    features = np.array([[1.0, 5.0], [3.0, 5.0], [99.0, 99.0], [7.0, 7.0]], dtype=np.float32)
    found = standardise_speakers(features, ["a", "a", "a", None], used=np.array([0, 1, 3]))
    assert found.tolist() == [[-1, 0], [1, 0], [99, 99], [7, 7]]


@pytest.mark.slow
def test_rows_of_the_two_protocols_are_never_mixed(corpus, encoder_folder, tmp_path):
    words = {"shots": [2], "draws": 5, "contenders": ["layers-fusion", "self-training", "mfcc-lda"]}
    usual = label_efficiency(corpus, encoder_folder, tmp_path / "usual", **words)
    known = label_efficiency(corpus, encoder_folder, tmp_path / "known", standardise="speaker", **words)
    assert {row.task for row in usual} == {"emotion"}
    assert {row.task for row in known} == {f"emotion, {PROTOCOL}"}
    value = {row.contender: row.value for row in known if row.metric == "UAR"}
    assert value["frozen probe, self-training"] > 0.9
    assert (tmp_path / "known" / "results.json").exists()
    with pytest.raises(UserError, match="no row of one task"):
        compare(tmp_path / "usual" / "results.json", tmp_path / "known" / "results.json")
    for folder, other in (("usual", "speaker"), ("known", "shots")):
        with pytest.raises(UserError, match=r"holds results of 'emotion.*give another --out"):
            label_efficiency(corpus, encoder_folder, tmp_path / folder, standardise=other, **words)
    usual_cells, known_cells = (
        [json.loads(path.read_text()) for path in sorted((tmp_path / name / "cells").glob("mfcc-lda-2-*.json"))]
        for name in ("usual", "known")
    )
    assert [cell["test"] for cell in usual_cells] == [cell["test"] for cell in known_cells]
    assert [cell["predicted"] for cell in usual_cells] != [cell["predicted"] for cell in known_cells]
    assert not {cell["key"] for cell in usual_cells} & {cell["key"] for cell in known_cells}


def test_contenders_that_train_are_refused(corpus, encoder_folder, tmp_path):
    with pytest.raises(UserError, match="--standardise speaker: contender 'fine-tuned' trains a network"):
        label_efficiency(corpus, encoder_folder, tmp_path, standardise="speaker")


def test_answers_that_collapse_for_a_speaker_are_named():
    truth = ["a", "b"] * 20
    groups = ["s"] * 20 + ["t"] * 20
    answers = Answers(task="emotion", contender="MFCC + LDA", probe="", labels=25, unit="shots", split_hash="",
                      ids=[str(n) for n in range(40)], groups=groups, repetitions=[0] * 40, truth=truth,
                      predicted=["a"] * 20 + truth[20:])  # fmt: skip
    assert collapsed([answers]) == [
        "MFCC + LDA, 25 shots: every answer for 1 of 2 speakers is one class (s)",
    ]
