r"""n-gram models, in memory and as ARPA files (the text format of n-gram tools).

The format is that of SRILM's `ngram-format(5)`: log10 probabilities, and log10 back-off weights of n-grams that are
contexts. A word after a context that the model does not hold is scored by the shorter context, times the longer one's
back-off weight (Katz 1987). Scores agree with KenLM's (Heafield 2011).
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from speechssl.config import UserError
from speechssl.files import replacing

BEGIN, END, UNKNOWN = "<s>", "</s>", "<unk>"
_NEVER = -99.0  # log10 of a probability of zero, by convention: that of the mark that begins a sentence

_LINE = 1 << 16  # characters; no n-gram is as long
_SHORTEST = 5  # bytes of an n-gram: "-1", a tab, a letter, the end of the line
_HIGHEST_ORDER = 32
_ABOVE_ONE = 1e-3  # largest log10 of a probability accepted: that of one, with rounding

Gram = tuple[str, ...]


@dataclass(frozen=True)
class NgramModel:
    """Probabilities and back-off weights; entry n - 1 of each tuple holds the n-grams.

    Attributes:
        log_probs: log10 of the probability of an n-gram's last word after the others.
        backoffs: log10 of the back-off weight; zero where an n-gram is missing.
    """

    log_probs: tuple[dict[Gram, float], ...]
    backoffs: tuple[dict[Gram, float], ...]

    @property
    def order(self) -> int:
        """Words of the longest n-gram."""
        return len(self.log_probs)

    @property
    def words(self) -> list[str]:
        """Sorted words, without the marks of beginning, end and unknown."""
        return sorted(word for (word,) in self.log_probs[0] if word not in (BEGIN, END, UNKNOWN))

    def log_prob(self, word: str, context: Gram = ()) -> float:
        """log10 of the probability of a word after a context of any length, oldest word first.

        A word outside the vocabulary of the model is scored as `<unk>`, in the context too.
        """
        known = self.log_probs[0]
        gram = tuple(each if (each,) in known else UNKNOWN for each in (*context, word))[-self.order :]
        weight = 0.0
        while len(gram) > 1:
            found = self.log_probs[len(gram) - 1].get(gram)
            if found is not None:
                return weight + found
            weight += self.backoffs[len(gram) - 2].get(gram[:-1], 0.0)
            gram = gram[1:]
        return weight + known.get(gram, _NEVER)

    def score(self, sentence: str) -> float:
        """log10 of the probability of a sentence, its end included."""
        words = (BEGIN, *sentence.split(), END)
        return sum(self.log_prob(words[place], words[:place]) for place in range(1, len(words)))

    def has_word(self, word: str) -> bool:
        """Whether a word is in the vocabulary of the model."""
        return (word,) in self.log_probs[0] and word != UNKNOWN


@dataclass(frozen=True)
class Perplexity:
    """Perplexity of a model on a text.

    Attributes:
        value: 10 to the mean of minus log10 of the probability of a word; smaller is better.
        words: number of scored words, each sentence's end included.
        unknown: number of them outside the model's vocabulary. They are scored as `<unk>`, so values of models with
            different vocabularies cannot be compared.
    """

    value: float
    words: int
    unknown: int


def perplexity(model: NgramModel, sentences: Iterable[str]) -> Perplexity:
    """The perplexity of a model on sentences.

    Raises:
        ValueError: no sentences.

    >>> model = NgramModel(log_probs=({("a",): -1.0, ("</s>",): -0.5},), backoffs=({},))
    >>> perplexity(model, ["a"])  # 10 to the mean of 1 and 0.5
    Perplexity(value=5.623413251903, words=2, unknown=0)
    """
    total, words, unknown = 0.0, 0, 0
    for sentence in sentences:
        spoken = sentence.split()
        total += model.score(sentence)
        words += len(spoken) + 1
        unknown += sum(not model.has_word(word) for word in spoken)
    if words == 0:
        raise ValueError("perplexity needs at least one sentence")
    return Perplexity(value=round(10 ** (-total / words), 12), words=words, unknown=unknown)


def write_arpa(model: NgramModel, path: Path) -> None:
    """Write an ARPA file, whole or not at all; equal models give equal files.

    KenLM cannot read a model of order 1, so such a model is written with order 2 and a single pair, which changes no
    probability.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.writelines(f"{line}\n".encode() for line in _lines(_readable(model)))


def read_arpa(path: Path) -> NgramModel:
    """Read an ARPA file.

    Raises:
        UserError: no such file, or not an ARPA file.
    """
    log_probs: list[dict[Gram, float]] = []
    backoffs: list[dict[Gram, float]] = []
    for size, gram, log_prob, backoff in _entries(path):
        while len(log_probs) < size:
            log_probs.append({})
            backoffs.append({})
        log_probs[size - 1][gram] = log_prob
        if backoff != 0:
            backoffs[size - 1][gram] = backoff
    return NgramModel(log_probs=tuple(log_probs), backoffs=tuple(backoffs))


def arpa_words(path: Path) -> list[str]:
    """Sorted words of an ARPA file; only its 1-grams are read.

    Raises:
        UserError: as `read_arpa`.
    """
    words: list[str] = []
    for size, gram, _, _ in _entries(path):
        if size > 1:
            break
        words.append(gram[0])
    return sorted(set(words) - {BEGIN, END, UNKNOWN})


def _readable(model: NgramModel) -> NgramModel:
    if model.order > 1:
        return model
    pair = {(BEGIN, END): model.log_prob(END)}
    return NgramModel(log_probs=(*model.log_probs, pair), backoffs=(*model.backoffs, {}))


def _lines(model: NgramModel) -> Iterator[str]:
    yield "\\data\\"
    for size, grams in enumerate(model.log_probs, start=1):
        yield f"ngram {size}={len(grams)}"
    for size, grams in enumerate(model.log_probs, start=1):
        yield f"\n\\{size}-grams:"
        for gram in sorted(grams):
            # Eight digits hold more than the single precision that readers keep.
            backoff = f"\t{model.backoffs[size - 1].get(gram, 0.0):.8g}" if size < model.order else ""
            yield f"{grams[gram]:.8g}\t{' '.join(gram)}{backoff}"
    yield "\n\\end\\"


def _entries(path: Path) -> Iterator[tuple[int, Gram, float, float]]:
    """Size, n-gram, log10 probability and back-off weight of each entry, in the order of the file."""
    size, seen_data, longest = 0, False, path.stat().st_size if path.is_file() else 0
    try:
        with path.open(encoding="utf-8", newline="\n") as file:
            for number, line in enumerate(iter(lambda: file.readline(_LINE), ""), start=1):
                text = line.strip("\r\n\t ")
                if len(line) == _LINE:
                    break
                if text == "\\data\\":
                    seen_data = True
                elif number > 100 and not seen_data:
                    break
                elif seen_data and size == 0 and text.startswith("ngram "):
                    _check_count(text, size=longest)
                elif not seen_data or not text or text.startswith("ngram "):
                    continue
                elif text == "\\end\\":
                    return
                elif text.startswith("\\") and text.endswith("-grams:"):
                    size = int(text[1:].removesuffix("-grams:"))
                else:
                    yield _entry(text, size)
    except FileNotFoundError:
        raise UserError(f"{path}: no such language model") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, ValueError, IndexError):
        raise UserError(f"{path}: not an ARPA language model") from None
    raise UserError(f"{path}: not an ARPA language model, or cut short (no \\end\\)")


def _entry(text: str, size: int) -> tuple[int, Gram, float, float]:
    # Only spaces and tabs are separators: other whitespace may be part of a word.
    fields = text.replace("\t", " ").split(" ")
    if len(fields) not in (size + 1, size + 2) or size == 0:
        raise ValueError(text)
    backoff = float(fields[size + 1]) if len(fields) == size + 2 else 0.0
    log_prob = float(fields[0])
    if not log_prob < _ABOVE_ONE or math.isnan(backoff) or backoff == math.inf:  # NaN fails the comparison
        raise ValueError(text)
    return size, tuple(fields[1 : size + 1]), log_prob, backoff


def _check_count(text: str, *, size: int) -> None:
    """Raise `ValueError` where `ngram N=COUNT` exceeds what the file can hold: KenLM allocates memory for COUNT."""
    order, _, count = text.removeprefix("ngram ").partition("=")
    if not 0 < int(order) <= _HIGHEST_ORDER or not 0 <= int(count) <= size // _SHORTEST:
        raise ValueError(text)
