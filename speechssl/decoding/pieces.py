"""Cuts of a long recording, at pauses between words, for a search whose memory grows with the length."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from speechssl.text import WORD_BOUNDARY, Vocabulary


@dataclass(frozen=True)
class Piece:
    """Frames `first` … `stop` - 1; `ends_word`: whether it ends at a word boundary or at the end of the recording."""

    first: int
    stop: int
    ends_word: bool


def pieces(log_probs: Float[np.ndarray, "frames symbols"], vocabulary: Vocabulary, *, most: int) -> list[Piece]:
    """Cut emissions into pieces of at most `most` frames; one piece where there are no more frames than that.

    Each cut is in the second half of the longest allowed piece, in the middle of the longest run of frames whose
    likeliest symbol is the blank or the word boundary. Runs with a boundary in them are preferred to those without.
    Where there is no such run, the cut is at `most`.

    Args:
        log_probs: natural logarithms, from a CTC model.
        vocabulary: the symbols, in that order.
        most: maximum frames per piece, 2 or more.

    >>> vocabulary = Vocabulary.from_texts(["ab"])  # <blank> | a b
    >>> log_probs = np.eye(4, dtype=np.float32)[[2, 2, 0, 1, 0, 3, 0, 2]]
    >>> pieces(log_probs, vocabulary, most=6)
    [Piece(first=0, stop=4, ends_word=True), Piece(first=4, stop=8, ends_word=True)]
    """
    assert most >= 2
    best = log_probs.argmax(axis=1) if len(log_probs) else np.zeros(0, dtype=np.int64)
    boundary = best == vocabulary.symbols.index(WORD_BOUNDARY)
    pause = boundary | (best == 0)
    found: list[Piece] = []
    first = 0
    while len(best) - first > most:
        low, high = first + most // 2, first + most
        run = _longest_run(pause[low:high], boundary[low:high])
        stop = high if run is None else low + (run.start + run.stop) // 2
        found.append(Piece(first, stop, run is not None and bool(boundary[low:high][run.start : run.stop].any())))
        first = stop
    return [*found, Piece(first, len(best), ends_word=True)]


def _longest_run(pause: Bool[np.ndarray, " _"], boundary: Bool[np.ndarray, " _"]) -> range | None:
    """The longest run of pause; runs with a boundary in them are preferred."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], pause, [False]]).astype(np.int8)))
    runs = [range(start, stop) for start, stop in edges.reshape(-1, 2).tolist()]
    return max(runs, key=lambda run: (bool(boundary[run.start : run.stop].any()), len(run)), default=None)
