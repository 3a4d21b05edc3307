"""Convolutional feature encoder: raw waveform to latent frames.

wav2vec 2.0 (Baevski et al. 2020, section 2, arXiv 2006.11477): a stack of strided 1-D convolutions, each followed by a
norm and GELU. Two additions, both off under the paper's presets:

* ``init="tap-average"``: every tap of a kernel starts from the same random channel mix plus a little He noise. Frames
  of a randomly initialised stack depend on the phase of the waveform; codes of such frames cannot be predicted from
  context and small runs stay at chance. Averaging over taps makes frames stable under shifts of a few milliseconds from
  the first update on.
* ``front="gabor"``: the first layer starts as mel-spaced Gabor quadrature pairs after pre-emphasis and gives their
  log power (the idea of LEAF, Zeghidour et al. 2021, arXiv 2101.08596); it stays trainable.

Tensors are channels-last (batch, time, channels) throughout: the norm over channels then needs no transposition.
"""

import math
from typing import Annotated, Literal

import pydantic
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from speechssl.audio import RECEPTIVE_FIELD, SAMPLE_RATE
from speechssl.config import Config
from speechssl.nn.norm import LayerNorm
from speechssl.nn.time_norm import FixedNorm, TimeNorm

PAPER_LAYERS = ((512, 10, 5), *((512, 3, 2),) * 4, *((512, 2, 2),) * 2)  # (channels, kernel, stride), paper section 4.2
PRE_EMPHASIS = 0.97  # the usual value, e.g. HTK book section 5.2
GABOR_GAIN = (
    100.0  # the bands of a unit-variance waveform have powers about 0.01: brings them to the bend of log(1 + x)
)


class ConvConfig(Config):
    """Shape and initialisation of the feature encoder; defaults are the paper's."""

    layers: Annotated[tuple[tuple[PositiveInt, PositiveInt, PositiveInt], ...], Field(min_length=1)] = PAPER_LAYERS
    norm: Literal["layer", "group"] = "layer"
    bias: bool = True
    front: Literal["conv", "gabor"] = "conv"
    init: Literal["he", "tap-average"] = "he"
    tap_noise: float = Field(default=0.1, ge=0, le=1)  # fraction of He noise in a tap-averaged kernel

    @pydantic.model_validator(mode="after")
    def _short(self) -> "ConvConfig":
        """Refuse a very large hop or receptive field, since inputs are padded to it."""
        if self.hop > SAMPLE_RATE or self.receptive_field > 10 * SAMPLE_RATE:
            raise ValueError(
                f"a hop of {_shown(self.hop)} samples and a receptive field of {_shown(self.receptive_field)}; "
                f"at most {SAMPLE_RATE} and {10 * SAMPLE_RATE}"
            )
        return self

    @property
    def dim(self) -> int:
        """Channels of the latent frames."""
        return self.layers[-1][0]

    @property
    def hop(self) -> int:
        """Samples per frame (stride of the whole stack).

        >>> ConvConfig().hop
        320
        """
        return math.prod(stride for _, _, stride in self.layers)

    @property
    def receptive_field(self) -> int:
        """Receptive field of a frame, samples.

        >>> ConvConfig().receptive_field
        400
        """
        field, hop = 1, 1
        for _, kernel, stride in self.layers:
            field, hop = field + (kernel - 1) * hop, hop * stride
        return field

    @property
    def padding(self) -> int:
        """Zeros added on both sides so that the number of frames equals that of the paper's stack."""
        return max(0, math.ceil((self.receptive_field - RECEPTIVE_FIELD) / 2))


def _shown(count: int) -> str:
    """A count for a message; Python refuses to format numbers of thousands of digits."""
    return str(count) if count < 10**12 else "more than 10^12"


class ConvFeatureEncoder(nn.Module):
    """Waveforms to latent frames.

    Example:
        >>> encoder = ConvFeatureEncoder(ConvConfig(layers=((8, 10, 5), (8, 8, 8), (16, 8, 8))))
        >>> encoder(torch.zeros(2, 16000)).shape
        torch.Size([2, 49, 16])
    """

    def __init__(self, config: ConvConfig):
        super().__init__()
        self.config = config
        if config.front == "gabor" and config.norm != "layer":
            raise ValueError(f"the gabor front needs norm='layer', got {config.norm!r}")
        inputs, self.layers = 1, nn.ModuleList()
        for index, (channels, kernel, stride) in enumerate(config.layers):
            if index == 0 and config.front == "gabor":
                self.layers.append(GaborLayer(channels, kernel, stride))
            else:
                norm = config.norm if config.norm == "layer" or index == 0 else "none"
                self.layers.append(ConvLayer(inputs, channels, kernel, stride, norm=norm, bias=config.bias))
            inputs = channels
        if config.init == "tap-average":
            for layer in list(self.layers)[1:]:
                assert isinstance(layer, ConvLayer)
                average_taps_(layer.conv.weight, config.tap_noise)

    def num_frames(self, num_samples: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
        """Frames for a number of samples; zero below the receptive field.

        >>> ConvFeatureEncoder(ConvConfig()).num_frames(torch.tensor([399, 400, 16000]))
        tensor([ 0,  1, 49])
        """
        length = num_samples + 2 * self.config.padding
        for _, kernel, stride in self.config.layers:
            length = torch.div(length - kernel, stride, rounding_mode="floor") + 1
        return length.clamp(min=0)

    def forward(self, waveforms: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch frames channels"]:
        """Latent frames of normalised waveforms at 16 kHz; padding beyond an utterance's end must be zeros."""
        x = F.pad(waveforms, (self.config.padding, self.config.padding)).unsqueeze(-1)  # batch samples 1
        for layer in self.layers:
            x = layer(x)
        return x


class ConvLayer(nn.Module):
    """Convolution, norm over channels ("layer") or over time ("group"), GELU; channels-last."""

    def __init__(self, inputs: int, channels: int, kernel: int, stride: int, *, norm: str, bias: bool):
        super().__init__()
        self.conv = nn.Conv1d(inputs, channels, kernel, stride=stride, bias=bias)
        nn.init.kaiming_normal_(self.conv.weight)
        self.norm = {"layer": LayerNorm, "group": TimeNorm, "none": lambda _: nn.Identity()}[norm](channels)

    def forward(self, x: Float[Tensor, "batch time inputs"]) -> Float[Tensor, "batch frames channels"]:
        """One layer; ``frames = (time - kernel) // stride + 1``."""
        return self.normed(x, self.norm)

    def normed(
        self, x: Float[Tensor, "batch time inputs"], norm: nn.Module | FixedNorm
    ) -> Float[Tensor, "batch frames channels"]:
        """Output of the layer with another norm."""
        return F.gelu(norm(convolve(x, self.conv.weight, self.conv.bias, stride=self.conv.stride[0])))


class GaborLayer(nn.Module):
    """Log powers of trainable filters, initialised as mel-spaced Gabor quadrature pairs, after pre-emphasis."""

    def __init__(self, channels: int, kernel: int, stride: int):
        super().__init__()
        self.conv = nn.Conv1d(1, 2 * channels, kernel, stride=stride, bias=False)
        self.conv.weight = nn.Parameter(gabor_filters(channels, kernel).unsqueeze(1))
        self.norm = LayerNorm(channels)

    def forward(self, x: Float[Tensor, "batch time 1"]) -> Float[Tensor, "batch frames channels"]:
        """Pre-emphasis, power of each pair, log(1 + gain x), norm, GELU."""
        return self.powers(pre_emphasis(x))

    def powers(self, x: Float[Tensor, "batch time 1"]) -> Float[Tensor, "batch frames channels"]:
        """The layer without pre-emphasis."""
        pairs = convolve(x, self.conv.weight, None, stride=self.conv.stride[0]).unflatten(-1, (2, -1))
        power = pairs.square().sum(dim=-2)  # batch frames channels
        return F.gelu(self.norm(torch.log1p(GABOR_GAIN * power)))


def pre_emphasis(x: Float[Tensor, "batch time 1"]) -> Float[Tensor, "batch time 1"]:
    """Each sample minus 0.97 times the previous one.

    >>> pre_emphasis(torch.tensor([[[1.0], [1.0], [0.97]]])).flatten().round(decimals=2)
    tensor([1.0000, 0.0300, 0.0000])
    """
    return x - PRE_EMPHASIS * F.pad(x, (0, 0, 1, -1))


def convolve(
    x: Float[Tensor, "batch time inputs"],
    weight: Float[Tensor, "outputs inputs_of_group kernel"],
    bias: Float[Tensor, " outputs"] | None,
    *,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
) -> Float[Tensor, "batch frames outputs"]:
    """Convolution of channels-last sequences.

    Computed as a 2-D convolution of height one, which has a channels-last kernel in oneDNN and cuDNN: no transposed
    copies before and after. One gradient of that kernel is slower than the copies: fp32 with strides over shared
    samples.
    """
    in_fp32 = x.dtype == torch.float32 and not torch.is_autocast_enabled(x.device.type)
    shared = 1 < stride < weight.shape[2] and weight.shape[1] > 1
    if x.device.type == "cpu" and in_fp32 and shared and torch.is_grad_enabled():
        y = F.conv1d(x.transpose(1, 2).contiguous(), weight, bias, stride=stride, padding=padding, groups=groups)
        return y.transpose(1, 2).contiguous()
    image = x.transpose(1, 2).unsqueeze(2)  # batch inputs 1 time, channels-last in memory
    filtered = F.conv2d(image, weight.unsqueeze(2), bias, stride=(1, stride), padding=(0, padding), groups=groups)
    return filtered.squeeze(2).transpose(1, 2)


def average_taps_(weight: Float[Tensor, "outputs inputs kernel"], noise: float) -> None:
    """Fill a kernel in place: one random channel mix on every tap, plus ``noise`` times He-normal values."""
    outputs, inputs, kernel = weight.shape
    mix = torch.randn(outputs, inputs, 1) * math.sqrt(2 / inputs) / kernel
    with torch.no_grad():
        weight.copy_(mix + noise * torch.randn_like(weight) * math.sqrt(2 / (inputs * kernel)))


def gabor_filters(channels: int, kernel: int) -> Float[Tensor, "pairs kernel"]:
    """Quadrature pairs, mel-spaced from 60 Hz to 7800 Hz, bandwidths from the spacing; all cosines, then all sines.

    A Gaussian of standard deviation ``s`` in time has one of ``1 / (2 pi s)`` in frequency; neighbouring filters cross
    near half height.
    """
    mel = torch.linspace(_hertz_to_mel(60.0), _hertz_to_mel(7800.0), channels + 2)
    hertz = 700.0 * (10.0 ** (mel / 2595.0) - 1.0)  # HTK's mel scale
    centre, spacing = hertz[1:-1, None], (hertz[2:] - hertz[:-2])[:, None] / 2
    time = (torch.arange(kernel) - (kernel - 1) / 2)[None] / SAMPLE_RATE  # s
    width = (1 / (2 * math.pi * 0.85 * spacing)).clamp(
        max=kernel / SAMPLE_RATE / 4
    )  # s; the window holds +-2 deviations
    envelope = torch.exp(-0.5 * (time / width) ** 2)
    envelope = envelope / envelope.norm(dim=1, keepdim=True)
    phase = 2 * math.pi * centre * time
    return torch.cat([envelope * phase.cos(), envelope * phase.sin()])


def _hertz_to_mel(hertz: float) -> float:
    return 2595.0 * math.log10(1.0 + hertz / 700.0)
