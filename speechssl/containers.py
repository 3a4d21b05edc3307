"""Sound files by their bytes: what a file is, and whether it holds what its header promises.

libsndfile opens most files that are cut short as if the rest had never been, and guesses the length of an mp3 without
a length header; so the bytes themselves are looked at. Layouts: RIFF (Microsoft and IBM, 1991), RF64 (EBU Tech 3306),
AIFF (Apple, 1989), Sun au, NIST SPHERE, Ogg (RFC 3533), MPEG audio (ISO 11172-3 and 13818-3).
"""

import functools
import mmap
import re
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_FOREIGN_NAMES = {
    ".m4a": "MPEG-4 audio (m4a)",
    ".m4b": "MPEG-4 audio (m4b)",
    ".mp4": "MPEG-4 (mp4)",
    ".mov": "QuickTime (mov)",
    ".3gp": "3GPP (3gp)",
    ".aac": "AAC (aac)",
    ".wma": "Windows Media (wma)",
    ".asf": "Windows Media (asf)",
    ".wmv": "Windows Media (wmv)",
    ".webm": "WebM",
    ".mka": "Matroska (mka)",
    ".mkv": "Matroska (mkv)",
    ".amr": "AMR",
    ".ape": "Monkey's Audio (ape)",
    ".wv": "WavPack (wv)",
    ".mpc": "Musepack (mpc)",
    ".tta": "True Audio (tta)",
    ".spx": "Speex (spx)",
    ".ra": "RealAudio (ra)",
    ".rm": "RealMedia (rm)",
    ".dsf": "DSD (dsf)",
    ".avi": "AVI",
    ".flv": "Flash Video (flv)",
    ".silk": "SILK",
}
FOREIGN_SUFFIXES = frozenset(_FOREIGN_NAMES)
"""Suffixes of containers that hold audio but that libsndfile cannot read."""

_FOREIGN_MAGIC = (  # (offset, bytes, name)
    (4, b"ftyp", "MPEG-4 (mp4, m4a)"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "Windows Media (wma)"),
    (0, b"\x1a\x45\xdf\xa3", "Matroska or WebM"),
    (0, b"#!AMR", "AMR"),
    (0, b"MAC ", "Monkey's Audio (ape)"),
    (0, b"wvpk", "WavPack (wv)"),
    (0, b"MPCK", "Musepack (mpc)"),
    (0, b"MP+", "Musepack (mpc)"),
    (0, b"TTA1", "True Audio (tta)"),
    (28, b"Speex   ", "Speex (spx)"),
    (0, b".ra\xfd", "RealAudio (ra)"),
    (0, b".RMF", "RealMedia (rm)"),
    (0, b"DSD ", "DSD (dsf)"),
    (8, b"AVI ", "AVI"),
    (0, b"FLV\x01", "Flash Video (flv)"),
    (0, b"#!SILK", "SILK"),
    (0, b"\x02#!SILK", "SILK"),
    (0, b"\x00\x00\x01\xba", "MPEG video"),
)
_OTHER_MAGIC = (
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"GIF8", "a GIF picture"),
    (b"PK\x03\x04", "a zip archive"),
    (b"PK\x05\x06", "a zip archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"\xfd7zXZ", "an xz archive"),
    (b"BZh", "a bzip2 archive"),
    (b"Rar!", "a rar archive"),
    (b"%PDF", "a PDF document"),
    (b"MThd", "a MIDI file"),
    (b"\x7fELF", "a program"),
    (b"version https://git-lfs", "a Git LFS pointer; fetch the file itself with git lfs pull"),
)

_SLOPPY = 44  # bytes; some writers count the wav header among the samples, and nothing is missing then
_STREAMED = (0xFFFFFFFF, 0x7FFFF000, 0x80000000)  # data lengths that ffmpeg, sox and espeak, arecord write to a pipe
_ABSURD = 0x7FFF0000  # bytes; from here on a length far beyond the file is no recording that was cut short
_MIRROR = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))  # each byte with its bits the other way round

# kbit/s of layer III by the four bits of the header, MPEG-1 and MPEG-2; 0 and 15 give no length.
_MPEG1_RATES = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0)
_MPEG2_RATES = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0)


def foreign_container(path: str | Path, head: bytes) -> str | None:
    """The name of a container that libsndfile cannot read, by the first bytes, whatever the file is called.

    >>> foreign_container("a.wav", b"    ftypM4A ")
    'MPEG-4 (mp4, m4a)'
    """
    for offset, magic, name in _FOREIGN_MAGIC:
        if head[offset : offset + len(magic)] == magic:
            return _FOREIGN_NAMES.get(Path(path).suffix.lower(), name) if magic == b"ftyp" else name
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:  # MPEG sync word with layer 0: ADTS
        return "AAC (aac)"
    return None


def foreign_suffix(path: str | Path) -> str | None:
    """The name of the container that the suffix stands for, when libsndfile cannot read it.

    >>> foreign_suffix("a.WMA")
    'Windows Media (wma)'
    """
    return _FOREIGN_NAMES.get(Path(path).suffix.lower())


def other_kind(head: bytes) -> str | None:
    """What a file is that is not audio, by its first bytes; None when they say nothing.

    >>> other_kind(b"<!DOCTYPE html><html>")
    'a web page or XML'
    """
    for magic, name in _OTHER_MAGIC:
        if head.startswith(magic):
            return name
    if not _is_text(head):
        return None
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "a web page or XML"
    return "JSON text" if text.startswith((b"{", b"[")) else "plain text"


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


@dataclass(frozen=True)
class OggPages:
    """What a walk over the pages of an Ogg file finds.

    Attributes:
        fault: the reason when a page is cut short or damaged; libsndfile would go on behind it without a word.
        last_start: where the last page's samples start, for Vorbis in samples.
    """

    fault: str | None
    last_start: int = 0


@functools.lru_cache(maxsize=256)
def ogg_pages(path: str | Path, size: int, changed: int) -> OggPages:  # noqa: ARG001 (part of the cache's key)
    """Walks over an Ogg file and checks every page; the many utterances of one long file read it once.

    Args:
        path: the file.
        size: its length, bytes.
        changed: its time of modification.
    """
    data = Path(path).read_bytes()
    ends = [0, 0]  # samples at the end of the pages
    position = number = 0
    while position < size:
        if data[position : position + 4] != b"OggS":
            following = data.find(b"OggS", position)
            if following < 0:  # junk behind the last page is harmless, libogg skips it too
                break
            return OggPages(f"damaged: {following - position} bytes behind Ogg page {number} belong to no page")
        segments = data[position + 27 : position + 27 + data[position + 26]] if position + 26 < size else b""
        end = position + 27 + len(segments) + sum(segments)
        if end > size:
            return OggPages("truncated: the file ends in the middle of an Ogg page")
        number += 1
        samples, checksum = struct.unpack("<q8xI", data[position + 6 : position + 26])
        if _ogg_crc(data[position : position + 22] + bytes(4) + data[position + 26 : end]) != checksum:
            return OggPages(f"damaged: the checksum of Ogg page {number} is wrong")
        if samples > ends[-1]:  # -1 on a page on which no packet ends
            ends.append(samples)
        position = end
    return OggPages(None, ends[-2])


def _ogg_crc(page: bytes) -> int:
    """Ogg's checksum: the polynomial of zlib's with the bits the other way round, from 0 and not inverted.

    >>> _ogg_crc(b"123456789") == 0x89A1897F
    True
    """
    mirrored = zlib.crc32(page.translate(_MIRROR), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{mirrored:032b}"[::-1], 2)


@functools.lru_cache(maxsize=256)
def mp3_samples(path: str | Path, changed: int) -> int | None:  # noqa: ARG001 (part of the cache's key)
    """Samples a channel of an mp3 that has no length header, by walking from frame to frame.

    libsndfile guesses this from the file size and the first frames: too long with a large tag in front, and far too
    short with a variable bit rate.

    Args:
        path: the file.
        changed: its time of modification.

    Returns:
        The count; None when the file has a length header (Xing, Info or VBRI), which is right, or is no layer III.
    """
    with Path(path).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        position = _first_frame(data)
        if position is None:
            return None
        first = data[position : position + 200]
        if b"Xing" in first or b"Info" in first or b"VBRI" in first:
            return None
        samples = 0
        end = len(data)
        while position + 4 <= end:
            length, per_frame = _mp3_frame(data[position : position + 4])
            if not length:  # tags at the end, or damage: look for the next header
                position = data.find(b"\xff", position + 1)
                if position < 0:
                    break
                continue
            position += length
            samples += per_frame if position <= end else 0
        return samples


def _first_frame(data: mmap.mmap) -> int | None:
    """Where the first frame starts that is followed by another."""
    position = 0
    while data[position : position + 3] == b"ID3" and len(data) >= position + 10:
        high, third, second, low = data[position + 6 : position + 10]
        position += 10 + (high << 21 | third << 14 | second << 7 | low)
    while True:
        position = data.find(b"\xff", position)
        if position < 0:
            return None
        length, _ = _mp3_frame(data[position : position + 4])
        if length and _mp3_frame(data[position + length : position + length + 4])[0]:
            return position
        position += 1


def _mp3_frame(header: bytes) -> tuple[int, int]:
    """Bytes and samples a channel of the layer III frame with this header; zeros when it is none."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE6 != 0xE2:  # 11 sync bits, layer bits 01
        return 0, 0
    version = header[1] >> 3 & 3  # 3: MPEG-1, 2: MPEG-2, 0: MPEG-2.5
    place = header[2] >> 2 & 3
    if version == 1 or place == 3:
        return 0, 0
    rate = (44100, 48000, 32000)[place] // {3: 1, 2: 2, 0: 4}[version]
    kilobits = (_MPEG1_RATES if version == 3 else _MPEG2_RATES)[header[2] >> 4]
    if not kilobits:
        return 0, 0
    per_frame = 1152 if version == 3 else 576
    return per_frame // 8 * kilobits * 1000 // rate + (header[2] >> 1 & 1), per_frame


def _is_text(head: bytes) -> bool:
    """UTF-8 without control characters; a character cut by the end of the block is no objection."""
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:
            return False
        text = head[: error.start].decode("utf-8")
    return not any(ord(c) < 9 or 13 < ord(c) < 32 for c in text)
