"""Sides of a speech recognition experiment: labelled, unlabelled, development (decoder weights) and test.

Speakers are disjoint between the test side and everything else wherever the corpus has more than one, unless the
experiment is asked to train and test on one speaker; then the sentences of the labelled, development and test sides are
disjoint, and no recording of another speaker is used. A sentence of the test or development side is never part of the
language model's text, nor of the unlabelled recordings. The order of the manifest makes no difference.
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
from speechssl.data.names import utterance_ids
from speechssl.data.store import WaveformStore
from speechssl.data.subsets import minutes_subset, split_by_speaker
from speechssl.data.training_audio import AudioRecord
from speechssl.experiments.asr_same_speaker import (
    SAME_SPEAKER,
    of_tested_speaker,
    refuse_sentences,
    without_sentences_of,
)
from speechssl.train.examples import examples_of

TEST_SHARE, DEV_SHARE, DEV_MINUTES = 0.2, 0.1, 10.0  # where there is no list and no official split
_SPLIT = 51  # part of the seed, so that this random stream differs from others


@dataclass(frozen=True)
class RecognitionSides:
    """The sides of an experiment.

    Attributes:
        labelled: utterances for fine-tuning; like every side in the order of the names.
        dev: utterances on which decoder weights are tuned.
        test: utterances that are scored.
        unlabelled: recordings for self-training; their targets are not used by any model.
        sentences: transcripts that may train a language model.
        rule: what is disjoint, in words.
        notes: sentences for the user.
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
    same_speaker: bool = False,
    seed: int = 0,
) -> RecognitionSides:
    """Divide a prepared corpus.

    Args:
        store: the prepared corpus, with transcripts.
        labels: list of the labelled utterances; None draws ``minutes`` of them.
        minutes: minutes to draw.
        dev: list for the decoder; None draws a tenth, ten minutes at most: by speaker where there are enough of them.
        test: list of the test side; None uses the official split ``test``, or draws a fifth by speaker.
        same_speaker: train, tune and test on the speaker of the test side, with other sentences on each side.
        seed: seed of the draws.

    Raises:
        UserError: no transcripts, a list that does not fit, a side without utterances, an utterance on two sides, or a
            speaker both trained (or tuned) and tested on though there are others. With ``same_speaker``: a test side of
            several or unknown speakers, another speaker in a list, or a sentence on two sides.
    """
    examples = {example.index: example for example in examples_of(store, "text")}
    names = names_of(store)
    known = sorted(examples, key=names.__getitem__)
    tested = _listed(store, test) if test else _test_side(store, known, names=names, seed=seed)
    tested = _transcribed(tested, examples, names)
    if same_speaker:
        known = of_tested_speaker(store, known, tested)
    speakers = {store.speakers[index] for index in known}
    alone = len(speakers) == 1  # one speaker, or none known: one speaker may be on both the training and test side
    held_speakers = {store.speakers[index] for index in tested}
    others = [i for i in known if i not in set(tested) and (alone or store.speakers[i] not in held_speakers)]
    others, again = _without_audio_of(store, tested, others)
    repeating = 0  # recordings with a sentence of the test or development side
    if same_speaker:
        others, repeating = without_sentences_of(examples, tested, others)
    listed = _transcribed(_listed(store, labels), examples, names) if labels else []
    if dev:
        developed = apart = _transcribed(_listed(store, dev), examples, names)
    else:
        pool = without_sentences_of(examples, listed, others)[0] if same_speaker else others
        developed, apart = _dev_side(store, pool, listed, names=names, seed=seed)
    rest, repeated = _without_audio_of(store, apart, [index for index in others if index not in set(apart)])
    again += repeated
    if same_speaker:
        rest, more = without_sentences_of(examples, apart, rest)
        repeating += more
    labelled = listed or _minutes(store, rest, minutes, seed=seed)
    _refuse_gaps(store, labelled=labelled, developed=developed, tested=tested)
    _refuse_shared(store, labelled, tested, words=("labelled", "tested on"), speakers=not alone)
    _refuse_shared(store, developed, tested, words=("used to tune the decoder", "tested on"), speakers=not alone)
    _refuse_shared(store, labelled, developed, words=("labelled", "used to tune the decoder"), speakers=False)
    if same_speaker:
        refuse_sentences(store, examples, labelled=labelled, developed=developed, tested=tested)
    held = {examples[index].target for index in (*tested, *developed)}
    free = [index for index in rest if examples[index].target not in held]
    unlabelled = [index for index in free if index not in set(labelled)]
    notes = [
        f"{len(labelled)} utterances labelled, {len(developed)} for the decoder, {len(unlabelled)} unlabelled, "
        f"{len(tested)} tested"
    ]
    if alone:
        who = "speakers are not known: one may be" if None in speakers else "the corpus has one speaker, who is"
        if same_speaker:
            who = f"speaker {store.speakers[tested[0]]!r} alone, with other sentences, is"
        notes.append(f"{who} trained and tested on: no result applies to other speakers")
    repeating += len(rest) - len(free)
    if repeating:
        notes.append(f"{repeating} recordings of test or development sentences are not among the unlabelled")
    if again:
        notes.append(
            f"{again} recordings left out: their audio is on the test or development side too, under another name or "
            "in another stretch"
        )
    return RecognitionSides(
        *([examples[index] for index in side] for side in (labelled, developed, tested, unlabelled)),
        sentences=sorted({examples[index].target for index in {*free, *labelled}} - held),
        rule=SAME_SPEAKER if same_speaker else _rule(alone=alone, unknown=None in speakers),
        notes=tuple(notes),
        split_hash=_hash([names[index] for index in labelled], [names[index] for index in tested]),
    )


def _rule(*, alone: bool, unknown: bool) -> str:
    return ("speakers unknown" if unknown else "one speaker") if alone else "speakers disjoint"


def names_of(store: WaveformStore) -> list[str]:
    """One name per utterance, independent of the corpus folder: that of lists, or the path where names collide."""
    names = [utterance_id(item) for item in store.utterances]
    return names if len(set(names)) == len(names) else utterance_ids(store.utterances)


def _listed(store: WaveformStore, path: Path) -> list[int]:
    try:
        return select(store.utterances, read_list(path))
    except UserError as error:
        raise UserError(str(error) if str(path) in str(error) else f"{path}: {error}") from None


def _transcribed(indices: Sequence[int], examples: dict[int, Example], names: Sequence[str]) -> list[int]:
    return sorted((index for index in indices if index in examples), key=names.__getitem__)


def _test_side(store: WaveformStore, indices: Sequence[int], *, names: Sequence[str], seed: int) -> list[int]:
    official = [index for index in indices if store.utterances[index].in_split("test")]
    if official:
        return official
    nameless = sum(store.speakers[index] is None for index in indices)
    if 0 < nameless < len(indices):
        raise UserError(
            f"{store.folder}: {nameless} utterances have no speaker, others do; give a list of the test side"
        )
    return _draw_share(store, indices, share=TEST_SHARE, names=names, seed=seed)


def _dev_side(
    store: WaveformStore, others: Sequence[int], listed: Sequence[int], *, names: Sequence[str], seed: int
) -> tuple[list[int], list[int]]:
    """Utterances for tuning the decoder, and all that are held out for it: also other recordings of their speakers."""
    seconds = min(60 * DEV_MINUTES, DEV_SHARE * _seconds(store, others))
    if not listed:
        apart = _draw_share(store, others, share=DEV_SHARE, names=names, seed=seed) if others else []
        return _some(store, apart, seconds, names=names, seed=seed), apart
    trained = {store.speakers[index] for index in listed}
    pool = [index for index in others if index not in set(listed)]
    fresh = [index for index in pool if store.speakers[index] not in trained]
    enough = _seconds(store, fresh) >= seconds
    drawn = _some(store, fresh if enough else pool, seconds, names=names, seed=seed)
    return drawn, drawn


def _draw_share(
    store: WaveformStore, indices: Sequence[int], *, share: float, names: Sequence[str], seed: int
) -> list[int]:
    """Draw a fraction of the audio, by speaker where there are enough of them, else by utterance."""
    speakers = {store.speakers[index] for index in indices}
    if None not in speakers and len(speakers) >= round(1 / share) // 2:
        place = {id(store.utterances[index]): index for index in indices}
        items = [store.utterances[index] for index in indices]
        drawn = split_by_speaker(items, {"rest": 1 - share, "drawn": share}, seed=seed)["drawn"]
        return sorted((place[id(item)] for item in drawn), key=names.__getitem__)
    return _some(store, indices, share * _seconds(store, indices), names=names, seed=seed)


def _some(
    store: WaveformStore, indices: Sequence[int], seconds: float, *, names: Sequence[str], seed: int
) -> list[int]:
    """Utterances in a random order up to a total duration; at least one where there is one."""
    order = sorted(indices, key=names.__getitem__)
    taken: list[int] = []
    total = 0.0
    for place in np.random.default_rng((seed, _SPLIT)).permutation(len(order)).tolist():
        if taken and total + store.utterances[order[place]].duration > seconds:
            break
        taken.append(order[place])
        total += store.utterances[order[place]].duration
    return sorted(taken, key=names.__getitem__)


def _minutes(store: WaveformStore, indices: Sequence[int], minutes: float, *, seed: int) -> list[int]:
    place = {id(store.utterances[index]): index for index in indices}
    try:
        drawn = minutes_subset([store.utterances[index] for index in indices], minutes, seed=seed)
    except ValueError as error:
        words = str(error).replace("the manifest holds", "beside the test and development sides there are")
        raise UserError(f"{store.folder}: {words}") from None
    return [place[id(item)] for item in drawn]


def _seconds(store: WaveformStore, indices: Sequence[int]) -> float:
    return sum((store.utterances[index].duration for index in indices), start=0.0)


def _refuse_gaps(
    store: WaveformStore, *, labelled: Sequence[int], developed: Sequence[int], tested: Sequence[int]
) -> None:
    if len(tested) < 2:
        raise UserError(
            f"{store.folder}: {len(tested)} utterances with a transcript to test on; two or more are needed"
        )
    for side, words in ((labelled, "labelled"), (developed, "to tune the decoder on")):
        if not side:
            raise UserError(f"{store.folder}: no utterance with a transcript is {words}, beside {len(tested)} tested")


def _without_audio_of(store: WaveformStore, side: Sequence[int], others: Sequence[int]) -> tuple[list[int], int]:
    """Utterances that share no audio with a side, and the number of those that do."""
    shared = set(AudioRecord.of(store, side).find(store, others))
    return [index for index in others if index not in shared], len(shared)


def _refuse_shared(
    store: WaveformStore, one: Sequence[int], other: Sequence[int], *, words: tuple[str, str], speakers: bool
) -> None:
    both = sorted(set(one) & set(other))
    if both:
        raise UserError(f"{store.utterances[both[0]].audio}: is both {words[0]} and {words[1]}")
    copied = AudioRecord.of(store, other).find(store, one)
    if copied:
        raise UserError(
            f"{store.utterances[copied[0]].audio}: its audio is both {words[0]} and {words[1]}, under another name or "
            "in another stretch"
        )
    first, second = ({store.speakers[index] for index in side} for side in (one, other))
    shared = sorted(speaker for speaker in first & second if speaker is not None)
    if shared and speakers:
        raise UserError(f"{store.folder}: speaker {shared[0]!r} is both {words[0]} and {words[1]}")


def _hash(*sides: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps([sorted(side) for side in sides]).encode()).hexdigest()[:16]
