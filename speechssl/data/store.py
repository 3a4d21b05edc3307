"""A prepared corpus: its manifest, and random access to its waveforms."""

import os
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int16, Int64, Shaped

from speechssl.audio import SAMPLE_RATE, samples_to_seconds
from speechssl.config import UserError
from speechssl.data.locations import Address, Location, location_of, read_location
from speechssl.data.manifest import read_manifest
from speechssl.data.manifest_lines import parse_lines
from speechssl.data.marks import BLOCK, WINDOW, Values, level_of, marks
from speechssl.data.marks_file import read_marks
from speechssl.data.samples import CACHE_BYTES, PageCache, open_samples
from speechssl.data.store_index import (
    INDEX,
    MANIFEST,
    PART,
    SHARDS,
    WAVEFORMS,
    StoreIndex,
    check_sizes,
    read_index,
    sources_digest,
)
from speechssl.data.utterance import Utterance
from speechssl.data.values import merged


class WaveformStore:
    """Random access to the waveforms of a prepared corpus, in one file of samples or in shards, on a disk or not.

    Behind an address, the index and the manifest are read on opening, and samples by ranges of bytes when they are
    used; what was used last is cached in memory.

    Args:
        folder: path or address of the prepared corpus.
        cache_bytes: bound of the cache behind an address, for each process; samples on a disk are memory-mapped.

    Attributes:
        folder: path or address of the prepared corpus.
        utterances: the manifest.
        lengths: (utterances,) samples of each.
        gains: factor of the stored int16 samples of each, as parts of 32768.

    Raises:
        UserError: on opening, when a file is missing or its size is not that of the index, or a part of a corpus in
            shards is not prepared yet.
    """

    folder: Location
    utterances: list[Utterance]
    lengths: Int64[np.ndarray, " utterances"]
    gains: list[float]

    def __init__(self, folder: str | Location, *, cache_bytes: int = CACHE_BYTES) -> None:
        self.folder, self._cache_bytes = location_of(folder), cache_bytes
        index = read_index(self.folder)
        if index is None:
            raise UserError(f"{self.folder}: {_missing(self.folder)}")
        self.lengths = np.array(index.lengths, dtype=np.int64)
        check_sizes(self.folder, index)
        self._crc32s, self._digests = index.crc32s, index.digests
        self.gains, self._forms = index.gains, index.forms
        self._content_hash = index.content_hash()
        self.utterances = _read_manifest(self.folder / MANIFEST)
        self._check_manifest(index)
        cache = PageCache(cache_bytes)
        self._names, self._file_of = index.files, index.file_of()
        sizes = index.file_sizes()
        self._files = [
            open_samples(self.folder / name, size, cache) for name, size in zip(self._names, sizes, strict=True)
        ]
        self._begins, self._sizes = index.begins() // 2, index.sizes() // 2  # in int16
        self._marks: dict[int, Values] = {}
        self._marks_read = False

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

    def __len__(self) -> int:
        return len(self.lengths)

    @cached_property
    def speakers(self) -> list[str | None]:
        """The speaker of each utterance; names that are `alike` are one, the first of them by order."""
        return merged(each.speaker for each in self.utterances)

    @property
    def is_remote(self) -> bool:
        """Whether samples are read from a server."""
        return isinstance(self.folder, Address)

    def content_hash(self) -> str:
        """Sixteen hexadecimal digits that change with the samples or their order, from the index alone.

        They are the same for a corpus in one file and in shards.
        """
        return self._content_hash

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

        A corpus in shards has them in a file. Of any other, the samples are read once, which takes half a second of a
        processor core per hour of audio.

        Returns:
            For each of `indices` its marks at `level`, in ascending order.
        """
        if not self._marks_read:
            stored = read_marks(self.folder, self.content_hash(), level=self.level)
            self._marks.update(enumerate(stored or []))
            self._marks_read = True
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

    def __reduce__(self) -> tuple[partial["WaveformStore"], tuple[Location]]:
        # A worker process opens the files itself instead of copying them.
        return partial(WaveformStore, cache_bytes=self._cache_bytes), (self.folder,)

    def read(self, index: int, start: int = 0, stop: int | None = None) -> Shaped[np.ndarray, " samples"]:
        """A stretch of one utterance as it is stored; `waveform` gives samples to work with.

        On a disk it is a view of the mapped file: nothing is copied or read before it is used.

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
        if self._forms[index] == "float32":
            return self._stored(index, 2 * start, 2 * last).view("<f4")
        return self._stored(index, start, last)

    def gain(self, index: int) -> float | None:
        """Factor of an utterance's stored int16 samples; None where they have another form, for `waveform` alone."""
        return self.gains[index] / 32768 if self._forms[index] == "int16" else None

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
            first, end = start // PART, (start + len(samples) - 1) // PART + 1
            length = int(self.lengths[index])  # the shifts, of one byte each, are behind the samples
            shifts = self._stored(index, length + first // 2, length + (end + 1) // 2).view(np.uint8)[first % 2 :]
            factors = np.ldexp(np.float32(1), -shifts[: end - first].astype(np.int32))
            samples *= np.repeat(factors, PART)[start - first * PART :][: len(samples)]
        return samples

    def _stored(self, index: int, start: int = 0, stop: int | None = None) -> Int16[np.ndarray, " _"]:
        """A stretch of the stored int16 of one utterance, or all of them."""
        begin, last = int(self._begins[index]), int(self._sizes[index]) if stop is None else stop
        return self._files[self._file_of[index]].read(begin + start, begin + last)

    def verify(self) -> None:
        """Reads all samples and compares the checksums.

        Raises:
            UserError: names the first utterance whose samples have changed.
        """
        for index, expected in enumerate(self._crc32s):
            if zlib.crc32(self._stored(index).data) != expected:
                name = self._names[self._file_of[index]]
                raise UserError(
                    f"{self.folder / name}: the samples of utterance {index} ({self.utterances[index].audio}) are "
                    f"damaged; remove {name.removesuffix(WAVEFORMS)}{INDEX} and prepare the corpus again"
                )


def _read_manifest(file: Location) -> list[Utterance]:
    if isinstance(file, Path):
        return read_manifest(file)
    try:
        lines = read_location(file).decode().split("\n")
    except FileNotFoundError:
        raise UserError(f"{file}: missing; copy the whole folder of the prepared corpus there") from None
    return list(parse_lines(enumerate(lines, start=1), str(file), lambda audio: audio))


def _missing(folder: Location) -> str:
    """Why a folder has no index."""
    begun = sorted((folder / SHARDS).glob("*-of-*")) if isinstance(folder, Path) else []
    if not begun or isinstance(folder, Address):
        return f"not a prepared corpus (no {INDEX}); run `speechssl prepare` to make or finish it"
    count = begun[0].name.partition("-of-")[2]
    numbers = range(1, int(count) + 1) if count.isdecimal() else ()
    folders = {f"{number}/{count}": folder / SHARDS / f"{number}-of-{count}" for number in numbers}
    left = [name for name, shard in folders.items() if not (shard / INDEX).exists()]
    if not left:
        return f"its {count} parts are not joined; run `speechssl prepare` with --shards {count}"
    return f"parts {', '.join(left)} are not prepared yet; run `speechssl prepare` with --shard {left[0]} and so on"
