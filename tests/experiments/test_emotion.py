"""Six contenders on the same shots: complete rows, cells that are computed once, and nothing that is mixed."""

import json

import numpy as np
import pytest

from speechssl.config import UserError
from speechssl.data.names import sessions_of, utterance_ids
from speechssl.data.waveforms import WaveformStore
from speechssl.experiments import emotion
from speechssl.experiments.contenders import CONTENDERS, RECIPES, SVM, SVM_NO_LEVEL, contender_names
from speechssl.experiments.emotion import label_efficiency
from speechssl.experiments.evaluation_console import EvaluationConsole
from speechssl.experiments.frozen_answers import answer_frozen
from speechssl.experiments.frozen_features import mfcc_features
from speechssl.metrics.classification import uar
from speechssl.metrics.compare import compare
from speechssl.metrics.items import items_path, read_items
from speechssl.metrics.results import read_results

from .conftest import make_corpus

SIX = ["fine-tuned", "frozen probe", "frozen random encoder", "MFCC + SVM", "log-mel CNN", "from scratch"]


def run(corpus, encoder_folder, out, trainer, **changes):
    words = {"shots": [2, 0], "draws": 5, "command": "the command", "trainer": trainer} | changes
    return label_efficiency(corpus, encoder_folder, out, **words)


@pytest.fixture(scope="module")
def finished(corpus, encoder_folder, tmp_path_factory):
    from .conftest import QuickTrainer

    truth = [str(item.label) for item in WaveformStore(corpus).utterances]
    trainer = QuickTrainer(truth)
    out = tmp_path_factory.mktemp("run")
    return run(corpus, encoder_folder, out, trainer), out, trainer


def test_every_contender_has_every_row(finished):
    rows, out, _ = finished
    assert read_results(out / "results.json") == rows
    wanted = {(name, level, metric) for name in [*SIX, "chance"] for level in (2, 0) for metric in
              ("UAR", "WA", "macro F1")}  # fmt: skip
    assert {(row.contender, row.labels, row.metric) for row in rows} == wanted
    assert len(rows) == len(wanted)
    for row in rows:
        assert row.low <= row.value <= row.high
        assert (row.n, row.seeds, row.classes, row.command, row.synthetic) == (72, 5, 3, "the command", True)
        assert len(row.split_hash) == 16
        assert (row.model_hash != "") == (row.contender in ("fine-tuned", "frozen probe"))
    assert {row.split for row in rows} == {"5 speaker-disjoint folds"}
    gains = {name for row in rows if row.contender == "fine-tuned" for name in row.gains}
    assert gains == set(SIX) - {"fine-tuned"}
    assert {name for row in rows if row.contender == "frozen probe" for name in row.gains} == set(SIX[2:])


def test_the_better_trainer_wins_and_pitch_is_heard(finished):
    rows, _, _ = finished
    value = {(row.contender, row.labels): row for row in rows if row.metric == "UAR"}
    assert value["fine-tuned", 2].value > 0.8
    assert value["fine-tuned", 2].gains["from scratch"][1] > 0
    assert value["MFCC + SVM", 0].value > 0.9
    assert value["chance", 2].value == pytest.approx(1 / 3)


@pytest.mark.slow
def test_all_contenders_see_the_same_shots_and_no_speaker_twice(finished, corpus):
    _, _, trainer = finished
    store = WaveformStore(corpus)
    assert len(trainer.jobs) == 3 * 2 * 5
    by_place = {}
    for job in trainer.jobs:
        by_place.setdefault((job.shots, job.seed), []).append((job.train.tolist(), job.test.tolist()))
        sides = [{store.utterances[i].speaker for i in side.tolist()} for side in (job.train, job.test)]
        assert not sides[0] & sides[1]
        assert list(job.targets) == [store.utterances[i].label for i in job.train.tolist()]
        assert not job.folder.exists()
    assert all(len(found) == 3 and found[0] == found[1] == found[2] for found in by_place.values())
    assert {job.network for job in trainer.jobs} == {"encoder", "logmel-cnn"}


def test_items_and_confusions_fit_the_rows(finished):
    rows, out, _ = finished
    items = read_items(items_path(out / "results.json"))
    assert len(items) == 6 * 2
    assert all(each.verdict == "undecided" for each in compare(out / "results.json", out / "results.json"))
    for each in items:
        row = next(row for row in rows if each.belongs_to(row) and row.metric == "UAR")
        assert uar(each.truth, each.predicted) == pytest.approx(row.value)
    confusion = json.loads((out / "confusion.json").read_text())
    assert confusion["classes"] == ["high", "low", "middle"]
    assert all(np.sum(cell["matrix"]) == 72 for cell in confusion["cells"])


def test_nothing_is_computed_twice(finished, corpus, encoder_folder, trainer, monkeypatch, capsys):
    rows, out, _ = finished
    before = {path: path.stat().st_mtime_ns for path in (out / "cells").iterdir()}
    monkeypatch.setattr(emotion, "answer_frozen", None)  # would fail if called
    assert run(corpus, encoder_folder, out, trainer) == rows
    assert trainer.jobs == []
    assert {path: path.stat().st_mtime_ns for path in (out / "cells").iterdir()} == before
    assert "60 of 60 cells are computed already" in capsys.readouterr().err


def test_a_killed_run_goes_on_and_ends_the_same(corpus, encoder_folder, tmp_path, trainer):
    words = {"shots": [2], "contenders": ["fine-tuned", "mfcc-svm"]}
    rows = run(corpus, encoder_folder, tmp_path / "whole", trainer, **words)
    trainer.jobs, trainer.stop_after = [], 3
    with pytest.raises(KeyboardInterrupt):
        run(corpus, encoder_folder, tmp_path / "killed", trainer, **words)
    assert not (tmp_path / "killed" / "results.json").exists()
    trainer.stop_after = 10**9
    assert run(corpus, encoder_folder, tmp_path / "killed", trainer, **words) == rows
    assert len(trainer.jobs) == 5


@pytest.mark.slow
def test_a_cell_of_other_settings_is_not_used(corpus, encoder_folder, tmp_path, trainer, capsys):
    words = {"shots": [2], "contenders": ["fine-tuned", "mfcc-svm"]}
    run(corpus, encoder_folder, tmp_path, trainer, **words)
    assert len(trainer.jobs) == 5
    trainer.words = "other"
    run(corpus, encoder_folder, tmp_path, trainer, **words)
    assert len(trainer.jobs) == 10
    said = capsys.readouterr().err
    assert "5 cells in" in said
    assert "5 of 10 cells are computed already" in said  # the SVM does not depend on the trainer
    run(corpus, encoder_folder, tmp_path, trainer, sets=["optim.lr=1"], **words)
    assert len(trainer.jobs) == 15
    run(corpus, encoder_folder, tmp_path, trainer, sets=["optim.lr=1"], **words | {"shots": [2, 4]})
    assert len(trainer.jobs) == 20  # another level leaves the cells of the first as they are


def test_another_corpus_or_model_makes_cells_void(corpus, encoder_folder, tmp_path, trainer):
    words = {"shots": [2], "contenders": ["fine-tuned"]}
    run(corpus, encoder_folder, tmp_path / "run", trainer, **words)
    other = make_corpus(tmp_path / "other", takes=5)
    trainer.truth = [str(item.label) for item in WaveformStore(other).utterances]
    run(other, encoder_folder, tmp_path / "run", trainer, **words)
    assert len(trainer.jobs) == 10


@pytest.mark.slow
def test_level_is_heard_by_mfcc_and_removed_where_it_is_asked(encoder_folder, tmp_path):
    store = WaveformStore(make_corpus(tmp_path / "loud", takes=8, loud=True))
    used = np.arange(len(store))
    labels = [str(item.label) for item in store.utterances]
    speakers = [item.speaker for item in store.utterances]
    train = np.array([i for i in used if speakers[i] not in ("s0", "s1")])
    test = np.array([i for i in used if speakers[i] in ("s0", "s1")])
    scores = {}
    with EvaluationConsole() as console:
        for name, removed in ((SVM, False), (SVM_NO_LEVEL, True)):
            features = mfcc_features(store, used, remove_level=removed, console=console)
            found = answer_frozen(name, [features], train=train, targets=[labels[i] for i in train], test=test,
                                  speakers=speakers, seed=0)  # fmt: skip
            scores[name] = uar([labels[i] for i in test], found)
    assert scores[SVM] > 0.8
    assert scores[SVM_NO_LEVEL] < 0.5  # a third is chance


def test_one_shot_leaves_nothing_to_choose_on():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(40, 8)).astype(np.float32)
    features[::2] += 4
    targets = ["a", "b"] * 20
    for name, recipe in RECIPES.items():
        blocks = [features] * len(recipe.sources)
        found = answer_frozen(name, blocks, train=np.array([0, 1]), targets=["a", "b"], test=np.arange(2, 40),
                              speakers=["s"] * 40, seed=0)  # fmt: skip
        assert uar(targets[2:], found) > 0.9


def test_ids_do_not_depend_on_where_the_corpus_lies(corpus, tmp_path):
    other = make_corpus(tmp_path / "moved" / "away")
    mine, theirs = (utterance_ids(WaveformStore(folder).utterances) for folder in (corpus, other))
    assert mine == theirs
    assert mine[0] == "s0/high-0.wav"
    assert sessions_of(WaveformStore(corpus)) is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"contenders": ["svm"]}, "contender 'svm': allowed are fine-tuned, fusion"),
        ({"contenders": []}, "contender ''"),
        ({"shots": [500]}, "no number of shots can be filled"),
        ({"draws": 0}, "must be positive"),
    ],
)
def test_what_cannot_be_is_one_line(corpus, encoder_folder, tmp_path, trainer, changes, said):
    with pytest.raises(UserError, match=said):
        run(corpus, encoder_folder, tmp_path, trainer, **changes)


def test_missing_folders_are_named(corpus, encoder_folder, tmp_path, trainer):
    with pytest.raises(UserError, match="not a prepared corpus"):
        run(tmp_path, encoder_folder, tmp_path, trainer)
    with pytest.raises(UserError, match="not a model folder"):
        run(corpus, tmp_path, tmp_path, trainer)


def test_a_damaged_cell_is_named(corpus, encoder_folder, tmp_path, trainer):
    words = {"shots": [2], "contenders": ["fine-tuned"]}
    run(corpus, encoder_folder, tmp_path, trainer, **words)
    (tmp_path / "cells" / "fine-tuned-2-0.json").write_text("{")
    with pytest.raises(UserError, match=r"fine-tuned-2-0\.json: not a cell"):
        run(corpus, encoder_folder, tmp_path, trainer, **words)


def test_leftovers_of_a_training_that_was_cut_off_are_removed(corpus, encoder_folder, tmp_path, trainer):
    (tmp_path / "cells" / "training-0123").mkdir(parents=True)
    run(corpus, encoder_folder, tmp_path, trainer, shots=[2], contenders=["fine-tuned"])
    assert list((tmp_path / "cells").glob("training*")) == []


def test_the_table_keeps_its_order():
    assert contender_names(list(CONTENDERS)[::-1]) == list(CONTENDERS.values())
    assert [name for name in CONTENDERS.values() if name in (*SIX, SVM_NO_LEVEL)] == [*SIX, SVM_NO_LEVEL]


def test_draws_that_test_one_speaker_are_refused_before_training(tmp_path, encoder_folder):
    corpus = make_corpus(tmp_path, speakers=3)
    with pytest.raises(UserError, match="1 draws test one speaker, an interval needs two; raise --draws"):
        label_efficiency(corpus, encoder_folder, tmp_path / "run", shots=[1], draws=1)
