"""Pooling against loops over the valid frames; what lies beyond them never matters."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from speechssl.nn.pooling import AttentionPool, LayerMix, mean_pool, mean_std_pool, valid_frames

NUM_FRAMES = torch.tensor([7, 1, 4])


def frames(seed: int = 0) -> Tensor:
    return torch.randn(3, 7, 5, generator=torch.Generator().manual_seed(seed))


def with_rubbish(x: Tensor, rubbish: float) -> Tensor:
    return x.masked_fill(~valid_frames(NUM_FRAMES, 7).unsqueeze(-1), rubbish)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(1, 9))
def test_valid_frames(lengths: list[int], width: int) -> None:
    expected = [[place < length for place in range(width)] for length in lengths]
    assert valid_frames(torch.tensor(lengths), width).tolist() == expected


@pytest.mark.parametrize("rubbish", [0.0, 1e6, math.nan])
def test_mean_and_deviation_against_a_loop(rubbish: float) -> None:
    x = with_rubbish(frames(), rubbish)
    means, both = mean_pool(x, NUM_FRAMES), mean_std_pool(x, NUM_FRAMES)
    for row, count in enumerate(NUM_FRAMES.tolist()):
        valid = x[row, :count]
        torch.testing.assert_close(means[row], valid.mean(dim=0))
        torch.testing.assert_close(both[row], torch.cat([valid.mean(dim=0), valid.std(dim=0, correction=0)]))
    torch.testing.assert_close(mean_std_pool(frames()), mean_std_pool(frames(), torch.full((3,), 7)))


def test_deviation_of_constant_frames_has_a_gradient() -> None:
    x = torch.ones(2, 3, 4, requires_grad=True)
    (mean_std_pool(x, torch.tensor([1, 3])) * torch.randn(2, 8)).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_attention_against_a_loop() -> None:
    pool = AttentionPool(5, hidden=6)
    x = with_rubbish(frames(), 1e4)
    pooled = pool(x, NUM_FRAMES)
    for row, count in enumerate(NUM_FRAMES.tolist()):
        weights = [math.exp(pool.score(x[row, place]).item()) for place in range(count)]
        expected = sum(weight * x[row, place] for place, weight in enumerate(weights)) / sum(weights)
        torch.testing.assert_close(pooled[row], expected, rtol=1e-4, atol=1e-5)
    assert pool(frames()).shape == (3, 5)


def test_layer_mix_is_a_softmax_weighted_sum() -> None:
    layers = [frames(seed) for seed in range(4)]
    mix = LayerMix(4)
    torch.testing.assert_close(mix(layers), torch.stack(layers).mean(dim=0))
    mix.weights.data = torch.tensor([0.0, 1.0, -2.0, 0.5])
    weights = [math.exp(value) for value in (0.0, 1.0, -2.0, 0.5)]
    expected = sum(weight / sum(weights) * layer for weight, layer in zip(weights, layers, strict=True))
    torch.testing.assert_close(mix(layers), expected)
    with pytest.raises(ValueError, match="4 weights, 3 hidden states"):
        mix(layers[:3])
