"""Detection of data appended to samples that reach to the end of a file because the header leaves out their length.

Only the bytes distinguish samples from what is behind them. So each kind is recognised by several bytes and by its
structure: frames that follow each other, fields in their range, a stream that can be unpacked.
"""

import functools
import re
import zlib
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from jaxtyping import Int

from speechssl.audio.behind import ChunkEnd, Recording, find_kind, find_recording, kind_of
from speechssl.audio.formats import other_kind
from speechssl.audio.framed import HEAD, linked
from speechssl.audio.mpeg import parse_mpeg
from speechssl.audio.tags import tag_end

_BLOCK = 1 << 20  # bytes read at once
_TAGS = 1 << 24  # bytes in front of a recording that are searched for its tag, which may hold a picture
_TEXT = 64  # bytes of text, at least; fewer may be samples
_BROKEN = re.compile("[\udc80-\udcff]")  # bytes that are no part of a character
_SPACES = (9, 10, 13)
_LETTERS = 10  # different characters in such a text; A-law and 8-bit samples that are quiet have fewer

# All but a few have 6 bytes or more that are fixed.
_ARCHIVES = (
    kind_of("a zip archive", "", rb"PK\x03\x04[\x00-\x3f]\x00..[\x00\x08\x09\x0c\x0e\x5d\x5f\x63]\x00", b"PK\x03\x04"),
    kind_of("a PNG picture", "", rb"\x89PNG\r\n\x1a\n", b"\x89PNG"),
    kind_of("a JPEG picture", "", rb"\xff\xd8\xff(\xe0..JFIF\x00|\xe1..Exif\x00)", b"\xff\xd8\xff"),
    kind_of("a GIF picture", "", rb"GIF8[79]a", b"GIF8"),
    kind_of("a PDF document", "", rb"%PDF-[12]\.[0-9]", b"%PDF-"),
    kind_of("a 7z archive", "", rb"7z\xbc\xaf\x27\x1c", b"7z\xbc\xaf"),
    kind_of("an xz archive", "", rb"\xfd7zXZ\x00", b"\xfd7zXZ\x00"),
    kind_of("a bzip2 archive", "", rb"BZh[1-9]1AY&SY", b"1AY&SY", place=4),
    kind_of("a rar archive", "", rb"Rar!\x1a\x07", b"Rar!\x1a\x07"),
    kind_of("a MIDI file", "", rb"MThd\x00\x00\x00\x06", b"MThd\x00\x00"),
)
_GZIP = kind_of("a gzip archive", "", rb"\x1f\x8b\x08[\x00-\x1f].{4}[\x00\x02\x04][\x00-\x0d\xff]", b"\x1f\x8b\x08")


@dataclass(frozen=True)
class Appended:
    """Data behind samples.

    Attributes:
        start: its first byte, with the tags and chunks in front of it.
        name: of its kind.
        recording: the recording; None for anything else.
    """

    start: int
    name: str
    recording: Recording | None


def appended(
    file: BinaryIO, start: int, end: int, *, frame: int = 0, chunk_end: ChunkEnd | None = None
) -> Appended | None:
    """First data between two positions that are not samples; None where there are none.

    Args:
        file: open for reading.
        start: of the samples.
        end: of the file, or where its tags start.
        frame: bytes of one sample of all channels; 0 where not known.
        chunk_end: of containers that have chunks behind the samples.
    """
    recordings = [find_recording(file, start, end), _find_frames(file, start, end)]
    others = [find_kind(file, start, end, _ARCHIVES), _find_gzip(file, start, end)]
    others.append(_text(file, start, end, max(1, frame)))
    found = min((each for each in (*recordings, *others) if each is not None), key=lambda each: each.at, default=None)
    if found is None:
        return None
    front = _tags_before(file, start, found.at, chunk_end)
    return Appended(front, found.name, found if found.suffix else None)


def _tags_before(file: BinaryIO, start: int, at: int, chunk_end: ChunkEnd | None) -> int:
    """Start of the tags and chunks that end at this position."""
    first = max(start, at - _TAGS)
    file.seek(first)
    content = file.read(at - first)
    marks = (b"ID3", b"APETAGEX", b"TAG", b"LYRICSBEGIN", b"LIST", b"id3 ", b"bext")
    places = sorted(first + place for mark in marks for place in _places(content, mark))
    for place in places:
        position: int | None = place
        while position is not None and position < at:
            following = tag_end(file, position)
            if following is None and chunk_end is not None:
                following = chunk_end(file, position, at)
            position = following
        if position is not None and position - at in (0, 1):
            return place
    return at


def _places(content: bytes, mark: bytes) -> list[int]:
    places, place = [], content.find(mark)
    while place >= 0:
        places.append(place)
        place = content.find(mark, place + 1)
    return places


def _find_gzip(file: BinaryIO, start: int, end: int) -> Recording | None:
    """First gzip archive whose beginning can be unpacked."""
    found = find_kind(file, start, end, (_GZIP,))
    while found is not None:
        file.seek(found.at)
        try:
            if zlib.decompressobj(31).decompress(file.read(min(1 << 16, end - found.at))):
                return found
        except zlib.error:
            pass
        found = find_kind(file, found.at + 1, end, (_GZIP,))
    return None


def _text(file: BinaryIO, start: int, end: int, frame: int) -> Recording | None:
    """Text at the end, where samples rarely look like text; the last bytes of a sample may be letters."""
    first = max(start, end - _BLOCK)
    file.seek(first)
    block = file.read(end - first).rstrip(b"\0")
    values = np.frombuffer(block, np.uint8)
    binary = np.flatnonzero((values < 32) & ~np.isin(values, _SPACES) | (values == 127) | (values >= 0xF5))
    content = block[int(binary[-1]) + 1 if len(binary) else 0 :]
    whole = content.decode("utf-8", "surrogateescape")
    text = _BROKEN.split(whole)[-1]
    place = first + len(block) - len(text.encode())
    place += (start - place) % frame
    content = block[place - first :]
    if len(content) < _TEXT or len(set(text)) < _LETTERS or not any(c.isspace() for c in text):
        return None
    return Recording(place, other_kind(content[:4096]) or "plain text", "")


def _find_frames(file: BinaryIO, start: int, end: int) -> Recording | None:
    """First frames without a container that follow each other."""
    position = start
    while position < end:
        file.seek(position)
        content = file.read(min(_BLOCK + HEAD, end - position))
        for place in _candidates(content):
            frame = linked(file, position + place)
            if frame is not None:
                return Recording(position + place, frame.name, frame.suffix)
        if len(content) <= HEAD:
            return None
        position += len(content) - HEAD
    return None


def _candidates(content: bytes) -> list[int]:
    """Places of headers whose frame is followed by a similar one, or ends behind these bytes."""
    values = np.frombuffer(content, np.uint8)
    if len(values) <= HEAD:
        return []
    first = np.flatnonzero((values[:-HEAD] == 0xFF) & (values[1 : 1 - HEAD] >= 0xE0))
    second, third = values[first + 1].astype(np.int64), values[first + 2].astype(np.int64)
    lengths = _mpeg_lengths()[second << 8 | third]
    adts = (second & 0xF6 == 0xF0) & (third >> 2 & 15 < 13)
    coded = (values[first + 3].astype(np.int64) & 3) << 11 | values[first + 4].astype(np.int64) << 3
    lengths = np.where(adts, coded | values[first + 5] >> 5, lengths)
    following = first + lengths
    beyond = following + 1 >= len(values)
    inside = np.minimum(following, len(values) - 2)
    alike = (values[inside] == 0xFF) & (values[inside + 1] == second)
    found = first[(lengths > HEAD) & (beyond | alike)].tolist()
    return sorted([*found, *(place for place in _places(content, b"\x0b\x77") if place < len(content) - HEAD)])


@functools.cache
def _mpeg_lengths() -> Int[np.ndarray, " 65536"]:
    """Lengths of MPEG frames by the second and third byte of the header; 0 where there is none."""
    lengths = np.zeros(1 << 16, np.int64)
    for key in range(0xE000, 1 << 16):
        frame = parse_mpeg(bytes((0xFF, key >> 8, key & 0xFF, 0)))
        lengths[key] = frame.length if frame else 0
    return lengths
