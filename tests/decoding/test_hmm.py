"""The monophone HMM: alignment against all paths, words recovered from a flat start, search against all texts."""

import itertools

import numpy as np
import pytest

from speechssl.config import UserError
from speechssl.decoding.arpa import read_arpa
from speechssl.decoding.decode import DecoderConfig, beam_search_installed
from speechssl.decoding.hmm import SILENCE, MonophoneHmm, align, make_graph, train_hmm
from speechssl.decoding.hmm_search import ACOUSTIC_SCALE, HmmDecoder
from speechssl.decoding.mixtures import StateMixtures
from speechssl.decoding.ngram import train_ngram

needs_beam = pytest.mark.skipif(not beam_search_installed(), reason="the extra lm is not installed")
DIM = 5


def letters(word):
    return [list(word)]


def random_hmm(rng, units):
    states = 1 + 3 * len(units)
    mixtures = StateMixtures(
        np.arange(states), np.ones(states), rng.standard_normal((states, DIM)), np.ones((states, DIM))
    )
    return MonophoneHmm(tuple(units), mixtures, rng.uniform(0.2, 0.8, size=states))


def path_score(hmm, heard, graph, path):
    """Log probability of a path; minus infinity where it is none."""
    states = graph.states[path]
    total = heard[np.arange(len(path)), states].sum()
    if not (graph.first[path[0]] and graph.last[path[-1]]):
        return -np.inf
    for one, two in itertools.pairwise(path):
        if one == two:
            total += np.log(hmm.loops[graph.states[one]])
        elif one in graph.before[two]:
            total += np.log(1 - hmm.loops[graph.states[one]])
        else:
            return -np.inf
    return total


def test_the_alignment_is_the_best_of_all_paths():
    rng = np.random.default_rng(0)
    hmm = random_hmm(rng, "a")
    graph = make_graph([[["a"]]], hmm.units)  # silence, three states, silence
    for _ in range(5):
        frames = rng.standard_normal((5, DIM))
        heard = hmm.mixtures.log_probs(frames)
        every = itertools.product(range(len(graph.states)), repeat=5)
        best = max(every, key=lambda path: path_score(hmm, heard, graph, np.array(path)))
        assert align(hmm, frames, graph).tolist() == list(best)


def test_a_graph_has_every_pronunciation_and_optional_silence():
    graph = make_graph([[["a"], ["b", "a"]], [["b"]]], ["a", "b"])
    assert graph.states.tolist() == [0, 1, 2, 3, 4, 5, 6, 1, 2, 3, 0, 4, 5, 6, 0]
    assert np.flatnonzero(graph.first).tolist() == [0, 1, 4]
    assert np.flatnonzero(graph.last).tolist() == [13, 14]
    assert sorted(graph.before[11]) == [3, 9, 10]  # the second word after either pronunciation, or silence
    assert graph.states[graph.usual].tolist() == [0, 1, 2, 3, 4, 5, 6, 0]


def spoken(text, rng, *, means):
    """Frames of a text: six per letter, silence at the ends and, at random, between words."""
    parts = [np.zeros((int(rng.integers(3, 8)), DIM))]
    for word in text.split():
        parts += [np.tile(means[letter], (int(rng.integers(5, 9)), 1)) for letter in word]
        parts.append(np.zeros((int(rng.choice([0, 4])), DIM)))
    parts.append(np.zeros((4, DIM)))
    clean = np.concatenate(parts)
    return clean + 0.7 * rng.standard_normal(clean.shape)


TEXTS = ("abc cab", "cab bca", "acb abc", "bca", "cba acb", "abc", "cab cba", "bac abc", "acb bac", "bca cba")


@pytest.fixture(scope="module")
def taught():
    rng = np.random.default_rng(1)
    means = {letter: 3 * rng.standard_normal(DIM) for letter in "abc"}
    texts = [TEXTS[place % len(TEXTS)] for place in range(40)]
    features = [spoken(text, rng, means=means) for text in texts]
    hmm = train_hmm(features, texts, spellings=letters, gaussians=30, passes=15)
    new = ["cba abc bac", "acb", "bca cab", "abc acb cba"]
    return hmm, new, [spoken(text, rng, means=means) for text in new], means


def test_training_from_a_flat_start_finds_the_letters(taught):
    hmm, _, _, means = taught
    assert hmm.units == ("a", "b", "c")
    assert len(hmm.mixtures.states) > 10
    for place, letter in enumerate(hmm.units):
        middle = hmm.mixtures.states == 2 + 3 * place
        found = np.average(hmm.mixtures.means[middle], axis=0, weights=hmm.mixtures.weights[middle])
        np.testing.assert_allclose(found, means[letter], atol=0.5)


def test_training_goes_on_from_the_alignment_of_another_model(taught):
    """States are those of that alignment, whatever the features are; a flat start of one pass finds others."""
    hmm, _, _, means = taught
    rng = np.random.default_rng(4)
    texts = list(TEXTS)
    features = [spoken(text, rng, means=means) for text in texts]
    graphs = [make_graph([letters(word) for word in text.split()], hmm.units) for text in texts]
    paths = [align(hmm, rows, graph) for rows, graph in zip(features, graphs, strict=True)]
    turned = [10 * rows[:, ::-1] for rows in features]  # other features of the same recordings
    found = train_hmm(turned, texts, spellings=letters, paths=paths, gaussians=10, passes=1)
    for place, letter in enumerate(found.units):
        middle = found.mixtures.states == 2 + 3 * place
        mean = np.average(found.mixtures.means[middle], axis=0, weights=found.mixtures.weights[middle])
        np.testing.assert_allclose(mean, 10 * means[letter][::-1], atol=6)
    flat = train_hmm(turned, texts, spellings=letters, gaussians=10, passes=1)
    assert np.abs(flat.mixtures.means - found.mixtures.means).max() > 6


@needs_beam
def test_the_trained_model_writes_new_sentences(taught, tmp_path):
    hmm, texts, frames, _ = taught
    train_ngram(TEXTS, tmp_path / "lm.arpa", order=2)
    config = DecoderConfig(lm_weight=1.0, beam_size=200)
    decoder = HmmDecoder(hmm, config=config, lm=tmp_path / "lm.arpa", spellings=letters)
    assert [decoder.text(hmm.mixtures.log_probs(rows)) for rows in frames] == texts
    assert decoder.text(np.zeros((0, len(hmm.loops)))) == ""


@needs_beam
def test_the_search_finds_the_best_of_all_texts(tmp_path):
    """Also where the last state of a word has one frame, and where it has several."""
    rng = np.random.default_rng(2)
    words = ("a", "ab", "ba")
    hmm = random_hmm(rng, "ab")
    train_ngram(["a ab", "ba a a", "ab ba"], tmp_path / "lm.arpa", order=2)
    ngram = read_arpa(tmp_path / "lm.arpa")
    config = DecoderConfig(lm_weight=1.5, word_score=0.3, beam_size=5000, beam_threshold=1e4)
    decoder = HmmDecoder(hmm, config=config, lm=tmp_path / "lm.arpa", spellings=letters)
    candidates = [text for size in (1, 2, 3) for text in itertools.product(words, repeat=size)]
    several = set()
    for _ in range(25):
        frames = 3 * rng.standard_normal((int(rng.integers(6, 14)), DIM))
        heard = hmm.mixtures.log_probs(frames)
        scores = {}
        for text in candidates:
            graph = make_graph([letters(word) for word in text], hmm.units)
            if 3 * sum(map(len, text)) <= len(frames):
                best = path_score(hmm, heard, graph, align(hmm, frames, graph))
                lm = 1.5 * ngram.score(" ".join(text)) + 0.3 * len(text)
                scores[" ".join(text)] = ACOUSTIC_SCALE * best + lm
        best = max(scores, key=scores.get)
        assert decoder.text(heard) == best
        several.add(best)
    assert len(several) > 3


@needs_beam
def test_words_with_unknown_units_are_not_in_the_lexicon(tmp_path):
    hmm = random_hmm(np.random.default_rng(3), "ab")
    train_ngram(["ab xy", "ba ab"], tmp_path / "lm.arpa", order=2)
    decoder = HmmDecoder(hmm, config=DecoderConfig(), lm=tmp_path / "lm.arpa", spellings=letters)
    assert decoder.words == ("ab", "ba")
    train_ngram(["xy yx"], tmp_path / "none.arpa", order=2)
    with pytest.raises(UserError, match="no word in it"):
        HmmDecoder(hmm, config=DecoderConfig(), lm=tmp_path / "none.arpa", spellings=letters)


def test_recordings_too_short_for_their_transcripts_are_refused():
    with pytest.raises(UserError, match="three frames per unit"):
        train_hmm([np.zeros((4, DIM))], ["ab"], spellings=letters)


def test_a_stored_model_is_the_same(taught, tmp_path):
    hmm, _, frames, _ = taught
    hmm.save(tmp_path / "hmm.npz")
    again = MonophoneHmm.load(tmp_path / "hmm.npz")
    assert again.units == hmm.units
    np.testing.assert_array_equal(again.mixtures.log_probs(frames[0]), hmm.mixtures.log_probs(frames[0]))
    np.testing.assert_array_equal(again.loops, hmm.loops)
    (tmp_path / "bad.npz").write_bytes(b"no zip")
    with pytest.raises(UserError, match=r"bad\.npz: not a stored HMM"):
        MonophoneHmm.load(tmp_path / "bad.npz")


def test_silence_is_the_first_state():
    assert make_graph([[["a"]]], ["a"]).states[0] == SILENCE
