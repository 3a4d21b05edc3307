"""The tables of a Kaldi data folder: keys and values, segments, and locations of audio."""

import math
import re
import shlex
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from speechssl.config import UserError
from speechssl.data.members import file_status, member_location

_PARENTS = 3  # a data folder is egs/x/s5/data/train: paths are relative to s5
_FLAC, _FLAC_DECODES = re.compile(r"-[cds]+|--stdout|--decode|--silent"), re.compile(r"-[cs]*d[cds]*|--decode")
_ARCHIVE = re.compile(r"(.+):(\d+)")


@dataclass(frozen=True)
class Segment:
    """A stretch of a recording.

    Attributes:
        recording: its key in `wav.scp`.
        start: s.
        duration: s; None to the end.
        reason: why it cannot be used; None if it can.
    """

    recording: str
    start: float
    duration: float | None
    reason: str | None


def read_table(path: Path) -> dict[str, str]:
    r"""A table of keys and values: the first word of a line, and the rest of it in NFC.

    Raises:
        UserError: the file cannot be read, is empty, or has a key twice.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "text").write_text("a1 good  day\na2\n")
    ...     read_table(Path(folder, "text"))
    {'a1': 'good  day', 'a2': ''}
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"not UTF-8 text at byte {error.start}"
        raise UserError(f"{path}: cannot be read ({reason})") from None
    found: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        key, _, value = line.strip(" \t\r").replace("\t", " ").partition(" ")
        if not key:
            continue
        if key in found:
            raise UserError(f"{path} line {number}: {key!r} is there twice")
        found[key] = unicodedata.normalize("NFC", value.strip(" "))
    if not found:
        raise UserError(f"{path}: an empty table")
    return found


def read_segments(path: Path) -> dict[str, Segment]:
    """The stretches of a `segments` file: `UTTERANCE RECORDING START END`, s; END -1 is the end of the recording.

    Raises:
        UserError: as `read_table`, or a line that is no segment.
    """
    found: dict[str, Segment] = {}
    for name, value in read_table(path).items():
        words = value.split()
        try:
            start, end = float(words[1]), float(words[2])
        except (ValueError, IndexError):
            start = end = math.nan
        if not (len(words) in (3, 4) and math.isfinite(start) and math.isfinite(end) and start >= 0):
            raise UserError(f"{path}: {name}: given {value!r}, allowed: RECORDING START END, in seconds")
        reason = None
        if len(words) == 4:
            reason = "one channel of a recording cannot be read; write each channel to a file of its own"
        elif end != -1 and end <= start:
            reason = "the segment ends before it starts"
        found[name] = Segment(words[0], start, None if end == -1 else round(end - start, 9), reason)
    return found


def read_speakers(folder: Path) -> tuple[str, dict[str, str]]:
    """The speaker of each utterance by `utt2spk` and `spk2utt`, where a data folder has them.

    Args:
        folder: the data folder.

    Returns:
        The name of the table, and its speakers; of both tables where there are both.

    Raises:
        UserError: as `read_table`; the tables, or two lines of `spk2utt`, give an utterance to different speakers.
    """
    utterances, speakers = folder / "utt2spk", folder / "spk2utt"
    found = read_table(utterances) if utterances.is_file() else {}
    by_speaker: dict[str, str] = {}
    for speaker, names in (read_table(speakers) if speakers.is_file() else {}).items():
        for name in names.split():
            if by_speaker.setdefault(name, speaker) != speaker:
                both = f"{by_speaker[name]!r} and of {speaker!r}"
                raise UserError(f"{speakers}: utterance {name!r} is of {both}; remove it from one of them")
    apart = next((name for name, speaker in by_speaker.items() if found.get(name, speaker) != speaker), None)
    if apart is not None:
        raise UserError(
            f"{utterances} and {speakers} differ: utterance {apart!r} is of {found[apart]!r} in the first and of "
            f"{by_speaker[apart]!r} in the second; correct or remove one of them"
        )
    return "utt2spk" if found or not by_speaker else "spk2utt", {**by_speaker, **found}


class AudioPlaces:
    """Locations of the audio of the recordings of a `wav.scp`.

    Attributes:
        recordings: keys of `wav.scp`.
    """

    def __init__(self, folder: Path, table: Mapping[str, str], base: Path | None):
        self.recordings = tuple(table)
        self._read = {name: _read_entry(value) for name, value in table.items()}
        names = [name for name, _, _ in self._read.values() if name and not Path(name).is_absolute()]
        self._base = base_folder(names[0], folder / "wav.scp", base) if names else folder

    def found(self) -> dict[str, str]:
        """The location of the audio of each recording that can be read."""
        places = {name: self.find(Segment(name, 0.0, None, None))[0] for name in self.recordings}
        return {name: place for name, place in places.items() if place is not None}

    def find(self, segment: Segment) -> tuple[str | None, str]:
        """The location of the audio of a segment; None with the reason where it cannot be read."""
        if segment.reason is not None:
            return None, segment.reason
        if segment.recording not in self._read:
            return None, "their recording is not in wav.scp"
        name, start, reason = self._read[segment.recording]
        if reason:
            return None, reason
        path = str(self._base / name)
        if start is None:
            return path, ""
        whole = f"{path}:{start}"
        try:
            file_status(whole)
        except OSError:
            return member_location(path, start), ""
        return whole, ""  # a file of that name


def base_folder(name: str, table: Path, base: Path | None) -> Path:
    """Base folder of the relative paths of a table: the given one, else the nearest parent that has the path.

    Args:
        name: a relative path in the table.
        table: the table.
        base: the folder, where the user names it.

    Raises:
        UserError: the path is found nowhere.
    """
    if base is not None:
        return base.absolute()
    folders = [table.parent, *list(table.parent.parents)[:_PARENTS]]
    found = next((each for each in folders if (each / name).exists()), None)
    if found is None:
        places = ", ".join(str(each) for each in folders)
        raise UserError(
            f"{table}: {name} is in none of {places}; name the folder that the paths start from: --set base=FOLDER"
        )
    return found


def _read_entry(value: str) -> tuple[str, str | None, str]:
    """A right-hand side of `wav.scp`: the file, the first byte in an archive, the reason why it cannot be read.

    >>> _read_entry("flac -c -d -s /a/b.flac |"), _read_entry("/a/b.ark:17")
    (('/a/b.flac', None, ''), ('/a/b.ark', '17', ''))
    >>> _read_entry("sox a.wav -t wav - |")[2]
    "commands are not run: 'sox … |'; write its output to files and name these in wav.scp"
    """
    if value.endswith("|"):
        return read_command(value[:-1].strip())
    if not value or value == "-" or value.startswith("|"):
        return "", None, "no file is named"
    archive = _ARCHIVE.fullmatch(value)
    return (archive[1], archive[2], "") if archive else (value, None, "")


def read_command(command: str, *, named_in: str = "wav.scp") -> tuple[str, str | None, str]:
    """The file of a command that only decodes it; returns the same as `_read_entry`.

    Args:
        command: without the pipe at its end.
        named_in: where the user can name a file instead.
    """
    try:
        words = shlex.split(command)
    except ValueError:
        words = []
    program = Path(words[0]).name if words else command.partition(" ")[0]
    refused = f"commands are not run: {program + ' … |'!r}; write its output to files and name these in {named_in}"
    if len(words) < 2 or set(command) & set("|;&<>$`(){}*?#"):
        return "", None, refused
    *options, name = words[1:]
    decodes = {
        "cat": not options,
        "flac": all(_FLAC.fullmatch(each) for each in options) and any(map(_FLAC_DECODES.fullmatch, options)),
        "sph2pipe": options in (["-f", "wav"], ["-f", "wav", "-p"], ["-p", "-f", "wav"]),
    }
    return (name, None, "") if decodes.get(program) and not name.startswith("-") else ("", None, refused)
