"""What a fine-tuned model says of files: every layout, bad files among good ones, n-grams, and the Python API."""

import csv
import io
import json

import numpy as np
import pytest
import soundfile
import torch

from speechssl import cli, load
from speechssl.config import UserError
from speechssl.embed.predict import (
    ClassPrediction,
    Predictor,
    Transcript,
    audio_files,
    decoder_config,
    predict_files,
    write_predictions,
)
from speechssl.models.classifier import Classifier, ClassifierConfig
from speechssl.models.ctc import CTCConfig, CTCModel
from speechssl.models.heads import save_head
from speechssl.scoring.decode import beam_search_installed
from speechssl.text import Vocabulary

from .conftest import micro_encoder, tone

CLASSES = ("angry, very", "calm", "häppy")
WORDS = Vocabulary.from_texts(["ab c"])
needs_beam = pytest.mark.skipif(not beam_search_installed(), reason="the extra lm is not installed")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifier")
    torch.manual_seed(0)
    save_head(folder, Classifier(micro_encoder(), CLASSES, ClassifierConfig()), extra={})
    return folder


@pytest.fixture(scope="module")
def writer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("writer")
    torch.manual_seed(0)
    save_head(folder, CTCModel(micro_encoder(), WORDS, CTCConfig()), extra={})
    return folder


@pytest.fixture
def sounds(tmp_path):
    """Two good files, one of them in a sub-folder and long, and two that are none."""
    folder = tmp_path / "sounds"
    (folder / "more").mkdir(parents=True)
    soundfile.write(folder / "a.wav", tone(16000), 16000)
    (folder / "b.wav").write_text("not a sound")
    soundfile.write(folder / "c.wav", np.zeros(16000), 16000)
    soundfile.write(folder / "more" / "d.flac", tone(24000, pitch=500.0, seed=1), 16000)
    return folder


def paths(sounds):
    return [str(sounds / name) for name in ("a.wav", "b.wav", "c.wav", "more/d.flac")]


def said(words, capfd):
    capfd.readouterr()
    code = cli.main([str(word) for word in words])
    told = capfd.readouterr()
    return code, told.out, told.err


def spoken(monkeypatch, text="ab c"):
    """Emissions in which a text is said, three frames a symbol after two blank ones."""
    symbols = [0, 0, *(index for index in WORDS.encode(text) for _ in range(3)), 0]
    rows = np.log(np.eye(len(WORDS), dtype=np.float32)[symbols] * 0.9 + 0.02)
    monkeypatch.setattr("speechssl.embed.predict.emissions", lambda _, waveforms: [rows for _ in waveforms])


def test_probabilities_sum_to_one_and_do_not_depend_on_company(classifier):
    predictor = Predictor(classifier, device="cpu")
    waves = [tone(16000), tone(9000, pitch=300.0), tone(30000, pitch=700.0)]
    together = predictor.predict(waves)
    for wave, found in zip(waves, together, strict=True):
        assert isinstance(found, ClassPrediction)
        assert tuple(found.probabilities) == CLASSES
        assert sum(found.probabilities.values()) == pytest.approx(1, abs=5e-6)
        assert found.probability == max(found.probabilities.values()) == found.probabilities[found.label]
        alone = predictor.predict([wave])[0]
        assert alone.probabilities == pytest.approx(found.probabilities, abs=1e-5)


def test_a_bad_file_is_named_and_stops_nothing(classifier, sounds, capfd):
    code, out, err = said(["predict", classifier, *paths(sounds), sounds / "none.wav"], capfd)
    assert code == 0
    assert [line.split("\t")[0] for line in out.splitlines()] == [paths(sounds)[0], paths(sounds)[3]]
    for bad in (*paths(sounds)[1:3], f"{sounds}/none.wav"):
        assert f"{bad}: " in err
    assert err.splitlines()[-1] == "3 of 5 files could not be used"


def test_nothing_but_bad_files_is_a_mistake(classifier, sounds, capfd):
    code, out, err = said(["predict", classifier, *paths(sounds)[1:3]], capfd)
    assert (code, out) == (2, "")
    assert "2 of 2 files could not be used" in err


def test_a_folder_is_all_the_sound_below_it(classifier, sounds, capfd, tmp_path):
    (sounds / "notes.txt").write_text("no sound")
    (sounds / "metadata.csv").write_text("file_name,label\na.wav,calm\n")  # says what a corpus is; here all is asked
    code, out, _ = said(["predict", classifier, sounds, "--format", "jsonl"], capfd)
    assert code == 0
    assert [json.loads(line)["path"] for line in out.splitlines()] == sorted(paths(sounds))
    (tmp_path / "empty").mkdir()
    code, _, err = said(["predict", classifier, tmp_path / "empty"], capfd)
    assert code == 2
    assert err == f"speechssl: {tmp_path}/empty: no sound file in it\n"


def test_layouts_of_classes(classifier, sounds, capfd, tmp_path):
    _, out, _ = said(["predict", classifier, *paths(sounds), "--format", "jsonl"], capfd)
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["path"] for line in lines] == paths(sounds)
    assert lines[0]["probabilities"].keys() == set(CLASSES)
    assert "error" in lines[1]
    assert "label" not in lines[1]
    assert "silence" in lines[2]["error"]
    _, out, _ = said(["predict", classifier, *paths(sounds), "--format", "csv"], capfd)
    rows = list(csv.DictReader(io.StringIO(out)))
    assert list(rows[0]) == ["path", "label", "probability", *(f"p_{name}" for name in CLASSES)]
    assert [row["label"] for row in rows] == [line["label"] for line in lines if "label" in line]
    file = tmp_path / "out.jsonl"
    code, out, _ = said(["predict", classifier, *paths(sounds), "--format", "jsonl", "--out", file], capfd)
    assert (code, out) == (0, "")
    assert [json.loads(line) for line in file.read_text().splitlines()] == lines


def test_layouts_of_transcripts_with_word_times(writer, sounds, monkeypatch, capfd):
    spoken(monkeypatch)
    _, out, _ = said(["predict", writer, paths(sounds)[0], "--format", "jsonl"], capfd)
    line = json.loads(out)
    assert line["text"] == "ab c"
    assert [word["word"] for word in line["words"]] == ["ab", "c"]
    assert [(word["start"], word["end"]) for word in line["words"]] == [(0.04, 0.16), (0.22, 0.28)]
    assert line["confidence"] == pytest.approx(0.92)
    assert out.count("0000") == 0  # no 0.16000000000000003
    _, out, _ = said(["predict", writer, paths(sounds)[0]], capfd)
    assert out == f"{paths(sounds)[0]}\tab c\tab@0.04-0.16 c@0.22-0.28\n"
    _, out, _ = said(["predict", writer, paths(sounds)[0], "--format", "csv"], capfd)
    assert out.splitlines()[0] == "path,text,confidence"


@pytest.fixture
def with_ngram(writer, tmp_path):
    import shutil

    from speechssl.scoring.ngram import train_ngram

    folder = tmp_path / "with-ngram"
    shutil.copytree(writer, folder)
    train_ngram(["cab c", "cab"], folder / "lm.arpa", order=2)
    (folder / "decoder.json").write_text('{"config": {"lm_weight": 0.5, "beam_size": 7}}')
    return folder


@needs_beam
def test_the_ngram_of_the_folder_is_used_unless_greedy(with_ngram, sounds, monkeypatch, capfd, tmp_path):
    spoken(monkeypatch)
    assert decoder_config(with_ngram).beam_size == 7
    heard = {}
    for words in ([], ["--greedy"]):
        _, out, _ = said(["predict", with_ngram, paths(sounds)[0], "--format", "jsonl", *words], capfd)
        heard[bool(words)] = json.loads(out)
    assert heard[True]["text"] == "ab c"
    assert heard[False]["text"] in ("cab c", "c", "cab")  # words that the n-gram holds, and no other
    assert heard[False]["words"]
    from speechssl.scoring.ngram import train_ngram

    train_ngram(["ab ab", "ab"], tmp_path / "other.arpa", order=2)
    _, out, _ = said(["predict", with_ngram, paths(sounds)[0], "--lm", tmp_path / "other.arpa"], capfd)
    assert out.split("\t")[1].split()[0] == "ab"
    code, _, err = said(["predict", with_ngram, "a.wav", "--lm", "x.arpa", "--greedy"], capfd)
    assert (code, err.count("\n")) == (2, 1)


@needs_beam
def test_a_decoder_that_cannot_be_read_is_one_line(with_ngram):
    (with_ngram / "decoder.json").write_text('{"config": {"beam": 7}}')
    with pytest.raises(UserError, match=r"decoder\.json: not the settings of a decoder"):
        Predictor(with_ngram)


def test_without_the_extra_the_way_out_is_told(with_ngram, monkeypatch):
    monkeypatch.setattr("speechssl.embed.predict.beam_search_installed", lambda: False)
    with pytest.raises(UserError, match=r"beam search needs the extra 'lm'.*--greedy"):
        Predictor(with_ngram)
    assert Predictor(with_ngram, lm=False).decoder is None


def test_python(classifier, writer, sounds):
    model = load(classifier, device="cpu")
    one = model.predict(paths(sounds)[0])
    assert isinstance(one, ClassPrediction)
    both = model.predict([paths(sounds)[0], tone(16000, pitch=300.0)])
    assert both[0] == one
    assert len(both) == 2
    assert isinstance(load(writer, device="cpu").predict(tone(16000)), Transcript)
    with pytest.raises(UserError, match=r"b\.wav"):
        model.predict([paths(sounds)[1]])


def test_a_model_without_a_head_says_what_to_do(model_folder, classifier):
    with pytest.raises(UserError, match="`speechssl finetune` gives it one"):
        Predictor(model_folder)
    with pytest.raises(UserError, match="`speechssl finetune` gives it one"):
        load(model_folder, device="cpu").predict(tone(16000))
    with pytest.raises(UserError, match="an n-gram is for models that write"):
        Predictor(classifier, lm=model_folder / "x.arpa")


def test_many_files_are_told_in_order_and_in_chunks(classifier, sounds, monkeypatch):
    monkeypatch.setattr("speechssl.embed.predict.CHUNK_SECONDS", 1.2)
    asked = []
    predictor = Predictor(classifier, device="cpu")
    whole = predictor.predict

    def predict(waveforms):
        asked.append(len(waveforms))
        return whole(waveforms)

    monkeypatch.setattr(predictor, "predict", predict)
    several = paths(sounds) * 2
    out = sounds / "out.jsonl"
    with out.open("w") as file:
        assert write_predictions(predict_files(predictor, several), file, layout="jsonl") == 4
    assert [json.loads(line)["path"] for line in out.read_text().splitlines()] == several
    assert asked == [2, 2]
    assert audio_files(several) == several
