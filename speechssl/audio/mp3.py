"""Frames of MPEG audio, layer III (ISO 11172-3 and 13818-3)."""

import functools
import mmap
from pathlib import Path

# kbit/s of layer III by the four bits of the header, MPEG-1 and MPEG-2; 0 and 15 give no length.
_MPEG1_RATES = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0)
_MPEG2_RATES = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0)


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
