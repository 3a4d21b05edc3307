"""Sides of a correction: the corrected utterances that train, those that are tested, and the earlier labels.

No tested utterance has its audio, or a cut of it, among the trained ones or among those that the model was trained on
or tuned on before. Where the test side is drawn, its sentences are not trained on, and neither are its speakers where
there are enough of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from speechssl.config import UserError
from speechssl.data.labelled import Example
from speechssl.data.lists import read_list, select
from speechssl.data.store import WaveformStore
from speechssl.data.subsets import split_by_speaker
from speechssl.data.training_audio import AudioRecord, TrainingAudio, refuse_trained
from speechssl.experiments.asr_sides import names_of
from speechssl.text import Vocabulary
from speechssl.train.examples import MIN_HELD_OUT_SPEAKERS, examples_of

SHARE = 0.2  # of the corrected utterances that is held out where there is no list
LEAST = 0.5  # of the utterances that a division by speaker must leave to train on
_SPLIT = 61  # part of the seed, so that this random stream differs from others


@dataclass(frozen=True)
class CorrectedSides:
    """The corrected utterances of a corpus in two sides, in the order of their names.

    Attributes:
        train: utterances that are trained on.
        test: utterances that are scored.
        rule: what is disjoint, in words.
        notes: sentences for the user.
    """

    train: list[Example]
    test: list[Example]
    rule: str
    notes: tuple[str, ...]


def divide_corrected(
    store: WaveformStore, audio: TrainingAudio, *, model: Path, test: Path | None = None, seed: int = 0
) -> CorrectedSides:
    """Divide the utterances of a corpus with corrected transcripts.

    Args:
        store: the prepared corpus.
        audio: the training audio of the model.
        model: the model folder, for messages.
        test: list of the test side; None uses the split ``test``, or draws a fifth.
        seed: seed of the draw.

    Raises:
        UserError: no transcripts, a listed utterance that the model was trained on or tuned on, or a side without
            utterances.
    """
    examples = {example.index: example for example in examples_of(store, "text")}
    names = names_of(store)
    known = sorted(examples, key=names.__getitem__)
    tuned = set(audio.selection.find(store, known))
    used = tuned | set(audio.fine_tuning.find(store, known))
    fresh = [index for index in known if index not in used]
    notes: list[str] = []
    official = [index for index in known if store.utterances[index].in_split("test")]
    by_speaker = False
    if test is not None or official:
        tested = official if test is None else _listed(store, test, examples)
        refuse_trained(audio, store, tested, model=model)
        rule = "utterances of a list" if test else "utterances of the split test"
        apart = set(tested)
    else:
        tested, by_speaker = _draw(store, examples, fresh, names=names, seed=seed)
        if by_speaker and len(_without(store, examples, known, tested, speakers=True)) < LEAST * len(known):
            tested, by_speaker = _draw_sentences(examples, fresh, seed=seed), False
        rule = "other speakers and sentences than" if by_speaker else "other sentences than"
        rule += " those of the corrected recordings trained on"
        apart = set(known) - set(_without(store, examples, known, tested, speakers=by_speaker))
        if used:
            notes.append(
                f"{len(used)} corrected recordings are not tested: {model} was trained on them or tuned on them"
            )
    rest = [index for index in known if index not in apart]
    copied = set(AudioRecord.of(store, tested).find(store, rest))
    left_tuned = tuned - set(tested) - apart
    trained = [index for index in rest if index not in copied | tuned]
    _refuse_empty(store, trained, tested)
    lost = len(apart) - len(tested)
    if lost:
        what = "sentence or a speaker" if by_speaker else "sentence"
        notes.append(f"{lost} corrected recordings left out: they have a {what} of the test side")
    if copied:
        notes.append(f"{len(copied)} corrected recordings left out: their audio is on the test side too")
    if left_tuned:
        notes.append(f"{len(left_tuned)} corrected recordings left out: {model} was tuned on them")
    notes += _shared(store, examples, trained, tested)
    notes.insert(0, f"{len(trained)} corrected utterances trained on, {len(tested)} tested: {rule}")
    return CorrectedSides([examples[i] for i in trained], [examples[i] for i in sorted(tested, key=names.__getitem__)],
                          rule=rule, notes=tuple(notes))  # fmt: skip


def earlier_labels(
    earlier: WaveformStore,
    audio: TrainingAudio,
    corrected: AudioRecord,
    *,
    model: Path,
    labels: Path | None = None,
) -> tuple[list[Example], list[str]]:
    """The earlier labelled utterances of a model, and notes for the user.

    Args:
        earlier: the corpus that the model was trained on.
        audio: the training audio of the model.
        corrected: the audio of all corrected utterances, also of those that are tested.
        model: the model folder, for messages.
        labels: list of the utterances; None takes those that are in the model's record.

    Raises:
        UserError: none is left, or a listed utterance was used to tune the model.
    """
    examples = {example.index: example for example in examples_of(earlier, "text")}
    listed = None if labels is None else _listed(earlier, labels, examples)
    chosen = audio.fine_tuning.find(earlier, sorted(examples)) if listed is None else listed
    tuned = set(audio.selection.find(earlier, chosen))
    if tuned and labels is not None:
        raise UserError(
            f"{labels}: {model} was tuned on {len(tuned)} of {len(chosen)} listed utterances, the first is "
            f"{earlier.utterances[min(tuned)].audio}; list others"
        )
    again = set(corrected.find(earlier, chosen))
    kept = [index for index in chosen if index not in tuned | again]
    if not kept and not again:
        why = "" if audio.fine_tuning.known or labels else ", whose record of training audio is missing or incomplete"
        raise UserError(
            f"{earlier.folder}: none of {len(examples)} utterances with a transcript is an earlier label of {model}"
            f"{why}; give --labels LIST, or leave --with out"
        )
    minutes = sum(earlier.utterances[index].duration for index in kept) / 60
    notes = [f"{len(kept)} earlier labels of {earlier.folder} ({minutes:.1f} minutes) trained on too"]
    if again:
        notes.append(f"{len(again)} earlier labels left out: their recordings are among the corrected ones")
    if tuned:
        notes.append(f"{len(tuned)} earlier labels left out: {model} was tuned on them")
    return [examples[index] for index in kept], notes


def refuse_symbols(store: WaveformStore, examples: Sequence[Example], vocabulary: Vocabulary, *, model: Path) -> None:
    """Raise `UserError` where a model has no symbols for a transcript: a head cannot get letters.

    Args:
        store: the corpus.
        examples: its utterances.
        vocabulary: that of the model.
        model: the model folder, for the message.
    """
    wrong = [each for each in examples if not all(map(vocabulary.can_write, each.target.split()))]
    if not wrong:
        return
    first = wrong[0].target.split()
    if vocabulary.writes_words:
        lacking = sorted({letter for word in first for letter in word} - set(vocabulary.symbols[2:]))
        what = f"the transcript has {', '.join(map(repr, lacking))}"
    else:
        what = f"no phones are known for {next(word for word in first if not vocabulary.can_write(word))!r}"
    more = f" (and {len(wrong) - 1} other transcripts)" if len(wrong) > 1 else ""
    raise UserError(
        f"{store.utterances[wrong[0].index].audio}: {what}, which {model} has no symbols for{more}; letters cannot be "
        "added to a recogniser: change the transcripts, or train another one with `speechssl finetune`"
    )


def _listed(store: WaveformStore, path: Path, examples: Mapping[int, Example]) -> list[int]:
    try:
        found = select(store.utterances, read_list(path))
    except UserError as error:
        raise UserError(str(error) if str(path) in str(error) else f"{path}: {error}") from None
    return [index for index in found if index in examples]


def _draw(
    store: WaveformStore, examples: Mapping[int, Example], fresh: Sequence[int], *, names: Sequence[str], seed: int
) -> tuple[list[int], bool]:
    """A share of the utterances, and whether it was drawn by speaker."""
    speakers = {store.speakers[index] for index in fresh}
    if None in speakers or len(speakers) < MIN_HELD_OUT_SPEAKERS:
        return _draw_sentences(examples, fresh, seed=seed), False
    items = {id(store.utterances[index]): index for index in fresh}
    parts = split_by_speaker(
        [store.utterances[index] for index in fresh], {"train": 1 - SHARE, "test": SHARE}, seed=seed
    )
    return sorted((items[id(item)] for item in parts["test"]), key=names.__getitem__), True


def _draw_sentences(examples: Mapping[int, Example], fresh: Sequence[int], *, seed: int) -> list[int]:
    """All utterances of randomly drawn sentences, a share of the utterances or just above, two at least."""
    said: dict[str, list[int]] = {}
    for index in fresh:
        said.setdefault(examples[index].target, []).append(index)
    sentences, drawn = sorted(said), list[int]()
    for place in np.random.default_rng((seed, _SPLIT)).permutation(len(sentences)).tolist():
        if len(drawn) >= max(2, SHARE * len(fresh)):
            break
        drawn += said[sentences[place]]
    return drawn


def _without(
    store: WaveformStore,
    examples: Mapping[int, Example],
    known: Sequence[int],
    tested: Sequence[int],
    *,
    speakers: bool,
) -> list[int]:
    """Utterances with no sentence of a side, and, with ``speakers``, of no speaker of it."""
    said = {examples[index].target for index in tested}
    people = {store.speakers[index] for index in tested} if speakers else set[str | None]()
    return [i for i in known if examples[i].target not in said and store.speakers[i] not in people]


def _shared(
    store: WaveformStore, examples: Mapping[int, Example], trained: Sequence[int], tested: Sequence[int]
) -> list[str]:
    """Notes on sentences and speakers of the test side that are trained on too."""
    said = {examples[index].target for index in trained}
    people = {store.speakers[index] for index in trained} - {None}
    notes: list[str] = []
    if again := sum(examples[index].target in said for index in tested):
        notes.append(
            f"{again} of {len(tested)} tested utterances have a sentence that is trained on in another recording"
        )
    if again := sum(store.speakers[index] in people for index in tested):
        notes.append(f"{again} of {len(tested)} tested utterances are of speakers that are trained on")
    return notes


def _refuse_empty(store: WaveformStore, trained: Sequence[int], tested: Sequence[int]) -> None:
    if len(tested) < 2 or not trained:
        raise UserError(
            f"{store.folder}: {len(trained)} corrected utterances to train on and {len(tested)} to test on; one and "
            "two are the least: correct more recordings, or give other ones with --test LIST"
        )
