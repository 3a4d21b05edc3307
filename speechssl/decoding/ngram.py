"""n-gram language models of a text, as ARPA files that KenLM reads.

They are those of `speechssl.decoding.kneser_ney`, or of KenLM's `lmplz`, which is used where it is on the PATH, since
it handles texts that do not fit into memory. The two give the same model up to rounding, except that ours drops what
occurs once in a large text.

A model of characters is trained on `as_characters` of each sentence. The beam decoder needs one where it has no
lexicon.
"""

import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from speechssl.config import UserError
from speechssl.decoding.arpa import BEGIN, END, UNKNOWN, NgramModel, arpa_words, write_arpa
from speechssl.decoding.kneser_ney import kneser_ney
from speechssl.files import move, naming
from speechssl.text import WORD_BOUNDARY

Builder = Literal["auto", "lmplz", "own"]
MAX_ORDER = 5  # KenLM as its Python package builds it reads up to 6
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
        builder: `lmplz` is KenLM's program; `own` is this package; `auto` uses `lmplz` where it is on the PATH and
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
    kept = 0

    def counted() -> Iterator[list[str]]:
        nonlocal kept
        for words in map(_checked_words, sentences):
            kept += bool(words)
            yield words

    model = kneser_ney(counted(), order=order, vocabulary=extra)
    if model.order == 1:
        write_arpa(model.as_model(), path)  # with a pair of words, or KenLM cannot read it
    else:
        model.write(path)
    return NgramSummary(path, model.order, len(model.words) - len(_MARKS), kept, "own")


def estimate(sentences: Sequence[Sequence[str]], *, order: int = 3, vocabulary: Iterable[str] = ()) -> NgramModel:
    """The model of `kneser_ney`, by n-gram; the arguments are those of `train_ngram`, sentences as words.

    Raises:
        UserError: no sentence.

    >>> model = estimate([["a", "b"], ["a"]], order=2)
    >>> round(10 ** model.log_prob("b", ("a",)), 6)
    0.375
    """
    return kneser_ney(sentences, order=order, vocabulary=vocabulary).as_model()


def _checked_words(sentence: str) -> list[str]:
    words = sentence.split()
    marks = sorted(_MARKS.intersection(words))
    if marks:
        raise UserError(f"a sentence holds {marks[0]!r}, which is reserved in language models: {sentence[:60]!r}")
    return words


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
