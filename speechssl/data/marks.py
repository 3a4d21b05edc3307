"""Marks: digests of short windows of a recording, by which another cut of the same samples is found.

The digest of a whole recording changes when one sample is cut off. So windows of 16 ms are digested, each of which
starts where a hash of its first 2 ms has a given value, about 31 times per second. Which windows these are depends on
the samples alone, so two cuts of a recording share the windows that are in both (content-defined chunking;
Muthitacharoen, Chen and Mazieres 2001, "A low-bandwidth network file system").

Of a large corpus a half, a quarter and so on of the marks are kept, by their values, about a million at most, so that
the record of a stage of training takes 11 MB at most: 31 marks per second up to nine hours of audio (1.2 MB per hour),
two per second at 100 hours, one in four seconds at 1000. Two recordings share audio where they share half of the marks
of the one that is looked for, or a second's: less is also shared by sentences of a synthetic voice with the same words.

Silence, tones and repetitions are no evidence. A window has no mark where it has fewer than 24 different values
(digital silence, constants, square waves, dither), where it is one sine as far as rounding tells, where it occurs twice
in an utterance, or where more than 16 files of a corpus have it (a signal before each recording, a jingle).

Equal samples are found, at the rate of the prepared corpus. Not found: cuts of another volume, of a lossy copy, mixed
or filtered; cuts with another start of files of another rate, which are resampled, or of more than 16 bits, since their
rounding depends on the start; cuts of a few hundredths of a second, or so quiet that no window has 24 values.
"""

import base64
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Bool, Float32, UInt32, UInt64

from speechssl.audio import SAMPLE_RATE

MOST = 2**20
"""How many marks are kept of a corpus or a stage of training, about."""
WINDOW = 256  # samples that a mark is the digest of, 16 ms
BLOCK = 1 << 16  # windows in memory at a time
_SPACING = 512  # samples between marks on average
_FIRST = 32  # samples at the start of a window whose hash says whether it has a mark
_VALUE = 0x155  # of the highest 9 bits of the hash, one in 512; not 0, which digital silence has
_DISTINCT = 24  # values in a window
_ROUNDED = 2.5  # steps; predicting a rounded sine from the two values before is wrong by 2 at most
_MOST_REPEATED = 16  # equal hashes in a block; a constant may have the hash of a mark everywhere
_MOST_FILES = 16
_FEW = 3

Values = UInt64[np.ndarray, " _"]


@dataclass(frozen=True)
class Marks:
    """The marks of some recordings together.

    Attributes:
        level: how many of their highest bits are 0; of the marks, one in 2^level is kept.
        packed: the marks in ascending order, each once, 8 bytes little-endian.
        complete: whether all recordings are in; False where an earlier version left no marks of some.
    """

    level: int = 0
    packed: bytes = b""
    complete: bool = True

    @classmethod
    def of(cls, recordings: Sequence[Values], *, level: int) -> "Marks":
        """The marks of recordings, of which those above `level` are all given."""
        return cls(level, _packed(recordings)).within(MOST)

    def __or__(self, other: "Marks") -> "Marks":
        """Both together, at the higher level."""
        both = _packed([up_to(each.values, max(self.level, other.level)) for each in (self, other)])
        return Marks(max(self.level, other.level), both, self.complete and other.complete).within(MOST)

    @property
    def values(self) -> Values:
        """The marks in ascending order."""
        return np.frombuffer(self.packed, dtype="<u8")

    def shared(self, recordings: Sequence[Values]) -> list[bool]:
        """Whether each of some recordings shares audio with these."""
        known = self.values
        kept = [up_to(own, self.level) for own in recordings]
        return [enough(int(np.count_nonzero(_among(own, known))), len(own), level=self.level) for own in kept]

    def comparable(self, recordings: Sequence[Values]) -> list[bool]:
        """Whether each of some recordings would be found if another cut of it was here."""
        return [self.complete and len(up_to(own, self.level)) > 0 for own in recordings]

    def encoded(self) -> str:
        """The marks as base64."""
        return base64.b64encode(self.packed).decode()

    @classmethod
    def decoded(cls, words: str, *, level: int, complete: bool) -> "Marks":
        """The inverse of `encoded`.

        Raises:
            ValueError: not what `encoded` gives.
        """
        packed = base64.b64decode(words, validate=True)
        if len(packed) % 8:
            raise ValueError("not whole marks")
        read = cls(level, packed, complete)
        if not np.array_equal(np.unique(up_to(read.values, level)), read.values):
            raise ValueError("marks that are repeated, in disorder or above their level")
        return read

    def within(self, most: int) -> "Marks":
        """At most so many of them, those of the highest levels: the same ones in every corpus."""
        level, values = self.level, self.values
        while len(values) > most:
            level += 1
            values = up_to(values, level)
        return Marks(level, values.tobytes(), self.complete)


def level_of(samples: int) -> int:
    """The level at which a corpus of so many samples has about `MOST` marks or fewer.

    >>> [level_of(hours * 3600 * 16000) for hours in (1, 9, 100, 1000)]
    [0, 0, 4, 7]
    """
    return max(0, (samples // _SPACING - 1) // MOST).bit_length()


def enough(shared: int, compared: int, *, level: int = 0) -> bool:
    """Whether shared marks are evidence of the same audio: half of those that are compared, or as many as a second has.

    Args:
        shared: their number.
        compared: the number of all marks, up to `level`, of the recording that is looked for.
        level: of the marks.

    >>> [enough(*counts) for counts in ((5, 10), (4, 10), (31, 1000), (30, 1000), (0, 0))]
    [True, False, True, False, False]
    >>> enough(3, 100, level=4), enough(2, 100, level=7)
    (True, False)
    """
    second = max(_FEW, (SAMPLE_RATE // _SPACING) >> level)
    return shared >= second or 0 < compared <= 2 * shared


def marks(blocks: Iterable[Float32[np.ndarray, " samples"]], *, level: int = 0) -> Values:
    """The marks of one recording.

    Args:
        blocks: its samples, such that each window is in one block: a block starts with the last ``WINDOW - 1`` samples
            of the one before, and is `BLOCK` samples longer at most.
        level: leave out marks with a higher bit than this level has.

    Returns:
        (marks,) in ascending order, each once.

    >>> noise = np.random.default_rng(0).standard_normal(16000).astype(np.float32)
    >>> whole, cut = marks([noise]), marks([noise[1001:9000]])
    >>> len(whole), len(cut), bool(np.isin(cut, whole).all())
    (23, 13, True)
    """
    found = [_marks(block) for block in blocks if len(block) >= WINDOW]
    values, counts = np.unique(np.concatenate([np.zeros(0, dtype=np.uint64), *found]), return_counts=True)
    return up_to(values[counts == 1], level)


def without_common(recordings: Sequence[Values], files: Sequence[str]) -> list[Values]:
    """The marks of each recording, without those that more than 16 files have.

    Args:
        recordings: the marks of each.
        files: of which file each is a stretch.
    """
    if len(set(files)) <= _MOST_FILES:
        return list(recordings)
    of_file: dict[str, list[Values]] = {}
    for own, file in zip(recordings, files, strict=True):
        of_file.setdefault(file, []).append(own)
    values, counts = np.unique(
        np.concatenate([np.unique(np.concatenate(own)) for own in of_file.values()]), return_counts=True
    )
    common = values[counts > _MOST_FILES]
    return [own[~_among(own, common)] for own in recordings] if len(common) else list(recordings)


def _marks(block: Float32[np.ndarray, " samples"]) -> Values:
    bits = (block + np.float32(0)).view(np.uint32)  # -0.0 is 0.0
    windows = len(block) - WINDOW + 1
    powers, inverses, keys = _constants()
    sums = np.zeros(windows + _FIRST, dtype=np.uint32)
    np.cumsum(bits[: windows + _FIRST - 1] * powers[: windows + _FIRST - 1], dtype=np.uint32, out=sums[1:])
    hashes = (sums[_FIRST:] - sums[:-_FIRST]) * inverses[:windows]  # of _FIRST samples from each place, modulo 2^32
    places = np.flatnonzero(hashes >> 23 == _VALUE)
    _, inverse, counts = np.unique(hashes[places], return_inverse=True, return_counts=True)
    places = places[counts[inverse] <= _MOST_REPEATED]
    chosen = np.lib.stride_tricks.sliding_window_view(bits, WINDOW)[places]
    chosen = chosen[_is_evidence(chosen.view(np.float32))]
    digests = (chosen * keys).sum(axis=1, dtype=np.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # the last step of SplitMix64
        digests = (digests ^ (digests >> np.uint64(shift))) * np.uint64(factor)
    return digests ^ (digests >> np.uint64(31))


def _is_evidence(windows: Float32[np.ndarray, "windows samples"]) -> Bool[np.ndarray, " windows"]:
    """Whether each window has many values and is not a sine."""
    steps = np.diff(np.sort(windows, axis=1), axis=1)
    distinct = np.count_nonzero(steps, axis=1) + 1
    step = np.where(steps > 0, steps, np.inf).min(axis=1, initial=np.inf)
    middle, beside = windows[:, 1:-1], windows[:, :-2] + windows[:, 2:]
    factors = (middle * beside).sum(axis=1) / np.maximum((middle * middle).sum(axis=1), np.finfo(np.float32).tiny)
    errors = np.abs(beside - factors[:, None] * middle).max(axis=1)
    return (distinct >= _DISTINCT) & (errors > _ROUNDED * step)


@cache
def _constants() -> tuple[UInt32[np.ndarray, " powers"], UInt32[np.ndarray, " powers"], UInt64[np.ndarray, " window"]]:
    """Powers of an odd number and of its inverse modulo 2^32, and the factors of a window's samples in its digest."""
    factor = 0x9E3779B1
    powers, inverses = (
        np.cumprod(np.full(BLOCK + WINDOW, each, dtype=np.uint32), dtype=np.uint32)
        for each in (factor, pow(factor, -1, 2**32))
    )
    keys = np.frombuffer(hashlib.shake_128(b"marks of a recording").digest(8 * WINDOW), dtype="<u8").astype(np.uint64)
    return powers, inverses, keys


def up_to(values: Values, level: int) -> Values:
    """Those of some marks that are kept at a level."""
    return values[values <= np.uint64((2**64 - 1) >> level)]


def _packed(recordings: Sequence[Values]) -> bytes:
    joined = np.unique(np.concatenate([np.zeros(0, dtype=np.uint64), *recordings]))
    return joined.astype("<u8").tobytes()


def _among(own: UInt64[np.ndarray, " own"], known: Values) -> Bool[np.ndarray, " own"]:
    """Whether each mark is among known ones, which are in ascending order."""
    if not len(known):
        return np.zeros(len(own), dtype=bool)
    return known[np.minimum(np.searchsorted(known, own), len(known) - 1)] == own
