"""Two processes train as one does: same weights, same log, and they stop together."""

import json
import signal
import socket
from pathlib import Path

import pytest
import torch
from torch import Tensor

from speechssl.config import UserError, dump_config
from speechssl.distributed import any_rank, process_group, sum_over_ranks
from speechssl.objectives import OBJECTIVES
from speechssl.train.checkpoint import load_checkpoint
from speechssl.train.pretrain_config import PretrainConfig
from tests.toys import NO_DROPOUT, changed, micro_run
from tests.train.conftest import Processes, Run, rows, tensors

HEAVY = {"wav2vec2": {"objective__diversity_weight": 2.0}}  # of terms that are no sum over frames


def config_for(objective: str) -> PretrainConfig:
    """Five crops: three for one process, two for the other."""
    return changed(
        micro_run(objective),
        crops__batch_seconds=5.0,
        loop__steps=6,
        loop__validate_every=3,
        loop__checkpoint_every=6,
        **{f"encoder__{name}": value for name, value in NO_DROPOUT.items()},
        **HEAVY.get(objective, {}),
    )


CONFIG = config_for("wav2vec2")


def start_two(
    processes: Processes, corpus: Path, out: Path, config: PretrainConfig, *, signal: tuple[int, int] | None = None
) -> list[Run]:
    """What torchrun does: two processes that find each other by the environment. The second may get a signal."""
    return [
        processes.pretrain(corpus, out, config, env=env, signal=signal if rank else None)
        for rank, env in enumerate(gloo_environments())
    ]


def gloo_environments() -> list[dict[str, str]]:
    """What torchrun tells each of two processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    both = {"WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [{name: str(value) for name, value in {"RANK": rank, "LOCAL_RANK": rank, **both}.items()} for rank in (0, 1)]


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.slow) if index else name for index, name in enumerate(OBJECTIVES)],
)
def config(request: pytest.FixtureRequest) -> PretrainConfig:
    return config_for(request.param)


@pytest.fixture(scope="module")
def single(
    processes: Processes, corpus: Path, config: PretrainConfig, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("single") / "run"
    processes.pretrain(corpus, out, config).finish()
    return out


def weights(out: Path) -> dict[str, Tensor]:
    return {name: value for name, value in tensors(out).items() if name.startswith("/model/")}


# A batch norm follows the pooled vectors and takes any constant out: the gradient of this bias is rounding noise, which
# AdamW scales up.
WITHOUT_EFFECT = {
    "simclr": ("encoder.transformer.norm.bias",),
    "byol": (
        "encoder.transformer.norm.bias",
        "teacher.module.transformer.norm.bias",
        "projector.3.bias",  # the predictor's norm follows
        "teacher_projector.module.3.bias",
    ),
}


def assert_close_runs(out: Path, expected: Path) -> None:
    ours, theirs = weights(out), weights(expected)
    assert ours.keys() == theirs.keys()
    objective = json.loads((expected / "config.json").read_text())["objective"]["name"]
    compared = theirs.keys() - {f"/model/{name}" for name in WITHOUT_EFFECT.get(objective, ())}
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in compared) < 1e-5
    for got, row in zip(rows(out), rows(expected), strict=True):
        assert got.keys() == row.keys()
        for name, value in row.items():
            assert got[name] == pytest.approx(value, rel=1e-3, abs=1e-4), (row["step"], name)


@pytest.mark.slow
@pytest.mark.parametrize("accumulation", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_two_processes_equal_one(
    processes: Processes, corpus: Path, config: PretrainConfig, single: Path, tmp_path: Path, accumulation: int
) -> None:
    out = tmp_path / "run"
    for run in start_two(processes, corpus, out, changed(config, loop__accumulation=accumulation)):
        run.finish()
    assert_close_runs(out, single)
    said = (tmp_path / "run.said").read_text()
    assert said.count("6 steps, ") == 1  # one of them talks


@pytest.mark.slow
@pytest.mark.parametrize("accumulation", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_accumulation_equals_one_batch(
    processes: Processes, corpus: Path, config: PretrainConfig, single: Path, tmp_path: Path, accumulation: int
) -> None:
    out = tmp_path / "run"
    processes.pretrain(corpus, out, changed(config, loop__accumulation=accumulation)).finish()
    assert_close_runs(out, single)


@pytest.mark.slow
@pytest.mark.parametrize("config", ["wav2vec2"], indirect=True)
@pytest.mark.parametrize("first", [1, 2])
def test_a_run_resumes_on_another_number_of_processes(
    processes: Processes, corpus: Path, config: PretrainConfig, single: Path, tmp_path: Path, first: int
) -> None:
    out, stop = tmp_path / "run", (signal.SIGTERM, 3)
    if first == 1:
        assert processes.pretrain(corpus, out, config, signal=stop).wait() == 130
        runs = start_two(processes, corpus, out, config)
    else:
        assert [run.wait() for run in start_two(processes, corpus, out, config, signal=stop)] == [130, 130]
        runs = [processes.pretrain(corpus, out, config)]
    for run in runs:
        run.finish()
    assert_close_runs(out, single)


@pytest.mark.parametrize("config", ["wav2vec2"], indirect=True)
def test_small_differences_would_show(single: Path, processes: Processes, corpus: Path, tmp_path: Path) -> None:
    """What the tolerance means: a diversity term that is 5 % heavier moves the weights a hundred times as far."""
    out = tmp_path / "run"
    processes.pretrain(corpus, out, changed(CONFIG, objective__diversity_weight=2.1)).finish()
    ours, theirs = weights(out), weights(single)
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in theirs) > 1e-3


def test_a_signal_to_one_stops_both_and_resume_is_exact(processes: Processes, corpus: Path, tmp_path: Path) -> None:
    """With dropped layers, so that a process may leave parameters without gradients."""
    config = changed(CONFIG, loop__steps=10, encoder__transformer__layer_drop=0.3, loop__validate_every=10)
    out, whole = tmp_path / "run", tmp_path / "whole"
    runs = start_two(processes, corpus, out, config, signal=(signal.SIGTERM, 4))
    assert [run.wait() for run in runs] == [130, 130], runs[0].said.read_text()
    state = load_checkpoint(out / "last.pt")
    assert state is not None
    assert state["progress"]["step"] == 4
    for folder in (out, whole):
        for run in start_two(processes, corpus, folder, config):
            run.finish()
    ours, theirs = weights(out), weights(whole)
    assert [name for name, value in theirs.items() if not torch.equal(ours[name], value)] == []


@pytest.mark.slow
def test_a_budget_ends_both(processes: Processes, corpus: Path, tmp_path: Path) -> None:
    """Ranks follow one clock: otherwise their learning rates, validations and ends would differ."""
    config = changed(CONFIG, loop__budget=6.0, optim__schedule="wsd", loop__log_every=1)
    for run in start_two(processes, corpus, tmp_path / "run", config):
        run.finish()
    state = load_checkpoint(tmp_path / "run" / "last.pt")
    assert state is not None
    assert state["progress"]["done"]
    assert 4.5 < state["progress"]["wall_seconds"] < 9.0


def test_ranks_with_different_rows_measure_the_same_numbers(processes: Processes, corpus: Path, tmp_path: Path) -> None:
    """Five crops: three for one process, two for the other."""
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(dump_config(changed(CONFIG, loop__steps=2)))
    words = ["pretrain", corpus, "--out", tmp_path / "run", "--config", recipe, "--find-batch"]
    runs = [processes.start(*words, said=tmp_path / "said", env=env) for env in gloo_environments()]
    for run in runs:
        run.finish()


def test_an_alarm_ends_both(processes: Processes, corpus: Path, tmp_path: Path) -> None:
    config = changed(CONFIG, health__grace=2, health__patience=2, optim__warmup=0.0, optim__reference_lr=0.0)
    runs = start_two(processes, corpus, tmp_path / "run", config)
    assert [run.wait() for run in runs] == [3, 3], runs[0].said.read_text()


# Without a launcher


def test_alone() -> None:
    with process_group("cpu") as process:
        assert (process.rank, process.world_size, process.is_main, process.device.type) == (0, 1, True, "cpu")
        tensors = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor(3)}
        assert sum_over_ranks(tensors) is tensors
        assert any_rank(True, process.device)  # noqa: FBT003
        assert not any_rank(False, process.device)  # noqa: FBT003


def test_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="device 'cuda:0': torch sees no GPU"), process_group("cuda:0"):
        pass
    with pytest.raises(UserError, match="unknown device 'abacus'; 'auto', 'cpu'"), process_group("abacus"):
        pass
    with process_group("auto") as process:
        assert process.device.type == "cpu"
