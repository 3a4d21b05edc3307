"""Who is labelled, who is not, who tunes the decoder and who is tested on, in a speech recognition experiment.

Speakers are disjoint between the test side and everything else wherever the corpus has more than one. A sentence of the
test or development side is never part of the language model's text, nor of the unlabelled recordings.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from speechssl.config import UserError
from speechssl.data.labelled import Example
from speechssl.data.lists import read_list, select, utterance_id
from speechssl.data.store import WaveformStore
from speechssl.data.subsets import minutes_subset, split_by_speaker
from speechssl.train.examples import examples_of

TEST_SHARE, DEV_SHARE, DEV_MINUTES = 0.2, 0.1, 10.0  # where no list and no official split says otherwise
_SPLIT = 51  # what a random stream is for; part of its seed


@dataclass(frozen=True)
class Division:
    """The sides of an experiment.

    Attributes:
        labelled: what a model is fine-tuned on.
        dev: what decoder weights are tuned on.
        test: what it is scored on.
        unlabelled: recordings for self-training; their targets are never looked at by a model.
        sentences: transcripts that a language model may be made of.
        rule: what is disjoint, in words.
        notes: sentences about it that are meant to be shown.
        split_hash: sixteen hexadecimal digits of the labelled and the test side.
    """

    labelled: list[Example]
    dev: list[Example]
    test: list[Example]
    unlabelled: list[Example]
    sentences: list[str]
    rule: str
    notes: tuple[str, ...]
    split_hash: str


def divide(
    store: WaveformStore,
    *,
    labels: Path | None = None,
    minutes: float = 10.0,
    dev: Path | None = None,
    test: Path | None = None,
    seed: int = 0,
) -> Division:
    """Divide a prepared corpus.

    Args:
        store: the prepared corpus, with transcripts.
        labels: list of the labelled utterances; None draws ``minutes`` of them.
        minutes: how many to draw.
        dev: list for the decoder; None draws a tenth by speaker, ten minutes at most.
        test: list of the test side; None takes the official split ``test``, or draws a fifth by speaker.
        seed: of the draws.

    Raises:
        UserError: no transcripts, a list that does not fit, or a speaker both trained and tested on though there are
            others.
    """
    examples = {example.index: example for example in examples_of(store, "text")}
    tested = _listed(store, test) if test else _test_side(store, sorted(examples), seed=seed)
    speakers = {store.utterances[index].speaker for index in examples}
    test_speakers = {store.utterances[index].speaker for index in tested}
    alone = len(speakers) == 1  # the corpus has one speaker: the same one is trained and tested on
    others = [
        i
        for i in sorted(examples)
        if i not in set(tested) and (alone or store.utterances[i].speaker not in test_speakers)
    ]
    if not others:
        raise UserError(f"{store.folder}: no speaker is left to train on beside those of the test side")
    developed = _listed(store, dev) if dev else _drawn(store, others, share=DEV_SHARE, seed=seed)
    rest = [index for index in others if index not in set(developed)]
    labelled = _listed(store, labels) if labels else _minutes(store, rest, minutes, seed=seed)
    _refuse_shared(store, labelled, tested, alone=alone)
    held = {examples[index].target for index in (*tested, *developed) if index in examples}
    free = [index for index in rest if examples[index].target not in held]
    unlabelled = [index for index in free if index not in set(labelled)]
    sentences = sorted({examples[index].target for index in {*free, *labelled}} - held)
    notes = [
        f"{len(labelled)} utterances labelled, {len(developed)} for the decoder, {len(unlabelled)} unlabelled, "
        f"{len(tested)} tested"
    ]
    if alone:
        notes.append("the corpus has one speaker, who is trained and tested on: no result says anything about others")
    if len(rest) > len(free):
        notes.append(f"{len(rest) - len(free)} recordings of test or development sentences are left out of training")
    parts = [_examples(examples, side) for side in (labelled, developed, tested, unlabelled)]
    return Division(
        *parts,
        sentences=sentences,
        rule="one speaker" if alone else "speakers disjoint",
        notes=tuple(notes),
        split_hash=_hash(store, labelled, tested),
    )


def _examples(examples: dict[int, Example], indices: Sequence[int]) -> list[Example]:
    return [examples[index] for index in indices if index in examples]


def _listed(store: WaveformStore, path: Path) -> list[int]:
    return sorted(select(store.utterances, read_list(path)))


def _test_side(store: WaveformStore, indices: Sequence[int], *, seed: int) -> list[int]:
    official = [index for index in indices if store.utterances[index].split == "test"]
    return official or _drawn(store, indices, share=TEST_SHARE, seed=seed)


def _drawn(store: WaveformStore, indices: Sequence[int], *, share: float, seed: int) -> list[int]:
    """A share of the audio, by speaker where there are enough of them, else by utterance."""
    place = {id(store.utterances[index]): index for index in indices}
    items = [store.utterances[index] for index in indices]
    speakers = {item.speaker for item in items}
    if None not in speakers and len(speakers) >= round(1 / share) // 2:
        drawn = split_by_speaker(items, {"rest": 1 - share, "drawn": share}, seed=seed)["drawn"]
        return sorted(place[id(item)] for item in drawn)
    order = np.random.default_rng((seed, _SPLIT)).permutation(len(indices))
    return sorted(indices[place] for place in order[: max(1, round(share * len(indices)))].tolist())


def _minutes(store: WaveformStore, indices: Sequence[int], minutes: float, *, seed: int) -> list[int]:
    place = {id(store.utterances[index]): index for index in indices}
    try:
        drawn = minutes_subset([store.utterances[index] for index in indices], minutes, seed=seed)
    except ValueError as error:
        raise UserError(f"{store.folder}: {error}") from None
    return sorted(place[id(item)] for item in drawn)


def _refuse_shared(store: WaveformStore, labelled: Sequence[int], tested: Sequence[int], *, alone: bool) -> None:
    both = sorted(set(labelled) & set(tested))
    if both:
        raise UserError(f"{store.utterances[both[0]].audio}: is both labelled and tested on")
    trained, held = ({store.utterances[index].speaker for index in side} for side in (labelled, tested))
    shared = sorted(speaker for speaker in trained & held if speaker is not None)
    if shared and not alone:
        raise UserError(f"{store.folder}: speaker {shared[0]!r} is both trained and tested on")


def _hash(store: WaveformStore, labelled: Sequence[int], tested: Sequence[int]) -> str:
    sides = [sorted(utterance_id(store.utterances[index]) for index in side) for side in (labelled, tested)]
    return hashlib.sha256(json.dumps(sides).encode()).hexdigest()[:16]
