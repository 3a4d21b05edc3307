"""Few-label experiments: k shots per class drawn from the training side of speaker-disjoint folds.

Draw s tests fold s mod F of partition s div F, F being the number of folds, and takes its shots from the other folds.
The first F draws are therefore one repetition of the whole experiment: their answers are pooled, and the interval
resamples speakers. Shots are nested: the first k of one seeded order per class. No label beyond the shots is used, so
there is no validation side, and trainings have a schedule of fixed length.

Everything is a function of (draw, ids, labels, speakers), never of the order of the manifest nor of the requested
levels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from speechssl.config import UserError, digest
from speechssl.metrics.folds import Folds, make_folds, refuse_shared_speaker

ALL = 0  # the level at which every utterance of the training speakers is used


@dataclass(frozen=True)
class Draw:
    """One draw, as indices into the corpus.

    `orders[c]` holds all training utterances of class c in the order in which they are used as shots.
    """

    number: int
    partition: int
    fold: int
    orders: tuple[Int[np.ndarray, " _"], ...]
    test: Int[np.ndarray, " tests"]

    def train(self, shots: int) -> Int[np.ndarray, " trains"]:
        """Training utterances at `shots` per class, class by class; `ALL` for all of them.

        >>> draw = Draw(0, 0, 0, orders=(np.array([4, 1, 2]), np.array([3, 0])), test=np.array([5]))
        >>> draw.train(1).tolist(), draw.train(ALL).tolist()
        ([4, 3], [4, 1, 2, 3, 0])
        """
        return np.concatenate([order if shots == ALL else order[:shots] for order in self.orders])


@dataclass(frozen=True)
class FewLabels:
    """The draws of an experiment, with notes on what was left out.

    `targets[i]`, `speakers[i]` and `ids[i]` belong to utterance i of the corpus; a target is None where the utterance
    takes no part. `levels` are the numbers of shots that every class has in every draw, ascending, `ALL` last.
    `protocol` names what differs from the usual one, and is empty for it; rows of two protocols are never compared.
    """

    rule: str
    classes: tuple[str, ...]
    levels: tuple[int, ...]
    targets: tuple[str | None, ...]
    speakers: tuple[str | None, ...]
    ids: tuple[str, ...]
    draws: tuple[Draw, ...]
    notes: tuple[str, ...]
    protocol: str = ""

    def split_hash(self, shots: int) -> str:
        """Sixteen hexadecimal digits of the training and test utterances of every draw at this level."""
        sides = [[self._names(draw.train(shots)), self._names(draw.test)] for draw in self.draws]
        return digest(sides)

    def utterances(self) -> Int[np.ndarray, " used"]:
        """Sorted indices of all utterances that some draw trains or tests on."""
        levels = self.levels[-1]
        return np.unique(np.concatenate([part for draw in self.draws for part in (draw.train(levels), draw.test)]))

    def _names(self, indices: Int[np.ndarray, " _"]) -> list[str]:
        return sorted(self.ids[index] for index in indices.tolist())


def read_shots(text: str) -> list[int]:
    """Parse numbers of shots as given on the command line.

    Raises:
        UserError: anything but whole numbers above zero and the word `all`.

    >>> read_shots("5, 10,all")
    [5, 10, 0]
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part == "all" or (part.isdecimal() and int(part) > 0) for part in parts):
        raise UserError(f"--shots {text}: must be whole numbers or all, separated by commas, for example 5,10,all")
    return [ALL if part == "all" else int(part) for part in parts]


def few_labels(
    labels: Sequence[str | None],
    speakers: Sequence[str | None],
    *,
    ids: Sequence[str],
    shots: Sequence[int],
    draws: int = 5,
    folds: int = 5,
    sessions: Sequence[str | None] | None = None,
    test_limit: int = 1000,
) -> FewLabels:
    """Draw training and test utterances.

    A class takes part when two speakers have it. A level that some class cannot fill in some draw is left out for all,
    which `notes` reports. Draws beyond one partition are rounded up to whole partitions, so that every speaker counts
    the same; fewer draws than folds test some speakers only, and `notes` reports that too.

    Args:
        labels: one entry per utterance; None where unknown.
        speakers: the same.
        ids: one name per utterance, all different.
        shots: levels: training utterances per class; `ALL` (0) for every utterance of the training speakers.
        draws: number of draws.
        folds: see `make_folds`.
        sessions: see `make_folds`.
        test_limit: the test side of a draw is cut to about this many utterances, with equal shares per class.

    Raises:
        ValueError: lengths that differ, no level that can be filled, fewer than two classes, or a class that only one
            fold has.

    >>> task = few_labels(["a", "b"] * 20, [f"s{i // 8}" for i in range(40)], ids=[str(i) for i in range(40)],
    ...                   shots=[2, 5, 50, ALL])
    >>> task.levels, task.rule, len(task.draws)
    ((2, 5, 0), 'leave one speaker out', 5)
    """
    if not len(labels) == len(speakers) == len(ids) == len(set(ids)):
        raise ValueError(f"need as many different ids as labels and speakers, got {len(set(ids))} of {len(ids)}")
    if not shots or min(shots) < 0 or draws < 1 or test_limit < 1:
        raise ValueError(f"shots, draws and test_limit must be positive, got {list(shots)}, {draws} and {test_limit}")
    who = _choose_classes(labels, speakers)
    targets, classes, notes = who.targets, who.classes, list(who.notes)
    made: list[Draw] = []
    rule, total = "", draws
    while len(made) < total:
        partition = len(made)  # a seed that no other partition has; it is also the number of its first draw
        folded = make_folds(targets, speakers, sessions=sessions, folds=folds, seed=partition)
        rule = folded.rule
        if not made:
            total = draws if draws <= folded.count else -(-draws // folded.count) * folded.count
            notes += _draw_notes(draws, total, folded.count)
        for fold in range(min(folded.count, total)):
            made.append(
                _draw(targets, folded, classes=classes, ids=ids, fold=fold, number=len(made), test_limit=test_limit)
            )
    levels, left_out = _levels(made, classes, shots)
    for draw in made:
        refuse_shared_speaker(draw.train(ALL), draw.test, speakers=speakers)
    return FewLabels(
        rule=rule,
        classes=classes,
        levels=levels,
        targets=targets,
        speakers=tuple(speakers),
        ids=tuple(ids),
        draws=tuple(made),
        notes=(*notes, *left_out),
    )


@dataclass(frozen=True)
class _Participants:
    targets: tuple[str | None, ...]
    classes: tuple[str, ...]
    notes: list[str]


def _choose_classes(labels: Sequence[str | None], speakers: Sequence[str | None]) -> "_Participants":
    """Participating utterances: targets (None for the others), the classes, and notes on what is left out."""
    known = [
        label if label is not None and speaker is not None else None
        for label, speaker in zip(labels, speakers, strict=True)
    ]
    members: dict[str, set[str]] = {}
    for label, speaker in zip(known, speakers, strict=True):
        if label is not None:
            members.setdefault(label, set()).add(str(speaker))
    classes = tuple(sorted(name for name, who in members.items() if len(who) > 1))
    if len(classes) < 2:
        raise ValueError(f"need at least 2 classes that 2 speakers have, found {len(classes)} among {len(members)}")
    notes: list[str] = []
    alone = sorted(set(members) - set(classes))
    if alone:
        notes.append(f"left out, with one speaker only: {', '.join(repr(name) for name in alone)}")
    without = sum(label is not None and speaker is None for label, speaker in zip(labels, speakers, strict=True))
    if without:
        notes.append(f"{without} labelled utterances without a speaker left out")
    targets = tuple(label if label in classes else None for label in known)
    return _Participants(targets=targets, classes=classes, notes=notes)


def _draw_notes(requested: int, used: int, count: int) -> list[str]:
    if used < count:
        return [f"{used} of {count} folds are tested; the other speakers only train"]
    if used > requested:
        return [f"{used} draws instead of {requested}, so that every speaker is tested equally often"]
    return []


def _draw(
    targets: Sequence[str | None],
    folded: Folds,
    *,
    classes: Sequence[str],
    ids: Sequence[str],
    fold: int,
    number: int,
    test_limit: int,
) -> Draw:
    # In the order of the ids, so that the order of the manifest makes no difference.
    by_id = np.array(sorted(np.flatnonzero(folded.of >= 0).tolist(), key=lambda i: ids[i]))
    tested = folded.of[by_id] == fold
    share = min(1.0, test_limit / max(1, int(tested.sum())))
    rng = np.random.default_rng(number)
    orders: list[Int[np.ndarray, " trains"]] = []
    parts: list[Int[np.ndarray, " tests"]] = []
    for name in classes:
        mine = np.array([targets[i] == name for i in by_id])
        orders.append(rng.permutation(by_id[mine & ~tested]))
        held = rng.permutation(by_id[mine & tested])
        parts.append(held[: max(1, round(share * len(held)))])
    return Draw(
        number=number,
        partition=number // folded.count,
        fold=fold,
        orders=tuple(orders),
        test=np.sort(np.concatenate(parts)),
    )


def _levels(draws: Sequence[Draw], classes: Sequence[str], shots: Sequence[int]) -> tuple[tuple[int, ...], list[str]]:
    """Levels that can be filled, `ALL` last, and a note on the others."""
    sizes = np.array([[len(order) for order in draw.orders] for draw in draws])  # (draws, classes)
    fewest = int(sizes.min())
    number, scarcest = np.unravel_index(int(sizes.argmin()), sizes.shape)
    requested = sorted(set(shots) - {ALL}) + [ALL] * (ALL in shots)
    levels = [level for level in requested if max(level, 1) <= fewest]
    where = f"class {classes[int(scarcest)]!r} has only {fewest} training utterances in draw {int(number)}"
    if not levels:
        raise ValueError(f"no number of shots can be filled: {where}")
    missing = [str(level) for level in requested if level not in levels]
    return tuple(levels), [f"{', '.join(missing)} shots left out, {where}"] if missing else []
