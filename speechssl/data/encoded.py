"""One utterance as a prepared corpus keeps it: int16 with a gain, or float32 where 16 bits are not enough.

Samples that a 16-bit file at 16 kHz can hold are kept as they are. Others are stored as int16 of the smallest power of
two that holds their peak, so that a quiet recording keeps all 16 bits and a loud one is not clipped. Where a click or
a constant offset stands so far above everything else that it would take more than four of the bits, float32 is stored.
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

from speechssl.audio import SAMPLE_RATE, AudioError, Levels, OpenStretch, open_stretch, with_channel
from speechssl.data.store import NARROW, WIDE

SCRATCH = ".decoding-"  # begins the names of the files of long utterances, until they are appended to the corpus
_WHOLE = 60 * SAMPLE_RATE  # samples; a longer utterance is decoded into a file, so that memory stays bounded
_BLOCK = 1 << 18  # samples of such a file that are in memory at once
_LOST_TO_PEAK = 16.0  # the peak over everything else: four of the 16 bits
_FULL_SCALE = 32768


@dataclass(frozen=True)
class Encoded:
    """The stored form of one utterance.

    Attributes:
        samples: how many.
        gain: what stored int16 samples are multiplied by, as parts of 32768; 1.0 for float32.
        sample_bytes: 2 for int16, 4 for float32.
        crc32: checksum of the stored samples.
        digest: BLAKE2b of the stored samples, 16 hexadecimal digits.
        upsampled: whether the file has a rate below 16 kHz.
        notes: what is doubtful about it.
        content: the stored samples, or the file they are in.
    """

    samples: int
    gain: float
    sample_bytes: int
    crc32: int
    digest: str
    upsampled: bool
    notes: tuple[str, ...]
    content: Shaped[np.ndarray, " samples"] | Path

    def append_to(self, file: BinaryIO) -> None:
        """Write the stored samples; the file they were in is removed."""
        if isinstance(self.content, Path):
            with self.content.open("rb") as scratch:
                shutil.copyfileobj(scratch, file, 1 << 20)
        else:
            file.write(self.content.data)
        self.discard()

    def discard(self) -> None:
        """Remove the file that the samples are in, if they are in one."""
        if isinstance(self.content, Path):
            self.content.unlink(missing_ok=True)


def encode(audio: str, offset: float, *, duration: float | None, scratch: Path) -> Encoded:
    """Decode one utterance into its stored form, in bounded memory whatever its length.

    Args:
        audio: the file.
        offset: where the utterance starts, s.
        duration: its length, s; None for all that follows.
        scratch: a folder for the samples of an utterance of more than a minute.

    Raises:
        AudioError: what `audio.decode` and `audio.check_waveform` raise, or memory has run out.
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
    """Remove what killed calls have left."""
    for path in folder.glob(f"{SCRATCH}*"):
        path.unlink(missing_ok=True)


class _Grid:
    """Whether all samples so far are those of a 16-bit file."""

    def __init__(self) -> None:
        self.holds = True

    def add(self, block: Float32[np.ndarray, " samples"]) -> None:
        if self.holds:
            scaled = block * np.float32(_FULL_SCALE)
            fits = float(scaled.min(initial=0)) >= -_FULL_SCALE and float(scaled.max(initial=0)) < _FULL_SCALE
            self.holds = fits and bool((scaled == np.rint(scaled)).all())


@dataclass(frozen=True)
class _Form:
    """How samples are stored."""

    gain: float
    sample_bytes: int

    @classmethod
    def of(cls, levels: Levels, grid: _Grid) -> "_Form":
        if grid.holds:
            return cls(1.0, NARROW)
        if levels.peak > _LOST_TO_PEAK * levels.rest:
            return cls(1.0, WIDE)
        gain = 2.0 ** math.ceil(math.log2(levels.peak))
        clipped = np.rint(levels.high * (_FULL_SCALE / gain)) >= _FULL_SCALE  # one step more than int16 has
        return cls(2 * gain if clipped else gain, NARROW)

    def __call__(self, block: Float32[np.ndarray, " samples"]) -> Shaped[np.ndarray, " samples"]:
        if self.sample_bytes == WIDE:
            return block.astype("<f4", copy=False)
        return np.rint(block.astype(np.float64) * (_FULL_SCALE / self.gain)).astype("<i2")


def _in_memory(stretch: OpenStretch, audio: str, scratch: Path) -> Encoded:  # noqa: ARG001 (as _in_file)
    waveform = stretch.read()
    levels, grid = Levels([waveform]), _Grid()
    notes = (*stretch.notes, *levels.check(audio))
    grid.add(waveform)
    form = _Form.of(levels, grid)
    content = form(waveform)
    return Encoded(
        samples=len(content),
        gain=form.gain,
        sample_bytes=form.sample_bytes,
        crc32=zlib.crc32(content.data),
        digest=hashlib.blake2b(content.data, digest_size=8).hexdigest(),
        upsampled=stretch.info.rate < SAMPLE_RATE,
        notes=notes,
        content=content,
    )


def _in_file(stretch: OpenStretch, audio: str, scratch: Path) -> Encoded:
    """As float32 into a file, which is then rewritten in place: the stored form is never longer."""
    levels, grid = Levels(), _Grid()
    descriptor, name = tempfile.mkstemp(dir=scratch, prefix=SCRATCH)
    try:
        with os.fdopen(descriptor, "r+b") as file:
            for block in stretch.blocks():
                levels.add(block)
                grid.add(block)
                file.write(block.astype("<f4", copy=False).data)
            notes = (*stretch.notes, *levels.check(audio))
            form = _Form.of(levels, grid)
            crc32, digest = 0, hashlib.blake2b(digest_size=8)
            for content in _rewritten(file, form):
                crc32 = zlib.crc32(content.data, crc32)
                digest.update(content.data)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise
    return Encoded(
        samples=levels.num_samples,
        gain=form.gain,
        sample_bytes=form.sample_bytes,
        crc32=crc32,
        digest=digest.hexdigest(),
        upsampled=stretch.info.rate < SAMPLE_RATE,
        notes=notes,
        content=Path(name),
    )


def _rewritten(file: BinaryIO, form: _Form) -> Iterator[Shaped[np.ndarray, " samples"]]:
    """Blocks in their stored form, each after it was written over what has been read."""
    read = written = 0
    while True:
        file.seek(read)
        block = np.frombuffer(file.read(_BLOCK * WIDE), dtype="<f4")
        if not len(block):
            break
        read += block.nbytes
        content = form(block)
        if form.sample_bytes != WIDE:
            file.seek(written)
            file.write(content.data)
            written += content.nbytes
        yield content
    if form.sample_bytes != WIDE:
        file.truncate(written)
