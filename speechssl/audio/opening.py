"""Opening audio files: the checks that libsndfile answers badly or hangs on, and the header."""

import os
import shlex
import stat
from dataclasses import dataclass
from pathlib import Path

import soundfile

from speechssl.audio.errors import AudioError, printable
from speechssl.audio.formats import FOREIGN_SUFFIXES, foreign_container, foreign_suffix, other_kind
from speechssl.audio.mp3 import mp3_samples
from speechssl.audio.ogg import ogg_pages
from speechssl.audio.riff import broken_promise
from speechssl.audio.units import SAMPLE_RATE

MIN_RATE = 4000  # Hz
MAX_RATE = 192000  # Hz
_MAX_SAMPLES_PER_BYTE = 10000  # FLAC packs 65535 equal samples into about 11 bytes; nothing known packs tighter
_UNKNOWN_LENGTH = 2**63 - 1  # libsndfile's count for a FLAC whose header leaves the length out
MPEG_FRAME = 1152  # samples; a decoder may drop one at an edge or at a scratch, and the file still be whole


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


class SoundFile(soundfile.SoundFile):
    """An open file that says it cannot seek.

    After each read of a file that can, soundfile seeks to where it is already; that takes a compressed file a quarter
    of its decoding time.
    """

    def seekable(self) -> bool:
        """False, always."""
        return False

    def can_seek(self) -> bool:
        """Whether libsndfile can seek in the file."""
        return super().seekable()


def open_file(path: str | Path) -> SoundFile:
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
        return SoundFile(os.fsencode(path))  # pyright: ignore[reportArgumentType]
    except soundfile.LibsndfileError as error:
        raise AudioError(path, _open_reason(path, error)) from error


def header(path: str | Path, file: SoundFile) -> AudioInfo:
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
        if num_samples + 2 * MPEG_FRAME < walked:
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
    return f"ffmpeg -i {shlex.quote(printable(source.name))} {options} {shlex.quote(printable(source.stem) + suffix)}"


def _open_reason(path: str | Path, error: soundfile.LibsndfileError) -> str:
    """Why libsndfile would not open a file of no known other kind."""
    foreign = foreign_suffix(path)
    if foreign is not None:
        return _foreign_reason(path, foreign)
    words = words_of(error)
    if "Channel count is zero" in words:
        return "a header with zero channels"
    if "SF_INFO struct incomplete" in words:
        return "a header with an impossible rate, channel count or length"
    if "malformed" in words or "No 'data' chunk" in words:
        return f"damaged or truncated: libsndfile cannot open it ({words})"
    if "not recognised" in words or "regular file" in words:  # the second is said of an mp3 without any frame
        return "not audio (no known format)"
    return f"cannot be opened ({words})"


def words_of(error: Exception) -> str:
    """The library's own words, without the file name in front."""
    words = error.error_string if isinstance(error, soundfile.LibsndfileError) else str(error)
    return " ".join(words.split()).removeprefix("Error : ").rstrip(".")
