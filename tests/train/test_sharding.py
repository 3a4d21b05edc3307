"""Two processes that divide the weights (FSDP2) train as one does, and runs resume with or without shards."""

import signal
from pathlib import Path

import pytest
import torch

from speechssl.distributed import Process
from speechssl.models.encoder import SpeechEncoder
from speechssl.objectives.wav2vec2 import Wav2Vec2
from speechssl.train.pretrain_config import PretrainConfig
from speechssl.train.sharding import divided, shard, whole
from tests.toys import MICRO_ENCODER, MICRO_OBJECTIVE, changed
from tests.train.conftest import Processes, rows, tensors
from tests.train.test_distributed import CONFIG, assert_close_runs, config_for, start_two, weights

pytestmark = pytest.mark.slow


def sharded(config: PretrainConfig, **changes: object) -> PretrainConfig:
    return changed(config, loop__shard=True, **changes)


@pytest.fixture(scope="module")
def single(processes: Processes, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process, with an average; with one process there is nothing to divide."""
    out = tmp_path_factory.mktemp("single") / "run"
    processes.pretrain(corpus, out, sharded(CONFIG, optim__average=0.9)).finish()
    return out


def assert_equal_runs(out: Path, expected: Path) -> None:
    assert_close_runs(out, expected)
    ours, theirs = tensors(out), tensors(expected)
    assert {name: each.shape for name, each in ours.items()} == {name: each.shape for name, each in theirs.items()}
    assert max(float((ours[n] - each).abs().max()) for n, each in theirs.items() if "/average/" in n) < 1e-5
    for name in ("exp_avg", "exp_avg_sq"):
        assert max(float((ours[n] - each).abs().max()) for n, each in theirs.items() if n.endswith(name)) < 1e-3
    released = [torch.cat([each.flatten() for each in load_weights(folder).values()]) for folder in (out, expected)]
    assert float((released[0] - released[1]).abs().max()) < 1e-5


def load_weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize(
    "changes",
    [{}, {"loop__accumulation": 3}, {"loop__recompute": True, "loop__accumulation": 2}],
    ids=["whole", "uneven micro-batches", "recomputed micro-batches"],
)
def test_two_processes_equal_one(
    processes: Processes, corpus: Path, single: Path, tmp_path: Path, changes: dict[str, object]
) -> None:
    """Five crops: with three micro-batches one process could make three and the other two."""
    out = tmp_path / "run"
    for run in start_two(processes, corpus, out, sharded(CONFIG, optim__average=0.9, **changes)):
        run.finish()
    assert_equal_runs(out, single)


def test_in_bf16_as_without_shards(processes: Processes, corpus: Path, tmp_path: Path) -> None:
    """Products in bf16, weights and sums in fp32, in both; with micro-batches, whose sums are gathered first."""
    config = changed(CONFIG, loop__precision="bf16", loop__accumulation=2, loop__validate_every=6)
    for name, each in (("run", sharded(config)), ("plain", config)):
        for run in start_two(processes, corpus, tmp_path / name, each):
            run.finish()
    ours, theirs = (weights(tmp_path / name) for name in ("run", "plain"))
    assert max(float((ours[name] - each).abs().max()) for name, each in theirs.items()) < 1e-4  # orders of sums differ
    losses = [[row["loss"] for row in rows(tmp_path / name)] for name in ("run", "plain")]
    assert losses[0] == pytest.approx(losses[1], rel=2**-8)  # the last place of bf16


def test_other_objectives(processes: Processes, corpus: Path, tmp_path: Path) -> None:
    config = config_for("hubert")
    processes.pretrain(corpus, tmp_path / "single", config).finish()
    for run in start_two(processes, corpus, tmp_path / "run", sharded(config)):
        run.finish()
    assert_close_runs(tmp_path / "run", tmp_path / "single")


@pytest.mark.parametrize("first", ["sharded", "single", "data-parallel"])
def test_a_run_resumes_with_or_without_shards(
    processes: Processes, corpus: Path, single: Path, tmp_path: Path, first: str
) -> None:
    """Checkpoints hold whole tensors: weights, moments, average."""
    out, stop = tmp_path / "run", (signal.SIGTERM, 3)
    plain = changed(CONFIG, optim__average=0.9)
    two = sharded(plain)
    if first == "single":
        assert processes.pretrain(corpus, out, plain, signal=stop).wait() == 130
        runs = start_two(processes, corpus, out, two)
    else:
        begun = two if first == "sharded" else plain
        assert [run.wait() for run in start_two(processes, corpus, out, begun, signal=stop)] == [130, 130]
        runs = (
            [processes.pretrain(corpus, out, plain)] if first == "sharded" else start_two(processes, corpus, out, two)
        )
    for run in runs:
        run.finish()
    assert_equal_runs(out, single)


def test_resume_is_exact_and_a_run_can_be_prolonged(processes: Processes, corpus: Path, tmp_path: Path) -> None:
    """With dropout; the longer run continues from the state before the cooldown, which holds whole tensors too."""
    short = sharded(CONFIG, loop__steps=8, optim__schedule="wsd", optim__cooldown=0.5, optim__average=0.9)
    short = changed(short, encoder__transformer__dropout=0.1)
    out, whole = tmp_path / "run", tmp_path / "whole"
    stopped = start_two(processes, corpus, out, short, signal=(signal.SIGTERM, 6))
    assert [run.wait() for run in stopped] == [130, 130], stopped[0].said.read_text()
    for config in (short, changed(short, loop__steps=12)):
        for folder in (out, whole):
            for run in start_two(processes, corpus, folder, config):
                run.finish()
        ours, theirs = tensors(out), tensors(whole)
        assert ours.keys() == theirs.keys()
        assert [name for name, value in theirs.items() if not torch.equal(ours[name], value)] == []
    assert rows(out)[-1]["step"] == 12
    assert tensors(out, "stable.pt").keys() == tensors(out).keys()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optim__name": "muon"}, "loop.shard=true with optim.name=muon: cannot be combined"),
        ({"loop__compile": True}, "loop.shard=true with loop.compile=true: cannot be combined"),
        ({"encoder__transformer__layer_drop": 0.1}, "given encoder.transformer.layer_drop=0.1, allowed with it: 0"),
    ],
)
def test_refusals(processes: Processes, corpus: Path, tmp_path: Path, changes: dict[str, object], message: str) -> None:
    runs = start_two(processes, corpus, tmp_path / "run", sharded(CONFIG, **changes))
    assert [run.wait() for run in runs] == [2, 2], runs[0].said.read_text()
    assert message in runs[0].said.read_text()
    assert "Traceback" not in runs[0].said.read_text()


def test_parts_and_wholes() -> None:
    """In a group of one process: every parameter is divided, and a state comes back as it was."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        process = Process(rank=0, world_size=1, device=torch.device("cpu"))
        model = Wav2Vec2(SpeechEncoder(MICRO_ENCODER), MICRO_OBJECTIVE, seed=0)
        before = {name: each.clone() for name, each in model.state_dict().items()}
        shard(model, process)
        assert {type(each).__name__ for each in model.parameters()} == {"DTensor"}
        after = whole(model.state_dict())
        assert {type(each) for each in after.values()} == {torch.Tensor}
        assert [name for name, each in before.items() if not torch.equal(after[name], each)] == []
        model.load_state_dict(divided({name: each + 1 for name, each in before.items()}, model.state_dict()))
        again = whole({"a": [model.state_dict()]})["a"][0]
        assert [name for name, each in before.items() if not torch.equal(again[name], each + 1)] == []
        assert whole({"a": torch.ones(1), "b": 2}, keep=False) == {"a": None, "b": 2}
    finally:
        torch.distributed.destroy_process_group()
