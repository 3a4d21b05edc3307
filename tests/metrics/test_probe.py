"""Probes: planted signal is found, noise is chance, nothing of the test side leaks, and it is fast."""

import time

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from speechssl.metrics import probe, probe_classifiers
from speechssl.metrics.classification import uar
from speechssl.metrics.probe_splits import ProbeSplit, make_task


def corpus(speakers=12, classes=4, each=20):
    rows = [(f"c{c}", f"s{s:02d}") for s in range(speakers) for c in range(classes) for _ in range(each)]
    labels, names = zip(*rows, strict=True)
    return {"labels": labels, "speakers": names, "texts": [None] * len(labels)}


def features_of(names, *, dim=16, strength, noise, seed=0):
    """One random direction per name plus noise."""
    rng = np.random.default_rng(seed)
    means = {name: rng.normal(size=dim) for name in sorted(set(names))}
    return np.stack([strength * means[name] for name in names]) + noise * rng.normal(size=(len(names), dim))


def values(scores, metric="UAR"):
    return {(score.probe, score.shots): score.interval for score in scores if score.metric == metric}


def test_planted_signal_is_found_and_grows_with_shots():
    data = corpus()
    task = make_task("label", **data, shots=[5, 25])
    features = features_of(data["labels"], strength=0.5, noise=1.0)
    found = values(probe.probe_scores(task, features, contender="planted"))
    for name in probe.PROBES:
        assert found[name, 5].low > 0.25
        assert found[name, 25].value > found[name, 5].value
        assert found[name, 25].low > 0.4


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_noise_is_chance_within_the_interval(seed):
    data = corpus(speakers=30)
    task = make_task("label", **data, shots=[5, 25])
    noise = np.random.default_rng(seed).normal(size=(len(data["labels"]), 16))
    for score in probe.probe_scores(task, noise, contender="noise"):
        assert score.interval.low <= 0.25 <= score.interval.high
        assert score.interval.high - score.interval.low < 0.1


@pytest.mark.slow
def test_features_that_know_the_speaker_only_are_chance_for_labels():
    """With a random split, speaker identity would score far above chance."""
    speakers = [f"s{i // 20:02d}" for i in range(800)]
    labels = [f"c{i // 20 % 4}" for i in range(800)]  # every speaker has one label
    features = features_of(speakers, strength=3.0, noise=0.3)
    task = make_task("label", labels=labels, speakers=speakers, texts=[None] * 800, shots=[25])
    for interval in values(probe.probe_scores(task, features, contender="speaker")).values():
        assert interval.low < 0.25  # 20 test speakers, each all right or all wrong: the value itself wanders
        assert interval.value < 0.4
    everyone = make_task("label", labels=labels, speakers=[str(i) for i in range(800)], texts=[None] * 800, shots=[25])
    leaked = values(probe.probe_scores(everyone, features, contender="leak"))
    assert leaked["logistic", 25].low > 0.6


def test_a_division_with_a_leak_is_refused():
    data = corpus()
    task = make_task("label", **data, shots=[5], seeds=1)
    good = task.splits[0]
    bad = ProbeSplit(seed=0, shots=good.shots, test=np.append(good.test, good.shots[0, 0]))
    leaky = type(task)(**{**vars(task), "splits": (bad,)})
    features = features_of(data["labels"], strength=1, noise=1)
    with pytest.raises(ValueError, match="1 speaker is on both the training and the test side, for example 's"):
        probe.probe_scores(leaky, features, contender="leak")


def test_answers_are_those_of_the_plain_recipe():
    """Slow reference: standardise by the shots, fit scikit-learn without our shortcuts, score by hand."""
    data = corpus()
    task = make_task("label", **data, shots=[5], seeds=1)
    features = features_of(data["labels"], dim=64, strength=0.3, noise=1.0)  # more dimensions than shots
    split = task.splits[0]
    train = split.shots.ravel()
    labels = np.array(data["labels"])
    scaler = StandardScaler().fit(features[train])
    x, y = scaler.transform(features[train]), labels[train]
    test, truth = scaler.transform(features[split.test]), labels[split.test]
    neighbours = KNeighborsClassifier(n_neighbors=3, metric="cosine", weights="distance", algorithm="brute")
    groups = [data["speakers"][i] for i in train]
    strength = probe_classifiers.choose_strength(x, np.searchsorted(task.classes, y), groups=groups, seed=0)
    linear = LogisticRegression(C=strength, max_iter=5000, tol=1e-6)
    found = values(probe.probe_scores(task, features, contender="x"))
    assert found["k-NN", 5].value == pytest.approx(uar(truth.tolist(), neighbours.fit(x, y).predict(test).tolist()))
    expected = uar(truth.tolist(), linear.fit(x, y).predict(test).tolist())
    assert found["logistic", 5].value == pytest.approx(expected, abs=0.01)


def test_the_test_side_does_not_enter_the_fit():
    """Moving half of the test utterances far away must not change the answers for the other half."""
    data = corpus()
    task = make_task("label", **data, shots=[5], seeds=1)
    split = task.splits[0]
    features = features_of(data["labels"], strength=0.5, noise=1.0)
    half = ProbeSplit(seed=0, shots=split.shots, test=split.test[::2])
    cut = type(task)(**{**vars(task), "splits": (half,)})
    moved = features.copy()
    others = np.setdiff1d(np.arange(len(features)), np.concatenate([half.shots.ravel(), half.test]))
    moved[others] += 100
    assert values(probe.probe_scores(cut, features, contender="x")) == values(
        probe.probe_scores(cut, moved, contender="x")
    )


def test_scale_shift_and_rotation_of_features_do_not_matter():
    data = corpus()
    task = make_task("label", **data, shots=[10], seeds=2)
    features = features_of(data["labels"], strength=0.5, noise=1.0)
    scales = np.geomspace(1e-3, 1e3, features.shape[1])
    plain = values(probe.probe_scores(task, features, contender="x"))
    scaled = values(probe.probe_scores(task, features * scales + 7, contender="x"))
    for key, interval in plain.items():
        assert scaled[key].value == pytest.approx(interval.value, abs=0.01)


def test_dead_dimensions_do_no_harm():
    data = corpus()
    task = make_task("label", **data, shots=[5], seeds=2)
    features = features_of(data["labels"], strength=0.5, noise=1.0)
    dead = np.concatenate([features, np.full((len(features), 3), 1e6)], axis=1)
    assert values(probe.probe_scores(task, features, contender="x")) == values(
        probe.probe_scores(task, dead, contender="x")
    )


def test_one_and_two_shots_use_the_fixed_strength():
    rng = np.random.default_rng(0)
    targets = np.repeat(np.arange(3), 2)
    assert (
        probe_classifiers.choose_strength(rng.normal(size=(6, 4)), targets, groups=list("abcdef"), seed=0)
        == probe_classifiers.FIXED_C
    )
    data = corpus()
    task = make_task("label", **data, shots=[1, 2], seeds=2)
    assert len(probe.probe_scores(task, features_of(data["labels"], strength=1, noise=1), contender="x")) == 8


def test_strength_is_chosen_over_unseen_speakers_where_there_are_enough():
    """Speaker identity separates the shots perfectly within speakers; over speakers it is worthless."""
    rng = np.random.default_rng(0)
    targets = np.tile(np.arange(2), 30)
    groups = [f"s{i // 2 % 6}" for i in range(60)]
    folds = probe_classifiers.shot_folds(targets, groups, seed=0)
    for fitted, held in folds:
        assert not {groups[i] for i in fitted} & {groups[i] for i in held}
    features = rng.normal(size=(60, 8))
    assert probe_classifiers.choose_strength(features, targets, groups=groups, seed=0) in probe_classifiers.STRENGTHS


def test_chance_is_one_over_the_classes_without_fitting():
    data = corpus()
    labels = ["c0" if label == "c1" else label for label in data["labels"]]
    task = make_task("label", **{**data, "labels": labels}, shots=[5])
    chance = {score.metric: score.interval for score in probe.chance_scores(task)}
    assert chance["UAR"].low == chance["UAR"].value == chance["UAR"].high == pytest.approx(1 / 3)
    assert chance["WA"].value == pytest.approx(0.5)


def test_bad_features_are_refused():
    data = corpus()
    task = make_task("label", **data, shots=[5])
    features = features_of(data["labels"], strength=1, noise=1)
    with pytest.raises(ValueError, match="features have 959 rows, the corpus has 960"):
        probe.probe_scores(task, features[1:], contender="x")
    features[task.splits[0].test[0]] = np.nan
    with pytest.raises(ValueError, match="1 utterances are not finite"):
        probe.probe_scores(task, features, contender="x")


def test_gains_are_paired_and_rows_carry_the_interval():
    data = corpus()
    task = make_task("label", **data, shots=[5], seeds=2)
    good = probe.probe_scores(task, features_of(data["labels"], strength=1, noise=1), contender="good")[0]
    poor = probe.probe_scores(task, features_of(data["labels"], strength=0, noise=1), contender="poor")[0]
    gain = good.gain_over(poor, task=task)
    assert gain.low > 0
    assert gain.value == pytest.approx(good.interval.value - poor.interval.value)
    row = good.as_result()
    assert (row.value, row.low, row.high) == (good.interval.value, good.interval.low, good.interval.high)
    assert (row.labels, row.seeds, row.split, row.classes) == (5, 2, "speakers disjoint", 4)


def test_voices_are_recognised_across_texts():
    data = corpus(each=24)
    texts = [f"sentence {i % 24}" for i in range(len(data["labels"]))]
    task = make_task("speaker", **{**data, "texts": texts}, shots=[5], seeds=2)
    known = probe.probe_scores(task, features_of(data["speakers"], strength=1, noise=0.5), contender="x")
    assert values(known)["logistic", 5].low > 0.5
    spoken = probe.probe_scores(task, features_of(texts, strength=3, noise=0.3), contender="text")
    for interval in values(spoken).values():
        assert interval.value < 0.2  # knowing the sentence says nothing about the voice (chance 1/12)


@pytest.mark.slow
def test_a_full_probe_is_fast():
    """3,000 utterances, 256 dimensions, 3 numbers of shots, 5 seeds: four contenders have a minute on two cores."""
    labels = [f"c{i % 6}" for i in range(3000)]
    speakers = [f"s{i // 6 % 40}" for i in range(3000)]
    task = make_task("label", labels=labels, speakers=speakers, texts=[None] * 3000)
    features = features_of(labels, dim=256, strength=0.1, noise=1.0)
    start = time.process_time()
    assert len(probe.probe_scores(task, features, contender="x")) == 12
    assert time.process_time() - start < 15
