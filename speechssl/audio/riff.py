"""Lengths in the headers of wav files, compared with what the files hold.

Layouts: RIFF (Microsoft and IBM, 1991), RF64 (EBU Tech 3306).
"""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from speechssl.audio.counted import (
    FROM_SOURCE,
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

# Programs that write to a pipe cannot fill in the lengths afterwards; values of ffmpeg, sox, espeak, arecord:
_STREAMED = (0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000, 0x80000000)
_FLOAT = 3
_CODINGS = {6: "A-law", 7: "mu-law"}  # one byte per sample; some programs write the bits of what was coded
_LINEAR = (1, _FLOAT, *_CODINGS)  # 1: PCM
_EXTENSIBLE = 0xFFFE
_ADPCM = (2, 0x11)  # Microsoft's, IMA's
_KNOWN = (*_LINEAR, *_ADPCM, 0x31, 0x40, 0x55)  # that libsndfile reads: what is wrong with those is not their coding


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
            content = file.read(min(26, chunk.length))
            samples, wrong = wave_format(content, order), contradiction(content, order)
            if wrong is not None:
                return wrong
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
    """Whether both lengths were left out, the second with or without the headers subtracted."""
    near = riff == length or length < riff < length + 4096
    return near and (length in _STREAMED or riff in _STREAMED)


def wave_format(content: bytes, order: str = "<") -> Samples:
    """Bytes per second and per sample by a format chunk, of which 26 bytes are enough.

    >>> wave_format(struct.pack("<HHIIHHHH", 0x11, 1, 8000, 0, 256, 4, 2, 505)).rate  # IMA ADPCM, blocks of 505 samples
    4055.4455445544554
    """
    form = _Format.of(content, order)
    if form.tag in _LINEAR:
        align = form.align or form.frame
        return Samples(0, float(align * form.hertz), align)
    if form.tag in _ADPCM and form.more:  # the byte rate is often that of other blocks
        return Samples(0, form.align * form.hertz / form.more)
    return Samples(0, float(form.byte_rate))


def contradiction(content: bytes, order: str = "<") -> str | None:
    """Why the fields of a format chunk cannot all be right; None where they can.

    libsndfile uses the number of channels and of bits, and reads noise or another speed where they are wrong.

    >>> contradiction(struct.pack("<HHIIHH", 1, 2, 16000, 32000, 2, 16))
    'a contradictory header: 2 channels of 16 bits are 4 bytes per sample, it says 2; write the header again: with ...'
    """
    form = _Format.of(content, order)
    if form.tag not in _LINEAR or not form.channels or len(content) < 16:
        return None
    channels = f"{form.channels} channel{'s' if form.channels > 1 else ''}"
    verb, frame, coding = "are" if form.channels > 1 else "is", form.frame, _CODINGS.get(form.tag)
    of = f"of {coding}" if coding else f"of {form.bits} bits"
    if not form.bits and not coding:
        words = "0 bits per sample"
    elif form.tag == _FLOAT and form.bits not in (32, 64):
        words = f"floating point samples of {form.bits} bits"
    elif form.extensible and form.more > form.bits:
        words = f"{form.more} valid bits in samples of {form.bits} bits"
    elif form.align not in (0, frame):
        words = f"{channels} {of} {verb} {frame} byte{'s' if frame > 1 else ''} per sample, it says {form.align}"
    elif form.byte_rate not in (0, form.hertz * frame):
        seconds = f"{form.hertz * frame} bytes per second"
        words = f"{channels} {of} at {form.hertz} Hz {verb} {seconds}, it says {form.byte_rate}"
    else:
        return None
    return f"a contradictory header: {words}; write the header again: {FROM_SOURCE}"


_FOREIGN_CODECS = {
    **dict.fromkeys((0x160, 0x161, 0x162, 0x163), "Windows Media Audio"),
    **dict.fromkeys((0xFF, 0x1600, 0x1601, 0x1602, 0x1610, 0x706D, 0xA106), "AAC"),
    **dict.fromkeys((0x92, 0x2000), "Dolby Digital (AC-3)"),
    **dict.fromkeys((0x674F, 0x6750, 0x6751, 0x676F, 0x6770, 0x6771), "Vorbis"),
    0x22: "TrueSpeech",
    0x50: "MPEG audio",
    0x42: "G.723.1",
    0x45: "G.726",
    0x64: "G.726",
    0x65: "G.722",
    0x83: "G.729",
    0x270: "ATRAC3",
    0xA109: "Speex",
    0xF1AC: "FLAC",
    0x2001: "DTS",
    0x704F: "Opus",
}


def foreign_codec(path: str | Path) -> str | None:
    """The coding of the samples in a wav that libsndfile cannot open; None where the file is no wav.

    The names are those of Microsoft's registry (RFC 2361 and mmreg.h).
    """
    with Path(path).open("rb") as file:
        head = file.read(12)
        if not is_wav(head):
            return None
        order = ">" if head[:4] == b"RIFX" else "<"
        for chunk in chunks(file, 12, Path(path).stat().st_size, order + "4sI"):
            if chunk.name == b"fmt " and chunk.length >= 14:
                file.seek(chunk.start)
                tag = _Format.of(file.read(min(26, chunk.length)), order).tag
                return _FOREIGN_CODECS.get(tag, f"coding 0x{tag:X}") if tag not in _KNOWN else None
    return None


@dataclass(frozen=True)
class _Format:
    """The fields of a format chunk.

    Attributes:
        tag: the coding, also where it is in an extension.
        channels: number of channels.
        hertz: samples per second of each channel.
        byte_rate: bytes per second.
        align: bytes of one sample of all channels, or of a block.
        bits: per sample.
        more: samples per block, or valid bits of the extension.
        extensible: whether there is an extension.
    """

    tag: int
    channels: int
    hertz: int
    byte_rate: int
    align: int
    bits: int
    more: int
    extensible: bool

    @classmethod
    def of(cls, content: bytes, order: str) -> "_Format":
        fields = struct.unpack(order + "HHIIHHHHIH", content.ljust(26, b"\0"))
        tag, channels, hertz, byte_rate, align, bits, _, more, _, kind = fields
        extensible = tag == _EXTENSIBLE
        return cls(kind if extensible else tag, channels, hertz, byte_rate, align, bits, more, extensible)

    @property
    def frame(self) -> int:
        """Bytes of one sample of all channels, where samples are not coded in blocks."""
        return self.channels * (1 if self.tag in _CODINGS else (self.bits + 7) // 8)
