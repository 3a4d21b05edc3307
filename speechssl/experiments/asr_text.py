"""Texts of the n-gram of a speech recognition experiment, and general models of the language mixed with them.

Three sources:

- `transcripts`: the sentences of the training side, or those that the user gives; an n-gram of words, with a lexicon;
- `english`: the same, interpolated with the English trigram (`speechssl.decoding.general`);
- `wordfreq`: an n-gram of characters, of the sentences interpolated with the word frequencies of the language; decoded
  without a lexicon, so that any word can be found.

The weight of an interpolation is the one with the highest likelihood of the development side's transcripts.
"""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Literal

from speechssl.config import UserError
from speechssl.decoding.arrays import NgramArrays
from speechssl.decoding.general import (
    NO_ENGLISH,
    NO_WORDFREQ,
    english_name,
    english_trigram,
    frequency_language,
    frequency_name,
    is_english,
    word_frequencies,
    wordfreq_installed,
)
from speechssl.decoding.kneser_ney import kneser_ney
from speechssl.decoding.mixture import best_weight, mix
from speechssl.decoding.ngram import as_characters
from speechssl.decoding.word_list import character_model

Source = Literal["transcripts", "english", "wordfreq"]
Choice = Literal["auto", "transcripts", "english", "wordfreq"]
VERSION = 1  # of the mixtures: higher when the same texts give another one
CHARACTER_ORDER = 5  # characters of the longest n-gram without a lexicon
SENTENCE_WORDS = 10.0  # where there is no sentence to tell how long they are


def sources(
    choice: Choice, *, language: str | None, given: bool, say: Callable[[str], None] = lambda _: None
) -> tuple[Source, ...]:
    """The sources of n-grams to choose from on the development side.

    Args:
        choice: `auto` is `english` or `transcripts` where the language is English, `wordfreq` or `transcripts` for
            other languages that have word frequencies, and `transcripts` elsewhere.
        language: language of the corpus.
        given: whether the user gives a text, which `auto` then uses alone.
        say: called with the reason why `auto` has no general model.

    Raises:
        UserError: a source that is chosen is not there for the language, or its package is not installed.
    """
    if choice == "english":
        if language is not None and not is_english(language):
            raise UserError(f"the corpus is in {language!r}; the language model 'english' is for English")
        if english_name() is None:
            raise UserError(NO_ENGLISH)
        return ("english",)
    if choice == "wordfreq":
        if not wordfreq_installed():
            raise UserError(NO_WORDFREQ)
        if frequency_language(language) is None:
            raise UserError(f"wordfreq has no words of the language {language!r}; give an ISO 639 code in the manifest")
        return ("wordfreq",)
    if choice == "transcripts" or given:
        return ("transcripts",)
    if is_english(language):
        if english_name() is not None:
            return ("english", "transcripts")
        say(f"n-gram without a general text: {NO_ENGLISH}")
    elif language is None:
        say("n-gram without a general text: the manifest gives no language, or several")
    elif not wordfreq_installed():
        say(f"n-gram without a general text: {NO_WORDFREQ}")
    elif frequency_language(language) is not None:
        return ("wordfreq", "transcripts")
    else:
        say(f"n-gram without a general text: wordfreq has no words of the language {language!r}")
    return ("transcripts",)


def general_name(source: Source, language: str | None) -> str:
    """Name of the general model of a source, with the version of its package; empty without one."""
    if source == "english":
        return english_name() or ""
    return (frequency_name(language) or "") if source == "wordfreq" else ""


class Mixture:
    """General models interpolated with sentences.

    Args:
        sentences: all of them, normalised; may be empty.
        dev: held-out sentences for the weights.
        order: words of the longest n-gram.
        language: language of the word frequencies.
        characters: those that the recogniser can write.
    """

    def __init__(
        self,
        sentences: Sequence[str],
        dev: Sequence[str],
        *,
        order: int,
        language: str | None,
        characters: Collection[str],
    ):
        self.sentences, self.dev, self.order = sentences, dev, order
        self.language, self.characters = language, characters
        self._weights: dict[Source, float] = {}
        self._list: NgramArrays | None = None

    def weight(self, source: Source) -> float:
        """Weight of the sentences, between 0 and 1."""
        if source not in self._weights:
            dev = [as_characters(each) for each in self.dev] if source == "wordfreq" else self.dev
            self._weights[source] = best_weight(self._own(source, self.sentences), self._general(source), dev)
        return self._weights[source]

    def write(self, source: Source, sentences: Sequence[str], path: Path) -> None:
        """Write the ARPA file of the general model, mixed with some of the sentences where there are any."""
        general = self._general(source)
        if sentences:
            general = mix(self._own(source, sentences), general, self.weight(source))
        general.write(path)

    def _own(self, source: Source, sentences: Sequence[str]) -> NgramArrays:
        if source == "wordfreq":
            return kneser_ney((as_characters(each).split() for each in sentences), order=CHARACTER_ORDER)
        return kneser_ney((each.split() for each in sentences), order=self.order)

    def _general(self, source: Source) -> NgramArrays:
        if source == "english":
            return english_trigram()
        if self._list is None:
            assert self.language is not None
            lengths = [len(each.split()) for each in self.sentences]
            mean = sum(lengths) / len(lengths) if lengths else SENTENCE_WORDS
            words = word_frequencies(self.language, self.characters)
            self._list = character_model(words, order=CHARACTER_ORDER, sentence_words=max(mean, 1.0))
        return self._list
