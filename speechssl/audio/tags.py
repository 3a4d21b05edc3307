"""Lengths of the tags that programs for mp3 write behind recordings of any kind.

ID3v1 with "TAG+" (Nilsson and others), ID3v2.2 to 2.4 (id3.org), APE tags 1 and 2 (Hydrogenaudio), Lyrics3 1 and 2
(Strnad).
"""

from typing import BinaryIO

_ID3V1, _ID3V1_MORE = 128, 227  # bytes of "TAG" and of "TAG+"
_ID3V2_VERSIONS = 15  # the newest is 2.4
_LYRICS = 1_000_100  # bytes; the length of a Lyrics3 tag has six digits


def tag_end(file: BinaryIO, position: int) -> int | None:
    """End of the tag that starts here; None where none starts."""
    head = _at(file, position, 32)
    if head[:4] == b"TAG+":
        return position + _ID3V1_MORE
    if head[:3] == b"TAG":
        return position + _ID3V1
    if (length := id3_length(head)) is not None:
        return position + length
    if len(head) == 32 and head[:8] == b"APETAGEX":
        is_header = head[23] & 0x20  # bit 29 of the flags
        return position + 32 + (int.from_bytes(head[12:16], "little") if is_header else 0)
    if head[:11] == b"LYRICSBEGIN":
        content = _at(file, position, _LYRICS)
        ends = [place + 9 for mark in (b"LYRICS200", b"LYRICSEND") if (place := content.find(mark)) >= 0]
        return position + min(ends) if ends else None
    return None


def id3_length(head: bytes) -> int | None:
    """Length of the ID3v2 tag that starts with these bytes, of which 10 are enough; None where none starts.

    A chunk with the name "ID3 " is none: a space is no version.

    >>> id3_length(b"ID3" + bytes([4, 0, 0, 0, 0, 1, 2])), id3_length(b"ID3 " + bytes(6))
    (140, None)
    """
    if len(head) < 10 or head[:3] != b"ID3" or head[3] > _ID3V2_VERSIONS or head[4] == 0xFF or max(head[6:10]) >= 0x80:
        return None
    return 10 + _synchsafe(head[6:10]) + (10 if head[5] & 0x10 else 0)


def tags_start(file: BinaryIO, start: int, size: int) -> int:
    """Start of the tags at the end of a file, not before `start`; `size` where there are none."""
    end = size
    while (length := _length_of_tag_before(file, start, end)) is not None and end - length >= start:
        end -= length
    return end


def _length_of_tag_before(file: BinaryIO, start: int, end: int) -> int | None:
    """Length of the tag that ends here, bytes."""
    first = max(start, end - _ID3V1_MORE)
    tail = _at(file, first, max(0, end - first))
    if tail[-_ID3V1:][:3] == b"TAG" and len(tail) >= _ID3V1:
        return _ID3V1
    if tail[:4] == b"TAG+" and len(tail) == _ID3V1_MORE:
        return _ID3V1_MORE
    footer = tail[-32:]
    if footer[:8] == b"APETAGEX" and len(footer) == 32:
        has_header = footer[23] & 0x80  # bit 31 of the flags
        return max(32, int.from_bytes(footer[12:16], "little")) + (32 if has_header else 0)
    if tail[-9:] == b"LYRICS200" and tail[-15:-9].isdigit():
        return int(tail[-15:-9]) + 15
    if tail[-9:] == b"LYRICSEND":
        first = max(start, end - 5200)  # bytes; at most 5100 of lyrics in version 1
        begins = _at(file, first, end - first).rfind(b"LYRICSBEGIN")
        return end - first - begins if begins >= 0 else None
    if tail[-10:-7] == b"3DI" and max(tail[-4:]) < 0x80:
        return _synchsafe(tail[-4:]) + 20
    return None


def _synchsafe(content: bytes) -> int:
    """Four bytes of seven bits each."""
    high, third, second, low = content
    return high << 21 | third << 14 | second << 7 | low


def _at(file: BinaryIO, position: int, count: int) -> bytes:
    file.seek(position)
    return file.read(count)
