"""The whole experiment at toy size: trained once, told the same twice, and honest about who knew what."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from speechssl.config import UserError
from speechssl.data.training_audio import read_training_audio
from speechssl.data.waveforms import WaveformStore
from speechssl.decoding import phones, pronunciation
from speechssl.decoding.decode import beam_search_installed
from speechssl.experiments import asr, asr_decoder, asr_ngram
from speechssl.experiments.asr import AsrConfig, recognise
from speechssl.experiments.asr_ngram import (
    Ngrams,
    read_sentences,
    transcripts_in_record,
    transcripts_in_text,
    write_text_record,
)
from speechssl.experiments.asr_scores import Scores, rows_of
from speechssl.experiments.asr_sides import divide
from speechssl.experiments.evaluate_head import evaluate_head
from speechssl.inference.predictor import Predictor
from speechssl.metrics.compare import compare
from speechssl.metrics.results import read_results
from speechssl.metrics.wer import EditCounts, count_errors
from speechssl.train.finetune_config import finetune_settings

from ..toys import changed
from .asr_toys import micro_model, spoken_corpus

MINUTES = 5 / 60
FEW = changed(
    finetune_settings("text", minutes=1.0),
    loop__steps=3,
    loop__validate_every=3,
    loop__checkpoint_every=3,
    loop__precision="fp32",
    batches__batch_seconds=3.0,
    device="cpu",
)
needs_beam = pytest.mark.skipif(not beam_search_installed(), reason="the extra lm is not installed")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return spoken_corpus(tmp_path_factory.mktemp("spoken"))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return micro_model(tmp_path_factory.mktemp("encoder"))


def run(prepared, encoder, out, *, config=None, text=None, sides=None, said=None, settings=FEW):
    sides = sides or divide(WaveformStore(prepared), minutes=MINUTES)
    return recognise(
        prepared,
        encoder,
        out,
        sides=sides,
        config=config or AsrConfig(beam_size=5, keep=1.0),
        pretrained=settings,
        scratch=settings,
        lm_text=text,
        command="the command",
        say=(said if said is not None else []).append,
    )


@pytest.fixture(scope="module")
def finished(prepared, encoder, tmp_path_factory):
    """A run whose teacher writes the truth: an untrained one may write nothing, and then nothing is self-trained."""
    out = tmp_path_factory.mktemp("run") / "asr"
    said = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("speechssl.train.self_training.greedy", lambda *_: "ab")
        patch.setattr("speechssl.decoding.decode.BeamDecoder.decode", lambda *_: _Read("ab"))
        rows = run(prepared, encoder, out, said=said)
    return out, rows, said


class _Read:
    def __init__(self, text):
        self.text = text


@needs_beam
def test_everything_is_written(finished):
    out, rows, said = finished
    assert read_results(out / "results.json") == rows
    assert {(row.contender, row.probe, row.metric) for row in rows} == {
        (contender, probe, metric)
        for contender in ("fine-tuned", "self-trained", "from scratch")
        for probe in ("greedy", "n-gram")
        for metric in ("WER", "CER")
    }
    assert all(row.unit == "minutes" and row.n == 16 and row.command == "the command" for row in rows)
    assert all(row.low <= row.value <= row.high for row in rows)
    for name in ("fine-tuned", "self-trained", "from-scratch"):
        for file in ("model.safetensors", "lm.arpa", "decoder.json"):
            assert (out / "models" / name / file).stat().st_size > 0
    assert any("transcripts by fine-tuned kept" in line for line in said)
    worst = json.loads((out / "worst.json").read_text())
    assert len(worst["kinds"]) == 6
    assert worst["utterances"][0]["errors"] >= worst["utterances"][-1]["errors"]
    assert all(difference.difference.value == 0 for difference in compare(out / "results.json", out / "results.json"))


@pytest.fixture
def toy_dictionary(tmp_path, monkeypatch):
    """Pronunciations of the toy words; nothing of them is left for other tests."""
    caches = (pronunciation._dictionary, phones._spellings)
    (tmp_path / "toy.dict").write_text("ab AE B\nba B AA\n")
    monkeypatch.setattr(pronunciation, "dictionary_file", lambda: tmp_path / "toy.dict")
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


@needs_beam
@pytest.mark.usefixtures("toy_dictionary")
def test_phones_are_written_as_words(prepared, encoder, tmp_path, monkeypatch):
    """By the n-gram alone: rows, pseudo-labels, `predict` and `evaluate` hold words, and nothing is greedy."""
    settings = changed(FEW, ctc__units="phones")
    monkeypatch.setattr("speechssl.train.self_training.greedy", _never)
    rows = run(prepared, encoder, tmp_path / "run", config=AsrConfig(beam_size=5, keep=1.0), settings=settings)
    assert {row.probe for row in rows} == {"n-gram"}
    folder = tmp_path / "run" / "models" / "fine-tuned"
    predictor = Predictor(folder)
    known = {word for utterance in WaveformStore(prepared).utterances for word in str(utterance.text).lower().split()}
    assert set(predictor.decoder.words) <= known
    found = predictor.predict([WaveformStore(prepared).waveform(0)])[0]
    assert set(found.text.split()) <= known
    evaluated = evaluate_head(folder, prepared, tmp_path / "evaluation.json", split="test")
    assert {row.probe for row in evaluated} == {"n-gram"}
    with pytest.raises(UserError, match="recognises phones; words need an n-gram"):
        Predictor(folder, lm=False)
    monkeypatch.setattr(asr_ngram, "beam_search_installed", lambda: False)
    with pytest.raises(UserError, match="words need an n-gram"):
        run(prepared, encoder, tmp_path / "other", config=AsrConfig(), settings=settings)


def test_phones_have_no_ngram_of_letters(prepared, encoder, tmp_path, monkeypatch):
    settings = changed(FEW, ctc__units="phones")
    monkeypatch.setattr(asr, "sources", lambda *_, **__: ("wordfreq",))
    with pytest.raises(UserError, match="the n-gram 'wordfreq' is one of characters"):
        run(prepared, encoder, tmp_path / "run", config=AsrConfig(lm="wordfreq"), settings=settings)


@needs_beam
@pytest.mark.parametrize(("greedy_cer", "written"), [(1.0, "ab"), (0.0, "ba")])
def test_a_teacher_labels_in_the_way_that_gets_more_characters_right(
    greedy_cer, written, prepared, encoder, finished, tmp_path, monkeypatch
):
    out = tmp_path / "again"
    shutil.copytree(finished[0], out)
    told = json.loads((out / "models" / "fine-tuned" / "decoder.json").read_text())
    told["chosen"]["cer"], told["greedy"]["cer"] = 0.5, greedy_cer
    (out / "models" / "fine-tuned" / "decoder.json").write_text(json.dumps(told))
    (out / "pseudo-self-trained.json").unlink()
    monkeypatch.setattr("speechssl.train.self_training.greedy", lambda *_: "ba")
    monkeypatch.setattr("speechssl.decoding.decode.BeamDecoder.decode", lambda *_: _Read("ab"))
    run(prepared, encoder, out)
    labels = json.loads((out / "pseudo-self-trained.json").read_text())["labels"]
    assert labels
    assert {text for _, text in labels} == {written}


@needs_beam
def test_a_second_call_trains_nothing_and_tells_the_same(prepared, encoder, finished, tmp_path, monkeypatch):
    out = tmp_path / "again"
    shutil.copytree(finished[0], out)
    monkeypatch.setattr("speechssl.train.finetune.fit", _fit_nothing(monkeypatch))
    monkeypatch.setattr(asr_decoder, "tune", _never)
    monkeypatch.setattr(asr, "pseudo_label", _never)
    monkeypatch.setattr(asr_ngram, "train_ngram", _never)
    monkeypatch.setattr("speechssl.decoding.decode.BeamDecoder.decode", lambda *_: _Read("ab"))
    assert run(prepared, encoder, out) == finished[1]


def _never(*_, **__):
    raise AssertionError("was done again")


def _fit_nothing(monkeypatch):
    """The loop, which may only find that all is done."""
    from speechssl.train.finetune import fit

    def checked(*args, **options):
        assert (options["out"] / "last.pt").exists()
        before = (options["out"] / "model.safetensors").stat().st_mtime_ns
        result = fit(*args, **options)
        assert result.counters.step == 3
        assert (options["out"] / "model.safetensors").stat().st_mtime_ns == before
        return result

    return checked


@needs_beam
def test_what_changed_is_computed_again(prepared, encoder, finished, tmp_path):
    out, said = tmp_path / "again", []
    shutil.copytree(finished[0], out)
    text = tmp_path / "text.txt"
    text.write_text("Ab, ba!\nbb aab\n")
    before = (out / "lm.arpa").read_text()
    run(prepared, encoder, out, text=text, said=said, config=AsrConfig(beam_size=5, rounds=0, scratch=False))
    assert (out / "lm.arpa").read_text() != before
    assert (out / "models" / "fine-tuned" / "lm.arpa").read_text() == (out / "lm.arpa").read_text()
    assert not any("trained again" in line for line in said)  # no model is trained on the n-gram
    other = micro_model(tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    config["encoder"]["transformer"]["dropout"] = 0.2
    (other / "config.json").write_text(json.dumps(config))
    run(prepared, other, out, said=said, config=AsrConfig(beam_size=5, rounds=0, scratch=False))
    assert sum("trained again" in line for line in said) == 1


@needs_beam
def test_scratch_has_the_encoders_architecture(finished, encoder):
    config = json.loads((finished[0] / "models" / "from-scratch" / "config.json").read_text())
    assert config["encoder"] == json.loads((encoder / "config.json").read_text())["encoder"]
    assert config["provenance"]["start"] is None


def test_without_the_extra_it_is_greedy_alone(prepared, encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(asr_ngram, "beam_search_installed", lambda: False)
    said = []
    rows = run(prepared, encoder, tmp_path / "run", said=said, config=AsrConfig(rounds=0, scratch=False))
    assert {row.probe for row in rows} == {"greedy"}
    assert any("greedy transcripts only: beam search needs the extra 'lm'" in line for line in said)
    assert not (tmp_path / "run" / "lm.arpa").exists()


def test_gains_are_errors_saved(prepared):
    store = WaveformStore(prepared)
    sides = divide(store, minutes=MINUTES)
    said = [example.target for example in sides.test]

    def scores(name, written):
        return Scores(
            name,
            "greedy",
            words=count_errors(said, written),
            characters=count_errors(said, written, unit="character"),
            written=written,
            model_hash="",
        )

    good, bad = scores("good", said), scores("bad", [""] * len(said))
    rows = rows_of(store, sides, [good, bad], corpus=prepared, command="")
    assert rows[0].gains == {"bad": [1.0, 1.0, 1.0]}
    assert rows[2].gains == {"good": [-1.0, -1.0, -1.0]}
    assert good.words[0] == EditCounts(0, 0, 0, len(said[0].split()))


@needs_beam
def test_an_ngram_that_labels_a_recording_does_not_hold_its_sentence(prepared, tmp_path):
    sides = divide(WaveformStore(prepared), minutes=MINUTES)
    labelled = {example.target for example in sides.labelled}
    ngrams = Ngrams(tmp_path, sides, text=None, order=3)
    found = {}

    def noted(sentences, path, *, order):
        found[path] = set(sentences)
        path.write_text("")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asr_ngram, "train_ngram", noted)
        parts = ngrams.parts()
        whole = found.get(ngrams.whole()) or found[ngrams.whole()]
    assert sorted(each.index for _, side in parts for each in side) == [each.index for each in sides.unlabelled]
    assert parts
    for path, side in parts:
        assert not found[path] & {example.target for example in side} - labelled
        assert found[path] <= whole
    assert not whole & {example.target for example in (*sides.test, *sides.dev)}


def test_a_text_that_cannot_be_used_is_one_line(tmp_path):
    (tmp_path / "empty").write_text("…\n")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    for name, words in (("empty", "no sentence in it"), ("bytes", "not UTF-8 text"), ("none", "cannot be read")):
        with pytest.raises(UserError, match=words):
            read_sentences(tmp_path / name)


def test_a_teacher_that_writes_nothing_ends_self_training(prepared, encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(asr_ngram, "beam_search_installed", lambda: False)
    monkeypatch.setattr("speechssl.train.self_training.greedy", lambda *_: "")
    said = []
    rows = run(prepared, encoder, tmp_path / "run", said=said, config=AsrConfig(rounds=2, scratch=False))
    assert {row.contender for row in rows} == {"fine-tuned"}
    assert sum("gave no usable transcript" in line for line in said) == 1


def test_a_development_side_is_tuned_on_in_part(prepared, encoder, tmp_path, monkeypatch):
    if not beam_search_installed():
        pytest.skip("the extra lm is not installed")
    asked = []

    def tune(heard, references, *, decoder, limit):
        asked.append(list(references))
        return asr_tune(heard[:1], references[:1], decoder=decoder, lm_weights=(1.0,), word_scores=(0.0,))

    asr_tune = asr_decoder.tune
    monkeypatch.setattr(asr_decoder, "tune", tune)
    sides = divide(WaveformStore(prepared), minutes=MINUTES)
    sides = replace(sides, dev=[*sides.unlabelled[:3], *sides.dev])
    run(
        prepared,
        encoder,
        tmp_path / "run",
        sides=sides,
        config=AsrConfig(rounds=0, scratch=False, tune_limit=2, beam_size=5),
    )
    assert [len(each) for each in asked] == [2]
    assert np.isfinite(json.loads((tmp_path / "run/models/fine-tuned/decoder.json").read_text())["trials"][0]["wer"])


def test_transcripts_of_the_test_side_are_found_in_a_text(tmp_path):
    tested = ["one two three four", "two three four five", "one two three", "one two three four"]
    text = ["zero one two three four five", "one two three"]
    assert transcripts_in_text(tested, text) == "3 of 3 test transcripts of 4 or more words"
    assert transcripts_in_text(tested, ["one two three", "two three four six"]).startswith("0 of 3")
    path = tmp_path / "lm_text.json"
    assert transcripts_in_record(tested, path) == "unknown"
    write_text_record(path, ["one two three four", *text])
    assert transcripts_in_record(tested, path) == "2 of 3 test transcripts of 4 or more words"  # whole lines alone
    path.write_text("[]")
    with pytest.raises(UserError, match=r"lm_text\.json: not the record of an n-gram's text"):
        transcripts_in_record(tested, path)


@needs_beam
def test_a_text_with_the_test_side_is_told(prepared, tmp_path):
    sides = divide(WaveformStore(prepared), minutes=MINUTES)
    sentence = "ab ba ab ba"
    tested = replace(sides, test=[replace(example, target=sentence) for example in sides.test[:3]])
    said = []
    ngrams = Ngrams(tmp_path, tested, text=[f"a {sentence}", "b"], order=2)
    assert ngrams.usable(said.append)
    assert "in the text of the n-gram: 3 of 3 test transcripts of 4 or more words" in said


def test_rows_state_what_is_known_of_the_encoder(finished):
    out, rows, said = finished
    assert {row.pretraining_audio for row in rows if row.contender == "fine-tuned"} == {"unknown"}
    assert {row.pretraining_audio for row in rows if row.contender == "from scratch"} == {""}
    assert {bool(row.lm_text) for row in rows if row.probe == "greedy"} == {False}
    assert "in the audio of pretraining: unknown" in said
    audio = read_training_audio(out / "models" / "self-trained")
    assert len(audio.fine_tuning.ids) > 1
    scratch = read_training_audio(out / "models" / "from-scratch")
    assert scratch.pretraining.known
    assert not scratch.pretraining.ids
