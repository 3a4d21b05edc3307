"""When each word was said: CTC forced alignment.

The likeliest path of CTC symbols that collapses to a given text (torchaudio's `forced_align`; Kürzinger et al. 2020,
arXiv 2007.09127, section 2). CTC models emit a character for a frame or two near its middle, so that times are good to
about a tenth of a second, and pauses between words belong to neither.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float

from speechssl.config import UserError
from speechssl.scoring.decode import check_emissions, import_torchaudio
from speechssl.text import WORD_BOUNDARY, Vocabulary

FRAME_SECONDS = 0.02  # one output frame of the encoder: 320 samples at 16 kHz


@dataclass(frozen=True)
class WordTime:
    """A word and when it was said, in seconds from the start of the utterance; `start < end`."""

    word: str
    start: float
    end: float


def frames_to_seconds(frames: int, *, frame_seconds: float = FRAME_SECONDS) -> float:
    """When frame number `frames` starts, counted from 0; also how long that many frames are.

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
    """When each word of a text was said.

    Args:
        log_probs: natural logarithms, from a CTC model.
        text: normalised, made of the vocabulary's characters.
        vocabulary: the symbols, in the order of the emissions.
        frame_seconds: time from the start of a frame to the start of the next.

    Returns:
        The words in order, each from the start of its first character's first frame to the end of its last
        character's last frame. Empty for an empty text.

    Raises:
        UserError: a character outside the vocabulary, or more symbols than the frames have room for.
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
    emissions = torch.from_numpy(np.ascontiguousarray(log_probs, dtype=np.float32))[None]
    paths, _ = import_torchaudio("functional").forced_align(emissions, torch.tensor([symbols]), blank=0)
    spans = _spans(paths[0].tolist())
    times: list[WordTime] = []
    boundary = vocabulary.symbols.index(WORD_BOUNDARY)
    first = 0
    for word in text.split():
        last = first + len(word) - 1
        start = frames_to_seconds(spans[first].start, frame_seconds=frame_seconds)
        end = frames_to_seconds(spans[last].stop, frame_seconds=frame_seconds)
        times.append(WordTime(word, start, end))
        assert last + 1 == len(symbols) or symbols[last + 1] == boundary
        first = last + 2
    return times


def _spans(path: list[int]) -> list[range]:
    """The frames of each symbol of a path: runs of one index, blanks left out."""
    edges = [0, *(place for place in range(1, len(path)) if path[place] != path[place - 1]), len(path)]
    return [range(start, stop) for start, stop in pairwise(edges) if path[start] != 0]
