"""Word times: planted ones, against the enumeration of every path, and texts that do not fit."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechssl.config import UserError
from speechssl.decoding.alignment import WordTime, frames_to_seconds, word_times
from speechssl.text import Vocabulary

VOCABULARY = Vocabulary.from_texts(["ab"])  # <blank> | a b


def planted(path):
    return np.log(np.eye(4, dtype=np.float32)[path] * 0.97 + 0.0075)


def random_emissions(frames, seed):
    logits = np.random.default_rng(seed).normal(scale=1.5, size=(frames, 4))
    return (logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)).astype(np.float32)


def test_planted_times():
    log_probs = planted([0, 0, 2, 3, 3, 0, 1, 0, 2, 0, 0, 2, 1, 1, 3])
    assert word_times(log_probs, "ab aa b", VOCABULARY, frame_seconds=1.0) == [
        WordTime("ab", 2.0, 5.0),
        WordTime("aa", 8.0, 12.0),
        WordTime("b", 14.0, 15.0),
    ]
    times = word_times(log_probs, " ab  aa b ", VOCABULARY)
    assert [(each.start, each.end) for each in times] == [(0.04, 0.1), (0.16, 0.24), (0.28, 0.3)]
    assert word_times(log_probs, "", VOCABULARY) == []


@given(
    words=st.lists(st.text("ab", min_size=1, max_size=3), min_size=1, max_size=4),
    pauses=st.lists(st.integers(0, 3), min_size=5, max_size=5),
    lengths=st.lists(st.integers(1, 3), min_size=12, max_size=12),
)
def test_what_was_planted_is_found(words, pauses, lengths):
    path, wanted, lasting = [0] * pauses[0], [], iter(lengths)
    for number, word in enumerate(words):
        path += [0] * pauses[number] + ([1] if number else []) + [0] * pauses[number + 1]
        start = len(path)
        for place, character in enumerate(word):
            path += ([0] if place and character == word[place - 1] else []) + [2 + "ab".index(character)] * next(
                lasting
            )
        wanted.append(WordTime(word, frames_to_seconds(start), frames_to_seconds(len(path))))
    assert word_times(planted(path), " ".join(words), VOCABULARY) == wanted


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("text", ["a b", "aa", "b a"])
def test_the_likeliest_path_of_all(text, seed):
    log_probs = random_emissions(6, seed)
    best, likeliest = -math.inf, ()
    for path in itertools.product(range(4), repeat=6):
        symbols = [symbol for symbol, _ in itertools.groupby(path) if symbol != 0]
        score = sum(float(log_probs[frame, symbol]) for frame, symbol in enumerate(path))
        if symbols == VOCABULARY.encode(text) and score > best:
            best, likeliest = score, path
    # Frames of each word: between the boundaries of the likeliest path, blanks cut off at both ends.
    wanted, first = [], 0
    for word in text.split():
        stop = likeliest.index(1, first) if 1 in likeliest[first:] else len(likeliest)
        spoken = [frame for frame in range(first, stop) if likeliest[frame] != 0]
        wanted.append(WordTime(word, float(spoken[0]), float(spoken[-1] + 1)))
        first = max((frame + 1 for frame in range(stop, len(likeliest)) if likeliest[frame] == 1), default=stop)
    assert word_times(log_probs, text, VOCABULARY, frame_seconds=1.0) == wanted


def test_as_many_frames_as_symbols_are_enough():
    assert word_times(random_emissions(3, 0), "a b", VOCABULARY, frame_seconds=1.0) == [
        WordTime("a", 0.0, 1.0),
        WordTime("b", 2.0, 3.0),
    ]
    assert len(word_times(random_emissions(3, 0), "aa", VOCABULARY)) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ab b", r"'ab b' cannot be aligned: it needs 4 frames, the audio has 3"),
        ("aab", r"it needs 4 frames, the audio has 3"),  # a blank between the two
        ("cab", r"cannot be aligned: not in the vocabulary: 'c'"),
    ],
)
def test_texts_that_do_not_fit(text, message):
    with pytest.raises(UserError, match=message):
        word_times(random_emissions(3, 0), text, VOCABULARY)


def test_emissions_of_another_vocabulary():
    with pytest.raises(ValueError, match="4 symbols, the vocabulary has 5"):
        word_times(random_emissions(3, 0), "a", Vocabulary.from_texts(["abc"]))
