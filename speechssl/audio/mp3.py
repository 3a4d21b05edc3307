"""Frames of MPEG audio (ISO 11172-3 and 13818-3), compared with the length headers of Xing, LAME and Fraunhofer.

libsndfile takes the length from such a header, and what is behind so many frames is left out; without one it guesses
from the file size and the first frames: too long with a large tag in front, and far too short with a variable bit rate.
So every frame is counted.
"""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

# kbit/s by the four bits of the header, 0 and 15 give no length: MPEG-1 layers I, II, III, and MPEG-2 layers I, II/III.
_RATES = {
    (1, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448, 0),
    (1, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 0),
    (1, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0),
    (2, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256, 0),
    (2, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0),
}
_WINDOW = 1 << 20  # bytes in memory at once


@dataclass(frozen=True)
class Mp3Frames:
    """A walk over all frames.

    Attributes:
        rate: samples per second of each channel, Hz.
        per_frame: samples per channel in a frame.
        frames: that are whole, without the one that holds a length header.
        promised: frames by the length header; None where there is none, or it does not say.
        length_header: whether there is a length header.
        changes: the frame at which rate or number of channels change; None when they do not.
    """

    rate: int
    per_frame: int
    frames: int
    promised: int | None
    length_header: bool
    changes: int | None

    @property
    def num_samples(self) -> int:
        """Samples per channel in all frames."""
        return self.frames * self.per_frame


@dataclass(frozen=True)
class _Frame:
    """What the four bytes of a frame's header say."""

    length: int  # bytes
    samples: int  # per channel
    rate: int  # Hz
    mono: bool


@functools.lru_cache(maxsize=256)
def mp3_frames(path: str | Path, size: int, changed: int) -> Mp3Frames | None:  # noqa: ARG001 (part of the cache's key)
    """Walks from frame to frame, in bounded memory; the many utterances of one long file read it once.

    Args:
        path: the file.
        size: its length, bytes.
        changed: its time of modification.

    Returns:
        The counts; None when no frame is found.
    """
    with Path(path).open("rb") as file:
        window = _Window(file)
        position = _next_frame(window, 0, None)
        if position is None:
            return None
        first = _parse(window.at(position, 4))
        assert first is not None
        content = window.at(position, first.length)
        promised, length_header = _length_header(content)
        start = position + first.length if length_header else position
        frames, changes = _count(window, start, first)
    return Mp3Frames(first.rate, first.samples, frames, promised, length_header, changes)


class _Window:
    """Random access to a file that is read mostly forwards, with a bounded part of it in memory."""

    def __init__(self, file: BinaryIO):
        self._file, self.start, self.content = file, 0, file.read(_WINDOW)

    def move(self, position: int) -> None:
        """Make the window start here."""
        self._file.seek(position)
        self.start, self.content = position, self._file.read(_WINDOW)

    def at(self, position: int, count: int) -> bytes:
        """Up to so many bytes, fewer at the end of the file."""
        if not self.start <= position or position + count > self.start + len(self.content):
            self.move(position)
        place = position - self.start
        return self.content[place : place + count]

    def find(self, mark: bytes, position: int) -> int | None:
        """Where a byte comes next."""
        while True:
            self.at(position, 1)
            place = self.content.find(mark, position - self.start)
            if place >= 0:
                return self.start + place
            position = self.start + len(self.content)
            if not self.at(position, 1):
                return None


def _count(window: _Window, position: int, first: _Frame) -> tuple[int, int | None]:
    """Whole frames from a position to the end, and the first of them of another rate or number of channels."""
    frames, changes = 0, None
    while True:
        window.move(position)
        content, at_end = window.content, len(window.content) < _WINDOW
        place, stop = 0, len(content) - 4
        damaged = False
        while place <= stop:
            frame = _parse(content[place : place + 4])
            if frame is None:
                damaged = True
                break
            if place + frame.length > len(content):
                break
            if changes is None and (frame.rate != first.rate or frame.mono != first.mono):
                changes = frames
            frames += 1
            place += frame.length
        if damaged:  # or a tag
            following = _next_frame(window, position + place, first)
            if following is None:
                return frames, changes
            position = following
        elif at_end:
            return frames, changes
        else:
            position += place


def _next_frame(window: _Window, position: int, like: _Frame | None) -> int | None:
    """Where the next frame starts, behind tags or damage: one that is followed by another or by the end of the file."""
    while True:
        head = window.at(position, 10)
        if head[:3] == b"ID3" and len(head) == 10 and max(head[6:10]) < 0x80:
            high, third, second, low = head[6:10]
            position += 10 + (high << 21 | third << 14 | second << 7 | low)
            continue
        found = window.find(b"\xff", position)
        if found is None:
            return None
        tag = window.at(position, min(found - position, _WINDOW)).find(b"ID3")
        if tag > 0:
            position += tag
            continue
        frame = _parse(window.at(found, 4))
        if frame is not None:
            behind = window.at(found + frame.length, 4)
            following = _parse(behind)
            alike = like is None or frame.samples == like.samples
            if following is not None and following.rate == frame.rate and alike:
                return found
        position = found + 1


@functools.lru_cache(maxsize=4096)
def _parse(header: bytes) -> _Frame | None:
    """The frame with this header; None when it is none."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:  # 11 sync bits
        return None
    version, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)  # version 3: MPEG-1, 2: MPEG-2, 0: MPEG-2.5
    place = header[2] >> 2 & 3
    if version == 1 or layer == 4 or place == 3:
        return None
    first = version == 3
    kilobits = _RATES[(1, layer) if first else (2, min(layer, 2))][header[2] >> 4]
    if not kilobits:
        return None
    rate = (44100, 48000, 32000)[place] // {3: 1, 2: 2, 0: 4}[version]
    padding = header[2] >> 1 & 1
    mono = header[3] >> 6 == 3
    if layer == 1:
        return _Frame((12 * kilobits * 1000 // rate + padding) * 4, 384, rate, mono)
    samples = 576 if layer == 3 and not first else 1152
    return _Frame(samples // 8 * kilobits * 1000 // rate + padding, samples, rate, mono)


def _length_header(frame: bytes) -> tuple[int | None, bool]:
    """The number of frames by the header of Xing, LAME ("Info") or Fraunhofer in the first frame; whether it is one."""
    for mark in (b"Xing", b"Info"):
        place = frame.find(mark, 0, 64)
        if place >= 0:
            counted = frame[place + 7 : place + 8] and frame[place + 7] & 1
            return (int.from_bytes(frame[place + 8 : place + 12], "big") if counted else None), True
    place = frame.find(b"VBRI", 0, 64)
    if place >= 0:
        return int.from_bytes(frame[place + 14 : place + 18], "big"), True
    return None, False
