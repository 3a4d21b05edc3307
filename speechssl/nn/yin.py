"""Fundamental frequency and voicing of frames.

de Cheveigne and Kawahara 2002, "YIN, a fundamental frequency estimator for speech and music", steps 2 to 5, with the
difference function computed by FFT. Choice of the period and interpolation are those of ``librosa.yin``; with ``window
= frame`` the numbers are too. The default integration window is the paper's: librosa's extends beyond the end of the
frame, so that its difference function rises with the period and low voices in short frames have low voicing.
"""

import math
from dataclasses import dataclass

import pydantic
import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from speechssl.audio import SAMPLE_RATE
from speechssl.config import Config

_ROUNDING = 1e-6  # of a frame's energy: differences below are rounding errors of fp32


class PitchConfig(Config):
    """Search of the fundamental frequency.

    Attributes:
        low: Hz, the lowest F0.
        high: Hz, the highest F0.
        frame: samples of the estimate, even (50 ms).
        window: samples that are compared with those one period later. None: as many as the longest period leaves in a
            frame, the paper's choice. ``window = frame`` is librosa's, which compares the end of a frame with zeros.
        threshold: the first minimum below it is chosen; the paper's value.
    """

    low: PositiveFloat = 60.0
    high: float = Field(default=500.0, le=SAMPLE_RATE / 2)
    frame: int = Field(default=800, gt=0, multiple_of=2)
    window: PositiveInt | None = None
    threshold: PositiveFloat = 0.1

    @pydantic.model_validator(mode="after")
    def _fits(self) -> "PitchConfig":
        if self.low >= self.high or self.longest >= self.frame or self.compared > self.frame:
            raise ValueError(
                f"low must be below high, and a frame of {self.frame} samples must be longer than the longest period "
                f"({self.longest}) and not shorter than its window ({self.compared})"
            )
        return self

    @property
    def shortest(self) -> int:
        """Shortest period in samples."""
        return math.floor(SAMPLE_RATE / self.high)

    @property
    def longest(self) -> int:
        """Longest period in samples.

        >>> PitchConfig().shortest, PitchConfig().longest, PitchConfig().compared
        (32, 267, 533)
        """
        return math.ceil(SAMPLE_RATE / self.low)

    @property
    def compared(self) -> int:
        """Samples of the integration window."""
        return self.frame - self.longest if self.window is None else self.window


@dataclass(frozen=True)
class Pitch:
    """F0 estimates.

    Attributes:
        f0: Hz. Every frame has an estimate; it is meaningful where ``voicing`` is high.
        voicing: from 0 (noise, silence) to 1 (exactly periodic): 1 minus the normalised difference at the period.
    """

    f0: Float[Tensor, "batch frames"]
    voicing: Float[Tensor, "batch frames"]


PITCH = PitchConfig()


@torch.no_grad()
def yin(frames: Float[Tensor, "batch frames samples"], *, config: PitchConfig = PITCH) -> Pitch:
    """F0 and voicing of each frame, in fp32.

    Args:
        frames: 16 kHz, as many samples as the config's frame; any level.
        config: range and windows.

    Raises:
        ValueError: frames of another length.

    >>> tone = torch.sin(2 * torch.pi * 220 / SAMPLE_RATE * torch.arange(800))
    >>> yin(tone.view(1, 1, 800)).f0.round(decimals=1)
    tensor([[220.]])
    """
    if frames.shape[-1] != config.frame:
        raise ValueError(f"frames of {frames.shape[-1]} samples; {config.frame} are needed")
    with torch.autocast(frames.device.type, enabled=False):
        return _estimate(_normalised_difference(frames.float(), config), config)


def _estimate(ratio: Float[Tensor, "batch frames periods"], config: PitchConfig) -> Pitch:
    """Estimate from the normalised difference of each period."""
    before, after = F.pad(ratio, (1, 0), value=math.inf)[..., :-1], F.pad(ratio, (0, 1), value=math.inf)[..., 1:]
    good = (ratio <= after) & (ratio < config.threshold)  # the first of them is a minimum
    lowest = ratio == ratio.amin(dim=-1, keepdim=True)
    good = torch.where(good.any(dim=-1, keepdim=True), good, lowest)
    places = torch.arange(ratio.shape[-1], device=ratio.device)
    place = torch.where(good, places, len(places)).amin(dim=-1, keepdim=True)  # the first; argmax may give any
    place = place.clamp(max=len(places) - 1)  # NaN have no lowest

    here, left, right = (each.gather(-1, place).squeeze(-1) for each in (ratio, before, after))
    curvature, slope = left + right - 2 * here, (right - left) / 2
    usable = (slope.abs() < curvature.abs()) & curvature.isfinite()  # infinite beside the first and the last period
    shift = torch.where(usable, -slope / curvature, 0.0)
    f0 = SAMPLE_RATE / (config.shortest + place.squeeze(-1) + shift)
    return Pitch(f0=f0, voicing=(1 - here).clamp(0, 1))


def _normalised_difference(
    frames: Float[Tensor, "batch frames samples"], config: PitchConfig
) -> Float[Tensor, "batch frames periods"]:
    """Cumulative mean normalised difference (the paper's equation 8) from the shortest to the longest period."""
    window, longest = config.compared, config.longest
    size = 1 << (max(config.frame, window + longest) - 1).bit_length()  # no wrap-around
    product = torch.fft.rfft(frames[..., :window], size).conj() * torch.fft.rfft(frames, size)
    correlation = torch.fft.irfft(product, size)[..., : longest + 1]
    power = F.pad(frames.square(), (0, max(0, window + longest - config.frame)))
    sums = F.pad(power.cumsum(dim=-1), (1, 0))
    energy = sums[..., window : window + longest + 1] - sums[..., : longest + 1]  # of the window that starts k later
    difference = (energy[..., :1] + energy - 2 * correlation)[..., 1:].clamp(min=0)
    periods = torch.arange(1, longest + 1, device=frames.device)
    mean = difference.cumsum(dim=-1) / periods
    constant = mean <= _ROUNDING * energy[..., :1]
    ratio = torch.where(constant, 1.0, difference / mean)  # a constant signal has no period
    return ratio[..., config.shortest - 1 :]
