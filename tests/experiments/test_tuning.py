"""Tuning: a planted optimum is found, everything tried is told, and the order of preference."""

import numpy as np
import pytest

from speechssl.decoding.decode import BeamDecoder, DecoderConfig, symbol_prior
from speechssl.decoding.ngram import train_ngram
from speechssl.experiments.tuning import LM_WEIGHTS, WORD_SCORES, tune
from speechssl.metrics.wer import count_errors, error_rate
from speechssl.text import Vocabulary

VOCABULARY = Vocabulary.from_texts(["abcdefgh"])


@pytest.fixture(autouse=True, scope="module")
def _extra_is_there():
    for name in ("kenlm", "flashlight.lib.text.decoder.kenlm"):
        pytest.importorskip(name, reason=f"{name} (the extra lm) is not installed", exc_type=ImportError)


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """Sentences that the acoustics leave half open and a bigram tells: every word is followed by one other."""
    rng = np.random.default_rng(0)
    words = ["ab", "cb", "de", "fe", "gh", "ah"]
    follows = dict(zip(words, [*words[1:], words[0]], strict=True))
    sentences = []
    for _ in range(40):
        sentence = [words[rng.integers(6)]]
        while len(sentence) < 4:
            sentence.append(follows[sentence[-1]])
        sentences.append(" ".join(sentence))
    emissions = [noisy(sentence, rng) for sentence in sentences[:20]]
    path = tmp_path_factory.mktemp("lm") / "lm.arpa"
    train_ngram(sentences[20:], path, order=2, builder="own")
    return BeamDecoder(VOCABULARY, lm=path, config=DecoderConfig(beam_size=30, nbest=1)), emissions, sentences[:20]


def noisy(sentence, rng):
    path = [symbol for index in VOCABULARY.encode(sentence) for symbol in (index, 0)]
    logits = np.eye(len(VOCABULARY))[path] * 4 + rng.normal(scale=1.8, size=(len(path), len(VOCABULARY)))
    return (logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)).astype(np.float32)


def test_the_best_of_what_was_tried_is_chosen(task):
    decoder, emissions, references = task
    tuning = tune(emissions, references, decoder=decoder)
    assert (tuning.trials[0].lm_weight, tuning.trials[0].word_score) == (2.0, 0.0)
    weights = [(each.lm_weight, each.word_score) for each in tuning.trials]
    assert len(set(weights)) == len(weights)
    assert len(LM_WEIGHTS) + len(WORD_SCORES) - 2 < len(weights) < 40
    best = min(tuning.trials, key=lambda each: (each.wer, each.cer))
    chosen = tuning.trials[weights.index((tuning.config.lm_weight, tuning.config.word_score))]
    assert (chosen.wer, chosen.cer) == (best.wer, best.cer)
    texts = [decoder.with_config(tuning.config).decode(each).text for each in emissions]
    assert error_rate(count_errors(references, texts)).value == pytest.approx(chosen.wer)
    without = next(each for each in tuning.trials if each.lm_weight == 0)
    assert chosen.wer < without.wer
    assert tune(emissions, references, decoder=decoder) == tuning


def test_a_planted_optimum_is_found(monkeypatch, task):
    """Over a bowl with its bottom at 3.5 and -1 the search ends at the bottom, which is between two grid values."""
    from speechssl.experiments import tuning as module

    def bowl(decoder, emissions, references, *, weights):
        wer = (weights[0] - 3.5) ** 2 + 0.5 * (weights[1] + 1) ** 2 + 0.3 * (weights[0] - 3.5) * (weights[1] + 1)
        return module.Trial(*weights, wer, wer)

    monkeypatch.setattr(module, "_try", bowl)
    decoder, emissions, references = task
    found = tune(emissions, references, decoder=decoder).config
    assert (found.lm_weight, found.word_score) == (3.5, -1.0)
    assert tune(emissions, references, decoder=decoder, few=4).config == found  # where few utterances are like all
    assert (found.beam_size, found.nbest) == (30, 1)


def test_ties_go_to_characters_then_to_small_weights(monkeypatch, task):
    from speechssl.experiments import tuning as module

    decoder, emissions, references = task
    monkeypatch.setattr(module, "_try", lambda *_, weights: module.Trial(*weights, wer=0.5, cer=abs(weights[1] - 1)))
    found = tune(emissions, references, decoder=decoder).config
    assert (found.lm_weight, found.word_score) == (0.0, 1.0)


def test_the_prior_is_the_third_weight(monkeypatch, task):
    from speechssl.experiments import tuning as module

    decoder, emissions, references = task
    prior = symbol_prior(emissions)
    assert len(prior) == len(VOCABULARY)
    assert max(prior) == prior[0]  # blanks
    weighed = decoder.with_config(DecoderConfig(beam_size=30, nbest=1, prior=prior))

    def bowl(decoder, emissions, references, *, weights):
        wer = (weights[0] - 3.0) ** 2 + weights[1] ** 2 + (weights[2] - 0.45) ** 2
        return module.Trial(*weights, wer, wer)

    monkeypatch.setattr(module, "_try", bowl)
    assert tune(emissions, references, decoder=weighed).config.prior_weight == pytest.approx(0.45)
    assert tune(emissions, references, decoder=decoder).config.prior_weight == 0.0


@pytest.mark.parametrize(("bottom", "found"), [((7.0, -8.0), (7.0, -8.0)), ((5.5, -30.0), (5.5, -10.0))])
def test_the_search_goes_beyond_an_edge(bottom, found, monkeypatch, task):
    """To a bottom outside the grids, at most three steps beyond an edge; never below what a decoder takes."""
    from speechssl.experiments import tuning as module

    decoder, emissions, references = task
    weighed = decoder.with_config(decoder.config.model_copy(update={"prior": symbol_prior(emissions)}))

    def bowl(decoder, emissions, references, *, weights):
        wer = (weights[0] - bottom[0]) ** 2 + (weights[1] - bottom[1]) ** 2 + (weights[2] - 2.0) ** 2
        return module.Trial(*weights, wer, wer)

    monkeypatch.setattr(module, "_try", bowl)
    chosen = tune(emissions, references, decoder=weighed).config
    assert (chosen.lm_weight, chosen.word_score, chosen.prior_weight) == (*found, 1.0)
    bottom = (-5.0, 0.0)
    assert tune(emissions, references, decoder=weighed).config.lm_weight == 0.0


def test_the_search_is_made_on_few_and_the_best_are_compared_on_all(task):
    from speechssl.experiments import tuning as module

    decoder, emissions, references = task
    tuning = tune(emissions, references, decoder=decoder, few=12)
    counts = [each.utterances for each in tuning.trials]
    assert sorted(set(counts)) == [12, 20]
    assert counts.count(20) == module.FINALISTS
    assert tuning.chosen.utterances == 20
    assert tuning.chosen == min((e for e in tuning.trials if e.utterances == 20), key=module._rank)
    texts = [decoder.with_config(tuning.config).decode(each).text for each in emissions]
    assert error_rate(count_errors(references, texts)).value == pytest.approx(tuning.chosen.wer)
    silent = [""] * 19 + references[19:]
    assert {each.utterances for each in tune(emissions, silent, decoder=decoder, few=1).trials} <= {1, 20}


def test_weights_that_mean_nothing_are_left_alone(task):
    _, emissions, references = task
    free = BeamDecoder(VOCABULARY, config=DecoderConfig(lexicon=False, beam_size=5))
    assert len(tune(emissions[:2], references[:2], decoder=free).trials) == 1
    words = BeamDecoder(VOCABULARY, words=["ab", "cb"], config=DecoderConfig(beam_size=5, lm_weight=1.25))
    trials = tune(emissions[:2], references[:2], decoder=words, word_scores=[-1.0, 1.0]).trials
    assert {each.lm_weight for each in trials} == {1.25}
    assert {-1.0, 0.0, 1.0} <= {each.word_score for each in trials}


def test_at_most_so_many_utterances(task):
    decoder, emissions, references = task
    small = {"decoder": decoder, "lm_weights": [1.0], "word_scores": [0.0]}
    drawn = [tune(emissions, references, limit=3, seed=seed, **small) for seed in (0, 0, 1, 2, 3)]
    assert drawn[0] == drawn[1]
    assert len({each.trials for each in drawn}) > 1
    assert tune(emissions, references, limit=20, **small) == tune(emissions, references, limit=None, **small)


def test_nothing_to_tune_by(task):
    decoder, emissions, references = task
    with pytest.raises(ValueError, match="got 19 and 20"):
        tune(emissions, references[1:], decoder=decoder)
    with pytest.raises(ValueError, match="got 0 and 0"):
        tune([], [], decoder=decoder)
    with pytest.raises(ValueError, match="no reference holds a word"):
        tune(emissions[:1], [""], decoder=decoder)
