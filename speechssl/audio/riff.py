"""Lengths in the headers of wav files, compared with what the files hold.

Layouts: RIFF (Microsoft and IBM, 1991), RF64 (EBU Tech 3306).
"""

import struct
from typing import BinaryIO

from speechssl.audio.counted import (
    SLOPPY,
    Finding,
    Samples,
    chunk_end,
    chunks,
    excess,
    file_shortage,
    shortage,
    to_the_end,
)

# Programs that write to a pipe cannot go back to fill in the lengths; what ffmpeg, sox, espeak, arecord leave there:
_STREAMED = (0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000, 0x80000000)
_LINEAR = (1, 3, 6, 7)  # PCM, float, A-law, mu-law
_EXTENSIBLE = 0xFFFE
_ADPCM = (2, 0x11)  # Microsoft's, IMA's


def is_wav(head: bytes) -> bool:
    """Whether a file starts like a wav of any kind."""
    return head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and head[8:12] == b"WAVE"


def check_wav(file: BinaryIO, head: bytes, size: int) -> Finding:
    """Compares the lengths of chunks with the file; `head` is its first bytes."""
    order = ">" if head[:4] == b"RIFX" else "<"
    layout = order + "4sI"
    riff, samples, long_length = struct.unpack(order + "I", head[4:8])[0], Samples(0), None
    for chunk in chunks(file, 12, size, layout):
        if chunk.name == b"ds64":
            file.seek(chunk.start)
            riff, long_length = struct.unpack("<QQ", file.read(16).ljust(16, b"\0"))
        elif chunk.name == b"fmt ":
            file.seek(chunk.start)
            samples = wave_format(file.read(26), order)
        elif chunk.name == b"data":
            length, held = chunk.length, size - chunk.start
            samples = Samples(chunk.start, samples.rate, samples.frame)
            if long_length is not None:
                short = file_shortage(8 + riff, size)
                if short is not None:
                    return short
                length = long_length if length == 0xFFFFFFFF else length
            elif length > held and _is_streamed(riff, length):
                return to_the_end(file, samples, size, layout=layout)
            end, skip = chunk.start + length, chunk_end(layout)
            if length == 0 and held > SLOPPY and riff < chunk.start:  # the recorder was stopped before it filled it in
                skip = None
            return shortage(length, held) or excess(file, samples, end, size, chunk=skip, layout=layout)
    return None


def _is_streamed(riff: int, length: int) -> bool:
    """Whether both lengths were left out, the second with or without the headers taken off."""
    near = riff == length or length < riff < length + 4096
    return near and (length in _STREAMED or riff in _STREAMED)


def wave_format(content: bytes, order: str = "<") -> Samples:
    """Bytes per second and per sample by a format chunk, of which 26 bytes are enough.

    >>> wave_format(struct.pack("<HHIIHHHH", 0x11, 1, 8000, 0, 256, 4, 2, 505)).rate  # IMA ADPCM, blocks of 505 samples
    4055.4455445544554
    """
    fields = struct.unpack(order + "HHIIHHHHIH", content.ljust(26, b"\0"))
    tag, _, hertz, byte_rate, align, _, _, per_block, _, kind = fields
    tag = kind if tag == _EXTENSIBLE else tag
    if tag in _LINEAR:
        return Samples(0, float(align * hertz), align)
    if tag in _ADPCM and per_block:  # the rate of bytes is often that of other blocks
        return Samples(0, align * hertz / per_block)
    return Samples(0, float(byte_rate))
