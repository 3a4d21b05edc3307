"""Several channels to one: their mean, unless they cancel each other.

A stereo recording with one channel inverted (a cable soldered wrongly, a "vocal remover") is silence in the mean.
"""

import warnings
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from jaxtyping import Float32, Float64

from speechssl.audio.errors import AudioWarning

CANCEL = "the channels cancel each other, channel {} alone is taken"
_CANCELLED = 0.2  # of the power that uncorrelated channels leave in their mean: a correlation of -0.8 in stereo
_NOTHING = 0.02  # the same of one piece that cancels nearly completely: a correlation of -0.98 in stereo
_LOST = 0.05  # of the power of all pieces; this fraction may cancel
_LOST_STEPS = 0.5  # the same, of differences from sample to sample
_LOUD = 0.01  # of the mean power; a piece with less is a pause, in which the noise of a cable may cancel
_SILENCE = 10 ** (-90 / 10)  # power of full scale below which is silence

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
    """Mean of the channels, block by block, and the powers that show whether they cancel each other.

    Powers are those of the samples less the mean of their block, so that a constant offset does not count. The mean of
    n channels of equal power that are uncorrelated has 1/n of their power; below a fifth of that they cancel.

    They cancel in part where this holds in pieces of half a second with a twentieth of the total power, or where one
    piece cancels nearly completely. Common hum, on a balanced line that is recorded as stereo, masks the cancelling:
    differences from sample to sample contain little hum, and for them the threshold is half the total power.

    Args:
        channels: number of channels.
        rate: samples per second of each channel, Hz.
    """

    def __init__(self, channels: int, rate: int) -> None:
        self._powers = np.zeros(channels)
        self._mean_power = 0.0
        self._size = max(2, rate // 2)
        self._pieces: list[Float64[np.ndarray, "4 pieces"]] = []  # powers of channels and of their mean, as they are
        # and from sample to sample

    def __call__(self, block: Float32[np.ndarray, "samples channels"]) -> Float32[np.ndarray, " samples"]:
        """The mean over channels of the next block."""
        with np.errstate(invalid="ignore", over="ignore"):  # the caller finds what is not finite
            mean = block.mean(axis=1)
            self._powers += [_power(block[:, channel]) for channel in range(block.shape[1])]
            self._mean_power += _power(mean)
            size = min(self._size, len(block))
            self._pieces.append(_piece_powers(block, mean, size))
        return mean

    def finish(self) -> None:
        """Ends the stretch, after its last block.

        Raises:
            ChannelsCancel: the channels cancel each other.
        """
        channels = len(self._powers)
        if self._mean_power * channels < _CANCELLED * float(self._powers.mean()) or self._in_part(channels):
            raise ChannelsCancel(int((self._powers >= self._powers.max() / 2).argmax()))

    def _in_part(self, channels: int) -> bool:
        if not self._pieces:
            return False
        whole, mean, steps, mean_steps = np.concatenate(self._pieces, axis=1)
        loud = whole > max(_LOUD * float(whole.mean()), _SILENCE)
        lost, nothing = (loud & (mean * channels < share * whole) for share in (_CANCELLED, _NOTHING))
        if nothing.any() or whole[lost].sum() > _LOST * whole.sum():
            return True
        lost = loud & (mean_steps * channels < _CANCELLED * steps)
        return bool(steps[lost].sum() > _LOST_STEPS * steps.sum())


def _piece_powers(
    block: Float32[np.ndarray, "samples channels"], mean: Float32[np.ndarray, " samples"], size: int
) -> Float64[np.ndarray, "4 pieces"]:
    """Variances in pieces of a block: of its channels (the mean over them), of their mean, and of the steps of both."""
    count = len(block) // size
    rows = np.concatenate([block.T, mean[None]])[:, : count * size]
    rows -= rows[:, :size].mean(axis=1, dtype=np.float64, keepdims=True).astype(np.float32)
    pieces = rows.reshape(-1, count, size)  # of each channel and of the mean
    steps = pieces[:, :, 1:] - pieces[:, :, :-1]
    offsets = np.einsum("cps->cp", pieces).astype(np.float64) / size
    levels = np.einsum("cps,cps->cp", pieces, pieces).astype(np.float64) / size - offsets**2
    changes = np.einsum("cps,cps->cp", steps, steps).astype(np.float64) / size
    return np.stack([levels[:-1].mean(axis=0), levels[-1], changes[:-1].mean(axis=0), changes[-1]])


def _power(samples: Float32[np.ndarray, " samples"]) -> float:
    """Sum of squares about the mean."""
    raw, mean = float(np.dot(samples, samples)), float(samples.mean(dtype=np.float64))
    centred = raw - len(samples) * mean * mean
    if centred > 1e-3 * raw:
        return centred
    return float(np.square(samples - mean, dtype=np.float64).sum())  # the difference would be rounding


def with_channel(work: Callable[[int | None], T]) -> T:
    """Result of `work` with the mean of the channels (None), or with one channel where they cancel each other."""
    try:
        return work(None)
    except ChannelsCancel as found:
        return work(found.channel)


def to_mono(samples: Float32[np.ndarray, "samples channels"], rate: int, name: str) -> Float32[np.ndarray, " samples"]:
    """Mean over channels of samples in memory, or one channel where they cancel each other, as for a file.

    Args:
        samples: one column per channel.
        rate: samples per second of each channel, Hz.
        name: of the clip, for the warning.

    Warns:
        AudioWarning: the channels cancel each other.
    """
    mix = Mix(samples.shape[1], rate)
    mean = mix(samples)
    try:
        mix.finish()
    except ChannelsCancel as found:
        warnings.warn(AudioWarning(name, CANCEL.format(found.channel + 1)), stacklevel=3)
        return np.ascontiguousarray(samples[:, found.channel])
    return mean
