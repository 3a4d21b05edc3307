"""The n-grams of a speech recognition experiment.

One is trained on all sentences of the training side, alone or mixed with a general model of the language
(`speechssl.experiments.asr_text`), and decodes the development and test sides, whose sentences it does not contain. It
is not used for pseudo-labels, since the transcripts of the unlabelled recordings are among its sentences. Each part of
the unlabelled side therefore has an n-gram of its own, without the sentences of that part (cross-fitting, as in
cross-validation).
"""

import copy
import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cached_property
from pathlib import Path

from speechssl.config import UserError, digest
from speechssl.data.labelled import Example
from speechssl.decoding.decode import EXTRA, beam_search_installed
from speechssl.decoding.general import english_trigram
from speechssl.decoding.ngram import train_ngram
from speechssl.experiments.asr_sides import RecognitionSides
from speechssl.experiments.asr_text import VERSION, Mixture, Source, general_name
from speechssl.files import write_atomic
from speechssl.text import normalize_transcript

LM_TEXT = "lm_text.json"  # beside an n-gram in a model folder: digests of its training sentences
MIN_WORDS = 4  # of a transcript that is searched for in a text: shorter ones are common phrases
PARTS = 4  # of the unlabelled side; each n-gram lacks about a quarter of its sentences


class Ngrams:
    """The n-grams of one run, trained on first use and stored in its folder.

    Args:
        folder: where they are stored.
        sides: those of the experiment.
        text: sentences given by the user, instead of those of the training side; None: those of the training side.
        order: words of the longest n-gram.
        options: the sources to choose from; the first is that of the messages.
        language: language of the corpus.
        characters: of the recogniser; needed by `wordfreq`.
        can_write: whether the recogniser's symbols suffice for a word.

    Attributes:
        key: digest of the sentences and of what else the n-grams are made of.
    """

    def __init__(
        self,
        folder: Path,
        sides: RecognitionSides,
        *,
        text: Sequence[str] | None,
        order: int,
        options: Sequence[Source] = ("transcripts",),
        language: str | None = None,
        characters: Collection[str] = (),
        can_write: Callable[[str], bool] = lambda _: True,
    ):
        self.folder, self.sides, self.order = folder, sides, order
        self.sentences = list(sides.sentences if text is None else text)
        self.given = text is not None
        self.options: tuple[Source, ...] = tuple(options)
        self.language, self.characters, self.can_write = language, frozenset(characters), can_write
        self.key = digest([self.sentences, self.given, order, sorted(each.target for each in sides.labelled)])

    def written_by(self, can_write: Callable[[str], bool]) -> "Ngrams":
        """The same n-grams for a recogniser with other symbols."""
        other = copy.copy(self)
        other.can_write = can_write
        return other

    def usable(self, say: Callable[[str], None]) -> bool:
        """Whether beam search and a text are available; prints why not, or the words missing from the n-grams."""
        if not beam_search_installed():
            say(f"greedy transcripts only: {EXTRA}")
            return False
        if not self.sentences:
            self.options = tuple(each for each in self.options if each != "transcripts")
        if not self.options:
            say("greedy transcripts only: the training side has no sentence that is not also tested on")
            return False
        for option in self.options:
            say(f"n-gram of {self.text(option)}: {self.lacking(option)}")
        say(f"in the text of the n-gram: {self.tested()}")
        return True

    def text(self, option: Source) -> str:
        """The text of an n-gram, in words."""
        which = "sentences of the text given" if self.given else "sentences of the training side"
        own = f"{len(self.sentences)} {which}" if self.sentences else ""
        return " + ".join(each for each in (own, general_name(option, self.language)) if each)

    def lacking(self, option: Source) -> str:
        """Number of words of the test side that a search with an n-gram cannot find, in words."""
        words = [word for example in self.sides.test for word in example.target.split()]
        if option == "wordfreq":
            unwritable = sum(not self.can_write(word) for word in words)
            if unwritable:
                return f"characters, of which {unwritable} of {len(words)} words of the test side hold others"
            return f"characters, so that none of {len(words)} words of the test side is lacking"
        known = {word for sentence in self.sentences for word in sentence.split()}
        if option == "english":
            known.update(english_trigram().words)
        missing = sum(word not in known or not self.can_write(word) for word in words)
        return f"words of order {self.order}, it lacks {missing} of {len(words)} words of the test side"

    def row(self, option: Source) -> str:
        """Text, missing words and known transcripts, as they stand in the rows."""
        return f"{self.text(option)}: {self.lacking(option)}; {self.tested()}"

    def tested(self) -> str:
        """Number of test transcripts that are in the text, in words."""
        return transcripts_in_text([example.target for example in self.sides.test], self.sentences)

    def key_of(self, option: Source) -> str:
        """Digest of what an n-gram is made of."""
        if option == "transcripts":
            return self.key
        dev = sorted(example.target for example in self.sides.dev)
        return digest([self.key, option, self.text(option), dev, sorted(self.characters), VERSION])

    def weight(self, option: Source) -> float | None:
        """Weight of the sentences in a mixture; None where there is no mixture."""
        return self.mixture.weight(option) if option != "transcripts" and self.sentences else None

    @cached_property
    def mixture(self) -> Mixture:
        """The general models, mixed with the sentences."""
        return Mixture(
            self.sentences,
            [example.target for example in self.sides.dev],
            order=self.order,
            language=self.language,
            characters=self.characters,
        )

    def whole(self, option: Source = "transcripts") -> Path:
        """The n-gram of all sentences, for the development and test sides and for the model folder."""
        return self._made("lm.arpa", self.sentences, option)

    def parts(self, option: Source = "transcripts") -> list[tuple[Path, list[Example]]]:
        """The unlabelled side in parts, each with an n-gram trained without its sentences."""
        unlabelled = self.sides.unlabelled
        if self.given or not self.sentences:
            return [(self.whole(option), unlabelled)] if unlabelled else []
        labelled = {example.target for example in self.sides.labelled}
        found: list[tuple[Path, list[Example]]] = []
        for part in range(PARTS):
            examples = [example for example in unlabelled if part_of(example.target) == part]
            left = [each for each in self.sentences if each in labelled or part_of(each) != part]
            if examples and (left or option != "transcripts"):
                found.append((self._made(f"lm-part-{part + 1}.arpa", left, option), examples))
        return found

    def _made(self, name: str, sentences: Sequence[str], option: Source) -> Path:
        name = name if option == "transcripts" else f"{option}-{name}"
        path, key, wanted = self.folder / name, self.folder / f"{name}.key", self.key_of(option)
        if not (path.exists() and key.exists() and key.read_text(encoding="utf-8") == wanted):
            key.unlink(missing_ok=True)
            self.folder.mkdir(parents=True, exist_ok=True)
            if option == "transcripts":
                train_ngram(sentences, path, order=self.order)
            else:
                self.mixture.write(option, sentences, path)
            write_atomic(key, wanted.encode())
        return path


def transcripts_in_text(transcripts: Sequence[str], sentences: Iterable[str]) -> str:
    """Number of transcripts that are in a text word for word, alone on a line or within a longer one.

    Args:
        transcripts: normalised ones.
        sentences: the text, normalised.

    Returns:
        Text such as `3 of 24 test transcripts of 4 or more words`.

    >>> transcripts_in_text(["a b c d", "b c d e", "a"], ["z a b c d y", "a"])
    '1 of 2 test transcripts of 4 or more words'
    """
    wanted: dict[tuple[str, ...], set[tuple[str, ...]]] = {}  # by the first words
    long = [words for each in transcripts if len(words := tuple(each.split())) >= MIN_WORDS]
    for words in long:
        wanted.setdefault(words[:MIN_WORDS], set()).add(words)
    found: set[tuple[str, ...]] = set()
    for sentence in sentences:
        words = tuple(sentence.split())
        for start in range(len(words) - MIN_WORDS + 1):
            for candidate in wanted.get(words[start : start + MIN_WORDS], ()):
                if words[start : start + len(candidate)] == candidate:
                    found.add(candidate)
    return _count(sum(words in found for words in long), len(long))


def write_text_record(path: Path, sentences: Iterable[str]) -> None:
    """Write digests of an n-gram's sentences, with which a later evaluation finds its test transcripts in the text."""
    ids = sorted({_sentence_id(each) for each in sentences if len(each.split()) >= MIN_WORDS})
    write_atomic(path, json.dumps({"version": 1, "min_words": MIN_WORDS, "sentences": ids}).encode())


def transcripts_in_record(transcripts: Sequence[str], path: Path) -> str:
    """Like `transcripts_in_text`, for whole lines of the text of a model's n-gram; `unknown` without its record.

    Raises:
        UserError: the file is not such a record.
    """
    if not path.exists():
        return "unknown"
    try:
        known = set(json.loads(path.read_text(encoding="utf-8"))["sentences"])
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: not the record of an n-gram's text; restore or remove it") from None
    long = [each for each in transcripts if len(each.split()) >= MIN_WORDS]
    return _count(sum(_sentence_id(each) in known for each in long), len(long))


def _count(found: int, of: int) -> str:
    return f"{found} of {of} test transcripts of {MIN_WORDS} or more words"


def _sentence_id(sentence: str) -> str:
    return hashlib.blake2b(sentence.encode(), digest_size=8).hexdigest()


def part_of(sentence: str) -> int:
    """Number of the part that holds a sentence, the same for every recording of it.

    >>> 0 <= part_of("a sentence") < PARTS
    True
    """
    return int(hashlib.sha256(sentence.encode()).hexdigest(), 16) % PARTS


def read_sentences(path: Path, *, language: str | None = None) -> list[str]:
    """Read the sentences of a text file, one per line, normalised.

    Args:
        path: a text file, UTF-8.
        language: language of the text, as in `normalize_transcript`.

    Raises:
        UserError: the file cannot be read, is not UTF-8, or holds no sentence.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"{path}: the text cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise UserError(f"{path}: not UTF-8 text ({error})") from None
    sentences = [sentence for line in lines if (sentence := normalize_transcript(line, language))]
    if not sentences:
        raise UserError(f"{path}: no sentence in it")
    return sentences
