"""Mixtures of n-grams against brute force: sums, seen n-grams, weights; models without some of their words."""

import itertools

import numpy as np
import pytest

from speechssl.config import UserError
from speechssl.decoding.arpa import BEGIN, END, UNKNOWN, NgramModel, perplexity, read_arpa
from speechssl.decoding.arrays import NgramArrays, from_model, from_rows
from speechssl.decoding.kneser_ney import kneser_ney
from speechssl.decoding.mixture import best_weight, mix, restricted

ONE = [text.split() for text in ("a b c", "b c a b", "c c", "a", "b a c b a", "a b", "a b c c")]
OTHER = [text.split() for text in ("d a b", "d d", "a d b e", "e e e", "b e a b d")]


def probability(model, *words):
    """By `NgramModel`, which walks dictionaries; a word that the model lacks has none."""
    return 10 ** model.log_prob(words[-1], words[:-1]) if model.has_word(words[-1]) or words[-1] == UNKNOWN else 0.0


@pytest.fixture(scope="module", params=[(3, 2, 0.3), (2, 3, 0.8), (3, 3, 0.5)])
def mixed(request):
    first, second, weight = request.param
    models = kneser_ney(ONE, order=first), kneser_ney(OTHER, order=second)
    return [each.as_model() for each in models], mix(*models, weight), weight


def test_seen_ngrams_are_interpolated(mixed):
    (first, second), found, weight = mixed
    together = found.as_model()
    seen = {gram for model in (first, second) for table in model.log_probs for gram in table} - {(BEGIN,)}
    assert seen == {gram for table in together.log_probs for gram in table} - {(BEGIN,)}
    for gram in seen:
        wanted = weight * probability(first, *gram) + (1 - weight) * probability(second, *gram)
        assert 10 ** together.log_prob(gram[-1], gram[:-1]) == pytest.approx(wanted, rel=1e-9)


def test_probabilities_after_any_context_sum_to_one(mixed):
    _, found, _ = mixed
    words = [word for word in found.words if word != BEGIN]
    model = found.as_model()
    for size in range(3):
        for context in itertools.product([*words, BEGIN], repeat=size):
            assert sum(probability(model, *context, word) for word in words) == pytest.approx(1, abs=1e-9), context


def test_arrays_score_as_the_model_by_ngram(mixed):
    _, found, _ = mixed
    sentences = ["a b d", "c c c c", "zzz a b zzz", "e"]
    assert found.perplexity(sentences) == perplexity(found.as_model(), sentences)


def test_the_weight_has_the_highest_likelihood():
    """On the probabilities of the two models for each word, as a grid of weights finds it."""
    models = kneser_ney(ONE, order=2), kneser_ney(OTHER, order=2)
    dev = ["a b c", "a d b", "c zzz b a"]
    first, second = (each.as_model() for each in models)
    grams = [gram for text in dev for gram in itertools.pairwise([BEGIN, *text.split(), END]) if gram[1] != "zzz"]

    def likelihood(weight):
        return sum(np.log(weight * probability(first, *g) + (1 - weight) * probability(second, *g)) for g in grams)

    best = max(np.linspace(0.001, 0.999, 999), key=likelihood)
    assert best_weight(*models, dev) == pytest.approx(best, abs=2e-3)
    assert 0.1 < best < 0.9
    assert best_weight(*models, ["a b c", "b a"]) == 0.99
    assert best_weight(*models, ["e e e"]) == 0.01
    with pytest.raises(ValueError, match="at least one sentence"):
        best_weight(*models, [])


def test_a_weight_of_one_keeps_all_words():
    found = mix(kneser_ney(ONE, order=2), kneser_ney(OTHER, order=2), 1.0)
    assert {"d", "e"} < set(found.words)
    assert 10 ** found.as_model().log_prob("d") == pytest.approx(0, abs=1e-90)
    with pytest.raises(ValueError, match="weight must be 0 to 1"):
        mix(found, found, 1.5)


def test_words_that_are_left_out_become_unknown():
    whole = kneser_ney(ONE, order=3)
    part = restricted(whole, {"a", "b"}).as_model()
    before = whole.as_model()
    assert part.words == ["a", "b"]
    gone = sum(probability(before, word) for word in ("c", UNKNOWN))
    assert 10 ** part.log_prob(UNKNOWN) == pytest.approx(gone)
    assert part.log_prob("b", (BEGIN, "a")) == pytest.approx(before.log_prob("b", (BEGIN, "a")))
    for context in ((), ("a",), (BEGIN,), ("a", "b"), ("b", "a")):
        assert sum(probability(part, *context, word) for word in ("a", "b", END, UNKNOWN)) == pytest.approx(1)


def test_a_file_is_read_back(tmp_path, mixed):
    _, found, _ = mixed
    found.write(tmp_path / "lm.arpa")
    again = from_model(read_arpa(tmp_path / "lm.arpa"))
    assert again.words[: len(found.words)] == found.words
    for ours, theirs in zip(found.levels, again.levels, strict=True):
        np.testing.assert_array_equal(ours.keys, theirs.keys)
        np.testing.assert_allclose(ours.log_probs, theirs.log_probs, rtol=1e-6)
        np.testing.assert_allclose(ours.backoffs, theirs.backoffs, atol=1e-6)


def test_missing_first_words_are_added_by_backing_off():
    """As KenLM demands: `a b c` without `a b` is a file that it refuses."""
    model = NgramModel(
        log_probs=({(w,): -0.7 for w in ("a", "b", "c", "</s>", "<s>")}, {("b", "c"): -0.2}, {("a", "b", "c"): -0.1}),
        backoffs=({("a",): -0.3, ("b",): -0.4}, {}, {}),
    )
    found = from_model(model).as_model()
    assert found.log_probs[1]["a", "b"] == pytest.approx(-0.3 - 0.7)
    for gram in (("a", "b", "c"), ("c", "b", "c"), ("a", "b", "a"), ("a", "a", "b")):
        assert found.log_prob(gram[-1], gram[:-1]) == pytest.approx(model.log_prob(gram[-1], gram[:-1]))


def test_models_that_cannot_be():
    single = np.array([[0], [1]], dtype=np.int64)
    half, zero = np.log10([0.9, 0.9]), np.zeros(2)
    with pytest.raises(ValueError, match="given twice"):
        from_rows(["a", "b"], [single[[0, 0]]], [half], [zero])
    with pytest.raises(ValueError, match="1 words have no probability"):
        from_rows(["a", "b"], [single[:1]], [half[:1]], [zero[:1]])
    both = np.array([[0, 0], [0, 1]], dtype=np.int64)
    excess = from_rows(
        ["a", "b", BEGIN, END], [np.arange(4)[:, None], both], [np.full(4, -1.0), half], [np.zeros(4), zero]
    )
    with pytest.raises(UserError, match="n-grams of 2 words: the probabilities after a context sum to more than one"):
        mix(excess, excess, 0.5)
    assert isinstance(excess, NgramArrays)
