"""Learning rate: rule, schedule, groups."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from speechssl.config import UserError, load_config
from speechssl.models.encoder import SpeechEncoder
from speechssl.objectives.wav2vec2 import Wav2Vec2
from speechssl.train.optim import OptimConfig, build_optimizer, peak_learning_rate, schedule, set_learning_rate
from tests.toys import MICRO_ENCODER, MICRO_OBJECTIVE


@given(progress=st.floats(0, 1), warmup=st.floats(0, 0.99))
def test_schedule(progress: float, warmup: float) -> None:
    factor = schedule(progress, warmup)
    expected = progress / warmup if progress < warmup else (1 - progress) / (1 - warmup)
    assert factor == pytest.approx(expected)
    assert 0 <= factor <= 1


def test_schedule_is_the_same_for_short_runs_and_long_ones() -> None:
    short = [schedule(step / 100, 0.08) for step in range(101)]
    long = [schedule(step / 400_000, 0.08) for step in range(0, 400_001, 4000)]
    assert short == pytest.approx(long)
    assert max(short) == schedule(0.08, 0.08) == 1.0
    assert schedule(0.0, 0.0) == 1.0


@given(seconds=st.floats(1, 1e5))
def test_peak_rate_follows_the_square_root_up_to_its_cap(seconds: float) -> None:
    config = OptimConfig(reference_lr=1e-4, reference_seconds=100.0, max_lr=5e-4)
    rate = peak_learning_rate(config, seconds)
    assert rate == pytest.approx(min(5e-4, 1e-4 * math.sqrt(seconds / 100)))


def test_every_parameter_is_in_one_group_with_its_rate_and_decay() -> None:
    objective = Wav2Vec2(SpeechEncoder(MICRO_ENCODER), MICRO_OBJECTIVE, seed=0)
    config = OptimConfig(conv_lr_scale=0.1, weight_decay=0.05)
    frozen = objective.encoder.projection.weight.requires_grad_(requires_grad=False)
    optimizer = build_optimizer(objective, config, slow=objective.encoder.features)
    set_learning_rate(optimizer, 3e-4)
    found = {id(each): group for group in optimizer.param_groups for each in group["params"]}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(found)
    assert id(frozen) not in found
    for name, parameter in objective.named_parameters():
        if parameter.requires_grad:
            group = found.pop(id(parameter))
            convolution = name.startswith("encoder.features.")
            assert group["lr"] == pytest.approx(3e-5 if convolution else 3e-4), name
            assert group["weight_decay"] == (0.05 if parameter.ndim > 1 else 0.0), name
    assert found == {}


def test_without_a_slow_part_all_rates_are_equal() -> None:
    optimizer = build_optimizer(nn.Linear(3, 2), OptimConfig(conv_lr_scale=0.1))
    set_learning_rate(optimizer, 1e-3)
    assert [group["lr"] for group in optimizer.param_groups] == [1e-3, 1e-3]
    assert isinstance(optimizer, torch.optim.AdamW)


@pytest.mark.parametrize("override", ["warmup=1.0", "warmup=-0.1", "clip=0.0"])
def test_settings_that_would_divide_by_zero(override: str) -> None:
    with pytest.raises(UserError, match=override.split("=")[0]):
        load_config(OptimConfig, overrides=[override])
