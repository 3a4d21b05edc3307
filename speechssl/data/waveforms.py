"""Packed waveforms: a corpus decoded once into one memory-mapped file of samples at 16 kHz.

A prepared corpus is one folder: `manifest.jsonl` (accepted utterances, with true durations), `rejects.jsonl` (the
others, with the reason), `waveforms.i16` (the samples, little-endian, one utterance after the other, in the forms that
`encoded` describes) and `waveforms.json` (the index, written last: without it the folder is unfinished).

While packing, the samples grow in `waveforms.i16.partial` and each processed utterance, good or bad, adds a line to
`journal.jsonl`. A line is written after its samples, so whenever the process is killed the journal describes a
prefix of the samples; the next call checks that prefix by its checksums and resumes behind it. Utterances of more than
a minute are decoded into files beside it first, up to two per worker.

`speechssl.data.parts` prepares a corpus in shards, each of which is packed here.
"""

import fcntl
import hashlib
import math
import os
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError

from speechssl.audio import SAMPLE_RATE, AudioError, file_state, samples_to_seconds
from speechssl.config import Config, UserError
from speechssl.data.encoded import Encoded, encode, remove_scratch
from speechssl.data.manifest import json_line, read_manifest, write_lines
from speechssl.data.marks_file import MARKS
from speechssl.data.members import file_status, local_file
from speechssl.data.store import WaveformStore
from speechssl.data.store_index import (
    INDEX,
    MANIFEST,
    REJECTS,
    SHARDS,
    VERSION,
    WAVEFORMS,
    Form,
    PartIndex,
    StoreIndex,
    check_sizes,
    read_index,
    sources_digest,
    stored_bytes,
)
from speechssl.data.stretches import Stretch, repeated, stretch_of
from speechssl.data.utterance import Reject, Utterance
from speechssl.files import flush_folder, move, naming, remove

__all__ = ["PackReport", "WaveformStore", "pack"]

PARTIAL, JOURNAL = "waveforms.i16.partial", "journal.jsonl"


@dataclass(frozen=True)
class PackReport:
    """Result of `pack`.

    Attributes:
        accepted: utterances in the finished corpus.
        rejected: utterances left out; each has a line in `rejects.jsonl`.
        seconds: audio in the finished corpus, s.
        resumed: utterances that an earlier call had processed.
        upsampled: accepted utterances whose file has a rate below 16 kHz; they are empty above half that rate.
        notes: doubtful properties of accepted utterances, "PATH: note".
    """

    accepted: int
    rejected: int
    seconds: float
    resumed: int
    upsampled: int
    notes: tuple[str, ...] = ()


class _Entry(Config):
    """A line of the journal: one processed utterance. `reason` is set for a rejected one."""

    key: str
    samples: int = 0
    gain: float = 1.0
    form: Form = "int16"
    crc32: int = 0
    digest: str = ""
    upsampled: bool = False
    notes: tuple[str, ...] = ()
    reason: str | None = None


@dataclass(frozen=True)
class _Packed:
    entry: _Entry
    encoded: Encoded | None


def pack(
    utterances: Iterable[Utterance],
    out: Path,
    *,
    workers: int = 0,
    progress: Callable[[int, float], None] | None = None,
) -> PackReport:
    """Decodes every utterance once into a prepared corpus.

    The order is that of the manifest for any number of workers, and a few decoded utterances per worker are in memory
    at a time, of a minute at most; longer ones are decoded into files in `out`. `encoded` describes how samples are
    stored: 16-bit files at 16 kHz are kept bit for bit, and nothing is clipped.

    A call after a kill or a full disk resumes where the last one stopped and ends with the same bytes. A call on a
    finished corpus does nothing when the utterances and the states of their files (size, times, inode) are the same,
    and packs again otherwise, also after the files were copied elsewhere with their times.

    Args:
        utterances: to pack; relative audio paths are relative to the working folder.
        out: the folder of the prepared corpus.
        workers: decoding threads; 0: one per core.
        progress: called after each utterance with the number of processed ones and the accepted seconds so far.

    Returns:
        The counts. A file that cannot be used is counted and named in `rejects.jsonl`, never raised.

    Raises:
        UserError: `out` is a file, or another process is packing into it.
        ValueError: a negative number of workers.

    >>> import tempfile, numpy as np, soundfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     soundfile.write(folder + "/a.wav", np.sin(np.arange(16000)), 16000)
    ...     good = Utterance(audio=folder + "/a.wav", duration=1.0)
    ...     report = pack([good, Utterance(audio=folder + "/b.wav", duration=1.0)], Path(folder) / "corpus")
    >>> report
    PackReport(accepted=1, rejected=1, seconds=1.0, resumed=0, upsampled=0, notes=())
    """
    return pack_into(with_absolute_paths(utterances), out, workers=workers, progress=progress)


def with_absolute_paths(utterances: Iterable[Utterance]) -> list[Utterance]:
    """Utterances whose audio paths do not depend on the working folder."""
    return [item.model_copy(update={"audio": str(Path(item.audio).absolute())}) for item in utterances]


def pack_into(
    todo: Sequence[Utterance],
    out: Path,
    *,
    workers: int = 0,
    progress: Callable[[int, float], None] | None = None,
    part: PartIndex | None = None,
) -> PackReport:
    """As `pack`, of a whole corpus or of one of its parts.

    Args:
        todo: to pack, with absolute paths.
        out: the folder of the corpus, or of the shard.
        workers: as in `pack`.
        progress: as in `pack`.
        part: the share of the corpus that these utterances are; its fields `rejected` and `keys` are set here.
    """
    if workers < 0:
        raise ValueError(f"workers must be at least 0, got {workers}")
    keys = _keys(todo)
    fingerprint = hashlib.sha256("".join(keys).encode()).hexdigest()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise UserError(f"{out}: a prepared corpus is a folder, this is a file") from error
    part = None if part is None else part.model_copy(update={"keys": keys})
    finished = _finished(out, fingerprint, part)
    if finished is not None:
        return finished
    with naming(out / JOURNAL), (out / JOURNAL).open("a+b") as journal:  # closing may fail as well
        _lock(journal, out)
        if (out / WAVEFORMS).exists() and not (out / INDEX).exists() and not (out / PARTIAL).exists():
            move(out / WAVEFORMS, out / PARTIAL)  # killed between the last two renames
        (out / PARTIAL).touch()
        remove_scratch(out)
        with naming(out / PARTIAL), (out / PARTIAL).open("r+b") as partial:
            entries = _recover(journal, partial, keys)
            resumed = len(entries)
            _decode_rest(todo, keys, entries, journal, partial, out=out, workers=workers, progress=progress)
            partial.flush()
            os.fsync(partial.fileno())
        return _finish(todo, entries, out, fingerprint=fingerprint, resumed=resumed, part=part)


def _lock(journal: BinaryIO, out: Path) -> None:
    try:
        fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
        taken = os.fstat(journal.fileno()).st_nlink == 0  # another process has just finished and removed it
    except BlockingIOError:
        taken = True
    if taken:
        raise UserError(f"{out}: another process is preparing this corpus")


def _keys(utterances: Sequence[Utterance]) -> list[str]:
    """One digest for each utterance: all its fields and the state of its file."""
    states: dict[str, str] = {}
    keys: list[str] = []
    for utterance in utterances:
        state = states.get(utterance.audio)
        if state is None:
            try:
                state = file_state(file_status(utterance.audio))
            except OSError:  # decoding gives the reason
                state = "missing"
            states[utterance.audio] = state
        record = f"{VERSION} {utterance!r} {state}"
        keys.append(hashlib.blake2b(record.encode("utf-8", "backslashreplace"), digest_size=16).hexdigest())
    return keys


def _pack_one(utterance: Utterance, key: str, out: Path) -> _Packed:
    try:
        json_line(utterance)
    except PydanticSerializationError:  # a folder of names in an old encoding
        return _Packed(_Entry(key=key, reason="a name or text that is not UTF-8, which no manifest can hold"), None)
    duration = utterance.duration if utterance.duration != 0 else None
    try:
        with local_file(utterance.audio) as path:
            encoded = encode(path, utterance.offset, duration=duration, scratch=out)
    except AudioError as error:
        return _Packed(_Entry(key=key, reason=error.reason), None)
    entry = _Entry(
        key=key,
        samples=encoded.samples,
        gain=encoded.gain,
        form=encoded.form,
        crc32=encoded.crc32,
        digest=encoded.digest,
        upsampled=encoded.upsampled,
        notes=encoded.notes,
    )
    return _Packed(entry, encoded)


def _recover(journal: BinaryIO, partial: BinaryIO, keys: Sequence[str]) -> list[_Entry]:
    """The valid entries of an earlier call; both files are truncated behind them and positioned at their ends."""
    entries: list[_Entry] = []
    journal.seek(0)
    good = 0  # bytes of the journal
    total = 0  # bytes of samples
    for line, key in zip(journal, keys, strict=False):
        try:
            entry = _Entry.model_validate_json(line)
        except ValidationError:  # cut off in the middle of a line
            break
        if not line.endswith(b"\n") or entry.key != key:
            break
        size = stored_bytes(entry.form, entry.samples)
        if _checksum(partial, size) != entry.crc32:
            break
        entries.append(entry)
        good += len(line)
        total += size
    journal.truncate(good)
    journal.seek(good)
    partial.truncate(total)
    partial.seek(total)
    return entries


def _checksum(file: BinaryIO, size: int) -> int | None:
    """Checksum of the next bytes; None where there are fewer."""
    checksum = 0
    while size > 0:
        content = file.read(min(size, 1 << 20))
        if not content:
            return None
        checksum = zlib.crc32(content, checksum)
        size -= len(content)
    return checksum


def _decode_rest(
    todo: Sequence[Utterance],
    keys: Sequence[str],
    entries: list[_Entry],
    journal: BinaryIO,
    partial: BinaryIO,
    *,
    out: Path,
    workers: int,
    progress: Callable[[int, float], None] | None,
) -> None:
    """Appends the remaining utterances to the three: samples first, then the journal, then `entries`."""
    seen: dict[Stretch, Utterance] = {}
    packed_before: dict[Stretch, Utterance] = {}
    for utterance, entry in zip(todo, entries, strict=False):
        seen.setdefault(_stretch(utterance), utterance)
        if entry.reason is None:
            packed_before.setdefault(_packed_as(utterance, entry), utterance)
    seconds = samples_to_seconds(sum(entry.samples for entry in entries))
    rest, threads = len(entries), workers or len(os.sched_getaffinity(0))
    for packed in _in_order(todo[rest:], keys[rest:], seen, threads, out):
        if packed.encoded is not None:  # a stretch to the end may be equal to an earlier one with a length
            utterance = todo[len(entries)]
            place = _packed_as(utterance, packed.entry)
            if place in packed_before:
                packed.encoded.discard()
                packed = _left_out(packed.entry.key, repeated(utterance, packed_before[place]))
            else:
                packed_before[place] = utterance
        if packed.encoded is not None:
            packed.encoded.append_to(partial)
            partial.flush()
        with naming(out / JOURNAL):
            journal.write(json_line(packed.entry).encode() + b"\n")
            journal.flush()
        entries.append(packed.entry)
        seconds += samples_to_seconds(packed.entry.samples)
        if progress is not None:
            progress(len(entries), seconds)


def _in_order(
    todo: Sequence[Utterance], keys: Sequence[str], seen: dict[Stretch, Utterance], workers: int, out: Path
) -> Iterator[_Packed]:
    """Decodes ahead in threads (soundfile and soxr release the interpreter lock), a bounded number at a time."""
    window: deque[Future[_Packed]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for utterance, key in zip(todo, keys, strict=True):
                place = _stretch(utterance)
                if place in seen:
                    window.append(pool.submit(_left_out, key, repeated(utterance, seen[place])))
                else:
                    seen[place] = utterance
                    window.append(pool.submit(_pack_one, utterance, key, out))
                if len(window) > 2 * workers:
                    yield window.popleft().result()
            while window:
                yield window.popleft().result()
        finally:  # on Ctrl-C wait for the few being decoded only
            pool.shutdown(wait=True, cancel_futures=True)
            remove_scratch(out)


def _left_out(key: str, reason: str) -> _Packed:
    return _Packed(_Entry(key=key, reason=reason), None)


def _stretch(utterance: Utterance) -> Stretch:
    """The requested stretch; unique for each that no file can have."""
    if not (math.isfinite(utterance.offset) and math.isfinite(utterance.duration)):
        return f"{utterance.audio} {utterance.offset} {utterance.duration}", 0, 0
    return stretch_of(utterance)


def _packed_as(utterance: Utterance, entry: _Entry) -> Stretch:
    """The packed stretch: the length is that of the samples."""
    return (*_stretch(utterance)[:2], entry.samples)


def _finish(
    todo: Sequence[Utterance],
    entries: Sequence[_Entry],
    out: Path,
    *,
    fingerprint: str,
    resumed: int,
    part: PartIndex | None,
) -> PackReport:
    """Writes the manifests and gives every file its final name, the index last."""
    accepted: list[Utterance] = []
    rejects: list[Reject] = []
    for utterance, entry in zip(todo, entries, strict=True):
        if entry.reason is None:
            accepted.append(utterance.model_copy(update={"duration": samples_to_seconds(entry.samples)}))
        else:
            name = utterance.audio.encode("utf-8", "backslashreplace").decode()
            length = utterance.duration or None
            rejects.append(Reject(audio=name, reason=entry.reason, offset=utterance.offset or None, duration=length))
    good = [entry for entry in entries if entry.reason is None]
    left_out = [number for number, entry in enumerate(entries) if entry.reason is not None]
    index = StoreIndex(
        version=VERSION,
        sample_rate=SAMPLE_RATE,
        total=sum(entry.samples for entry in good),
        rejected=len(rejects),
        upsampled=sum(entry.upsampled for entry in good),
        fingerprint=fingerprint,
        notes={number: "; ".join(entry.notes) for number, entry in enumerate(good) if entry.notes},
        lengths=[entry.samples for entry in good],
        gains=[entry.gain for entry in good],
        forms=[entry.form for entry in good],
        crc32s=[entry.crc32 for entry in good],
        digests=[entry.digest for entry in good],
        sources=sources_digest(accepted),
        part=None if part is None else part.model_copy(update={"rejected": left_out}),
    )
    _invalidate(out, part)
    write_lines(map(json_line, accepted), out / MANIFEST)
    write_lines(map(json_line, rejects), out / REJECTS)
    move(out / PARTIAL, out / WAVEFORMS)
    flush_folder(out)  # the four names are on disk before the index
    write_lines([index.json_line()], out / INDEX)
    (out / JOURNAL).unlink(missing_ok=True)
    if part is None:
        for name in (SHARDS, MARKS):  # of an older corpus
            remove(out / name)
    return report_of(index, accepted, resumed=resumed)


def _invalidate(out: Path, part: PartIndex | None) -> None:
    """Removes the index of an older corpus; before its shards change, also that of the corpus that they are joined to.

    In this order: a process that joins the shards meanwhile finds, after it has written the index of the corpus, that
    the one of this shard has gone.
    """
    (out / INDEX).unlink(missing_ok=True)
    if part is not None and (out.parents[1] / INDEX).exists():
        try:
            joined = read_index(out.parents[1])
            is_other = joined is not None and joined.shards is None
        except UserError:  # damaged
            is_other = False
        if not is_other:  # a corpus in one file is kept until the shards are joined
            (out.parents[1] / INDEX).unlink(missing_ok=True)


def report_of(index: StoreIndex, accepted: Sequence[Utterance], *, resumed: int) -> PackReport:
    """The counts of a finished corpus."""
    return PackReport(
        accepted=len(index.lengths),
        rejected=index.rejected,
        seconds=samples_to_seconds(index.total),
        resumed=resumed,
        upsampled=index.upsampled,
        notes=tuple(f"{accepted[number].audio}: {note}" for number, note in sorted(index.notes.items())),
    )


def _finished(out: Path, fingerprint: str, part: PartIndex | None) -> PackReport | None:
    """The report of an earlier call on the same input, if all its files exist."""
    try:
        index = read_index(out)
        if index is None or index.fingerprint != fingerprint or (index.part is None) != (part is None):
            return None
        check_sizes(out, index)
    except UserError:  # damaged: pack again
        return None
    if not (out / MANIFEST).is_file() or not (out / REJECTS).is_file():
        return None
    if not (out / PARTIAL).exists():
        (out / JOURNAL).unlink(missing_ok=True)  # killed right after the index was written
    if index.part is not None and part is not None:
        same = part.model_copy(update={"rejected": index.part.rejected})
        if same != index.part:  # other parts of the input have changed
            _invalidate(out, part)
            write_lines([index.model_copy(update={"part": same}).json_line()], out / INDEX)
    accepted = read_manifest(out / MANIFEST) if index.notes else []
    return report_of(index, accepted, resumed=len(index.lengths) + index.rejected)
