"""Record of the audio that a model was trained on: the file `training_audio.json` of a model folder.

A recording that was moved, copied, renamed or losslessly re-encoded has the same samples and therefore the same content
id (`WaveformStore.content_ids`). Another cut of it shares marks with it, digests of short windows of samples, whatever
its file is called and wherever the cut begins (`data.marks`, which says what is no evidence). A stretch of a file
overlaps another one of the same file when their times do; for that, files are known by their paths and by what the file
system says of them (device, inode, size, time), so that links and files renamed within a file system are found.

Not found, because their samples differ: a copy of another volume, sampling rate or number of channels, filtered or
mixed with noise, and a lossy copy; of files that were copied, or moved to another file system, a cut that begins
elsewhere where the corpus does not have the samples of the file (another rate than 16 kHz, more than 16 bits). No
digest finds these for certain: a changed volume is rounded again, and wherever the values are divided into steps some
samples change theirs. So results say "no copy sample by sample", which is what is known, and numbers are given as "at
least" where an utterance has no marks that can be compared, or the record is of an earlier version and has none.

Size: 19 bytes per utterance for its content id, about 90 for its stretch, and 43 per second of audio for its marks, 11
MB of marks at most for each of the three stages.

Each stage of training has a record, and a model that starts from another one keeps the records of that one. A model
without the file (imported, or of an earlier version) has unknown records, and so have all models that start from it.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

from pydantic import Field, ValidationError

from speechssl.config import Config, UserError
from speechssl.data.copies import MIN_OVERLAP, evidence, stretch
from speechssl.data.manifest import write_lines
from speechssl.data.marks import Marks
from speechssl.data.store import WaveformStore

TRAINING_AUDIO = "training_audio.json"
NO_COPY = "known, no copy sample by sample"
"""For a result row: the model's training audio is recorded, and no utterance that is scored is in it."""
_VERSION = 2
_READ = (1, _VERSION)  # version 1 has no marks


class _StageFile(Config):
    known: bool
    ids: list[str]
    marks: str | None = None  # base64
    level: int = Field(default=0, ge=0, lt=64)
    complete: bool = True
    stretches: dict[str, list[tuple[float, float]]]
    speakers: list[str]
    nameless: bool


class _File(Config):
    version: int
    pretraining: _StageFile
    fine_tuning: _StageFile
    selection: _StageFile


@dataclass(frozen=True)
class AudioRecord:
    """The audio of one stage of training.

    Attributes:
        known: whether it is complete; False where an earlier part of the stage has no record.
        ids: content ids of the utterances.
        stretches: begin and end in seconds of each utterance, by a digest of its file's path, and by one of its
            state in the file system.
        speakers: their names, where known.
        nameless: whether some utterance has no speaker.
        marks: of the utterances, by which other cuts of them are found.
    """

    known: bool = True
    ids: frozenset[str] = frozenset()
    stretches: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict[str, list[tuple[float, float]]])
    speakers: frozenset[str] = frozenset()
    nameless: bool = False
    marks: Marks = field(default_factory=Marks)

    @classmethod
    def of(cls, store: WaveformStore, indices: Iterable[int] | None = None) -> "AudioRecord":
        """The record of some utterances of a corpus, or of all."""
        chosen = sorted(set(range(len(store)) if indices is None else indices))
        ids = store.content_ids()
        stretches: dict[str, list[tuple[float, float]]] = {}
        for index in chosen:
            files, begin, end = stretch(store, index)
            for file in files:
                stretches.setdefault(file, []).append((begin, end))
        speakers = {store.utterances[index].speaker for index in chosen}
        return cls(
            ids=frozenset(ids[index] for index in chosen),
            stretches=stretches,
            speakers=frozenset(name for name in speakers if name is not None),
            nameless=None in speakers,
            marks=Marks.of(evidence(store, chosen), level=store.level),
        )

    def __or__(self, other: "AudioRecord") -> "AudioRecord":
        """Both together; known where both are."""
        paths = {**self.stretches, **other.stretches}
        both = {path: sorted({*self.stretches.get(path, ()), *other.stretches.get(path, ())}) for path in paths}
        return AudioRecord(
            known=self.known and other.known,
            ids=self.ids | other.ids,
            stretches=both,
            speakers=self.speakers | other.speakers,
            nameless=self.nameless or other.nameless,
            marks=self.marks | other.marks,
        )

    def find(self, store: WaveformStore, indices: Iterable[int]) -> list[int]:
        """Those of the given utterances that are in the record: by content, as another cut or an overlapping stretch.

        Everything that compares the audio of a model with that of a corpus does it here.
        """
        chosen, ids = list(indices), store.content_ids()
        cuts = self.marks.shared(evidence(store, chosen)) if self.marks.packed else [False] * len(chosen)
        return [
            index
            for index, cut in zip(chosen, cuts, strict=True)
            if cut or ids[index] in self.ids or self._overlaps(*stretch(store, index))
        ]

    def at_least(self, store: WaveformStore, indices: Iterable[int]) -> bool:
        """Whether more of the given utterances than `find` finds may be other cuts of audio in the record."""
        if not self.ids:
            return False
        chosen = list(indices)
        rest = sorted(set(chosen) - set(self.find(store, chosen)))
        return not (self.marks.complete and all(self.marks.comparable(evidence(store, rest))))

    def _overlaps(self, files: Sequence[str], begin: float, end: float) -> bool:
        known = {stretch for file in files for stretch in self.stretches.get(file, ())}
        return any(min(end, last) - max(begin, first) >= MIN_OVERLAP for first, last in known)


UNKNOWN = AudioRecord(known=False)


@dataclass(frozen=True)
class TrainingAudio:
    """The audio of every stage of a model.

    Attributes:
        pretraining: the corpora of pretraining, including held-out utterances.
        fine_tuning: utterances with labels or transcripts for training, including pseudo-labels.
        selection: utterances by which a checkpoint or the weights of a decoder were chosen.
    """

    pretraining: AudioRecord = AudioRecord()
    fine_tuning: AudioRecord = AudioRecord()
    selection: AudioRecord = AudioRecord()

    def __or__(self, other: "TrainingAudio") -> "TrainingAudio":
        """Both, stage by stage."""
        return TrainingAudio(**{name: getattr(self, name) | getattr(other, name) for name in _STAGES})


_STAGES = tuple(each.name for each in fields(TrainingAudio))


def read_training_audio(folder: Path | None) -> TrainingAudio:
    """The records of a model folder: unknown ones where it has none, empty ones for a model without pretraining.

    Raises:
        UserError: the file cannot be read, or is of a newer version.
    """
    if folder is None:
        return TrainingAudio()
    path = folder / TRAINING_AUDIO
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return TrainingAudio(UNKNOWN, UNKNOWN, UNKNOWN)
    try:
        found = _File.model_validate_json(content)
    except ValidationError:
        raise UserError(f"{path}: not the record of a model's training audio; restore or remove it") from None
    if found.version not in _READ:
        raise UserError(f"{path}: version {found.version}, this program reads version {_VERSION} and earlier ones")
    try:
        return TrainingAudio(**{name: _record(getattr(found, name)) for name in _STAGES})
    except ValueError:
        raise UserError(f"{path}: not the record of a model's training audio; restore or remove it") from None


def write_training_audio(folder: Path, audio: TrainingAudio) -> None:
    """Writes the records into a model folder, completely or not at all."""
    stages = {name: _stage(getattr(audio, name)) for name in _STAGES}
    content = {"version": _VERSION, **stages}
    write_lines([json.dumps(content, ensure_ascii=False, separators=(",", ":"))], folder / TRAINING_AUDIO)


def pretraining_overlap(audio: TrainingAudio, store: WaveformStore, indices: Iterable[int]) -> str:
    """Text with the number of test utterances in the audio of pretraining, which is allowed: it uses no labels.

    Args:
        audio: the records of the model.
        store: the test corpus.
        indices: its test utterances.

    Returns:
        Such as `3 of 24 test utterances, compared sample by sample`, `at least 3 of 24 ...` where other cuts may be
        among the rest (`AudioRecord.at_least`); `unknown` where the model's record is missing.
    """
    tested = sorted(set(indices))
    count = len(audio.pretraining.find(store, tested))
    words = f"{count} of {len(tested)} test utterances, compared sample by sample"
    if audio.pretraining.known:
        return f"at least {words}" if audio.pretraining.at_least(store, tested) else words
    return f"unknown, at least {words}" if count else "unknown"


def may_be_more(audio: TrainingAudio, store: WaveformStore, indices: Sequence[int]) -> bool:
    """Whether other cuts of the audio of fine-tuning may be among the utterances in which it is not found."""
    stages = (audio.fine_tuning, audio.selection)
    return any(not stage.known or stage.at_least(store, indices) for stage in stages)


def refuse_trained(audio: TrainingAudio, store: WaveformStore, indices: Iterable[int], *, model: Path) -> None:
    """Raises `UserError` where a model that an experiment starts from was fine-tuned on utterances that it tests on."""
    tested = sorted(set(indices))
    found = sorted({*audio.fine_tuning.find(store, tested), *audio.selection.find(store, tested)})
    if found:
        number = f"{'at least ' * may_be_more(audio, store, tested)}{len(found)}"
        raise UserError(
            f"{store.folder}: {model} was fine-tuned on {number} of {len(tested)} test utterances (compared by "
            f"their samples), the first is {store.utterances[found[0]].audio}; start from a model that was not"
        )


def _record(stage: _StageFile) -> AudioRecord:
    complete = stage.complete and (stage.marks is not None or not stage.ids)
    return AudioRecord(
        known=stage.known,
        ids=frozenset(stage.ids),
        stretches=stage.stretches,
        speakers=frozenset(stage.speakers),
        nameless=stage.nameless,
        marks=Marks.decoded(stage.marks or "", level=stage.level, complete=complete),
    )


def _stage(record: AudioRecord) -> dict[str, object]:
    return {
        "known": record.known,
        "ids": sorted(record.ids),
        "stretches": {path: list(record.stretches[path]) for path in sorted(record.stretches)},
        "speakers": sorted(record.speakers),
        "nameless": record.nameless,
        "marks": record.marks.encoded(),
        "level": record.marks.level,
        "complete": record.marks.complete,
    }
