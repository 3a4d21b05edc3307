"""Stored form of one utterance of a prepared corpus: int16, int16 with a shift for each 2.5 ms, or float32.

Samples that a 16-bit file at 16 kHz can hold are stored unchanged. Others have a gain, the smallest power of two that
holds their peak, so that a quiet recording keeps all 16 bits and a loud one is not clipped. Each stretch of 2.5 ms
of them is shifted up by the bits that its own peak leaves free, so that pauses and quiet passages keep 16 bits too,
which matters to models that normalise each frame. Where 16 bits are too few, float32 is stored: where a click is more
than 16 times above everything else, where rounding would add noise of more than 8e-5 of the deviation in a frame, as on
a constant offset, and for utterances of less than half a second, whose few frames do not average the noise.
"""

import hashlib
import math
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Float32, Shaped

from speechssl.audio import RECEPTIVE_FIELD, SAMPLE_RATE, AudioError, Levels, OpenStretch, open_stretch, with_channel
from speechssl.data.store_index import PART, Form
from speechssl.files import naming

SCRATCH = ".decoding-"  # prefix of the files of long utterances, until they are appended to the corpus
_WHOLE = 60 * SAMPLE_RATE  # samples; a longer utterance is decoded into a file, so that memory stays bounded
_BLOCK = 6400 * PART  # samples of such a file that are in memory at once
_LOST_TO_PEAK = 16.0  # the peak over everything else, or over the parts right before and behind it
_FRAME_PARTS = RECEPTIVE_FIELD // PART
_ROUNDED = 8e-5  # of the deviation in a frame; without an offset it is below 6e-5, the error of a vector below 1e-5
_SHORT = SAMPLE_RATE // 2  # samples; the errors of the vectors of shorter ones are up to ten times larger
_MOST_SHIFT = 60  # bits; within the exponents of float32
_FULL_SCALE = 32768


@dataclass(frozen=True)
class Encoded:
    """The stored form of one utterance.

    Attributes:
        samples: number of samples.
        gain: factor of stored int16 samples, as parts of 32768; 1.0 for float32.
        form: of the stored samples.
        crc32: checksum of the stored samples.
        digest: BLAKE2b of the stored samples, 16 hexadecimal digits.
        upsampled: whether the file has a rate below 16 kHz.
        notes: doubtful properties.
        content: the stored samples, the shifts behind them where there are any, or the file they are in.
    """

    samples: int
    gain: float
    form: Form
    crc32: int
    digest: str
    upsampled: bool
    notes: tuple[str, ...]
    content: Shaped[np.ndarray, " _"] | Path

    def append_to(self, file: BinaryIO) -> None:
        """Writes the stored samples, and removes the file they were in."""
        if isinstance(self.content, Path):
            with self.content.open("rb") as scratch:
                shutil.copyfileobj(scratch, file, 1 << 20)
        else:
            file.write(self.content.data)
        self.discard()

    def discard(self) -> None:
        """Removes the file that the samples are in, if they are in one."""
        if isinstance(self.content, Path):
            self.content.unlink(missing_ok=True)


def encode(audio: str, offset: float, *, duration: float | None, scratch: Path) -> Encoded:
    """Decodes one utterance into its stored form, in bounded memory for any length.

    Args:
        audio: the file.
        offset: where the utterance starts, s.
        duration: its length, s; None for all that follows.
        scratch: a folder for the samples of an utterance of more than a minute.

    Raises:
        AudioError: as `audio.decode` and `audio.check_waveform` raise, or memory has run out.
        OSError: the scratch folder cannot be written: the disk is full.
    """

    def encoded(channel: int | None) -> Encoded:
        with open_stretch(audio, offset, duration=duration, channel=channel) as stretch:
            encoding = _in_memory if stretch.num_samples <= _WHOLE else _in_file
            return encoding(stretch, audio, scratch)

    try:
        return with_channel(encoded)
    except MemoryError as error:
        raise AudioError(audio, "memory ran out while it was decoded") from error


def remove_scratch(folder: Path) -> None:
    """Removes the files of killed calls."""
    for path in folder.glob(f"{SCRATCH}*"):
        path.unlink(missing_ok=True)


class _Grid:
    """Whether all samples so far are those of a 16-bit file."""

    def __init__(self) -> None:
        self.holds = True

    def add(self, block: Float32[np.ndarray, " samples"]) -> None:
        if self.holds:
            self.holds = float(block.min(initial=0)) >= -1 and float(block.max(initial=0)) < 1
        if self.holds:
            scaled = block * np.float32(_FULL_SCALE)
            self.holds = bool((scaled == np.rint(scaled)).all())


class _Digits:
    """Whether 16 bits per part are too few anywhere, so that float32 is stored.

    This is the case next to a part far above the parts right before and behind it (a click: the samples around it share
    its shift, and are most of the encoder's input there), and in a frame whose samples differ little from their mean
    (speech on a constant offset, or a pause on a small one: the offset takes the bits).
    """

    def __init__(self) -> None:
        self.too_few = False
        self._left = np.zeros(0, dtype=np.float32)
        self._peaks = np.zeros(0, dtype=np.float32)  # of the last two parts
        self._last = np.zeros(0, dtype=np.float32)  # the last samples, of one frame

    def add(self, block: Float32[np.ndarray, " samples"]) -> None:
        if self.too_few or not len(block):
            return
        samples = np.concatenate([self._left, block])
        whole = len(samples) // RECEPTIVE_FIELD * RECEPTIVE_FIELD
        self._left = samples[whole:].copy()
        self._last = np.concatenate([self._last, block[-RECEPTIVE_FIELD:]])[-RECEPTIVE_FIELD:]
        parts = samples[:whole].reshape(-1, PART)
        self.too_few = self._is_click(np.abs(parts).max(axis=1)) or _are_rounded(parts)

    def finish(self) -> None:
        """Ends the samples: checks the last ones, which are no whole frame, together with those before them."""
        rest = self._left[: len(self._left) // PART * PART].reshape(-1, PART)
        if not self.too_few and len(self._left):
            self.too_few = self._is_click(np.abs(rest).max(axis=1)) or _are_rounded(self._last.reshape(-1, PART))

    def _is_click(self, peaks: Float32[np.ndarray, " parts"]) -> bool:
        peaks = np.concatenate([self._peaks, peaks])
        self._peaks = peaks[-2:]
        beside = np.maximum(peaks[:-2], peaks[2:])
        return bool(((peaks[1:-1] / _LOST_TO_PEAK > beside) & (beside > 0)).any())


def _are_rounded(parts: Float32[np.ndarray, "parts part"]) -> bool:
    """Whether rounding each part to its own 16 bits adds too much noise to any frame."""
    exponents = np.frexp(np.abs(parts).max(axis=1))[1].reshape(-1, _FRAME_PARTS)
    noise = np.ldexp(1.0, 2 * (exponents - 15)).mean(axis=1) / 12  # power of rounding to steps of 2^-15 of each peak
    return bool((noise > _ROUNDED**2 * parts.reshape(-1, RECEPTIVE_FIELD).var(axis=1, dtype=np.float64)).any())


class _Coder:
    """Samples to their stored form, in blocks of whole parts; the shifts of all are known at the end."""

    def __init__(self, levels: Levels, grid: _Grid, digits: _Digits) -> None:
        self.gain, self._shifts = 1.0, bytearray()
        self.form: Form = "int16"
        if grid.holds:
            return
        if levels.num_samples < _SHORT or digits.too_few or levels.peak > _LOST_TO_PEAK * levels.rest:
            self.form = "float32"
            return
        self.form = "int16+shifts"
        self.gain = 2.0 ** math.ceil(math.log2(levels.peak))
        if np.rint(levels.peak * (_FULL_SCALE / self.gain)) >= _FULL_SCALE:  # one step more than int16 has
            self.gain *= 2

    def __call__(self, block: Float32[np.ndarray, " samples"]) -> Shaped[np.ndarray, " samples"]:
        if self.form == "float32":
            return block.astype("<f4", copy=False)
        scaled = block.astype(np.float64) * (_FULL_SCALE / self.gain)
        if self.form == "int16+shifts":
            scaled = np.pad(scaled, (0, -len(block) % PART)).reshape(-1, PART)
            peaks = np.abs(scaled).max(axis=1)
            shifts = np.clip(15 - np.frexp(peaks)[1], 0, _MOST_SHIFT)
            shifts[peaks == 0] = 0
            shifts -= np.rint(np.ldexp(peaks, shifts)) >= _FULL_SCALE
            self._shifts += shifts.astype(np.uint8).tobytes()
            scaled = np.ldexp(scaled, shifts[:, None]).ravel()[: len(block)]
        return np.rint(scaled).astype("<i2")

    def shifts(self) -> Shaped[np.ndarray, " _"]:
        """The bytes that are stored behind the samples."""
        return np.frombuffer(bytes(self._shifts) + bytes(len(self._shifts) % 2), dtype="<i2")


def _in_memory(stretch: OpenStretch, audio: str, scratch: Path) -> Encoded:  # noqa: ARG001 (as _in_file)
    waveform = stretch.read()
    levels, grid, digits = Levels([waveform]), _Grid(), _Digits()
    notes = (*stretch.notes, *levels.check(audio))
    grid.add(waveform)
    if not grid.holds:
        digits.add(waveform)
        digits.finish()
    coder = _Coder(levels, grid, digits)
    content = coder(waveform)
    if coder.form == "int16+shifts":
        content = np.concatenate([content, coder.shifts()])
    return Encoded(
        samples=len(waveform),
        gain=coder.gain,
        form=coder.form,
        crc32=zlib.crc32(content.data),
        digest=hashlib.blake2b(content.data, digest_size=8).hexdigest(),
        upsampled=stretch.info.rate < SAMPLE_RATE,
        notes=notes,
        content=content,
    )


def _in_file(stretch: OpenStretch, audio: str, scratch: Path) -> Encoded:
    """As float32 into a file, which is then rewritten in place: the stored form is never longer."""
    levels, grid, digits = Levels(), _Grid(), _Digits()
    descriptor, name = tempfile.mkstemp(dir=scratch, prefix=SCRATCH)
    try:
        with naming(name), os.fdopen(descriptor, "r+b") as file:
            for block in stretch.blocks():
                levels.add(block)
                grid.add(block)
                digits.add(block)
                file.write(block.astype("<f4", copy=False).data)
            notes = (*stretch.notes, *levels.check(audio))
            digits.finish()
            coder = _Coder(levels, grid, digits)
            crc32, digest = 0, hashlib.blake2b(digest_size=8)
            for content in _rewritten(file, coder):
                crc32 = zlib.crc32(content.data, crc32)
                digest.update(content.data)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise
    return Encoded(
        samples=levels.num_samples,
        gain=coder.gain,
        form=coder.form,
        crc32=crc32,
        digest=digest.hexdigest(),
        upsampled=stretch.info.rate < SAMPLE_RATE,
        notes=notes,
        content=Path(name),
    )


def _rewritten(file: BinaryIO, coder: _Coder) -> Iterator[Shaped[np.ndarray, " _"]]:
    """Blocks in their stored form, each after it was written over what has been read; the shifts last."""
    read = written = 0
    while True:
        file.seek(read)
        block = np.frombuffer(file.read(_BLOCK * 4), dtype="<f4")
        if not len(block):
            break
        read += block.nbytes
        content = coder(block)
        if coder.form != "float32":
            file.seek(written)
            file.write(content.data)
        written += content.nbytes
        yield content
    if coder.form == "int16+shifts":
        file.seek(written)
        written += file.write(coder.shifts().data)
        yield coder.shifts()
    file.truncate(written)
