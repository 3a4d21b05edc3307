"""Audio files: what is in them, and their samples as mono float32 at 16 kHz.

Decoding is libsndfile's (through soundfile), resampling is soxr's. This file adds what neither does: one rounding
function between seconds and samples, reads that never allocate what a damaged header promises, and one-line reasons
for every file that cannot be used. libsndfile itself decodes a file cut short without a word, so the length its
header promises is compared with the bytes that are there.
"""

import math
import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import soxr
from jaxtyping import Float

from speechssl.config import UserError

SAMPLE_RATE = 16000  # Hz; the rate of wav2vec 2.0 and of nearly every model after it
RECEPTIVE_FIELD = 400  # samples, 25 ms: one output frame of the convolutional feature encoder needs this many
MIN_RATE = 4000  # Hz
MAX_RATE = 192000  # Hz
SILENCE_PEAK = 10 ** (-90 / 20)  # of full scale, after the mean is removed: about one step of a 16-bit file
END_TOLERANCE = 0.01  # s; manifests often round offset and duration to two decimals, half a step each
_BLOCK = 1 << 18  # samples a channel read at once, so that memory follows what is there, not what is promised
_MAX_SAMPLES_PER_BYTE = 10000  # FLAC packs 65535 equal samples into about 11 bytes; nothing known packs tighter
_UNKNOWN_LENGTH = 2**63 - 1  # libsndfile's count for a FLAC whose header leaves the length out

AUDIO_SUFFIXES = frozenset(
    ".wav .flac .ogg .oga .opus .mp3 .aif .aiff .aifc .au .snd .caf .w64 .rf64 .sph .nist .voc".split()
)
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
"""Suffixes of containers that libsndfile cannot read."""

# (offset, bytes, name): recognised whatever the file is called.
_FOREIGN_MAGIC = (
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
    (b"version https://git-lfs", "a Git LFS pointer; fetch it with git lfs pull"),
)


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
    # A lossy decoder may drop a frame at an edge and the header still be honest; one MPEG frame is 1152 samples.
    slack = 1152 if info.format == "MP3" else 0
    if len(mono) + slack < count:
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
    if peak < SILENCE_PEAK:
        if abs(mean) >= SILENCE_PEAK:
            raise AudioError(path, f"all silence (a constant offset of {mean:.4f} and nothing else)")
        raise AudioError(path, f"all silence (peak {20 * math.log10(peak):.0f} dBFS, below -90)")


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
    mean = waveform.mean(dtype=np.float64)
    variance = waveform.var(dtype=np.float64)
    return ((waveform - mean) / np.sqrt(variance + 1e-7)).astype(np.float32)


def _read_mono(file: soundfile.SoundFile, start: int, count: int) -> Float[np.ndarray, " samples"]:
    """Up to `count` samples from `start`, channels averaged; fewer when the file ends early."""
    if start and file.seekable():
        file.seek(start)
    elif start:  # GSM 6.10 cannot seek: decode and drop
        left = start
        while left:
            dropped = len(file.read(min(left, _BLOCK), dtype="float32", always_2d=True))
            if not dropped:
                break
            left -= dropped
    parts: list[np.ndarray] = []
    left = count
    while left > 0:
        block = file.read(min(left, _BLOCK), dtype="float32", always_2d=True)  # (samples, channels)
        if not len(block):
            break
        parts.append(block[:, 0] if block.shape[1] == 1 else block.mean(axis=1, dtype=np.float32))
        left -= len(block)
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.float32)


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


def _open(path: str | Path) -> soundfile.SoundFile:
    """The file opened by libsndfile, after the checks that libsndfile answers badly or hangs on."""
    try:
        status = os.stat(path)
    except OSError as error:
        reason = "a link to a missing file" if os.path.islink(path) else _system_reason(error)
        raise AudioError(path, reason) from error
    if not stat.S_ISREG(status.st_mode):  # opening a FIFO would wait for a writer for ever
        kind = "a directory" if stat.S_ISDIR(status.st_mode) else "a pipe or device"
        raise AudioError(path, f"{kind}, not an audio file")
    if status.st_size == 0:
        raise AudioError(path, "an empty file (0 bytes)")
    try:
        with open(path, "rb") as raw:
            head = raw.read(4096)
            promised = _wav_promise(raw, head, status.st_size)
    except OSError as error:
        raise AudioError(path, _system_reason(error)) from error
    _refuse_foreign(path, head)
    if promised is not None:
        raise AudioError(path, promised)
    try:
        return soundfile.SoundFile(os.fsencode(path))
    except soundfile.LibsndfileError as error:
        raise AudioError(path, _open_reason(path, head, error)) from error


def _header(path: str | Path, file: soundfile.SoundFile) -> AudioInfo:
    """The header of an open file, when every number in it can be."""
    rate, channels, num_samples = file.samplerate, file.channels, file.frames
    if not MIN_RATE <= rate <= MAX_RATE:
        raise AudioError(path, f"a rate of {rate} Hz; {MIN_RATE} to {MAX_RATE} Hz can be read")
    if num_samples == _UNKNOWN_LENGTH:
        raise AudioError(path, "the header leaves out the length; write the file again with flac or ffmpeg")
    size = os.path.getsize(path)
    if num_samples > size * _MAX_SAMPLES_PER_BYTE:
        raise AudioError(path, f"an absurd length in the header: {num_samples} samples in a file of {size} bytes")
    if num_samples <= 0:
        raise AudioError(path, "no samples (a header and nothing after it, or cut off before the first block ends)")
    return AudioInfo(str(path), rate, channels, num_samples, num_samples / rate, file.format, file.subtype)


def _wav_promise(raw: BinaryIO, head: bytes, size: int) -> str | None:
    """The reason when a RIFF wav's data chunk promises more bytes than the file holds; None when all is well.

    Programs that write to a pipe cannot go back to fill in the lengths. ffmpeg then leaves 0xFFFFFFFF in both length
    fields, sox 0x7FFFF024 and 0x7FFFF000 (or close below it); those two say "to the end of the file" and are fine.
    """
    if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
        return None
    riff = struct.unpack("<I", head[4:8])[0]
    position = 12
    while position + 8 <= size:
        raw.seek(position)
        name, length = struct.unpack("<4sI", raw.read(8))
        position += 8
        if name == b"data":
            held = size - position
            if length <= held or (riff, length) == (0xFFFFFFFF, 0xFFFFFFFF):
                return None
            if length >> 12 == 0x7FFFF000 >> 12 and riff >> 12 == 0x7FFFF000 >> 12:
                return None
            if length >= 0x7FFF0000:
                return f"an absurd length in the header: {length} bytes of samples in a file of {size} bytes"
            return f"truncated: the header promises {length} bytes of samples, the file holds {held}"
        position += length + length % 2
    return None


def _refuse_foreign(path: str | Path, head: bytes) -> None:
    for offset, magic, name in _FOREIGN_MAGIC:
        if head[offset : offset + len(magic)] == magic:
            raise AudioError(path, _foreign_reason(path, name))
    if head[0] == 0xFF and len(head) > 1 and head[1] & 0xF6 == 0xF0:  # MPEG sync word with layer 0: ADTS
        raise AudioError(path, _foreign_reason(path, "AAC (aac)"))


def _foreign_reason(path: str | Path, name: str) -> str:
    source = Path(path)
    return (
        f"{name} cannot be read; convert it: "
        f"ffmpeg -i '{_printable(source.name)}' -ac 1 -ar {SAMPLE_RATE} '{_printable(source.stem)}.wav'"
    )


def _open_reason(path: str | Path, head: bytes, error: soundfile.LibsndfileError) -> str:
    """Why libsndfile would not open a file, in words that name what the file is."""
    for magic, name in _OTHER_MAGIC:
        if head.startswith(magic):
            return f"not audio ({name})"
    foreign = _FOREIGN_NAMES.get(Path(path).suffix.lower())
    if foreign is not None:
        return _foreign_reason(path, foreign)
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html", b"<?xml", b"<head")):
        return "not audio (a web page or XML)"
    if text.startswith((b"{", b"[")) and _is_text(head):
        return "not audio (JSON text)"
    if _is_text(head):
        return "not audio (plain text)"
    words = _words(error)
    if "Channel count is zero" in words:
        return "a header with zero channels"
    if "SF_INFO struct incomplete" in words:
        return "a header with an impossible rate, channel count or length"
    if "malformed" in words:
        return "a damaged or truncated file: libsndfile calls it malformed"
    if "Format not recognised" in words or "regular file" in words:
        return "not audio (no known format)"
    return f"cannot be opened ({words})"


def _is_text(head: bytes) -> bool:
    try:
        head[:4000].decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head[:4000]) - 3:  # a character cut by the end of the block is no objection
            return False
    return not any(byte < 9 or 13 < byte < 32 for byte in head)


def _system_reason(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, PermissionError):
        return "not readable (permission denied)"
    return f"not readable ({error.strerror or error})"


def _words(error: Exception) -> str:
    """libsndfile's own words, without the file name in front."""
    words = error.error_string if isinstance(error, soundfile.LibsndfileError) else str(error)
    return " ".join(words.split()).removeprefix("Error : ").rstrip(".")


def _printable(text: str) -> str:
    """The text with control characters and undecodable bytes escaped, so that it stays one line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
