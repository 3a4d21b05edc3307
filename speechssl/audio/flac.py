"""Length of a FLAC file by its frames (RFC 9639), compared with the one in its header.

libsndfile stops at the length of the header: a second recording behind the first, or samples that a recorder wrote
after it last updated the header, are left out without a word.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from speechssl.audio.behind import Behind, Recording, behind, find_recording
from speechssl.audio.tags import tags_start

_LONGEST = 1 << 16  # bytes of a frame, in practice at most
_TAIL = 2 * _LONGEST  # bytes; the last frame starts in here
_BLOCK_SIZES = {1: 192, 2: 576, 3: 1152, 4: 2304, 5: 4608} | {code: 256 << code - 8 for code in range(8, 16)}


@dataclass(frozen=True)
class FlacFrames:
    """What the bytes of a FLAC file tell.

    Attributes:
        joined: another recording in it; None when there is none.
        beyond: samples up to the end of a frame that ends behind the length of the header; None when none does.
        behind: what is behind the last frame and no tag, when it is no known recording.
    """

    joined: Recording | None
    beyond: int | None = None
    behind: Behind | None = None


@functools.lru_cache(maxsize=256)
def flac_frames(path: str | Path, size: int, changed: int, num_samples: int) -> FlacFrames:  # noqa: ARG001 (cache's key)
    """Looks for another recording in the whole file, and for frames behind the length of the header at its end.

    Args:
        path: the file.
        size: its length, bytes.
        changed: its time of modification.
        num_samples: the length of the header, samples; 0 where it leaves the length out.
    """
    with Path(path).open("rb") as file:
        start, fixed = _first_frame(file)
        recording = find_recording(file, start, size)
        if recording is not None:
            return FlacFrames(recording)
        end = tags_start(file, start, size)
        first = max(start, end - _TAIL)
        tail = _read(file, first, end - first)
        headers = list(_headers(tail, fixed))
        starts = [place for place, _ in headers]
        beyond = [last for place, last in headers if last > num_samples and _is_frame(tail, place, starts)]
        if beyond or not num_samples:
            return FlacFrames(None, max(beyond, default=None))
        places = _frames_ending_at(file, start, end, fixed=fixed, num_samples=num_samples)
        found = _behind_last_frame(file, places, size)
    recording = found.recording if found else None
    return FlacFrames(recording, None, None if recording else found)


def _is_frame(tail: bytes, place: int, starts: list[int]) -> bool:
    """Whether a header begins a whole frame: samples may look like a header, the checksum of a frame is safe."""
    following = [start for start in starts if start > place][:4]
    return any(_crc16(tail[place:end]) == 0 for end in (*following, len(tail)) if end > place)


def _behind_last_frame(file: BinaryIO, places: Iterator[int], size: int) -> Behind | None:
    """What is behind the last frame, which starts at one of the places; None where it is not whole."""
    first = None
    for place in places:
        for length in _checked_lengths(_read(file, place, _LONGEST)):
            found = behind(file, place + length, size, search=False)
            if found is None or found.recording is not None:
                return found
            first = first or found
    return first


def _frames_ending_at(file: BinaryIO, start: int, end: int, *, fixed: int, num_samples: int) -> Iterator[int]:
    """Where frames start that end with this sample, from the end of the file towards its start."""
    last = end
    while last > start:
        first = max(start, last - _TAIL)
        beyond = 16  # bytes; a header at the border is whole in one of the two parts
        content = _read(file, first, min(end, last + beyond) - first).ljust(last + beyond - first, b"\0")
        for place, ends in reversed(list(_headers(content, fixed))):
            if ends == num_samples:
                yield first + place
        last = first


def _checked_lengths(content: bytes) -> list[int]:
    """After how many bytes the checksum of a frame is right: at its end, and now and then by chance."""
    value, lengths = 0, []
    for length, byte in enumerate(content, start=1):
        value = (value << 8 & 0xFF00) ^ _CRC16[value >> 8 ^ byte]
        if not value and length > 8:
            lengths.append(length)
    return lengths


def _read(file: BinaryIO, position: int, count: int) -> bytes:
    file.seek(position)
    return file.read(max(0, count))


def _first_frame(file: BinaryIO) -> tuple[int, int]:
    """Where the first frame starts, behind the blocks of metadata; samples per frame, which frames are numbered by."""
    place = max(0, _read(file, 0, 1 << 20).find(b"fLaC"))  # behind a tag
    fixed = int.from_bytes(_read(file, place + 8, 2), "big")
    position = place + 4
    while len(head := _read(file, position, 4)) == 4:
        position += 4 + int.from_bytes(head[1:], "big")
        if head[0] & 0x80:
            break
    return position, fixed


def _headers(tail: bytes, fixed: int) -> Iterator[tuple[int, int]]:
    """Place of each header in the bytes that has the right checksum, and the samples up to the end of its frame."""
    place = tail.find(b"\xff")
    while 0 <= place < len(tail) - 16:
        if tail[place + 1] & 0xFE == 0xF8:
            end = _frame_end(tail[place : place + 16], fixed)
            if end is not None:
                yield place, end
        place = tail.find(b"\xff", place + 1)


def _frame_end(header: bytes, fixed: int) -> int | None:
    """Samples up to the end of the frame with this header; None when it is none."""
    numbered, length = _utf8_number(header[4:])
    if numbered is None:
        return None
    code, extra = header[2] >> 4, {6: 1, 7: 2}.get(header[2] >> 4, 0)
    rate_extra = {12: 1, 13: 2, 14: 2}.get(header[2] & 15, 0)
    end = 4 + length + extra + rate_extra
    if not code or header[2] & 15 == 15 or end >= len(header) or _crc8(header[:end]) != header[end]:
        return None
    samples = int.from_bytes(header[4 + length : 4 + length + extra], "big") + 1 if extra else _BLOCK_SIZES[code]
    return numbered + samples if header[1] & 1 else numbered * fixed + samples


def _utf8_number(content: bytes) -> tuple[int | None, int]:
    """A number coded like a character of UTF-8, of up to 36 bits, and its length in bytes."""
    first = content[0]
    if first < 0x80:
        return first, 1
    length = 8 - (first ^ 0xFF).bit_length()
    if not 2 <= length <= 7 or any(byte & 0xC0 != 0x80 for byte in content[1:length]):
        return None, 0
    number = first & (0x7F >> length)
    for byte in content[1:length]:
        number = number << 6 | byte & 0x3F
    return number, length


def _crc8(content: bytes) -> int:
    """The checksum of frame headers, polynomial x^8 + x^2 + x + 1.

    >>> _crc8(b"123456789") == 0xF4
    True
    """
    value = 0
    for byte in content:
        value ^= byte
        for _ in range(8):
            value = (value << 1 ^ 0x07 if value & 0x80 else value << 1) & 0xFF
    return value


def _crc16(content: bytes) -> int:
    """The checksum of frames, polynomial x^16 + x^15 + x^2 + 1; with its two bytes behind them it is 0.

    >>> _crc16(b"123456789") == 0xFEE8
    True
    """
    value = 0
    for byte in content:
        value = (value << 8 & 0xFF00) ^ _CRC16[value >> 8 ^ byte]
    return value


def _crc16_of(byte: int) -> int:
    value = byte << 8
    for _ in range(8):
        value = (value << 1 ^ 0x8005 if value & 0x8000 else value << 1) & 0xFFFF
    return value


_CRC16 = [_crc16_of(byte) for byte in range(256)]
