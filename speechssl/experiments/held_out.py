"""Test side of a fine-tuned model, without its training recordings and speakers.

Recordings are compared sample by sample and speakers by their names, so that an altered copy of a training recording
(see `data.training_audio`) and a speaker under another name are not found.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechssl.config import UserError
from speechssl.data.names import place_of
from speechssl.data.training_audio import NO_COPY, TrainingAudio, may_be_more, pretraining_overlap, read_training_audio
from speechssl.data.values import alike
from speechssl.data.waveforms import WaveformStore
from speechssl.terminal import say

_MORE = (
    "; other cuts of training recordings may be among the rest: the record is of an earlier version without marks of "
    "samples, or is of many hours, or utterances are too short or too quiet for marks"
)


@dataclass(frozen=True)
class HeldOut:
    """Utterances that a model is scored on, with what is known about its training data.

    Attributes:
        chosen: their indices in the corpus.
        left_out: number of utterances left out because the model was trained on them or their speakers.
        known: whether all audio of the model's fine-tuning is known.
        speakers_known: whether all its speakers are known.
        pretraining: number of `chosen` utterances in the audio of pretraining, in words.
        declared: whether names of training speakers are among those of `chosen`, declared to be other people.
    """

    chosen: list[int]
    left_out: int
    known: bool
    speakers_known: bool
    pretraining: str
    declared: bool = False

    @property
    def training(self) -> str:
        """The field `training_audio` of a result row: `NO_COPY` or `unknown`."""
        return NO_COPY if self.known else "unknown"

    def rule(self, what: str) -> str:
        """Description of what is disjoint, for `speakers` (compared by name) or `utterances` (by their samples).

        >>> HeldOut([], 0, known=True, speakers_known=True, pretraining="unknown").rule("utterances")
        'utterances that are no copies, sample by sample, of training audio'
        >>> HeldOut([], 0, known=False, speakers_known=False, pretraining="unknown").rule("speakers")
        'not known whether the model was trained on these speakers'
        """
        if not (self.speakers_known if what == "speakers" else self.known):
            return f"not known whether the model was trained on these {what}"
        if what == "speakers" and self.declared:
            return "speakers that --other-speakers says are not those of training"
        if what == "speakers":
            return "speakers of other names than in training"
        return "utterances that are no copies, sample by sample, of training audio"


def untrained(
    model: Path,
    config: Mapping[str, Any],
    store: WaveformStore,
    chosen: Sequence[int],
    *,
    other_speakers: bool,
    leave_out: bool,
) -> HeldOut:
    """Test utterances of which neither a copy, sample by sample, nor the speaker, by name, was trained on.

    Args:
        model: the model folder.
        config: its `config.json`, whose key `training` holds `content_hash` and `speakers`.
        store: the test corpus.
        chosen: its utterances to test on.
        other_speakers: equal names in another corpus are other people; ignored for the training corpus itself.
        leave_out: leave out training utterances and utterances of training speakers instead of refusing.

    Raises:
        UserError: an utterance or a speaker was trained on (names an example) without `leave_out`, or none is left.
    """
    audio = read_training_audio(model)
    trained = _trained(audio, config, store, chosen)
    at_least = "at least " * may_be_more(audio, store, chosen)
    if trained and not leave_out:
        raise UserError(
            f"{store.folder}: {at_least}{len(trained)} of {len(chosen)} test utterances were trained on, or used to "
            f"choose the checkpoint; files are compared by their samples, not by their names. The first is "
            f"{place_of(store.utterances[trained[0]])}; add --leave-out-trained to score the others"
        )
    rest = [index for index in chosen if index not in set(trained)]
    spoken = _of_trained_speakers(audio, config, store, rest, other_speakers=other_speakers)
    if spoken and not leave_out:
        shared = sorted({str(store.utterances[index].speaker) for index in spoken})
        same = config.get("training", {}).get("content_hash") == store.content_hash()
        way = "" if same else "; if it is another person of the same name, give --other-speakers"
        raise UserError(f"{store.folder}: the model was trained on speaker {shared[0]!r} ({len(shared)} such){way}")
    rest = [index for index in rest if index not in set(spoken)]
    if trained or spoken:
        say(
            f"{len(trained) + len(spoken)} of {len(chosen)} test utterances left out: the model was trained on "
            f"{len(trained)} of them, and on the speakers of {len(spoken)} others" + (_MORE if at_least else "")
        )
        if not rest:
            raise UserError(f"{store.folder}: the model was trained on all test utterances or their speakers")
    stage = audio.fine_tuning
    side = HeldOut(
        chosen=rest,
        left_out=len(trained) + len(spoken),
        known=stage.known and audio.selection.known,
        speakers_known=stage.known and bool(stage.speakers) and not stage.nameless,
        pretraining=pretraining_overlap(audio, store, rest),
        declared=bool(_of_trained_speakers(audio, config, store, rest, other_speakers=False)),
    )
    if not side.known:
        say(_unknown(audio))
    elif at_least:
        say(f"training audio: known{_MORE}")
    say(f"in the audio of pretraining: {side.pretraining}")
    return side


def _unknown(audio: TrainingAudio) -> str:
    """Message about unknown audio of fine-tuning.

    >>> from speechssl.data.training_audio import UNKNOWN, AudioRecord
    >>> _unknown(TrainingAudio(fine_tuning=AudioRecord(known=False, ids=frozenset({"a", "b"}))))
    'training audio: 2 recordings of fine-tuning are known and compared; the model that it started from has no ...'
    """
    recorded = audio.fine_tuning.ids | audio.selection.ids
    if not recorded:
        return "training audio: unknown, the model has no record of it; copies of its recordings cannot be found"
    return (
        f"training audio: {len(recorded)} recordings of fine-tuning are known and compared; the model that it started "
        "from has no record, so copies of recordings that one was trained on cannot be found"
    )


def _trained(audio: TrainingAudio, config: Mapping[str, Any], store: WaveformStore, chosen: Sequence[int]) -> list[int]:
    by_name = set(config.get("training", {}).get("audio", ()))  # models of earlier versions
    found = {index for index in chosen if by_name and place_of(store.utterances[index]) in by_name}
    return sorted(found.union(audio.fine_tuning.find(store, chosen), audio.selection.find(store, chosen)))


def _of_trained_speakers(
    audio: TrainingAudio,
    config: Mapping[str, Any],
    store: WaveformStore,
    chosen: Sequence[int],
    *,
    other_speakers: bool,
) -> list[int]:
    training: Mapping[str, Any] = config.get("training", {})
    if other_speakers and training.get("content_hash") != store.content_hash():
        return []
    used = audio.fine_tuning.speakers | audio.selection.speakers  # early stopping and tuning used the latter
    names = {alike(str(name)) for name in used | set(training.get("speakers", ()))}
    return [index for index in chosen if alike(store.utterances[index].speaker or "") in names - {""}]
