"""The convolutional stack against torch's own layers, brute-force counts, and what its two additions are for."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from speechssl.models.encoder import PRESETS
from speechssl.nn.conv import (
    PAPER_LAYERS,
    ConvConfig,
    ConvFeatureEncoder,
    ConvLayer,
    GaborLayer,
    average_taps_,
    convolve,
    gabor_filters,
)
from speechssl.nn.norm import LayerNorm
from speechssl.nn.quantizer import GumbelQuantizer, QuantizerConfig
from speechssl.nn.time_norm import TimeNorm
from tests.toys import normalized_tones

pytestmark = pytest.mark.usefixtures("two_threads_throughout")

SHAPES = [(10, 5, 1), (3, 2, 1), (2, 2, 1), (1, 1, 1), (6, 1, 2), (3, 2, 2)]  # kernel, stride, groups


@pytest.mark.parametrize(("kernel", "stride", "groups"), SHAPES)
@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize("learning", [True, False])
def test_convolve_is_conv1d_of_channels_last(
    kernel: int, stride: int, groups: int, padding: int, learning: bool
) -> None:
    """Whichever kernel serves best: with gradients and without, in every precision."""
    x, weight, bias = torch.randn(3, 41, 4), torch.randn(6, 4 // groups, kernel), torch.randn(6)
    how = {"stride": stride, "padding": padding, "groups": groups}
    for shift in (bias, None):
        expected = F.conv1d(x.transpose(1, 2), weight, shift, **how).transpose(1, 2)
        with torch.set_grad_enabled(learning):
            torch.testing.assert_close(convolve(x, weight, shift, **how), expected, rtol=1e-4, atol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            got = convolve(x, weight, shift, **how)
        torch.testing.assert_close(got.float(), expected, rtol=0.02, atol=0.1)


@pytest.mark.parametrize(("kernel", "stride", "groups"), SHAPES)
def test_convolve_has_conv1ds_gradients(kernel: int, stride: int, groups: int) -> None:
    x, weight = torch.randn(2, 20, 4, requires_grad=True), torch.randn(6, 4 // groups, kernel, requires_grad=True)
    bias = torch.randn(6, requires_grad=True)
    how = {"stride": stride, "groups": groups}
    ours = torch.autograd.grad(convolve(x, weight, bias, **how).square().sum(), [x, weight, bias])
    theirs = torch.autograd.grad(F.conv1d(x.transpose(1, 2), weight, bias, **how).square().sum(), [x, weight, bias])
    for got, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3)


# How many frames


def counted_frames(samples: int, config: ConvConfig) -> int:
    """Frames by placing every window of every layer, one after the other."""
    length = samples + 2 * config.padding
    for _, kernel, stride in config.layers:
        start, frames = 0, 0
        while start + kernel <= length:
            start, frames = start + stride, frames + 1
        length = frames
    return length


STACKS = {"paper": ConvConfig(), **{name: preset.conv for name, preset in PRESETS.items()}}
LENGTHS = [0, 1, 159, 160, 399, 400, 401, 719, 720, 721, 1039, 1040, 5555, 16000, 31999, 32000]


@pytest.mark.parametrize("name", STACKS)
def test_frame_counts(name: str) -> None:
    """Every stack has the paper's counts: one frame for 400 samples, one more for every 320."""
    encoder = ConvFeatureEncoder(STACKS[name])
    got = encoder.num_frames(torch.tensor(LENGTHS)).tolist()
    assert got == [counted_frames(length, STACKS[name]) for length in LENGTHS]
    assert got == [max(0, (length - 400) // 320 + 1) for length in LENGTHS]
    assert STACKS[name].hop == 320


@given(st.integers(0, 40_000))
def test_frame_counts_of_any_length(length: int) -> None:
    for name in ("paper", "tiny"):
        encoder = ConvFeatureEncoder(ConvConfig(layers=tuple((1, k, s) for _, k, s in STACKS[name].layers)))
        assert int(encoder.num_frames(torch.tensor(length))) == counted_frames(length, STACKS[name])


@pytest.mark.parametrize("samples", [400, 719, 720, 3333])
def test_as_many_frames_come_out_as_are_counted(samples: int) -> None:
    for layers in (tuple((4, k, s) for _, k, s in PAPER_LAYERS), ((4, 160, 10), *((4, 2, 2),) * 5)):
        encoder = ConvFeatureEncoder(ConvConfig(layers=layers))
        assert encoder(torch.randn(1, samples)).shape[1] == int(encoder.num_frames(torch.tensor(samples)))


def test_the_receptive_field_is_what_a_frame_sees() -> None:
    config = ConvConfig(layers=((8, 12, 5), (8, 4, 4), (8, 3, 2)), norm="layer")
    encoder = ConvFeatureEncoder(config)
    waveform = torch.randn(1, 600, requires_grad=True)
    encoder(waveform)[0, 3].square().sum().backward()
    assert waveform.grad is not None
    seen = waveform.grad[0].nonzero().flatten()
    assert int(seen[-1] - seen[0]) + 1 == config.receptive_field
    assert int(seen[0]) == 3 * config.hop - config.padding


# Norms


def test_time_norm_is_group_norm_with_a_group_a_channel() -> None:
    ours, theirs = TimeNorm(6), nn.GroupNorm(6, 6)
    weight, bias = torch.rand(6) + 0.5, torch.randn(6)
    for norm in (ours, theirs):
        norm.weight.data, norm.bias.data = weight.clone(), bias.clone()
    x = 3 * torch.randn(2, 50, 6) + 1
    expected = theirs(x.transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(ours(x), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.eval()(x), expected, rtol=1e-4, atol=1e-5)  # no memory of other batches
    silent = torch.zeros(1, 50, 6)
    torch.testing.assert_close(ours(silent), bias.expand(1, 50, 6))


def test_group_mode_norms_the_first_layer_only() -> None:
    encoder = ConvFeatureEncoder(ConvConfig(layers=((4, 10, 5), (4, 3, 2), (4, 3, 2)), norm="group", bias=False))
    assert [type(layer.norm) for layer in encoder.layers] == [TimeNorm, nn.Identity, nn.Identity]
    assert all(layer.conv.bias is None for layer in encoder.layers)
    layered = ConvFeatureEncoder(ConvConfig(layers=((4, 10, 5), (4, 3, 2))))
    assert [type(layer.norm) for layer in layered.layers] == [LayerNorm, LayerNorm]


def test_a_layer_is_convolution_norm_gelu() -> None:
    layer = ConvLayer(3, 5, 4, 2, norm="layer", bias=True)
    x = torch.randn(2, 21, 3)
    y = F.conv1d(x.transpose(1, 2), layer.conv.weight, layer.conv.bias, stride=2).transpose(1, 2)
    torch.testing.assert_close(layer(x), F.gelu(F.layer_norm(y, (5,))), rtol=1e-4, atol=1e-5)


# Phase-robust start


def test_averaged_taps_share_one_mix_and_keep_the_scale() -> None:
    weight = torch.empty(64, 48, 8)
    average_taps_(weight, 0.0)
    assert torch.equal(weight, weight[:, :, :1].expand_as(weight))
    y = F.conv1d(torch.ones(1, 1, 8).expand(1, 48, 8) * torch.randn(1, 48, 1), weight)
    assert 0.7 < float(y.std()) / math.sqrt(2) < 1.4  # He's gain for a signal that the taps agree on
    average_taps_(weight, 0.1)
    spread = (weight - weight.mean(dim=2, keepdim=True)).std()
    assert float(spread) == pytest.approx(0.1 * math.sqrt(2 / (48 * 8)), rel=0.1)


def kept_codes(config: ConvConfig, waveforms: Tensor, seed: int) -> float:
    """Share of codes that survive a shift by 5 ms."""
    torch.manual_seed(seed)
    encoder = ConvFeatureEncoder(config)
    quantizer = GumbelQuantizer(config.dim, QuantizerConfig(codes=160, dim=16, logit_std=5.0))
    norm = nn.LayerNorm(config.dim)
    codes = [quantizer(norm(encoder(moved)).flatten(0, 1)).codes for moved in (waveforms[:, :-80], waveforms[:, 80:])]
    return float((codes[0] == codes[1]).float().mean())


def test_tap_averaging_makes_codes_survive_a_shift() -> None:
    waveforms = torch.from_numpy(normalized_tones(4, 1.0))
    layers = ((64, 160, 10), *((96, 2, 2),) * 5)
    with torch.no_grad():
        he = [kept_codes(ConvConfig(layers=layers), waveforms, seed) for seed in range(3)]
        stable = [
            kept_codes(ConvConfig(layers=layers, front="gabor", init="tap-average"), waveforms, seed)
            for seed in range(3)
        ]
    assert max(he) < 0.2
    assert min(stable) > 0.5


# Gabor front


@pytest.mark.parametrize("channel", [10, 25, 40, 60])
def test_each_gabor_pair_answers_to_its_tone(channel: int) -> None:
    """The pair whose centre is the tone's frequency gives the largest power, whatever the phase."""
    channels, kernel = 64, 160
    mel = np.linspace(2595 * np.log10(1 + 60 / 700), 2595 * np.log10(1 + 7800 / 700), channels + 2)
    frequency = 700 * (10 ** (mel[channel + 1] / 2595) - 1)
    filters = gabor_filters(channels, kernel)
    powers = []
    for phase in (0.0, 1.0, 2.0):
        tone = torch.from_numpy(np.cos(2 * np.pi * frequency * np.arange(kernel) / 16000 + phase).astype(np.float32))
        cosine, sine = (filters @ tone).chunk(2)
        powers.append(cosine.square() + sine.square())
    assert [int(power.argmax()) for power in powers] == [channel] * 3
    spread = torch.stack(powers)[:, channel]
    assert float(spread.max() / spread.min()) < 1.02  # quadrature: the phase cancels


def test_gabor_layer_is_log_power_after_pre_emphasis() -> None:
    layer = GaborLayer(6, 20, 5)
    x = torch.randn(2, 100, 1)
    emphasised = x.clone()
    emphasised[:, 1:] -= 0.97 * x[:, :-1]
    pairs = F.conv1d(emphasised.transpose(1, 2), layer.conv.weight, stride=5)
    power = pairs[:, :6].square() + pairs[:, 6:].square()
    expected = F.gelu(F.layer_norm(torch.log1p(100 * power).transpose(1, 2), (6,)))
    torch.testing.assert_close(layer(x), expected, rtol=1e-3, atol=1e-4)


def test_gabor_layer_is_smooth_at_digital_silence() -> None:
    x = torch.zeros(1, 400, 1, requires_grad=True)
    layer = GaborLayer(8, 40, 10)
    layer(x).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert layer.conv.weight.grad is not None
    assert layer.conv.weight.grad.isfinite().all()


def test_gabor_front_refuses_what_it_cannot_be() -> None:
    with pytest.raises(ValueError, match="got 'group'"):
        ConvFeatureEncoder(ConvConfig(layers=((4, 10, 5), (4, 3, 2)), front="gabor", norm="group"))
