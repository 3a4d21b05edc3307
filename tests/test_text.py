"""Normalisation by examples and invariances, the vocabulary by round trips."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechssl.text import BLANK, WORD_BOUNDARY, Vocabulary, normalize_transcript

WORDS = st.lists(st.text("abcdé'", min_size=1), min_size=1)


@pytest.mark.parametrize(
    ("given_text", "expected"),
    [
        ("", ""),
        ("  \t\n ", ""),
        ("...!?", ""),
        ("HELLO, World!", "hello world"),
        ("It’s John's dog", "it's john's dog"),
        ("don`t don´t donʼt don‘t", "don't don't don't don't"),
        ("'quoted' words and dogs' tails", "quoted words and dogs tails"),
        ("well-known\u2014or not", "well known or not"),
        ("a\u00a0b\u200bc", "a b c"),
        ("ﬁne ＡＢＣ", "fine abc"),
        ("cafe\u0301", "café"),
        ("Съешь ещё этих булок.", "съешь ещё этих булок"),
        ("नमस्ते, दुनिया", "नमस्ते दुनिया"),
        ("İstanbul", "i\u0307stanbul"),
        ("J\u030c", "\u01f0"),  # composed in lower case only
        ("Straße 12", "straße 12"),
        ("a|b <unk>", "a b unk"),
    ],
)
def test_normalize_transcript(given_text: str, expected: str) -> None:
    assert normalize_transcript(given_text) == expected


@given(st.text())
def test_normalising_twice_changes_nothing(text: str) -> None:
    once = normalize_transcript(text)
    assert normalize_transcript(once) == once


@given(st.text())
def test_normalised_text_can_always_be_encoded(text: str) -> None:
    normal = normalize_transcript(text)
    vocabulary = Vocabulary.from_texts([normal])
    assert vocabulary.decode(vocabulary.encode(normal)) == normal


@given(WORDS)
def test_round_trip(words: list[str]) -> None:
    vocabulary = Vocabulary.from_texts(words)
    text = " ".join(words)
    indices = vocabulary.encode(f"  {text} ")
    assert 0 not in indices
    assert max(indices) < len(vocabulary)
    assert vocabulary.decode(indices) == text


@given(WORDS, st.lists(st.integers(1, 3), min_size=100, max_size=100))
def test_collapsing_undoes_repeats_and_blanks(words: list[str], repeats: list[int]) -> None:
    vocabulary = Vocabulary.from_texts(words)
    text = " ".join(words)[:100].strip()
    frames: list[int] = []
    for index, repeat in zip(vocabulary.encode(text), repeats, strict=False):
        frames += [index] * repeat + [0]  # a blank between equal letters keeps them apart
    assert vocabulary.decode(frames, collapse=True) == text


def test_order_is_fixed() -> None:
    vocabulary = Vocabulary.from_texts(["ба", "ab a"])
    assert vocabulary.symbols == (BLANK, WORD_BOUNDARY, "a", "b", "а", "б")


def test_unknown_characters_are_named() -> None:
    with pytest.raises(ValueError, match=r"not in the vocabulary: 'b', '\|'"):
        Vocabulary.from_texts(["a"]).encode("a b |")


def test_index_out_of_range_is_named() -> None:
    with pytest.raises(ValueError, match=r"indices must be 0 to 2, got \[-1, 3\]"):
        Vocabulary.from_texts(["a"]).decode([0, 3, -1])


@pytest.mark.parametrize(
    ("symbols", "message"),
    [
        (("a", "b"), "the first symbols must be"),
        ((BLANK, WORD_BOUNDARY, "a", "a"), r"repeated symbols: \['a'\]"),
        ((BLANK, WORD_BOUNDARY, "ab"), "single characters"),
        ((BLANK, WORD_BOUNDARY, " "), "single characters"),
    ],
)
def test_wrong_symbols(symbols: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Vocabulary(symbols)


def test_boundary_as_a_letter_is_refused() -> None:
    with pytest.raises(ValueError, match="stands for the word boundary"):
        Vocabulary.from_texts(["a|b"])
