"""Pronunciations: the dictionary's, and the rules for words that it lacks, scored on words that it has."""

import jiwer
import numpy as np
import pytest

from speechssl.config import UserError
from speechssl.decoding import pronunciation
from speechssl.decoding.general import dictionary_file
from speechssl.decoding.pronunciation import LETTERS, RULES, has_pronunciation, pronunciations, spelled

needs_dictionary = pytest.mark.skipif(dictionary_file() is None, reason="pocketsphinx (the extra lm) is not installed")


@pytest.fixture
def toy_dictionary(tmp_path, monkeypatch):
    path = tmp_path / "toy.dict"
    path.write_text("read R EH D\nread(2) R IY D\ncat K AE T\nbus B AH S\ndog D AO G\n")
    monkeypatch.setattr(pronunciation, "dictionary_file", lambda: path)
    pronunciation._dictionary.cache_clear()
    yield
    pronunciation._dictionary.cache_clear()


@pytest.mark.usefixtures("toy_dictionary")
def test_the_dictionary_comes_first_and_rules_serve_the_rest():
    found = pronunciations(["read", "cat's", "bus's", "dog's", "dogs'", "xkcd", "cheep", "buss"])
    assert found["read"] == [("R", "EH", "D"), ("R", "IY", "D")]
    assert found["cat's"] == [("K", "AE", "T", "S")]
    assert found["bus's"] == [("B", "AH", "S", "IH", "Z")]
    assert found["dog's"] == [("D", "AO", "G", "Z")]
    assert found["xkcd"] == [("EH", "K", "S", "K", "EY", "S", "IY", "D", "IY")]
    assert found["cheep"] == [("CH", "IY", "P")]
    assert found["buss"] == [("B", "AH", "S")]
    with pytest.raises(UserError, match="'да' has no pronunciation"):
        pronunciations(["да"])


def test_without_the_package(monkeypatch):
    monkeypatch.setattr(pronunciation, "dictionary_file", lambda: None)
    pronunciation._dictionary.cache_clear()
    with pytest.raises(UserError, match="dictionary of pronunciations needs the package pocketsphinx"):
        pronunciations(["a"])


@needs_dictionary
def test_a_word_is_looked_up_without_reading_the_dictionary(monkeypatch):
    class Words(dict):
        def __iter__(self):
            raise AssertionError("read as a whole")

    monkeypatch.setattr(pronunciation, "_dictionary", lambda: Words({"café": [("K",)], "1": [("W",)]}))
    assert [pronunciation.has_pronunciation(word) for word in ("café", "1", "xyz", "да")] == [True, True, True, False]


def test_the_rules_on_words_of_the_dictionary():
    pronunciation._dictionary.cache_clear()
    known = pronunciation._dictionary()
    phones = {phone for each in known.values() for one in each for phone in one}
    assert len(phones) == 39
    assert {phone for rule in (*RULES.values(), *LETTERS.values()) for phone in rule.split()} <= phones
    words = sorted(word for word in known if word.isascii() and word.isalpha() and len(word) > 3)
    drawn = [words[place] for place in np.random.default_rng(0).permutation(len(words))[:500]]
    error = jiwer.wer([" ".join(known[word][0]) for word in drawn], [" ".join(spelled(word)) for word in drawn])
    assert error < 0.35
    assert all(known[word] == pronunciations([word])[word] for word in drawn)


def test_a_word_is_looked_up_not_searched(monkeypatch):
    """A dictionary of 130,000 words is asked for each of 70,000 words of a lexicon."""

    class NotSearched(dict[str, list[tuple[str, ...]]]):
        def __iter__(self):
            raise AssertionError("every word of the dictionary is compared")

    monkeypatch.setattr(pronunciation, "_dictionary", lambda: NotSearched({"cafe": [("K",)], "x1": [("K",)]}))
    assert has_pronunciation("café")
    assert has_pronunciation("x1")
    assert not has_pronunciation("x2")
