"""Folds that are given as lists: the published folds of a benchmark, for rows that stand beside its table.

A folder holds one list per fold (`data.lists`), the utterances that the fold tests; the utterances of the other lists
train. `data/lists/` has those of EmoBox (Ma et al., "EmoBox: Multilingual Multi-corpus Speech Emotion Recognition
Toolkit and Benchmark", Interspeech 2024, arXiv 2406.07162) for RAVDESS and EmoDB.

Differences from drawn folds (`metrics.shots`): all of a side is used, a score is the mean over folds of the score of a
fold, speakers may be on both sides if the lists have them there, and copies stay where the lists have them. The name of
the task has the folder's name, so that these rows are never compared with others. A corpus that lacks listed utterances
gives a row that cannot stand beside the published ones: its task says how many there are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int

from speechssl.config import UserError
from speechssl.data.copies import copies
from speechssl.data.lists import list_ids, read_list, utterance_id
from speechssl.data.names import utterance_ids
from speechssl.data.store import WaveformStore
from speechssl.metrics.shots import ALL, Draw, FewLabels


@dataclass(frozen=True)
class _Found:
    """Listed utterances of a corpus: `fold_of[i]` is the fold that tests utterance i; `listed` counts all in lists."""

    fold_of: Mapping[int, int]
    listed: int


def read_fold_lists(folder: Path) -> dict[str, set[str]]:
    """The identifiers of each fold by the name of its list, in the order of the names.

    Raises:
        UserError: not a folder, fewer than two lists, a list that cannot be read, or an identifier in two of them.
    """
    paths = sorted(folder.glob("*.txt"), key=lambda path: (len(path.name), path.name))  # fold_10 after fold_9
    if len(paths) < 2:
        raise UserError(f"{folder}: need a folder with one list (.txt) per fold, at least two; found {len(paths)}")
    folds = {path.stem: read_list(path) for path in paths}
    seen: dict[str, str] = {}
    for fold, ids in folds.items():
        for name in sorted(ids):
            if seen.setdefault(name, fold) != fold:
                raise UserError(f"{folder}: {name} is in {seen[name]} and in {fold}; folds share no utterance")
    return folds


def listed_folds(store: WaveformStore, folder: Path) -> FewLabels:
    """One draw per list, with all utterances of the other lists as its shots.

    Args:
        store: the corpus, with labels and speakers.
        folder: the lists; see `read_fold_lists`.

    Raises:
        UserError: lists that cannot be read, a fold of which the corpus has nothing, fewer than two classes or
            speakers, or a class that a fold has no training utterance of.
    """
    lists = read_fold_lists(folder)
    found = _find(store, lists, folder)
    targets = [store.utterances[i].label if i in found.fold_of else None for i in range(len(store))]
    classes = tuple(sorted({str(targets[i]) for i in found.fold_of}))
    speakers = {store.speakers[i] for i in found.fold_of}
    if len(classes) < 2 or len(speakers) < 2:
        raise UserError(
            f"{store.folder}: the utterances listed in {folder} have {len(classes)} classes and {len(speakers)} "
            "speakers; need two of each"
        )
    ids = utterance_ids(store.utterances)
    draws = tuple(_draw(fold, found.fold_of, targets, classes=classes, ids=ids) for fold in range(len(lists)))
    for draw, name in zip(draws, lists, strict=True):
        empty = [label for label, order in zip(classes, draw.orders, strict=True) if not len(order)]
        if empty:
            raise UserError(f"{store.folder}: no list but {name} has utterances of class {empty[0]!r}; nothing trains")
    shared = _shared_speakers(found.fold_of, store.speakers)
    lacking = found.listed - len(found.fold_of)
    protocol = f"folds of {folder.name}" + (f", {len(found.fold_of)} of {found.listed} utterances" if lacking else "")
    return FewLabels(
        rule=f"{len(lists)} listed folds, " + ("speakers on both sides" if shared else "speaker-disjoint"),
        classes=classes,
        levels=(ALL,),
        targets=tuple(targets),
        speakers=tuple(store.speakers),
        ids=tuple(ids),
        draws=draws,
        notes=tuple(_notes(store, found, folder, ids=ids, shared=shared, speakers=len(speakers))),
        protocol=protocol,
    )


def _find(store: WaveformStore, lists: Mapping[str, set[str]], folder: Path) -> _Found:
    fold_of: dict[int, int] = {}
    fold_by_id = {name: fold for fold, ids in enumerate(lists.values()) for name in ids}
    taken: dict[str, int] = {}
    for index, (item, long) in enumerate(zip(store.utterances, list_ids(store.utterances), strict=True)):
        name = next((each for each in (utterance_id(item), long) if each in fold_by_id), None)
        if name is None or item.label is None or store.speakers[index] is None:
            continue
        if name in taken:
            raise UserError(f"{store.folder}: {name} is in the corpus more than once; a list means one utterance")
        taken[name] = index
        fold_of[index] = fold_by_id[name]
    tested = set(fold_of.values())
    for fold, (name, ids) in enumerate(lists.items()):
        if fold not in tested:
            raise UserError(
                f"{store.folder}: has no utterance of the list {folder / name}.txt (for example {min(ids)}) with a "
                "label and a speaker; identifiers are SPEAKER/FILE: is it the same corpus?"
            )
    return _Found(fold_of=fold_of, listed=len(fold_by_id))


def _draw(
    fold: int, fold_of: Mapping[int, int], targets: Sequence[str | None], *, classes: Sequence[str], ids: Sequence[str]
) -> Draw:
    """The draw of a fold. It is a partition of its own, so that scores are computed per fold and averaged."""
    by_id = sorted(fold_of, key=lambda i: ids[i])
    orders = [[i for i in by_id if targets[i] == name and fold_of[i] != fold] for name in classes]
    return Draw(
        number=fold,
        partition=fold,
        fold=fold,
        orders=tuple(_indices(order) for order in orders),
        test=np.sort(_indices([i for i in by_id if fold_of[i] == fold])),
    )


def _indices(numbers: Sequence[int]) -> Int[np.ndarray, " _"]:
    return np.array(numbers, dtype=np.int64)


def _shared_speakers(fold_of: Mapping[int, int], speakers: Sequence[str | None]) -> list[str]:
    """Speakers that several folds test."""
    folds: dict[str, set[int]] = {}
    for index, fold in fold_of.items():
        folds.setdefault(str(speakers[index]), set()).add(fold)
    return sorted(speaker for speaker, where in folds.items() if len(where) > 1)


def _notes(
    store: WaveformStore, found: _Found, folder: Path, *, ids: Sequence[str], shared: Sequence[str], speakers: int
) -> list[str]:
    notes: list[str] = []
    lacking = found.listed - len(found.fold_of)
    if lacking:
        notes.append(
            f"WARNING: the corpus lacks {lacking} of the {found.listed} utterances of {folder} (or their label or "
            "speaker): these rows cannot stand beside published ones, and the name of their task says so"
        )
    if len(found.fold_of) < len(store):
        notes.append(f"{len(store) - len(found.fold_of)} utterances are in no list of {folder}: not used")
    if shared:
        notes.append(
            f"{len(shared)} of {speakers} speakers are on both sides of these folds; scores are higher than for "
            "speakers that training lacks"
        )
    again = [
        (one, other)
        for one, other in copies(store, names=ids).items()
        if one in found.fold_of and other in found.fold_of and found.fold_of[one] != found.fold_of[other]
    ]
    if again:
        one, other = (store.utterances[i].audio for i in again[0])
        notes.append(
            f"{len(again)} listed utterances have the audio of one in another fold, for example {one}, {other}"
        )
    return notes
