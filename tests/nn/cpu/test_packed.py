"""Packed layers against the plain ones, and a norm that is folded into the convolution before it."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from speechssl.nn.conv import ConvLayer
from speechssl.nn.cpu import packed
from speechssl.nn.cpu.packed import (
    DynamicLinear,
    FoldedConvLayer,
    PackedConvLayer,
    PackedLinear,
    PackedPositions,
    can_pack,
)
from speechssl.nn.time_norm import TimeNorm, WindowMoments
from speechssl.nn.transformer import PositionalConvolution

pytestmark = pytest.mark.usefixtures("two_threads_throughout")

NEAR = {torch.float32: 1e-5, torch.bfloat16: 0.1}  # of numbers of the size of one to five
DTYPES = [
    pytest.param(dtype, marks=pytest.mark.skipif(not can_pack(dtype), reason=f"no packed layers in {dtype} here"))
    for dtype in NEAR
]


@pytest.fixture(autouse=True)
def _inference():
    with torch.inference_mode():
        yield


def close(packed_one, plain, dtype):
    assert packed_one.dtype == dtype
    torch.testing.assert_close(packed_one.float(), plain, atol=NEAR[dtype], rtol=NEAR[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [True, False])
def test_linear(dtype, bias):
    linear, x = nn.Linear(24, 40, bias=bias), torch.randn(2, 7, 24)
    close(PackedLinear(linear, dtype=dtype)(x), linear(x), dtype)
    close(PackedLinear(linear, dtype=dtype, gelu=True)(x), F.gelu(linear(x)), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norm", ["layer", "none"])
@pytest.mark.parametrize(("inputs", "kernel", "stride"), [(1, 10, 5), (16, 3, 2), (16, 2, 2)])
def test_conv_layer(dtype, norm, inputs, kernel, stride):
    layer = ConvLayer(inputs, 24, kernel, stride, norm=norm, bias=norm == "layer").eval()
    x = torch.randn(2, 101, inputs)
    close(PackedConvLayer(layer, dtype=dtype)(x), layer(x), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [True, False])
def test_a_norm_over_time_is_folded_into_the_convolution(dtype, bias):
    layer = ConvLayer(1, 24, 10, 5, norm="group", bias=bias).eval()
    assert isinstance(layer.norm, TimeNorm)
    layer.norm.weight.normal_()
    layer.norm.bias.normal_()
    x = 0.1 * torch.randn(2, 4001, 1) + torch.tensor([0.3, -0.02])[:, None, None]  # far from zero, as some cards record
    close(FoldedConvLayer(layer, dtype=dtype)(x), layer(x), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_offset_of_the_recording_costs_no_digits(dtype):
    """The norm takes it away; in the products it would be ten times the signal."""
    layer = ConvLayer(1, 24, 10, 5, norm="group", bias=False).eval()
    x = 0.01 * torch.randn(1, 4001, 1)
    folded = FoldedConvLayer(layer, dtype=dtype)
    near, far = folded(x).float(), folded(x + 0.1).float()
    exact = layer.double()(x.double()).float()
    close(folded(x + 0.1), exact, dtype)
    assert (far - exact).abs().max() < 2 * (near - exact).abs().max() + 1e-5


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel", [8, 7])
@pytest.mark.parametrize("causal", [False, True])
def test_positions(dtype, kernel, causal):
    positions = PositionalConvolution(32, kernel, 4, causal=causal).eval()
    x = torch.randn(2, 30, 32)
    close(PackedPositions(positions, dtype=dtype)(x), positions(x), dtype)


def test_moments_of_windows_are_those_of_the_channels():
    layer = ConvLayer(1, 6, 10, 5, norm="group", bias=True)
    samples = torch.randn(1003).cumsum(0)
    one = WindowMoments.of(samples, layer.conv)
    parts = [WindowMoments.of(part, layer.conv) for part in (samples[:405], samples[400:])]  # 80 windows, rest
    two = parts[0].merged(parts[1])
    assert one.count == two.count == 199
    torch.testing.assert_close(two.products, one.products)
    channels = layer.conv(samples[None, None])[0].double()
    fixed = one.norm(layer.conv, layer.norm)
    normed = fixed(channels.t()[None].float())[0]
    torch.testing.assert_close(normed.mean(0), torch.zeros(6), atol=1e-4, rtol=0)
    torch.testing.assert_close(normed.var(0, correction=0), torch.ones(6), atol=1e-3, rtol=0)


def test_without_the_operators_nothing_is_packed(monkeypatch):
    def gone(*_, **__):
        raise AttributeError("no such operator")

    monkeypatch.setattr(packed, "PackedLinear", gone)
    assert not can_pack.__wrapped__(torch.float32)
    monkeypatch.undo()
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not can_pack.__wrapped__(torch.float32)


@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_in_int8_do_not_overflow(dtype):
    """All inputs and all weights are as large as they can be."""
    linear = nn.Linear(64, 8)
    nn.init.ones_(linear.weight)
    nn.init.zeros_(linear.bias)
    y = DynamicLinear(linear, dtype=dtype)(torch.ones(3, 64))
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), torch.full((3, 8), 64.0), rtol=0.01, atol=0)


@pytest.mark.parametrize("saturates", [False, True])
def test_inputs_in_int8_have_seven_bits_where_sums_would_overflow(saturates, monkeypatch):
    """Which of the two is better depends on the processor; what it is asked for does not."""
    linear, x, asked = DynamicLinear(nn.Linear(64, 8)), torch.randn(5, 64), []
    product = torch.ops.quantized.linear_dynamic

    def spy(*args, reduce_range):
        asked.append(reduce_range)
        return product(*args, reduce_range=reduce_range)

    monkeypatch.setattr(packed, "_saturates", lambda: saturates)
    monkeypatch.setattr(torch.ops.quantized, "linear_dynamic", spy)
    linear(x)
    assert asked == [saturates]
