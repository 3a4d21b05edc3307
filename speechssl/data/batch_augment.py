"""Augmentation of the crops of pretraining: what is drawn for each row of a batch, and its application on the device.

Draws are a function of (seed, number of the batch, row of the global batch): they do not change with ranks,
micro-batches or a resumed run, and disabling one effect does not change the others. Order of the effects: speed, pitch,
another voice, reverberation, noise, band. Functions of the effects are in :mod:`speechssl.data.effects`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Float32
from pydantic import AfterValidator, model_validator
from torch import Tensor

from speechssl.audio import SAMPLE_RATE
from speechssl.config import Config
from speechssl.data.augment import Factors, Probability, Range
from speechssl.data.effects import add_noise, change_speed, limit_band, mix, reverberate, shift_pitch

_GRAIN = SAMPLE_RATE // 100  # samples read for another speed are multiples: few lengths of transforms
_NOISE, _REVERB = 0, 1  # part of a generator's seed, so that the random streams differ
MIN_PITCHED = 1024
"""Samples of the shortest crop whose pitch can be changed."""


def _positive(values: tuple[float, float]) -> tuple[float, float]:
    if not 0 < values[0] <= values[1] < math.inf:
        raise ValueError(f"a range from {values[0]:g} to {values[1]:g}; allowed: above 0, the lower end first")
    return values


def _within(values: tuple[float, float], lowest: float, highest: float) -> tuple[float, float]:
    if not lowest <= values[0] <= values[1] <= highest:
        raise ValueError(f"a range from {values[0]:g} to {values[1]:g}; allowed: within {lowest:g} to {highest:g}")
    return values


PositiveRange = Annotated[tuple[float, float], AfterValidator(_positive)]
Hertz = Annotated[tuple[float, float], AfterValidator(lambda values: _within(values, 1.0, SAMPLE_RATE / 2))]
Semitones = Annotated[tuple[float, float], AfterValidator(lambda values: _within(values, -12.0, 12.0))]
Shares = Annotated[tuple[float, float], AfterValidator(lambda values: _within(values, 0.0, 1.0))]


class BatchAugmentConfig(Config):
    """Probabilities and amounts of the effects in pretraining, all off; an amount is drawn uniformly from its range.

    Attributes:
        speed: probability of another speed; a recording that is too short for a faster crop is sped up less.
        speed_factors: 1.1 is a tenth faster and higher (Ko et al. 2015: 0.9 to 1.1).
        pitch: probability of another pitch.
        pitch_semitones: 12 double every frequency.
        mix: probability that a stretch of another crop of the batch is added (WavLM: 0.2).
        mix_ratio: power of the crop over that of the other, dB (WavLM: -5 to 5).
        mix_share: length of the stretch as a fraction of the crop (WavLM: at most half).
        reverb: probability of reverberation.
        reverb_seconds: time in which the reverberation falls by 60 dB.
        reverb_direct: energy of the direct sound over that of the reverberation, dB.
        noise: probability of added noise.
        noise_snr: power of the waveform over that of the noise, dB.
        noise_slope: exponent of 1 / frequency of the noise's power: 0 is white, 1 pink.
        telephone: probability of the telephone band, 300 to 3400 Hz (ITU-T G.712).
        low_pass: probability of a low-pass filter.
        low_pass_hz: its upper end.
        high_pass: probability of a high-pass filter.
        high_pass_hz: its lower end.
    """

    speed: Probability = 0.0
    speed_factors: Factors = (0.9, 1.1)
    pitch: Probability = 0.0
    pitch_semitones: Semitones = (-2.0, 2.0)
    mix: Probability = 0.0
    mix_ratio: Range = (0.0, 10.0)
    mix_share: Shares = (0.0, 0.5)
    reverb: Probability = 0.0
    reverb_seconds: PositiveRange = (0.2, 0.8)
    reverb_direct: Range = (0.0, 10.0)
    noise: Probability = 0.0
    noise_snr: Range = (5.0, 30.0)
    noise_slope: Range = (0.0, 1.0)
    telephone: Probability = 0.0
    low_pass: Probability = 0.0
    low_pass_hz: Hertz = (2000.0, 7000.0)
    high_pass: Probability = 0.0
    high_pass_hz: Hertz = (50.0, 500.0)

    @model_validator(mode="after")
    def _bands_are_not_empty(self) -> "BatchAugmentConfig":
        lowest = self.low_pass_hz[0]
        if self.high_pass and self.low_pass and self.high_pass_hz[1] >= lowest:
            raise ValueError(f"high_pass_hz up to {self.high_pass_hz[1]:g}; allowed: below low_pass_hz, {lowest:g}")
        if self.telephone and self.low_pass and lowest <= _TELEPHONE[0]:
            raise ValueError(f"low_pass_hz from {lowest:g}; allowed with telephone: above {_TELEPHONE[0]:g}")
        if self.telephone and self.high_pass and self.high_pass_hz[1] >= _TELEPHONE[1]:
            raise ValueError(f"high_pass_hz up to {self.high_pass_hz[1]:g}; allowed with telephone: below 3400")
        return self

    @property
    def is_off(self) -> bool:
        """Whether every effect is off."""
        return not any(getattr(self, name) for name in _EFFECTS)


_EFFECTS = ("speed", "pitch", "mix", "reverb", "noise", "telephone", "low_pass", "high_pass")
_TELEPHONE = (300.0, 3400.0)  # Hz


NO_AUGMENT = BatchAugmentConfig()


@dataclass(frozen=True)
class RowEffects:
    """Effects on one row with their amounts; an amount that is None: without this effect.

    Attributes:
        width: samples that are read, in steps of 10 ms, and resampled to the length of a crop.
        pitch: semitones.
        other: row of the global batch that is mixed in.
        ratio: power of the crop over that of the other, dB.
        stretch: first sample in the crop, first sample in the other, number of samples.
        reverb: seconds of the reverberation, dB of the direct sound over it.
        noise: signal-to-noise ratio in dB, exponent of 1 / frequency.
        band: lower and upper end, Hz; 0 and infinity for none.
        seed: of the samples of noise and reverberation.
    """

    width: int
    pitch: float | None = None
    other: int | None = None
    ratio: float = 0.0
    stretch: tuple[int, int, int] = (0, 0, 0)
    reverb: tuple[float, float] | None = None
    noise: tuple[float, float] | None = None
    band: tuple[float, float] | None = None
    seed: int = 0


def draw_effects(
    config: BatchAugmentConfig, *, row: int, rows: int, samples: int, available: int, rng: np.random.Generator
) -> RowEffects:
    """Draw the effects on one row.

    Args:
        config: probabilities and ranges.
        row: row of the global batch.
        rows: number of rows of the global batch, at least 2.
        samples: length of a crop.
        available: samples of the recording, at least as many.
        rng: of this row.

    >>> config = BatchAugmentConfig(speed=1.0, speed_factors=(1.25, 1.25))
    >>> drawn = draw_effects(config, row=0, rows=2, samples=16000, available=32000, rng=np.random.default_rng(0))
    >>> drawn.width, drawn.noise
    (20000, None)
    """
    on = dict(zip(_EFFECTS, rng.random(len(_EFFECTS)).tolist(), strict=True))
    on = {name: coin < getattr(config, name) for name, coin in on.items()}
    shares = iter(rng.random(16).tolist())

    def amount(ends: tuple[float, float]) -> float:
        return ends[0] + next(shares) * (ends[1] - ends[0])

    factor, pitch = amount(config.speed_factors), amount(config.pitch_semitones)
    width = round(samples * factor / _GRAIN) * _GRAIN if on["speed"] else samples
    ratio, length = amount(config.mix_ratio), int(amount(config.mix_share) * samples)
    stretch = (int(amount((0.0, float(samples - length)))), int(amount((0.0, float(samples - length)))), length)
    reverb = amount(config.reverb_seconds), amount(config.reverb_direct)
    noise = amount(config.noise_snr), amount(config.noise_slope)
    ends = {name: amount(getattr(config, f"{name}_hz")) for name in ("low_pass", "high_pass")}
    low = max(_TELEPHONE[0] if on["telephone"] else 0.0, ends["high_pass"] if on["high_pass"] else 0.0)
    high = min(_TELEPHONE[1] if on["telephone"] else math.inf, ends["low_pass"] if on["low_pass"] else math.inf)
    other = (row + int(rng.integers(1, rows))) % rows
    return RowEffects(
        width=min(width, available),
        pitch=pitch if on["pitch"] else None,
        other=other if on["mix"] else None,
        ratio=ratio,
        stretch=stretch,
        reverb=reverb if on["reverb"] else None,
        noise=noise if on["noise"] else None,
        band=(low, high) if (low, high) != (0.0, math.inf) else None,
        seed=int(rng.integers(2**62)),
    )


def augmented(
    waveforms: Float32[Tensor, "batch width"],
    effects: Sequence[RowEffects],
    *,
    samples: int,
    others: Float32[Tensor, "batch samples"] | None = None,
) -> Float32[Tensor, "batch samples"]:
    """Waveforms with the drawn effects.

    Args:
        waveforms: a row has the samples that its effects read, and zeros behind them; it is not changed.
        effects: one for each row.
        samples: length of a crop.
        others: waveforms that are mixed in; None where nothing is mixed.
    """
    device = waveforms.device
    rows = [change_speed(row[: drawn.width], samples) for row, drawn in zip(waveforms, effects, strict=True)]
    for place, drawn in enumerate(effects):
        if drawn.pitch is not None:
            rows[place] = shift_pitch(rows[place], drawn.pitch)
    result = torch.stack(rows)

    def on_device(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32).to(device, non_blocking=True)

    def generators(places: Sequence[int], purpose: int) -> list[torch.Generator]:
        return [torch.Generator(device).manual_seed(2 * effects[place].seed + purpose) for place in places]

    mixed = [place for place, drawn in enumerate(effects) if drawn.other is not None]
    if mixed:
        assert others is not None
        ratio, stretches = on_device([effects[i].ratio for i in mixed]), [effects[i].stretch for i in mixed]
        result[mixed] = mix(result[mixed], others[mixed], ratio, stretches)
    reverbs = {place: drawn.reverb for place, drawn in enumerate(effects) if drawn.reverb is not None}
    if reverbs:
        decay, direct = (on_device(each) for each in zip(*reverbs.values(), strict=True))
        result[[*reverbs]] = reverberate(result[[*reverbs]], decay, direct, generators=generators([*reverbs], _REVERB))
    noises = {place: drawn.noise for place, drawn in enumerate(effects) if drawn.noise is not None}
    if noises:
        snr, slope = (on_device(each) for each in zip(*noises.values(), strict=True))
        result[[*noises]] = add_noise(result[[*noises]], snr, slope, generators=generators([*noises], _NOISE))
    bands = {place: drawn.band for place, drawn in enumerate(effects) if drawn.band is not None}
    if bands:
        low, high = (on_device(each) for each in zip(*bands.values(), strict=True))
        result[[*bands]] = limit_band(result[[*bands]], low, high)
    return result
