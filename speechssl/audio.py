"""Audio files: what is in them, and their samples as mono float32 at 16 kHz.

Decoding is libsndfile's (through soundfile), resampling is soxr's. This file adds what neither does: one rounding
function between seconds and samples, reads that never allocate what a damaged header promises, and one-line reasons
for every file that cannot be used; what a file's own bytes tell is asked of containers.py.
"""

import math
import os
import shlex
import stat
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from jaxtyping import Float, Float32

from speechssl.config import UserError
from speechssl.containers import (
    FOREIGN_SUFFIXES,
    broken_promise,
    foreign_container,
    foreign_suffix,
    mp3_samples,
    ogg_pages,
    other_kind,
)

SAMPLE_RATE = 16000  # Hz; the rate of wav2vec 2.0 and of nearly every model after it
RECEPTIVE_FIELD = 400  # samples, 25 ms: one output frame of the convolutional feature encoder needs this many
MIN_RATE = 4000  # Hz
MAX_RATE = 192000  # Hz
SILENCE_PEAK = 10 ** (-90 / 20)  # of full scale, after the mean is removed: about one step of a 16-bit file
END_TOLERANCE = 0.01  # s; manifests often round offset and duration to two decimals, half a step each
_BLOCK = 1 << 18  # samples of all channels read at once: memory follows what is there, not what is promised
_MAX_SAMPLES_PER_BYTE = 10000  # FLAC packs 65535 equal samples into about 11 bytes; nothing known packs tighter
_UNKNOWN_LENGTH = 2**63 - 1  # libsndfile's count for a FLAC whose header leaves the length out
_MPEG_FRAME = 1152  # samples; a decoder may drop one at an edge or at a scratch, and the file still be whole

AUDIO_SUFFIXES = frozenset(
    {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3"}
    | {".aif", ".aiff", ".aifc", ".au", ".snd", ".caf", ".w64", ".rf64", ".sph", ".nist", ".voc"}
)
"""Suffixes of files that libsndfile reads."""


class AudioError(UserError):
    """A file that cannot be used; `str()` is "PATH: reason" in one line.

    Attributes:
        path: the file as the caller named it.
        reason: why, in one line.
    """

    def __init__(self, path: str | Path, reason: str) -> None:
        self.path = str(path)
        self.reason = " ".join(reason.split())
        super().__init__(f"{_printable(self.path)}: {self.reason}")

    def __reduce__(self) -> tuple[type["AudioError"], tuple[str, str]]:
        return AudioError, (self.path, self.reason)  # errors cross processes


@dataclass(frozen=True)
class AudioInfo:
    """What a file's header says.

    Attributes:
        path: the file as the caller named it.
        rate: samples a second of each channel, Hz.
        channels: number of channels.
        num_samples: samples a channel at the file's own rate.
        duration: seconds.
        format: libsndfile's name of the container, for example "WAV".
        subtype: libsndfile's name of the sample format, for example "PCM_16".
    """

    path: str
    rate: int
    channels: int
    num_samples: int
    duration: float
    format: str
    subtype: str


@dataclass(frozen=True)
class DecodedAudio:
    """A decoded stretch and the header of the file it came from.

    Attributes:
        waveform: (samples,) float32, mono, at the rate asked for.
        info: the header; `info.rate` is the file's own rate.
    """

    waveform: Float[np.ndarray, " samples"]
    info: AudioInfo


def seconds_to_samples(seconds: float, rate: int = SAMPLE_RATE) -> int:
    """Seconds to the nearest whole sample; halves go up, so that shifting by whole samples never changes a count.

    Args:
        seconds: any finite time, s.
        rate: samples a second, Hz.

    Raises:
        ValueError: the time is not finite.

    >>> seconds_to_samples(0.025)
    400
    >>> seconds_to_samples(0.02, rate=11025)  # 220.5 samples
    221
    """
    if not math.isfinite(seconds):
        raise ValueError(f"seconds must be finite, got {seconds}")
    return math.floor(seconds * rate + 0.5)


def samples_to_seconds(samples: int, rate: int = SAMPLE_RATE) -> float:
    """Samples to seconds; `seconds_to_samples` gives the same count back.

    >>> samples_to_seconds(400)
    0.025
    """
    return samples / rate


def probe(path: str | Path) -> AudioInfo:
    """What the header of an audio file says, without decoding it.

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
    with _open(path) as file:
        return _header(path, file)


def decode(
    path: str | Path, offset: float = 0.0, *, duration: float | None = None, rate: int = SAMPLE_RATE
) -> Float[np.ndarray, " samples"]:
    """A stretch of an audio file as mono float32 in about [-1, 1].

    Channels are averaged, then the stretch is resampled. A stretch that ends up to 10 ms after the file's end is taken
    as reaching the end (manifests round to two decimals); further out is an error.

    Args:
        path: an audio file.
        offset: where the stretch starts, s.
        duration: its length, s; None for all that follows.
        rate: the rate to resample to, Hz.

    Returns:
        (samples,) float32.

    Raises:
        AudioError: what `probe` raises; decoding fails or ends early; samples that are not finite; a stretch outside
            the file.

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
    with open_stretch(path, offset, duration=duration, rate=rate) as stretch:
        return DecodedAudio(stretch.read(), stretch.info)


class OpenStretch:
    """A stretch of an open file: its length is known, its samples are decoded when asked for, once.

    Attributes:
        info: the header; `info.rate` is the file's own rate.
        num_samples: samples at the rate asked for, mono.
    """

    def __init__(self, file: "_SoundFile", info: AudioInfo, *, start: int, count: int, rate: int):
        self.info, self.num_samples = info, round(count * rate / info.rate)
        self._file, self._start, self._count, self._rate = file, start, count, rate

    def read(self) -> Float[np.ndarray, " samples"]:
        """All of it. Raises what `decode` raises."""
        mono = np.concatenate([np.zeros(0, dtype=np.float32), *self._mono()])
        bad = _not_finite(mono)
        if bad:  # before resampling, which would smear one of them over its neighbours
            raise AudioError(self.info.path, f"{bad} of {len(mono)} samples are NaN or infinite")
        return resample(mono, self.info.rate, self._rate)

    def blocks(self) -> Iterator[Float[np.ndarray, " samples"]]:
        """The same samples in blocks of some seconds, so that a file of any length takes the memory of one block.

        Raises:
            AudioError: what `decode` raises; a fault late in the file is met late.
        """
        rates = self.info.rate, self._rate
        stream = None if rates[0] == rates[1] else soxr.ResampleStream(*rates, 1, dtype="float32", quality="HQ")
        for block in self._mono():
            bad = _not_finite(block)
            if bad:
                raise AudioError(self.info.path, f"{bad} of {len(block)} samples in a row are NaN or infinite")
            yield block if stream is None else stream.resample_chunk(np.ascontiguousarray(block))
        if stream is not None:
            yield stream.resample_chunk(np.zeros(0, dtype=np.float32), last=True)

    def _mono(self) -> Iterator[Float[np.ndarray, " samples"]]:
        """Blocks at the file's own rate, channels averaged; an error where the file ends early."""
        path, read = self.info.path, 0
        try:
            for block in _read_mono(self._file, self._start, self._count):
                read += len(block)
                yield block
        except (soundfile.LibsndfileError, OSError) as error:
            raise AudioError(path, f"damaged or truncated: decoding fails ({_words(error)})") from error
        if read + (_MPEG_FRAME if self.info.format == "MP3" else 0) < self._count:
            held = samples_to_seconds(self._start + read, self.info.rate)
            promised = f"the header promises {self.info.duration:.3f} s, {held:.3f} s can be decoded"
            raise AudioError(path, f"truncated: {promised}")


@contextmanager
def open_stretch(
    path: str | Path, offset: float = 0.0, *, duration: float | None = None, rate: int = SAMPLE_RATE
) -> Generator[OpenStretch]:
    """A stretch of a file, opened but not decoded yet; arguments and errors are those of `decode`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     soundfile.write(folder + "/a.wav", np.full((8000, 2), 0.5), 8000)
    ...     with open_stretch(folder + "/a.wav", 0.25) as stretch:
    ...         stretch.num_samples, sum(len(block) for block in stretch.blocks())
    (12000, 12000)
    """
    with _open(path) as file:
        info = _header(path, file)
        start, count = _stretch(info, offset, duration)
        yield OpenStretch(file, info, start=start, count=count, rate=rate)


def _not_finite(waveform: Float[np.ndarray, " samples"]) -> int:
    return len(waveform) - int(np.count_nonzero(np.isfinite(waveform)))


def check_waveform(waveform: Float[np.ndarray, " samples"], path: str | Path) -> None:
    """Refuses a waveform that a model cannot learn from.

    Silence is a peak below -90 dBFS after the mean is removed: less than about one step of a 16-bit file, so speech
    that is merely quiet passes, and a constant offset does not.

    Args:
        waveform: mono samples at 16 kHz, full scale 1.0.
        path: named in the error.

    Raises:
        AudioError: NaN or infinite samples, fewer than 400 samples, or silence.

    >>> check_waveform(np.sin(np.arange(400, dtype=np.float32)), "a.wav")
    >>> check_waveform(np.zeros(16000, dtype=np.float32), "a.wav")
    Traceback (most recent call last):
        ...
    speechssl.audio.AudioError: a.wav: all silence (every sample is zero)
    """
    if len(waveform) < RECEPTIVE_FIELD:
        raise AudioError(
            path, f"too short: {len(waveform)} samples at 16 kHz, one frame of the model needs {RECEPTIVE_FIELD}"
        )
    bad = len(waveform) - int(np.count_nonzero(np.isfinite(waveform)))
    if bad:
        raise AudioError(path, f"{bad} of {len(waveform)} samples are NaN or infinite")
    if not waveform.any():
        raise AudioError(path, "all silence (every sample is zero)")
    mean = float(waveform.mean(dtype=np.float64))
    peak = max(float(waveform.max()) - mean, mean - float(waveform.min()))
    if peak < SILENCE_PEAK and abs(mean) >= SILENCE_PEAK:
        raise AudioError(path, f"all silence (a constant offset of {mean:.4f} and nothing else)")
    if peak < SILENCE_PEAK:
        raise AudioError(path, f"all silence (a peak of {peak:.1g} of full scale, below -90 dBFS)")


def resample(waveform: Float[np.ndarray, " samples"], from_rate: int, to_rate: int) -> Float[np.ndarray, " resampled"]:
    """Another sampling rate, by soxr's high quality band-limited filter.

    Args:
        waveform: mono samples.
        from_rate: their rate, Hz.
        to_rate: the wanted rate, Hz.

    Returns:
        The same array when the rates are equal, otherwise `round(samples * to_rate / from_rate)` samples, float32.

    >>> resample(np.zeros(8000, dtype=np.float32), 8000, 16000).shape
    (16000,)
    """
    if from_rate == to_rate:
        return waveform
    return np.asarray(soxr.resample(waveform, from_rate, to_rate, quality="HQ"), dtype=np.float32)


def normalize(waveform: Float[np.ndarray, " samples"]) -> Float[np.ndarray, " samples"]:
    """Zero mean and unit variance over the utterance, float32.

    The 1e-7 inside the root is that of Hugging Face's `Wav2Vec2FeatureExtractor.zero_mean_unit_var_norm`.

    >>> normalize(np.array([1.0, 3.0], dtype=np.float32)).round(3)
    array([-1.,  1.], dtype=float32)
    """
    mean = float(waveform.mean(dtype=np.float64))
    deviation = math.sqrt(float(waveform.var(dtype=np.float64)) + 1e-7)
    return ((waveform - mean) / deviation).astype(np.float32, copy=False)


class _SoundFile(soundfile.SoundFile):
    """An open file that says it cannot seek.

    After each read of a file that can, soundfile seeks to where it is already; that takes a compressed file a quarter
    of its decoding time.
    """

    def seekable(self) -> bool:
        return False

    def can_seek(self) -> bool:
        return super().seekable()


def _read_mono(file: "_SoundFile", start: int, count: int) -> Iterator[Float[np.ndarray, " samples"]]:
    """Up to `count` samples from `start` in blocks, channels averaged; fewer when the file ends early."""
    near = start if file.can_seek() else 0  # GSM 6.10 cannot seek
    if file.subtype == "VORBIS":  # libsndfile 1.2.2 is off by thousands of samples after a seek into the last page
        status = Path(os.fsdecode(file.name)).stat()
        near = min(near, ogg_pages(os.fsdecode(file.name), status.st_size, status.st_mtime_ns).last_start)
    if near:
        file.seek(near)
    for _ in _blocks(file, start - near):  # decode and drop
        pass
    for block in _blocks(file, count):
        yield block[:, 0] if block.shape[1] == 1 else block.mean(axis=1)


def _blocks(file: "_SoundFile", count: int) -> Iterator[Float32[np.ndarray, "samples channels"]]:
    """The next `count` samples in blocks, fewer when the file ends early."""
    most = max(1, _BLOCK // file.channels)
    while count > 0:
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


def _open(path: str | Path) -> "_SoundFile":
    """The file opened by libsndfile, after the checks that libsndfile answers badly or hangs on."""
    source = Path(path)
    if "\0" in str(path):
        raise AudioError(path, "not the name of a file (a null character in it)")
    try:
        status = source.stat()
        if not stat.S_ISREG(status.st_mode):  # opening a FIFO would wait for a writer for ever
            kind = "a directory" if stat.S_ISDIR(status.st_mode) else "a pipe or device"
            raise AudioError(path, f"{kind}, not an audio file")
        if status.st_size == 0:
            raise AudioError(path, "an empty file (0 bytes)")
        with source.open("rb") as file:
            head = file.read(4096)
            foreign, other = foreign_container(path, head), other_kind(head)
            promise = None if foreign or other else broken_promise(file, head, status.st_size)
        if head[:4] == b"OggS":
            promise = promise or ogg_pages(path, status.st_size, status.st_mtime_ns).fault
    except FileNotFoundError as error:
        raise AudioError(path, "a link to a missing file" if source.is_symlink() else "no such file") from error
    except PermissionError as error:
        raise AudioError(path, "not readable (permission denied)") from error
    except OSError as error:
        raise AudioError(path, f"not readable ({error.strerror or error})") from error
    if foreign is not None:
        raise AudioError(path, _foreign_reason(path, foreign))
    if other is not None and source.suffix.lower() not in FOREIGN_SUFFIXES:
        raise AudioError(path, f"not audio ({other})")
    if promise is not None:
        raise AudioError(path, promise)
    if source.suffix.lower() == ".raw":  # soundfile would ask for the rate and the format
        raise AudioError(path, "samples without a header (raw); convert it to wav")
    try:
        # As bytes, so that a name that is not UTF-8 opens too; soundfile takes them, its annotation does not say so.
        return _SoundFile(os.fsencode(path))  # pyright: ignore[reportArgumentType]
    except soundfile.LibsndfileError as error:
        raise AudioError(path, _open_reason(path, error)) from error


def _header(path: str | Path, file: "_SoundFile") -> AudioInfo:
    """The header of an open file, when every number in it can be."""
    rate, channels, num_samples = file.samplerate, file.channels, file.frames
    if not MIN_RATE <= rate <= MAX_RATE:
        raise AudioError(path, f"a rate of {rate} Hz; {MIN_RATE} to {MAX_RATE} Hz can be read")
    if num_samples == _UNKNOWN_LENGTH:
        raise AudioError(path, "the header leaves out the length; write the file again with flac or ffmpeg")
    status = Path(path).stat()
    size = status.st_size
    if num_samples > size * _MAX_SAMPLES_PER_BYTE:
        raise AudioError(path, f"an absurd length in the header: {num_samples} samples in a file of {size} bytes")
    if num_samples <= 0:
        raise AudioError(path, "no samples (a header with nothing after it, or cut off in the first block)")
    walked = mp3_samples(path, status.st_mtime_ns) if file.format == "MP3" else None
    if walked is not None:
        if num_samples + 2 * _MPEG_FRAME < walked:
            raise AudioError(
                path,
                f"an mp3 of variable bit rate without a length header: {num_samples / rate:.1f} of "
                f"{walked / rate:.1f} s would be read; write the header: {_ffmpeg(path, '-c copy', '.fixed.mp3')}",
            )
        num_samples = walked
    return AudioInfo(str(path), rate, channels, num_samples, num_samples / rate, file.format, file.subtype)


def _foreign_reason(path: str | Path, name: str) -> str:
    return f"{name} cannot be read; convert it: {_ffmpeg(path, f'-ac 1 -ar {SAMPLE_RATE}', '.wav')}"


def _ffmpeg(path: str | Path, options: str, suffix: str) -> str:
    """The command that converts a file, to be run in its folder."""
    source = Path(path)
    return f"ffmpeg -i {shlex.quote(_printable(source.name))} {options} {shlex.quote(_printable(source.stem) + suffix)}"


def _open_reason(path: str | Path, error: soundfile.LibsndfileError) -> str:
    """Why libsndfile would not open a file of no known other kind."""
    foreign = foreign_suffix(path)
    if foreign is not None:
        return _foreign_reason(path, foreign)
    words = _words(error)
    if "Channel count is zero" in words:
        return "a header with zero channels"
    if "SF_INFO struct incomplete" in words:
        return "a header with an impossible rate, channel count or length"
    if "malformed" in words or "No 'data' chunk" in words:
        return f"damaged or truncated: libsndfile cannot open it ({words})"
    if "not recognised" in words or "regular file" in words:  # the second is said of an mp3 without any frame
        return "not audio (no known format)"
    return f"cannot be opened ({words})"


def _words(error: Exception) -> str:
    """The library's own words, without the file name in front."""
    words = error.error_string if isinstance(error, soundfile.LibsndfileError) else str(error)
    return " ".join(words.split()).removeprefix("Error : ").rstrip(".")


def _printable(text: str) -> str:
    """The text with control characters and undecodable bytes escaped, so that it stays one line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
