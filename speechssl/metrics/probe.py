"""Few-shot probes on frozen features: k-NN and logistic regression on k shots per class, over several seeds.

Benchmarks change their ranking with the probe ("Speech Self-Supervised Representation Benchmarking: Are We Doing it
Right?", 2023, arXiv 2306.00452), so both are reported: the k-NN, which has nothing to tune, and the linear one.

- Standardisation: mean and standard deviation of the shots, nothing else. A dimension that is constant over the shots
  is only centred.
- Classifiers: `probe_classifiers.py`.
- Scores: UAR and WA on the test side, mean over seeds; intervals by `classification.bootstrap_interval`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from speechssl.metrics.classification import (
    GroupCounts,
    Interval,
    Metric,
    bootstrap_difference,
    bootstrap_interval,
    count_repetitions,
)
from speechssl.metrics.probe_classifiers import knn_neighbours, predict_knn, predict_logistic
from speechssl.metrics.probe_splits import ProbeSplit, ProbeTask, refuse_leak, unit_of
from speechssl.metrics.results import CHANCE, ResultRow

ProbeName = Literal["k-NN", "logistic", "none"]
PROBES: tuple[ProbeName, ...] = ("k-NN", "logistic")
METRICS: tuple[Metric, ...] = ("UAR", "WA")


@dataclass(frozen=True)
class ProbeScore:
    """One score with the counts and answers it was computed from.

    `shots` are training utterances per class, `tests` test utterances summed over seeds, `split` describes what is
    disjoint between training and test. `counts` are what the value was computed from (None for chance), `predicted` the
    answers that were counted: one tuple per seed, in the order of its test utterances.
    """

    task: str
    contender: str
    probe: ProbeName
    shots: int
    metric: Metric
    interval: Interval
    tests: int
    seeds: int
    split: str
    classes: int
    counts: GroupCounts | None = None
    predicted: tuple[tuple[str, ...], ...] = ()

    def gain_over(self, other: "ProbeScore", *, task: ProbeTask, seed: int = 0) -> Interval:
        """This score minus that of another contender of the same task, probe, shots and metric; paired interval."""
        assert self.counts is not None
        assert other.counts is not None
        return bootstrap_difference(self.counts, other.counts, metric=self.metric, resample=task.resample, seed=seed)

    def as_result(self) -> ResultRow:
        """The row of `results.json`, without the fields that the caller fills in."""
        return ResultRow(
            task=self.task,
            contender=self.contender,
            probe=self.probe,
            labels=self.shots,
            metric=self.metric,
            value=self.interval.value,
            low=self.interval.low,
            high=self.interval.high,
            n=self.tests,
            seeds=self.seeds,
            split=self.split,
            classes=self.classes,
        )


def probe_scores(
    task: ProbeTask,
    features: Float[np.ndarray, "utterances dim"],
    *,
    contender: str,
    probes: Sequence[ProbeName] = PROBES,
    bootstrap_seed: int = 0,
) -> list[ProbeScore]:
    """Fit and score every probe at every number of shots.

    Args:
        task: from `probe_splits.make_task`.
        features: one row per utterance of the corpus (rows that `task.utterances()` does not list are not read).
        contender: the name of the features in the rows.
        probes: which probes.
        bootstrap_seed: seed of the intervals.

    Raises:
        ValueError: when a group is on both sides of a split, the number of rows is not that of the corpus, or a
            needed row holds a value that is not finite.

    >>> from speechssl.metrics.probe_splits import make_task
    >>> labels = ["a", "b"] * 40
    >>> task = make_task("label", labels=labels, speakers=[f"s{i // 10}" for i in range(80)],
    ...                  texts=[None] * 80, shots=[5], seeds=2)
    >>> features = np.array([[1.0, 0.1], [0.1, 1.0]] * 40)
    >>> [(score.probe, score.metric, score.interval.value)
    ...  for score in probe_scores(task, features, contender="planted")]
    [('k-NN', 'UAR', 1.0), ('k-NN', 'WA', 1.0), ('logistic', 'UAR', 1.0), ('logistic', 'WA', 1.0)]
    """
    import warnings

    from threadpoolctl import threadpool_limits

    _check_features(task, features)
    for split in task.splits:
        refuse_leak(split.shots.ravel(), split.test, groups=task.groups, what=unit_of(task.rule))
    rows: list[ProbeScore] = []
    # The matrices are small: on many cores the threads of the linear algebra cost more than they save.
    with threadpool_limits(limits=1), warnings.catch_warnings():
        # With one shot per class, scikit-learn warns that the task may be a regression.
        warnings.filterwarnings("ignore", message="The number of unique classes is greater than 50%")
        for probe in probes:
            for shots in task.shots:
                answers = [_answer(probe, task, split, features, shots=shots) for split in task.splits]
                rows += _score(task, answers, contender=contender, probe=probe, shots=shots, seed=bootstrap_seed)
    return rows


def chance_scores(task: ProbeTask) -> list[ProbeScore]:
    """Scores at chance, computed without fitting anything.

    UAR: one over the number of classes, exactly, for any guess that ignores the input. WA: the fraction of the most
    frequent class on the test side (mean over seeds), which always guessing that class gives.
    """
    classes = len(task.classes)
    shares: list[float] = []
    for split in task.splits:
        targets = [task.targets[i] for i in split.test.tolist()]
        shares.append(max(targets.count(name) for name in task.classes) / len(targets))
    values: dict[Metric, float] = {"UAR": 1 / classes, "WA": float(np.mean(shares))}
    return [
        ProbeScore(
            task=task.name,
            contender=CHANCE,
            probe="none",
            shots=shots,
            metric=metric,
            interval=Interval(value=values[metric], low=values[metric], high=values[metric]),
            tests=sum(len(split.test) for split in task.splits),
            seeds=len(task.splits),
            split=task.rule,
            classes=classes,
        )
        for shots in task.shots
        for metric in METRICS
    ]


def _answer(
    probe: ProbeName, task: ProbeTask, split: ProbeSplit, features: Float[np.ndarray, "utterances dim"], *, shots: int
) -> Int[np.ndarray, " tests"]:
    chosen = split.shots[:, :shots]  # (classes, shots)
    targets = np.repeat(np.arange(len(task.classes)), shots)
    train = features[chosen.ravel()].astype(np.float64)
    test = features[split.test].astype(np.float64)
    centre, spread = train.mean(axis=0), train.std(axis=0)
    spread = np.where(spread > 1e-12 * (1 + np.abs(centre)), spread, 1.0)  # constant up to rounding: centre only
    train, test = (train - centre) / spread, (test - centre) / spread
    if probe == "k-NN":
        return predict_knn(train, targets, test, neighbours=knn_neighbours(shots))
    if probe == "logistic":
        groups = [task.groups[i] for i in chosen.ravel().tolist()]
        return predict_logistic(train, targets, test, groups=groups, seed=split.seed)
    raise ValueError(f"probe must be one of {', '.join(PROBES)}, got {probe!r}")


def _score(
    task: ProbeTask,
    answers: Sequence[Int[np.ndarray, " _"]],
    *,
    contender: str,
    probe: ProbeName,
    shots: int,
    seed: int,
) -> list[ProbeScore]:
    truth = [[str(task.targets[i]) for i in split.test.tolist()] for split in task.splits]
    groups = [[task.groups[i] for i in split.test.tolist()] for split in task.splits]
    predicted = tuple(tuple(task.classes[number] for number in answer) for answer in answers)
    counts = count_repetitions(
        truth,
        predicted,
        groups=groups,
        classes=task.classes,
        group_names=sorted({group for members in groups for group in members}, key=str),
    )
    return [
        ProbeScore(
            task=task.name,
            contender=contender,
            probe=probe,
            shots=shots,
            metric=metric,
            interval=bootstrap_interval(counts, metric, resample=task.resample, seed=seed),
            tests=sum(len(answer) for answer in answers),
            seeds=len(task.splits),
            split=task.rule,
            classes=len(task.classes),
            counts=counts,
            predicted=predicted,
        )
        for metric in METRICS
    ]


def _check_features(task: ProbeTask, features: Float[np.ndarray, "utterances dim"]) -> None:
    if len(features) != len(task.targets):
        raise ValueError(f"features have {len(features)} rows, the corpus has {len(task.targets)} utterances")
    used = task.utterances()
    bad = used[~np.isfinite(features[used]).all(axis=1)]
    if len(bad):
        raise ValueError(f"features of {len(bad)} utterances are not finite, the first is number {bad[0]}")
