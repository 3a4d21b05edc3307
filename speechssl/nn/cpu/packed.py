"""Layers of a frozen encoder whose weights are laid out once for the processor's kernels.

torch multiplies fp32 matrices with MKL, which on an AMD EPYC reached 170 GFLOP/s where oneDNN reached 400; in bf16 it
lays the weights out anew in each call, and up to half of the time of a short clip goes there. oneDNN's own operators,
those that torch.compile uses for a frozen model, take weights that were laid out before, and apply GELU to a result
before it is written.

The numbers are those of the plain layers up to rounding. Inference on a CPU only: nothing here has a gradient, and a
weight that is changed later is not seen.
"""

import functools
import warnings
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from speechssl.nn.conv import ConvLayer
from speechssl.nn.time_norm import FixedNorm, TimeNorm, WindowMoments
from speechssl.nn.transformer import PositionalConvolution

_Pair = tuple[int, int]


@functools.cache
def can_pack(dtype: torch.dtype) -> bool:
    """Whether this torch has oneDNN's operators for a type, on this processor, and they multiply as they should."""
    if not torch.backends.mkldnn.is_available():
        return False
    x = torch.linspace(-1, 1, 240).reshape(1, 30, 8)
    with torch.random.fork_rng(devices=[]):
        linear, conv = nn.Linear(8, 4), nn.Conv1d(8, 4, 3, stride=2)
    near = 1e-5 if dtype == torch.float32 else 0.05
    try:
        with torch.inference_mode():
            product = PackedLinear(linear, dtype=dtype, gelu=True)(x).float()
            frames = _Convolution(conv, dtype=dtype, gelu=False)(x).float()
            expected = conv(x.transpose(1, 2)).transpose(1, 2)
            return torch.allclose(product, F.gelu(linear(x)), atol=near) and torch.allclose(frames, expected, atol=near)
    except (AttributeError, RuntimeError):  # the operators are no public promise of torch
        return False


class PackedLinear(nn.Module):
    """A linear layer, perhaps with GELU after it.

    Args:
        linear: what it does.
        dtype: of the arithmetic and of what comes out, float32 or bfloat16.
        gelu: whether GELU follows.
    """

    def __init__(self, linear: nn.Linear, *, dtype: torch.dtype, gelu: bool = False):
        super().__init__()
        self.in_features, self.out_features, self.dtype = linear.in_features, linear.out_features, dtype
        bias = _bias(linear)
        self._weight: Any = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach().to(dtype), None)
        self._bias = None if bias is None else bias.to(dtype)
        self._after = _after(gelu=gelu)

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        """The same as the layer's."""
        return torch.ops.mkldnn._linear_pointwise(x.to(self.dtype), self._weight, self._bias, *self._after)


@functools.cache
def _saturates() -> bool:
    """Whether sums of two products overflow, as without VNNI instructions: inputs then have 7 bits instead of 8."""
    ones = torch.ones(64, 64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # as below
        weight = torch.quantize_per_tensor(ones, 1 / 127, 0, torch.qint8)
        packed = torch.ops.quantized.linear_prepack(weight, None)
        products = torch.ops.quantized.linear_dynamic(ones[:1], packed, reduce_range=False)
    return not torch.allclose(products, torch.tensor(64.0), rtol=0.01)


class DynamicLinear(nn.Module):
    """A linear layer whose weights are int8 with a scale for each output channel; inputs are quantised as they come.

    `torch.ao.quantization.quantize_dynamic` does the same and is deprecated; these are the operators below it.

    Args:
        linear: what it does.
        dtype: of what comes out.
    """

    def __init__(self, linear: nn.Linear, *, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.in_features, self.out_features, self.dtype = linear.in_features, linear.out_features, dtype
        weight, bias = linear.weight.detach().float(), _bias(linear)
        scales = (weight.abs().amax(dim=1) / 127).clamp(min=1e-12).double()
        zeros = torch.zeros(len(scales), dtype=torch.long)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch announces that quantised tensors will go some day
            packed = torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8)
            self._packed = torch.ops.quantized.linear_prepack(packed, None if bias is None else bias.float())
            self(torch.zeros(1, linear.in_features))

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        """The same as the layer's, to about two digits."""
        y = torch.ops.quantized.linear_dynamic(x.float(), self._packed, reduce_range=_saturates())
        return y.to(self.dtype)


class PackedConvLayer(nn.Module):
    """A layer of the feature encoder: convolution, norm over channels where there is one, GELU; channels-last."""

    def __init__(self, layer: ConvLayer, *, dtype: torch.dtype):
        super().__init__()
        assert not isinstance(layer.norm, TimeNorm)
        self.norm = None if isinstance(layer.norm, nn.Identity) else layer.norm
        self._convolve = _Convolution(layer.conv, dtype=dtype, gelu=self.norm is None)

    def forward(self, x: Float[Tensor, "batch time inputs"]) -> Float[Tensor, "batch frames channels"]:
        """One layer."""
        y = self._convolve(x)
        return y if self.norm is None else F.gelu(self.norm(y))


class FoldedConvLayer(nn.Module):
    """The first layer of a group-norm encoder: the norm of an utterance is folded into the convolution's weights.

    Its mean and variance are known before anything is convolved (:class:`WindowMoments`), so that what is the largest
    tensor of the encoder is written once, after GELU, instead of three times.
    """

    def __init__(self, layer: ConvLayer, *, dtype: torch.dtype):
        super().__init__()
        assert layer.conv.in_channels == 1
        assert isinstance(layer.norm, TimeNorm)
        self.conv, self.norm, self.dtype = layer.conv, layer.norm, dtype

    def forward(self, x: Float[Tensor, "batch time 1"]) -> Float[Tensor, "batch frames channels"]:
        """One layer; every utterance fills its row."""
        norms = [WindowMoments.of(samples, self.conv).norm(self.conv, self.norm) for samples in x[..., 0]]
        return torch.cat([self.normed(row, norm) for row, norm in zip(x.split(1), norms, strict=True)])

    def normed(self, x: Float[Tensor, "batch time 1"], norm: FixedNorm) -> Float[Tensor, "batch frames channels"]:
        """The layer with a norm that is known."""
        (kernel,), (stride,) = self.conv.kernel_size, self.conv.stride
        weight = self.conv.weight[:, 0] * norm.scale[:, None]  # channels kernel
        # Filters see samples without their mean, and the bias adds it: an offset of the recording costs no digits.
        bias = norm.shift + weight.sum(dim=1) * norm.centre
        if self.conv.bias is not None:
            bias = bias + self.conv.bias * norm.scale
        windows = (x[..., 0] - norm.centre).unfold(1, kernel, stride).to(self.dtype)  # batch frames kernel
        weight, bias = weight.to(self.dtype), bias.to(self.dtype)
        return torch.ops.mkldnn._linear_pointwise(windows, weight, bias, *_after(gelu=True))


class PackedPositions(nn.Module):
    """The convolution that gives relative positions, with its weight norm multiplied out, and GELU."""

    def __init__(self, positions: PositionalConvolution, *, dtype: torch.dtype):
        super().__init__()
        # A causal convolution sees the frames before; the padding on both sides then becomes one side's.
        (kernel,) = positions.conv.kernel_size
        self._before = kernel - 1 - kernel // 2 if positions.causal else 0
        self._convolve = _Convolution(positions.conv, dtype=dtype, gelu=True)

    def forward(self, x: Float[Tensor, "batch frames dim"]) -> Float[Tensor, "batch frames dim"]:
        """Position features of the same shape; frames outside count as zeros."""
        frames = x.shape[1]
        return self._convolve(F.pad(x, (0, 0, self._before, 0)))[:, :frames]  # an even kernel gives one frame too many


class _Convolution(nn.Module):
    """A convolution of channels-last sequences, perhaps with GELU, as a 2-D one of height one."""

    def __init__(self, conv: nn.Conv1d, *, dtype: torch.dtype, gelu: bool):
        super().__init__()
        assert isinstance(conv.padding, tuple)
        self.dtype, self._after = dtype, _after(gelu=gelu)
        self._shape: tuple[_Pair, _Pair, _Pair, int] = ((0, conv.padding[0]), (1, conv.stride[0]), (1, 1), conv.groups)
        padding, stride, dilation, groups = self._shape
        weight = conv.weight.detach().to(dtype).unsqueeze(2)  # outputs inputs 1 kernel
        example = [1, conv.in_channels, 1, 1000 + conv.kernel_size[0]]  # a size of which the layout is a good one
        reorder: Any = torch.ops.mkldnn._reorder_convolution_weight
        self._weight = reorder(weight, padding, stride, dilation, groups, example)
        self._bias = None if conv.bias is None else conv.bias.detach().to(dtype)

    def forward(self, x: Float[Tensor, "batch time inputs"]) -> Float[Tensor, "batch frames outputs"]:
        image = x.to(self.dtype).transpose(1, 2).unsqueeze(2)  # batch inputs 1 time, channels-last in memory
        y = torch.ops.mkldnn._convolution_pointwise(image, self._weight, self._bias, *self._shape, *self._after)
        return y.squeeze(2).transpose(1, 2)


def _after(*, gelu: bool) -> tuple[str, list[Any], str]:
    """What follows a product, as the operators take it: its name, numbers, and which formula (`none`: with erf)."""
    return ("gelu", [], "none") if gelu else ("none", [], "")


def _bias(linear: nn.Linear) -> Tensor | None:
    """A linear layer may have none, which its annotation does not say."""
    bias = dict(linear.named_parameters()).get("bias")
    return None if bias is None else bias.detach()
