"""Samples of audio files as mono float32 at 16 kHz.

Decoding is libsndfile's (through soundfile), resampling is soxr's. This package adds one rounding function
between seconds and samples, reads that never allocate the length that a damaged header states, and one-line reasons for
every file that cannot be used.
"""

import math
import os
import warnings
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from jaxtyping import Float, Float32

from speechssl.audio.advice import flac_again, head
from speechssl.audio.channels import CANCEL, Mix, with_channel
from speechssl.audio.checks import as_float32, not_finite
from speechssl.audio.errors import AudioError, AudioWarning
from speechssl.audio.flac import SampleSum
from speechssl.audio.mp3 import Mp3Frames, mp3_frames
from speechssl.audio.ogg import OggPages, ogg_pages
from speechssl.audio.opening import MPEG_FRAME, AudioInfo, SoundFile, header, open_file, words_of
from speechssl.audio.resampling import constant_offset, resample
from speechssl.audio.state import file_state
from speechssl.audio.units import SAMPLE_RATE, samples_to_seconds, seconds_to_samples

END_TOLERANCE = 0.01  # s; manifests often round offset and duration to two decimals, half a step each
_BLOCK = 1 << 18  # samples of all channels read at once: memory depends on the samples in the file, not on its header


@dataclass(frozen=True)
class DecodedAudio:
    """A decoded stretch and the header of the file it came from.

    Attributes:
        waveform: (samples,) float32, mono, at the requested rate.
        info: the header; `info.rate` is the file's own rate.
    """

    waveform: Float[np.ndarray, " samples"]
    info: AudioInfo


def probe(path: str | Path) -> AudioInfo:
    """Header of an audio file, without decoding it.

    Args:
        path: an audio file.

    Returns:
        The header, after the checks that need no decoding.

    Raises:
        AudioError: missing, not a regular file, empty, not audio, a foreign container, cut short, or a header out of
            range (no channel, a rate outside 4 to 192 kHz, an absurd length).

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     soundfile.write(folder + "/a.wav", np.zeros((8000, 2)), 8000)
    ...     info = probe(folder + "/a.wav")
    >>> info.rate, info.channels, info.num_samples, info.duration
    (8000, 2, 8000, 1.0)
    """
    with open_file(path) as file:
        return header(path, file)


def decode(
    path: str | Path, offset: float = 0.0, *, duration: float | None = None, rate: int = SAMPLE_RATE
) -> Float[np.ndarray, " samples"]:
    """A stretch of an audio file as mono float32 in about [-1, 1].

    Channels are averaged, then the stretch is resampled. Where they cancel each other, completely or in part (their
    mean has less than a fifth of the power that the mean of uncorrelated channels has), the first loud one is taken.
    A stretch that ends up to 10 ms after the file's end is taken as reaching the end (manifests round to two
    decimals); further out is an error.

    Args:
        path: an audio file.
        offset: where the stretch starts, s.
        duration: its length, s; None for all that follows.
        rate: the rate to resample to, Hz.

    Returns:
        (samples,) float32.

    Raises:
        AudioError: as `probe` raises; decoding fails or ends early; samples that are not finite; a stretch outside
            the file.

    Warns:
        AudioWarning: the channels cancel each other.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     soundfile.write(folder + "/a.wav", np.full((8000, 2), 0.5), 8000)
    ...     decode(folder + "/a.wav", 0.25, duration=0.5).shape
    (8000,)
    """
    return decode_with_info(path, offset, duration=duration, rate=rate).waveform


def decode_with_info(
    path: str | Path, offset: float = 0.0, *, duration: float | None = None, rate: int = SAMPLE_RATE
) -> DecodedAudio:
    """As `decode`, with the file's header beside the samples (the file is opened once)."""

    def read(channel: int | None) -> DecodedAudio:
        with open_stretch(path, offset, duration=duration, rate=rate, channel=channel) as stretch:
            for note in stretch.notes:
                warnings.warn(AudioWarning(path, note), stacklevel=3)
            return DecodedAudio(stretch.read(), stretch.info)

    return with_channel(read)


class OpenStretch:
    """Stretch of an open file: its length is known, its samples are decoded once, on request.

    Attributes:
        info: the header; `info.rate` is the file's own rate.
        num_samples: samples at the requested rate, mono.
        notes: doubtful properties, one line each.
    """

    def __init__(
        self, file: SoundFile, info: AudioInfo, *, start: int, count: int, rate: int, channel: int | None = None
    ):
        self.info, self.num_samples = info, round(count * rate / info.rate)
        self.notes = [info.note] if info.note else []
        if channel is not None:
            self.notes.append(CANCEL.format(channel + 1))
        if start + count >= info.num_samples and _is_open_ended(file):
            self.notes.append("it may be cut short: the mark of the end of the stream is not there")
        frames = _frames(file)
        if frames is not None and start + count >= info.num_samples and frames.cut:
            self.notes.append("it may be cut short: it ends in the middle of a frame")
        if frames is not None and frames.gaps:
            places = (
                f"{len(frames.gaps)} place{'s' if len(frames.gaps) > 1 else ''} (the first at byte {min(frames.gaps)})"
            )
            self.notes.append(f"bytes between frames belong to none, in {places}: parts may be missing")
        if file.format == "OGG" and (gaps := _pages(file).gaps):
            self.notes.append(f"Ogg pages are missing in {gaps} place{'s' if gaps > 1 else ''}, by their numbers")
        self._channel = channel
        self._file, self._start, self._count, self._rate = file, start, count, rate

    def read(self) -> Float[np.ndarray, " samples"]:
        """All samples of the stretch.

        Raises:
            AudioError: as `decode` raises.
            ChannelsCancel: its channels cancel each other; `with_channel` opens it again.
        """
        mono = np.concatenate([np.zeros(0, dtype=np.float32), *self._mono()])
        bad = not_finite(mono)
        if bad:  # before resampling, which would smear one of them over its neighbours
            raise AudioError(self.info.path, f"{bad} of {len(mono)} samples are NaN or infinite")
        return resample(mono, self.info.rate, self._rate)

    def blocks(self) -> Iterator[Float[np.ndarray, " samples"]]:
        """The same samples in blocks of some seconds, so that a file of any length takes the memory of one block.

        Raises:
            AudioError: as `decode` raises, when the block with the fault is reached.
            ChannelsCancel: at the end, see `read`.
        """
        rates = self.info.rate, self._rate
        stream = None if rates[0] == rates[1] else soxr.ResampleStream(*rates, 1, dtype="float32", quality="HQ")
        offset: np.float32 | None = None
        for block in self._mono():
            bad = not_finite(block)
            if bad:
                raise AudioError(self.info.path, f"{bad} of {len(block)} samples in a row are NaN or infinite")
            if stream is None:
                yield block
            else:
                offset = constant_offset(block) if offset is None else offset
                yield stream.resample_chunk(np.ascontiguousarray(block) - offset) + offset
        if stream is not None:
            yield stream.resample_chunk(np.zeros(0, dtype=np.float32), last=True) + (offset or np.float32(0))

    def _mono(self) -> Iterator[Float[np.ndarray, " samples"]]:
        """Blocks at the file's own rate, channels averaged; an error where the file ends early."""
        path, read, mix = self.info.path, 0, Mix(self.info.channels, self.info.rate)
        whole = self.info.format == "FLAC" and self._count == self.info.num_samples
        checksum = SampleSum(path) if whole else None
        try:
            for block in _read(self._file, self._start, self._count):
                read += len(block)
                if checksum is not None:
                    checksum.add(block)
                if self.info.channels == 1 or self._channel is not None:
                    yield np.ascontiguousarray(block[:, self._channel or 0])
                else:
                    yield mix(block)
        except (soundfile.LibsndfileError, OSError) as error:
            raise AudioError(path, self._failure(error)) from error
        if read + (MPEG_FRAME if self.info.subtype.startswith("MPEG_LAYER") else 0) < self._count:
            held = samples_to_seconds(self._start + read, self.info.rate)
            promised = f"the header states {self.info.duration:.3f} s, {held:.3f} s can be decoded"
            raise AudioError(path, f"truncated: {promised}")
        if checksum is not None and checksum.differs:
            words = "damaged: the samples are not those that were encoded, by the MD5 in the header"
            raise AudioError(path, f"{words}; if they are right, write the file again: {flac_again(path)}")
        if self._channel is None and self.info.channels > 1:
            mix.finish()

    def _failure(self, error: soundfile.LibsndfileError | OSError) -> str:
        path = self.info.path
        if self.info.format == "OGG" and (end := _pages(self._file).end) < Path(path).stat().st_size:
            return f"libsndfile cannot decode it with tags behind its last page; cut them off: {head(path, end)}"
        return f"damaged or truncated: decoding fails ({words_of(error)})"


@contextmanager
def open_stretch(
    path: str | Path,
    offset: float = 0.0,
    *,
    duration: float | None = None,
    rate: int = SAMPLE_RATE,
    channel: int | None = None,
) -> Generator[OpenStretch]:
    """A stretch of a file, opened but not decoded yet; arguments and errors are those of `decode`.

    Args:
        path: an audio file.
        offset: where the stretch starts, s.
        duration: its length, s; None for all that follows.
        rate: the rate to resample to, Hz.
        channel: the channel to read, from 0; None for the mean of all. `with_channel` chooses.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     soundfile.write(folder + "/a.wav", np.full((8000, 2), 0.5), 8000)
    ...     with open_stretch(folder + "/a.wav", 0.25) as stretch:
    ...         stretch.num_samples, sum(len(block) for block in stretch.blocks())
    (12000, 12000)
    """
    with open_file(path) as file:
        info = header(path, file)
        start, count = _stretch(info, offset, duration)
        yield OpenStretch(file, info, start=start, count=count, rate=rate, channel=channel)


def _read(file: SoundFile, start: int, count: int) -> Iterator[Float32[np.ndarray, "samples channels"]]:
    """Up to `count` samples from `start` in blocks; fewer when the file ends early."""
    near = start if file.can_seek() else 0  # GSM 6.10 cannot seek
    if file.subtype == "VORBIS":  # libsndfile 1.2.2 is off by thousands of samples after a seek into the last page
        near = min(near, _pages(file).last_start)
    if near:
        with file.quiet():
            file.seek(near)
    for _ in _blocks(file, start - near):  # decode and drop
        pass
    yield from _blocks(file, count)


def _is_open_ended(file: SoundFile) -> bool:
    """Whether an Ogg file ends without the mark of its end: cut between two pages, or recorded from a broadcast."""
    return file.format == "OGG" and any(not stream.ended for link in _pages(file).links for stream in link)


def _frames(file: SoundFile) -> Mp3Frames | None:
    """The frames of MPEG audio; None of anything else."""
    if not file.subtype.startswith("MPEG_LAYER"):
        return None
    path = os.fsdecode(file.name)
    status = Path(path).stat()
    return mp3_frames(path, status.st_size, hash(file_state(status)))


def _pages(file: SoundFile) -> OggPages:
    path = os.fsdecode(file.name)
    status = Path(path).stat()
    return ogg_pages(path, status.st_size, hash(file_state(status)))


def _blocks(file: SoundFile, count: int) -> Iterator[Float32[np.ndarray, "samples channels"]]:
    """The next `count` samples in blocks, fewer when the file ends early."""
    most = max(1, _BLOCK // file.channels)
    while count > 0:
        with file.quiet():
            if file.subtype == "DOUBLE":
                block = as_float32(file.read(min(count, most), dtype="float64", always_2d=True), os.fsdecode(file.name))
            else:
                block = file.read(min(count, most), dtype="float32", always_2d=True)
        if not len(block):
            return
        count -= len(block)
        yield block


def _stretch(info: AudioInfo, offset: float, duration: float | None) -> tuple[int, int]:
    """First sample and number of samples of a stretch, at the file's own rate."""
    if not (math.isfinite(offset) and offset >= 0):
        raise AudioError(info.path, f"offset must be at least 0 s, got {offset:g} s")
    if duration is not None and not (math.isfinite(duration) and duration > 0):
        raise AudioError(info.path, f"duration must be above 0 s, got {duration:g} s")
    start = seconds_to_samples(offset, info.rate)
    if start >= info.num_samples:
        raise AudioError(info.path, f"offset {offset:g} s lies beyond the end at {info.duration:.3f} s")
    left = info.num_samples - start
    if duration is None:
        return start, left
    count = seconds_to_samples(duration, info.rate)
    if count - left > max(1, seconds_to_samples(END_TOLERANCE, info.rate)):
        raise AudioError(
            info.path,
            f"offset {offset:g} s and duration {duration:g} s reach beyond the end at {info.duration:.3f} s",
        )
    return start, min(count, left)
