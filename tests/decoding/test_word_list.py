"""Character n-grams of word frequencies: by hand, summing to one, and independent words."""

import numpy as np
import pytest

from speechssl.config import UserError
from speechssl.decoding import general
from speechssl.decoding.arpa import BEGIN, END, UNKNOWN
from speechssl.decoding.general import frequency_language, is_english, word_frequencies
from speechssl.decoding.word_list import character_model

needs_wordfreq = pytest.mark.skipif(not general.wordfreq_installed(), reason="wordfreq (the extra lm) is not installed")


def test_a_bigram_by_hand():
    """`ab` 3 times, `b` once; one boundary in four ends a sentence.

    After a there is b alone, 3 times: (3 + 1 x p(b)) / (3 + 1). Single characters: a 3, b 4, boundaries 4, of which the
    end is 1; 4 kinds in 11 + 4, and 5 symbols that can follow, <unk> among them.
    """
    model = character_model({"ab": 0.75, "b": 0.25}, order=2, sentence_words=4.0, unit=0.25).as_model()
    share = 4 / 15
    single = {"a": 3 / 15 + share / 5, "b": 4 / 15 + share / 5, END: 1 / 15 + share / 5, UNKNOWN: share / 5}
    for symbol, prob in single.items():
        assert 10 ** model.log_prob(symbol) == pytest.approx(prob)
    assert 10 ** model.log_prob("b", ("a",)) == pytest.approx((3 + single["b"]) / 4)
    # b is followed by a boundary, 3 of 4, or the end.
    assert 10 ** model.log_prob(END, ("b",)) == pytest.approx((1 + 2 * single[END]) / 6)
    # A sentence begins like a word: a 3 and b 1, in one case of four.
    assert 10 ** model.log_prob("a", (BEGIN,)) == pytest.approx((0.75 + 2 * single["a"]) / 3)
    assert 10 ** model.log_prob("a", ("|",)) == pytest.approx((2.25 + 2 * single["a"]) / 5)


@pytest.mark.parametrize("order", [2, 3, 5])
def test_probabilities_after_any_context_sum_to_one(order):
    model = character_model({"abc": 0.5, "ab": 0.2, "c": 0.2, "bca": 0.1}, order=order, sentence_words=3.0)
    for size in range(1, order):
        rows = model.rows(size)
        for row in rows[rows[:, -1] != model.numbers[END]]:
            every = np.array([[*row, place] for place in range(len(model.words)) if place != model.numbers[BEGIN]])
            assert (10 ** model.log_prob(every)).sum() == pytest.approx(1)


def test_what_follows_a_boundary_depends_on_no_earlier_word():
    model = character_model({"ab": 0.5, "ba": 0.5}, order=4).as_model()
    assert model.log_prob("a", ("a", "b", "|")) == model.log_prob("a", ("b", "a", "|"))


def test_arguments_out_of_range():
    with pytest.raises(UserError, match="needs words"):
        character_model({})
    with pytest.raises(ValueError, match="above zero"):
        character_model({"a": 0.0})
    with pytest.raises(ValueError, match="order 2 or more"):
        character_model({"a": 1.0}, order=1)


def test_languages():
    assert is_english("en_US")
    assert is_english("eng")
    assert not is_english("de")


@needs_wordfreq
def test_languages_of_the_frequencies(monkeypatch):
    assert [frequency_language(each) for each in ("ru", "rus", "pt-BR", "RU_ru", "Russian", "xx", None)] == [
        *("ru", "ru", "pt", "ru"),
        *(None, None, None),
    ]
    with pytest.raises(UserError, match="xx: wordfreq has no words of this language"):
        word_frequencies("xx", "abc")
    import wordfreq

    monkeypatch.setattr(wordfreq, "get_frequency_dict", lambda _: {"да": 0.1, "ok": 0.2, "да-да": 0.05, "да’": 0.01})
    assert word_frequencies("ru", "да") == pytest.approx({"да": 0.21})  # twice in "да-да"
    with pytest.raises(UserError, match="ru: no word of wordfreq is made of the characters"):
        word_frequencies("ru", "xyz")


def test_without_the_packages(monkeypatch):
    monkeypatch.setattr(general.importlib.util, "find_spec", lambda _: None)
    assert general.english_name() is None
    assert general.frequency_name("ru") is None
    with pytest.raises(UserError, match="word frequencies need the package wordfreq"):
        word_frequencies("ru", "а")
    general.english_trigram.cache_clear()
    with pytest.raises(UserError, match="needs the package pocketsphinx: pip install"):
        general.english_trigram()
