r"""A character n-gram of a list of words with their frequencies, where a language has no text at hand.

The text that the list stands for is one of independent words: what follows the boundary between two words depends on no
earlier word. Each word counts by its frequency, and each n-gram of characters within a word and its two boundaries by
the words that hold it. One boundary in `sentence_words` is the end of a sentence. Smoothing is that of Witten and Bell
(1991; method C of Bell, Cleary and Witten 1990), interpolated, since frequencies are no counts that Kneser-Ney could
discount:

    p(c | h) = (n(h c) + t(h) p(c | shorter h)) / (n(h) + t(h)),

with n the counts, and t the number of different characters after h.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float64, Int64

from speechssl.config import UserError
from speechssl.decoding.arpa import BEGIN, END, UNKNOWN
from speechssl.decoding.arrays import NEVER, Level, NgramArrays, Numbers, Rows, find
from speechssl.decoding.kneser_ney import counted
from speechssl.text import WORD_BOUNDARY

UNIT = 1e-8  # frequency that counts as one occurrence: that of the rarest words in the lists of wordfreq
MOST_WORDS = 300_000  # the most frequent ones; an n-gram of order 5 then has about half a million entries


def character_model(
    frequencies: Mapping[str, float], *, order: int = 5, sentence_words: float = 10.0, unit: float = UNIT
) -> NgramArrays:
    """Estimate a character n-gram.

    Args:
        frequencies: of each word, above zero, as fractions of all running words.
        order: characters of the longest n-gram, 2 or more.
        sentence_words: mean number of words of a sentence, 1 or more.
        unit: frequency that counts as one occurrence.

    Raises:
        UserError: no word.
        ValueError: an argument out of its range.

    >>> model = character_model({"ab": 0.5, "b": 0.5}, order=2)
    >>> model.words
    ('</s>', '<s>', '<unk>', 'a', 'b', '|')
    """
    if order < 2 or sentence_words < 1 or unit <= 0:
        raise ValueError(f"order 2 or more, sentence_words 1 or more: got {order} and {sentence_words}")
    kept = sorted(frequencies, key=lambda word: (-frequencies[word], word))[:MOST_WORDS]
    if not kept or min(map(len, kept)) == 0:
        raise UserError("a character n-gram needs words")
    if min(frequencies[word] for word in kept) <= 0:
        raise ValueError("frequencies must be above zero")
    symbols = tuple(sorted({BEGIN, END, UNKNOWN, WORD_BOUNDARY, *(c for word in kept for c in word)}))
    number = {symbol: place for place, symbol in enumerate(symbols)}
    text = WORD_BOUNDARY + WORD_BOUNDARY.join(kept) + WORD_BOUNDARY
    tokens = np.array([number[c] for c in text], dtype=np.int64)
    weights = np.array([frequencies[word] / unit for word in kept])
    marks = (number[WORD_BOUNDARY], number[BEGIN], number[END])
    tables = [
        _counts(tokens, weights, size=size, marks=marks, symbols=len(symbols), ends=1 / sentence_words)
        for size in range(1, order + 1)
    ]
    return _estimate(tables, symbols)


def _counts(
    tokens: Int64[np.ndarray, " tokens"],
    weights: Float64[np.ndarray, " entries"],
    *,
    size: int,
    marks: tuple[int, int, int],
    symbols: int,
    ends: float,
) -> tuple[Rows, Numbers]:
    """n-grams within each word and its boundaries, with the sum of the frequencies of the words."""
    boundary, begin, end = marks
    borders = np.flatnonzero(tokens == boundary)
    lengths = np.diff(borders)  # of each word and one boundary
    word = np.repeat(np.arange(len(lengths)), lengths)
    places = np.arange(len(word))  # every character, and the boundary before each word
    inside = places + size - 1 <= borders[word + 1]
    if size == 1:
        places = places + 1  # the boundary before a word is predicted by the word before
        inside = np.ones(len(places), dtype=bool)
    starts = places[inside]
    rows = np.stack([tokens[starts + offset] for offset in range(size)], axis=1)
    found, many = counted(rows, words=symbols, weights=weights[word[inside]])
    # Some boundaries are the beginning or the end of a sentence.
    for column, mark in ((size - 1, end), (0, begin)):
        if mark == begin and size == 1:  # never predicted
            continue
        here = found[:, column] == boundary
        other = found[here].copy()
        other[:, column] = mark
        found = np.concatenate([found, other])
        many = np.concatenate([np.where(here, many * (1 - ends), many), many[here] * ends])
    return found[many > 0], many[many > 0]


def _estimate(tables: list[tuple[Rows, Numbers]], symbols: tuple[str, ...]) -> NgramArrays:
    (single, many), size = tables[0], len(symbols)
    kinds, total = len(single), many.sum()
    probs = np.full(size, kinds / (total + kinds) / (size - 1))  # uniform over all but <s>
    probs[single[:, 0]] += many / (total + kinds)
    log_probs = np.log10(probs)
    log_probs[symbols.index(BEGIN)] = NEVER
    levels = [Level(np.arange(size, dtype=np.int64), log_probs, np.zeros(size))]
    for rows, many in tables[1:]:
        contexts = find(levels, rows[:, :-1], words=size)
        shorter = probs[find(levels, rows[:, 1:], words=size)]
        totals = np.bincount(contexts, weights=many, minlength=len(probs))
        kinds = np.bincount(contexts, minlength=len(probs))
        probs = (many + kinds[contexts] * shorter) / (totals + kinds)[contexts]
        shares = np.where(kinds > 0, kinds / np.maximum(totals + kinds, UNIT), 1.0)
        levels[-1] = Level(levels[-1].keys, levels[-1].log_probs, np.log10(shares))
        keys = contexts * size + rows[:, -1]
        order = np.argsort(keys)
        probs = probs[order]
        levels.append(Level(keys[order], np.log10(probs), np.zeros(len(keys))))
    return NgramArrays(symbols, tuple(levels))
