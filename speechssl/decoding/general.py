"""General language models of a language, from packages of the extra `lm`: no text of an experiment is in them.

- English: the word trigram of the `pocketsphinx` package (BSD licence; CMU Sphinx's en-us model of 2015, 72,547 words).
- Others: the word frequencies of the `wordfreq` package (40 languages; code Apache-2.0, data CC BY-SA 4.0), as a
  character n-gram.
"""

import importlib.metadata
import importlib.util
from collections.abc import Collection
from functools import lru_cache
from pathlib import Path

from speechssl.config import UserError
from speechssl.decoding.arrays import NgramArrays
from speechssl.decoding.mixture import restricted
from speechssl.decoding.sphinx import read_sphinx
from speechssl.text import normalize_transcript

NO_ENGLISH = "the English language model needs the package pocketsphinx: pip install 'speechssl[lm]'"
NO_WORDFREQ = "word frequencies need the package wordfreq: pip install 'speechssl[lm]'"
_ENGLISH = frozenset(["en", "eng", "english"])
_MODEL, _DICTIONARY = "model/en-us/en-us.lm.bin", "model/en-us/cmudict-en-us.dict"


def is_english(language: str | None) -> bool:
    """Whether a language tag, code or name is that of English.

    >>> is_english("en-GB"), is_english("English"), is_english("enm"), is_english(None)
    (True, True, False, False)
    """
    return language is not None and language.strip().lower().replace("_", "-").split("-")[0] in _ENGLISH


def english_name() -> str | None:
    """Name of the English model with the version of its package; None where it is not installed."""
    return None if _sphinx_file(_MODEL) is None else f"English trigram of pocketsphinx {_version('pocketsphinx')}"


@lru_cache(maxsize=1)
def english_trigram() -> NgramArrays:
    """The English model, of the words that `normalize_transcript` leaves as they are (99.9 % of its mass).

    It takes about five seconds to read. "workers'" and "x-ray" are not in it: in transcripts they are "workers" and
    "x ray".

    Raises:
        UserError: the package is not installed, or its model is damaged.
    """
    path = _sphinx_file(_MODEL)
    if path is None:
        raise UserError(NO_ENGLISH)
    model = read_sphinx(path)
    return restricted(model, {word for word in model.words if normalize_transcript(word, "en") == word})


def wordfreq_installed() -> bool:
    """Whether the package of the word frequencies is installed."""
    return importlib.util.find_spec("wordfreq") is not None


def frequency_language(language: str | None) -> str | None:
    """The language of `wordfreq` that a language tag is of; None where there is none, or without the package.

    Args:
        language: an ISO 639 code or a language tag ("ru", "rus", "pt-BR").
    """
    if language is None or not wordfreq_installed():
        return None
    import langcodes
    import wordfreq

    code = language.strip().replace("_", "-").split("-")[0].lower()
    try:
        code = langcodes.standardize_tag(code)
    except ValueError:  # a name
        return None
    return code if code in wordfreq.available_languages() else None


def frequency_name(language: str | None) -> str | None:
    """Name of the word frequencies of a language with the version of their package; None where there are none."""
    code = frequency_language(language)
    return None if code is None else f"word frequencies ({code}) of wordfreq {_version('wordfreq')}"


def word_frequencies(language: str, characters: Collection[str]) -> dict[str, float]:
    """Words of a language with their frequencies, normalised like transcripts.

    Args:
        language: as in `frequency_language`.
        characters: words with others are left out.

    Raises:
        UserError: no word is left, or there are no frequencies of the language.
    """
    code, allowed = frequency_language(language), set(characters)
    if code is None:
        raise UserError(f"{language}: wordfreq has no words of this language" if wordfreq_installed() else NO_WORDFREQ)
    import wordfreq

    found: dict[str, float] = {}
    for word, frequency in wordfreq.get_frequency_dict(code).items():
        # They are in small letters: what has letters alone is as it would be in a transcript.
        plain = word if word.isalpha() else normalize_transcript(word, language)
        for part in plain.split():
            if allowed.issuperset(part):
                found[part] = found.get(part, 0.0) + frequency
    if not found:
        raise UserError(f"{language}: no word of wordfreq is made of the characters of the transcripts alone")
    return found


def dictionary_file() -> Path | None:
    """CMU's dictionary of pronunciations in the package of the English model; None where it is not installed."""
    return _sphinx_file(_DICTIONARY)


def _sphinx_file(name: str) -> Path | None:
    spec = importlib.util.find_spec("pocketsphinx")
    folders = [] if spec is None else spec.submodule_search_locations or []
    return next((path for folder in folders if (path := Path(folder) / name).is_file()), None)


def _version(package: str) -> str:
    return importlib.metadata.version(package)
