"""Objectives compared under one budget: cells that resume, settings that are named, rates, tables, reference curves."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from speechssl import cli
from speechssl.experiments import compare_objectives_runs
from speechssl.metrics.objective_results import read_result, summaries
from speechssl.models.bundled import VARIABLE

from ..toys import toy_corpus
from .conftest import make_corpus

SMALL = ["crops.batch_seconds=4", "crops.seconds=1", "crops.min_seconds=1", "loop.validate_batches=1"]
SETS = [word for each in SMALL for word in ("--set", each)]
AUDIO = ["--budget-by", "audio", "--hours", "0.0035"]  # three updates


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of prepared corpora: `train` to pretrain on, `probe` and `other` with labels and speakers."""
    folder = tmp_path_factory.mktemp("corpora")
    shutil.move(toy_corpus(folder / "tones"), folder / "train")
    shutil.move(make_corpus(folder / "p", takes=3), folder / "probe")
    shutil.move(make_corpus(folder / "o", takes=3, loud=True), folder / "other")
    return folder


@pytest.fixture(autouse=True)
def _no_bundled_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "none")


def words(corpora: Path, folder: Path, *more: str, seeds: int = 1, objectives: str = "apc") -> list[str]:
    return [
        *("compare-objectives", f"{corpora}/train", "--out", f"{folder}/runs", "--results", f"{folder}/results"),
        *("--objectives", objectives, "--seeds", f"{seeds}", "--probe-on", f"{corpora}/probe"),
        *("--shots", "2", "--draws", "2", *SETS, *more),
    ]


def last_line(capfd: pytest.CaptureFixture[str]) -> str:
    return capfd.readouterr().err.splitlines()[-1]


@pytest.mark.slow
def test_cells_add_up(corpora: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words(corpora, tmp_path, *AUDIO, "--verify-on", f"{corpora}/probe")) == 0
    path = tmp_path / "results" / "audio" / "apc-0.json"
    result = read_result(path)
    assert result is not None
    assert result.trained is not None
    assert (result.trained.updates, result.trained.seed, result.failed) == (3, 0, "")
    assert result.trained.changed["crops.batch_seconds"] == 4.0
    assert result.trained.core_seconds > 0
    assert [point.update for point in result.curve] == [3]
    assert {"loss", "copy_loss"} <= result.curve[0].metrics.keys()
    layers = ["layer 0", "layer 1", "layer 2", "layer 3", "layer 4", "mean of layers"]
    assert [row.layer for row in result.probes if row.classifier == "linear"] == layers
    assert [row.layer for row in result.verification] == layers
    assert all(len(row.draws) == 2 and row.uar == pytest.approx(sum(row.draws) / 2, abs=1e-4) for row in result.probes)

    before = path.read_bytes()
    capfd.readouterr()
    assert cli.main(words(corpora, tmp_path, *AUDIO, objectives="apc,wav2vec2")) == 0
    said = capfd.readouterr().err
    assert "1 of 2 cells have a result" in said
    assert path.read_bytes() == before
    table = (tmp_path / "results" / "table.md").read_text()
    assert [line.split(" |")[0] for line in table.splitlines() if line.startswith("| ")] == [
        "| objective",
        "| apc",
        "| wav2vec2",
        "| MFCC (statistics without learning)",
        "| untrained encoder tiny (random weights)",
    ]
    assert "Quality against cost" in (tmp_path / "runs" / "report.html").read_text()

    # A corpus that is added is measured with the models that are there.
    assert cli.main(words(corpora, tmp_path, *AUDIO, "--probe-on", f"{corpora}/other:speaker")) == 0
    added = read_result(path)
    assert added is not None
    assert added.probes[: len(result.probes)] == result.probes
    assert {(row.corpus.name, row.task) for row in added.probes} == {("probe", "label"), ("other", "speaker")}
    shutil.rmtree(tmp_path / "runs")
    assert cli.main(words(corpora, tmp_path, *AUDIO, "--probe-on", f"{corpora}/other")) == 2
    assert f"{path}: lacks some of these measurements, and its model is not in" in last_line(capfd)

    # Another setting is an error that names the file and the setting.
    for more, named in [
        (["--set", "optim.clip=1"], "optim.clip: 10.0 there, 1.0 given"),
        (["--rate", "apc=0.5"], "optim.reference_lr: 0.001 there"),
        (["--hours", "0.004"], "amount: 0.0035 there, 0.004 given"),
    ]:
        assert cli.main([*words(corpora, tmp_path, *AUDIO), *more]) == 2
        assert last_line(capfd).startswith(f"speechssl: {path}: holds a result with other settings ({named}")
    curves = tmp_path / "curves"
    ended = ["compare-objectives", "--table", "--out", f"{tmp_path}/runs", "--results", f"{tmp_path}/results"]
    assert cli.main([*ended, "--write-curves", str(curves)]) == 0
    reference = json.loads((curves / "apc-tiny.json").read_text())
    assert (reference["corpora"], reference["updates"], len(reference["points"])) == (["train"], 3, 1)


@pytest.mark.slow
def test_a_stopped_comparison_resumes(corpora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped in a run, and again after it, before its result was written."""
    asked = words(corpora, tmp_path, *AUDIO, "--set", "loop.checkpoint_every=1")
    real = compare_objectives_runs.pretrain

    def stopped(*arguments: Any, **options: Any) -> Any:
        class Stop:
            requested = True

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("speechssl.train.loop.stop_signals", lambda: _Context(Stop()))
            return real(*arguments, **options)

    monkeypatch.setattr(compare_objectives_runs, "pretrain", stopped)
    assert cli.main(asked) == cli.INTERRUPTED
    spent = tmp_path / "runs" / "audio" / "apc-0" / "core_seconds.json"
    assert [updates for updates, _ in json.loads(spent.read_text())] == [1]
    monkeypatch.setattr(compare_objectives_runs, "pretrain", real)
    assert cli.main(asked) == 0
    path = tmp_path / "results" / "audio" / "apc-0.json"
    first = read_result(path)
    path.unlink()
    assert cli.main(asked) == 0
    again = read_result(path)
    assert again == first
    assert [updates for updates, _ in json.loads(spent.read_text())] == [1, 2]


class _Context:
    """A context manager that gives a value."""

    def __init__(self, value: Any):
        self.value = value

    def __enter__(self) -> Any:
        return self.value

    def __exit__(self, *_: object) -> None:
        pass


@pytest.mark.slow
def test_equal_time_and_chosen_rates(
    corpora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """An update that takes 10 s of a minute makes six of them; the better of two rates is taken by the run."""
    monkeypatch.setattr(compare_objectives_runs, "_measured_update", lambda *_: 10.0)
    more = ["--minutes", "1", "--rates", "0.5,1", "--sweep-minutes", "0.5", "--sweep-on", f"{corpora}/other:speaker"]
    assert cli.main(words(corpora, tmp_path, *more)) == 0
    sweep = json.loads((tmp_path / "results" / "sweep" / "apc.json").read_text())
    assert [(row["factor"], row["updates"]) for row in sweep["rates"]] == [(0.5, 3), (1.0, 3)]
    assert sweep["rates"][0]["rate"] == pytest.approx(sweep["rates"][1]["rate"] / 2)
    best = max(sweep["rates"], key=lambda row: row["uar"])
    result = read_result(tmp_path / "results" / "time" / "apc-0.json")
    assert result is not None
    assert result.trained is not None
    assert (result.trained.updates, result.trained.rate) == (6, pytest.approx(best["rate"]))
    assert result.trained.core_seconds_per_update == 10.0
    [row, *_] = summaries([result])
    assert row.core_minutes == pytest.approx(result.trained.core_seconds / 60)
    capfd.readouterr()
    again = words(corpora, tmp_path, *more[:-1], f"{corpora}/probe")
    assert cli.main(again) == 2
    assert "on which results are reported; choose the rates on another corpus" in last_line(capfd)


@pytest.mark.slow
def test_a_failed_run_is_a_result(corpora: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert (
        cli.main(words(corpora, tmp_path, *AUDIO, "--rate", "apc=1e30", "--set", "health.non_finite_patience=1")) == 0
    )
    result = read_result(tmp_path / "results" / "audio" / "apc-0.json")
    assert result is not None
    assert result.failed.startswith("non-finite gradients at update")
    assert "| apc | 0 (1 failed) |" in (tmp_path / "results" / "table.md").read_text()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--minutes", "1", "--set", "loop.steps=5"], "--set loop.steps=5: set by --minutes or --hours"),
        (["--hours", "1"], "--budget-by time needs --minutes M, the core-minutes of a run, and no other length"),
        (["--minutes", "1", "--rate", "apc=fast"], "--rate apc=fast: NAME=LR with a rate above zero"),
        (["--minutes", "1", "--rate", "cpc=1"], "--rate cpc: not one of the objectives apc"),
        (["--minutes", "1", "--rates", "1,0", "--sweep-on", "x"], "--rates 1,0: factors above zero"),
        (["--minutes", "1", "--rates", "1,2"], "--rates needs --sweep-on"),
        (["--minutes", "1", "--sweep-on", "x"], "--sweep-on needs --rates"),
        (["--minutes", "1", "--objectives", "word2vec"], "unknown objective 'word2vec'"),
        (["--minutes", "1", "--set", "device=cuda:0"], "cuda"),
    ],
)
def test_refused(more: list[str], said: str, corpora: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*words(corpora, tmp_path), *more]) == 2
    assert said in last_line(capfd)
    assert not (tmp_path / "results").exists()
