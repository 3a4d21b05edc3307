"""The group norm of BASE's first layer: every channel is normalised over the time axis of its utterance.

It needs the mean and the variance of each channel of an utterance. Both follow from the moments of the windows of
samples that the convolution reads (:class:`WindowMoments`): the channels need not be computed for them, and a clip of
hours can be processed in blocks.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64
from torch import Tensor, nn


class TimeNorm(nn.Module):
    """Group norm with one group per channel: each is normalised over the whole time axis, as in BASE's first layer.

    Padding changes its result: use it on batches of equal length only. Implemented as a batch norm over the frames of
    each utterance, whose kernel reads channels-last frames directly and is six times as fast as separate operations.
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
    """Norm over time of a convolution with precomputed mean and variance.

    Attributes:
        scale: scale per channel.
        shift: shift per channel, after the scale.
        centre: approximate mean of the samples.
    """

    scale: Float64[Tensor, " channels"]
    shift: Float64[Tensor, " channels"]
    centre: float

    def __call__(self, x: Float[Tensor, "batch frames channels"]) -> Float[Tensor, "batch frames channels"]:
        """Scale and shift the channels."""
        return x * self.scale.to(x.dtype) + self.shift.to(x.dtype)


@dataclass(frozen=True)
class WindowMoments:
    """Count, mean and summed products of deviations of the windows of samples that a convolution reads.

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
        """Moments of a segment of at least one kernel of samples, for a convolution with one input channel."""
        (kernel,), (stride,) = conv.kernel_size, conv.stride
        windows = samples.unfold(0, kernel, stride).double()  # frames kernel
        mean = windows.mean(dim=0)
        away = windows - mean
        return cls(len(windows), mean, away.t() @ away)

    def merged(self, other: "WindowMoments") -> "WindowMoments":
        """Moments of both together (Chan, Golub and LeVeque, "Algorithms for computing the sample variance", 1983)."""
        count = self.count + other.count
        step = other.mean - self.mean
        products = self.products + other.products + torch.outer(step, step) * self.count * other.count / count
        return WindowMoments(count, self.mean + step * other.count / count, products)

    def norm(self, conv: nn.Conv1d, norm: TimeNorm) -> FixedNorm:
        """Scale and shift of the norm for a convolution with one input channel and these moments."""
        filters = conv.weight.detach()[:, 0].double()  # channels kernel
        mean = filters @ self.mean
        if conv.bias is not None:
            mean = mean + conv.bias.detach().double()
        variance = ((filters @ self.products) * filters).sum(dim=1) / self.count
        scale = norm.weight.detach().double() / (variance + norm.eps).sqrt()
        return FixedNorm(scale, norm.bias.detach().double() - mean * scale, float(self.mean.mean()))
