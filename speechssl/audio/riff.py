"""Lengths in headers of uncompressed files, compared with what the files hold.

libsndfile opens most files that are cut short as if the rest had never been. Layouts: RIFF (Microsoft and IBM, 1991),
RF64 (EBU Tech 3306), AIFF (Apple, 1989), Sun au, NIST SPHERE.
"""

import re
import struct
from typing import BinaryIO

_SLOPPY = 44  # bytes; some writers count the wav header among the samples, and nothing is missing then
_STREAMED = (0xFFFFFFFF, 0x7FFFF000, 0x80000000)  # data lengths that ffmpeg, sox and espeak, arecord write to a pipe
_ABSURD = 0x7FFF0000  # bytes; from here on a length far beyond the file is no recording that was cut short


def broken_promise(file: BinaryIO, head: bytes, size: int) -> str | None:
    """The reason when a header promises more bytes than the file holds; None when it does not or cannot be told.

    Args:
        file: the file, opened for reading bytes.
        head: its first bytes.
        size: its length, bytes.
    """
    if head[:4] in (b"RIFF", b"RIFX") and head[8:12] == b"WAVE":
        return _wav_promise(file, size, "<" if head[:4] == b"RIFF" else ">")
    promised = _promised_size(head)
    if promised is None or promised <= size + _SLOPPY:
        return None
    return f"truncated: the header promises a file of {promised} bytes, it has {size}"


def _promised_size(head: bytes) -> int | None:
    """Length of the whole file by the headers that say so at a fixed place, bytes."""
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return 8 + struct.unpack(">I", head[4:8])[0]
    if head[:4] == b"RF64" and head[12:16] == b"ds64" and len(head) >= 28:
        return 8 + struct.unpack("<Q", head[20:28])[0]
    if head[:8] == b"riff\x2e\x91\xcf\x11" and len(head) >= 24:  # Sony Wave64
        return struct.unpack("<Q", head[16:24])[0]
    if head[:4] == b".snd" and len(head) >= 12:
        start, length = struct.unpack(">II", head[4:12])
        return None if length == 0xFFFFFFFF else start + length
    if head[:16] == b"NIST_1A\n   1024\n":
        fields = dict(re.findall(rb"(sample_count|sample_n_bytes|channel_count) -i (\d+)", head))
        if len(fields) == 3 and b"-ilbc" not in head and b"shorten" not in head:
            size = int(fields[b"sample_count"]) * int(fields[b"sample_n_bytes"]) * int(fields[b"channel_count"])
            return 1024 + size
    return None


def _wav_promise(file: BinaryIO, size: int, order: str) -> str | None:
    """Walks the chunks to the samples and compares their promised length with what follows."""
    file.seek(4)
    riff = struct.unpack(order + "I", file.read(4))[0]
    position = 12
    while position + 8 <= size:
        file.seek(position)
        name, length = struct.unpack(order + "4sI", file.read(8))
        position += 8
        if name == b"data":
            return _data_promise(riff, length, position, size)
        position += length + length % 2
    return None


def _data_promise(riff: int, length: int, start: int, size: int) -> str | None:
    """Programs that write to a pipe cannot go back to fill in the two lengths; what they leave there is fine."""
    held = size - start
    if length == 0 and held > _SLOPPY and riff < start:
        return f"an unfinished recording: the header counts no samples, {held} bytes follow it; repair it with ffmpeg"
    streamed = length in _STREAMED and (riff == length or length < riff < length + 4096)
    if streamed or length <= held + (_SLOPPY if held else 0):
        return None
    if length >= _ABSURD and length > 16 * held:
        return f"an absurd length in the header: {length} bytes of samples, the file holds {held}"
    return f"truncated: the header promises {length} bytes of samples, the file holds {held}"
