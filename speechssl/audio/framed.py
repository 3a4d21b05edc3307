"""Compressed audio without a container: frames that follow each other by their lengths.

MPEG audio (ISO 11172-3 and 13818-3), AAC in ADTS (ISO 13818-7), Dolby Digital (ETSI TS 102 366).
"""

from dataclasses import dataclass
from typing import BinaryIO

from speechssl.audio.mpeg import parse_mpeg

LINKED = 4  # frames of one kind that follow each other; fewer may be a coincidence
HEAD = 7  # bytes of the longest header that `frame_at` reads
_DOLBY_RATES = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 576, 640)  # kbit/s
_DOLBY_SAMPLES = 1536  # per frame


@dataclass(frozen=True)
class Frame:
    """Fields of the header of a frame.

    Attributes:
        name: of the coding.
        suffix: of files of such frames.
        length: of the whole frame, bytes.
        constant: fields that are equal in all frames of one recording.
    """

    name: str
    suffix: str
    length: int
    constant: tuple[int, ...]

    def like(self, other: "Frame") -> bool:
        """Whether both may be from one recording."""
        return (self.name, self.constant) == (other.name, other.constant)


def frame_at(head: bytes) -> Frame | None:
    """The frame that starts with these bytes; None where none does.

    >>> frame_at(bytes([0x0B, 0x77, 0, 0, 0x14, 0, 0]))
    Frame(name='Dolby Digital (AC-3)', suffix='.ac3', length=768, constant=(0,))
    """
    mpeg = parse_mpeg(head[:4])
    if mpeg is not None:
        constant = (mpeg.rate, mpeg.mono, mpeg.layer)
        return Frame("MPEG audio", f".mp{mpeg.layer}", mpeg.length, constant)
    if len(head) < HEAD:
        return None
    if head[0] == 0xFF and head[1] & 0xF6 == 0xF0 and head[2] >> 2 & 15 < 13:
        length = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
        return Frame("AAC", ".aac", length, (head[1], head[2], head[3] & 0xF0)) if length > HEAD else None
    if head[:2] == b"\x0b\x77" and head[4] >> 6 < 3 and (head[4] & 63) // 2 < len(_DOLBY_RATES):
        place, code = head[4] >> 6, head[4] & 63
        words = _DOLBY_RATES[code // 2] * 1000 * _DOLBY_SAMPLES // (48000, 44100, 32000)[place] // 16
        return Frame("Dolby Digital (AC-3)", ".ac3", 2 * (words + (code & 1 if place == 1 else 0)), (place,))
    return None


def linked(file: BinaryIO, position: int, *, count: int = LINKED) -> Frame | None:
    """The first of a number of frames of one kind that follow each other from here; None where they do not."""
    first = None
    for _ in range(count):
        file.seek(position)
        frame = frame_at(file.read(HEAD))
        if frame is None or not (first is None or frame.like(first)):
            return None
        first, position = first or frame, position + frame.length
    return first
