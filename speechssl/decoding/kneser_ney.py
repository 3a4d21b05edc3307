r"""Interpolated modified Kneser-Ney estimates of n-gram models.

Chen and Goodman, "An empirical study of smoothing techniques for language modeling" (1999), section 3 and appendix A,
in the details of KenLM's `lmplz` (Heafield et al., "Scalable modified Kneser-Ney language model estimation", ACL 2013):
the shortest model is interpolated with the uniform one over all words, the end and `<unk>`, and n-grams that begin a
sentence keep their counts at lower orders. Of a large text the longest n-grams that occur once are dropped, and their
probability goes to shorter contexts. A text of 100 MB (18 million words) takes less than 3 GB of memory.
"""

from array import array
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Int64

from speechssl.config import UserError
from speechssl.decoding.arpa import BEGIN, END, UNKNOWN
from speechssl.decoding.arrays import NEVER, Level, NgramArrays, Numbers, Rows, find

# Discounts of counts of 1, 2, and 3 or more where the text is too small to estimate them (lmplz --discount_fallback).
FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)
MOST = 3_000_000  # longest n-grams up to which none is dropped: an ARPA file of 100 MB
_PRUNED_ORDER = 3  # words of the shortest n-gram that is dropped
_KEY_BITS = 62  # of a number that stands for an n-gram


def kneser_ney(
    sentences: Iterable[Sequence[str]], *, order: int = 3, vocabulary: Iterable[str] = (), most: int = MOST
) -> NgramArrays:
    """Estimate a model.

    Args:
        sentences: words of each; read once.
        order: words of the longest n-gram; smaller in the model when no sentence is that long.
        vocabulary: words added to the model; they are as probable as `<unk>`.
        most: where there are more n-grams of the highest order, if that is 3 or more, those that occur once are
            dropped.

    Raises:
        UserError: no sentence.

    >>> kneser_ney([["a", "b"], ["a"]], order=2).words
    ('</s>', '<s>', '<unk>', 'a', 'b')
    """
    tokens, names = _numbered(sentences)
    if len(tokens) == 0:
        raise UserError("no sentence to train a language model on")
    words = tuple(sorted({*names, UNKNOWN, *vocabulary}))
    number = {word: place for place, word in enumerate(words)}
    tokens = np.array([number[name] for name in names], dtype=np.int64)[tokens]
    tables = _adjusted_counts(tokens, begin=number[BEGIN], words=len(words), order=order)
    return _estimate(tables, words=words, most=most)


def discounts(counts: Iterable[int] | Int64[np.ndarray, " _"]) -> tuple[float, float, float]:
    """Discounts of counts of 1, 2, and 3 or more: Chen and Goodman 1999, equation 26.

    With n_i the number of n-grams of count i, Y = n_1 / (n_1 + 2 n_2) and D_i = i - (i + 1) Y n_(i+1) / n_i. Where an
    n_i is zero or a D_i would not be above 0, as with tiny texts, lmplz's fallback is used for all three.

    >>> discounts([1, 1, 1, 1, 2, 2, 3, 4])
    (0.5, 1.25, 1.0)
    >>> discounts([1, 1, 2])
    (0.5, 1.0, 1.5)
    """
    values = counts if isinstance(counts, np.ndarray) else np.array(list(counts), dtype=np.int64)
    number = np.bincount(np.minimum(values, 5), minlength=6).tolist()
    if not all(number[i] for i in (1, 2, 3)):
        return FALLBACK_DISCOUNTS
    y = number[1] / (number[1] + 2 * number[2])
    one, two, three = (i - (i + 1) * y * number[i + 1] / number[i] for i in (1, 2, 3))
    if min(one, two, three) <= 0:
        return FALLBACK_DISCOUNTS
    return one, two, three


def _numbered(sentences: Iterable[Sequence[str]]) -> tuple[Int64[np.ndarray, " tokens"], list[str]]:
    """Numbers of all words one after the other, each sentence between its marks, and the word of each number."""
    number = {BEGIN: 0, END: 1}
    tokens = array("i")
    for words in sentences:
        if words:
            tokens.append(0)
            tokens.extend([number.setdefault(word, len(number)) for word in words])
            tokens.append(1)
    return np.array(tokens, dtype=np.int64), list(number)


def _adjusted_counts(
    tokens: Int64[np.ndarray, " tokens"], *, begin: int, words: int, order: int
) -> list[tuple[Rows, Int64[np.ndarray, " _"]]]:
    """Counts of the longest n-grams; for shorter ones, the number of different words that precede them.

    An n-gram that begins a sentence has no preceding word and keeps its count.
    """
    starts = np.flatnonzero(tokens == begin)
    lengths = np.diff(np.append(starts, len(tokens)))
    order = min(order, int(lengths.max()))
    left = np.repeat(starts + lengths, lengths) - np.arange(len(tokens))  # tokens of the sentence from each one on
    rows, many = counted(_windows(tokens, np.flatnonzero(left >= order), order), words=words)
    tables = [(rows, many.astype(np.int64))]
    for size in range(order - 1, 0, -1):
        first = _windows(tokens, starts[lengths >= size], size)
        rows, many = counted(np.concatenate([tables[0][0][:, 1:], first]), words=words)
        tables.insert(0, (rows, many.astype(np.int64)))
    single, many = tables[0]
    predicted = single[:, 0] != begin
    tables[0] = (single[predicted], many[predicted])
    return tables


def _windows(tokens: Int64[np.ndarray, " tokens"], starts: Int64[np.ndarray, " n"], size: int) -> Rows:
    return np.stack([tokens[starts + place] for place in range(size)], axis=1)


def counted(rows: Rows, *, words: int, weights: Numbers | None = None) -> tuple[Rows, Numbers]:
    """Distinct n-grams in sorted order, with the sum of the weights of each, or its number.

    Args:
        rows: n-grams, repeated ones too.
        words: number of words.
        weights: of each row [default: one].
    """
    keys, limit = rows[:, 0], words
    for column in range(1, rows.shape[1]):
        if (limit * words).bit_length() > _KEY_BITS:
            ordered = np.unique(keys)
            keys, limit = np.searchsorted(ordered, keys), len(ordered)
        keys, limit = keys * words + rows[:, column], limit * words
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    first = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])) if len(ordered) else order
    summed = np.diff(np.append(first, len(ordered))) if weights is None else np.add.reduceat(weights[order], first)
    return rows[order[first]], summed.astype(np.float64)


def _estimate(
    tables: Sequence[tuple[Rows, Int64[np.ndarray, " _"]]], *, words: tuple[str, ...], most: int
) -> NgramArrays:
    single, many = tables[0]
    amounts = np.array([0.0, *discounts(many)])
    taken = amounts[np.minimum(many, 3)]
    uniform = 1 / (len(words) - 1)  # all but <s>
    probs = np.full(len(words), taken.sum() / many.sum() * uniform)
    probs[single[:, 0]] += (many - taken) / many.sum()
    log_probs = np.log10(probs)
    log_probs[words.index(BEGIN)] = NEVER
    levels = [Level(np.arange(len(words), dtype=np.int64), log_probs, np.zeros(len(words)))]
    for size, (rows, many) in enumerate(tables[1:], start=2):
        contexts = find(levels, rows[:, :-1], words=len(words))
        shorter = probs[find(levels, rows[:, 1:], words=len(words))]
        amounts = np.array([0.0, *discounts(many)])
        taken = amounts[np.minimum(many, 3)]
        dropped = (many == 1) & (size == len(tables) and size >= _PRUNED_ORDER and len(rows) > most)
        taken[dropped] = 1.0
        totals, freed = (np.bincount(contexts, weights=each, minlength=len(probs)) for each in (many, taken))
        shares = _divided(freed, totals)
        probs = ((many - taken) / totals[contexts] + shares[contexts] * shorter)[~dropped]
        below = levels[-1]
        levels[-1] = Level(below.keys, below.log_probs, np.log10(np.where(totals > 0, shares, 1.0)))
        keys = (contexts * len(words) + rows[:, -1])[~dropped]
        order = np.argsort(keys)
        probs = probs[order]
        levels.append(Level(keys[order], np.log10(probs), np.zeros(len(keys))))
    return NgramArrays(words, tuple(levels))


def _divided(part: Numbers, whole: Numbers) -> Numbers:
    return np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)
