"""Augmentation of one waveform: speed, pitch, noise, gain, each with its own probability.

Speed: Ko et al. 2015, "Audio Augmentation for Speech Recognition", Interspeech 2015, section 2.2: the waveform is
resampled, so tempo and pitch move together; here by a factor drawn from a range instead of 0.9, 1.0 and 1.1.
Pitch: a phase vocoder (Flanagan and Golden 1966; Laroche and Dolson 1999, section II; phases locked loosely after
Puckette 1995) stretches time, resampling undoes the stretch; tempo stays.

All functions are pure functions of the waveform, the config and the generator. The same numbers are drawn for all
settings, so that disabling one effect does not change the others.
"""

import math
from typing import Annotated, Literal

import numpy as np
import soxr
from jaxtyping import Complex, Float, Float32
from pydantic import AfterValidator, Field

from speechssl.audio import RECEPTIVE_FIELD
from speechssl.config import Config

_N_FFT, _HOP = 1024, 256  # of the vocoder: 64 ms resolve the harmonics of a voice, a hop of a quarter is usual

Waveform = Float32[np.ndarray, " _"]


def _ordered(values: tuple[float, float]) -> tuple[float, float]:
    if not (math.isfinite(values[0]) and math.isfinite(values[1])):
        raise ValueError(f"a range from {values[0]:g} to {values[1]:g}; allowed: finite numbers")
    if values[0] > values[1]:
        raise ValueError(f"a range from {values[0]:g} to {values[1]:g}; the lower end comes first")
    return values


Probability = Annotated[float, Field(ge=0.0, le=1.0)]
Range = Annotated[tuple[float, float], AfterValidator(_ordered)]
_Factor = Annotated[float, Field(ge=0.5, le=2.0)]
Factors = Annotated[tuple[_Factor, _Factor], AfterValidator(_ordered)]


class AugmentConfig(Config):
    """Probabilities and amounts of the effects; each amount is drawn uniformly from its range.

    Attributes:
        speed: probability of another speed.
        speed_factors: 1.1 is a tenth faster and higher (Ko et al. 2015: 0.9 to 1.1).
        pitch: probability of another pitch.
        pitch_semitones: 12 double every frequency.
        noise: probability of added noise.
        noise_snr: power of the waveform over that of the noise, dB.
        noise_color: "white" has the same power in every Hz, "pink" in every octave; "any" draws one.
        gain: probability of another level.
        gain_db: 20 is ten times the amplitude; peaks may pass 1.
    """

    speed: Probability = 0.5
    speed_factors: Factors = (0.9, 1.1)
    pitch: Probability = 0.3
    pitch_semitones: Range = (-1.5, 1.5)
    noise: Probability = 0.3
    noise_snr: Range = (10.0, 30.0)
    noise_color: Literal["white", "pink", "any"] = "any"
    gain: Probability = 0.5
    gain_db: Range = (-6.0, 6.0)


OFF = AugmentConfig(speed=0.0, pitch=0.0, noise=0.0, gain=0.0)


def augment(waveform: Waveform, config: AugmentConfig, *, rng: np.random.Generator) -> Waveform:
    """One draw of every effect, applied in the order speed, pitch, noise, gain.

    Args:
        waveform: 16 kHz, any level; it is not changed.
        config: with every probability zero the waveform itself is returned.
        rng: source of the draws.

    Returns:
        16 kHz, finite where the input is, not clipped. Only speed changes the length, and never to less than 400
        samples, the minimum of an encoder: a waveform that would get shorter keeps its speed.

    >>> tone = np.sin(np.arange(16000) / 10, dtype=np.float32)
    >>> always_faster = AugmentConfig(speed=1.0, speed_factors=(1.25, 1.25))
    >>> len(augment(tone, always_faster, rng=np.random.default_rng(0)))
    12800
    >>> augment(tone, OFF, rng=np.random.default_rng(0)) is tone
    True
    """
    coins = rng.random(4)
    amounts = rng.random(4)
    pink = rng.random() < 0.5
    speed, pitch, noise, gain = coins < (config.speed, config.pitch, config.noise, config.gain)
    if speed:
        waveform = change_speed(waveform, _between(config.speed_factors, amounts[0]))
    if pitch:
        waveform = shift_pitch(waveform, _between(config.pitch_semitones, amounts[1]))
    if noise:
        color = config.noise_color if config.noise_color != "any" else ("pink" if pink else "white")
        waveform = add_noise(waveform, _between(config.noise_snr, amounts[2]), color=color, rng=rng)
    if gain:
        waveform = waveform * np.float32(10 ** (_between(config.gain_db, amounts[3]) / 20))
    return waveform


def change_speed(waveform: Waveform, factor: float) -> Waveform:
    """Changes tempo and pitch together, by resampling; the length is divided by the factor.

    Args:
        waveform: 16 kHz.
        factor: above 1 is faster.

    >>> len(change_speed(np.zeros(16000, dtype=np.float32), 0.8))
    20000
    """
    length = round(len(waveform) / factor)
    if factor == 1 or length < RECEPTIVE_FIELD:
        return waveform
    return _resample(waveform, length)


def shift_pitch(waveform: Waveform, semitones: float) -> Waveform:
    """Changes the pitch; the length stays.

    Args:
        waveform: 16 kHz.
        semitones: 12 double every frequency.

    >>> len(shift_pitch(np.zeros(16001, dtype=np.float32), 2.0))
    16001
    """
    if semitones == 0 or len(waveform) == 0:
        return waveform
    stretched = _stretch(waveform, 2 ** (semitones / 12))
    return _resample(stretched, len(waveform))


def add_noise(waveform: Waveform, snr: float, *, color: Literal["white", "pink"], rng: np.random.Generator) -> Waveform:
    """Adds Gaussian noise at an exact signal-to-noise ratio over the whole waveform; silence stays silent.

    Args:
        waveform: any level.
        snr: dB.
        color: see `AugmentConfig`.
        rng: source of the noise.

    >>> tone = np.ones(8000, dtype=np.float32)
    >>> noise = add_noise(tone, 20.0, color="pink", rng=np.random.default_rng(0)) - tone
    >>> round(float(np.mean(noise**2)), 4)
    0.01
    """
    if not waveform.any():
        return waveform
    noise = rng.standard_normal(len(waveform), dtype=np.float32)
    if color == "pink":
        spectrum = np.fft.rfft(noise, _smooth_length(len(noise)))
        spectrum[1:] /= np.sqrt(np.arange(1, len(spectrum), dtype=np.float32))
        spectrum[0] = 0.0
        noise = np.fft.irfft(spectrum)[: len(waveform)].astype(np.float32)
    wanted = np.sqrt(np.mean(np.square(waveform, dtype=np.float64)) * 10 ** (-snr / 10))
    return waveform + noise * np.float32(wanted / np.sqrt(np.mean(np.square(noise, dtype=np.float64))))


def _between(ends: tuple[float, float], share: float) -> float:
    return ends[0] + float(share) * (ends[1] - ends[0])


def _smooth_length(length: int) -> int:
    """The next power of two: a transform of a prime length is ten times slower."""
    return 1 << max(length - 1, 1).bit_length()


def _resample(waveform: Waveform, length: int) -> Waveform:
    """Resamples to a number of samples."""
    # soxr reads rates, not lengths: this many Hz would become this many.
    resampled = soxr.resample(waveform, len(waveform), length, quality="MQ")
    return np.pad(resampled[:length], (0, max(0, length - len(resampled)))).astype(np.float32, copy=False)


def _stretch(waveform: Waveform, ratio: float) -> Waveform:
    """Phase vocoder: `ratio` times as long at the same pitch."""
    window = np.hanning(_N_FFT + 1)[:-1].astype(np.float32)
    padded = np.pad(waveform, (_N_FFT // 2, _N_FFT // 2 + 2 * _HOP))
    frames = np.lib.stride_tricks.sliding_window_view(padded, _N_FFT)[::_HOP]  # (frames, samples)
    spectrum = np.fft.rfft(frames * window)  # (frames, bins)
    times = np.arange(0, len(spectrum) - 1, 1 / ratio)
    left = times.astype(np.int64)
    share = (times - left).astype(np.float32)[:, None]
    magnitude = np.abs(spectrum)
    magnitude = (1 - share) * magnitude[left] + share * magnitude[left + 1]
    phase = np.angle(spectrum)
    expected = 2 * np.pi * _HOP / _N_FFT * np.arange(_N_FFT // 2 + 1)  # advance of a bin's centre in one hop
    deviation = np.diff(phase, axis=0) - expected
    advance = expected + deviation - 2 * np.pi * np.round(deviation / (2 * np.pi))
    angles = np.cumsum(np.concatenate([phase[:1], advance[left[:-1]]]), axis=0, dtype=np.float64)
    pieces = np.fft.irfft(_lock_phases(magnitude * np.exp(1j * angles))) * window  # (frames, samples)
    return _overlap_add(pieces, window, round(len(waveform) * ratio))


def _lock_phases(spectrum: Complex[np.ndarray, "frames bins"]) -> Complex[np.ndarray, "frames bins"]:
    """Loose phase locking (Puckette 1995): bins beside a peak take its phase, so that a harmonic keeps its level.

    Under a Hann window the bins of one peak alternate in sign, hence the differences.
    """
    locked = spectrum.copy()
    locked[:, 1:] -= spectrum[:, :-1]
    locked[:, :-1] -= spectrum[:, 1:]
    return locked * (np.abs(spectrum) / np.maximum(np.abs(locked), 1e-20))


def _overlap_add(
    pieces: Float[np.ndarray, "frames samples"], window: Float32[np.ndarray, " samples"], length: int
) -> Waveform:
    """Sum of the pieces, one hop apart, over the sum of the squared windows."""
    parts = _N_FFT // _HOP
    total = np.zeros((len(pieces) + parts - 1, _HOP), dtype=np.float64)
    weight = np.zeros_like(total)
    squared = np.square(window).reshape(parts, _HOP)
    for part in range(parts):
        total[part : part + len(pieces)] += pieces[:, part * _HOP : (part + 1) * _HOP]
        weight[part : part + len(pieces)] += squared[part]
    whole = (total / np.maximum(weight, 1e-3)).ravel()[_N_FFT // 2 :]
    return np.pad(whole[:length], (0, max(0, length - len(whole)))).astype(np.float32)
