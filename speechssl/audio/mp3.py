"""Frames of MPEG audio (ISO 11172-3 and 13818-3), compared with the length headers of Xing, LAME and Fraunhofer.

libsndfile takes the length from such a header and ignores all frames behind it; without one it guesses from the file
size and the first frames: too long with a large tag in front, and far too short with a variable bit rate. So every
frame is counted.
"""

import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from speechssl.audio.behind import Behind, behind, find_recording, recording_at, skip_harmless
from speechssl.audio.mpeg import MpegFrame, parse_mpeg
from speechssl.audio.tags import id3_length

_RUN = 4  # frames of another kind in a row; fewer may be a coincidence
_WINDOW = 1 << 20  # bytes in memory at once


@dataclass(frozen=True)
class Mp3Frames:
    """A walk over all frames.

    Attributes:
        rate: samples per second of each channel, Hz.
        per_frame: samples per channel in a frame.
        frames: number of whole frames, without the one that holds a length header.
        promised: frames by the length header; None where there is none, or it gives no number.
        length_header: whether there is a length header.
        changes: the frame at which rate, number of channels or layer change; None when they do not.
        changes_at: where that frame starts, bytes.
        behind: data behind the last frame that are no tag.
        cut: whether the file ends in the middle of a frame.
        gaps: starts of bytes between frames that belong to none and are no tag.
    """

    rate: int
    per_frame: int
    frames: int
    promised: int | None
    length_header: bool
    changes: int | None
    changes_at: int | None
    behind: Behind | None
    cut: bool = False
    gaps: tuple[int, ...] = ()

    @property
    def num_samples(self) -> int:
        """Samples per channel in all frames."""
        return self.frames * self.per_frame


@functools.lru_cache(maxsize=256)
def mp3_frames(path: str | Path, size: int, changed: int) -> Mp3Frames | None:  # noqa: ARG001 (part of the cache's key)
    """Walks from frame to frame, in bounded memory; the result is cached for the utterances of one long file.

    Args:
        path: the file.
        size: its length, bytes.
        changed: another number for each state of the file.

    Returns:
        The counts; None when no frame is found.
    """
    with Path(path).open("rb") as file:
        window = _Window(file)
        position = _next_frame(window, 0, None)
        if position is None:
            return None
        first = parse_mpeg(window.at(position, 4))
        assert first is not None
        content = window.at(position, first.length)
        promised, length_header = _length_header(content)
        start = position + first.length if length_header else position
        count = _count(window, start, first, size)
        found = behind(file, count.end, size)
        last = parse_mpeg(window.at(count.end, 4))
        cut = last is not None and last.like(first) and count.end + last.length > size
    changes = count.changes, count.changes_at
    return Mp3Frames(
        first.rate, first.samples, count.frames, promised, length_header, *changes, found, cut, tuple(count.gaps)
    )


class _Window:
    """Random access to a file that is read mostly forwards, with a bounded part of it in memory."""

    def __init__(self, file: BinaryIO):
        self.file, self.start, self.content = file, 0, file.read(_WINDOW)

    def move(self, position: int) -> None:
        """Makes the window start here."""
        self.file.seek(position)
        self.start, self.content = position, self.file.read(_WINDOW)

    def at(self, position: int, count: int) -> bytes:
        """Up to a number of bytes; fewer at the end of the file."""
        if not self.start <= position or position + count > self.start + len(self.content):
            self.move(position)
        place = position - self.start
        return self.content[place : place + count]

    def find(self, mark: bytes, position: int) -> int | None:
        """Position of the next such byte."""
        while True:
            self.at(position, 1)
            place = self.content.find(mark, position - self.start)
            if place >= 0:
                return self.start + place
            position = self.start + len(self.content)
            if not self.at(position, 1):
                return None


@dataclass
class _Count:
    """Whole frames up to some position.

    Attributes:
        end: that position, bytes.
        frames: the number of them.
        changes: the first of them of another kind.
        changes_at: where that one starts, bytes.
        gaps: starts of bytes that belong to no frame.
    """

    end: int
    frames: int = 0
    changes: int | None = None
    changes_at: int | None = None
    gaps: list[int] = field(default_factory=list[int])


def _count(window: _Window, position: int, first: MpegFrame, size: int) -> _Count:
    """Whole frames from a position to the end, or to a recording of another container."""
    count = _Count(position)
    while True:
        window.move(count.end)
        begin, content = count.end, window.content
        place, stop, damaged = 0, len(content) - 4, False
        while place <= stop:
            frame = parse_mpeg(content[place : place + 4])
            if frame is None:
                damaged = True
                break
            if place + frame.length > len(content):
                break
            if count.changes is None and not frame.like(first):
                count.changes, count.changes_at = count.frames, begin + place
            count.frames += 1
            place += frame.length
        count.end = begin + place
        if damaged:  # or a tag
            following = _next_behind(window, count.end, first, size)
            if following is None:
                return count
            if skip_harmless(window.file, count.end, following) < following:
                count.gaps.append(count.end)
            count.end = following
        elif len(content) < _WINDOW:
            return count


def _next_behind(window: _Window, position: int, first: MpegFrame, size: int) -> int | None:
    """Where the frames continue behind a tag or damage; None where they do not, or after another recording."""
    harmless = skip_harmless(window.file, position, size)
    following = _next_frame(window, harmless, first)
    if following is None:
        return None
    other = recording_at(window.file, harmless) if harmless < following else None
    return None if other or find_recording(window.file, harmless, following) else following


def _next_frame(window: _Window, position: int, like: MpegFrame | None) -> int | None:
    """Where the next frame starts, behind tags or damage: one that is followed by another or by the end of the file.

    A frame of another kind counts only if several of its kind follow it.
    """
    while True:
        if (tag := id3_length(window.at(position, 10))) is not None:
            position += tag
            continue
        found = window.find(b"\xff", position)
        if found is None:
            return None
        tag = window.at(position, min(found - position, _WINDOW)).find(b"ID3")
        if tag > 0:
            position += tag
            continue
        frame = parse_mpeg(window.at(found, 4))
        if frame is not None and _is_run(window, found, frame, 2 if like is None or frame.like(like) else _RUN):
            return found
        position = found + 1


def _is_run(window: _Window, position: int, frame: MpegFrame, count: int) -> bool:
    """Whether a number of frames of one kind follow each other from here."""
    for _ in range(count - 1):
        position += frame.length
        following = parse_mpeg(window.at(position, 4))
        if following is None or not following.like(frame):
            return False
        frame = following
    return True


def _length_header(frame: bytes) -> tuple[int | None, bool]:
    """Number of frames by the header of Xing, LAME ("Info") or Fraunhofer in the first frame; whether there is one."""
    for mark in (b"Xing", b"Info"):
        place = frame.find(mark, 0, 64)
        if place >= 0:
            counted = frame[place + 7 : place + 8] and frame[place + 7] & 1
            return (int.from_bytes(frame[place + 8 : place + 12], "big") if counted else None), True
    place = frame.find(b"VBRI", 0, 64)
    if place >= 0:
        return int.from_bytes(frame[place + 14 : place + 18], "big"), True
    return None, False
