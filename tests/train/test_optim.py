"""Learning rate: rule, schedule, groups."""

import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from speechssl.config import UserError, load_config
from speechssl.models.encoder import SpeechEncoder
from speechssl.objectives.wav2vec2 import Wav2Vec2
from speechssl.train.optim import (
    AdamWConfig,
    OptimConfig,
    build_optimizer,
    peak_learning_rate,
    schedule,
    set_learning_rate,
)
from tests.toys import MICRO_ENCODER, MICRO_OBJECTIVE


@given(progress=st.floats(0, 1), warmup=st.floats(0, 0.99))
def test_schedule(progress: float, warmup: float) -> None:
    factor = schedule(progress, AdamWConfig(warmup=warmup))
    expected = progress / warmup if progress < warmup else (1 - progress) / (1 - warmup)
    assert factor == pytest.approx(expected)
    assert 0 <= factor <= 1


def test_schedule_is_the_same_for_short_runs_and_long_ones() -> None:
    short = [schedule(step / 100, AdamWConfig()) for step in range(101)]
    long = [schedule(step / 400_000, AdamWConfig()) for step in range(0, 400_001, 4000)]
    assert short == pytest.approx(long)
    assert max(short) == schedule(0.08, AdamWConfig(warmup=0.08)) == 1.0
    assert schedule(0.0, AdamWConfig(warmup=0.0)) == 1.0


def test_three_stages_are_those_of_fairseq() -> None:
    """`tri_stage_lr_scheduler`: phase ratios [.1, .4, .5], final scale .05, exponential decay step by step."""
    config = AdamWConfig(schedule="tri-stage", warmup=0.1, hold=0.4, final_scale=0.05)
    steps = 1000
    decay_factor = -math.log(0.05) / 500
    for step in range(0, steps + 1, 50):
        if step < 100:
            expected = step / 100
        elif step < 500:
            expected = 1.0
        else:
            expected = math.exp(-decay_factor * (step - 500))
        assert schedule(step / steps, config) == pytest.approx(expected)
    with pytest.raises(UserError, match="leave nothing of the run for the decay"):
        load_config(AdamWConfig, overrides=["schedule=tri-stage", "warmup=0.7"])


@given(seconds=st.floats(1, 1e5))
def test_peak_rate_follows_the_square_root_up_to_its_cap(seconds: float) -> None:
    config = OptimConfig(reference_lr=1e-4, reference_seconds=100.0, max_lr=5e-4)
    rate = peak_learning_rate(config, seconds)
    assert rate == pytest.approx(min(5e-4, 1e-4 * math.sqrt(seconds / 100)))


def test_every_parameter_is_in_one_group_with_its_rate_and_decay() -> None:
    objective = Wav2Vec2(SpeechEncoder(MICRO_ENCODER), MICRO_OBJECTIVE, seed=0)
    config = AdamWConfig(weight_decay=0.05)
    frozen = objective.encoder.projection.weight.requires_grad_(requires_grad=False)
    optimizer = build_optimizer(objective, config, rate=lambda name: 0.1 if name.startswith("encoder.features.") else 1)
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


def test_by_default_all_rates_are_equal() -> None:
    optimizer = build_optimizer(nn.Linear(3, 2), AdamWConfig())
    set_learning_rate(optimizer, 1e-3)
    assert [group["lr"] for group in optimizer.param_groups] == [1e-3, 1e-3]
    assert isinstance(optimizer, torch.optim.AdamW)


@pytest.mark.parametrize(
    "override",
    ["reference_lr=inf", "reference_lr=-1e-3", "reference_seconds=0", "max_lr=nan", "conv_lr_scale=inf", "eps=0"],
)
def test_rates_and_factors_that_no_run_can_use(override: str) -> None:
    """A negative rate would climb, and an infinite one, or one per no seconds, makes every weight NaN."""
    said = rf"^--set {re.escape(override)}: key '\w+': given \S+, allowed: (a finite|greater)"
    with pytest.raises(UserError, match=said):
        load_config(OptimConfig, overrides=[override])
    with pytest.raises(UserError, match="key 'muon_scale': given inf, allowed: a finite number"):
        load_config(OptimConfig, overrides=["name=muon", "muon_scale=inf"])


@pytest.mark.parametrize("override", ["warmup=1.0", "warmup=-0.1", "clip=0.0"])
def test_settings_that_would_divide_by_zero(override: str) -> None:
    with pytest.raises(UserError, match=override.split("=")[0]):
        load_config(AdamWConfig, overrides=[override])
