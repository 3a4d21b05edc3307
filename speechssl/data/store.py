"""A prepared corpus on disk: its files, its index, and random access to its waveforms."""

import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float32, Int16, Int64, Shaped
from pydantic import BaseModel, ValidationError

from speechssl.audio import SAMPLE_RATE, samples_to_seconds
from speechssl.config import Config, UserError
from speechssl.data.manifest import read_manifest
from speechssl.data.marks import BLOCK, WINDOW, Values, level_of, marks
from speechssl.data.utterance import Utterance
from speechssl.data.values import merged

VERSION = 2
MANIFEST, REJECTS, WAVEFORMS, INDEX = "manifest.jsonl", "rejects.jsonl", "waveforms.i16", "waveforms.json"
PART = 40  # samples, 2.5 ms, less than the input of the first convolution: each has a shift of its own in one form
Form = Literal["int16", "int16+shifts", "float32"]
"""How the samples of an utterance are stored; see `speechssl.data.encoded`."""


class StoreIndex(Config):
    """The index of a prepared corpus, `waveforms.json`.

    Attributes:
        version: of the layout.
        sample_rate: Hz.
        total: samples of all utterances together.
        rejected: utterances left out.
        upsampled: utterances whose file has a lower rate.
        notes: doubtful properties of an utterance, one line, by its number.
        fingerprint: digest of the input utterances and of the states of their files.
        lengths: samples of each utterance.
        gains: factor of the stored samples of each utterance, a power of two; int16 are parts of 32768.
        forms: how the samples of each utterance are stored.
        crc32s: checksum of each utterance's stored samples.
        digests: BLAKE2b of each utterance's stored samples, 16 hexadecimal digits.
        sources: `sources_digest` of the manifest; empty in corpora of an earlier version.
    """

    version: int
    sample_rate: int
    total: int
    rejected: int
    upsampled: int
    fingerprint: str
    notes: dict[int, str]
    lengths: list[int]
    gains: list[float]
    forms: list[Form]
    crc32s: list[int]
    digests: list[str]
    sources: str = ""

    @property
    def total_bytes(self) -> int:
        """Length of the file of samples."""
        return sum(stored_bytes(form, length) for form, length in zip(self.forms, self.lengths, strict=True))


class _Layout(BaseModel):
    """Fields that an index of any version has."""

    version: int
    sample_rate: int


class WaveformStore:
    """Random access to the waveforms of a prepared corpus.

    Attributes:
        folder: the prepared corpus.
        utterances: the manifest.
        lengths: (utterances,) samples of each.
        gains: factor of the stored int16 samples of each, as parts of 32768.

    Raises:
        UserError: on opening, when a file is missing or its size is not that of the index.
    """

    folder: Path
    utterances: list[Utterance]
    lengths: Int64[np.ndarray, " utterances"]
    gains: list[float]

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        index = read_index(self.folder)
        if index is None:
            raise UserError(
                f"{folder}: not a prepared corpus (no {INDEX}); run `speechssl prepare` to make or finish it"
            )
        self.lengths = np.array(index.lengths, dtype=np.int64)
        check_sizes(self.folder, index)
        self._crc32s, self._digests = index.crc32s, index.digests
        self.gains, self._forms = index.gains, index.forms
        self.utterances = read_manifest(self.folder / MANIFEST)
        self._check_manifest(index)
        sizes = [stored_bytes(form, length) for form, length in zip(index.forms, index.lengths, strict=True)]
        self._ends = np.cumsum(np.asarray(sizes, dtype=np.int64)) // 2  # in int16
        self._samples = self._map(index.total_bytes)
        self._marks: dict[int, Values] = {}

    def _check_manifest(self, index: StoreIndex) -> None:
        """Refuses a manifest whose lines are not those of the waveforms, one for one; texts and labels may change."""
        path = self.folder / MANIFEST
        if len(self.utterances) != len(self.lengths):
            raise UserError(f"{path}: {len(self.utterances)} utterances, {INDEX} counts {len(self.lengths)}")
        counted = np.rint(np.array([each.duration for each in self.utterances]) * SAMPLE_RATE)
        others = np.flatnonzero(counted != self.lengths)
        if len(others):
            line = int(others[0])
            raise UserError(
                f"{path}:{line + 1}: {self.utterances[line].duration:g} s, but the waveform in its place has "
                f"{samples_to_seconds(int(self.lengths[line])):g} s: the lines must stay in their order, with their "
                "durations; prepare the corpus again"
            )
        if index.sources and index.sources != sources_digest(self.utterances):
            raise UserError(
                f"{path}: its lines are in another order than the waveforms, or of other files; texts and labels may "
                "be changed, names and offsets of files may not; prepare the corpus again"
            )

    def _map(self, size: int) -> np.ndarray:
        if not size:  # an empty file cannot be mapped
            return np.zeros(0, dtype="<i2")
        # A plain array over the same memory: slicing it is several times faster than slicing numpy's subclass.
        return np.memmap(self.folder / WAVEFORMS, dtype="<i2", mode="r").view(np.ndarray)

    def __len__(self) -> int:
        return len(self.lengths)

    @cached_property
    def speakers(self) -> list[str | None]:
        """The speaker of each utterance; names that are `alike` are one, the first of them by order."""
        return merged(each.speaker for each in self.utterances)

    def content_hash(self) -> str:
        """Sixteen hexadecimal digits that change with the samples or their order, from the index alone."""
        content = [self.lengths.tolist(), self._crc32s, self.gains]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    def content_ids(self) -> list[str]:
        """Digests of the samples of each utterance; equal for equal audio under any name.

        Files of other containers have the same digest when their samples are the same. A copy with other samples (of
        another volume, rate or length, or a lossy one) has another digest.

        Returns:
            16 hexadecimal digits for each utterance, in order.
        """
        return list(self._digests)

    @property
    def level(self) -> int:
        """The level of the marks that are computed, see `data.marks`; higher for a large corpus."""
        return level_of(int(self.lengths.sum()))

    def marks(self, indices: Sequence[int]) -> list[Values]:
        """The marks of some utterances, by which other cuts of the same samples are found; see `data.marks`.

        The samples are read once, which takes half a second of a processor core per hour of audio.

        Returns:
            For each of `indices` its marks at `level`, in ascending order.
        """
        missing = [index for index in dict.fromkeys(indices) if index not in self._marks]
        if missing:
            with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
                found = pool.map(lambda index: marks(self._windows(index), level=self.level), missing)
                self._marks.update(zip(missing, found, strict=True))
        return [self._marks[index] for index in indices]

    def _windows(self, index: int) -> Iterator[Float32[np.ndarray, " samples"]]:
        """An utterance in blocks that overlap by all but one sample of a window."""
        length = int(self.lengths[index])
        for start in range(0, length - WINDOW + 1, BLOCK):
            yield self.waveform(index, start, min(length, start + BLOCK + WINDOW - 1))

    def __reduce__(self) -> tuple[type["WaveformStore"], tuple[Path]]:
        return WaveformStore, (self.folder,)  # a worker process opens the files itself instead of copying them

    def read(self, index: int, start: int = 0, stop: int | None = None) -> Shaped[np.ndarray, " samples"]:
        """A stretch of one utterance as it is stored, a view of the mapped file; `waveform` gives samples to work with.

        Nothing is copied or read before it is used.

        Args:
            index: the utterance, from 0.
            start: first sample.
            stop: one past the last sample; None for the end.

        Returns:
            (samples,) int16, or float32 where that is the form; read-only.

        Raises:
            IndexError: no such utterance.
            ValueError: not 0 <= start <= stop <= length.
        """
        if not 0 <= index < len(self.lengths):
            raise IndexError(f"utterance {index} of a corpus with {len(self.lengths)}")
        length = int(self.lengths[index])
        last = length if stop is None else stop
        if not 0 <= start <= last <= length:
            raise ValueError(f"samples {start} to {last} of utterance {index}, which has {length}")
        stored = self._stored(index)
        return stored.view("<f4")[start:last] if self._forms[index] == "float32" else stored[start:last]

    def waveform(self, index: int, start: int = 0, stop: int | None = None) -> Float32[np.ndarray, " samples"]:
        """A stretch of one utterance as samples in the units of its file: full scale is 1.0, float files may exceed it.

        Arguments and errors are those of `read`.

        Returns:
            (samples,) float32, a copy.
        """
        samples = self.read(index, start, stop).astype(np.float32)
        if self._forms[index] != "float32":
            samples *= np.float32(self.gains[index] / 32768)  # powers of two: nothing is rounded
        if self._forms[index] == "int16+shifts" and len(samples):
            shifts = self._stored(index)[self.lengths[index] :].view(np.uint8)
            first = start // PART
            factors = np.ldexp(np.float32(1), -shifts[first : (start + len(samples) - 1) // PART + 1].astype(np.int32))
            samples *= np.repeat(factors, PART)[start - first * PART :][: len(samples)]
        return samples

    def _stored(self, index: int) -> Int16[np.ndarray, " _"]:
        """All stored bytes of one utterance."""
        begin = int(self._ends[index - 1]) if index else 0
        return self._samples[begin : int(self._ends[index])]

    def verify(self) -> None:
        """Reads all samples and compares the checksums.

        Raises:
            UserError: names the first utterance whose samples have changed.
        """
        for index, expected in enumerate(self._crc32s):
            if zlib.crc32(self._stored(index).data) != expected:
                raise UserError(
                    f"{self.folder / WAVEFORMS}: the samples of utterance {index} "
                    f"({self.utterances[index].audio}) are damaged; remove {INDEX} and prepare the corpus again"
                )


def stored_bytes(form: Form, samples: int) -> int:
    """Bytes of a number of samples in the file of samples.

    >>> [stored_bytes(form, 1000) for form in ("int16", "int16+shifts", "float32")]
    [2000, 2026, 4000]
    """
    shifts = -(-samples // PART)
    return {"int16": 2 * samples, "int16+shifts": 2 * samples + shifts + shifts % 2, "float32": 4 * samples}[form]


def read_index(folder: Path) -> StoreIndex | None:
    """The index; None when the folder has none."""
    try:
        content = (folder / INDEX).read_bytes()
        index = _Layout.model_validate_json(content)
        if index.version == VERSION and index.sample_rate == SAMPLE_RATE:
            return StoreIndex.model_validate_json(content)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValidationError as error:
        raise UserError(f"{folder / INDEX}: not the index of a prepared corpus; prepare it again") from error
    raise UserError(
        f"{folder / INDEX}: version {index.version} at {index.sample_rate} Hz; "
        f"this program reads version {VERSION} at {SAMPLE_RATE} Hz; prepare the corpus again"
    )


def sources_digest(utterances: Iterable[Utterance]) -> str:
    """Sixteen hexadecimal digits of the sources of the utterances, in order: names of files without folders, offsets.

    >>> one, other = (Utterance(audio=f"/x/{name}.wav", duration=1.0) for name in "ab")
    >>> sources_digest([one, other]) == sources_digest([other, one])
    False
    """
    digest = hashlib.blake2b(digest_size=8)
    for each in utterances:
        digest.update(f"{each.audio.rpartition('/')[2]}\0{each.offset!r}\0".encode("utf-8", "backslashreplace"))
    return digest.hexdigest()


def check_sizes(folder: Path, index: StoreIndex) -> None:
    """Raises `UserError` when the samples are missing or their length is not that of the index."""
    columns = (index.gains, index.forms, index.crc32s, index.digests)
    whole = all(len(column) == len(index.lengths) for column in columns) and sum(index.lengths) == index.total
    if not whole:
        raise UserError(f"{folder / INDEX}: its lengths do not add up; prepare the corpus again")
    path = folder / WAVEFORMS
    size = path.stat().st_size if path.is_file() else -1
    if size < 0:
        raise UserError(f"{path}: missing; prepare the corpus again")
    if size != index.total_bytes:
        raise UserError(f"{path}: {size} bytes, {INDEX} says {index.total_bytes}; prepare the corpus again")
