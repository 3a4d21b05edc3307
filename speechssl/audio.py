"""Audio files: what is in them, and their samples as mono float32 at 16 kHz.

Decoding is libsndfile's (through soundfile), resampling is soxr's. This file adds what neither does: one rounding
function between seconds and samples, reads that never allocate what a damaged header promises, and one-line reasons
for every file that cannot be used. libsndfile opens most files that are cut short as if the rest had never been, and
guesses the length of an mp3 without a length header; the second half of this file therefore looks at the bytes
themselves. Layouts: RIFF (Microsoft and IBM, 1991), RF64 (EBU Tech 3306), AIFF (Apple, 1989), Sun au, NIST SPHERE, Ogg
(RFC 3533), MPEG audio (ISO 11172-3 and 13818-3).
"""

import functools
import math
import mmap
import os
import re
import shlex
import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import soxr
from jaxtyping import Float, Float32

from speechssl.config import UserError

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

_FOREIGN_NAMES = {
    ".m4a": "MPEG-4 audio (m4a)",
    ".m4b": "MPEG-4 audio (m4b)",
    ".mp4": "MPEG-4 (mp4)",
    ".mov": "QuickTime (mov)",
    ".3gp": "3GPP (3gp)",
    ".aac": "AAC (aac)",
    ".wma": "Windows Media (wma)",
    ".asf": "Windows Media (asf)",
    ".wmv": "Windows Media (wmv)",
    ".webm": "WebM",
    ".mka": "Matroska (mka)",
    ".mkv": "Matroska (mkv)",
    ".amr": "AMR",
    ".ape": "Monkey's Audio (ape)",
    ".wv": "WavPack (wv)",
    ".mpc": "Musepack (mpc)",
    ".tta": "True Audio (tta)",
    ".spx": "Speex (spx)",
    ".ra": "RealAudio (ra)",
    ".rm": "RealMedia (rm)",
    ".dsf": "DSD (dsf)",
    ".avi": "AVI",
    ".flv": "Flash Video (flv)",
    ".silk": "SILK",
}
FOREIGN_SUFFIXES = frozenset(_FOREIGN_NAMES)
"""Suffixes of containers that hold audio but that libsndfile cannot read."""

_FOREIGN_MAGIC = (  # (offset, bytes, name)
    (4, b"ftyp", "MPEG-4 (mp4, m4a)"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "Windows Media (wma)"),
    (0, b"\x1a\x45\xdf\xa3", "Matroska or WebM"),
    (0, b"#!AMR", "AMR"),
    (0, b"MAC ", "Monkey's Audio (ape)"),
    (0, b"wvpk", "WavPack (wv)"),
    (0, b"MPCK", "Musepack (mpc)"),
    (0, b"MP+", "Musepack (mpc)"),
    (0, b"TTA1", "True Audio (tta)"),
    (28, b"Speex   ", "Speex (spx)"),
    (0, b".ra\xfd", "RealAudio (ra)"),
    (0, b".RMF", "RealMedia (rm)"),
    (0, b"DSD ", "DSD (dsf)"),
    (8, b"AVI ", "AVI"),
    (0, b"FLV\x01", "Flash Video (flv)"),
    (0, b"#!SILK", "SILK"),
    (0, b"\x02#!SILK", "SILK"),
    (0, b"\x00\x00\x01\xba", "MPEG video"),
)
_OTHER_MAGIC = (
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"GIF8", "a GIF picture"),
    (b"PK\x03\x04", "a zip archive"),
    (b"PK\x05\x06", "a zip archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"\xfd7zXZ", "an xz archive"),
    (b"BZh", "a bzip2 archive"),
    (b"Rar!", "a rar archive"),
    (b"%PDF", "a PDF document"),
    (b"MThd", "a MIDI file"),
    (b"\x7fELF", "a program"),
    (b"version https://git-lfs", "a Git LFS pointer; fetch the file itself with git lfs pull"),
)

_SLOPPY = 44  # bytes; some writers count the wav header among the samples, and nothing is missing then
_STREAMED = (0xFFFFFFFF, 0x7FFFF000, 0x80000000)  # data lengths that ffmpeg, sox and espeak, arecord write to a pipe
_ABSURD = 0x7FFF0000  # bytes; from here on a length far beyond the file is no recording that was cut short
_MIRROR = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))  # each byte with its bits the other way round

# kbit/s of layer III by the four bits of the header, MPEG-1 and MPEG-2; 0 and 15 give no length.
_MPEG1_RATES = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0)
_MPEG2_RATES = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0)


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
    with _open(path) as file:
        info = _header(path, file)
        start, count = _stretch(info, offset, duration)
        try:
            mono = _read_mono(file, start, count)
        except (soundfile.LibsndfileError, OSError) as error:
            raise AudioError(path, f"damaged or truncated: decoding fails ({_words(error)})") from error
    if len(mono) + (_MPEG_FRAME if info.format == "MP3" else 0) < count:
        held = samples_to_seconds(start + len(mono), info.rate)
        raise AudioError(path, f"truncated: the header promises {info.duration:.3f} s, {held:.3f} s can be decoded")
    bad = len(mono) - int(np.count_nonzero(np.isfinite(mono)))
    if bad:  # before resampling, which would smear one of them over its neighbours
        raise AudioError(path, f"{bad} of {len(mono)} samples are NaN or infinite")
    return DecodedAudio(resample(mono, info.rate, rate), info)


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


def _read_mono(file: "_SoundFile", start: int, count: int) -> Float[np.ndarray, " samples"]:
    """Up to `count` samples from `start`, channels averaged; fewer when the file ends early."""
    near = start if file.can_seek() else 0  # GSM 6.10 cannot seek
    if file.subtype == "VORBIS":  # libsndfile 1.2.2 is off by thousands of samples after a seek into the last page
        status = Path(os.fsdecode(file.name)).stat()
        near = min(near, _ogg_pages(os.fsdecode(file.name), status.st_size, status.st_mtime_ns).last_start)
    if near:
        file.seek(near)
    for _ in _blocks(file, start - near):  # decode and drop
        pass
    parts = [block[:, 0] if block.shape[1] == 1 else block.mean(axis=1) for block in _blocks(file, count)]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.float32)


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
            foreign, other = _foreign_container(path, head), _other_kind(head)
            promise = None if foreign or other else _broken_promise(file, head, status.st_size)
        if head[:4] == b"OggS":
            promise = promise or _ogg_pages(path, status.st_size, status.st_mtime_ns).fault
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
    walked = _mp3_samples(path, status.st_mtime_ns) if file.format == "MP3" else None
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
    foreign = _foreign_suffix(path)
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


# What a file is by its first bytes, and whether it holds what its header promises.


def _foreign_container(path: str | Path, head: bytes) -> str | None:
    """The name of a container that libsndfile cannot read, by the first bytes, whatever the file is called.

    >>> _foreign_container("a.wav", b"    ftypM4A ")
    'MPEG-4 (mp4, m4a)'
    """
    for offset, magic, name in _FOREIGN_MAGIC:
        if head[offset : offset + len(magic)] == magic:
            return _FOREIGN_NAMES.get(Path(path).suffix.lower(), name) if magic == b"ftyp" else name
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:  # MPEG sync word with layer 0: ADTS
        return "AAC (aac)"
    return None


def _foreign_suffix(path: str | Path) -> str | None:
    """The name of the container that the suffix stands for, when libsndfile cannot read it.

    >>> _foreign_suffix("a.WMA")
    'Windows Media (wma)'
    """
    return _FOREIGN_NAMES.get(Path(path).suffix.lower())


def _other_kind(head: bytes) -> str | None:
    """What a file is that is not audio, by its first bytes; None when they say nothing.

    >>> _other_kind(b"<!DOCTYPE html><html>")
    'a web page or XML'
    """
    for magic, name in _OTHER_MAGIC:
        if head.startswith(magic):
            return name
    if not _is_text(head):
        return None
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "a web page or XML"
    return "JSON text" if text.startswith((b"{", b"[")) else "plain text"


def _broken_promise(file: BinaryIO, head: bytes, size: int) -> str | None:
    """The reason when a header promises more bytes than the file holds; None when it does not or cannot be told.

    Args:
        file: the file, opened for reading bytes.
        head: its first bytes.
        size: its length, bytes.
    """
    if head[:4] in (b"RIFF", b"RIFX") and head[8:12] == b"WAVE":
        return _wav_promise(file, size, "<" if head[:4] == b"RIFF" else ">")
    promised = _promised_size(head)
    if promised is None or promised <= size + _SLOPPY:
        return None
    return f"truncated: the header promises a file of {promised} bytes, it has {size}"


def _promised_size(head: bytes) -> int | None:
    """Length of the whole file by the headers that say so at a fixed place, bytes."""
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return 8 + struct.unpack(">I", head[4:8])[0]
    if head[:4] == b"RF64" and head[12:16] == b"ds64" and len(head) >= 28:
        return 8 + struct.unpack("<Q", head[20:28])[0]
    if head[:8] == b"riff\x2e\x91\xcf\x11" and len(head) >= 24:  # Sony Wave64
        return struct.unpack("<Q", head[16:24])[0]
    if head[:4] == b".snd" and len(head) >= 12:
        start, length = struct.unpack(">II", head[4:12])
        return None if length == 0xFFFFFFFF else start + length
    if head[:16] == b"NIST_1A\n   1024\n":
        fields = dict(re.findall(rb"(sample_count|sample_n_bytes|channel_count) -i (\d+)", head))
        if len(fields) == 3 and b"-ilbc" not in head and b"shorten" not in head:
            size = int(fields[b"sample_count"]) * int(fields[b"sample_n_bytes"]) * int(fields[b"channel_count"])
            return 1024 + size
    return None


def _wav_promise(file: BinaryIO, size: int, order: str) -> str | None:
    """Walks the chunks to the samples and compares their promised length with what follows."""
    file.seek(4)
    riff = struct.unpack(order + "I", file.read(4))[0]
    position = 12
    while position + 8 <= size:
        file.seek(position)
        name, length = struct.unpack(order + "4sI", file.read(8))
        position += 8
        if name == b"data":
            return _data_promise(riff, length, position, size)
        position += length + length % 2
    return None


def _data_promise(riff: int, length: int, start: int, size: int) -> str | None:
    """Programs that write to a pipe cannot go back to fill in the two lengths; what they leave there is fine."""
    held = size - start
    if length == 0 and held > _SLOPPY and riff < start:
        return f"an unfinished recording: the header counts no samples, {held} bytes follow it; repair it with ffmpeg"
    streamed = length in _STREAMED and (riff == length or length < riff < length + 4096)
    if streamed or length <= held + (_SLOPPY if held else 0):
        return None
    if length >= _ABSURD and length > 16 * held:
        return f"an absurd length in the header: {length} bytes of samples, the file holds {held}"
    return f"truncated: the header promises {length} bytes of samples, the file holds {held}"


@dataclass(frozen=True)
class _OggPages:
    """What a walk over the pages of an Ogg file finds.

    Attributes:
        fault: the reason when a page is cut short or damaged; libsndfile would go on behind it without a word.
        last_start: where the last page's samples start, for Vorbis in samples.
    """

    fault: str | None
    last_start: int = 0


@functools.lru_cache(maxsize=256)
def _ogg_pages(path: str | Path, size: int, changed: int) -> _OggPages:  # noqa: ARG001 (part of the cache's key)
    """Walks over an Ogg file and checks every page; the many utterances of one long file read it once.

    Args:
        path: the file.
        size: its length, bytes.
        changed: its time of modification.
    """
    data = Path(path).read_bytes()
    ends = [0, 0]  # samples at the end of the pages
    position = number = 0
    while position < size:
        if data[position : position + 4] != b"OggS":
            following = data.find(b"OggS", position)
            if following < 0:  # junk behind the last page is harmless, libogg skips it too
                break
            return _OggPages(f"damaged: {following - position} bytes behind Ogg page {number} belong to no page")
        segments = data[position + 27 : position + 27 + data[position + 26]] if position + 26 < size else b""
        end = position + 27 + len(segments) + sum(segments)
        if end > size:
            return _OggPages("truncated: the file ends in the middle of an Ogg page")
        number += 1
        samples, checksum = struct.unpack("<q8xI", data[position + 6 : position + 26])
        if _ogg_crc(data[position : position + 22] + bytes(4) + data[position + 26 : end]) != checksum:
            return _OggPages(f"damaged: the checksum of Ogg page {number} is wrong")
        if samples > ends[-1]:  # -1 on a page on which no packet ends
            ends.append(samples)
        position = end
    return _OggPages(None, ends[-2])


def _ogg_crc(page: bytes) -> int:
    """Ogg's checksum: the polynomial of zlib's with the bits the other way round, from 0 and not inverted.

    >>> _ogg_crc(b"123456789") == 0x89A1897F
    True
    """
    mirrored = zlib.crc32(page.translate(_MIRROR), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{mirrored:032b}"[::-1], 2)


@functools.lru_cache(maxsize=256)
def _mp3_samples(path: str | Path, changed: int) -> int | None:  # noqa: ARG001 (part of the cache's key)
    """Samples a channel of an mp3 that has no length header, by walking from frame to frame.

    libsndfile guesses this from the file size and the first frames: too long with a large tag in front, and far too
    short with a variable bit rate.

    Args:
        path: the file.
        changed: its time of modification.

    Returns:
        The count; None when the file has a length header (Xing, Info or VBRI), which is right, or is no layer III.
    """
    with Path(path).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        position = _first_frame(data)
        if position is None:
            return None
        first = data[position : position + 200]
        if b"Xing" in first or b"Info" in first or b"VBRI" in first:
            return None
        samples = 0
        end = len(data)
        while position + 4 <= end:
            length, per_frame = _mp3_frame(data[position : position + 4])
            if not length:  # tags at the end, or damage: look for the next header
                position = data.find(b"\xff", position + 1)
                if position < 0:
                    break
                continue
            position += length
            samples += per_frame if position <= end else 0
        return samples


def _first_frame(data: mmap.mmap) -> int | None:
    """Where the first frame starts that is followed by another."""
    position = 0
    while data[position : position + 3] == b"ID3" and len(data) >= position + 10:
        high, third, second, low = data[position + 6 : position + 10]
        position += 10 + (high << 21 | third << 14 | second << 7 | low)
    while True:
        position = data.find(b"\xff", position)
        if position < 0:
            return None
        length, _ = _mp3_frame(data[position : position + 4])
        if length and _mp3_frame(data[position + length : position + length + 4])[0]:
            return position
        position += 1


def _mp3_frame(header: bytes) -> tuple[int, int]:
    """Bytes and samples a channel of the layer III frame with this header; zeros when it is none."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE6 != 0xE2:  # 11 sync bits, layer bits 01
        return 0, 0
    version = header[1] >> 3 & 3  # 3: MPEG-1, 2: MPEG-2, 0: MPEG-2.5
    place = header[2] >> 2 & 3
    if version == 1 or place == 3:
        return 0, 0
    rate = (44100, 48000, 32000)[place] // {3: 1, 2: 2, 0: 4}[version]
    kilobits = (_MPEG1_RATES if version == 3 else _MPEG2_RATES)[header[2] >> 4]
    if not kilobits:
        return 0, 0
    per_frame = 1152 if version == 3 else 576
    return per_frame // 8 * kilobits * 1000 // rate + (header[2] >> 1 & 1), per_frame


def _is_text(head: bytes) -> bool:
    """UTF-8 without control characters; a character cut by the end of the block is no objection."""
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:
            return False
        text = head[: error.start].decode("utf-8")
    return not any(ord(c) < 9 or 13 < ord(c) < 32 for c in text)
