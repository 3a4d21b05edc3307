"""The real trainer on toys: it learns pitches, starts where it should, and leaves nothing behind."""

import numpy as np
import pytest

from speechssl.config import UserError
from speechssl.data.waveforms import WaveformStore
from speechssl.experiments.cells import Cell, read_cell, write_cell
from speechssl.experiments.training import FineTuner, TrainingJob, predict_classes
from speechssl.metrics.classification import uar

SETS = ("loop.steps=8", "loop.precision=fp32", "batches.batch_seconds=4", "device=cpu", "optim.lr=3e-3")


def job_of(corpus, encoder_folder, folder, **changes):
    store = WaveformStore(corpus)
    test = [i for i, item in enumerate(store.utterances) if item.split == "test"]
    train = [i for i, item in enumerate(store.utterances) if item.split == "train"]
    words = {
        "store": store, "folder": folder, "network": "encoder", "start": encoder_folder, "like": encoder_folder,
        "train": np.array(train), "targets": [str(store.utterances[i].label) for i in train], "test": np.array(test),
        "shots": 16, "seed": 0, "sets": SETS,
    } | changes  # fmt: skip
    return TrainingJob(**words)


def test_pitches_are_learnt_and_the_model_is_removed(corpus, encoder_folder, tmp_path):
    job = job_of(corpus, encoder_folder, tmp_path / "model")
    answers = FineTuner().answers(job)
    truth = [str(job.store.utterances[i].label) for i in job.test.tolist()]
    assert uar(truth, answers) > 0.6  # a third is chance
    assert not job.folder.exists()


def test_settings_know_where_it_starts(corpus, encoder_folder, tmp_path):
    tuner = FineTuner()
    tuned = tuner.settings(job_of(corpus, encoder_folder, tmp_path))
    scratch = tuner.settings(job_of(corpus, encoder_folder, tmp_path, start=None))
    network = tuner.settings(job_of(corpus, encoder_folder, tmp_path, start=None, network="logmel-cnn"))
    seeded = tuner.settings(job_of(corpus, encoder_folder, tmp_path, seed=1))
    assert len({tuned, scratch, network, seeded}) == 4
    assert "dim = 32" in scratch  # the architecture of the encoder, and not that of the preset
    assert 'network = "logmel-cnn"' in network
    assert "steps = 8" in tuned
    with pytest.raises(UserError, match=r"unknown key 'loop\.step'"):
        tuner.settings(job_of(corpus, encoder_folder, tmp_path, sets=("loop.step=1",)))


def test_an_encoder_without_a_head_answers_nothing(corpus, encoder_folder):
    with pytest.raises(UserError, match="without a head"):
        predict_classes(encoder_folder, WaveformStore(corpus), np.array([0]))


def test_cells_survive_their_file(tmp_path):
    cell = Cell("MFCC + SVM", 0, 3, "k" * 16, ["a"], ["é"], 1.5)
    write_cell(tmp_path, cell)
    assert read_cell(tmp_path, "MFCC + SVM", shots=0, draw=3) == cell
    assert read_cell(tmp_path, "MFCC + SVM", shots=0, draw=2) is None
    assert [path.name for path in tmp_path.iterdir()] == ["mfcc-svm-all-3.json"]
