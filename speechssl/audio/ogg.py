"""Ogg pages (RFC 3533): checksums, and where the last page starts."""

import functools
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

_MIRROR = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))  # each byte with its bits the other way round


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
