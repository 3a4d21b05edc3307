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
from speechssl.decoding.decode import beam_search_installed
from speechssl.inference.predictor import (
    ClassPrediction,
    Predictor,
    Transcript,
    decoder_config,
)
from speechssl.models.classifier import Classifier, ClassifierConfig
from speechssl.models.ctc import CTCConfig, CTCModel
from speechssl.models.heads import save_head
from speechssl.text import Vocabulary
from tests.micro import micro_encoder, tone

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
    monkeypatch.setattr("speechssl.inference.predictor.emissions", lambda _, waveforms: [rows for _ in waveforms])


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
    rows = [line.split("\t") for line in out.splitlines()]
    assert [row[0] for row in rows] == [*paths(sounds), f"{sounds}/none.wav"]
    assert [row[2].startswith("error: ") for row in rows] == [False, True, True, False, True]
    assert rows[3][1] == "0.00-1.50"
    for bad in (*paths(sounds)[1:3], f"{sounds}/none.wav"):
        assert f"{bad}: " in err
    assert err.splitlines()[-1] == "3 of 5 files could not be used"


def test_nothing_but_bad_files_is_a_mistake(classifier, sounds, capfd):
    code, out, err = said(["predict", classifier, *paths(sounds)[1:3]], capfd)
    assert code == 2
    assert [line.split("\t")[0] for line in out.splitlines()] == paths(sounds)[1:3]
    assert "2 of 2 files could not be used" in err


def test_strict_is_code_4(classifier, sounds, capfd, tmp_path):
    out = tmp_path / "out.csv"
    for words in (paths(sounds), paths(sounds)[1:3], [*paths(sounds), "--out", out], [*paths(sounds), "--out", out]):
        assert said(["predict", classifier, *words, "--strict"], capfd)[0] == 4
    assert said(["predict", classifier, paths(sounds)[0], "--strict"], capfd)[0] == 0


def test_a_folder_is_all_the_sound_below_it(classifier, sounds, capfd, tmp_path):
    (sounds / "notes.txt").write_text("no sound")
    code, out, _ = said(["predict", classifier, sounds, "--format", "jsonl"], capfd)
    assert code == 0
    assert [json.loads(line)["path"] for line in out.splitlines()] == sorted(paths(sounds))
    (tmp_path / "empty").mkdir()
    code, _, err = said(["predict", classifier, tmp_path / "empty"], capfd)
    assert code == 2
    assert err == f"speechssl: {tmp_path}/empty: no audio files in it (0 other files)\n"


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
    known = ["path", "offset", "duration", "label", "probability"]
    assert list(rows[0]) == [*known, *(f"p_{name}" for name in CLASSES), "error"]
    assert [row["path"] for row in rows] == paths(sounds)
    assert [row["label"] for row in rows] == [line.get("label", "") for line in lines]
    assert [row["error"] for row in rows] == [line.get("error", "") for line in lines]
    assert [row["duration"] for row in rows] == ["1", "", "", "1.5"]
    file = tmp_path / "out.jsonl"
    code, out, _ = said(["predict", classifier, *paths(sounds), "--out", file], capfd)
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
    assert line["words_error"] == ""
    assert out.count("0000") == 0  # no 0.16000000000000003
    _, out, _ = said(["predict", writer, paths(sounds)[0]], capfd)
    assert out == f"{paths(sounds)[0]}\t0.00-1.00\tab c\tab@0.04-0.16 c@0.22-0.28\n"
    _, out, _ = said(["predict", writer, paths(sounds)[0], "--format", "csv"], capfd)
    assert out.splitlines() == [
        "path,offset,duration,text,confidence,words_error,error",
        f"{paths(sounds)[0]},0,1,ab c,0.9200,,",
    ]


@pytest.fixture
def with_ngram(writer, tmp_path):
    import shutil

    from speechssl.decoding.ngram import train_ngram

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
    from speechssl.decoding.ngram import train_ngram

    train_ngram(["ab ab", "ab"], tmp_path / "other.arpa", order=2)
    _, out, _ = said(["predict", with_ngram, paths(sounds)[0], "--lm", tmp_path / "other.arpa"], capfd)
    assert out.split("\t")[2].split()[0] == "ab"
    code, _, err = said(["predict", with_ngram, "a.wav", "--lm", "x.arpa", "--greedy"], capfd)
    assert (code, err.count("\n")) == (2, 1)


@needs_beam
def test_a_decoder_that_cannot_be_read_is_one_line(with_ngram):
    (with_ngram / "decoder.json").write_text('{"config": {"beam": 7}}')
    with pytest.raises(UserError, match=r"decoder\.json: not the settings of a decoder"):
        Predictor(with_ngram)


def test_without_the_extra_the_way_out_is_told(with_ngram, monkeypatch):
    monkeypatch.setattr("speechssl.inference.predictor.beam_search_installed", lambda: False)
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
    with pytest.raises(UserError, match="an n-gram is for speech recognition"):
        Predictor(classifier, lm=model_folder / "x.arpa")


def test_a_text_without_word_times_says_why(writer, sounds, monkeypatch, capfd):
    spoken(monkeypatch)
    monkeypatch.setattr("speechssl.decoding.trellis.MAX_CELLS", 20)
    _, out, _ = said(["predict", writer, paths(sounds)[0], "--format", "jsonl"], capfd)
    line = json.loads(out)
    assert (line["text"], line["words"]) == ("ab c", [])
    assert line["words_error"] == "'ab c' cannot be aligned: more than 20 frames x states to search"
    _, out, _ = said(["predict", writer, paths(sounds)[0]], capfd)
    assert out.endswith("\tab c\t(no word times: 'ab c' cannot be aligned: more than 20 frames x states to search)\n")
    _, out, _ = said(["predict", writer, paths(sounds)[0], "--format", "csv"], capfd)
    assert next(csv.DictReader(io.StringIO(out)))["words_error"] == line["words_error"]


def test_numbers_that_are_none_are_no_prediction(classifier, writer, sounds, monkeypatch, capfd):
    nan = np.full((1, len(CLASSES)), np.nan, dtype=np.float32)
    monkeypatch.setattr("speechssl.inference.predictor.classify", lambda *_: nan)
    monkeypatch.setattr(
        "speechssl.inference.predictor.emissions", lambda *_: [np.full((9, len(WORDS)), np.nan, np.float32)]
    )
    for folder in (classifier, writer):
        code, out, _ = said(["predict", folder, paths(sounds)[0], "--format", "jsonl"], capfd)
        assert code == 2
        assert json.loads(out)["error"] == "the model gives numbers that are not finite"
        with pytest.raises(UserError, match="clip 0: the model gives numbers that are not finite"):
            load(folder, device="cpu").predict(tone(16000))
