"""Group-disjoint train/test splits with nested shots; leaks are refused.

Random splits of emotional speech leak speakers: several published figures on IEMOCAP do, and they are five to ten
points higher than speaker-disjoint ones. Here a split is drawn over *groups*. For the tasks `label` and `text` a
group is a speaker. For the task `speaker` the classes are the speakers themselves, so the groups are the texts (or
single utterances, where a corpus has none), and no speaker is recognised by a sentence that is in the training side.

Intervals resample speakers in every task: as groups in the first two, as classes in the third.

Everything is a function of (seed, manifest, largest number of shots), never of a feature: every contender gets the same
shots and the same test utterances.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
from jaxtyping import Bool, Int

from speechssl.metrics.classification import Resample

ProbeTaskName = Literal["label", "speaker", "text"]
PROBE_TASKS: tuple[ProbeTaskName, ...] = ("label", "speaker", "text")

# How many splits are tried for one in which every class has its shots; the greedy draw needs one almost always.
_ATTEMPTS = 50


@dataclass(frozen=True)
class ProbeSplit:
    """Train/test split of one seed, as indices into the corpus.

    `shots[c]` holds the training utterances of class c in the order in which they are used: the first k columns are the
    k-shot training set, so that a larger set contains the smaller ones. `test` are the test utterances.
    """

    seed: int
    shots: Int[np.ndarray, "classes shots"]
    test: Int[np.ndarray, " tests"]


@dataclass(frozen=True)
class ProbeTask:
    """A probe task on a corpus: its classes, its splits, and notes on what was left out.

    `targets[i]` and `groups[i]` belong to utterance i of the corpus; None where the utterance takes no part. `rule`
    describes what is disjoint, and goes into every result row as `split`; `resample` is what the bootstrap resamples,
    so that it always resamples speakers. `notes` are sentences for the user about classes and shot numbers that were
    left out.
    """

    name: ProbeTaskName
    rule: str
    resample: Resample
    classes: tuple[str, ...]
    shots: tuple[int, ...]
    targets: tuple[str | None, ...]
    groups: tuple[Hashable | None, ...]
    splits: tuple[ProbeSplit, ...]
    notes: tuple[str, ...]

    def utterances(self) -> Int[np.ndarray, " used"]:
        """Sorted indices of all utterances that some split trains or tests on: the ones that need features."""
        parts = [part for split in self.splits for part in (split.shots.ravel(), split.test)]
        return np.unique(np.concatenate(parts))


def make_task(
    name: str,
    *,
    labels: Sequence[str | None],
    speakers: Sequence[str | None],
    texts: Sequence[str | None],
    shots: Sequence[int] = (5, 10, 25),
    seeds: int = 5,
    test_limit: int = 1000,
    max_classes: int = 50,
) -> ProbeTask:
    """Draw the splits of a task.

    A class takes part when it has at least two groups and twice the smallest number of shots in utterances; where more
    than `max_classes` do, those with the most utterances. A number of shots that some class cannot fill under some seed
    is left out for all. `notes` reports both.

    Args:
        name: what is classified: `label`, `speaker` or `text`.
        labels: one entry per utterance of the corpus; None where unknown.
        speakers: the same.
        texts: the same.
        shots: training utterances per class.
        seeds: number of repetitions; they use the seeds 0, 1, 2 …
        test_limit: the test side is cut to about this many utterances by a seeded draw with equal shares per class
            (every class keeps at least one), for speed.
        max_classes: upper bound on the number of classes, for speed.

    Raises:
        ValueError: unknown task, no speaker known (tasks `label` and `text`), fewer than two classes left, or a class
            that cannot have its shots; each names what is missing.

    >>> task = make_task("label", labels=["a", "b"] * 20, speakers=[f"s{i // 10}" for i in range(40)],
    ...                  texts=[None] * 40, shots=[2, 5], seeds=2)
    >>> task.classes, task.shots, task.rule
    (('a', 'b'), (2, 5), 'speakers disjoint')
    >>> len(task.splits[0].test), task.splits[0].shots.shape
    (20, (2, 5))
    """
    _check_sizes(name, labels=labels, speakers=speakers, texts=texts, shots=shots, seeds=seeds)
    kind = cast(ProbeTaskName, name)
    levels = sorted(set(shots))
    targets: list[str | None] = list({"label": labels, "speaker": speakers, "text": texts}[kind])
    groups, rule = _groups(kind, speakers=speakers, texts=texts)
    known = [t if t is not None and g is not None else None for t, g in zip(targets, groups, strict=True)]
    unit = unit_of(rule)
    classes, notes = _choose_classes(kind, known, groups, unit=unit, smallest=levels[0], max_classes=max_classes)
    chosen = set(classes)
    kept = tuple(target if target in chosen else None for target in known)
    table = _Table.of(kept, groups, classes)
    splits: list[ProbeSplit] = []
    usable = levels
    for seed in range(seeds):
        train = _divide(table, unit=unit, seed=seed, shots=levels[-1])
        fits, scarcest, count = _fitting(table, train, levels)
        if not fits:
            raise ValueError(
                f"task {name!r}: class {scarcest!r} has {count} training utterances in the split of seed {seed}, "
                f"fewer than the {levels[0]} requested shots; request fewer shots or add utterances of that class"
            )
        if len(fits) < len(usable):
            missing = ", ".join(str(level) for level in usable if level not in fits)
            notes.append(
                f"task {name!r}: {missing} shots left out, class {scarcest!r} has only {count} training utterances "
                f"in the split of seed {seed}"
            )
            usable = [level for level in usable if level in fits]
        splits.append(_draw(table, train, seed=seed, shots=fits[-1], test_limit=test_limit))
    return ProbeTask(
        name=kind,
        rule=rule,
        resample="classes" if name == "speaker" else "groups",
        classes=classes,
        shots=tuple(usable),
        targets=kept,
        groups=groups,
        splits=tuple(
            ProbeSplit(seed=d.seed, shots=d.shots[:, : usable[-1]], test=d.test) for d in splits
        ),  # a later seed may have ruled out a number of shots
        notes=tuple(notes),
    )


def unit_of(rule: str) -> str:
    """Name of a group, from the `rule` of a task.

    >>> unit_of("speakers disjoint")
    'speaker'
    """
    return rule.removesuffix("s disjoint")


def refuse_leak(
    train: Int[np.ndarray, " trains"],
    test: Int[np.ndarray, " tests"],
    *,
    groups: Sequence[Hashable | None],
    what: str = "speaker",
) -> None:
    """Raise when a group or an utterance is on both sides; ``what`` is the name of a group.

    Raises:
        ValueError: naming one of the groups.

    >>> refuse_leak(np.array([0, 1]), np.array([2]), groups=["anna", "ben", "ben"])
    Traceback (most recent call last):
    ValueError: 1 speaker is on both the training and the test side, for example 'ben'
    """
    shared = {groups[i] for i in train.tolist()} & {groups[i] for i in test.tolist()}
    if shared:
        example = sorted(str(group) for group in shared)[0]
        who = f"{what} is" if len(shared) == 1 else f"{what}s are"
        raise ValueError(f"{len(shared)} {who} on both the training and the test side, for example {example!r}")


@dataclass(frozen=True)
class _Table:
    """Participating utterances as numbers: utterance -> class, group; and utterances per (group, class)."""

    utterances: Int[np.ndarray, " used"]
    classes: tuple[str, ...]
    target: Int[np.ndarray, " used"]
    group: Int[np.ndarray, " used"]
    counts: Int[np.ndarray, "groups classes"]

    @classmethod
    def of(cls, targets: Sequence[str | None], groups: Sequence[Hashable | None], classes: tuple[str, ...]) -> "_Table":
        used = [i for i, target in enumerate(targets) if target is not None]
        index = {name: number for number, name in enumerate(classes)}
        names = {name: number for number, name in enumerate(sorted({groups[i] for i in used}, key=str))}
        target = np.array([index[str(targets[i])] for i in used])
        group = np.array([names[groups[i]] for i in used])
        counts = np.zeros((len(names), len(classes)), dtype=np.int64)
        np.add.at(counts, (group, target), 1)
        return cls(utterances=np.array(used), classes=classes, target=target, group=group, counts=counts)


def _check_sizes(
    name: str,
    *,
    labels: Sequence[str | None],
    speakers: Sequence[str | None],
    texts: Sequence[str | None],
    shots: Sequence[int],
    seeds: int,
) -> None:
    if name not in PROBE_TASKS:
        raise ValueError(f"task must be one of {', '.join(PROBE_TASKS)}, got {name!r}")
    if not len(labels) == len(speakers) == len(texts):
        raise ValueError(f"labels, speakers and texts differ in length: {len(labels)}, {len(speakers)}, {len(texts)}")
    if not shots or min(shots) < 1 or seeds < 1:
        raise ValueError(f"shots and seeds must be at least 1, got shots {list(shots)} and seeds {seeds}")


def _groups(
    name: ProbeTaskName, *, speakers: Sequence[str | None], texts: Sequence[str | None]
) -> tuple[tuple[Hashable | None, ...], str]:
    if name != "speaker":
        if all(speaker is None for speaker in speakers):
            raise ValueError(f"task {name!r}: no utterance has a speaker, so a speaker-disjoint split is impossible")
        return tuple(speakers), "speakers disjoint"
    # An utterance without a text is a group of its own; (index,) cannot equal any text.
    spoken = [" ".join(text.casefold().split()) if text else "" for text in texts]
    rule = "texts disjoint" if any(spoken) else "utterances disjoint"
    return tuple(text or (number,) for number, text in enumerate(spoken)), rule


def _choose_classes(
    name: ProbeTaskName,
    targets: Sequence[str | None],
    groups: Sequence[Hashable | None],
    *,
    unit: str,
    smallest: int,
    max_classes: int,
) -> tuple[tuple[str, ...], list[str]]:
    sizes: dict[str, int] = {}
    members: dict[str, set[Hashable]] = {}
    for target, group in zip(targets, groups, strict=True):
        if target is not None:
            sizes[target] = sizes.get(target, 0) + 1
            members.setdefault(target, set()).add(group)
    able = [c for c in sizes if sizes[c] >= 2 * smallest and len(members[c]) >= 2]
    dropped = sorted(set(sizes) - set(able))
    notes: list[str] = []
    if dropped:
        shown = ", ".join(repr(c) for c in dropped[:5]) + (" …" if len(dropped) > 5 else "")
        notes.append(
            f"task {name!r}: {len(dropped)} of {len(sizes)} classes left out, with fewer than {2 * smallest} "
            f"utterances or only one {unit} to draw from: {shown}"
        )
    if len(able) < 2:
        raise ValueError(
            f"task {name!r} needs at least 2 classes with {2 * smallest} utterances from 2 {unit}s each, "
            f"found {len(able)} among {len(sizes)}"
        )
    if len(able) > max_classes:
        notes.append(f"task {name!r}: the {max_classes} classes with the most utterances of {len(able)} are used")
        able = sorted(able, key=lambda c: (-sizes[c], c))[:max_classes]
    return tuple(sorted(able)), notes


def _divide(table: _Table, *, unit: str, seed: int, shots: int) -> Bool[np.ndarray, " groups"]:
    """Which groups train: the first of several draws that gives every class `shots` shots, else the best of them."""
    best, best_score = None, (-1, -1)
    for attempt in range(_ATTEMPTS):
        train = _draw_groups(table.counts, np.random.default_rng([seed, attempt]))
        trains, tests = table.counts[train].sum(axis=0), table.counts[~train].sum(axis=0)
        if trains.min() >= shots and tests.min() >= 1:
            return train
        score = (min(int(tests.min()), 1), int(trains.min()))
        if score > best_score:
            best, best_score = train, score
    assert best is not None
    if best_score[0] == 0:
        lost = table.classes[int(np.argmin(table.counts[~best].sum(axis=0)))]
        raise ValueError(f"no split with every class on both sides was found; class {lost!r} shares all its {unit}s")
    return best


def _draw_groups(counts: Int[np.ndarray, "groups classes"], rng: np.random.Generator) -> Bool[np.ndarray, " groups"]:
    """Half of the groups, drawn class by class from the rarest on, so that a class of two groups has one each side."""
    side = np.full(len(counts), -1)
    has = counts > 0
    rarity = has.sum(axis=0) + rng.random(counts.shape[1]) * 0.5  # ties between classes are broken by the seed
    for number in np.argsort(rarity):
        members = rng.permutation(np.flatnonzero(has[:, number]))
        for group in members[side[members] < 0]:
            tested = int((side[members] == 0).sum())
            trained = int((side[members] == 1).sum())
            side[group] = rng.integers(2) if tested == trained else int(trained < tested)
    return side == 1


def _fitting(table: _Table, train: Bool[np.ndarray, " groups"], levels: Sequence[int]) -> tuple[list[int], str, int]:
    trains = table.counts[train].sum(axis=0)
    scarcest = int(np.argmin(trains))
    count = int(trains[scarcest])
    return [level for level in levels if level <= count], table.classes[scarcest], count


def _draw(table: _Table, train: Bool[np.ndarray, " groups"], *, seed: int, shots: int, test_limit: int) -> ProbeSplit:
    rng = np.random.default_rng([seed, _ATTEMPTS])  # a stream that no attempt of _divide uses
    trained = train[table.group]
    rows = [
        rng.permutation(np.flatnonzero(trained & (table.target == number)))[:shots]
        for number in range(len(table.classes))
    ]
    tested = np.flatnonzero(~trained)
    share = min(1.0, test_limit / len(tested))
    parts: list[Int[np.ndarray, " tests"]] = []
    for number in range(len(table.classes)):
        members = rng.permutation(tested[table.target[tested] == number])
        parts.append(members[: max(1, round(share * len(members)))])
    test = np.sort(np.concatenate(parts))
    return ProbeSplit(seed=seed, shots=table.utterances[np.stack(rows)], test=table.utterances[test])
