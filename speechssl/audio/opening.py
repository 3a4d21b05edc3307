"""Opening audio files: the checks that libsndfile answers badly or hangs on, and the header."""

import os
import stat
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import soundfile

from speechssl.audio.advice import excess_reason, ffmpeg, foreign_reason, joined_reason
from speechssl.audio.errors import AudioError
from speechssl.audio.flac import FlacFrames, flac_frames
from speechssl.audio.formats import foreign_container, foreign_suffix, other_kind
from speechssl.audio.mp3 import Mp3Frames, mp3_frames
from speechssl.audio.ogg import OggPages, ogg_pages
from speechssl.audio.quiet import quiet_c_stderr
from speechssl.audio.riff import Excess, check_length, second_head
from speechssl.audio.units import SAMPLE_RATE

MIN_RATE = 4000  # Hz
MAX_RATE = 192000  # Hz
MPEG_FRAME = 1152  # samples; a decoder may drop one at an edge or at a scratch, and the file still be whole
_MAX_SAMPLES_PER_BYTE = 10000  # FLAC packs 65535 equal samples into about 11 bytes; nothing known packs tighter
_UNKNOWN_LENGTH = 2**63 - 1  # libsndfile's count for a FLAC whose header leaves the length out
_MP3_TRIMMED = 2 * 4095  # samples that LAME's header may take off the start and the end
_MP3_SLACK = 2  # frames; encoders do not agree whether the frame of the length header counts
_WALKED = frozenset({"WAV", "WAVEX", "RF64", "W64", "AIFF", "CAF", "AU", "NIST", "OGG"})


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

    def quiet(self) -> AbstractContextManager[None]:
        """To be used around reading and seeking: libmpg123 prints its warnings to stderr."""
        return quiet_c_stderr() if self.subtype.startswith("MPEG_LAYER") else nullcontext()


def open_file(path: str | Path) -> SoundFile:
    """The file opened by libsndfile, after the checks that libsndfile answers badly or hangs on."""
    source = Path(path)
    if "\0" in str(path):
        raise AudioError(path, "not the name of a file (a null character in it)")
    try:
        reason = _reason_before(path, source)
    except FileNotFoundError as error:
        raise AudioError(path, "a link to a missing file" if source.is_symlink() else "no such file") from error
    except PermissionError as error:
        raise AudioError(path, "not readable (permission denied)") from error
    except OSError as error:
        raise AudioError(path, f"not readable ({error.strerror or error})") from error
    if reason is not None:
        raise AudioError(path, reason)
    if source.suffix.lower() == ".raw":  # soundfile would ask for the rate and the format
        raise AudioError(path, "samples without a header (raw); convert it to wav")
    try:
        with quiet_c_stderr():
            # As bytes, so that a name that is not UTF-8 opens too; soundfile takes them, its annotation says otherwise.
            return SoundFile(os.fsencode(path))  # pyright: ignore[reportArgumentType]
    except soundfile.LibsndfileError as error:
        raise AudioError(path, _open_reason(path, error)) from error


def _reason_before(path: str | Path, source: Path) -> str | None:
    """Why a file cannot be used, as far as its bytes tell without libsndfile."""
    status = source.stat()
    if not stat.S_ISREG(status.st_mode):  # opening a FIFO would wait for a writer for ever
        kind = "a directory" if stat.S_ISDIR(status.st_mode) else "a pipe or device"
        return f"{kind}, not an audio file"
    if status.st_size == 0:
        return "an empty file (0 bytes)"
    with source.open("rb") as file:
        head = file.read(4096)
    foreign, other = foreign_container(path, head), other_kind(head)
    if foreign is not None:
        return foreign_reason(path, foreign)
    if other is not None:
        suffix = foreign_suffix(path)
        return f"not audio ({other})" if suffix is None else foreign_reason(path, suffix)
    if head[:4] == b"OggS":
        return _ogg_reason(path, ogg_pages(path, status.st_size, status.st_mtime_ns))
    found = check_length(path, status.st_size, status.st_mtime_ns)
    return excess_reason(path, found) if isinstance(found, Excess) else found


def _ogg_reason(path: str | Path, pages: OggPages) -> str | None:
    if pages.fault is not None:
        return pages.fault
    lengths = [max(stream.seconds for stream in link) for link in pages.links]
    if len(lengths) > 1:
        return joined_reason(path, lengths[0], sum(lengths), convert=True)
    streams = [f"{stream.codec} of {stream.seconds:.3f} s" for link in pages.links for stream in link]
    if len(streams) > 1:
        choose = ffmpeg(path, "-map 0:a:0", ".wav")
        return f"{len(streams)} streams of sound at once ({', '.join(streams)}); choose one: {choose}"
    return None


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
    if file.subtype.startswith("MPEG_LAYER"):  # in a wav too
        frames = mp3_frames(path, size, status.st_mtime_ns)
        if frames is not None:
            num_samples = _mp3_length(path, num_samples, frames)
    elif file.format == "FLAC":
        _check_flac(path, num_samples, rate, flac_frames(path, size, status.st_mtime_ns, num_samples))
    elif file.format not in _WALKED:
        _check_second(path, num_samples, rate, second_head(path, size, status.st_mtime_ns))
    return AudioInfo(str(path), rate, channels, num_samples, num_samples / rate, file.format, file.subtype)


def _mp3_length(path: str | Path, num_samples: int, frames: Mp3Frames) -> int:
    """The number of samples of an mp3 by its frames, which libsndfile's must agree with."""
    rate, walked = frames.rate, frames.num_samples
    if frames.changes is not None:
        change = frames.changes * frames.per_frame / rate
        convert = ffmpeg(path, f"-ac 1 -ar {SAMPLE_RATE}", ".wav")
        raise AudioError(path, f"its rate or number of channels changes at {change:.3f} s; convert it: {convert}")
    if frames.promised is not None and frames.promised > frames.frames + _MP3_SLACK:
        promised, held = frames.promised * frames.per_frame / rate, walked / rate
        raise AudioError(path, f"truncated: the header promises {promised:.3f} s, {held:.3f} s can be decoded")
    counted = num_samples + (_MP3_TRIMMED if frames.length_header else 0)
    if frames.promised is not None:  # libsndfile does not know every kind of length header
        counted = min(counted, frames.promised * frames.per_frame)
    if counted + _MP3_SLACK * frames.per_frame < walked:
        kind = "an mp3 whose length header" if frames.length_header else "an mp3 without a length header, which"
        raise AudioError(
            path,
            f"{kind} counts {counted / rate:.3f} s of {walked / rate:.3f} s; "
            f"write the header again: {ffmpeg(path, '-c copy', '.mp3', word='fixed')}",
        )
    return num_samples if frames.length_header and num_samples <= walked else walked


def _check_flac(path: str | Path, num_samples: int, rate: int, frames: FlacFrames) -> None:
    if frames.joined is not None:
        convert = ffmpeg(path, "", ".wav")
        raise AudioError(
            path,
            f"several FLAC files in one: the first holds {num_samples / rate:.3f} s, the second starts at byte "
            f"{frames.joined}; keep them as files of their own, or convert it: {convert}",
        )
    if frames.beyond is not None:
        raise AudioError(
            path,
            f"the header counts {num_samples / rate:.3f} s, the frames reach to {frames.beyond / rate:.3f} s; "
            f"write the header again: {ffmpeg(path, '-c:a flac', '.flac', word='fixed')}",
        )


def _check_second(path: str | Path, num_samples: int, rate: int, second: int | None) -> None:
    """Formats whose lengths are not compared: libsndfile reads the header of a second file as samples."""
    if second is not None:
        raise AudioError(
            path,
            f"several recordings in one file: {num_samples / rate:.3f} s are found, and the second starts at byte "
            f"{second}; keep them as files of their own, or join them with sox",
        )


def _open_reason(path: str | Path, error: soundfile.LibsndfileError) -> str:
    """Why libsndfile would not open a file of no known other kind."""
    foreign = foreign_suffix(path)
    if foreign is not None:
        return foreign_reason(path, foreign)
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
