"""Frames of a FLAC file (RFC 9639), compared with its header.

libsndfile stops at the length of the header: a second recording behind the first, or samples that a recorder wrote
after it last updated the header, are left out without an error. It compares neither the numbers of frames nor the MD5
of the samples: frames that are lost, repeated or of another recording are decoded as if they followed each other.
"""

import functools
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Float32

from speechssl.audio.behind import Behind, Recording, behind, find_recording
from speechssl.audio.tags import tags_start

_LONGEST = 1 << 16  # bytes of a frame, in practice at most
_TAIL = 2 * _LONGEST  # bytes; the last frame starts in here
_BLOCK = 1 << 20  # bytes of the walk over all frames that are in memory at once
_HEADER = 16  # bytes of the longest header
_SYNC = re.compile(rb"\xff[\xf8\xf9]")
_BLOCK_SIZES = {1: 192, 2: 576, 3: 1152, 4: 2304, 5: 4608} | {code: 256 << code - 8 for code in range(8, 16)}


@dataclass(frozen=True)
class FlacFrames:
    """Findings in the frames of a FLAC file.

    Attributes:
        joined: another recording in it; None when there is none.
        beyond: samples up to the end of a frame that ends behind the length of the header; None when none does.
        behind: data behind the last frame that are neither tags nor a known recording.
        gap: the first frame that does not follow the one before it; None when all do.
        cut: whether the file ends in the middle of a frame, where the header leaves out the length.
    """

    joined: Recording | None
    beyond: int | None = None
    behind: Behind | None = None
    gap: "Gap | None" = None
    cut: bool = False


@dataclass(frozen=True)
class Gap:
    """A frame whose number does not follow that of the frame before.

    Attributes:
        at: where it starts, bytes.
        expected: samples before it, counted over the frames before, per channel.
        found: samples before it according to its own number.
    """

    at: int
    expected: int
    found: int


@dataclass(frozen=True)
class _Stream:
    """Fields of the header, and where the first frame starts.

    Attributes:
        start: of the first frame, bytes.
        fixed: samples per frame, which frames are numbered by.
        constant: whether all frames but the last have this number of samples.
        bits: per sample.
        md5: of all samples; zeros where the encoder left it out.
    """

    start: int
    fixed: int
    constant: bool
    bits: int
    md5: bytes


class SampleSum:
    """The MD5 of decoded samples, to be compared with the one in the header of a FLAC file.

    Args:
        path: the file.
    """

    def __init__(self, path: str | Path) -> None:
        with Path(path).open("rb") as file:
            stream = _stream(file)
        self._bits = stream.bits if any(stream.md5) and stream.bits in (8, 16, 24) else 0  # float32 holds 24 bits
        self._expected, self._sum = stream.md5, hashlib.md5(usedforsecurity=False)

    def add(self, block: Float32[np.ndarray, "samples channels"]) -> None:
        """Adds the next samples, full scale 1.0."""
        if self._bits:
            whole = np.rint(block * np.float32(1 << (self._bits - 1))).astype("<i4", order="C")
            width = self._bits // 8
            self._sum.update(whole.view(np.uint8).reshape(-1, 4)[:, :width].tobytes())

    @property
    def differs(self) -> bool:
        """Whether the samples differ from those that were encoded; all must have been added."""
        return self._bits > 0 and self._sum.digest() != self._expected


@functools.lru_cache(maxsize=256)
def flac_frames(path: str | Path, size: int, changed: int, num_samples: int) -> FlacFrames:  # noqa: ARG001 (cache's key)
    """Searches the whole file for another recording, and its end for frames beyond the length in the header.

    Args:
        path: the file.
        size: its length, bytes.
        changed: another number for each state of the file.
        num_samples: the length of the header, samples; 0 where it leaves the length out.
    """
    with Path(path).open("rb") as file:
        stream = _stream(file)
        start, fixed = stream.start, stream.fixed
        recording = find_recording(file, start, size)
        if recording is not None:
            return FlacFrames(recording)
        end = tags_start(file, start, size)
        gap = _first_gap(file, stream, end)
        if gap is not None:
            return FlacFrames(None, gap=gap)
        first = max(start, end - _TAIL)
        tail = _read(file, first, end - first)
        headers = list(_headers(tail, fixed))
        starts = [place for place, _ in headers]
        beyond = [span.stop for place, span in headers if span.stop > num_samples and _is_frame(tail, place, starts)]
        if beyond or not num_samples:
            last = max(beyond, default=None)
            cut = not num_samples and any(span.start == (last or 0) for _, span in headers)
            return FlacFrames(None, last, cut=cut)
        places = _frames_ending_at(file, start, end, fixed=fixed, num_samples=num_samples)
        found = _behind_last_frame(file, places, size)
    recording = found.recording if found else None
    return FlacFrames(recording, None, None if recording else found)


def _first_gap(file: BinaryIO, stream: _Stream, end: int) -> Gap | None:
    """The first frame that does not follow the one before it.

    Samples may look like a header with another number: it counts only where the checksum of its frame is right.
    """
    position, expected = stream.start, 0
    while position < end:
        content = _read(file, position, min(_BLOCK, end - position))
        for place, span in _headers(content, stream.fixed):
            at = position + place
            if not (stream.constant or content[place + 1] & 1):  # numbered as encoders did before version 1.2
                return None
            if span.start == expected:
                expected = span.stop
            elif _is_frame_at(file, at, end, stream.fixed):
                return Gap(at, expected, span.start)
        position += max(1, len(content) - _HEADER)
    return None


def _is_frame_at(file: BinaryIO, at: int, end: int, fixed: int) -> bool:
    content = _read(file, at, min(_LONGEST, end - at))
    return _is_frame(content, 0, [place for place, _ in _headers(content, fixed)])


def _is_frame(tail: bytes, place: int, starts: list[int]) -> bool:
    """Whether a header begins a whole frame, by the checksum of the frame: samples may look like a header."""
    following = [start for start in starts if start > place][:4]
    return any(_crc16(tail[place:end]) == 0 for end in (*following, len(tail)) if end > place)


def _behind_last_frame(file: BinaryIO, places: Iterator[int], size: int) -> Behind | None:
    """Data behind the last frame, which starts at one of the places; None where it is not whole."""
    first = None
    for place in places:
        for length in _checked_lengths(_read(file, place, _LONGEST)):
            found = behind(file, place + length, size, search=False)
            if found is None or found.recording is not None:
                return found
            first = first or found
    return first


def _frames_ending_at(file: BinaryIO, start: int, end: int, *, fixed: int, num_samples: int) -> Iterator[int]:
    """Starts of frames that end with this sample, from the end of the file towards its start."""
    last = end
    while last > start:
        first = max(start, last - _TAIL)
        beyond = 16  # bytes; a header at the border is whole in one of the two parts
        content = _read(file, first, min(end, last + beyond) - first).ljust(last + beyond - first, b"\0")
        for place, span in reversed(list(_headers(content, fixed))):
            if span.stop == num_samples:
                yield first + place
        last = first


def _checked_lengths(content: bytes) -> list[int]:
    """Lengths, bytes, after which the checksum of a frame is right: at its end, and sometimes by chance."""
    value, lengths = 0, []
    for length, byte in enumerate(content, start=1):
        value = (value << 8 & 0xFF00) ^ _CRC16[value >> 8 ^ byte]
        if not value and length > 8:
            lengths.append(length)
    return lengths


def _read(file: BinaryIO, position: int, count: int) -> bytes:
    file.seek(position)
    return file.read(max(0, count))


def _stream(file: BinaryIO) -> _Stream:
    """The header, and where the first frame starts behind the blocks of metadata."""
    place = max(0, _read(file, 0, 1 << 20).find(b"fLaC"))  # behind a tag
    info = _read(file, place + 8, 34).ljust(34, b"\0")
    fixed, largest = int.from_bytes(info[:2], "big"), int.from_bytes(info[2:4], "big")
    bits = (int.from_bytes(info[12:14], "big") >> 4 & 31) + 1
    position = place + 4
    while len(head := _read(file, position, 4)) == 4:
        position += 4 + int.from_bytes(head[1:], "big")
        if head[0] & 0x80:
            break
    return _Stream(position, fixed, fixed == largest, bits, info[18:])


def _headers(content: bytes, fixed: int) -> Iterator[tuple[int, range]]:
    """Place of each header with the right checksum, and the samples of its frame."""
    for match in _SYNC.finditer(content, 0, max(0, len(content) - _HEADER + 1)):
        place = match.start()
        if place < len(content) - _HEADER:
            span = _frame(content[place : place + _HEADER], fixed)
            if span is not None:
                yield place, span


def _frame(header: bytes, fixed: int) -> range | None:
    """The samples of the frame with this header; None when it is none."""
    numbered, length = _utf8_number(header[4:])
    if numbered is None:
        return None
    code, extra = header[2] >> 4, {6: 1, 7: 2}.get(header[2] >> 4, 0)
    rate_extra = {12: 1, 13: 2, 14: 2}.get(header[2] & 15, 0)
    end = 4 + length + extra + rate_extra
    if not code or header[2] & 15 == 15 or end >= len(header) or _crc8(header[:end]) != header[end]:
        return None
    samples = int.from_bytes(header[4 + length : 4 + length + extra], "big") + 1 if extra else _BLOCK_SIZES[code]
    first = numbered if header[1] & 1 else numbered * fixed
    return range(first, first + samples)


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
