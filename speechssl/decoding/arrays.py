r"""n-gram models as arrays: millions of n-grams in memory, scored, built and written without a loop over them.

An n-gram is a row of word numbers, oldest word first. A level holds the n-grams of one length, sorted; the key of an
n-gram is the place of its first words in the level below times the number of words, plus its last word. Every n-gram's
first words are therefore in the level below, as KenLM requires. `speechssl.decoding.arpa` describes the format of the
file, and its `NgramModel` scores the same.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64

from speechssl.config import UserError
from speechssl.decoding.arpa import BEGIN, END, UNKNOWN, NgramModel, Perplexity
from speechssl.files import replacing

MARKS = (BEGIN, END, UNKNOWN)
NEVER = -99.0  # log10 of a probability of zero, by ARPA's convention
NO_WORD = -1  # in a row: before the beginning of a sentence, or a word that the model lacks
_CHUNK = 1 << 17  # rows that are text at once
_ROUNDING = 1e-2  # excess of a context's sum that rounded or quantised probabilities may have
_LEAST = 1e-9  # mass that is left to words that do not follow a context

Rows = Int64[np.ndarray, "_ _"]  # n-grams x words of each
Numbers = Float64[np.ndarray, " _"]  # one per n-gram


@dataclass(frozen=True)
class Level:
    """The n-grams of one length, by their keys, which are sorted.

    Attributes:
        keys: place of the first words in the level below x number of words + last word.
        log_probs: log10 of the probability of the last word after the others.
        backoffs: log10 of the back-off weight of the n-gram as a context; zero where nothing follows it.
    """

    keys: Int64[np.ndarray, " _"]
    log_probs: Numbers
    backoffs: Numbers


@dataclass(frozen=True)
class NgramArrays:
    """A back-off model.

    Attributes:
        words: word of each number, with `<s>`, `</s>` and `<unk>`.
        levels: n-grams of 1, 2, … words; the first level has every word, in the order of ``words``.
    """

    words: tuple[str, ...]
    levels: tuple[Level, ...]

    @property
    def order(self) -> int:
        """Words of the longest n-gram."""
        return len(self.levels)

    @cached_property
    def numbers(self) -> dict[str, int]:
        """Number of each word."""
        return {word: number for number, word in enumerate(self.words)}

    def rows(self, size: int) -> Rows:
        """The n-grams of one length."""
        level = self.levels[size - 1]
        contexts, words = np.divmod(level.keys, len(self.words))
        if size == 1:
            return words[:, None]
        return np.concatenate([self.rows(size - 1)[contexts], words[:, None]], axis=1)

    def find(self, rows: Rows) -> Int64[np.ndarray, " _"]:
        """Place of each n-gram in its level; -1 where it is missing."""
        return find(self.levels, rows, words=len(self.words))

    def log_prob(self, rows: Rows) -> Numbers:
        """log10 of the probability of each row's last word after the others.

        Args:
            rows: word numbers; `NO_WORD` shortens the context, and is as probable as `<unk>` at the end.
        """
        rows = rows[:, -self.order :].copy()
        rows[rows[:, -1] == NO_WORD, -1] = self.numbers[UNKNOWN]
        found = self.levels[0].log_probs[rows[:, -1]]
        for size in range(2, rows.shape[1] + 1):
            contexts = self.find(rows[:, -size:-1])
            backoffs = np.where(contexts < 0, 0.0, self.levels[size - 2].backoffs[contexts])
            keys = contexts * len(self.words) + rows[:, -1]
            places = _places(self.levels[size - 1].keys, np.where(contexts < 0, -1, keys))
            found = np.where(places < 0, found + backoffs, self.levels[size - 1].log_probs[places])
        return found

    def encode(self, sentences: Iterable[str], *, order: int | None = None) -> Rows:
        """A row for each word of the sentences and for each end, with the words before it.

        Args:
            sentences: words separated by spaces.
            order: words of a row [default: the order of the model].
        """
        number, width = self.numbers, order or self.order
        begin, end = number[BEGIN], number[END]
        padded = (
            [*[NO_WORD] * (width - 2), begin, *(number.get(word, NO_WORD) for word in sentence.split()), end]
            for sentence in sentences
        )
        windows = [
            np.lib.stride_tricks.sliding_window_view(np.array(each, dtype=np.int64), width)
            for each in ((row[1:] if width == 1 else row) for row in padded)
        ]
        return np.concatenate(windows) if windows else np.zeros((0, width), dtype=np.int64)

    def perplexity(self, sentences: Sequence[str]) -> Perplexity:
        """Like `speechssl.decoding.arpa.perplexity`.

        Raises:
            ValueError: no sentences.
        """
        rows = self.encode(sentences)
        if len(rows) == 0:
            raise ValueError("perplexity needs at least one sentence")
        value = float(10 ** -self.log_prob(rows).mean())
        lacking = (rows[:, -1] == NO_WORD) | (rows[:, -1] == self.numbers[UNKNOWN])
        return Perplexity(value=round(value, 12), words=len(rows), unknown=int(lacking.sum()))

    def as_model(self) -> NgramModel:
        """The same model by n-gram, for small ones."""
        grams = [[tuple(self.words[n] for n in row) for row in self.rows(k + 1).tolist()] for k in range(self.order)]
        each = list(zip(grams, self.levels, strict=True))
        return NgramModel(
            log_probs=tuple(dict(zip(names, level.log_probs.tolist(), strict=True)) for names, level in each),
            backoffs=tuple(
                {gram: weight for gram, weight in zip(names, level.backoffs.tolist(), strict=True) if weight != 0}
                for names, level in each
            ),
        )

    def write(self, path: Path) -> None:
        """Write an ARPA file, whole or not at all; equal models give equal files.

        Raises:
            OSError: the file cannot be written.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            counts = "".join(f"ngram {size}={len(level.keys)}\n" for size, level in enumerate(self.levels, start=1))
            file.write(f"\\data\\\n{counts}".encode())
            for size in range(1, self.order + 1):
                file.write(f"\n\\{size}-grams:\n".encode())
                file.writelines(chunk.encode() for chunk in self._lines(size))
            file.write(b"\n\\end\\\n")

    def _lines(self, size: int) -> Iterator[str]:
        level, rows = self.levels[size - 1], self.rows(size)
        for first in range(0, len(rows), _CHUNK):
            part = slice(first, first + _CHUNK)
            texts = [" ".join([self.words[number] for number in row]) for row in rows[part].tolist()]
            probs, backoffs = level.log_probs[part].tolist(), level.backoffs[part].tolist()
            if size == self.order:
                yield "".join(f"{prob:.7g}\t{text}\n" for prob, text in zip(probs, texts, strict=True))
            else:
                each = zip(probs, texts, backoffs, strict=True)
                yield "".join(f"{prob:.7g}\t{text}\t{backoff:.7g}\n" for prob, text, backoff in each)


def find(levels: Sequence[Level], rows: Rows, *, words: int) -> Int64[np.ndarray, " _"]:
    """Place of each n-gram in its level; -1 where it is missing."""
    places = rows[:, 0].copy()
    for column in range(1, rows.shape[1]):
        keys = places * words + rows[:, column]
        missing = (places < 0) | (rows[:, column] < 0)
        places = _places(levels[column].keys, np.where(missing, -1, keys))
    return places


def _places(keys: Int64[np.ndarray, " n"], wanted: Int64[np.ndarray, " m"]) -> Int64[np.ndarray, " m"]:
    if len(keys) == 0:
        return np.full(len(wanted), -1, dtype=np.int64)
    places = np.searchsorted(keys, wanted)
    places[places == len(keys)] = 0
    return np.where(keys[places] == wanted, places, -1)


def closed(rows: Sequence[Rows], *, words: int) -> list[Level]:
    """Levels with the given n-grams and the first words of each; their numbers are NaN.

    Args:
        rows: n-grams of 1, 2, … words in any order, also repeated; those of one word are not read.
        words: number of words.
    """
    wanted = list(rows)
    for size in range(len(wanted), 2, -1):
        wanted[size - 2] = np.concatenate([wanted[size - 2], wanted[size - 1][:, :-1]])
    levels = [_empty(np.arange(words, dtype=np.int64))]
    for each in wanted[1:]:
        contexts = find(levels, each[:, :-1], words=words)
        levels.append(_empty(distinct(contexts * words + each[:, -1])))
    return levels


def distinct(keys: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " m"]:
    """Sorted distinct values; on millions of them several times as fast as `numpy.unique`, which hashes."""
    ordered = np.sort(keys)
    return ordered[np.concatenate([[True], ordered[1:] != ordered[:-1]])] if len(ordered) else ordered


def _empty(keys: Int64[np.ndarray, " n"]) -> Level:
    nothing = np.full(len(keys), np.nan)
    return Level(keys, nothing, nothing.copy())


def from_rows(
    words: Sequence[str], rows: Sequence[Rows], log_probs: Sequence[Numbers], backoffs: Sequence[Numbers]
) -> NgramArrays:
    """A model of n-grams in any order.

    Args:
        words: word of each number; `<unk>` is added where it is missing, with a probability of zero.
        rows: n-grams of 1, 2, … words; none twice.
        log_probs: log10 of their probabilities.
        backoffs: log10 of their back-off weights.

    First words that are missing are added with the probability that they have by backing off.

    Raises:
        ValueError: a word without a probability, or an n-gram given twice.
    """
    names = tuple(words)
    if UNKNOWN not in names:
        names = (*names, UNKNOWN)
        unknown = np.array([[len(names) - 1]], dtype=np.int64)
        rows = [np.concatenate([rows[0], unknown]), *rows[1:]]
        log_probs = [np.append(log_probs[0], NEVER), *log_probs[1:]]
        backoffs = [np.append(backoffs[0], 0.0), *backoffs[1:]]
    orders = [np.lexsort(each.T[::-1]) for each in rows]  # a search for sorted keys is several times as fast
    rows = [each[order] for each, order in zip(rows, orders, strict=True)]
    log_probs = [each[order] for each, order in zip(log_probs, orders, strict=True)]
    backoffs = [each[order] for each, order in zip(backoffs, orders, strict=True)]
    levels = closed(rows, words=len(names))
    for size, (grams, probs, weights) in enumerate(zip(rows, log_probs, backoffs, strict=True), start=1):
        places = find(levels, grams, words=len(names))
        if (np.diff(places) == 0).any():
            raise ValueError(f"an n-gram of {size} words is given twice")
        level = levels[size - 1]
        level.log_probs[places] = probs
        level.backoffs[places] = weights
        model = NgramArrays(names, tuple(levels[:size]))
        missing = np.isnan(level.log_probs)
        if size == 1 and missing.any():
            raise ValueError(f"{int(missing.sum())} words have no probability")
        if missing.any():
            shorter = NgramArrays(names, tuple(levels[: size - 1]))
            grams = model.rows(size)[missing]
            contexts = shorter.find(grams[:, :-1])
            level.log_probs[missing] = shorter.levels[-1].backoffs[contexts] + shorter.log_prob(grams[:, 1:])
            level.backoffs[missing] = 0.0
    return NgramArrays(names, tuple(levels))


def from_model(model: NgramModel) -> NgramArrays:
    """The same model as arrays."""
    words = tuple(dict.fromkeys(chain((word for (word,) in model.log_probs[0]), MARKS)))
    number = {word: place for place, word in enumerate(words)}
    absent = [(word,) for word in words if (word,) not in model.log_probs[0]]
    tables = [model.log_probs[0] | dict.fromkeys(absent, NEVER), *model.log_probs[1:]]
    rows = [
        np.array([[number[word] for word in gram] for gram in table], dtype=np.int64).reshape(-1, size)
        for size, table in enumerate(tables, start=1)
    ]
    probs = [np.array(list(table.values()), dtype=np.float64) for table in tables]
    backoffs = [
        np.array([weights.get(gram, 0.0) for gram in table], dtype=np.float64)
        for table, weights in zip(tables, model.backoffs, strict=True)
    ]
    return from_rows(words, rows, probs, backoffs)


def renormalized(words: tuple[str, ...], levels: Sequence[Level]) -> NgramArrays:
    """The model with the given probabilities, whose back-off weights make each context's probabilities sum to one.

    A context's weight is (1 - sum of p(w | context)) / (1 - sum of p(w | shorter context)), both sums over the words
    that follow it in the model (Katz 1987).

    Raises:
        UserError: the probabilities after a context sum to more than one.
    """
    done = [Level(levels[0].keys, levels[0].log_probs, np.zeros(len(words)))]
    for level in levels[1:]:
        contexts = level.keys // len(words)
        below = NgramArrays(words, tuple(done))
        longer = NgramArrays(words, (*done, Level(level.keys, level.log_probs, np.zeros(len(level.keys)))))
        shorter = below.log_prob(longer.rows(len(done) + 1)[:, 1:])
        many = len(done[-1].keys)
        kept, covered = (
            1 - np.bincount(contexts, weights=10**probs, minlength=many) for probs in (level.log_probs, shorter)
        )
        if (kept < -_ROUNDING).any():
            raise UserError(f"n-grams of {len(done) + 1} words: the probabilities after a context sum to more than one")
        weights = np.log10(np.maximum(kept, _LEAST) / np.maximum(covered, _LEAST))
        followed = np.bincount(contexts, minlength=many) > 0
        done[-1] = Level(done[-1].keys, done[-1].log_probs, np.where(followed, weights, 0.0))
        done.append(longer.levels[-1])
    return NgramArrays(words, tuple(done))
