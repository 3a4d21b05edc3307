"""`judge`: every task that a corpus allows and none that it does not, each part computed once, one page."""

import json
from pathlib import Path

import pytest

from speechssl import cli
from speechssl.data.waveforms import WaveformStore, pack
from speechssl.experiments import judge as module
from speechssl.metrics.compare import compare
from speechssl.metrics.headlines import headlines
from speechssl.metrics.results import read_results

SHOTS = ["--shots", "2,4,50", "--seeds", "2"]


def judged(corpus: Path, encoder: Path, out: Path, *words: str) -> int:
    return cli.main(["judge", str(corpus), "--model", str(encoder), "--out", str(out), *SHOTS, *words])


def repacked(corpus: Path, folder: Path, **changes: str | None) -> Path:
    """The corpus with other values in each utterance."""
    items = [item.model_copy(update=changes) for item in WaveformStore(corpus).utterances]
    pack(items, folder, workers=1)
    return folder


@pytest.fixture(scope="module")
def finished(corpus: Path, encoder_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a corpus where everything but the task `text` is allowed."""
    out = tmp_path_factory.mktemp("judge")
    assert judged(corpus, encoder_folder, out) == 0
    return out


@pytest.mark.slow
def test_every_allowed_task_has_its_rows(finished: Path) -> None:
    rows = read_results(finished / "results.json")
    assert list(dict.fromkeys(row.task for row in rows)) == ["label", "speaker", "verification", "label, fused"]
    found = {task: {row.contender for row in rows if row.task == task} for task in ("label", "verification")}
    layers = {f"{name} ({layer})" for name in ("model", "random encoder") for layer in ("last layer", "mean of layers")}
    assert found["label"] == layers | {"MFCC", "log-mel", "chance"}
    assert found["verification"] == layers | {"MFCC", "chance"}
    assert {row.labels for row in rows if row.task == "label"} == {2, 4}
    fused = [row for row in rows if row.task == "label, fused" and row.metric == "UAR"]
    assert [(row.contender, row.labels) for row in fused] == [
        (name, 4) for name in ("encoder + prosody + MFCC", "MFCC, chosen", "chance")
    ]
    assert list(json.loads((finished / "judge.json").read_text())["left_out"]) == ["text"]
    assert {row.pretraining_audio for row in rows if row.model_hash} == {"unknown"}
    assert all(row.low <= row.value <= row.high for row in rows)
    path = finished / "results.json"
    compared = {(each.task, each.verdict) for each in compare(path, path)}
    assert compared >= {("label", "undecided"), ("label, fused", "undecided")}


@pytest.mark.slow
def test_one_line_per_task_and_one_page(
    finished: Path, corpus: Path, encoder_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert judged(corpus, encoder_folder, finished) == 0
    said = capfd.readouterr().err
    page = (finished / "report.html").read_text(encoding="utf-8")
    found = headlines(read_results(finished / "results.json"))
    assert [each.setting for each in found] == [
        "label, logistic, 4 shots", "speaker, logistic, 4 shots", "verification", "label, fused, 4 shots"
    ]  # fmt: skip
    for each in found:
        assert each.gain_words in said
        assert each.setting in page
    reason = json.loads((finished / "judge.json").read_text())["left_out"]["text"]
    assert f"left out, text: {reason}" in said
    assert f" was left out: {reason}" in page
    assert "Speaker verification on corpus" in page
    assert "Map of the embeddings" in page
    assert "no training log" not in page


@pytest.mark.slow
def test_a_finished_part_is_not_computed_again(
    finished: Path,
    corpus: Path,
    encoder_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    before = (finished / "results.json").read_bytes()
    with monkeypatch.context() as patch:
        for name in ("evaluate", "verify_speakers", "label_efficiency"):
            patch.setattr(module, name, None)  # would fail if called
        assert judged(corpus, encoder_folder, finished) == 0
    assert (finished / "results.json").read_bytes() == before
    assert "verification: computed already" in capfd.readouterr().err


@pytest.mark.slow
def test_a_run_that_stopped_resumes_and_other_settings_are_computed_again(
    finished: Path,
    corpus: Path,
    encoder_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "verify_speakers", stopped)
        assert judged(corpus, encoder_folder, tmp_path) == 130
    assert not (tmp_path / "results.json").exists()
    assert judged(corpus, encoder_folder, tmp_path) == 0
    assert "probes: computed already" in capfd.readouterr().err

    def without_command(folder: Path) -> list[dict[str, object]]:
        rows = json.loads((folder / "results.json").read_text())
        return [{key: value for key, value in row.items() if key != "command"} for row in rows]

    assert without_command(tmp_path) == without_command(finished)
    assert judged(corpus, encoder_folder, tmp_path, "--seeds", "3") == 0
    said = capfd.readouterr().err
    assert "probes has other settings, another model or corpus; computed again" in said
    assert "verification: computed already" in said
    assert {row.seeds for row in read_results(tmp_path / "results.json") if row.task == "label"} == {3}


@pytest.mark.slow
def test_without_labels_speakers_remain(
    corpus: Path, encoder_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert judged(repacked(corpus, tmp_path / "prepared", label=None), encoder_folder, out) == 0
    assert {row.task for row in read_results(out / "results.json")} == {"speaker", "verification"}
    assert "left out, label: task 'label' needs at least 2 classes" in capfd.readouterr().err
    assert not (out / "confusion.json").exists()


def test_without_speakers_there_is_nothing_to_judge(
    corpus: Path, encoder_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Labels alone are not enough: a test speaker could be among those of training."""
    for changes in ({"speaker": None}, {"speaker": None, "label": None}):
        prepared = repacked(corpus, tmp_path / f"prepared-{len(changes)}", **changes)
        assert judged(prepared, encoder_folder, tmp_path / "out") == 2
        said = capfd.readouterr().err.splitlines()
        assert len([line for line in said if line.startswith("left out, ")]) == 5
        assert said[-1].startswith(f"speechssl: {prepared}: nothing to judge, it needs speakers")
        assert not (tmp_path / "out").exists()


def test_a_fine_tuned_model_is_refused(
    corpus: Path, model_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = json.loads((model_folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"head": {"kind": "ctc"}}))
    (tmp_path / "model.safetensors").write_bytes((model_folder / "model.safetensors").read_bytes())
    assert judged(corpus, tmp_path, tmp_path / "out") == 2
    assert f"{tmp_path}: is fine-tuned, judge takes a model without a head" in capfd.readouterr().err
