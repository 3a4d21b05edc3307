"""Muon: which matrices it trains, its update against torch's, skipped steps, exact resume, refusals."""

import copy
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from speechssl.config import UserError, load_config
from speechssl.distributed import Process
from speechssl.models.encoder import SpeechEncoder
from speechssl.nn.transformer import TransformerConfig, TransformerLayer
from speechssl.objectives.wav2vec2 import Wav2Vec2
from speechssl.train.finetune_config import FinetuneOptim
from speechssl.train.muon import MuonAdamW
from speechssl.train.optim import AdamWConfig, build_optimizer, set_learning_rate
from speechssl.train.update import update_weights
from tests.toys import MICRO_ENCODER, MICRO_OBJECTIVE, MICRO_RUN, NO_DROPOUT, changed
from tests.train.conftest import Processes, rows, tensors
from tests.train.test_distributed import start_two

CPU = Process(rank=0, world_size=1, device=torch.device("cpu"))
MUON = AdamWConfig(name="muon", weight_decay=0.05, muon_scale=2.0)
MATRICES = ("attention.qkv", "attention.out", "expand", "contract")


def block() -> TransformerLayer:
    torch.manual_seed(0)
    return TransformerLayer(TransformerConfig(dim=8, heads=2, feedforward=24))


def with_gradients(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for each in model.parameters():
        each.grad = torch.randn(each.shape, generator=generator)


def built(model: nn.Module, config: AdamWConfig = MUON, **options: Any) -> MuonAdamW:
    optimizer = build_optimizer(model, config, **options)
    assert isinstance(optimizer, MuonAdamW)
    return optimizer


def test_matrices_of_the_blocks_alone() -> None:
    """Every parameter is trained by one optimiser; queries, keys and values are three matrices of their own."""
    objective = Wav2Vec2(SpeechEncoder(MICRO_ENCODER), MICRO_OBJECTIVE, seed=0)
    names = {name for name, _ in objective.named_parameters()}
    optimizer = built(objective, rate=lambda name: 0.5 if ".layers.0." in name else 1.0)
    set_learning_rate(optimizer, 1e-3)
    of_adamw = {id(each) for group in optimizer.adamw.param_groups for each in group["params"]}
    left = {name for name, each in objective.named_parameters() if id(each) not in of_adamw}
    blocks = [f"encoder.transformer.layers.{number}." for number in range(2)]
    assert left == {f"{prefix}{matrix}.weight" for prefix in blocks for matrix in MATRICES} < names
    assert len(of_adamw) == len(names) - len(left)
    shapes = [[tuple(each.shape) for each in group["params"]] for group in optimizer.muon.param_groups]
    assert shapes == [[(32, 32)] * 4 + [(64, 32), (32, 64)]] * 2
    assert [group["lr"] for group in optimizer.muon.param_groups] == [1e-3, 2e-3]  # block 0, block 1
    assert {group["weight_decay"] for group in optimizer.muon.param_groups} == {0.05}


def test_updates_equal_those_of_torch() -> None:
    """Against ``torch.optim.Muon`` on separate matrices and ``torch.optim.AdamW`` on the rest."""
    ours = block()
    expected = {name: nn.Parameter(each.detach().clone()) for name, each in ours.named_parameters()}
    fused = expected.pop("attention.qkv.weight").detach()
    q, k, v = (nn.Parameter(fused[rows].clone()) for rows in (slice(0, 8), slice(8, 16), slice(16, 24)))
    two = {name: each for name, each in expected.items() if each.ndim == 2}
    one = {name: each for name, each in expected.items() if each.ndim == 1}
    muon = torch.optim.Muon([q, k, v, *two.values()], lr=2e-3, weight_decay=0.05, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(one.values(), lr=1e-3, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.0)
    optimizer = built(ours)
    set_learning_rate(optimizer, 1e-3)
    for seed in range(3):
        with_gradients(ours, seed)
        gradients = {name: each.grad.clone() for name, each in ours.named_parameters() if each.grad is not None}
        q.grad, k.grad, v.grad = gradients["attention.qkv.weight"].split(8)
        for name, each in expected.items():
            each.grad = gradients[name]
        for each in (optimizer, muon, adamw):
            each.step()
    assert torch.equal(ours.attention.qkv.weight, torch.cat([q, k, v]))
    for name, each in ours.named_parameters():
        if name in expected:
            torch.testing.assert_close(each, expected[name], rtol=1e-6, atol=1e-7)


def test_the_root_mean_square_of_an_update_is_that_of_adamw() -> None:
    ours, before = block(), block()
    optimizer = built(ours, AdamWConfig(name="muon", weight_decay=0.0))
    set_learning_rate(optimizer, 1e-3)
    with_gradients(ours, 0)
    optimizer.step()
    for (name, now), old in zip(ours.state_dict().items(), before.state_dict().values(), strict=True):
        if name.removesuffix(".weight") in MATRICES:  # 0.2 of the rate times the singular values, 0.7 to 1.2
            assert 0.1e-3 < float((now - old).square().mean().sqrt()) < 0.3e-3, name


@pytest.mark.parametrize("steps_before", [0, 2])
def test_a_step_with_non_finite_gradients_changes_nothing(steps_before: int) -> None:
    ours = block()
    optimizer = built(ours)
    set_learning_rate(optimizer, 1e-3)
    one = torch.tensor(1.0)
    for seed in range(steps_before):
        with_gradients(ours, seed)
        update_weights(ours, optimizer, one, process=CPU, clip=1.0)
    before = copy.deepcopy((ours.state_dict(), optimizer.state_dict()["muon"]["state"]))
    with_gradients(ours, 5)
    assert ours.expand.weight.grad is not None
    ours.expand.weight.grad[0, 0] = float("inf")
    assert not update_weights(ours, optimizer, one, process=CPU, clip=1.0).isfinite()
    for got, old in zip((ours.state_dict(), optimizer.state_dict()["muon"]["state"]), before, strict=True):
        torch.testing.assert_close(got, old, rtol=0, atol=0)
    assert all(each.grad is None for each in ours.parameters())
    with_gradients(ours, 6)
    update_weights(ours, optimizer, one, process=CPU, clip=1.0)
    assert not torch.equal(ours.expand.weight, before[0]["expand.weight"])


def test_matrices_without_a_gradient_stay() -> None:
    """A frozen encoder, or a dropped layer."""
    ours = block()
    optimizer = built(ours)
    set_learning_rate(optimizer, 1e-3)
    with_gradients(ours, 0)
    ours.attention.qkv.weight.grad = None
    before = ours.attention.qkv.weight.detach().clone()
    update_weights(ours, optimizer, torch.tensor(1.0), process=CPU, clip=1.0)
    assert torch.equal(ours.attention.qkv.weight, before)


def test_refusals() -> None:
    with pytest.raises(UserError, match="name=muon: the model has no trained Transformer block"):
        build_optimizer(nn.Linear(3, 2), MUON)
    with pytest.raises(UserError, match="name=muon: the model has no trained"):
        build_optimizer(block().requires_grad_(requires_grad=False), MUON)
    with pytest.raises(UserError, match="muon_scale 2 has no effect with name=adamw"):
        load_config(FinetuneOptim, overrides=["muon_scale=2"])
    with pytest.raises(UserError, match="name"):
        load_config(AdamWConfig, overrides=["name=adam"])


def test_a_checkpoint_of_adamw_is_not_one_of_muon() -> None:
    ours = block()
    with pytest.raises(KeyError, match="muon"):
        built(ours).load_state_dict(build_optimizer(ours, AdamWConfig()).state_dict())


# Runs

RUN = changed(
    MICRO_RUN,
    optim__name="muon",
    optim__average=0.9,
    loop__accumulation=2,
    encoder__transformer__layer_drop=0.2,
)


def differing(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> list[str]:
    assert ours.keys() == theirs.keys()
    return [name for name, value in theirs.items() if not torch.equal(ours[name], value)]


@pytest.mark.slow
def test_resume_is_exact(processes: Processes, corpus: Path, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "run"
    processes.pretrain(corpus, whole, RUN).finish()
    assert processes.pretrain(corpus, out, RUN, signal=(signal.SIGTERM, 5)).wait() == 130
    processes.pretrain(corpus, out, RUN).finish()
    assert differing(tensors(out), tensors(whole)) == []
    assert any("momentum_buffer" in name for name in tensors(whole))
    assert rows(out) == rows(whole)
    losses = [row["loss"] for row in rows(whole) if "valid" in row]
    assert losses[-1] < losses[0]


@pytest.mark.slow
def test_a_run_that_began_without_these_settings_resumes(processes: Processes, corpus: Path, tmp_path: Path) -> None:
    out, config = tmp_path / "run", changed(MICRO_RUN, loop__steps=4)
    assert processes.pretrain(corpus, out, config, signal=(signal.SIGTERM, 2)).wait() == 130
    lines = (out / "recipe.toml").read_text().splitlines(keepends=True)
    kept = [line for line in lines if line.split(" = ")[0] not in {"name", "muon_scale"} or "wav2vec2" in line]
    assert len(kept) == len(lines) - 2
    (out / "recipe.toml").write_text("".join(kept))
    processes.pretrain(corpus, out, config).finish()
    assert rows(out)[-1]["step"] == 4
    refused = processes.pretrain(corpus, out, changed(config, optim__name="muon"))
    assert refused.wait() == 2
    assert "holds a run with other settings (optim.name=adamw)" in refused.said.read_text()


@pytest.mark.slow
def test_two_processes_equal_one(processes: Processes, corpus: Path, tmp_path: Path) -> None:
    """Torch computes the orthogonal factor in bf16, so the last bits of a gradient may change it by 2^-8."""
    config = changed(
        RUN, crops__batch_seconds=5.0, encoder__transformer__layer_drop=0.0, optim__average=0.0,
        **{f"encoder__{name}": value for name, value in NO_DROPOUT.items()},
    )  # fmt: skip
    processes.pretrain(corpus, tmp_path / "single", config).finish()
    for run in start_two(processes, corpus, tmp_path / "run", config):
        run.finish()
    ours, theirs = tensors(tmp_path / "run"), tensors(tmp_path / "single")
    first, last = (rows(tmp_path / name) for name in ("run", "single"))
    for got, row in zip(first, last, strict=True):
        assert got["loss"] == pytest.approx(row["loss"], rel=1e-3)
    names = [name for name in theirs if name.startswith("/model/")]
    far = max(float((ours[name] - theirs[name]).abs().max()) for name in names)
    assert far < 1e-3, far
