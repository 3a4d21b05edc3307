"""Length of a FLAC file by its frames (RFC 9639), compared with the one in its header.

libsndfile stops at the length of the header: a second recording behind the first, or samples that a recorder wrote
after it last updated the header, are left out without a word.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_TAIL = 1 << 17  # bytes; a frame is at most 64 KB in practice, so the last one starts in here
_TAG = 128  # bytes of an ID3 tag, version 1, that some programs write behind everything
_BLOCK = 1 << 20  # bytes read at once
_BLOCK_SIZES = {1: 192, 2: 576, 3: 1152, 4: 2304, 5: 4608} | {code: 256 << code - 8 for code in range(8, 16)}


@dataclass(frozen=True)
class FlacFrames:
    """What the bytes of a FLAC file tell.

    Attributes:
        joined: where another FLAC file starts in it, bytes; None when none does.
        beyond: samples up to the end of a frame that lies behind the length of the header; None when none does.
    """

    joined: int | None
    beyond: int | None


@functools.lru_cache(maxsize=256)
def flac_frames(path: str | Path, size: int, changed: int, num_samples: int) -> FlacFrames:  # noqa: ARG001 (cache's key)
    """Looks for a second header in the whole file, and for frames behind the length of the header at its end.

    Args:
        path: the file.
        size: its length, bytes.
        changed: its time of modification.
        num_samples: the length of the header, samples.
    """
    joined = None
    for mark in (b"fLaC\x00\x00\x00\x22", b"fLaC\x80\x00\x00\x22"):
        joined = joined or _find(Path(path), mark)
    with Path(path).open("rb") as file:
        file.seek(max(0, size - _TAIL))
        tail = file.read()
    headers = list(_headers(tail, _fixed_block_size(path)))
    starts = [place for place, _ in headers]
    beyond = [end for place, end in headers if end > num_samples and _is_frame(tail, place, starts)]
    return FlacFrames(joined, max(beyond, default=None))


def _is_frame(tail: bytes, place: int, starts: list[int]) -> bool:
    """Whether a header begins a whole frame: samples may look like a header, the checksum of a frame is safe."""
    following = [start for start in starts if start > place][:4]
    return any(_crc16(tail[place:end]) == 0 for end in (*following, len(tail), len(tail) - _TAG) if end > place)


def _find(path: Path, mark: bytes) -> int | None:
    """The second place of a mark, the first being at the head of the file."""
    position, before = 0, b""
    with path.open("rb") as file:
        first = True
        while block := file.read(_BLOCK):
            content = before + block
            place = content.find(mark)
            while place >= 0:
                if not first:
                    return position - len(before) + place
                first = False
                place = content.find(mark, place + 1)
            position += len(block)
            before = content[-len(mark) + 1 :]
    return None


def _fixed_block_size(path: str | Path) -> int:
    """Samples per frame by the header, which numbers of frames are multiplied by."""
    with Path(path).open("rb") as file:
        head = file.read(1 << 16)
    place = head.find(b"fLaC")
    return int.from_bytes(head[place + 8 : place + 10], "big") if place >= 0 else 0


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
        value ^= byte << 8
        for _ in range(8):
            value = (value << 1 ^ 0x8005 if value & 0x8000 else value << 1) & 0xFFFF
    return value
