"""The rivals of the recognisers: trained once, in the same table, and honest about what they have learnt from."""

import json
from dataclasses import replace

import numpy as np
import pytest
import soundfile

from speechssl.config import UserError
from speechssl.data.manifest import Utterance
from speechssl.data.waveforms import WaveformStore, pack
from speechssl.decoding.decode import beam_search_installed
from speechssl.experiments import asr, asr_rivals, asr_sphinx
from speechssl.experiments.asr import AsrConfig, recognise
from speechssl.experiments.asr_ngram import Ngrams
from speechssl.experiments.asr_rival_features import encoder_frames, frame_layer, mfcc_frames
from speechssl.experiments.asr_rivals import CONTENDERS, RIVALS, Rivals, rival_names
from speechssl.experiments.asr_scores import NGRAM
from speechssl.experiments.asr_sides import divide
from speechssl.metrics.results import read_results
from speechssl.metrics.wer import error_rate
from speechssl.models.storage import model_hash

from .asr_toys import micro_model, spoken_corpus
from .test_asr import FEW, MINUTES

needs_beam = pytest.mark.skipif(not beam_search_installed(), reason="the extra lm is not installed")
HMMS = ("hmm-mfcc", "hmm-encoder")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return spoken_corpus(tmp_path_factory.mktemp("spoken"))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return micro_model(tmp_path_factory.mktemp("encoder"))


def rivals_of(prepared, encoder, out, said, *, language=None, options=("transcripts",), ngrams=True):
    store = WaveformStore(prepared)
    sides = divide(store, minutes=10 / 60)
    given = Ngrams(out, sides, text=None, order=2, options=options) if ngrams else None
    return Rivals(store, encoder, out, sides=sides, ngrams=given, language=language, say=said.append)


@needs_beam
@pytest.mark.slow
def test_the_hmms_learn_the_toy_language_and_are_read_again(prepared, encoder, tmp_path, monkeypatch):
    said = []
    rivals = rivals_of(prepared, encoder, tmp_path, said)
    found = rivals.found(HMMS)
    assert [each.scores.contender for each in found] == [CONTENDERS[name] for name in HMMS]
    known = {word for sentence in rivals.ngrams.sentences for word in sentence.split()}
    places = [i for i, each in enumerate(rivals.sides.test) if known.issuperset(each.target.split())]
    assert len(places) >= 8
    assert error_rate([found[0].scores.words[place] for place in places]).value < 0.1
    assert error_rate([found[1].scores.words[place] for place in places]).value < 0.8  # an encoder never trained
    assert [each.scores.model_hash for each in found] == ["", model_hash(encoder)]
    stored = json.loads((tmp_path / "rivals" / "hmm-mfcc.json").read_text())
    assert (stored["units"], stored["lm"]) == ("letters", "transcripts")
    assert stored["chosen"] in stored["trials"]
    monkeypatch.setattr(asr_rivals, "train_hmm", None)  # would fail
    again = rivals_of(prepared, encoder, tmp_path, []).found(HMMS)
    assert [each.scores.written for each in again] == [each.scores.written for each in found]
    other = micro_model(tmp_path / "other")
    (other / "model.safetensors").write_bytes((encoder / "model.safetensors").read_bytes())
    changed = rivals_of(prepared, other, tmp_path, said)
    changed.sides = replace(changed.sides, labelled=changed.sides.labelled[1:])
    with pytest.raises(TypeError):  # other labels: trained again
        changed.found(["hmm-mfcc"])


@needs_beam
def test_the_rows_say_what_each_rival_has_learnt_from(prepared, encoder, tmp_path, monkeypatch):
    def content(self, name):
        written = [each.target for each in self.sides.test]
        return {"written": written, "lm_text": f"text of {name}"}

    monkeypatch.setattr(Rivals, "_hmm", content)
    monkeypatch.setattr(Rivals, "_sphinx", lambda self: content(self, "sphinx"))
    monkeypatch.setattr(asr_rivals, "sphinx_missing", lambda language: "")
    monkeypatch.setattr(asr_rivals, "sphinx_version", lambda: "5")
    said = []
    rows = recognise(
        prepared,
        encoder,
        tmp_path,
        sides=divide(WaveformStore(prepared), minutes=MINUTES),
        config=AsrConfig(beam_size=5, rounds=0, scratch=False, rivals=RIVALS),
        pretrained=FEW,
        scratch=FEW,
        say=said.append,
    )
    assert read_results(tmp_path / "results.json") == rows
    found = {row.contender: row for row in rows if row.metric == "WER" and row.probe == NGRAM}
    mfcc, encoded, sphinx = (found[CONTENDERS[name]] for name in RIVALS)
    own = found[asr.FINE_TUNED]
    assert [each.value for each in (mfcc, encoded, sphinx)] == [0, 0, 0]
    assert (mfcc.pretraining_audio, sphinx.pretraining_audio) == ("", "")
    assert encoded.pretraining_audio == own.pretraining_audio != ""
    assert (encoded.model_hash, mfcc.model_hash, sphinx.model_hash) == (model_hash(encoder), "", "")
    assert "far more speech" in sphinx.training_audio
    assert "far more speech" in sphinx.contender
    assert (mfcc.lm_text, sphinx.lm_text) == ("text of hmm-mfcc", "text of sphinx")
    assert own.gains[CONTENDERS["hmm-mfcc"]][0] <= 0
    worst = json.loads((tmp_path / "worst.json").read_text())
    assert worst["contender"] == asr.FINE_TUNED  # its utterances, not those of a better rival
    assert {each["contender"] for each in worst["kinds"]} == set(found)


def test_what_does_not_fit_is_left_out_with_the_reason(prepared, encoder, tmp_path, monkeypatch):
    said = []
    assert rivals_of(prepared, encoder, tmp_path, said, ngrams=False).found(RIVALS) == []
    assert [each.split(": ")[1] for each in said] == ["left out"] * 3
    assert "the extra 'lm'" in said[0]
    assert rivals_of(prepared, encoder, tmp_path, said, options=("wordfreq",)).found(["hmm-mfcc"]) == []
    assert "n-gram of words" in said[-1]
    assert rivals_of(prepared, encoder, tmp_path, said, language="ru").found(["pocketsphinx"]) == []
    monkeypatch.setattr(asr_sphinx.importlib.util, "find_spec", lambda name: None)
    assert rivals_of(prepared, encoder, tmp_path, said, language="en").found(["pocketsphinx"]) == []
    assert "not installed" in said[-1]


def test_pocketsphinx_is_for_english():
    pytest.importorskip("pocketsphinx", reason="the extra lm is not installed")
    assert asr_sphinx.sphinx_missing("en-GB") == ""
    assert "'ru'" in asr_sphinx.sphinx_missing("ru")
    assert "no language" in asr_sphinx.sphinx_missing(None)


def test_pocketsphinx_is_given_16_bit_samples_and_its_words_are_normalised(prepared, monkeypatch):
    package = pytest.importorskip("pocketsphinx", reason="the extra lm is not installed")
    heard = []

    class Decoder:
        def __init__(self, **options):
            self.start_utt = self.end_utt = lambda: None

        def process_raw(self, data, **options):
            heard.append(np.frombuffer(data, "<i2"))

        def hyp(self):
            return None if len(heard) == 1 else type("Hypothesis", (), {"hypstr": "Re-entered, IT'S"})

    store = WaveformStore(prepared)
    monkeypatch.setattr(package, "Decoder", Decoder)
    assert asr_sphinx.sphinx_transcripts(store, [3, 4]) == ["", "re entered it's"]
    np.testing.assert_allclose(heard[0] / 32767, store.waveform(3), atol=2e-5)


@pytest.mark.slow
def test_pocketsphinx_writes_nothing_for_silence(tmp_path):
    """The real decoder, its n-gram and its lexicon."""
    pytest.importorskip("pocketsphinx", reason="the extra lm is not installed")
    soundfile.write(tmp_path / "silence.wav", 1e-4 * np.random.default_rng(0).standard_normal(16000), 16000)
    pack([Utterance(audio=str(tmp_path / "silence.wav"), duration=1.0)], tmp_path / "store", workers=1)
    assert asr_sphinx.sphinx_transcripts(WaveformStore(tmp_path / "store"), [0]) == [""]
    assert "it lacks 1 of 3 words" in asr_sphinx.sphinx_text(["a house", "qqxzy"])


def test_frames_are_every_10_ms_without_the_mean_of_their_speaker(prepared, encoder):
    store = WaveformStore(prepared)
    side = list(range(12))
    mfcc = mfcc_frames(store, [side])[0]
    for index in side:
        assert abs(len(mfcc[index]) - 100 * store.utterances[index].duration) <= 3
    assert mfcc[0].shape[1] == 39
    for speaker in {store.speakers[index] for index in side}:
        own = np.concatenate([mfcc[index] for index in side if store.speakers[index] == speaker])
        np.testing.assert_allclose(own.mean(axis=0), 0, atol=1e-4)
    assert frame_layer(encoder) == 1  # of two blocks: the middle


def test_frames_of_an_encoder_are_what_separates_the_states(prepared, encoder):
    """As many as those of MFCC, of two discriminants for three states, and better told apart by them than by chance."""
    store = WaveformStore(prepared)
    sides = [[0, 1, 2, 3], [4]]
    states = [np.arange(len(rows)) * 3 // len(rows) for rows in mfcc_frames(store, sides[:1])[0]]
    train, test = encoder_frames(store, sides, encoder=encoder, states=states)
    assert [rows.shape for rows in train] == [(len(each), 2) for each in states]
    assert test[0].shape[1] == 2
    rows, targets = np.concatenate(train), np.concatenate(states)
    means = np.stack([rows[targets == state].mean(axis=0) for state in range(3)])
    nearest = np.square(rows[:, None] - means).sum(axis=-1).argmin(axis=1)
    assert (nearest == targets).mean() > 0.5


@pytest.mark.parametrize(("text", "names"), [("all", RIVALS), ("none", ()), ("hmm-mfcc", ("hmm-mfcc",))])
def test_the_option_names_rivals(text, names):
    assert rival_names(text) == names


def test_an_unknown_rival_is_refused():
    with pytest.raises(UserError, match="'kaldi' is unknown; allowed: all, none, or some of hmm-mfcc"):
        rival_names("hmm-mfcc,kaldi")
