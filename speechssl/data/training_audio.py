"""Record of the audio that a model was trained on: the file `training_audio.json` of a model folder.

A recording that was moved, copied, renamed or losslessly re-encoded has the same samples and therefore the same content
id (`WaveformStore.content_ids`). A stretch of a file overlaps another one of the same file when their times do; for
that, files are identified by their paths and by their state in the file system (device, inode, size, time), so that
links and files renamed within a file system are found. Not found, because their samples differ: a copy of another
volume, sampling rate or number of channels, with silence before or behind it, filtered or mixed with noise, a lossy
copy, and another cut of a file that was copied, or moved to another file system. No digest finds these for certain: a
changed volume is rounded again, and for any quantisation of the values some samples change their step. So results say
"no copy sample by sample".

Each stage of training has a record, and a model that starts from another one keeps the records of that one. A model
without the file (imported, or of an earlier version) has unknown records, and so have all models that start from it.
"""

import hashlib
import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

from pydantic import ValidationError

from speechssl.audio import samples_to_seconds
from speechssl.config import Config, UserError
from speechssl.data.manifest import write_lines
from speechssl.data.members import file_status, find_member
from speechssl.data.store import WaveformStore

TRAINING_AUDIO = "training_audio.json"
NO_COPY = "known, no copy sample by sample"
"""For a result row: the model's training audio is recorded, and no utterance that is scored is in it."""
MIN_OVERLAP = 0.1  # s that two stretches of a file share; less is the rounding of neighbours
_VERSION = 1


class _StageFile(Config):
    known: bool
    ids: list[str]
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
    """

    known: bool = True
    ids: frozenset[str] = frozenset()
    stretches: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict[str, list[tuple[float, float]]])
    speakers: frozenset[str] = frozenset()
    nameless: bool = False

    @classmethod
    def of(cls, store: WaveformStore, indices: Iterable[int] | None = None) -> "AudioRecord":
        """The record of some utterances of a corpus, or of all."""
        chosen = sorted(set(range(len(store)) if indices is None else indices))
        ids = store.content_ids()
        stretches: dict[str, list[tuple[float, float]]] = {}
        for index in chosen:
            files, begin, end = _stretch(store, index)
            for file in files:
                stretches.setdefault(file, []).append((begin, end))
        speakers = {store.utterances[index].speaker for index in chosen}
        return cls(
            ids=frozenset(ids[index] for index in chosen),
            stretches=stretches,
            speakers=frozenset(name for name in speakers if name is not None),
            nameless=None in speakers,
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
        )

    def find(self, store: WaveformStore, indices: Iterable[int]) -> list[int]:
        """Those of the given utterances that are in the record, by content or as an overlapping stretch of a file."""
        ids = store.content_ids()
        return [index for index in indices if ids[index] in self.ids or self._overlaps(*_stretch(store, index))]

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
    if found.version != _VERSION:
        raise UserError(f"{path}: version {found.version}, this program reads version {_VERSION}")
    return TrainingAudio(**{name: _record(getattr(found, name)) for name in _STAGES})


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
        Such as `3 of 24 test utterances, compared sample by sample`; `unknown` where the model's record is missing.
    """
    tested = sorted(set(indices))
    count = len(audio.pretraining.find(store, tested))
    words = f"{count} of {len(tested)} test utterances, compared sample by sample"
    return words if audio.pretraining.known else f"unknown, at least {words}" if count else "unknown"


def refuse_trained(audio: TrainingAudio, store: WaveformStore, indices: Iterable[int], *, model: Path) -> None:
    """Raises `UserError` where a model that an experiment starts from was fine-tuned on utterances that it tests on."""
    tested = sorted(set(indices))
    found = sorted({*audio.fine_tuning.find(store, tested), *audio.selection.find(store, tested)})
    if found:
        raise UserError(
            f"{store.folder}: {model} was fine-tuned on {len(found)} of {len(tested)} test utterances (compared by "
            f"their samples), the first is {store.utterances[found[0]].audio}; start from a model that was not"
        )


def copies(store: WaveformStore, *, names: Sequence[str], one_speaker: bool = False) -> dict[int, int]:
    """Utterances that repeat audio of another one, with that one: the first by name.

    They have the same samples, or are an overlapping stretch of the same file with another speaker.

    Args:
        store: the corpus.
        names: of its utterances, so that the order of the manifest makes no difference.
        one_speaker: overlapping stretches of one speaker are repetitions, too: for splits that do not keep speakers
            apart.
    """
    ids = store.content_ids()
    first: dict[str, int] = {}
    kept: dict[str, list[tuple[float, float, int]]] = {}
    found: dict[int, int] = {}
    for index in sorted(range(len(store)), key=names.__getitem__):
        files, begin, end = _stretch(store, index)
        speaker = store.speakers[index]
        overlapping = [
            other
            for file in files
            for start, stop, other in kept.get(file, ())
            if min(end, stop) - max(begin, start) >= MIN_OVERLAP and (one_speaker or store.speakers[other] != speaker)
        ]
        if ids[index] in first:
            found[index] = first[ids[index]]
        elif overlapping:
            found[index] = overlapping[0]
        else:
            first[ids[index]] = index
            for file in files:
                kept.setdefault(file, []).append((begin, end, index))
    return found


def copies_note(store: WaveformStore, found: Mapping[int, int]) -> str:
    """Message about copies that are left out."""
    index, kept = next(iter(found.items()))
    differing = {
        "speaker": sum(store.speakers[a] != store.speakers[b] for a, b in found.items()),
        "label": sum(store.utterances[a].label != store.utterances[b].label for a, b in found.items()),
    }
    others = "".join(f", {count} of them with another {name}" for name, count in differing.items() if count)
    return (
        f"{len(found)} utterances left out: their audio is that of another one{others}, for example "
        f"{store.utterances[index].audio} and {store.utterances[kept].audio}"
    )


def _stretch(store: WaveformStore, index: int) -> tuple[list[str], float, float]:
    """Digests that identify the file of an utterance, and its begin and end, s."""
    item = store.utterances[index]
    names = [unicodedata.normalize("NFC", item.audio).encode("utf-8", "surrogateescape")]
    member = find_member(item.audio)
    try:
        status = file_status(item.audio)
    except (OSError, ValueError):  # removed since it was prepared
        pass
    else:
        state = (
            status.st_dev,
            status.st_ino,
            status.st_size,
            status.st_mtime_ns,
            "" if member is None else member.name,
        )
        names.append(repr(state).encode("utf-8", "surrogateescape"))
    begin = round(item.offset, 6)
    files = [hashlib.blake2b(name, digest_size=8).hexdigest() for name in names]
    return files, begin, round(begin + samples_to_seconds(int(store.lengths[index])), 6)


def _record(stage: _StageFile) -> AudioRecord:
    return AudioRecord(
        known=stage.known,
        ids=frozenset(stage.ids),
        stretches=stage.stretches,
        speakers=frozenset(stage.speakers),
        nameless=stage.nameless,
    )


def _stage(record: AudioRecord) -> dict[str, object]:
    return {
        "known": record.known,
        "ids": sorted(record.ids),
        "stretches": {path: list(record.stretches[path]) for path in sorted(record.stretches)},
        "speakers": sorted(record.speakers),
        "nameless": record.nameless,
    }
