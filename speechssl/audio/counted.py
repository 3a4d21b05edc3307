"""Lengths that the headers of uncompressed files count, compared with what the files hold."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO

from speechssl.audio.appended import appended
from speechssl.audio.behind import Behind, ChunkEnd, Recording, behind, recording_inside
from speechssl.audio.likeness import SAMPLES, UNKNOWN, likeness
from speechssl.audio.tags import tags_start

FROM_SOURCE = "with the program that recorded it, or from its source"
SLOPPY = 44  # bytes; some writers count the wav header among the samples, and nothing is missing then
_ABSURD = 0x7FFF0000  # bytes; from here on, a length far beyond the file does not mean a truncated recording
# Chunks that only describe the samples; one of them may be cut short without loss.
_TRAILING = 1 << 20  # bytes at the end of a file that are searched for chunks
_DESCRIBING = frozenset(
    b"LIST|id3 |ID3 |bext|cue |smpl|iXML|axml|aXML|fact|PAD |JUNK|junk|FLLR|inst|plst|labl|ltxt|note|acid|strc|afsp|"
    b"levl|umid|_PMX|SAUR|minf|elm1|regn|link|DISP|Cr8r|chna|ubxt|MD5 |PEAK|ANNO|AUTH|NAME|(c) |COMT|MARK|INST|MIDI|"
    b"APPL|FVER|SAXL|free|info|uuid|edct|mark|strg|ovvw|peak|midi|kuki|chan|pakt".split(b"|")
)
_SAMPLES = frozenset((b"data", b"SSND", b"RIFF", b"RIFX", b"RF64", b"BW64", b"FORM", b"caff"))


@dataclass(frozen=True)
class Samples:
    """The samples of a file.

    Attributes:
        start: the first byte.
        rate: bytes per second; 0 where not known.
        frame: bytes of one sample of all channels; 0 where not known, or coded in blocks.
    """

    start: int
    rate: float = 0.0
    frame: int = 0

    def seconds(self, length: int) -> float:
        """Duration of a number of bytes, s; NaN where the rate is not known."""
        return length / self.rate if self.rate else float("nan")


@dataclass(frozen=True)
class Excess:
    """A file holds more than its header counts.

    Attributes:
        samples: those of the (first) header.
        counted: bytes of samples that the header counts.
        held: bytes from the first sample to the end of what was found: of the file, or where its tags or chunks start.
        behind: the data behind the counted samples.
        likeness: their kind: `likeness.SAMPLES`, a name, or `likeness.UNKNOWN`.
        chunk: whether a second chunk of samples starts there.
        streamed: whether the header leaves out the length: the counted samples end where something else starts.
    """

    samples: Samples
    counted: int
    held: int
    behind: Behind
    likeness: str = UNKNOWN
    chunk: bool = False
    streamed: bool = False


@dataclass(frozen=True)
class Unsized:
    """A header without a length, which libsndfile cannot read.

    Attributes:
        repeated: whether the header is there twice: sox writes such files to a pipe, no program reads them correctly.
    """

    repeated: bool = False


@dataclass(frozen=True)
class Surplus:
    """Tags or chunks that libsndfile reads as samples.

    Attributes:
        end: of the samples, bytes.
        num_samples: per channel, without them; None where samples are coded in blocks.
    """

    end: int
    num_samples: int | None


@dataclass(frozen=True)
class Several:
    """Several blocks of sound, of which libsndfile reads the first, and the headers of the others as samples.

    Attributes:
        count: of the blocks.
        seconds: length of the first.
        alike: whether all are sound of one format, which other programs join correctly.
    """

    count: int
    seconds: float
    alike: bool = True


@dataclass(frozen=True)
class Inside:
    """Another recording among the samples that the header counts.

    Attributes:
        samples: those of the header.
        end: of the samples, bytes.
        recording: where it starts; `samples.start` where there are no samples at all.
    """

    samples: Samples
    end: int
    recording: Recording


Finding = str | Excess | Unsized | Surplus | Several | Inside | None
"""Reason why a file cannot be read, or a finding for which the caller has a remedy; None for an intact file."""


@dataclass(frozen=True)
class Chunk:
    """Name, first byte behind the header, and length of a chunk."""

    name: bytes
    start: int
    length: int


def chunks(file: BinaryIO, position: int, size: int, layout: str, *, even: bool = True) -> Iterator[Chunk]:
    """Chunks in the order of the file, up to the last position where a header fits."""
    header = struct.calcsize(layout)
    while position + header <= size:
        file.seek(position)
        name, length = struct.unpack(layout, file.read(header))
        yield Chunk(name, position + header, length)
        position += header + max(0, length) + (length % 2 if even else 0)


def chunk_end(layout: str, *, even: bool = True) -> ChunkEnd:
    """The walk over chunks without samples that `behind` uses; not every writer pads chunks to even positions."""
    header = struct.calcsize(layout)

    def end(file: BinaryIO, position: int, size: int) -> int | None:
        for start in (position + position % 2, position) if even else (position,):
            file.seek(start)
            content = file.read(header)
            if len(content) < header:
                continue
            name, length = struct.unpack(layout, content)
            if name in _SAMPLES or not all(32 <= byte < 127 for byte in name):
                continue
            if length >= 0 and (name in _DESCRIBING or start + header + length <= size):
                return start + header + length
        return None

    return end


def shortage(length: int, held: int) -> str | None:
    """Why a file that holds fewer bytes of samples than its header states cannot be read."""
    if length <= held + (SLOPPY if held else 0):
        return None
    if length >= _ABSURD and length > 16 * held:
        return f"an absurd length in the header: {length} bytes of samples, the file holds {held}"
    return f"truncated: the header states {length} bytes of samples, the file holds {held}"


def file_shortage(promised: int, size: int) -> str | None:
    """The same, of the length of the whole file."""
    if promised <= size + SLOPPY:
        return None
    return f"truncated: the header states a file of {promised} bytes, it has {size}"


def excess(
    file: BinaryIO, samples: Samples, end: int, size: int, *, chunk: ChunkEnd | None = None, layout: str | None = None
) -> Excess | Inside | None:
    """Data behind the last sample that a header counts; None where they are harmless.

    A recording among the samples comes first.

    Args:
        file: open for reading.
        samples: those of the header.
        end: of the samples that it counts, bytes.
        size: of the file, bytes.
        chunk: of containers that have chunks behind the samples.
        layout: of the heads of such chunks, which may also be behind samples that are not counted.
    """
    inside = recording_inside(file, samples.start, end) if samples.frame else None
    if inside is not None:
        return Inside(samples, end, inside)
    wrapped = size - end >= 1 << 32 and (size - end) % (1 << 32) < 1 << 20  # gigabytes that are not searched
    few = max(SLOPPY, round(samples.rate) // 100) - 1  # bytes; less than 10 ms of samples is accepted
    found = behind(file, end, size, few=few, chunk_end=chunk, search=not wrapped)
    if found is None:
        return None
    file.seek(found.start)
    if file.read(4) in (b"data", b"SSND"):
        return Excess(samples, end - samples.start, size - samples.start, found, chunk=True)
    if layout is not None and found.recording is None:
        found = replace(found, end=chunks_start(file, found.start, found.end, layout))
    return Excess(samples, end - samples.start, found.end - samples.start, found, _likeness(file, samples, end, found))


def _likeness(file: BinaryIO, samples: Samples, end: int, found: Behind) -> str:
    """Kind of the data behind the samples.

    Where the header counts none, or its length has wrapped, they are samples unless another kind is recognised.
    """
    if found.recording is not None:
        return UNKNOWN
    like = likeness(file, samples.start, end, first=found.start, stop=found.end, frame=samples.frame)
    unfinished = end == samples.start or found.end - end >= (1 << 32) - (1 << 20)
    return SAMPLES if like == UNKNOWN and unfinished else like


def chunks_start(file: BinaryIO, start: int, end: int, layout: str) -> int:
    """Start of the descriptive chunks behind samples of unknown length; `end` where there are none.

    Only chunks that together fill the file exactly to its end count.
    """
    first = max(start, end - _TRAILING)
    file.seek(first)
    tail, header = file.read(end - first), struct.calcsize(layout)
    places = sorted(at for name in _DESCRIBING for at in _occurrences(tail, name))
    for at in places:
        position = at
        while position + header <= len(tail):
            name, length = struct.unpack(layout, tail[position : position + header])
            if not all(32 <= byte < 127 for byte in name) or length < 0:
                break
            position += header + length + length % 2
        if position - len(tail) in (0, 1):  # the last one may lack its padding
            return first + at
    return end


def _occurrences(content: bytes, name: bytes) -> Iterator[int]:
    at = content.find(name)
    while at >= 0:
        yield at
        at = content.find(name, at + 1)


def to_the_end(
    file: BinaryIO, samples: Samples, size: int, *, layout: str | None = None
) -> Excess | Surplus | Inside | None:
    """Another recording, tags or chunks in samples that reach to the end of the file."""
    end = tags_start(file, samples.start, size)
    end = end if layout is None else chunks_start(file, samples.start, end, layout)
    at_start = recording_inside(file, samples.start, samples.start + 1) if samples.frame else None
    if at_start is not None:
        return Inside(samples, end, at_start)
    ends = None if layout is None else chunk_end(layout)
    found = appended(file, samples.start, end, frame=samples.frame, chunk_end=ends)
    if found is not None:
        rest = Behind(found.start, end, found.recording, padded=False)
        return Excess(samples, found.start - samples.start, size - samples.start, rest, found.name, streamed=True)
    return surplus(samples, end) if end < size else None


def surplus(samples: Samples, end: int) -> Surplus:
    """Finding for data behind the end of the samples that libsndfile reads."""
    return Surplus(end, (end - samples.start) // samples.frame if samples.frame else None)
