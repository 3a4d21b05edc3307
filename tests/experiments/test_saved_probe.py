"""The frozen probe as a model folder: equal to the contender, and calibrated on a speaker by `predict`."""

import json
import re

import numpy as np
import pytest
import soundfile

from speechssl import cli, load
from speechssl.config import UserError
from speechssl.data.training_audio import read_training_audio
from speechssl.data.waveforms import WaveformStore
from speechssl.experiments.frozen_features import FeatureBank
from speechssl.inference.speakers import SPEAKERS, read_speaker, speaker_of, write_speaker
from speechssl.metrics.shot_classifiers import lda_scores
from speechssl.models.files import read_json

from .conftest import PITCHES

OPTIONS = "--shots 2 --contenders probe-lda --draws 5"


def made(corpus, encoder_folder, folder, *options):
    words = ["emotion", str(corpus), "--encoder", str(encoder_folder), "--out", str(folder / "out")]
    assert cli.main([*words, *OPTIONS.split(), "--save-model", str(folder / "model"), *options]) == 0
    return folder / "model"


@pytest.fixture(scope="module")
def known(corpus, encoder_folder, tmp_path_factory):
    return made(corpus, encoder_folder, tmp_path_factory.mktemp("known"), "--standardise", "speaker")


@pytest.fixture(scope="module")
def usual(corpus, encoder_folder, tmp_path_factory):
    return made(corpus, encoder_folder, tmp_path_factory.mktemp("usual"))


def expected(corpus, encoder_folder, *, by_speaker):
    """Posteriors of scikit-learn's LDA on the contender's features, fitted on the whole corpus."""
    store = WaveformStore(corpus)
    block = FeatureBank(store, encoder_folder, np.arange(len(store)), by_speaker=by_speaker).get("model")[0]
    block = block.astype(np.float64)
    standard = (block - block.mean(axis=0)) / block.std(axis=0)
    classes = sorted(PITCHES)
    return np.exp(lda_scores(standard, np.array([classes.index(u.label) for u in store.utterances]), standard))


def told(*words):
    return cli.main(["predict", *map(str, words)])


def said(capfd):
    captured = capfd.readouterr()
    return captured.out, captured.err


def test_the_saved_probe_is_the_contender(usual, corpus, encoder_folder):
    store = WaveformStore(corpus)
    found = load(usual, device="cpu").predict([each.audio for each in store.utterances])
    probabilities = np.array([[each.probabilities[name] for name in sorted(PITCHES)] for each in found])
    np.testing.assert_allclose(probabilities, expected(corpus, encoder_folder, by_speaker=False), atol=2e-3)
    assert len(read_training_audio(usual).fine_tuning.ids) == 72
    assert read_json(usual / "config.json")["training"]["speakers"] == [f"s{n}" for n in range(6)]


def test_a_speaker_is_calibrated_once_and_kept(known, corpus, encoder_folder, capfd):
    store = WaveformStore(corpus)
    mine = [u.audio for u in store.utterances if u.speaker == "s3"]
    folder = mine[0].rpartition("/")[0]
    assert told(known, *mine, "--speaker-folder", folder, "--format", "jsonl") == 0
    out, err = said(capfd)
    assert "speaker 's3' kept, from 12 recordings" in err
    rows = [json.loads(line) for line in out.splitlines()]
    probabilities = np.array([[row["probabilities"][name] for name in sorted(PITCHES)] for row in rows])
    places = [i for i, u in enumerate(store.utterances) if u.speaker == "s3"]
    np.testing.assert_allclose(probabilities, expected(corpus, encoder_folder, by_speaker=True)[places], atol=2e-3)
    assert told(known, *mine, "--speaker", "s3", "--format", "jsonl") == 0
    again, err = said(capfd)
    assert [json.loads(line) for line in again.splitlines()] == rows
    assert "kept" not in err
    other = next(u.audio for u in store.utterances if u.speaker == "s1").rpartition("/")[0]
    assert (
        cli.main(["predict", str(known), mine[0], "--speaker-folder", other, "--speaker", "Eva", "--format", "csv"])
        == 0
    )
    said(capfd)
    assert set(read_json(known / SPEAKERS)["speakers"]) == {"s3", "Eva"}


def test_without_a_speaker_it_does_not_answer(known, corpus, tmp_path, capfd):
    path = WaveformStore(corpus).utterances[0].audio
    assert told(known, path) == 2
    assert "needs those of the speaker: speechssl predict --speaker-folder" in said(capfd)[1]
    assert told(known, path, "--speaker", "nobody") == 2
    assert re.search(r"no speaker 'nobody'; (known are .*s3|it knows none); give --speaker-folder", said(capfd)[1])
    with pytest.raises(UserError, match="needs those of the speaker"):
        load(known, device="cpu").predict(path)
    assert cli.main(["export", str(known), "--to", "huggingface", "--out", str(tmp_path / "hf")]) == 2
    assert "its head needs each speaker's mean and deviation" in said(capfd)[1]


def test_other_models_have_no_speakers(usual, corpus, capfd):
    path = WaveformStore(corpus).utterances[0].audio
    for options in (["--speaker", "s3"], ["--speaker-folder", path.rpartition("/")[0]]):
        assert told(usual, path, *options) == 2
        assert "was not trained with " in said(capfd)[1]
    assert not (usual / SPEAKERS).exists()


def test_predictions_that_collapse_are_named(known, corpus, tmp_path, capfd):
    """Recordings of one class calibrate; another voice then has one answer for all that it says."""
    store = WaveformStore(corpus)
    folder = tmp_path / "one"
    folder.mkdir()
    time = np.arange(6000) / 16000
    for number in range(12):
        rng = np.random.default_rng(number)
        tone = 0.1 * sum(np.sin(2 * np.pi * 480 * k * time) / k for k in (1, 2, 3)) + 0.001 * rng.normal(size=6000)
        soundfile.write(folder / f"{number}.wav", tone, 16000)
    low = [u.audio for u in store.utterances if u.label == "low"]
    assert told(known, *low, "--speaker-folder", str(folder), "--out", str(tmp_path / "o.csv")) == 0
    assert re.search(r"WARNING: \d+ of 24 predictions for 'one' are '\w+'\. Where the recordings", said(capfd)[1])


def test_few_recordings_and_statistics_of_other_weights(known, corpus, tmp_path, capfd):
    audio = WaveformStore(corpus).utterances[0].audio
    assert told(known, audio, "--speaker-folder", audio) == 2
    assert "1 usable recordings; need 3 at least" in said(capfd)[1]
    dim = len(read_speaker(known, "s3").mean) if (known / SPEAKERS).exists() else 64
    vectors = np.random.default_rng(0).normal(size=(5, dim))
    before = (known / SPEAKERS).read_bytes() if (known / SPEAKERS).exists() else None
    try:
        write_speaker(known, speaker_of("İpek", vectors))
        assert read_speaker(known, "ipek").recordings == 5
        content = json.loads((known / SPEAKERS).read_text())
        (known / SPEAKERS).write_text(json.dumps(content | {"model_hash": "0" * 16}))
        with pytest.raises(UserError, match="of other weights than the model's; give --speaker-folder again"):
            read_speaker(known, "ipek")
        (known / SPEAKERS).write_text('{"model_hash": ""}')
        with pytest.raises(UserError, match="not statistics of speakers; remove it"):
            read_speaker(known, "ipek")
    finally:
        if before is None:
            (known / SPEAKERS).unlink()
        else:
            (known / SPEAKERS).write_bytes(before)


def test_the_encoder_is_not_overwritten(corpus, encoder_folder, tmp_path, capfd):
    words = ["emotion", str(corpus), "--encoder", str(encoder_folder), "--out", str(tmp_path)]
    assert cli.main([*words, "--save-model", str(encoder_folder)]) == 2
    assert "is the folder of the encoder" in said(capfd)[1]
