r"""Static linear interpolation of two n-gram models into one.

The mixture is that of SRILM's `ngram -mix-lm`: it holds the n-grams of both models with the probability

    p(w | h) = weight x p_first(w | h) + (1 - weight) x p_second(w | h),

each by backing off where a model lacks the n-gram, and back-off weights that make the probabilities after each context
sum to one. A word that a model lacks has no probability in it. The weight is the one of the highest likelihood on
held-out sentences, by expectation-maximisation (Jelinek and Mercer 1980), which has one maximum.
"""

from collections.abc import Collection, Sequence

import numpy as np
from jaxtyping import Float64, Int64

from speechssl.decoding.arpa import BEGIN, END, UNKNOWN
from speechssl.decoding.arrays import (
    NEVER,
    NO_WORD,
    Level,
    NgramArrays,
    Numbers,
    Rows,
    closed,
    from_rows,
    renormalized,
)

LEAST_WEIGHT = 0.01  # of either model: words that only one of them has can always be found
_ROUNDS = 100  # of expectation-maximisation at most
_CLOSE = 1e-5  # change of the weight that ends it


def mix(first: NgramArrays, second: NgramArrays, weight: float) -> NgramArrays:
    """The interpolated model.

    Args:
        first: a model.
        second: another one.
        weight: of the first, between 0 and 1; the words of both models are kept at either end.

    Raises:
        ValueError: a weight outside 0 to 1.
        UserError: the probabilities of a model sum to more than one.
    """
    if not 0 <= weight <= 1:
        raise ValueError(f"weight must be 0 to 1, got {weight}")
    words = tuple(sorted({*first.words, *second.words}))
    number = {word: place for place, word in enumerate(words)}
    models = (first, second)
    there = [np.array([number[word] for word in model.words], dtype=np.int64) for model in models]
    rows: list[Rows] = []
    for size in range(1, max(first.order, second.order) + 1):
        parts = [to[model.rows(size)] for model, to in zip(models, there, strict=True) if size <= model.order]
        rows.append(np.concatenate(parts))
    levels: list[Level] = []
    for size, level in enumerate(closed(rows, words=len(words)), start=1):
        levels.append(Level(level.keys, level.log_probs, np.zeros(len(level.keys))))
        grams = NgramArrays(words, tuple(levels)).rows(size)
        probs = sum(
            share * _probs(model, grams, _back(model, words))
            for model, share in zip(models, (weight, 1 - weight), strict=True)
        )
        logs = np.log10(np.maximum(probs, 10**NEVER))
        levels[-1] = Level(level.keys, logs, np.zeros(len(level.keys)))
    return renormalized(words, levels)


def best_weight(first: NgramArrays, second: NgramArrays, sentences: Sequence[str]) -> float:
    """The weight of the first model with the highest likelihood on sentences, between 0.01 and 0.99.

    Words that both models lack do not count.

    Args:
        first: a model.
        second: another one.
        sentences: held-out ones, words separated by spaces.

    Raises:
        ValueError: no sentence.
    """
    each = [_token_probs(model, sentences) for model in (first, second)]
    one, two = (probs[(each[0] > 0) | (each[1] > 0)] for probs in each)
    if len(one) == 0:
        raise ValueError("the weight of a mixture needs at least one sentence")
    weight = 0.5
    for _ in range(_ROUNDS):
        before, weight = weight, float(np.mean(weight * one / (weight * one + (1 - weight) * two)))
        if abs(weight - before) < _CLOSE:
            break
    return round(min(max(weight, LEAST_WEIGHT), 1 - LEAST_WEIGHT), 4)


def restricted(model: NgramArrays, words: Collection[str]) -> NgramArrays:
    """The model without the n-grams of other words; what they had goes to `<unk>` and to shorter contexts."""
    kept = {BEGIN, END, *words}
    names = tuple(word for word in model.words if word in kept and word != UNKNOWN)
    number = {word: place for place, word in enumerate(names)}
    there = np.array([number.get(word, NO_WORD) for word in model.words], dtype=np.int64)
    rows: list[Rows] = []
    probs: list[Numbers] = []
    for size, level in enumerate(model.levels, start=1):
        grams = there[model.rows(size)]
        inside = (grams >= 0).all(axis=1)
        rows.append(grams[inside])
        probs.append(level.log_probs[inside])
    left = max(1 - float((10 ** probs[0]).sum()), 10**NEVER)
    rows[0] = np.append(rows[0], [[len(names)]], axis=0)
    probs[0] = np.append(probs[0], np.log10(left))
    found = from_rows((*names, UNKNOWN), rows, probs, [np.zeros(len(each)) for each in probs])
    return renormalized(found.words, found.levels)


def _back(model: NgramArrays, words: Sequence[str]) -> Int64[np.ndarray, " words"]:
    """Number in a model of each word; `NO_WORD` where the model lacks it."""
    return np.array([model.numbers.get(word, NO_WORD) for word in words], dtype=np.int64)


def _probs(model: NgramArrays, grams: Rows, back: Int64[np.ndarray, " words"]) -> Float64[np.ndarray, " ngrams"]:
    own = back[grams]
    return np.where(own[:, -1] == NO_WORD, 0.0, 10 ** model.log_prob(own))


def _token_probs(model: NgramArrays, sentences: Sequence[str]) -> Float64[np.ndarray, " tokens"]:
    rows = model.encode(sentences)
    return np.where(rows[:, -1] == NO_WORD, 0.0, 10 ** model.log_prob(rows)) if len(rows) else np.zeros(0)
