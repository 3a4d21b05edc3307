"""Phones as symbols: transcripts to phones, and a beam search back to words."""

from pathlib import Path

import numpy as np
import pytest

from speechssl.config import UserError
from speechssl.decoding import phones, pronunciation
from speechssl.decoding.alignment import word_times
from speechssl.decoding.decode import BeamDecoder, DecoderConfig, beam_search_installed
from speechssl.decoding.ngram import as_characters, train_ngram
from speechssl.decoding.phones import ONE_LETTER, SYMBOLS, PhoneVocabulary

DICTIONARY = "read R EH D\nread(2) R IY D\nreed R IY D\nsea S IY\nsee S IY\nship SH IH P\nthe DH AH\n"


@pytest.fixture(autouse=True)
def _toy_dictionary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "toy.dict").write_text(DICTIONARY)
    monkeypatch.setattr(pronunciation, "dictionary_file", lambda: tmp_path / "toy.dict")
    pronunciation._dictionary.cache_clear()
    phones._spellings.cache_clear()
    yield
    pronunciation._dictionary.cache_clear()
    phones._spellings.cache_clear()


def emissions(vocabulary: PhoneVocabulary, written: str) -> np.ndarray:
    """Two frames per symbol, with a blank between, nearly certain."""
    indices = [vocabulary.symbols.index("|" if symbol == " " else symbol) for symbol in written]
    rows = [index for each in indices for index in (each, each, 0)]
    return np.log(np.eye(len(vocabulary), dtype=np.float32)[rows] * 0.9 + 0.1 / len(vocabulary))


def test_every_phone_has_a_letter_of_its_own() -> None:
    assert len(ONE_LETTER) == len(set(ONE_LETTER.values())) == 39
    assert SYMBOLS[:2] == ("<blank>", "|")
    assert len(SYMBOLS) == 41


def test_a_transcript_in_phones() -> None:
    vocabulary = PhoneVocabulary()
    assert vocabulary.written("the  ship") == "DA SIp"
    assert vocabulary.decode(vocabulary.encode("the ship")) == "DA SIp"
    assert vocabulary.spellings("read") == ["rEd", "rid"]
    assert vocabulary.can_write("xkcd")
    assert not vocabulary.can_write("42")
    with pytest.raises(UserError, match="42"):
        vocabulary.encode("the 42")


def test_no_character_of_a_word_is_left_out() -> None:
    vocabulary = PhoneVocabulary()
    assert vocabulary.written("séa shíp") == "si SIp"  # as without accents
    for word in ("mp3", "2nd", "straße", "да"):
        assert not vocabulary.can_write(word)
        with pytest.raises(UserError, match=f"{word!r} has no pronunciation: not made of the letters a to z"):
            vocabulary.encode(word)


def test_letters_are_not_phones(tmp_path: Path) -> None:
    """Most phones are written as letters, so that an n-gram of letters would be taken for one of phones."""
    pytest.importorskip("kenlm")
    lm = tmp_path / "letters.arpa"
    train_ngram([as_characters("pack my box with five dozen jugs"), as_characters("a quick brown fox")], lm, order=2)
    with pytest.raises(UserError, match=r"letters\.arpa: a model of phones needs a language model of words"):
        BeamDecoder(PhoneVocabulary(), config=DecoderConfig(lexicon=False), lm=lm)


@pytest.mark.skipif(not beam_search_installed(), reason="the extra lm is not installed")
def test_the_ngram_chooses_among_words_of_one_sound(tmp_path: Path) -> None:
    train_ngram(["the sea", "the sea", "see the reed", "read the ship", "the ship"], tmp_path / "lm.arpa", order=2)
    vocabulary = PhoneVocabulary()
    decoder = BeamDecoder(vocabulary, config=DecoderConfig(beam_size=20), lm=tmp_path / "lm.arpa")
    assert decoder.decode(emissions(vocabulary, "DA si")).text == "the sea"
    assert decoder.decode(emissions(vocabulary, "si DA rid")).text == "see the reed"
    assert decoder.decode(emissions(vocabulary, "rid DA SIp")).text == "read the ship"  # by its second pronunciation


def test_times_of_words_follow_their_phones() -> None:
    vocabulary = PhoneVocabulary()
    found = word_times(emissions(vocabulary, "DA SIp"), "the ship", vocabulary)
    assert [each.word for each in found] == ["the", "ship"]
    assert [(each.start, each.end) for each in found] == [
        (0.0, pytest.approx(0.1)),
        (pytest.approx(0.18), pytest.approx(0.34)),
    ]
