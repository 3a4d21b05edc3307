"""Ogg files (RFC 3533): checksums of pages, the streams in them, and where the last page starts.

libsndfile skips damaged pages without an error. It reads only the first of several recordings that follow each other
(a chained file, RFC 3533, section 4), and the first of several that are interleaved.
"""

import functools
import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from speechssl.audio.behind import Behind, behind, skip_harmless

_MIRROR = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))  # each byte with its bits the other way round
_BLOCK = 1 << 20  # bytes read at once where no page is found
_BEGINS, _ENDS = 2, 4  # flags of the first page of a stream and of the last
_OPUS_RATE = 48000  # Hz, of granule positions, for every rate in the header (RFC 7845, section 4)


@dataclass
class OggStream:
    """One logical stream.

    Attributes:
        codec: "Vorbis", "Opus", "FLAC" or "Speex"; None for video, subtitles and other streams without sound.
        rate: positions per second; 0 where not known.
        skipped: samples of the encoder's delay in front.
        channels: number of channels, for Vorbis and Opus.
        at: where its first page starts, bytes.
        ended: whether the last page of the stream was read.
        ends: samples at the end of the last two pages that state them.
        number: of the last page.
        gaps: pages whose number does not follow that of the page before.
    """

    codec: str | None
    rate: int
    skipped: int = 0
    channels: int = 0
    at: int = 0
    ended: bool = False
    ends: list[int] = field(default_factory=lambda: [0, 0])
    number: int = 0
    gaps: int = 0

    def add(self, samples: int, number: int, *, ended: bool) -> str | None:
        """Adds the next page.

        Args:
            samples: at its end; -1 where no packet ends on it.
            number: of the page.
            ended: whether it has the mark of the last page.

        Returns:
            Why it cannot follow the pages before.
        """
        if self.codec is not None and number <= self.number:
            return f"has the number {number} behind a page with the number {self.number}"
        if self.codec is not None and 0 <= samples < self.ends[-1]:
            return f"ends at sample {samples}, a page before it at {self.ends[-1]}"
        self.gaps += number != self.number + 1
        self.number, self.ended = number, self.ended or ended
        if samples > self.ends[-1]:
            self.ends = [self.ends[-1], samples]
        return None

    @property
    def seconds(self) -> float:
        """Its length."""
        return max(0, self.ends[-1] - self.skipped) / self.rate if self.rate else 0.0


@dataclass(frozen=True)
class OggPages:
    """Findings in the pages of an Ogg file.

    Attributes:
        fault: the reason when a page is cut short or damaged; libsndfile would continue behind it without an error.
        links: the streams of sound of each recording in the file, one after the other; more than one where chained.
        behind: data behind the last page that are no tag.
        end: behind the last page, bytes.
    """

    fault: str | None
    links: tuple[tuple[OggStream, ...], ...] = ()
    behind: Behind | None = None
    end: int = 0

    @property
    def gaps(self) -> int:
        """Places where pages of sound are missing by their numbers."""
        return sum(stream.gaps for link in self.links for stream in link)

    @property
    def last_start(self) -> int:
        """Where the last page of the first stream of sound starts, for Vorbis in samples."""
        return self.links[0][0].ends[-2] if self.links else 0


@functools.lru_cache(maxsize=256)
def ogg_pages(path: str | Path, size: int, changed: int) -> OggPages:  # noqa: ARG001 (part of the cache's key)
    """Walks over an Ogg file and checks every page, one in memory at a time.

    The result is cached for the utterances of one long file.

    Args:
        path: the file.
        size: its length, bytes.
        changed: another number for each state of the file.
    """
    with Path(path).open("rb") as file:
        return _walk(file, size)


def _walk(file: BinaryIO, size: int) -> OggPages:
    links: list[dict[int, OggStream]] = []
    found = None
    beginning = False  # whether the last page was the first of a stream; those of one recording are together
    position = number = 0
    while position < size:
        page = file.read(27)
        if page[:4] != b"OggS":
            harmless = skip_harmless(file, position, size)
            if _begins(file, harmless):  # a tag between two recordings
                position = harmless
                continue
            found = behind(file, position, size)
            following = _next_page(file, harmless)
            if following is None or (found and found.recording):
                break
            return OggPages(f"damaged: {following - position} bytes behind Ogg page {number} belong to no page")
        segments = file.read(page[26]) if len(page) == 27 else b""
        body = file.read(sum(segments))
        end = position + 27 + len(segments) + sum(segments)
        if len(page) < 27 or len(segments) < page[26] or end > size:
            return OggPages("truncated: the file ends in the middle of an Ogg page")
        number += 1
        flags, samples, serial, own, checksum = page[5], *struct.unpack("<qIII", page[6:26])
        if _ogg_crc(page[:22] + bytes(4) + page[26:] + segments + body) != checksum:
            return OggPages(f"damaged: the checksum of Ogg page {number} is wrong")
        if flags & _BEGINS:
            if not beginning:
                links.append({})
            links[-1][serial] = _stream(body, position)
        beginning = bool(flags & _BEGINS)
        stream = links[-1].get(serial) if links else None
        if stream is not None and flags & _BEGINS:
            stream.number, stream.ended = own, bool(flags & _ENDS)
        elif stream is not None and (wrong := stream.add(samples, own, ended=bool(flags & _ENDS))):
            return OggPages(f"damaged: Ogg page {number} {wrong}")
        position = end
    sound = [tuple(stream for stream in link.values() if stream.codec) for link in links]
    return OggPages(None, tuple(link for link in sound if link), found, position)


def _begins(file: BinaryIO, position: int) -> bool:
    """Whether the first page of a stream starts here; leaves the file at this position."""
    file.seek(position)
    head = file.read(6)
    file.seek(position)
    return len(head) == 6 and head[:4] == b"OggS" and bool(head[5] & _BEGINS)


def _stream(first: bytes, position: int) -> OggStream:
    """A stream by its first page, which starts here."""
    if first[:7] == b"\x01vorbis":
        return OggStream("Vorbis", int.from_bytes(first[12:16], "little"), channels=sum(first[11:12]), at=position)
    if first[:8] == b"OpusHead":
        skipped = int.from_bytes(first[10:12], "little")
        return OggStream("Opus", _OPUS_RATE, skipped, channels=sum(first[9:10]), at=position)
    if first[:5] == b"\x7fFLAC":
        return OggStream("FLAC", int.from_bytes(first[27:30], "big") >> 4, at=position)
    if first[:8] == b"Speex   ":
        return OggStream("Speex", int.from_bytes(first[36:40], "little"), at=position)
    return OggStream(None, 0, at=position)


def _next_page(file: BinaryIO, position: int) -> int | None:
    """Where the next page starts, behind bytes that belong to none."""
    file.seek(position)
    before = b""
    while block := file.read(_BLOCK):
        content = before + block
        place = content.find(b"OggS")
        if place >= 0:
            return position - len(before) + place
        position += len(block)
        before = content[-3:]
    return None


def _ogg_crc(page: bytes) -> int:
    """Ogg's checksum: the polynomial of zlib's with the bits the other way round, from 0 and not inverted.

    >>> _ogg_crc(b"123456789") == 0x89A1897F
    True
    """
    mirrored = zlib.crc32(page.translate(_MIRROR), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{mirrored:032b}"[::-1], 2)
