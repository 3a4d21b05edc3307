"""Phone alignments: readers of three kinds of files, and the stretches of the ABX test.

- `.lab` of festvox (xwaves labels, as EST writes them): a header that a line `#` ends, then `END COLOUR PHONE` per
  line, in seconds; a phone starts where the one before it ends, the first at 0.
- `.phn` of TIMIT: `BEGIN END PHONE` per line, in samples at 16 kHz.
- `.item` of ZeroSpeech and Libri-Light: a header, then `FILE ONSET OFFSET PHONE PREVIOUS NEXT SPEAKER` per line, in
  seconds. It lists the stretches that are compared, with their neighbours, and is no sequence of phones.

Stretches for the ABX test are made from sequences of phones as ZeroSpeech 2021 does: a phone with its two neighbours,
from the start of the one before to the end of the one behind, without silences.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from speechssl.config import UserError

TIMIT_RATE = 16000
ITEM_COLUMNS = ("#file", "onset", "offset", "#phone", "prev-phone", "next-phone", "speaker")
SILENCES = frozenset({"", "#", "h#", "pau", "epi", "sil", "ssil", "sp", "spn", "<sil>", "<s>", "</s>", "brth"})
"""Labels that are no phones, in lower case."""


@dataclass(frozen=True)
class Segment:
    """One phone of a sequence; `start` and `end` in seconds from the start of the file."""

    phone: str
    start: float
    end: float


@dataclass(frozen=True)
class Token:
    """One stretch of the ABX test: a phone in its context.

    Attributes:
        file: the file's path relative to the folder of alignments, without its ending, or its name in an `.item` file.
        onset: where the stretch starts, s; of a sequence of phones: the start of the previous one.
        offset: where it ends, s; of a sequence of phones: the end of the next one.
        phone: the phone in the middle.
        previous: the phone before it.
        following: the phone behind it.
        speaker: as an `.item` file has it; None where the alignment has no speakers.
    """

    file: str
    onset: float
    offset: float
    phone: str
    previous: str
    following: str
    speaker: str | None = None


def read_tokens(path: Path) -> list[Token]:
    """Read the stretches of the ABX test: of an `.item` file, or of the `.lab` or `.phn` files of a folder.

    Raises:
        UserError: as in `read_items` and `read_segments`.
    """
    if path.is_file() and path.suffix.lower() == ".item":
        return read_items(path)
    return [token for file, segments in read_segments(path).items() for token in triphones(segments, file=file)]


def read_segments(path: Path) -> dict[str, list[Segment]]:
    """Read sequences of phones.

    Args:
        path: a `.lab` or `.phn` file, or a folder with files of one of the two kinds, in subfolders too.

    Returns:
        The phones by file, sorted: the path relative to the folder, without its ending. Silences are among them.

    Raises:
        UserError: no such file or folder, no alignments or both kinds in it, or a line that cannot be used; the message
            names the file and the line.
    """
    readers = {".lab": _xwaves, ".phn": _timit}
    if path.is_file():
        if path.suffix.lower() not in readers:
            raise UserError(f"{path}: the ending of an alignment must be .lab, .phn or .item, got {path.suffix!r}")
        return {path.stem: readers[path.suffix.lower()](path)}
    if not path.is_dir():
        raise UserError(f"{path}: no such file or folder of alignments")
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in readers and file.is_file())
    kinds = {file.suffix.lower() for file in files}
    if not files:
        raise UserError(f"{path}: no .lab or .phn file in this folder; give the folder of alignments, or an .item file")
    if len(kinds) > 1:
        raise UserError(f"{path}: has .lab and .phn files; give a folder with one kind ({files[0]}, {files[-1]})")
    found: dict[str, list[Segment]] = {}
    for file in files:
        name = file.relative_to(path).with_suffix("").as_posix()
        if name in found:
            raise UserError(f"{file}: a second alignment of {name}; keep one of the two files")
        found[name] = readers[file.suffix.lower()](file)
    return found


def read_items(path: Path) -> list[Token]:
    """Read an `.item` file of ZeroSpeech or Libri-Light.

    Raises:
        UserError: cannot be read, another header, or a line that cannot be used; names the file and the line.
    """
    header, *lines = _lines(path) or [""]
    if tuple(header.split()) != ITEM_COLUMNS:
        raise UserError(f"{path}:1: the header must be {' '.join(ITEM_COLUMNS)!r}, got {header[:80]!r}")
    tokens: list[Token] = []
    for number, line in enumerate(lines, start=2):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != len(ITEM_COLUMNS):
            raise UserError(f"{path}:{number}: need {len(ITEM_COLUMNS)} columns, got {len(fields)}: {line[:80]!r}")
        file, onset, offset, phone, previous, following, speaker = fields
        start, end = (_number(each, path=path, line=number) for each in (onset, offset))
        if not start < end:
            raise UserError(f"{path}:{number}: the offset must be after the onset, got {onset} and {offset}")
        tokens.append(Token(file, start, end, phone, previous, following, speaker))
    if not tokens:
        raise UserError(f"{path}: has no line below its header")
    return tokens


def triphones(segments: Sequence[Segment], *, file: str = "", silences: frozenset[str] = SILENCES) -> list[Token]:
    """Each phone with its two neighbours, from the start of the one before to the end of the one behind.

    A triphone with a silence, with a gap or an overlap between its phones, or with a middle of no length is left out.

    Args:
        segments: the phones of one file, in their order.
        file: name of the file, kept in the tokens.
        silences: labels that are no phones, in lower case; labels are compared without regard to case.

    >>> phones = [Segment("pau", 0.0, 0.1), Segment("b", 0.1, 0.2), Segment("e", 0.2, 0.4), Segment("g", 0.4, 0.5)]
    >>> [(token.previous, token.phone, token.following, token.onset, token.offset) for token in triphones(phones)]
    [('b', 'e', 'g', 0.1, 0.5)]
    """
    tokens: list[Token] = []
    for before, here, after in zip(segments, segments[1:], segments[2:], strict=False):
        joined = math.isclose(before.end, here.start) and math.isclose(here.end, after.start)
        speech = all(each.phone.lower() not in silences for each in (before, here, after))
        if joined and speech and here.start < here.end:
            tokens.append(Token(file, before.start, after.end, here.phone, before.phone, after.phone))
    return tokens


def frame_phones(segments: Sequence[Segment], times: Float64[np.ndarray, " frames"]) -> list[str | None]:
    """The phone at the centre of each frame; None where there is none.

    Args:
        segments: the phones of one file, in their order.
        times: centres of the frames, in seconds from the start of the file.

    >>> frame_phones([Segment("a", 0.0, 0.1), Segment("b", 0.1, 0.2)], np.array([0.05, 0.1, 0.25]))
    ['a', 'b', None]
    """
    starts = np.array([each.start for each in segments])
    places = (np.searchsorted(starts, times, side="right") - 1).tolist()
    return [
        segments[place].phone if place >= 0 and time < segments[place].end else None
        for place, time in zip(places, times.tolist(), strict=True)
    ]


def _xwaves(path: Path) -> list[Segment]:
    lines = _lines(path)
    header = next((place for place, line in enumerate(lines) if line.strip() == "#"), None)
    if header is None:
        raise UserError(f"{path}: no line '#' that ends the header; an xwaves label file has one")
    words = [line.split() for line in lines[:header]]
    separator = next((each[1] for each in words if len(each) == 2 and each[0] == "separator"), ";")
    segments: list[Segment] = []
    for number, line in enumerate(lines[header + 1 :], start=header + 2):
        if not line.strip():
            continue
        fields = line.split(separator)[0].split()
        if len(fields) != 3:
            raise UserError(f"{path}:{number}: need END COLOUR PHONE, got {line[:80]!r}")
        start = segments[-1].end if segments else 0.0
        end = _number(fields[0], path=path, line=number)
        if end < start:
            raise UserError(f"{path}:{number}: ends at {fields[0]} s, before the line above it ({start} s)")
        segments.append(Segment(fields[2], start, end))
    return _some(segments, path)


def _timit(path: Path) -> list[Segment]:
    segments: list[Segment] = []
    last = 0
    for number, line in enumerate(_lines(path), start=1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 3 or not all(each.isascii() and each.isdigit() for each in fields[:2]):
            raise UserError(f"{path}:{number}: need BEGIN END PHONE, with whole numbers of samples, got {line[:80]!r}")
        begin, end = int(fields[0]), int(fields[1])
        if begin < last or end < begin:
            raise UserError(f"{path}:{number}: {begin} to {end} does not follow the line above it (begins at {last})")
        last = begin
        segments.append(Segment(fields[2], begin / TIMIT_RATE, end / TIMIT_RATE))
    return _some(segments, path)


def _some(segments: list[Segment], path: Path) -> list[Segment]:
    if not segments:
        raise UserError(f"{path}: has no phones")
    return segments


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start}); convert it, for example with iconv") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def _number(text: str, *, path: Path, line: int) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise UserError(f"{path}:{line}: need a time in seconds of at least 0, got {text!r}")
    return value
