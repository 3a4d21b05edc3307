"""Lengths in the headers of older formats, compared with what the files hold.

Creative VOC, Audio Visual Research, Amiga 8SVX and 16SV, Psion WVE, MIDI sample dump (SDS), Akai MPC 2000. libsndfile
reads all of them to the end of the file, SDS to the length of the header with zeros for missing samples.
"""

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from speechssl.audio.counted import Finding, Samples, Several, Surplus, chunk_end, chunks, excess, shortage, surplus

UNCHECKED = "the length of files of its format ({}) is not checked: it may be cut short, or hold more than sound"
CHECKED = frozenset({"VOC", "AVR", "SVX", "WVE", "SDS", "MPC2K"})  # libsndfile's names
_VOC = b"Creative Voice File\x1a"
_VOC_SOUND, _VOC_MORE, _VOC_SILENCE, _VOC_NEW = 1, 2, 3, 9  # blocks
_VOC_WIDTHS = {0: 1, 4: 2, 6: 1, 7: 1}  # bytes per sample by coding: 8 and 16 bits, A-law, mu-law
_GSM_FRAME, _GSM_MARK = 33, 0xD  # bytes; the first four bits of each
_SDS_BLOCK, _SDS_DATA = 127, 120  # bytes


def check_older(file: BinaryIO, head: bytes, size: int) -> Finding:
    """Compares the length in the header of an older format with the file; `head` is its first bytes."""
    if len(head) < 64:
        return None
    check = next((check for known, check in _CHECKS if known(head)), None)
    return None if check is None else check(file, head, size)


def _check_voc(file: BinaryIO, head: bytes, size: int) -> Finding:
    samples, sounds, end = Samples(0), 0, size
    formats: set[tuple[float, int]] = set()
    for kind, start, length in _voc_blocks(file, int.from_bytes(head[20:22], "little"), size):
        if kind in (_VOC_SOUND, _VOC_MORE, _VOC_SILENCE, _VOC_NEW):
            sounds += 1
        if kind in (_VOC_SOUND, _VOC_NEW):
            each = _voc_format(file, kind, start)
            formats.add((each.rate, each.frame))
        elif kind == _VOC_SILENCE:
            formats.add((0.0, 0))
        if kind in (_VOC_SOUND, _VOC_NEW) and sounds == 1:
            samples = _voc_format(file, kind, start)
            end = start + length
            short = shortage(end - samples.start, size - samples.start)
            if short is not None:
                return short
    if sounds > 1:
        return Several(sounds, samples.seconds(end - samples.start), alike=len(formats) == 1)
    if not samples.start or end >= size:
        return None
    found = excess(file, samples, end, size, chunk=_voc_block_end)
    return surplus(samples, end) if found is None else found  # libsndfile reads everything behind


def _voc_blocks(file: BinaryIO, position: int, size: int) -> Iterator[tuple[int, int, int]]:
    """Kind, first byte and length of each block, up to the one that ends the file."""
    while position + 4 <= size:
        file.seek(position)
        kind, low, middle, high = file.read(4)
        if not kind or kind > _VOC_NEW:
            return
        length = low | middle << 8 | high << 16
        yield kind, position + 4, length
        position += 4 + length


def _voc_format(file: BinaryIO, kind: int, start: int) -> Samples:
    file.seek(start)
    content = file.read(12).ljust(12, b"\0")
    if kind == _VOC_SOUND:
        return Samples(start + 2, 1e6 / (256 - content[0]), 1)
    hertz, _, channels, coding = struct.unpack("<IBBH", content[:8])
    frame = _VOC_WIDTHS.get(coding, 0) * channels
    return Samples(start + 12, float(hertz * frame), frame)


def _voc_block_end(file: BinaryIO, position: int, size: int) -> int | None:
    """Behind the end of the file's blocks, or a block without sound."""
    file.seek(position)
    head = file.read(4)
    if head[:1] == b"\0":
        return position + 1
    end = position + 4 + int.from_bytes(head[1:], "little")
    return end if len(head) == 4 and head[0] in (4, 5, 6, 7) and end <= size else None


def _check_avr(file: BinaryIO, head: bytes, size: int) -> Finding:
    stereo, bits, hertz, frames = struct.unpack(">HH6xII", head[12:30])
    frame = (2 if stereo else 1) * (bits // 8)
    return _counted(file, Samples(128, float((hertz & 0xFFFFFF) * frame), frame), frames * frame, size)


def _check_svx(file: BinaryIO, head: bytes, size: int) -> Finding:
    samples, width = Samples(0), 2 if head[8:12] == b"16SV" else 1
    for chunk in chunks(file, 12, size, ">4sI"):
        if chunk.name == b"VHDR":
            file.seek(chunk.start + 12)
            samples = Samples(0, float(int.from_bytes(file.read(2), "big") * width), width)
        elif chunk.name == b"BODY":
            samples = Samples(chunk.start, samples.rate, width)
            return _counted(file, samples, chunk.length, size, chunks=True)
    return None


def _check_wve(file: BinaryIO, head: bytes, size: int) -> Finding:
    return _counted(file, Samples(32, 8000.0, 1), int.from_bytes(head[18:22], "big"), size)


def _check_sds(file: BinaryIO, head: bytes, size: int) -> Finding:
    bits, count = head[6], head[10] | head[11] << 7 | head[12] << 14
    per_block = _SDS_DATA // (2 if bits < 15 else 3 if bits < 22 else 4)
    period = head[7] | head[8] << 7 | head[9] << 14  # ns
    rate = 1e9 / period * _SDS_BLOCK / per_block if period else 0.0
    blocks = -(-count // per_block)
    found = _counted(file, Samples(21, rate), blocks * _SDS_BLOCK, size)
    return None if isinstance(found, Surplus) else found  # libsndfile reads what the header counts


def _check_mpc(file: BinaryIO, head: bytes, size: int) -> Finding:
    frame = 4 if head[21] else 2
    frames, hertz = int.from_bytes(head[30:34], "little"), int.from_bytes(head[40:42], "little")
    return _counted(file, Samples(42, float(hertz * frame), frame), frames * frame, size)


def gsm_fault(path: str | Path) -> str | None:
    """Why GSM frames without a header cannot be used; every frame starts with the same four bits (RFC 3551, 4.5.8)."""
    with Path(path).open("rb") as file:
        starts = 0
        while content := file.read(_GSM_FRAME << 15):
            first = np.frombuffer(content, np.uint8)[::_GSM_FRAME] >> 4
            wrong = np.flatnonzero(first != _GSM_MARK)
            if len(wrong):
                return (
                    f"no header of a known format, and byte {starts + int(wrong[0]) * _GSM_FRAME} starts no GSM frame"
                )
            starts += len(content)
    rest = starts % _GSM_FRAME
    return f"truncated: it ends with {rest} bytes of a GSM frame of {_GSM_FRAME} bytes" if rest else None


def _counted(file: BinaryIO, samples: Samples, length: int, size: int, *, chunks: bool = False) -> Finding:
    """Finding for samples of a known length; libsndfile reads everything behind them."""
    short = shortage(length, size - samples.start)
    end = samples.start + length
    if short is not None or end >= size:
        return short
    found = excess(file, samples, end, size, chunk=chunk_end(">4sI") if chunks else None)
    return surplus(samples, end) if found is None else found


_CHECKS: tuple[tuple[Callable[[bytes], bool], Callable[[BinaryIO, bytes, int], Finding]], ...] = (
    (lambda head: head[:20] == _VOC, _check_voc),
    (lambda head: head[:4] == b"2BIT", _check_avr),
    (lambda head: head[:4] == b"FORM" and head[8:12] in (b"8SVX", b"16SV"), _check_svx),
    (lambda head: head[:18] == b"ALawSoundFile**\0\x0f\x10", _check_wve),
    (lambda head: head[:2] == b"\xf0\x7e" and head[3] == 1 and head[20] == 0xF7, _check_sds),
    (lambda head: head[:2] == b"\x01\x04" and head[21] < 2 and head[38] < 2, _check_mpc),
)
