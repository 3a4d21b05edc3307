"""Word times by CTC forced alignment.

The likeliest path of CTC symbols that collapses to a given text (Kürzinger et al. 2020, arXiv 2007.09127, section 2),
found by :mod:`speechssl.decoding.trellis`: torchaudio's `forced_align` finds the same path, but takes memory for frames
x symbols, and ends the process where that product passes 2^31. CTC models emit a character for a frame or two near its
middle, so that times are accurate to about 0.1 s, and pauses between words belong to neither word.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float, Int

from speechssl.config import UserError
from speechssl.decoding.decode import check_emissions
from speechssl.decoding.trellis import SearchTooLargeError, likeliest_path
from speechssl.text import WORD_BOUNDARY, Vocabulary

FRAME_SECONDS = 0.02  # one output frame of the encoder: 320 samples at 16 kHz


@dataclass(frozen=True)
class WordTime:
    """A word with its start and end, in seconds from the start of the utterance; `start < end`."""

    word: str
    start: float
    end: float


def frames_to_seconds(frames: int, *, frame_seconds: float = FRAME_SECONDS) -> float:
    """Start of frame number `frames`, counted from 0, in seconds; also the duration of that many frames.

    >>> frames_to_seconds(50)
    1.0
    """
    return frames * frame_seconds


def word_times(
    log_probs: Float[np.ndarray, "frames symbols"],
    text: str,
    vocabulary: Vocabulary,
    *,
    frame_seconds: float = FRAME_SECONDS,
) -> list[WordTime]:
    """Start and end of each word of a text.

    Args:
        log_probs: natural logarithms, from a CTC model.
        text: normalised, in words that the vocabulary can write.
        vocabulary: the symbols, in the order of the emissions.
        frame_seconds: time from the start of a frame to the start of the next.

    Returns:
        The words in order, each from the start of its first character's first frame to the end of its last
        character's last frame. Empty for an empty text.

    Raises:
        UserError: a character outside the vocabulary, more symbols than frames, or a search that would take too long
            (see `trellis.MAX_CELLS`).
        ValueError: another number of symbols than the vocabulary has, or values that are not a number.

    >>> vocabulary = Vocabulary.from_texts(["ab"])
    >>> planted = np.log(np.eye(4, dtype=np.float32)[[0, 2, 2, 3, 1, 0, 3, 0]] + 0.01)
    >>> word_times(planted, "ab b", vocabulary)
    [WordTime(word='ab', start=0.02, end=0.08), WordTime(word='b', start=0.12, end=0.14)]
    """
    check_emissions(log_probs, vocabulary)
    try:
        symbols = vocabulary.encode(text)
    except ValueError as error:
        raise UserError(f"{text[:60]!r} cannot be aligned: {error}") from None
    if not symbols:
        return []
    # CTC needs a blank between equal neighbours.
    needed = len(symbols) + sum(one == two for one, two in pairwise(symbols))
    if needed > len(log_probs):
        raise UserError(f"{text[:60]!r} cannot be aligned: it needs {needed} frames, the audio has {len(log_probs)}")
    try:
        states = likeliest_path(np.asarray(log_probs, dtype=np.float32), symbols)
    except SearchTooLargeError as error:
        raise UserError(f"{text[:60]!r} cannot be aligned: {error}") from None
    spans = _spans(states, len(symbols))
    times: list[WordTime] = []
    boundary = vocabulary.symbols.index(WORD_BOUNDARY)
    first = 0
    for word in text.split():
        last = first + len(vocabulary.encode(word)) - 1
        start = frames_to_seconds(spans[first].start, frame_seconds=frame_seconds)
        end = frames_to_seconds(spans[last].stop, frame_seconds=frame_seconds)
        times.append(WordTime(word, start, end))
        assert last + 1 == len(symbols) or symbols[last + 1] == boundary
        first = last + 2
    return times


def _spans(states: Int[np.ndarray, " frames"], symbols: int) -> list[range]:
    """The frames of each symbol; states as `likeliest_path` numbers them."""
    numbers = 2 * np.arange(symbols) + 1
    starts, stops = np.searchsorted(states, numbers, side="left"), np.searchsorted(states, numbers, side="right")
    return [range(start, stop) for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)]
