"""What is behind the end of a recording in a file: nothing, tags and padding, another recording, or unknown bytes.

Decoders stop at the end that the header counts, or skip unknown data. Tags, padding and chunks without samples are
skipped by their lengths here; other data make the file unusable, in every container.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from speechssl.audio.framed import LINKED, linked
from speechssl.audio.mpeg import parse_mpeg
from speechssl.audio.tags import id3_length, tag_end, tags_start

FEW = 4096  # bytes behind compressed audio that are not examined: less than a frame or a page, or a tag cut short
_BLOCK = 1 << 20  # bytes read at once
_PADDING = b"\0\r\n"  # a recorder's last block of flash memory; the line end of a transfer as text
_HEAD = 64  # bytes; every pattern below is found in so many


@dataclass(frozen=True)
class Kind:
    """A container: its name and suffix, the pattern at its head, and fixed bytes to search for with their place."""

    name: str
    suffix: str
    pattern: re.Pattern[bytes]
    marks: tuple[bytes, ...] = ()
    place: int = 0


def kind_of(name: str, suffix: str, pattern: bytes, *marks: bytes, place: int = 0) -> Kind:
    """A container; each mark is at `place` in the pattern."""
    return Kind(name, suffix, re.compile(pattern, re.DOTALL), marks, place)


# Each pattern has 7 bytes or more. Those without marks are recognised at a start only.
_KINDS = (
    kind_of("WAV", ".wav", rb"(RIFF|RIFX|RF64|BW64).{4}WAVE", b"WAVE", place=8),
    kind_of("FLAC", ".flac", rb"fLaC[\x00\x80]\x00\x00\x22", b"fLaC"),
    kind_of("Ogg", ".ogg", rb"OggS\x00\x02\x00{8}", b"OggS\x00\x02\x00\x00"),
    kind_of("AIFF", ".aiff", rb"FORM.{4}AIF[FC]", b"FORM"),
    kind_of("CAF", ".caf", rb"caff\x00\x01\x00\x00", b"caff\x00\x01\x00\x00"),
    kind_of("AU", ".au", rb"\.snd\x00\x00.{6}\x00\x00\x00[\x01-\x1b]", b".snd\x00\x00"),
    kind_of("Wave64", ".w64", rb"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb", b"riff\x2e\x91\xcf\x11"),
    kind_of("SPHERE", ".sph", rb"NIST_1A\n   1024\n", b"NIST_1A\n"),
    kind_of("VOC", ".voc", rb"Creative Voice File\x1a\x1a\x00", b"Creative Voice File\x1a"),
    kind_of("AVR", ".avr", rb"2BIT.{8}(\x00\x00|\xff\xff)\x00[\x08\x10]", b"2BIT"),
    kind_of("SVX", ".svx", rb"FORM.{4}(8SVX|16SV)", b"8SVX", b"16SV", place=8),
    kind_of("WVE", ".wve", rb"ALawSoundFile\*\*\x00", b"ALawSoundFile**\0"),
    kind_of("SDS", ".sds", rb"\xf0\x7e.\x01.{2}[\x08-\x1c].{13}\xf7"),
    kind_of("MPC 2000", ".snd", rb"\x01\x04[ -~]{17}.{2}[\x00\x01].{16}[\x00\x01]"),
    kind_of("MPEG-4", ".m4a", rb"\x00\x00.{2}ftyp[ -~]{4}", b"ftyp", place=4),
    kind_of("Windows Media", ".wma", rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11", b"\x30\x26\xb2\x75"),
    kind_of("Matroska or WebM", ".mka", rb"\x1a\x45\xdf\xa3.{1,8}\x42\x86\x81\x01", b"\x1a\x45\xdf\xa3"),
)
_COMMON = 3  # of the kinds, which are searched for in samples
_CODED = (  # compressed audio where samples should be, in the order of bytes of a wav
    (b"\x72\xf8\x1f\x4e", "S/PDIF (Dolby Digital or DTS)", ".spdif"),
    (b"\xff\x1f\x00\xe8", "DTS", ".dts"),
    (b"\xfe\x7f\x01\x80", "DTS", ".dts"),
    (b"\x7f\xfe\x80\x01", "DTS", ".dts"),
)


@dataclass(frozen=True)
class Recording:
    """The head of a recording in the middle of a file.

    Attributes:
        at: its first byte.
        name: of the container; empty where it is that of the whole file.
        suffix: of such files.
    """

    at: int
    name: str
    suffix: str


@dataclass(frozen=True)
class Behind:
    """Bytes behind the end of a recording that are neither tags nor padding.

    Attributes:
        start: the first of them.
        end: behind the last of them: the end of the file, or where its tags start.
        recording: the first that starts in them; None where none is known.
        padded: whether nothing but padding is in front of them.
    """

    start: int
    end: int
    recording: Recording | None
    padded: bool


ChunkEnd = Callable[[BinaryIO, int, int], int | None]
"""Of a file, a position and the file's length: the end of the chunk that starts there, beyond the file where it is cut;
None where none without samples does."""


def behind(
    file: BinaryIO, end: int, size: int, *, few: int = FEW, chunk_end: ChunkEnd | None = None, search: bool = True
) -> Behind | None:
    """Unexpected data behind the end of a recording; None where there are none.

    Of an intact file only a few bytes are read.

    Args:
        file: open for reading.
        end: of the recording, bytes.
        size: of the file, bytes.
        few: number of unknown bytes that is accepted.
        chunk_end: of containers that have chunks behind the samples.
        search: whether to look for another recording in all unknown bytes, rather than at their start alone.
    """
    start = skip_harmless(file, end, size, chunk_end=chunk_end)
    last = tags_start(file, start, size)
    if start >= last:
        return None
    recording = recording_at(file, start) or (find_recording(file, start, last) if search else None)
    if recording is None and last - start <= few:
        return None
    return Behind(start, last, recording, skip_padding(file, end, size) == start)


def skip_harmless(file: BinaryIO, position: int, size: int, *, chunk_end: ChunkEnd | None = None) -> int:
    """The first byte from a position on that is no tag, no padding and no chunk; `size` where there is none."""
    while position < size:
        end = tag_end(file, position)
        if end is None and chunk_end is not None and recording_at(file, position) is None:
            end = chunk_end(file, position, size)
        if end is not None and end > size and find_recording(file, position + 1, size):
            return position  # the length is wrong, or that of a truncated tag: no recording is hidden
        if end is None:
            end = skip_padding(file, position, size)
            if end == position:
                return position
        position = end
    return size


def skip_padding(file: BinaryIO, position: int, size: int) -> int:
    """The first byte from a position on that is no padding; `size` where there is none."""
    file.seek(position)
    count = 16  # most files have no padding
    while position < size and (block := file.read(min(count, size - position))):
        left = block.lstrip(_PADDING)
        if left:
            return position + len(block) - len(left)
        position, count = position + len(block), _BLOCK
    return position


def recording_at(file: BinaryIO, position: int) -> Recording | None:
    """The recording that starts at this position."""
    file.seek(position)
    head = file.read(_HEAD)
    for kind in _KINDS:
        if kind.pattern.match(head):
            return Recording(position, kind.name, kind.suffix)
    frame = linked(file, position, count=2 if parse_mpeg(head[:4]) else LINKED)
    return None if frame is None else Recording(position, frame.name, frame.suffix)


def recording_inside(file: BinaryIO, start: int, end: int) -> Recording | None:
    """The first recording between two positions, where samples without compression should be.

    For example a renamed file with a new header, or several joined files whose header counts them all. At the start
    all kinds are recognised, behind it the most common ones.
    """
    file.seek(start)
    head = file.read(_HEAD)
    if id3_length(head) is not None:
        return Recording(start, "MPEG audio", ".mp3")
    for pattern, name, suffix in _CODED:
        if head.startswith(pattern):
            return Recording(start, name, suffix)
    frame = linked(file, start)
    if frame is not None:
        return Recording(start, frame.name, frame.suffix)
    for kind in _KINDS:
        if kind.pattern.match(head):
            return Recording(start, kind.name, kind.suffix)
    return find_kind(file, start + 1, end, _KINDS[:_COMMON])


def find_recording(file: BinaryIO, position: int, end: int) -> Recording | None:
    """The first recording whose head is between two positions, of the containers that have marks."""
    return find_kind(file, position, end, _KINDS)


def find_kind(file: BinaryIO, position: int, end: int, kinds: Sequence[Kind]) -> Recording | None:
    """The first head of one of the kinds between two positions, of those that have marks."""
    file.seek(position)
    content = b""
    while position < end:
        block = file.read(min(_BLOCK, end - position))
        if not block:
            return None
        content, position = content[-_HEAD:] + block, position + len(block)
        found = [place for kind in kinds for place in _places(kind, content)]
        if found:
            place, kind = min(found, key=lambda each: each[0])
            return Recording(position - len(content) + place, kind.name, kind.suffix)
    return None


def _places(kind: Kind, content: bytes) -> list[tuple[int, Kind]]:
    """Start of the first of this kind in the bytes."""
    for mark in kind.marks:
        place = content.find(mark)
        while place >= 0:
            if place >= kind.place and kind.pattern.match(content, place - kind.place):
                return [(place - kind.place, kind)]
            place = content.find(mark, place + 1)
    return []
