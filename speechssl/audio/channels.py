"""Several channels to one: their mean, unless they cancel each other.

A stereo recording with one channel inverted (a cable soldered wrongly, a "vocal remover") is silence in the mean.
"""

from collections.abc import Callable
from typing import TypeVar

import numpy as np
from jaxtyping import Float32

_CANCELLED = 0.2  # of what channels that have nothing in common leave in their mean: a correlation of -0.8 in stereo

T = TypeVar("T")


class ChannelsCancel(Exception):  # noqa: N818 -- a finding, which `with_channel` acts on
    """The channels of a stretch that has been read cancel each other.

    Attributes:
        channel: the first of the loud ones, from 0.
    """

    def __init__(self, channel: int) -> None:
        super().__init__(channel)
        self.channel = channel


class Mix:
    """The mean of the channels, block by block, and the powers that tell whether they cancel each other.

    Powers are those of the samples less the mean of their block, so that a constant offset does not count. The mean of
    n channels of equal power that have nothing in common has 1/n of their power; below a fifth of that they cancel.
    """

    def __init__(self, channels: int) -> None:
        self._powers = np.zeros(channels)
        self._mean_power = 0.0

    def __call__(self, block: Float32[np.ndarray, "samples channels"]) -> Float32[np.ndarray, " samples"]:
        """The mean over channels of the next block."""
        with np.errstate(invalid="ignore", over="ignore"):  # the caller finds what is not finite
            mean = block.mean(axis=1)
            self._powers += [_power(block[:, channel]) for channel in range(block.shape[1])]
            self._mean_power += _power(mean)
        return mean

    def finish(self) -> None:
        """The stretch has been read.

        Raises:
            ChannelsCancel: they do.
        """
        channels = len(self._powers)
        if self._mean_power * channels < _CANCELLED * float(self._powers.mean()):
            raise ChannelsCancel(int((self._powers >= self._powers.max() / 2).argmax()))


def _power(samples: Float32[np.ndarray, " samples"]) -> float:
    """Sum of squares about the mean."""
    raw, mean = float(np.dot(samples, samples)), float(samples.mean(dtype=np.float64))
    centred = raw - len(samples) * mean * mean
    if centred > 1e-3 * raw:
        return centred
    return float(np.square(samples - mean, dtype=np.float64).sum())  # the difference would be rounding


def with_channel(work: Callable[[int | None], T]) -> T:
    """What the work gives with the mean of the channels (None), or with one of them where they cancel each other."""
    try:
        return work(None)
    except ChannelsCancel as found:
        return work(found.channel)
