"""Checks of decoded samples: unusable samples are refused, doubtful ones are noted.

All commands use the same rule: `Levels` takes the samples in blocks or whole, with the same result.
"""

import math
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, Float64

from speechssl.audio.errors import AudioError, AudioWarning
from speechssl.audio.units import RECEPTIVE_FIELD, SAMPLE_RATE, samples_to_seconds

SILENCE_PEAK = 10 ** (-90 / 20)  # of full scale, after the mean is removed: about one step of a 16-bit file
SPIKE_REFUSED = 500  # times everything else, 54 dB: normalised by its deviation, speech would be lost below the spike
SPIKE_NOTED = 100  # times everything else, 40 dB
_LOST = 1e-3  # of the deviation; this much may be lost by rounding to float32
_PART = 160  # samples, 10 ms: a click, and the ringing of the resampler around it, is in one or two of them
_SUMMED = 1e3  # up to this range, samples are summed as float32
_LASTING = 4  # parts in a row, 40 ms; the sounds of speech last longer, a click with its ringing does not
_PARTS_LEFT_OUT = 8  # at most that many parts are a click or a few, never more than an eighth of the samples


def not_finite(waveform: Float[np.ndarray, " samples"]) -> int:
    """Number of samples that are NaN or infinite."""
    return len(waveform) - int(np.count_nonzero(np.isfinite(waveform)))


def as_float32(
    block: Float64[np.ndarray, "samples channels"], path: str | Path
) -> Float32[np.ndarray, "samples channels"]:
    """Samples of twice the precision, rounded.

    Raises:
        AudioError: a constant offset takes the digits of what varies beside it.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # samples that are not finite have a reason of their own
        rounded = block.astype(np.float32)
        lost, varies = np.abs(block - rounded).max(axis=0), block.std(axis=0)
    if ((lost > _LOST * varies) & (varies > SILENCE_PEAK / 10) & np.isfinite(varies)).any():
        offset = float(block.mean(axis=0)[lost.argmax()])
        raise AudioError(
            path, f"float32 has too few digits for it beside a constant offset of {offset:.6g}; take it off"
        )
    return rounded


class Levels:
    """Levels of a waveform that comes in blocks of any size; memory does not depend on its length.

    Args:
        blocks: the first samples; `add` takes more.
        moments: whether to compute the deviation; it takes longer than everything else.

    Attributes:
        num_samples: of all blocks together.
        mean: over all samples.
        low: the smallest sample.
        high: the largest sample.

    >>> levels = Levels([np.arange(4000, dtype=np.float32), np.ones(0, dtype=np.float32)], moments=True)
    >>> levels.num_samples, levels.mean, round(levels.deviation, 3)
    (4000, 1999.5, 1154.701)
    """

    def __init__(self, blocks: Iterable[Float32[np.ndarray, " _"]] = (), *, moments: bool = False) -> None:
        self.num_samples, self.mean = 0, 0.0
        self.low, self.high = math.inf, -math.inf
        self._moments, self._squares = moments, 0.0
        self._not_finite = 0
        self._left = np.zeros(0, dtype=np.float32)  # of a part that is not whole yet
        self._parts = 0
        self._swings = np.zeros(0)  # of the parts with the largest: the distance from the lowest to the highest sample
        self._last = np.zeros(0)  # swings of the last parts
        self._lasting = math.nan  # the largest swing that lasts; NaN while there are fewer parts
        self._loudest = 0, self._left  # where the part with the largest swing starts, and its samples
        for block in blocks:
            self.add(block)

    @property
    def deviation(self) -> float:
        """The square root of the variance and 1e-7, as `normalize` has it."""
        assert self._moments
        return math.sqrt(self._squares / self.num_samples + 1e-7)

    @property
    def peak(self) -> float:
        """The largest magnitude of a sample."""
        return max(self.high, -self.low)

    @property
    def rest(self) -> float:
        """Half the peak-to-peak level of all but the few loudest stretches of 10 ms.

        At most 80 ms, and at most an eighth of the samples, are left out. A constant offset does not count.
        """
        swings, parts = self._swings, self._parts
        if len(self._left):
            swings, parts = np.append(swings, np.ptp(self._left)), parts + 1
        left_out = min(_PARTS_LEFT_OUT, parts // 8)
        return float(np.sort(swings)[-1 - left_out]) / 2 if len(swings) else 0.0

    @property
    def lasting(self) -> float:
        """Half the peak-to-peak level of everything that lasts 40 ms, which excludes any number of clicks."""
        return self.rest if math.isnan(self._lasting) else min(self.rest, self._lasting / 2)

    def add(self, block: Float32[np.ndarray, " _"]) -> None:
        """Adds the next samples."""
        if not len(block):
            return
        low, high = float(block.min()), float(block.max())  # NaN where there is one
        if not math.isfinite(high - low) or self._not_finite:
            self._not_finite += not_finite(block)
            self.num_samples += len(block)
            return
        self.low, self.high = min(self.low, low), max(self.high, high)
        size, total = len(block), self.num_samples + len(block)
        if self._moments:  # merged block by block (Chan, Golub and LeVeque 1983)
            step = float(block.mean(dtype=np.float64)) - self.mean
            squares = float(block.var(dtype=np.float64)) * size
            self._squares += squares + step * step * self.num_samples * size / total
        else:
            exact = high - low > _SUMMED  # the sum of large samples may overflow float32
            step = float(block.sum(dtype=np.float64 if exact else np.float32)) / size - self.mean
        self.mean += step * size / total
        self._add_parts(np.concatenate([self._left, block]) if len(self._left) else block)
        self.num_samples = total

    def _add_parts(self, samples: Float32[np.ndarray, " _"]) -> None:
        first = self.num_samples - len(self._left)
        starts = np.arange(0, len(samples) - _PART + 1, _PART)
        end = len(starts) * _PART
        if end:
            whole = samples[:end]
            highs, lows = np.maximum.reduceat(whole, starts), np.minimum.reduceat(whole, starts)
            swings = highs.astype(np.float64) - lows
            if not len(self._swings) or swings.max() > self._swings.max():
                start = int(starts[swings.argmax()])
                self._loudest = first + start, samples[start : start + _PART].copy()
            self._add_lasting(swings)
            swings, kept = np.concatenate([self._swings, swings]), _PARTS_LEFT_OUT + 1
            self._swings = np.partition(swings, len(swings) - kept)[-kept:] if len(swings) > kept else swings
            self._parts += len(starts)
        self._left = samples[end:].copy()

    def _add_lasting(self, swings: Float[np.ndarray, " parts"]) -> None:
        swings = np.concatenate([self._last, swings])
        self._last = swings[-_LASTING + 1 :]
        if len(swings) >= _LASTING:
            lowest = np.lib.stride_tricks.sliding_window_view(swings, _LASTING).min(axis=1)
            self._lasting = float(np.fmax(lowest.max(), self._lasting))

    def check(self, path: str | Path) -> list[str]:
        """Refuses a waveform that a model cannot learn from; see `check_waveform`.

        Returns:
            Doubtful properties, one line each.
        """
        self._check_samples(path)
        peak = max(self.high - self.mean, self.mean - self.low)
        if self.low == self.high == 0:
            raise AudioError(path, "all silence (every sample is zero)")
        if peak < SILENCE_PEAK and abs(self.mean) >= SILENCE_PEAK:
            raise AudioError(path, f"all silence (a constant offset of {self.mean:.4f} and nothing else)")
        if peak < SILENCE_PEAK:
            raise AudioError(path, f"all silence (a peak of {peak:.1g} of full scale, below -90 dBFS)")
        swing = (float(self._swings.max()) if len(self._swings) else 0.0) / 2
        if swing <= SPIKE_NOTED * self.lasting:
            return []
        start, part = self._loudest
        place = int(np.abs(part - self.mean).argmax())  # a click may be most of its part
        value, seconds = f"{part[place]:.3g}", f"{samples_to_seconds(start + place, SAMPLE_RATE):.3f} s"
        if swing <= SPIKE_NOTED * self.rest:
            return [f"clicks of up to {value} (at {seconds}), everything between them is within +/-{self.lasting:.2g}"]
        words = f"a click of {value} at {seconds}, all other samples are within +/-{self.rest:.2g}"
        if swing > SPIKE_REFUSED * self.rest:
            raise AudioError(path, f"{words}; cut the click out or limit it")
        return [words]

    def _check_samples(self, path: str | Path) -> None:
        if self.num_samples < RECEPTIVE_FIELD:
            count = self.num_samples
            raise AudioError(
                path, f"too short: {count} samples at 16 kHz, one frame of the model needs {RECEPTIVE_FIELD}"
            )
        if self._not_finite:
            raise AudioError(path, f"{self._not_finite} of {self.num_samples} samples are NaN or infinite")


def check_waveform(waveform: Float[np.ndarray, " samples"], path: str | Path) -> None:
    """Refuses a waveform that a model cannot learn from.

    Silence is a peak below -90 dBFS after the mean is removed: less than about one step of a 16-bit file, so quiet
    speech is accepted, and a constant offset is refused. A click consists of the loudest stretches of 10 ms, at most
    eight of them and at most an eighth of the waveform: it is refused when it is more than 500 times (54 dB) above
    everything else, and gives a warning from 100 times (40 dB) on. More clicks than that give a warning when they are
    100 times above everything that lasts 40 ms.

    Args:
        waveform: mono samples at 16 kHz, full scale 1.0.
        path: named in the error.

    Raises:
        AudioError: NaN or infinite samples, fewer than 400 samples, silence, or a click far above everything else.

    Warns:
        AudioWarning: a click, or clicks, far above everything else.

    >>> check_waveform(np.sin(np.arange(400, dtype=np.float32)), "a.wav")
    >>> check_waveform(np.zeros(16000, dtype=np.float32), "a.wav")
    Traceback (most recent call last):
        ...
    speechssl.audio.AudioError: a.wav: all silence (every sample is zero)
    """
    for note in Levels([np.asarray(waveform, dtype=np.float32)]).check(path):
        warnings.warn(AudioWarning(path, note), stacklevel=2)
