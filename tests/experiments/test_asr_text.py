"""Sources of the n-gram: which are chosen, mixed with what, what the rows say, and what a model folder keeps."""

import json
from dataclasses import replace

import numpy as np
import pytest

from speechssl.config import UserError
from speechssl.data.labelled import Example
from speechssl.data.waveforms import WaveformStore
from speechssl.decoding import general
from speechssl.decoding.arpa import BEGIN, read_arpa
from speechssl.decoding.arrays import NgramArrays
from speechssl.decoding.decode import beam_search_installed
from speechssl.decoding.kneser_ney import kneser_ney
from speechssl.experiments import asr, asr_decoder, asr_ngram, asr_text
from speechssl.experiments.asr import AsrConfig, recognise
from speechssl.experiments.asr_decoder import ngram_text
from speechssl.experiments.asr_ngram import Ngrams
from speechssl.experiments.asr_sides import divide
from speechssl.experiments.asr_text import sources
from speechssl.experiments.evaluate_head import evaluate_head
from speechssl.inference.predictor import Predictor

from .asr_toys import micro_model, spoken_corpus
from .test_asr import FEW, MINUTES

needs_beam = pytest.mark.skipif(not beam_search_installed(), reason="the extra lm is not installed")


@pytest.fixture(autouse=True)
def toy_general_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """General models of a moment: words that the corpus does not have, and frequencies of its letters."""
    english = kneser_ney([text.split() for text in ("ab ba abab", "bbb ab", "aaa ba ab")], order=3)
    for module in (asr_text, asr_ngram):
        monkeypatch.setattr(module, "english_trigram", lambda: english)
    monkeypatch.setattr(asr_text, "english_name", lambda: "English trigram of toys 1")
    monkeypatch.setattr(asr_text, "wordfreq_installed", lambda: True)
    monkeypatch.setattr(asr_text, "frequency_language", lambda name: name if name in ("ru", "de") else None)
    monkeypatch.setattr(asr_text, "frequency_name", lambda name: f"word frequencies ({name}) of toys 1")
    monkeypatch.setattr(asr_text, "word_frequencies", lambda *_: {"ab": 0.3, "ba": 0.2, "bbb": 0.1})


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return spoken_corpus(tmp_path_factory.mktemp("spoken"))


def test_auto_goes_by_language(monkeypatch):
    said = []

    def chosen(language, **options):
        return sources(
            options.pop("choice", "auto"), language=language, given=options.pop("given", False), say=said.append
        )

    assert chosen("en") == ("english", "transcripts")
    assert chosen("ru") == ("wordfreq", "transcripts")
    assert said == []
    assert chosen("en", given=True) == ("transcripts",)
    assert chosen("en", choice="transcripts") == ("transcripts",)
    assert chosen("en", choice="english", given=True) == ("english",)
    assert chosen("ru", choice="wordfreq") == ("wordfreq",)
    assert said == []
    assert chosen(None) == chosen("tlh") == ("transcripts",)
    monkeypatch.setattr(asr_text, "english_name", lambda: None)
    monkeypatch.setattr(asr_text, "wordfreq_installed", lambda: False)
    assert chosen("en") == chosen("ru") == ("transcripts",)
    assert [line.removeprefix("n-gram without a general text: ") for line in said] == [
        "the manifest gives no language, or several",
        "wordfreq has no words of the language 'tlh'",
        general.NO_ENGLISH,
        general.NO_WORDFREQ,
    ]


def test_a_source_that_is_not_there(monkeypatch):
    with pytest.raises(UserError, match="the corpus is in 'ru'; the language model 'english' is for English"):
        sources("english", language="ru", given=False)
    with pytest.raises(UserError, match="wordfreq has no words of the language None"):
        sources("wordfreq", language=None, given=False)
    monkeypatch.setattr(asr_text, "english_name", lambda: None)
    monkeypatch.setattr(asr_text, "wordfreq_installed", lambda: False)
    with pytest.raises(UserError, match=r"needs the package pocketsphinx: pip install 'speechssl\[lm\]'"):
        sources("english", language="en", given=False)
    with pytest.raises(UserError, match="need the package wordfreq"):
        sources("wordfreq", language="ru", given=False)


def ngrams_of(prepared, folder, option, **sides):
    divided = replace(divide(WaveformStore(prepared), minutes=MINUTES), **sides)
    return Ngrams(folder, divided, text=None, order=2, options=(option,), language="ru", characters="ab")


def test_mixtures_hold_no_sentence_of_the_test_or_development_side(prepared, tmp_path, monkeypatch):
    """Neither the whole ones nor those of the parts of the unlabelled side; the development side gives the weight."""
    seen = []

    def noted(sentences, **options):
        kept = [list(words) for words in sentences]
        seen.append({" ".join(words) for words in kept})
        return kneser_ney(kept, **options)

    monkeypatch.setattr(asr_text, "kneser_ney", noted)
    ngrams = ngrams_of(prepared, tmp_path, "english")
    weight = ngrams.weight("english")
    assert weight is not None
    assert 0 < weight < 1
    ngrams.whole("english")
    held = {example.target for example in (*ngrams.sides.test, *ngrams.sides.dev)}
    labelled = {example.target for example in ngrams.sides.labelled}
    assert all(not held & each for each in seen)
    seen.clear()
    parts = ngrams.parts("english")
    assert len(seen) == len(parts) > 0
    for each, (path, examples) in zip(seen, parts, strict=True):
        assert path.name.startswith("english-lm-part-")
        assert not each & {example.target for example in examples} - labelled


def test_the_lexicon_has_the_words_of_both(prepared, tmp_path):
    ngrams = ngrams_of(prepared, tmp_path, "english")
    found = read_arpa(ngrams.whole("english"))
    words = {word for sentence in ngrams.sentences for word in sentence.split()}
    assert set(found.words) == words | {"ab", "ba", "abab", "bbb", "aaa"}
    tested = [word for example in ngrams.sides.test for word in example.target.split()]
    missing = sum(not found.has_word(word) for word in tested)
    assert f"it lacks {missing} of {len(tested)} words of the test side" in ngrams.row("english")
    assert ngrams.row("english").startswith(
        f"{len(ngrams.sentences)} sentences of the training side + English trigram of toys 1: words of order 2"
    )
    assert "test transcripts of 4 or more words" in ngrams.row("english")


def test_a_character_ngram_lacks_no_word(prepared, tmp_path):
    ngrams = ngrams_of(prepared, tmp_path, "wordfreq")
    model = read_arpa(ngrams.whole("wordfreq"))
    assert set(model.words) == {"a", "b", "|"}
    assert model.order == 5
    assert "characters, so that none of" in ngrams.row("wordfreq")
    assert np.isfinite(model.score("b b b b b b | a"))


@pytest.mark.parametrize("option", ["english", "wordfreq"])
def test_without_a_sentence_the_general_model_is_alone(option, prepared, tmp_path, monkeypatch):
    monkeypatch.setattr(asr_ngram, "beam_search_installed", lambda: True)
    ngrams = ngrams_of(prepared, tmp_path, option, sentences=[])
    ngrams.options = (option, "transcripts")
    assert ngrams.usable(lambda _: None)
    assert ngrams.options == (option,)
    assert ngrams.weight(option) is None
    assert ngrams.text(option) in ("English trigram of toys 1", "word frequencies (ru) of toys 1")
    assert ngrams.parts(option)[0][0] == ngrams.whole(option)
    assert read_arpa(ngrams.whole(option)).has_word(BEGIN)


def test_an_ngram_is_made_again_for_another_development_side(prepared, tmp_path, monkeypatch):
    made = []
    write = NgramArrays.write
    monkeypatch.setattr(NgramArrays, "write", lambda self, path: (made.append(path.name), write(self, path)))
    ngrams = ngrams_of(prepared, tmp_path, "english")
    ngrams.whole("english")
    ngrams_of(prepared, tmp_path, "english").whole("english")
    assert made == ["english-lm.arpa"]
    ngrams_of(prepared, tmp_path, "english", dev=ngrams.sides.dev[:-1]).whole("english")
    assert made == ["english-lm.arpa"] * 2
    assert ngrams.whole().name == "lm.arpa"


@needs_beam
@pytest.mark.parametrize("better", ["wordfreq", "transcripts"])
def test_the_ngram_with_the_lower_development_wer_serves(better, prepared, tmp_path, monkeypatch):
    """Also for pseudo-labels, and for `predict`."""
    tune, labelled_with = asr_decoder.tune, []

    def rigged(outputs, references, *, decoder, limit):
        found = tune(outputs[:1], references[:1], decoder=decoder, lm_weights=(1.0,), word_scores=(0.0,))
        wer = 0.1 if decoder.config.lexicon == (better == "transcripts") else 0.2
        return replace(found, trials=tuple(replace(trial, wer=wer, cer=-1.0) for trial in found.trials))

    def label(model, store, indices, *, decoder, keep):
        labelled_with.append(decoder.lm.name)
        return _Labels()

    monkeypatch.setattr(asr_decoder, "tune", rigged)
    monkeypatch.setattr(asr, "pseudo_label", label)
    monkeypatch.setattr(asr, "_language", lambda _: "ru")
    said = []
    rows = recognise(
        prepared,
        micro_model(tmp_path / "encoder"),
        tmp_path / "run",
        sides=divide(WaveformStore(prepared), minutes=MINUTES),
        config=AsrConfig(beam_size=5, scratch=False),
        pretrained=FEW,
        scratch=FEW,
        say=said.append,
    )
    folder = tmp_path / "run" / "models" / "fine-tuned"
    content = json.loads((folder / "decoder.json").read_text())
    assert content["lm"] == better
    assert content["ngrams"]["wordfreq"]["wer"] != content["ngrams"]["transcripts"]["wer"]
    assert content["config"]["lexicon"] == (better == "transcripts")
    assert f"fine-tuned: n-gram '{better}' (dev WER: " in "\n".join(said)
    assert content["text"] == ngram_text(folder)
    evaluated = evaluate_head(folder, prepared, tmp_path / "evaluation.json", split="test")
    assert {row.lm_text.split(":")[0] for row in evaluated if row.probe == "n-gram"} == {content["text"]}
    texts = {row.lm_text for row in rows if row.probe == "n-gram"}
    assert texts == {content["lm_text"]}
    assert ("word frequencies (ru) of toys 1" in texts.pop()) == (better == "wordfreq")
    assert labelled_with
    assert all(name.startswith("wordfreq-") == (better == "wordfreq") for name in labelled_with)
    assert Predictor(folder).decoder.config.lexicon == (better == "transcripts")


class _Labels:
    examples, threshold = (), 0.0


def test_words_that_cannot_be_written_are_lacking(prepared, tmp_path):
    """A word of the n-gram's text is not found either where the recogniser has no symbols for it."""
    sides = divide(WaveformStore(prepared), minutes=MINUTES)
    sides = replace(sides, sentences=["ab mp3"], test=[Example(0, "ab mp3 ba")])
    for option, words in (("transcripts", "it lacks {} of 3"), ("wordfreq", "of which {} of 3")):
        few, none = (
            Ngrams(tmp_path, sides, text=None, order=2, options=(option,), can_write=can_write)
            for can_write in (str.isalpha, lambda _: True)
        )
        assert words.format(2 if option == "transcripts" else 1) in few.lacking(option)
        assert (words.format(1) if option == "transcripts" else "none of 3 words") in none.lacking(option)
