"""Lengths in the headers of uncompressed files, compared with what the files hold.

libsndfile opens most truncated files without an error, stops at the end that a header counts even if the file holds
more, and reads the header of a second recording as samples. So the chunks are walked to the end of the file.
Layouts: Sony Wave64, AIFF (Apple, 1989), CAF (Apple, 2005), Sun au, NIST SPHERE; wav is in `riff`, the rest in
`older`.
"""

import functools
import re
import struct
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from speechssl.audio.behind import Recording, find_recording, recording_at
from speechssl.audio.counted import (
    FROM_SOURCE,
    SLOPPY,
    Finding,
    Samples,
    Unsized,
    chunk_end,
    chunks,
    excess,
    file_shortage,
    shortage,
    surplus,
    to_the_end,
)
from speechssl.audio.older import check_older
from speechssl.audio.riff import check_wav, contradiction, is_wav, wave_format

_WAVE64 = b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00"
_WAVE64_NAMES = (b"\x00\xc0\x4f\x8e\xdb\x8a", b"\xa5\xd6\x28\xdb\x04\xc1\x00\x00")  # how names of chunks end
_WAVE64_STREAMED = (
    1 << 62
)  # bytes; a length above it was left out: ffmpeg leaves 2^63 - 1 in the chunk, 2^64 - 1 in front
_AIFF_STREAMED = (0x7F000008, 0xFFFFFFFF)  # sox
_AIFF_LINEAR = (b"NONE", b"twos", b"sowt")


@functools.lru_cache(maxsize=256)
def check_length(path: str | Path, size: int, changed: int) -> Finding:  # noqa: ARG001 (part of the cache's key)
    """Compares what a header counts with what the file holds; None when they agree or cannot be compared.

    The result is cached for the utterances of one long file.

    Args:
        path: the file.
        size: its length, bytes.
        changed: another number for each state of the file.
    """
    with Path(path).open("rb") as file:
        head = file.read(1024)
        if is_wav(head):
            return check_wav(file, head, size)
        if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
            return _check_aiff(file, head, size)
        if head[:4] == b"caff":
            return _check_caf(file, size)
        if head[:16] == _WAVE64 and len(head) >= 24:
            return _check_wave64(file, head, size)
        if head[:4] in (b".snd", b"dns.") and len(head) >= 24:
            return _check_au(file, head, size)
        if head[:16] == b"NIST_1A\n   1024\n":
            return _check_sphere(file, head, size)
        return check_older(file, head, size)


def _check_aiff(file: BinaryIO, head: bytes, size: int) -> Finding:
    form, samples, frames = struct.unpack(">I", head[4:8])[0], Samples(0), 0
    short = file_shortage(8 + form, size)
    for chunk in chunks(file, 12, size, ">4sI"):
        if chunk.name == b"COMM":
            file.seek(chunk.start)
            content = file.read(22)
            samples = _aiff_format(content, compressed=head[8:12] == b"AIFC")
            frames = int.from_bytes(content[2:6], "big")
        elif chunk.name == b"SSND":
            file.seek(chunk.start)
            offset = int.from_bytes(file.read(4), "big")  # of the first sample, for blocks
            samples = Samples(chunk.start + 8 + offset, samples.rate, samples.frame)
            if chunk.length in _AIFF_STREAMED or form == chunk.length == 0:  # 0: ffmpeg
                return to_the_end(file, samples, size, layout=">4sI")
            short = short or shortage(chunk.length, size - chunk.start)
            end, skip = chunk.start + chunk.length, chunk_end(">4sI")
            found = short or excess(file, samples, end, size, chunk=skip, layout=">4sI")
            return found or _aiff_contradiction(samples, frames, chunk.length - 8 - offset)
    return short


def _aiff_contradiction(samples: Samples, frames: int, length: int) -> str | None:
    """Why the number of samples is not that of their bytes; an offset, padding or a missing number is accepted."""
    if not samples.frame or not frames or abs(length - frames * samples.frame) < max(SLOPPY, samples.frame):
        return None
    words = f"{frames} samples of {samples.frame} bytes are {frames * samples.frame} bytes, it says {length}"
    return f"a contradictory header: {words}; write the header again: {FROM_SOURCE}"


def _aiff_format(content: bytes, *, compressed: bool) -> Samples:
    channels, bits, exponent, fraction, coding = struct.unpack(">h4xhHQ4s", content.ljust(22, b"\0"))
    power = (exponent & 0x7FFF) - 16383 - 63
    hertz = fraction * 2.0 ** min(power, 64)  # a damaged one may exceed all numbers
    rate = channels * bits / 8 * hertz if 0 < hertz < 1e7 and channels > 0 else 0.0
    linear = not compressed or coding in _AIFF_LINEAR
    return Samples(0, rate, channels * ((bits + 7) // 8) if linear else 0)


def _check_caf(file: BinaryIO, size: int) -> Finding:
    samples, frame = Samples(0), 0
    for chunk in chunks(file, 8, size, ">4sq", even=False):
        if chunk.name == b"desc":
            file.seek(chunk.start)
            hertz, packet, frames = struct.unpack(">d8xII", file.read(24).ljust(24, b"\0"))
            samples = Samples(0, hertz * packet / frames if frames and 0 < hertz < 1e7 else 0.0)
            frame = packet if frames == 1 else 0
        elif chunk.name == b"data":
            samples = Samples(chunk.start + 4, samples.rate)  # behind the count of edits
            if chunk.length < 0:
                return to_the_end(file, samples, size) or Unsized()
            end = chunk.start + chunk.length
            repeated = recording_at(file, end) if chunk.length <= 4 else None
            if repeated is not None and repeated.name == "CAF":
                return Unsized(repeated=True)
            short = shortage(chunk.length, size - chunk.start)
            samples = replace(samples, frame=frame)
            return short or excess(file, samples, end, size, chunk=chunk_end(">4sq", even=False), layout=">4sq")
    return None


def _check_wave64(file: BinaryIO, head: bytes, size: int) -> Finding:
    """Wave64 counts the 24 bytes of a chunk's header in its length, and starts chunks at multiples of 8."""
    promised = struct.unpack("<Q", head[16:24])[0]
    if promised < _WAVE64_STREAMED and (short := file_shortage(promised, size)):
        return short
    position, samples = 40, Samples(0)
    while position + 24 <= size:
        file.seek(position)
        name, length = struct.unpack("<16sQ", file.read(24))
        if name[:4] == b"fmt ":
            content = file.read(max(0, min(26, length - 24)))
            samples, wrong = wave_format(content), contradiction(content)
            if wrong is not None:
                return wrong
        elif name[:4] == b"data":
            samples = Samples(position + 24, samples.rate, samples.frame)
            return _check_wave64_samples(file, samples, length - 24, size)
        position += (max(24, length) + 7) // 8 * 8
    return None


def _check_wave64_samples(file: BinaryIO, samples: Samples, length: int, size: int) -> Finding:
    if length >= _WAVE64_STREAMED:
        return to_the_end(file, samples, size)
    if length <= 0 and recording_at(file, samples.start) == Recording(samples.start, "Wave64", ".w64"):
        return Unsized(repeated=True)
    end = samples.start + max(0, length)
    found = shortage(length, size - samples.start) or excess(file, samples, end, size, chunk=_wave64_chunk_end)
    if found is None and size - end >= (1 if samples.frame else 8):  # libsndfile reads everything behind as samples
        return surplus(samples, end)
    return found


def _wave64_chunk_end(file: BinaryIO, position: int, size: int) -> int | None:
    position = (position + 7) // 8 * 8
    file.seek(position)
    name, length = struct.unpack("<16sQ", file.read(24).ljust(24, b"\0"))
    if name[:4] == b"data" or not name.endswith(_WAVE64_NAMES) or length < 24 or position + length > size:
        return None
    return position + length


def _check_au(file: BinaryIO, head: bytes, size: int) -> Finding:
    start, length, encoding, hertz, channels = struct.unpack(("<" if head[:1] == b"d" else ">") + "IIIII", head[4:24])
    width = {1: 1, 2: 1, 3: 2, 4: 3, 5: 4, 6: 4, 7: 8, 27: 1}.get(encoding, 0)
    samples = Samples(start, float(width * hertz * channels), width * channels)
    if length == 0xFFFFFFFF:
        return to_the_end(file, samples, size)
    return file_shortage(start + length, size) or excess(file, samples, start + length, size)


def _check_sphere(file: BinaryIO, head: bytes, size: int) -> Finding:
    names = rb"(sample_count|sample_n_bytes|sample_sig_bits|channel_count|sample_rate) -(?:i|s\d+) (\d+)"
    fields = {name: int(number) for name, number in re.findall(names, head)}
    bits = fields.pop(b"sample_sig_bits", 0)
    if not {b"sample_n_bytes", b"sample_rate"} <= fields.keys() or b"-ilbc" in head or b"shorten" in head:
        return None
    if bits > 8 * fields[b"sample_n_bytes"]:
        words = f"{bits} bits in {fields[b'sample_n_bytes']} bytes per sample"
        return f"a contradictory header: {words}; write the header again: {FROM_SOURCE}"
    if fields[b"sample_n_bytes"] > 1 and b"sample_byte_format" not in head:
        return "the header leaves out the order of bytes (sample_byte_format); add it: -s2 01 for little-endian samples"
    per_sample = fields[b"sample_n_bytes"] * fields.get(b"channel_count", 1)
    samples = Samples(1024, float(per_sample * fields[b"sample_rate"]), per_sample)
    if b"sample_count" not in fields:
        return to_the_end(file, samples, size)
    end = 1024 + fields[b"sample_count"] * per_sample
    found = file_shortage(end, size) or excess(file, samples, end, size)
    return surplus(samples, end) if found is None and size > end else found  # libsndfile reads everything behind


@functools.lru_cache(maxsize=256)
def second_head(path: str | Path, size: int, changed: int) -> Recording | None:  # noqa: ARG001 (part of the cache's key)
    """Another recording in a file of any format, or a repetition of its own first bytes.

    Args:
        path: the file.
        size: its length, bytes.
        changed: another number for each state of the file.
    """
    with Path(path).open("rb") as file:
        mark = file.read(8)
        mark += file.read(56) if len(set(mark)) < 4 else b""
        again = _find(file, 8, mark) if len(set(mark)) >= 4 else None
        other = find_recording(file, 8, size)
    own = None if again is None else Recording(again, "", Path(path).suffix)
    return min((each for each in (own, other) if each is not None), key=lambda each: each.at, default=None)


def _find(file: BinaryIO, start: int, mark: bytes) -> int | None:
    position, before = start, b""
    file.seek(start)
    while block := file.read(1 << 20):
        place = (before + block).find(mark)
        if place >= 0:
            return position - len(before) + place
        position += len(block)
        before = (before + block)[-len(mark) + 1 :]
    return None
