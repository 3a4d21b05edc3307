"""Speaker-disjoint folds: every speaker is tested exactly once per partition.

- Sessions are known (IEMOCAP has five of two speakers each): leave one session out.
- No more speakers than requested folds: leave one speaker out.
- Else that many folds, with numbers of speakers and of utterances per class as equal as a seeded search finds.

The folds are those of EmoBox (Ma et al., "EmoBox: Multilingual Multi-corpus Speech Emotion Recognition Toolkit and
Benchmark", 2024, arXiv 2406.07162) in kind, not in membership.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from speechssl.metrics.probe_splits import refuse_leak

_ATTEMPTS = 100  # partitions tried for a balanced one; more do not improve the counts visibly


@dataclass(frozen=True)
class Folds:
    """One partition: `of[i]` is the fold of utterance i, -1 where it takes no part; `rule` describes the partition."""

    of: Int[np.ndarray, " utterances"]
    count: int
    rule: str


def make_folds(
    labels: Sequence[str | None],
    speakers: Sequence[str | None],
    *,
    sessions: Sequence[str | None] | None = None,
    folds: int = 5,
    seed: int = 0,
) -> Folds:
    """One partition of the speakers.

    Args:
        labels: one entry per utterance; None where it takes no part.
        speakers: the same.
        sessions: where the corpus has sessions; each becomes a fold.
        folds: number of folds, where there are neither sessions nor few speakers.
        seed: seed of the search for balanced folds (the other two rules draw nothing).

    Raises:
        ValueError: fewer than two speakers or folds, or a speaker in two sessions; names what is wrong.

    >>> made = make_folds(["a", "b"] * 6, [f"s{i // 2}" for i in range(12)], folds=3)
    >>> made.rule, np.bincount(made.of).tolist()
    ('3 speaker-disjoint folds', [4, 4, 4])
    """
    used = [i for i, label in enumerate(labels) if label is not None and speakers[i] is not None]
    names = sorted({str(speakers[i]) for i in used})
    if len(names) < 2 or folds < 2:
        raise ValueError(f"speaker-disjoint folds need at least 2 speakers and 2 folds, got {len(names)} and {folds}")
    if sessions is not None:
        fold_of = _session_folds(used, speakers, sessions)
        rule = "leave one session out"
    elif len(names) <= folds:
        fold_of = {name: number for number, name in enumerate(names)}
        rule = "leave one speaker out"
    else:
        fold_of = _balanced_folds(used, labels, speakers, names=names, folds=folds, seed=seed)
        rule = f"{folds} speaker-disjoint folds"
    of = np.full(len(labels), -1, dtype=np.int64)
    of[used] = [fold_of[str(speakers[i])] for i in used]
    return Folds(of=of, count=max(fold_of.values()) + 1, rule=rule)


def refuse_shared_speaker(
    train: Int[np.ndarray, " trains"], test: Int[np.ndarray, " tests"], *, speakers: Sequence[str | None]
) -> None:
    """Raise when a speaker is on both sides, or an utterance has no speaker.

    Raises:
        ValueError: naming one of the speakers.

    >>> refuse_shared_speaker(np.array([0, 1]), np.array([2]), speakers=["anna", "ben", "ben"])
    Traceback (most recent call last):
    ValueError: 1 speaker is on both the training and the test side, for example 'ben'
    """
    if any(speakers[i] is None for i in (*train.tolist(), *test.tolist())):
        raise ValueError("an utterance without a speaker cannot be kept apart from anybody")
    refuse_leak(train, test, groups=speakers, what="speaker")


def _session_folds(
    used: Sequence[int], speakers: Sequence[str | None], sessions: Sequence[str | None]
) -> dict[str, int]:
    home: dict[str, str] = {}
    for i in used:
        session = sessions[i]
        if session is None:
            raise ValueError(f"an utterance of speaker {speakers[i]!r} has no session")
        if home.setdefault(str(speakers[i]), session) != session:
            raise ValueError(f"speaker {speakers[i]!r} is in two sessions, {home[str(speakers[i])]!r} and {session!r}")
    numbers = {session: number for number, session in enumerate(sorted(set(home.values())))}
    if len(numbers) < 2:
        raise ValueError(f"leaving one session out needs at least 2 sessions, got {len(numbers)}")
    return {name: numbers[session] for name, session in home.items()}


def _balanced_folds(
    used: Sequence[int],
    labels: Sequence[str | None],
    speakers: Sequence[str | None],
    *,
    names: Sequence[str],
    folds: int,
    seed: int,
) -> dict[str, int]:
    """The most balanced of several random partitions.

    scikit-learn's StratifiedGroupKFold is greedy from the largest speaker on, so that most of its seeds give the same
    partition where speakers differ in size; here every seed gives a different one.
    """
    classes = sorted({str(labels[i]) for i in used})
    counts = np.zeros((len(names), len(classes)))
    np.add.at(
        counts, ([names.index(str(speakers[i])) for i in used], [classes.index(str(labels[i])) for i in used]), 1.0
    )
    share = counts.sum(axis=0) / folds  # utterances per class that a perfectly balanced fold would have
    rng = np.random.default_rng([seed, len(names)])
    best, best_score = np.zeros(len(names), dtype=np.int64), np.inf
    for _ in range(_ATTEMPTS):
        sides = np.empty(len(names), dtype=np.int64)
        sides[rng.permutation(len(names))] = np.arange(len(names)) % folds
        sums = np.zeros((folds, len(classes)))
        np.add.at(sums, sides, counts)
        score = float(np.sum((sums / share - 1) ** 2))
        if score < best_score:
            best, best_score = sides, score
    return dict(zip(names, best.tolist(), strict=True))
