"""n-gram language models by interpolated modified Kneser-Ney smoothing, as ARPA files that KenLM reads.

Chen and Goodman, "An empirical study of smoothing techniques for language modeling" (1999), section 3 and appendix A,
in the details of KenLM's `lmplz` (Heafield et al., "Scalable modified Kneser-Ney language model estimation", ACL 2013):
the shortest model is interpolated with the uniform one over all words, the end and `<unk>`; n-grams that begin a
sentence keep their counts at lower orders; nothing is pruned. `lmplz` itself is used where it is on the PATH, since it
handles texts that do not fit into memory; the two give the same model up to rounding.

A model of characters is trained on `as_characters` of each sentence. The beam decoder needs one where it has no
lexicon.
"""

import math
import shutil
import subprocess
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from speechssl.config import UserError
from speechssl.decoding.arpa import BEGIN, END, UNKNOWN, Gram, NgramModel, arpa_words, write_arpa
from speechssl.files import move, naming
from speechssl.text import WORD_BOUNDARY

Builder = Literal["auto", "lmplz", "own"]
MAX_ORDER = 5  # KenLM as its Python package builds it reads up to 6
# Discounts of counts of 1, 2, and 3 or more where the text is too small to estimate them (lmplz --discount_fallback).
FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)
_NEVER = -99.0  # log10 of zero, by ARPA's convention
_MARKS = {BEGIN, END, UNKNOWN}


@dataclass(frozen=True)
class NgramSummary:
    """Summary of a trained model.

    Attributes:
        path: the ARPA file.
        order: words of the longest n-gram; smaller than requested when no sentence is that long.
        words: number of distinct words.
        sentences: number of training sentences; empty ones do not count.
        builder: `own`, or `lmplz`.
    """

    path: Path
    order: int
    words: int
    sentences: int
    builder: Literal["lmplz", "own"]


def as_characters(text: str) -> str:
    """A sentence whose words are the characters of `text`, with the mark of the word boundary between its words.

    >>> as_characters("a cab")
    'a | c a b'
    """
    return " ".join(WORD_BOUNDARY.join(text.split()))


def train_ngram(
    sentences: Iterable[str],
    path: Path,
    *,
    order: int = 3,
    vocabulary: Iterable[str] = (),
    builder: Builder = "auto",
) -> NgramSummary:
    """Train an n-gram model and write it as an ARPA file.

    Args:
        sentences: normalised, words separated by spaces; empty ones are left out.
        path: the file to write; its folder is made.
        order: the longest n-gram, 1 to 5. wav2vec 2.0's results are with 4 (of words).
        vocabulary: words added to the model even where no sentence has them; they are as probable as `<unk>`.
        builder: `lmplz` is KenLM's program; `own` is this file; `auto` uses `lmplz` where it is on the PATH and
            supports the request (it takes no `vocabulary`, and KenLM reads no model of order 1 from it).

    Raises:
        UserError: no sentence, a sentence with `<s>`, `</s>` or `<unk>`, `lmplz` requested and missing or failing.
        ValueError: an order outside 1 to 5; a request that `lmplz` does not support.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     summary = train_ngram(["a b", "a c", ""], Path(folder) / "lm.arpa", order=2, builder="own")
    >>> summary.order, summary.words, summary.sentences
    (2, 3, 2)
    """
    if not 1 <= order <= MAX_ORDER:
        raise ValueError(f"order must be 1 to {MAX_ORDER}, got {order}")
    extra = sorted(set(vocabulary))
    plain = order > 1 and not extra
    if builder == "lmplz" and not plain:
        raise ValueError(
            "lmplz takes no vocabulary, and KenLM reads no model of order 1 from it; use the builder 'own'"
        )
    program = shutil.which("lmplz") if builder != "own" and plain else None
    if builder == "lmplz" and program is None:
        raise UserError("lmplz is not on the PATH; build KenLM, or use the builder 'own'")
    if program is not None:
        return _train_with_lmplz(sentences, path, order=order, program=program)
    kept = [words for words in map(_checked_words, sentences) if words]
    model = estimate(kept, order=order, vocabulary=extra)
    write_arpa(model, path)
    return NgramSummary(path, model.order, len(model.words), len(kept), "own")


def estimate(sentences: Sequence[Sequence[str]], *, order: int = 3, vocabulary: Iterable[str] = ()) -> NgramModel:
    """Interpolated modified Kneser-Ney estimates; the arguments are those of `train_ngram`, sentences as words.

    Raises:
        UserError: no sentence.

    >>> model = estimate([["a", "b"], ["a"]], order=2)
    >>> round(10 ** model.log_prob("b", ("a",)), 6)
    0.375
    """
    if not any(sentences):
        raise UserError("no sentence to train a language model on")
    tables = _adjusted_counts([words for words in sentences if words], order=order)
    tables[0].pop((BEGIN,))  # never predicted
    unseen = sorted({UNKNOWN, *vocabulary} - {word for (word,) in tables[0]})
    uniform = 1 / (len(tables[0]) + len(unseen))
    lower: dict[Gram, float] = {}
    log_probs: list[dict[Gram, float]] = []
    backoffs: list[dict[Gram, float]] = []
    for counts in tables:
        totals, freed = _context_masses(counts, discounts(counts.values()))
        amounts = (0.0, *discounts(counts.values()))
        probs: dict[Gram, float] = {}
        for gram, count in counts.items():
            context = gram[:-1]
            shorter = lower[gram[1:]] if context else uniform
            kept = (count - amounts[min(count, 3)]) / totals[context]
            probs[gram] = kept + freed[context] * shorter
        if not log_probs:
            probs |= {(word,): freed[()] * uniform for word in unseen}
        else:
            backoffs.append({context: math.log10(mass) for context, mass in freed.items()})
        log_probs.append({gram: math.log10(prob) for gram, prob in probs.items()})
        lower = probs
    log_probs[0][(BEGIN,)] = _NEVER
    return NgramModel(log_probs=tuple(log_probs), backoffs=(*backoffs, {}))


def discounts(counts: Iterable[int]) -> tuple[float, float, float]:
    """Discounts of counts of 1, 2, and 3 or more: Chen and Goodman 1999, equation 26.

    With n_i the number of n-grams of count i, Y = n_1 / (n_1 + 2 n_2) and D_i = i - (i + 1) Y n_(i+1) / n_i. Where an
    n_i is zero or a D_i would not be above 0, as with tiny texts, lmplz's fallback is used for all three.

    >>> discounts([1, 1, 1, 1, 2, 2, 3, 4])
    (0.5, 1.25, 1.0)
    >>> discounts([1, 1, 2])
    (0.5, 1.0, 1.5)
    """
    number = Counter(counts)
    if not all(number[i] for i in (1, 2, 3)):
        return FALLBACK_DISCOUNTS
    y = number[1] / (number[1] + 2 * number[2])
    one, two, three = (i - (i + 1) * y * number[i + 1] / number[i] for i in (1, 2, 3))
    if min(one, two, three) <= 0:
        return FALLBACK_DISCOUNTS
    return one, two, three


def _checked_words(sentence: str) -> list[str]:
    words = sentence.split()
    marks = sorted(_MARKS.intersection(words))
    if marks:
        raise UserError(f"a sentence holds {marks[0]!r}, which is reserved in language models: {sentence[:60]!r}")
    return words


def _adjusted_counts(sentences: Sequence[Sequence[str]], *, order: int) -> list[Counter[Gram]]:
    """Counts of the longest n-grams; for shorter ones, the number of different words that precede them.

    An n-gram that begins a sentence has no preceding word and keeps its count.
    """
    marked = [(BEGIN, *words, END) for words in sentences]
    order = min(order, max(map(len, marked)))
    longest = Counter(words[first : first + order] for words in marked for first in range(len(words) - order + 1))
    tables = [longest]
    for size in range(order - 1, 0, -1):
        shorter = Counter(gram[1:] for gram in tables[0])
        shorter.update(words[:size] for words in marked if len(words) >= size)
        tables.insert(0, shorter)
    return tables


def _context_masses(
    counts: Mapping[Gram, int], amounts: tuple[float, float, float]
) -> tuple[dict[Gram, int], dict[Gram, float]]:
    """By context: the sum of the counts after it, and the fraction that discounting leaves to shorter contexts."""
    totals: defaultdict[Gram, int] = defaultdict(int)
    kinds: defaultdict[Gram, list[int]] = defaultdict(lambda: [0, 0, 0])
    for gram, count in counts.items():
        totals[gram[:-1]] += count
        kinds[gram[:-1]][min(count, 3) - 1] += 1
    freed = {
        context: sum(amount * many for amount, many in zip(amounts, kinds[context], strict=True)) / total
        for context, total in totals.items()
    }
    return dict(totals), freed


def _train_with_lmplz(sentences: Iterable[str], path: Path, *, order: int, program: str) -> NgramSummary:
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = 0
    with naming(path), tempfile.TemporaryDirectory(dir=path.parent, prefix=".lmplz-") as scratch:
        text, arpa = Path(scratch) / "text", Path(scratch) / "arpa"
        with text.open("w", encoding="utf-8") as file:
            for words in map(_checked_words, sentences):
                kept += bool(words)
                file.write(" ".join(words) + "\n" if words else "")
        if kept == 0:
            raise UserError("no sentence to train a language model on")
        # The default of lmplz reserves most of the machine's memory.
        options = ["-o", str(order), "--discount_fallback", "-S", "20%", "-T", scratch]
        command = [program, *options, "--text", str(text), "--arpa", str(arpa)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            said = [line for line in done.stderr.splitlines() if line.strip()] or ["nothing"]
            raise UserError(f"lmplz failed (status {done.returncode}): {said[-1]}")
        words = len(arpa_words(arpa))
        move(arpa, path, flush=True)
    return NgramSummary(path, order, words, kept, "lmplz")
