"""Contenders side by side on a small prepared corpus of tones: labels are found, rows and map are written."""

import contextlib
import io

import numpy as np
import pytest
import soundfile
import torch

from speechssl.config import UserError
from speechssl.data.manifest import Utterance
from speechssl.data.waveforms import WaveformStore, pack
from speechssl.embed.embedder import EmbeddingModel, load
from speechssl.experiments import evaluate as module
from speechssl.experiments.evaluate import evaluate, random_encoder
from speechssl.metrics.compare import compare
from speechssl.metrics.results import read_results
from speechssl.models.storage import model_hash
from tests.micro import micro_encoder, tone

CONTENDERS = [
    *("model (last layer)", "model (mean of layers)"),
    *("random encoder (last layer)", "random encoder (mean of layers)"),
    *("MFCC", "log-mel", "chance"),
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Eight speakers (levels of noise), three labels (pitches), four takes of each."""
    folder = tmp_path_factory.mktemp("corpus")
    items = []
    for speaker in range(8):
        for label, pitch in enumerate((120.0, 240.0, 480.0)):
            for take in range(4):
                path = folder / f"{speaker}-{label}-{take}.wav"
                wave = tone(6000 + 500 * take, pitch * (1 + 0.02 * speaker), seed=take)
                wave += 0.02 * speaker * np.random.default_rng(take).normal(size=len(wave)).astype(np.float32)
                soundfile.write(path, wave, 16000)
                text = f"take {take}"
                known = {"speaker": f"s{speaker}", "label": f"tone {label}", "text": text}
                items.append(
                    Utterance(audio=str(path), duration=len(wave) / 16000, **known, extras={"synthetic": True})
                )
    pack(items, folder / "prepared")
    return folder / "prepared"


@pytest.fixture(scope="module")
def shown(corpus, model_folder, tmp_path_factory):
    """An evaluation, and what it said on stdout and stderr."""
    out = tmp_path_factory.mktemp("run") / "results.json"
    said = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(said[0]),
        contextlib.redirect_stderr(said[1]),
    ):
        patch.setenv("COLUMNS", "200")
        tasks, command = ["label", "speaker"], "the command"
        rows = evaluate(model_folder, corpus, out, tasks=tasks, shots=[1, 3], seeds=2, command=command)
    return rows, out, said


@pytest.fixture(scope="module")
def run(shown):
    rows, out, _ = shown
    return rows, out


@pytest.fixture(scope="module")
def again(corpus, model_folder, tmp_path_factory):
    """The same evaluation for one task, with other random numbers before it."""
    out = tmp_path_factory.mktemp("again") / "results.json"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return evaluate(model_folder, corpus, out, shots=[1, 3], seeds=2, command="the command"), out


def test_every_contender_has_every_row(run):
    rows, out = run
    assert read_results(out) == rows
    for task in ("label", "speaker"):
        mine = [row for row in rows if row.task == task]
        assert list(dict.fromkeys(row.contender for row in mine)) == CONTENDERS
        for contender in CONTENDERS:
            probes = ["none"] if contender == "chance" else ["k-NN", "logistic"]
            found = sorted((row.probe, row.labels, row.metric) for row in mine if row.contender == contender)
            assert found == sorted(
                (probe, shots, metric) for probe in probes for shots in (1, 3) for metric in ("UAR", "WA")
            )
    assert all(row.command == "the command" and row.synthetic and row.seeds == 2 for row in rows)
    assert {(row.task, row.split) for row in rows} == {("label", "speakers disjoint"), ("speaker", "texts disjoint")}


def test_pitch_is_found_by_every_kind_of_features(run):
    rows, _ = run
    for row in rows:
        if row.task == "label" and row.metric == "UAR" and row.labels == 3 and row.probe == "k-NN":
            # Encoders of 24 random dimensions hear the pitch less well than MFCC do; chance is a third.
            assert row.value > {"MFCC": 0.6, "log-mel": 0.6, "chance": 0.3}.get(row.contender, 0.4)
            assert row.low <= row.value <= row.high


def test_gains_are_differences_to_the_twin_and_the_fixed_features(run):
    rows, _ = run
    by_key = {(row.task, row.contender, row.probe, row.labels, row.metric): row for row in rows}
    for row in rows:
        if not row.contender.startswith("model"):
            assert row.gains == {}
            continue
        twin = row.contender.replace("model", "random encoder")
        assert set(row.gains) == {twin, "MFCC", "log-mel"}
        for name, (value, low, high) in row.gains.items():
            other = by_key[row.task, name, row.probe, row.labels, row.metric]
            assert value == pytest.approx(row.value - other.value)
            assert low <= high


def test_the_map_lies_beside_the_results(run):
    _, out = run
    with np.load(out.with_name("map.npz"), allow_pickle=False) as file:
        assert file["points"].shape == (len(file["label"]), 2)
        assert len(file["speaker"]) == len(file["label"])
        assert set(file["label"]) == {"tone 0", "tone 1", "tone 2"}
        assert str(file["method"]) == "PCA"  # fewer than 100 clips
        assert np.isfinite(file["points"]).all()
    assert sorted(path.name for path in out.parent.iterdir()) == ["map.npz", "results.items.json.gz", "results.json"]


def test_the_tables_and_the_verdict_are_on_stderr_alone(shown):
    _, _, (out, err) = shown
    assert out.getvalue() == ""
    for words in (
        *CONTENDERS,
        "3 classes, speakers disjoint, 2 seeds, synthetic speech",
        "label: the model ",
    ):
        assert words in err.getvalue()


def test_without_baselines_only_the_model_and_chance_run(corpus, model_folder, tmp_path, capsys):
    rows = evaluate(model_folder, corpus, tmp_path / "r.json", shots=[3], seeds=1, baselines=False)
    assert {row.family for row in rows} == {"model", "chance"}
    assert all(row.gains == {} for row in rows)


@pytest.mark.slow
def test_the_same_call_gives_the_same_rows(run, again):
    assert again[0] == [row for row in run[0] if row.task == "label"]


def test_features_do_not_depend_on_who_else_is_needed(corpus, model_folder):
    """Chunks by length must come back to their own rows."""
    store, model = WaveformStore(corpus), load(model_folder, device="cpu")
    used = np.array([3, 40, 41, 90])
    console = _Silent()
    found = module.encoder_features(store, model, used, family="model", console=console)
    for index in used.tolist():
        alone = model.embed(store.read(index), pooling="mean+std")
        np.testing.assert_allclose(found["model (last layer)"][index], alone, atol=1e-5)
        averaged = model.embed(store.read(index), pooling="mean+std", layer="mean")
        np.testing.assert_allclose(found["model (mean of layers)"][index], averaged, atol=1e-5)
    assert np.abs(found["model (last layer)"][[0, 1, 2]]).max() == 0


class _Silent(module.EvaluationConsole):
    def progress(self, words, *, total):
        from contextlib import nullcontext

        return nullcontext(lambda done: None)


def test_the_random_encoder_is_another_draw_of_the_same_network():
    model = EmbeddingModel(micro_encoder(), device="cpu")
    state = torch.random.get_rng_state()
    one, two = random_encoder(model), random_encoder(model)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert one.encoder.config == model.encoder.config
    clip = tone(8000)
    np.testing.assert_array_equal(one.embed(clip), two.embed(clip))
    assert np.abs(one.embed(clip) - model.embed(clip)).max() > 0.01


def test_a_task_the_corpus_cannot_give_is_refused(corpus, model_folder, tmp_path):
    with pytest.raises(UserError, match="task must be one of label, speaker, text, got 'age'"):
        evaluate(model_folder, corpus, tmp_path / "r.json", tasks=["age"])
    with pytest.raises(UserError, match="at least 2 classes with 200 utterances"):
        evaluate(model_folder, corpus, tmp_path / "r.json", shots=[100])
    with pytest.raises(UserError, match="not a prepared corpus"):
        evaluate(model_folder, tmp_path, tmp_path / "r.json")
    with pytest.raises(UserError, match="no model in it"):
        evaluate(tmp_path, corpus, tmp_path / "r.json", shots=[1])
    with pytest.raises(UserError, match="is a folder; give the name of a JSON file"):
        evaluate(model_folder, corpus, tmp_path, shots=[1])
    assert list(tmp_path.iterdir()) == []


def test_the_map_of_many_clips_is_t_sne(corpus, tmp_path):
    store = WaveformStore(corpus)
    task = module.probe_task(store, "label", shots=[1], seeds=1, test_limit=1000)
    test = np.arange(101) % len(store)
    everything = type(task.splits[0])(seed=0, shots=task.splits[0].shots, test=test)
    wide = type(task)(**{**vars(task), "splits": (everything,)})
    features = np.random.default_rng(0).normal(size=(len(store), 8)).astype(np.float32)
    module.write_map(tmp_path / "map.npz", store, wide, features=np.concatenate([features, features], axis=1))
    with np.load(tmp_path / "map.npz") as file:
        assert str(file["method"]) == "t-SNE"
        assert np.isfinite(file["points"]).all()
    assert [path.name for path in tmp_path.iterdir()] == ["map.npz"]


@pytest.mark.slow
def test_two_evaluations_are_compared_item_by_item(model_folder, run, again):
    """The rows carry the split and the model, and their values are those of the answers beside them."""
    rows = read_results(again[1])
    ours = [row for row in rows if row.family == "model"]
    assert {row.model_hash for row in ours} == {model_hash(model_folder)}
    assert len({row.split_hash for row in ours}) == 2
    found = compare(again[1], run[1])
    assert len(found) == len([row for row in rows if row.family != "chance"])
    assert all((each.difference.value, each.difference.low, each.difference.high) == (0, 0, 0) for each in found)
