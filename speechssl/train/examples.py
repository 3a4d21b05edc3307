"""Training and held-out utterances of a prepared corpus with their targets."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from speechssl.config import UserError
from speechssl.data.labelled import Example
from speechssl.data.lists import read_list, select
from speechssl.data.splits import in_split
from speechssl.data.store import WaveformStore
from speechssl.data.subsets import k_shot, minutes_subset, split_by_speaker
from speechssl.data.training_audio import AudioRecord
from speechssl.data.utterance import said, wordless_note
from speechssl.terminal import say_once

Learn = Literal["label", "text"]
MIN_HELD_OUT_SPEAKERS = 4  # with fewer, holding one out removes too much


@dataclass(frozen=True)
class Labelled:
    """Training and held-out examples, with notes for the user."""

    train: list[Example]
    valid: list[Example]
    notes: tuple[str, ...] = ()


def examples_of(store: WaveformStore, learn: Learn) -> list[Example]:
    """Every utterance with a label, or with a transcript.

    Raises:
        UserError: no such utterance.
    """
    found: list[Example] = []
    for index, utterance in enumerate(store.utterances):
        target = utterance.label if learn == "label" else said(utterance)
        if target:
            found.append(Example(index, target))
    if learn == "text" and (note := wordless_note(store.utterances)):
        say_once(note)
    if not found:
        raise UserError(f"{store.folder}: no utterance has a {learn}, so there is nothing to train on")
    return found


def choose(
    store: WaveformStore,
    learn: Learn,
    *,
    split: str | None = None,
    ids: Path | None = None,
    shots: int | None = None,
    minutes: float | None = None,
    valid_share: float = 0.1,
    seed: int = 0,
) -> Labelled:
    """The examples of a fine-tuning run.

    Args:
        store: the prepared corpus.
        learn: ``label`` or ``text``.
        split: only utterances of this split, case-insensitive.
        ids: only utterances in this list (`data/lists`).
        shots: utterances per class; then nothing is held out.
        minutes: minutes of speech; then nothing is held out.
        valid_share: fraction of the audio, held out by speaker for early stopping.
        seed: seed of the draws.

    Raises:
        UserError: nothing is left, or the corpus is too small for the subset.
    """
    examples = {example.index: example for example in examples_of(store, learn)}
    if ids is not None:
        listed = set(select(store.utterances, read_list(ids)))
        examples = {index: example for index, example in examples.items() if index in listed}
    if split is not None:
        wanted = set(in_split(store.utterances, split, where=store.folder))
        examples = {index: each for index, each in examples.items() if index in wanted}
    if not examples:
        raise UserError(f"{store.folder}: no utterance with a {learn} is left by the given split or list")
    try:
        chosen = _subset(store, sorted(examples), shots=shots, minutes=minutes, seed=seed)
    except ValueError as error:
        raise UserError(f"{store.folder}: {error}") from None
    train = [examples[index] for index in chosen]
    if shots is not None or minutes is not None or valid_share == 0:
        return Labelled(train, [], ("nothing is held out: the run has a fixed length",))
    return _hold_out(store, train, learn, share=valid_share, seed=seed)


def _subset(
    store: WaveformStore, indices: Sequence[int], *, shots: int | None, minutes: float | None, seed: int
) -> list[int]:
    place = {id(store.utterances[index]): index for index in indices}
    items = [store.utterances[index] for index in indices]
    if shots is not None:
        items = k_shot(items, shots, seed=seed)
    if minutes is not None:
        items = minutes_subset(items, minutes, seed=seed)
    return [place[id(item)] for item in items]


def _hold_out(store: WaveformStore, examples: Sequence[Example], learn: Learn, *, share: float, seed: int) -> Labelled:
    items = [store.utterances[example.index] for example in examples]
    speakers = {store.speakers[example.index] for example in examples}
    if None in speakers or len(speakers) < MIN_HELD_OUT_SPEAKERS:
        few = "some speakers are not known" if None in speakers else f"there are {len(speakers)} speakers"
        return Labelled(list(examples), [], (f"nothing is held out for early stopping: {few}",))
    try:
        parts = split_by_speaker(items, {"train": 1 - share, "valid": share}, seed=seed)
    except ValueError as error:
        raise UserError(f"{store.folder}: {error}") from None
    held = {id(item) for item in parts["valid"]}
    train = [each for each, item in zip(examples, items, strict=True) if id(item) not in held]
    valid = [each for each, item in zip(examples, items, strict=True) if id(item) in held]
    if learn == "label":
        lost = sorted({example.target for example in valid} - {example.target for example in train})
        if lost:
            note = f"nothing is held out for early stopping: all speakers of {lost[0]!r} would be"
            return Labelled(list(examples), [], (note,))
    people = len({store.speakers[each.index] for each in valid})
    notes = [f"held out for early stopping: {len(valid)} utterances of {people} speakers"]
    again = set(AudioRecord.of(store, (each.index for each in valid)).find(store, (each.index for each in train)))
    if again:
        notes.append(f"{len(again)} training utterances left out: their audio is held out, with another speaker")
    return Labelled([each for each in train if each.index not in again], valid, tuple(notes))
