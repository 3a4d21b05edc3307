"""The group norm of BASE's first layer: every channel is normalised over the time axis of its utterance.

What it needs to know of an utterance is a mean and a variance a channel. Both follow from the moments of the few
samples that a tap of the convolution sees (:class:`WindowMoments`): the channels themselves need not be computed for
them, and a clip of hours can be added up in blocks.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64
from torch import Tensor, nn


class TimeNorm(nn.Module):
    """Group norm with one group a channel: each is normalised over the whole time axis, as in BASE's first layer.

    Padding changes its result: run it on batches of equal length only. Written as a batch norm over the frames of each
    utterance: its kernel takes channels-last frames as they are, and is six times as fast as the variance in steps.
    """

    def __init__(self, channels: int, eps: float = 1e-5):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Float[Tensor, "batch frames channels"]) -> Float[Tensor, "batch frames channels"]:
        """Zero mean and unit variance over time, then scale and shift."""
        return torch.stack(
            [F.batch_norm(frames, None, None, self.weight, self.bias, training=True, eps=self.eps) for frames in x]
        )


@dataclass(frozen=True)
class FixedNorm:
    """The norm over time of a convolution where mean and variance are known before.

    Attributes:
        scale: of each channel.
        shift: of each channel after that.
        centre: about the mean of the samples.
    """

    scale: Float64[Tensor, " channels"]
    shift: Float64[Tensor, " channels"]
    centre: float

    def __call__(self, x: Float[Tensor, "batch frames channels"]) -> Float[Tensor, "batch frames channels"]:
        """Channels scaled and shifted."""
        return x * self.scale.to(x.dtype) + self.shift.to(x.dtype)


@dataclass(frozen=True)
class WindowMoments:
    """Count, mean and summed products of deviations of the windows of samples that a convolution sees.

    >>> samples = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0])
    >>> found = WindowMoments.of(samples, nn.Conv1d(1, 3, kernel_size=2))
    >>> found.count, found.mean
    (4, tensor([3.7500, 7.5000], dtype=torch.float64))
    """

    count: int
    mean: Float64[Tensor, " kernel"]
    products: Float64[Tensor, "kernel kernel"]

    @classmethod
    def of(cls, samples: Float[Tensor, " samples"], conv: nn.Conv1d) -> "WindowMoments":
        """Those of a stretch of at least a kernel of samples, as a convolution of one input sees them."""
        (kernel,), (stride,) = conv.kernel_size, conv.stride
        windows = samples.unfold(0, kernel, stride).double()  # frames kernel
        mean = windows.mean(dim=0)
        away = windows - mean
        return cls(len(windows), mean, away.t() @ away)

    def merged(self, other: "WindowMoments") -> "WindowMoments":
        """Both together (Chan, Golub and LeVeque, "Algorithms for computing the sample variance", 1983)."""
        count = self.count + other.count
        step = other.mean - self.mean
        products = self.products + other.products + torch.outer(step, step) * self.count * other.count / count
        return WindowMoments(count, self.mean + step * other.count / count, products)

    def norm(self, conv: nn.Conv1d, norm: TimeNorm) -> FixedNorm:
        """What the norm does to the channels of a convolution of one input with such moments."""
        filters = conv.weight.detach()[:, 0].double()  # channels kernel
        mean = filters @ self.mean
        if conv.bias is not None:
            mean = mean + conv.bias.detach().double()
        variance = ((filters @ self.products) * filters).sum(dim=1) / self.count
        scale = norm.weight.detach().double() / (variance + norm.eps).sqrt()
        return FixedNorm(scale, norm.bias.detach().double() - mean * scale, float(self.mean.mean()))
