"""The loop against updates made by hand, and what must not change a run: validation, checkpoints, logging, threads."""

import copy
import json
import math
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from speechssl.config import UserError, load_config
from speechssl.data.crops import CropBatches
from speechssl.data.waveforms import WaveformStore
from speechssl.distributed import Process
from speechssl.models.encoder import SpeechEncoder
from speechssl.objectives.wav2vec2 import Wav2Vec2
from speechssl.train import loop, trainer, update
from speechssl.train.optim import schedule
from speechssl.train.prefetch import prefetch
from speechssl.train.pretrain import pretrain, split
from speechssl.train.pretrain_config import PretrainConfig
from speechssl.train.trainer import LoopConfig, use_bf16
from tests.toys import MICRO_RUN, NO_DROPOUT, changed
from tests.train.conftest import rows, tensors

CPU = Process(rank=0, world_size=1, device=torch.device("cpu"))
STILL = changed(MICRO_RUN, **{f"encoder__{name}": value for name, value in NO_DROPOUT.items()})


def weights(out: Path) -> dict[str, Tensor]:
    return {name.removeprefix("/model/"): value for name, value in tensors(out).items() if name.startswith("/model/")}


def by_hand(train: CropBatches, config: PretrainConfig, updates: int) -> dict[str, Tensor]:
    """The first updates of a run: mean loss, clipping, AdamW with a decay of matrices, slower convolutions."""
    torch.manual_seed(config.seed)
    encoder = SpeechEncoder(config.encoder)
    objective = Wav2Vec2(encoder, config.objective, seed=config.seed)
    slow = set(encoder.features.parameters())
    groups = [
        {
            "params": [each],
            "weight_decay": 0.01 if each.ndim > 1 else 0.0,
            "scale": config.optim.conv_lr_scale if each in slow else 1.0,
        }
        for each in objective.parameters()
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), eps=1e-6)
    for step in range(updates):
        batch = train.batch(step)
        loss = objective(batch, step=step, progress=step / config.loop.steps)
        optimizer.zero_grad()
        (loss.total / loss.stats["count"]).backward()
        norm = math.sqrt(sum(float(each.grad.square().sum()) for each in objective.parameters()))
        for each in objective.parameters():
            each.grad *= min(1.0, config.optim.clip / norm)
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * schedule((step + 1) / config.loop.steps, config.optim) * group["scale"]
        optimizer.step()
    return dict(objective.state_dict())


def test_the_first_updates_equal_those_by_hand(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = changed(STILL, loop__steps=20, optim__conv_lr_scale=0.3, optim__clip=0.5, loop__checkpoint_every=3)
    stop_after(monkeypatch, 3)
    assert not pretrain([corpus], tmp_path / "run", config=config).finished
    train, _ = split([WaveformStore(corpus)], config)
    expected = by_hand(train, config, 3)
    got = weights(tmp_path / "run")
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, rtol=1e-4, atol=1e-5)
    assert min(row["grad_norm"] for row in rows(tmp_path / "run")) > 0.5  # clipping had something to do


def stop_after(monkeypatch: pytest.MonkeyPatch, updates: int) -> None:
    """As if a signal came during an update."""
    counted = iter(range(1, 10_000))
    monkeypatch.setattr(loop, "any_rank", lambda flag, device: flag or next(counted) == updates)


@pytest.mark.slow
@pytest.mark.usefixtures("two_threads")
def test_watching_a_run_does_not_change_it(corpus: Path, tmp_path: Path) -> None:
    """Validation, probes, checkpoints and log rows at other moments: the same weights to the last bit."""
    plain = changed(MICRO_RUN, loop__validate_every=12, loop__checkpoint_every=12, loop__log_every=12)
    watched = changed(MICRO_RUN, loop__validate_every=1, loop__checkpoint_every=1, loop__validate_batches=1)
    for seed, (name, config) in enumerate([("plain", plain), ("watched", watched)]):
        torch.manual_seed(seed)  # the caller's stream must not matter
        pretrain([corpus], tmp_path / name, config=config)
    ours, theirs = tensors(tmp_path / "watched"), tensors(tmp_path / "plain")
    assert [name for name, value in theirs.items() if not torch.equal(ours[name], value)] == []


def test_the_log(corpus: Path, tmp_path: Path) -> None:
    config = changed(MICRO_RUN, loop__steps=11, loop__log_every=4, loop__validate_every=5)
    result = pretrain([corpus], tmp_path / "run", config=config)
    found = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    train, valid = ([row for row in found if ("valid" in row) == kind] for kind in (False, True))
    assert [row["step"] for row in train] == [1, 4, 8, 11]
    assert [row["step"] for row in valid] == [5, 10, 11]
    keys = {"loss", "contrastive_loss", "diversity_loss", "feature_penalty", "accuracy", "code_perplexity"}
    keys |= {"prob_perplexity", "determinism", "mutual_information", "constant_share", "seconds_seen", "chance_loss"}
    for row in train:
        assert row.keys() >= keys | {"grad_norm", "lr", "seconds_per_second", "wait_share", "temperature"}
        assert len(row["code_perplexity"]) == 2
    for row in valid:
        assert row.keys() >= keys | {"shift_stability"}
        assert 0 <= row["shift_stability"] <= 1
    assert [row["temperature"] for row in train] == pytest.approx(
        [2 * 0.25 ** min(1, s / 11 / 0.7) for s in (0, 3, 7, 10)]
    )
    assert train[-1]["seconds_seen"] == pytest.approx(11 * 4 * 1.0)
    assert (train[-1]["lr"], train[0]["lr"]) == (0.0, pytest.approx(2e-3 * (1 / 11) / 0.1))
    assert result.validation["loss"] == valid[-1]["loss"]
    assert (result.finished, result.steps, result.seconds_seen) == (True, 11, pytest.approx(44.0))


@pytest.mark.usefixtures("two_threads")
def test_validation_is_the_same_every_time(corpus: Path, tmp_path: Path) -> None:
    """Without a learning rate nothing changes: neither masks nor crops nor noise may."""
    config = changed(MICRO_RUN, optim__reference_lr=0.0, loop__validate_every=3)
    pretrain([corpus], tmp_path / "run", config=config)
    valid = [{**row, "step": 0, "seconds_seen": 0} for row in rows(tmp_path / "run") if "valid" in row]
    assert len(valid) == 4
    assert all(row == valid[0] for row in valid)


def test_the_best_state_is_kept(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Validation gets better until step 6, then worse, also across a stop and a new start."""
    validate, losses = trainer.validate, {2: 5.0, 4: 4.0, 6: 3.0, 8: 3.5, 10: 3.2, 12: 4.0}
    step = iter([0, 2, 4, 6, 8, 8, 10, 12])

    def planted(*args: Any, **kwargs: Any) -> Any:
        return validate(*args, **kwargs) | {"loss": losses.get(next(step), 9.0)}

    monkeypatch.setattr(trainer, "validate", planted)
    config = changed(MICRO_RUN, loop__validate_every=2)
    with monkeypatch.context() as patch:
        stop_after(patch, 8)
        pretrain([corpus], tmp_path / "run", config=config)
    pretrain([corpus], tmp_path / "run", config=config)
    progress = [torch.load(tmp_path / "run" / name, weights_only=True)["progress"] for name in ("best.pt", "last.pt")]
    assert [each["step"] for each in progress] == [6, 12]
    assert [each["best"] for each in progress] == [3.0, 3.0]


# Parts of it


def test_an_update_with_broken_gradients_is_skipped() -> None:
    """Weights and the optimiser's moments stay as they are, to the last bit."""
    model = nn.Linear(3, 1, bias=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)

    def updated(gradient: list[float], clip: float) -> Tensor:
        model.weight.grad = torch.tensor([gradient])
        return update.update_weights(model, optimizer, torch.tensor(2.0), process=CPU, clip=clip)

    updated([1.0, 2.0, 0.5], 10.0)
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict()["state"]))
    for bad in (math.nan, math.inf):
        assert not updated([1.0, bad, 0.0], 10.0).isfinite()
        torch.testing.assert_close((model.state_dict(), optimizer.state_dict()["state"]), before, rtol=0, atol=0)
        assert model.weight.grad is None


def test_gradients_are_divided_and_clipped() -> None:
    model = nn.Linear(3, 1, bias=False)
    before = model.weight.detach().clone()
    model.weight.grad = torch.tensor([[6.0, 8.0, 0.0]])
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, fused=True)
    norm = update.update_weights(model, optimizer, torch.tensor(2.0), process=CPU, clip=1.0)
    assert float(norm) == pytest.approx(5.0)  # after the division, before clipping
    torch.testing.assert_close(model.weight, before - torch.tensor([[0.6, 0.8, 0.0]]))


def test_batches_come_in_order_and_one_ahead() -> None:
    made: list[int] = []

    def make(number: int) -> Any:
        made.append(number)
        return -number

    with prefetch(make, 3, 7) as numbered:
        batches = iter(numbered)
        assert next(batches) == (3, -3)
        time.sleep(0.05)
        assert made == [3, 4]
        assert list(batches) == [(4, -4), (5, -5), (6, -6)]
    assert made == [3, 4, 5, 6]
    with prefetch(make, 5, 5) as batches:
        assert list(batches) == []


def test_a_mistake_in_the_data_thread_comes_through() -> None:
    def make(number: int) -> Any:
        raise UserError(f"batch {number}")

    with prefetch(make, 0, 3) as batches, pytest.raises(UserError, match="batch 0"):
        next(iter(batches))


def test_waiting_for_batches_is_logged(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The share of the time of a run; near none where batches are ready, most of it where they are slow."""
    stored = CropBatches.stored

    def slow(self: CropBatches, number: int, **options: Any) -> Any:
        time.sleep(0.5 if number == 3 else 0.0)
        return stored(self, number, **options)

    monkeypatch.setattr(CropBatches, "stored", slow)
    out = tmp_path / "run"
    pretrain([corpus], out, config=changed(MICRO_RUN, loop__steps=4, loop__validate_batches=1))
    logged = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    shares = [row["wait_share"] for row in logged if "lr" in row]
    assert all(0 <= share <= 1 for share in shares)
    assert shares[3] > shares[2] + 0.1


def test_a_run_in_a_thread_leaves_signals_alone(corpus: Path, tmp_path: Path) -> None:
    results: list[bool] = []

    def work() -> None:
        results.append(pretrain([corpus], tmp_path / "run", config=changed(MICRO_RUN, loop__steps=2)).finished)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert results == [True]


def test_dropout_follows_seed_step_and_rank() -> None:
    def draw(seed: int, step: int, rank: int) -> Tensor:
        torch.manual_seed(np.random.default_rng().integers(1 << 30))
        trainer._seed_dropout(seed, step, rank)
        return torch.rand(4)

    first = draw(1, 2, 0)
    assert torch.equal(draw(1, 2, 0), first)
    assert not any(torch.equal(draw(*other), first) for other in [(1, 3, 0), (1, 2, 1), (2, 2, 0)])


def test_precision() -> None:
    cpu = torch.device("cpu")
    assert use_bf16("bf16", cpu)
    assert not use_bf16("fp32", cpu)
    assert isinstance(use_bf16("auto", cpu), bool)


@pytest.mark.parametrize("name", ["steps", "accumulation", "log_every", "validate_every", "checkpoint_every"])
def test_counts_are_positive(name: str) -> None:
    with pytest.raises(UserError, match=f"{name}.*greater than 0"):
        load_config(LoopConfig, overrides=[f"{name}=0"])
