"""The moving average against a loop in float64; its state through checkpoints; what it must not do to gradients."""

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from speechssl.models.encoder import SpeechEncoder
from speechssl.nn.ema import EMA, DecayConfig
from tests.toys import MICRO_ENCODER


def network() -> nn.Sequential:
    """With floating and integer buffers, and dropout."""
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))


def changed(module: nn.Module, seed: int) -> nn.Module:
    """The module after every number of its state has moved."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for each in module.state_dict().values():
            if each.is_floating_point():
                each += torch.randn(each.shape, generator=generator)
            else:
                each += 1
    return module


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(each, second[name]) for name, each in first.items())


# The schedule


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0.01, 1), st.sampled_from(["linear", "cosine"]))
def test_decay_goes_from_one_value_to_the_other(start: float, end: float, ramp: float, shape: str) -> None:
    config = DecayConfig(start=start, end=end, ramp=ramp, shape=shape)
    steps = [config.at(step / 50) for step in range(51)]
    assert steps[0] == start
    assert steps[-1] == pytest.approx(end)
    assert config.at(ramp) == pytest.approx(end)
    ordered = sorted(steps, reverse=end < start)
    assert steps == pytest.approx(ordered)


def test_cosine_is_that_of_byol() -> None:
    """1 - (1 - 0.996) (cos(pi k / K) + 1) / 2, the appendix on the implementation."""
    config = DecayConfig(start=0.996, end=1.0, ramp=1.0, shape="cosine")
    assert config.at(0.25) == pytest.approx(1 - 0.004 * (2**-0.5 + 1) / 2)
    assert config.at(0.5) == pytest.approx(0.998)


# The average


def test_updates_equal_a_loop() -> None:
    source = network()
    average = EMA(source)
    expected = {name: each.double() for name, each in source.state_dict().items()}
    for step, decay in enumerate([0.9, 0.99, 0.5, 0.0, 1.0, 0.999]):
        changed(source, step)
        average.update(source, decay)
        for name, each in source.state_dict().items():
            kept = decay * expected[name] + (1 - decay) * each.double()
            expected[name] = kept if each.is_floating_point() else each.double()
        for name, each in average.module.state_dict().items():
            torch.testing.assert_close(each.double(), expected[name], rtol=1e-6, atol=1e-6)


def test_ends_are_exact() -> None:
    source = network()
    average = EMA(source)
    before = copy.deepcopy(average.module.state_dict())
    changed(source, 0)
    average.update(source, 1.0)
    floating = [name for name, each in before.items() if each.is_floating_point()]
    assert all(torch.equal(average.module.state_dict()[name], before[name]) for name in floating)
    average.update(source, 0.0)
    assert equal(average.module.state_dict(), source.state_dict())


def test_it_starts_as_an_independent_copy() -> None:
    source = network()
    average = EMA(source)
    assert equal(average.module.state_dict(), source.state_dict())
    changed(source, 0)
    assert not equal(average.module.state_dict(), source.state_dict())


def test_excluded_names_are_copied() -> None:
    source = network()
    average = EMA(source, exclude=["0", "1.running_mean"])
    before = copy.deepcopy(average.module.state_dict())
    changed(source, 0)
    average.update(source, 0.9)
    for name, each in average.module.state_dict().items():
        copied = name.startswith("0.") or name in ("1.running_mean", "1.num_batches_tracked")
        assert torch.equal(each, source.state_dict()[name]) == copied, name
        assert not torch.equal(each, before[name])
    with pytest.raises(ValueError, match=r"exclude=\['1.runn'\]"):
        EMA(source, exclude=["1.runn", "3"])


def test_half_precision_moves_all_the_same() -> None:
    """In bf16, 1 and a step of 0.001 towards 2 would be 1 again."""
    source = nn.Linear(2, 2).bfloat16()
    nn.init.ones_(source.weight)
    average = EMA(source)
    nn.init.constant_(source.weight, 2.0)
    for _ in range(10):
        average.update(source, 0.999)
    weight = average.module.weight
    assert isinstance(weight, nn.Parameter)
    assert weight.dtype == torch.float32
    torch.testing.assert_close(weight, torch.full((2, 2), 2 - 0.999**10), rtol=1e-6, atol=0)


def test_another_module_is_refused() -> None:
    average = EMA(network())
    with pytest.raises(ValueError, match="its tensors are not those of Linear"):
        average.update(nn.Linear(3, 4), 0.9)
    with pytest.raises(ValueError, match="of Sequential"):
        average.update(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Identity(), nn.Linear(4, 5)), 0.9)
    with pytest.raises(ValueError, match=r"1\.5"):
        average.update(network(), 1.5)


# Modes and gradients


def test_no_gradients_and_no_dropout() -> None:
    source = network()
    holder = nn.ModuleDict({"student": source, "teacher": EMA(source)}).train()
    teacher = holder["teacher"]
    assert source.training
    assert not any(module.training for module in teacher.modules())
    x = torch.randn(5, 3)
    before = copy.deepcopy(teacher.state_dict())
    first, second = teacher.module(x), teacher.module(x)
    assert torch.equal(first, second)
    assert not first.requires_grad
    loss = F.mse_loss(source(x), first)
    loss.backward()
    assert all(each.grad is not None for each in source.parameters())
    assert all(each.grad is None and not each.requires_grad for each in teacher.parameters())
    teacher.update(source, 0.9)
    assert all(each.grad is None and not each.requires_grad for each in teacher.parameters())
    assert not equal(before, teacher.state_dict())


@pytest.mark.parametrize("in_place", [False, True])
def test_the_average_is_applied_for_a_while(*, in_place: bool) -> None:
    """In place, memory that something else refers to holds the averaged values; otherwise it stays as it was."""
    student = nn.Linear(2, 2)
    teacher = EMA(student)
    teacher.update(nn.Linear(2, 2), decay=0.5)
    own, memory = student.weight.detach().clone(), student.weight.data
    with teacher.applied_to(student, in_place=in_place):
        assert torch.equal(student.weight, teacher.module.weight)
        assert torch.equal(memory, teacher.module.weight if in_place else own)
    assert torch.equal(student.weight, own)
    assert student.weight.data_ptr() == memory.data_ptr()


def test_an_encoder_can_be_averaged() -> None:
    """Positional convolutions with weight norm included."""
    encoder = SpeechEncoder(MICRO_ENCODER)
    average = EMA(encoder)
    waveforms = torch.randn(2, 3200)
    with torch.no_grad():
        expected = encoder.eval()(waveforms).frames
        assert torch.equal(average.module(waveforms).frames, expected)
        changed(encoder, 0)
        average.update(encoder, 0.0)
        assert torch.equal(average.module(waveforms).frames, encoder(waveforms).frames)


# Checkpoints


class Toy(nn.Module):
    """Student and teacher as an objective has them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.student = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.GELU(), nn.Linear(8, 3))
        self.teacher = EMA(self.student, exclude=["3"])


def train(toy: Toy, optimizer: torch.optim.Optimizer, steps: range) -> None:
    schedule = DecayConfig(start=0.5, end=0.95, ramp=0.6)
    for step in steps:
        x = torch.randn(6, 3, generator=torch.Generator().manual_seed(step))
        loss = F.mse_loss(toy.student(x), toy.teacher.module(x + 0.1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        toy.teacher.update(toy.student, schedule.at((step + 1) / 10))


def started() -> tuple[Toy, torch.optim.Optimizer]:
    toy = Toy()
    return toy, torch.optim.AdamW([each for each in toy.parameters() if each.requires_grad], lr=0.1)


def test_resume_is_bit_for_bit(tmp_path: Path) -> None:
    whole, optimizer = started()
    train(whole, optimizer, range(10))
    again, optimizer = started()
    train(again, optimizer, range(10))
    assert equal(whole.state_dict(), again.state_dict())

    half, optimizer = started()
    train(half, optimizer, range(4))
    torch.save({"model": half.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "checkpoint")
    resumed, optimizer = started()
    state = torch.load(tmp_path / "checkpoint", weights_only=True)
    resumed.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    assert equal(resumed.state_dict(), half.state_dict())
    train(resumed, optimizer, range(4, 10))
    assert equal(resumed.state_dict(), whole.state_dict())
    assert not equal(whole.teacher.module.state_dict(), whole.student.state_dict())
