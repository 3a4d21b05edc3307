"""Opening audio files: checks of faults that libsndfile misreports or blocks on, and the header."""

import os
import stat
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import soundfile

from speechssl.audio.advice import (
    ffmpeg,
    flac_reason,
    foreign_reason,
    joined_reason,
    length_reason,
    no_length_reason,
    split,
    to_wav,
    unknown_reason,
)
from speechssl.audio.behind import Recording
from speechssl.audio.counted import Surplus
from speechssl.audio.errors import AudioError
from speechssl.audio.flac import flac_frames
from speechssl.audio.formats import foreign_container, foreign_suffix, other_kind
from speechssl.audio.lengths import check_length, second_head
from speechssl.audio.mp3 import Mp3Frames, mp3_frames
from speechssl.audio.neighbours import no_file
from speechssl.audio.ogg import OggPages, ogg_pages
from speechssl.audio.older import CHECKED, UNCHECKED, gsm_fault
from speechssl.audio.quiet import quiet_c_stderr
from speechssl.audio.riff import foreign_codec
from speechssl.audio.state import file_state

MIN_RATE = 4000  # Hz
MAX_RATE = 192000  # Hz
MPEG_FRAME = 1152  # samples; a decoder may drop one at an edge or at damage in an intact file
_MAX_SAMPLES_PER_BYTE = 10000  # FLAC packs 65535 equal samples into about 11 bytes; no known format packs tighter
_UNKNOWN_LENGTH = 2**63 - 1  # libsndfile's count for a FLAC whose header leaves the length out
_MP3_TRIMMED = 2 * 4095  # samples that LAME's header may take off the start and the end
_MP3_SLACK = 2  # frames; encoders do not agree whether the frame of the length header counts
_WALKED = frozenset({"WAV", "WAVEX", "RF64", "W64", "AIFF", "CAF", "AU", "NIST", "OGG"}) | CHECKED
_GSM = ("RAW", "GSM610")
_COUNTED = _WALKED | {"MP3", "FLAC"}


@dataclass(frozen=True)
class AudioInfo:
    """Fields of a file's header.

    Attributes:
        path: the file as the caller named it.
        rate: samples per second of each channel, Hz.
        channels: number of channels.
        num_samples: samples per channel at the file's own rate.
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

    @property
    def note(self) -> str | None:
        """Doubt about all files of this format; None where there is none."""
        counted = self.format in _COUNTED or (self.format, self.subtype) == _GSM
        return None if counted else UNCHECKED.format(self.format)


class SoundFile(soundfile.SoundFile):
    """An open file for which `seekable` is False.

    After each read of a seekable file, soundfile seeks to its current position; for a compressed file that takes a
    quarter of its decoding time.
    """

    def seekable(self) -> bool:
        """False, always."""
        return False

    def can_seek(self) -> bool:
        """Whether libsndfile can seek in the file."""
        return super().seekable()

    def quiet(self) -> AbstractContextManager[None]:
        """Context for reading and seeking: libmpg123 prints its warnings to stderr."""
        return quiet_c_stderr() if self.subtype.startswith("MPEG_LAYER") else nullcontext()


def open_file(path: str | Path) -> SoundFile:
    """The file opened by libsndfile, after checks of faults that libsndfile misreports or blocks on."""
    source = Path(path)
    if "\0" in str(path):
        raise AudioError(path, "not the name of a file (a null character in it)")
    try:
        reason = _reason_before(path, source)
    except FileNotFoundError as error:
        raise AudioError(path, "a link to a missing file" if source.is_symlink() else no_file(path)) from error
    except PermissionError as error:
        raise AudioError(path, "not readable (permission denied)") from error
    except OSError as error:
        raise AudioError(path, f"not readable ({error.strerror or error})") from error
    if reason is not None:
        raise AudioError(path, reason)
    if source.suffix.lower() == ".raw":  # soundfile would need the rate and the format
        raise AudioError(path, "samples without a header (raw); convert it to wav")
    try:
        with quiet_c_stderr():
            # As bytes, so that a name that is not UTF-8 opens too; soundfile takes them, unlike its annotation.
            return SoundFile(os.fsencode(path))  # pyright: ignore[reportArgumentType]
    except soundfile.LibsndfileError as error:
        raise AudioError(path, _open_reason(path, error)) from error


def _reason_before(path: str | Path, source: Path) -> str | None:
    """Why a file cannot be used, by its bytes alone, without libsndfile."""
    status = source.stat()
    if not stat.S_ISREG(status.st_mode):  # opening a FIFO would block until there is a writer
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
        return _ogg_reason(path, ogg_pages(path, status.st_size, hash(file_state(status))))
    return length_reason(path, check_length(path, status.st_size, hash(file_state(status))))


def _ogg_reason(path: str | Path, pages: OggPages) -> str | None:
    if pages.fault is not None:
        return pages.fault
    lengths = [max(stream.seconds for stream in link) for link in pages.links]
    first = f"{lengths[0]:.3f} s" if lengths else "no sound"
    if len(lengths) > 1:
        second, kinds = (
            pages.links[1][0],
            {(each.codec, each.rate, each.channels) for link in pages.links for each in link},
        )
        convert = f"convert it: {to_wav(path)}" if len(kinds) == 1 else ""  # ffmpeg reads chains of one kind
        start = Recording(second.at, f"Ogg {second.codec}", ".opus" if second.codec == "Opus" else ".ogg")
        return joined_reason(path, first, start, whole=f"{sum(lengths):.3f} s", helps=convert)
    if pages.behind is not None and pages.behind.recording is not None:
        return joined_reason(path, first, pages.behind.recording, end=pages.end)
    if pages.behind is not None:
        return unknown_reason(path, first, pages.behind)
    streams = [f"{stream.codec} of {stream.seconds:.3f} s" for link in pages.links for stream in link]
    if len(streams) > 1:
        choose = ffmpeg(path, "-map 0:a:0", ".wav")
        return f"{len(streams)} streams of sound at once ({', '.join(streams)}); choose one: {choose}"
    if pages.links and pages.links[0][0].codec == "FLAC":
        return foreign_reason(path, "FLAC in Ogg")
    return None


def header(path: str | Path, file: SoundFile) -> AudioInfo:
    """The header of an open file; an error where a number in it is impossible."""
    rate, channels, num_samples = file.samplerate, file.channels, file.frames
    if not MIN_RATE <= rate <= MAX_RATE:
        raise AudioError(path, f"a rate of {rate} Hz; {MIN_RATE} to {MAX_RATE} Hz can be read")
    status = Path(path).stat()
    size, changed = status.st_size, hash(file_state(status))
    if num_samples == _UNKNOWN_LENGTH:
        raise AudioError(path, no_length_reason(path, rate, flac_frames(path, size, changed, 0)))
    if num_samples > size * _MAX_SAMPLES_PER_BYTE:
        raise AudioError(path, f"an absurd length in the header: {num_samples} samples in a file of {size} bytes")
    if num_samples <= 0:
        raise AudioError(path, "no samples (a header with nothing after it, or cut off in the first block)")
    if file.subtype.startswith("MPEG_LAYER"):  # in a wav too
        frames = mp3_frames(path, size, changed)
        if frames is not None:
            num_samples = _mp3_length(path, num_samples, frames, inside=file.format != "MP3")
    elif file.format == "FLAC":
        reason = flac_reason(path, num_samples, rate, flac_frames(path, size, changed, num_samples))
        if reason is not None:
            raise AudioError(path, reason)
    elif file.format == "RAW":  # guessed by libsndfile from the suffix
        reason = gsm_fault(path) if file.subtype == _GSM[1] else _headerless(path, file.subtype)
        if reason is not None:
            raise AudioError(path, reason)
    elif file.format in _WALKED:
        found = None if file.format == "OGG" else check_length(path, size, changed)
        if isinstance(found, Surplus) and found.num_samples is not None:
            num_samples = min(num_samples, found.num_samples)
    else:
        second = second_head(path, size, changed)
        if second is not None:
            raise AudioError(path, joined_reason(path, f"a part of {num_samples / rate:.3f} s", second))
    return AudioInfo(str(path), rate, channels, num_samples, num_samples / rate, file.format, file.subtype)


def _headerless(path: str | Path, subtype: str) -> str | None:
    """Why samples without a header cannot be used, where the suffix usually means a format with a header."""
    if subtype != "ULAW":
        return None
    convert = ffmpeg(path, "", ".wav", before="-f mulaw -ar 8000 ")
    return f"no header of a known format; if it is mu-law at 8000 Hz without one, convert it: {convert}"


def _mp3_length(path: str | Path, num_samples: int, frames: Mp3Frames, *, inside: bool) -> int:
    """The number of samples of an mp3 by its frames, which libsndfile's must agree with; `inside` a wav or alone."""
    rate, walked = frames.rate, frames.num_samples
    if frames.changes is not None and frames.changes_at is not None:
        change = frames.changes * frames.per_frame / rate
        commands = split(path, Recording(frames.changes_at, "MPEG audio", ".mp3"))
        words = f"its rate, channels or MPEG layer change at {change:.3f} s (byte {frames.changes_at})"
        raise AudioError(path, f"{words}; split it: {commands}")
    if frames.behind is not None and not inside:
        other, held = frames.behind.recording, f"{walked / rate:.3f} s"
        raise AudioError(path, joined_reason(path, held, other) if other else unknown_reason(path, held, frames.behind))
    if frames.promised is not None and frames.promised > frames.frames + _MP3_SLACK:
        promised, held = frames.promised * frames.per_frame / rate, walked / rate
        raise AudioError(path, f"truncated: the header states {promised:.3f} s, {held:.3f} s can be decoded")
    counted = num_samples + (_MP3_TRIMMED if frames.length_header else 0)
    if frames.promised is not None:  # libsndfile does not read every kind of length header
        counted = min(counted, frames.promised * frames.per_frame)
    if counted + _MP3_SLACK * frames.per_frame < walked:
        kind = "an mp3 whose length header" if frames.length_header else "an mp3 without a length header, which"
        raise AudioError(
            path,
            f"{kind} counts {counted / rate:.3f} s of {walked / rate:.3f} s; "
            f"write the header again: {ffmpeg(path, '-c copy', '.mp3', word='fixed')}",
        )
    return num_samples if frames.length_header and num_samples <= walked else walked


def _open_reason(path: str | Path, error: soundfile.LibsndfileError) -> str:
    """Why libsndfile does not open a file of no other known kind."""
    foreign = foreign_suffix(path)
    if foreign is not None:
        return foreign_reason(path, foreign)
    codec = foreign_codec(path)
    if codec is not None:
        return foreign_reason(path, f"{codec} in a wav")
    words = words_of(error)
    if "Channel count is zero" in words:
        return "a header with zero channels"
    if "SF_INFO struct incomplete" in words:
        return "a header with an impossible rate, channel count or length"
    if ("malformed" in words or "decoder" in words) and _is_ogg(path):  # its pages were checked before
        return f"libsndfile cannot open it ({words}), whose pages are whole; convert it: {to_wav(path)}"
    if "unsupported encoding" in words:
        return f"libsndfile cannot decode it ({words}); convert it: {to_wav(path)}"
    if "malformed" in words or "No 'data' chunk" in words:
        return f"damaged or truncated: libsndfile cannot open it ({words})"
    if "not recognised" in words or "regular file" in words:  # the second is the error for an mp3 without any frame
        return "not audio (no known format)"
    return f"cannot be opened ({words})"


def _is_ogg(path: str | Path) -> bool:
    with Path(path).open("rb") as file:
        return file.read(4) == b"OggS"


def words_of(error: Exception) -> str:
    """The library's own words, without the file name in front."""
    words = error.error_string if isinstance(error, soundfile.LibsndfileError) else str(error)
    return " ".join(words.split()).removeprefix("Error : ").rstrip(".")
