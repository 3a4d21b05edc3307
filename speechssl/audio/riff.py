"""Lengths in the headers of uncompressed files, compared with what the files hold.

libsndfile opens most files that are cut short as if the rest had never been, stops where a header that counts too
little says so, and reads the header of a second recording as samples. So the chunks are walked to the end of the file.
Layouts: RIFF (Microsoft and IBM, 1991), RF64 (EBU Tech 3306), Sony Wave64, AIFF (Apple, 1989), CAF (Apple, 2005),
Sun au, NIST SPHERE.
"""

import functools
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_SLOPPY = 44  # bytes; some writers count the wav header among the samples, and nothing is missing then
# Programs that write to a pipe cannot go back to fill in the lengths; what ffmpeg, sox and espeak, arecord leave there:
_STREAMED = (0xFFFFFFFF, 0x7FFFF000, 0x80000000)
_ABSURD = 0x7FFF0000  # bytes; from here on a length far beyond the file is no recording that was cut short
_TAGS = (b"TAG", b"APETAGEX", b"ID3", b"LYRICSBEGIN")  # of mp3 taggers, which some programs write behind any file
# Chunks that only describe the samples; one of them may be cut short without loss.
_DESCRIBING = frozenset(
    b"LIST|id3 |ID3 |bext|cue |smpl|iXML|axml|aXML|fact|PAD |JUNK|junk|FLLR|inst|plst|labl|ltxt|note|acid|strc|afsp|"
    b"levl|umid|_PMX|SAUR|minf|elm1|regn|link|DISP|Cr8r|chna|ubxt|MD5 |PEAK|ANNO|AUTH|NAME|(c) |COMT|MARK|INST|MIDI|"
    b"APPL|FVER|SAXL|free|info|uuid|edct|mark|strg|ovvw|peak|midi|kuki|chan|pakt".split(b"|")
)
_WAVE64 = b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00"
_BLOCK = 1 << 20  # bytes read at once


@dataclass(frozen=True)
class Excess:
    """More samples in a file than its header counts.

    Attributes:
        counted: seconds that the header counts.
        held: seconds of everything from the first sample to the end of the file.
        joined: whether what follows begins like another file.
    """

    counted: float
    held: float
    joined: bool


Finding = str | Excess | None
"""The reason why a file cannot be read; an excess, for which the caller knows a remedy; None where all is well."""


@functools.lru_cache(maxsize=256)
def check_length(path: str | Path, size: int, changed: int) -> Finding:  # noqa: ARG001 (part of the cache's key)
    """Compares what a header counts with what the file holds; None when that cannot be told.

    The many utterances of one long file look at it once.

    Args:
        path: the file.
        size: its length, bytes.
        changed: its time of modification.
    """
    with Path(path).open("rb") as file:
        head = file.read(1024)
        if head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and head[8:12] == b"WAVE":
            return _check_wav(file, head, size)
        if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
            return _check_aiff(file, head, size)
        if head[:4] == b"caff":
            return _check_caf(file, size)
        if head[:16] == _WAVE64 and len(head) >= 24:
            return _check_wave64(file, head, size)
        if head[:4] == b".snd" and len(head) >= 24:
            return _check_au(file, head, size)
        if head[:16] == b"NIST_1A\n   1024\n":
            return _check_sphere(file, head, size)
    return None


@dataclass(frozen=True)
class _Chunk:
    """Name, first byte behind the header, and length of a chunk."""

    name: bytes
    start: int
    length: int


def _chunks(file: BinaryIO, position: int, size: int, layout: str, *, even: bool = True) -> Iterator[_Chunk]:
    """Chunks one after the other, as long as there is room for a header."""
    header = struct.calcsize(layout)
    while position + header <= size:
        file.seek(position)
        name, length = struct.unpack(layout, file.read(header))
        yield _Chunk(name, position + header, length)
        position += header + max(0, length) + (length % 2 if even else 0)


def _check_wav(file: BinaryIO, head: bytes, size: int) -> Finding:
    order = ">" if head[:4] == b"RIFX" else "<"
    layout = order + "4sI"
    riff, rate, long_length = struct.unpack(order + "I", head[4:8])[0], 0, None
    for chunk in _chunks(file, 12, size, layout):
        if chunk.name == b"ds64":
            file.seek(chunk.start)
            riff, long_length = struct.unpack("<QQ", file.read(16).ljust(16, b"\0"))
        elif chunk.name == b"fmt ":
            file.seek(chunk.start + 8)
            rate = struct.unpack(order + "I", file.read(4).ljust(4, b"\0"))[0]  # bytes per second
        elif chunk.name == b"data":
            length, held = chunk.length, size - chunk.start
            if long_length is not None:
                if 8 + riff > size + _SLOPPY:
                    return f"truncated: the header promises a file of {8 + riff} bytes, it has {size}"
                length = long_length if length == 0xFFFFFFFF else length
            elif length in _STREAMED and (riff == length or length < riff < length + 4096):
                return _second_header(file, chunk.start, size, b"WAVEfmt ", rate)
            if length == 0 and held > _SLOPPY and riff < chunk.start:  # the recorder was stopped before it filled it in
                return Excess(0.0, _seconds(held, rate), joined=False)
            return _shortage(length, held) or _behind(file, chunk.start, length, size, layout=layout, rate=rate)
    return None


def _shortage(length: int, held: int) -> str | None:
    if length <= held + (_SLOPPY if held else 0):
        return None
    if length >= _ABSURD and length > 16 * held:
        return f"an absurd length in the header: {length} bytes of samples, the file holds {held}"
    return f"truncated: the header promises {length} bytes of samples, the file holds {held}"


def _check_aiff(file: BinaryIO, head: bytes, size: int) -> Finding:
    promised, rate = 8 + struct.unpack(">I", head[4:8])[0], 0
    if promised > size + _SLOPPY:
        return f"truncated: the header promises a file of {promised} bytes, it has {size}"
    for chunk in _chunks(file, 12, size, ">4sI"):
        if chunk.name == b"COMM":
            file.seek(chunk.start)
            channels, bits, exponent, fraction = struct.unpack(">h4xhHQ", file.read(18).ljust(18, b"\0"))
            hertz = fraction * 2.0 ** ((exponent & 0x7FFF) - 16383 - 63)
            rate = round(channels * bits / 8 * hertz) if hertz < 1e7 else 0
        elif chunk.name == b"SSND":
            return _behind(file, chunk.start, chunk.length, size, layout=">4sI", rate=rate)
    return None


def _check_caf(file: BinaryIO, size: int) -> Finding:
    rate = 0
    for chunk in _chunks(file, 8, size, ">4sq", even=False):
        if chunk.name == b"desc":
            file.seek(chunk.start)
            hertz, packet, frames = struct.unpack(">d8xII", file.read(24).ljust(24, b"\0"))
            rate = round(hertz * packet / frames) if frames and 0 < hertz < 1e7 else 0
        elif chunk.name == b"data":
            if chunk.length == -1:  # a stream: the samples reach to the end of the file
                return _second_header(file, chunk.start, size, b"caff\x00\x01", rate)
            return _behind(file, chunk.start, chunk.length, size, layout=">4sq", rate=rate, even=False)
    return None


def _check_wave64(file: BinaryIO, head: bytes, size: int) -> Finding:
    """Wave64 counts the 24 bytes of a chunk's header in its length, and starts chunks at multiples of 8."""
    promised = struct.unpack("<Q", head[16:24])[0]
    if promised > size + _SLOPPY:
        return f"truncated: the header promises a file of {promised} bytes, it has {size}"
    position, rate = 40, 0
    while position + 24 <= size:
        file.seek(position)
        name, length = struct.unpack("<16sQ", file.read(24))
        if name[:4] == b"fmt ":
            file.seek(position + 32)
            rate = struct.unpack("<I", file.read(4).ljust(4, b"\0"))[0]
        elif name[:4] == b"data":
            # Other chunks have no harm in them, but libsndfile reads everything behind as samples.
            start, end = position + 24, position + length
            return _rest(file, start, end, size, rate=rate, joined=b"riff")
        position += (max(24, length) + 7) // 8 * 8
    return None


def _check_au(file: BinaryIO, head: bytes, size: int) -> Finding:
    start, length, encoding, hertz, channels = struct.unpack(">IIIII", head[4:24])
    width = {1: 1, 2: 1, 3: 2, 4: 3, 5: 4, 6: 4, 7: 8, 27: 1}.get(encoding, 0)
    rate = width * hertz * channels
    if length == 0xFFFFFFFF:
        return _second_header(file, start, size, b".snd\x00\x00\x00", rate)
    if start + length > size + _SLOPPY:
        return f"truncated: the header promises a file of {start + length} bytes, it has {size}"
    return _rest(file, start, start + length, size, rate=rate, joined=b".snd")


def _check_sphere(file: BinaryIO, head: bytes, size: int) -> Finding:
    names = rb"(sample_count|sample_n_bytes|channel_count|sample_rate) -i (\d+)"
    fields = {name: int(number) for name, number in re.findall(names, head)}
    if len(fields) < 4 or b"-ilbc" in head or b"shorten" in head:
        return None
    per_sample = fields[b"sample_n_bytes"] * fields[b"channel_count"]
    end = 1024 + fields[b"sample_count"] * per_sample
    if end > size + _SLOPPY:
        return f"truncated: the header promises a file of {end} bytes, it has {size}"
    return _rest(file, 1024, end, size, rate=per_sample * fields[b"sample_rate"], joined=b"NIST_1A")


def _behind(
    file: BinaryIO, start: int, length: int, size: int, *, layout: str, rate: int, even: bool = True
) -> Excess | None:
    """Chunks may follow the samples; anything else of some length is samples that the header does not count."""
    end = start + length
    for position in {end + (end % 2 if even else 0), end}:  # not every writer pads
        if _are_chunks(file, position, size, layout=layout, rate=rate, even=even):
            return None
    return _rest(file, start, end, size, rate=rate, joined=b"")


def _are_chunks(file: BinaryIO, position: int, size: int, *, layout: str, rate: int, even: bool) -> bool:
    """Whether everything from here on is chunks without samples."""
    for chunk in _chunks(file, position, size, layout, even=even):
        if chunk.name in (b"data", b"SSND", b"RIFF", b"RIFX", b"RF64", b"FORM", b"caff") and chunk.length:
            return False
        end = chunk.start + chunk.length
        if chunk.length < 0 or end > size:
            return chunk.name in _DESCRIBING
        if not _is_name(chunk.name):
            return _all_zero(file, position, size) or size - position < _stray(rate)
        position = end + (end % 2 if even else 0)
    return True


def _is_name(name: bytes) -> bool:
    return all(32 <= byte < 127 for byte in name)


def _rest(file: BinaryIO, start: int, end: int, size: int, *, rate: int, joined: bytes) -> Excess | None:
    """What is behind the last sample that a header counts: harmless, or an excess."""
    if size - end < _stray(rate):
        return None
    file.seek(end)
    following = file.read(16)
    if following.startswith(_TAGS) or _all_zero(file, end, size):
        return None
    heads = (joined,) if joined else (b"RIFF", b"RIFX", b"RF64", b"FORM", b"caff", b"data", b"SSND")
    second = following.startswith(heads)
    return Excess(_seconds(end - start, rate), _seconds(size - start, rate), second)


@functools.lru_cache(maxsize=256)
def second_head(path: str | Path, size: int, changed: int) -> int | None:  # noqa: ARG001 (part of the cache's key)
    """Where a file begins anew: the place of its first eight bytes, when they come again; for any format.

    Args:
        path: the file.
        size: its length, bytes.
        changed: its time of modification.
    """
    with Path(path).open("rb") as file:
        mark = file.read(8)
        return _find(file, 8, mark) if len(set(mark)) >= 4 else None


def _second_header(file: BinaryIO, start: int, size: int, mark: bytes, rate: int) -> Excess | None:
    """Samples that reach to the end of the file must not hold the header of another recording."""
    found = _find(file, start, mark)
    return None if found is None else Excess(_seconds(found - start, rate), _seconds(size - start, rate), joined=True)


def _find(file: BinaryIO, start: int, mark: bytes) -> int | None:
    position, before = start, b""
    file.seek(start)
    while block := file.read(_BLOCK):
        place = (before + block).find(mark)
        if place >= 0:
            return position - len(before) + place
        position += len(block)
        before = (before + block)[-len(mark) + 1 :]
    return None


def _stray(rate: int) -> int:
    """So many bytes behind the samples are not looked at: 10 ms, at least a header's length."""
    return max(_SLOPPY, rate // 100)


def _seconds(length: int, rate: int) -> float:
    return length / rate if rate else float("nan")


def _all_zero(file: BinaryIO, start: int, size: int) -> bool:
    """Some recorders fill up their last block of flash memory."""
    file.seek(start)
    left = size - start
    while left > 0:
        block = file.read(min(left, _BLOCK))
        if not block or block.strip(b"\0"):
            return False
        left -= len(block)
    return True
