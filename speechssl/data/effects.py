"""Effects of augmentation on a batch of waveforms, on their device: one amount per row, the length is kept.

Room, channel and company of a voice: reverberation by noise that decays exponentially (Polack's model; Lebart et al.
2001, "A New Method Based on Spectral Subtraction for Speech Dereverberation", section 2), band limits without a shift
of phase, noise at an exact ratio, another voice at a stretch of the waveform (Chen et al. 2021, "WavLM", arXiv
2110.13900, section IV-A). Pitch is that of :mod:`speechssl.data.augment`, a phase vocoder and resampling.

Every function is a pure function of waveforms, amounts and generators, and a row does not depend on the other rows.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Complex, Float, Float32
from torch import Tensor

from speechssl.audio import SAMPLE_RATE

_N_FFT, _HOP = 1024, 256  # of the vocoder: 64 ms resolve the harmonics of a voice, a hop of a quarter is usual
_ORDER = 8  # of the band limits: 48 dB per octave
_EARLY = SAMPLE_RATE // 500  # samples between the direct sound and the first reflection: 2 ms
_RINGING = SAMPLE_RATE // 10  # zeros behind a waveform, in which the ends of a filter fade

Waveforms = Float32[Tensor, "rows samples"]
Amounts = Float32[Tensor, " rows"]


def add_noise(
    waveforms: Waveforms, snr: Amounts, slope: Amounts, *, generators: Sequence[torch.Generator]
) -> Waveforms:
    """Adds Gaussian noise at an exact signal-to-noise ratio over the whole waveform; silence stays silent.

    Args:
        waveforms: any level.
        snr: dB.
        slope: exponent of 1 / frequency of the noise's power: 0 white, 1 pink.
        generators: source of the noise of each row.

    >>> tone, ratio = torch.ones(1, 8000), torch.tensor([20.0])
    >>> noisy = add_noise(tone, ratio, torch.ones(1), generators=[torch.Generator().manual_seed(0)])
    >>> round(float((noisy - tone).square().mean()), 4)
    0.01
    """
    samples = waveforms.shape[1]
    noise = _normal(samples, generators)
    spectrum = torch.fft.rfft(noise, n=_fast_length(samples))  # rows bins
    bins = torch.arange(spectrum.shape[1], device=noise.device).clamp(min=1)
    noise = torch.fft.irfft(spectrum * bins ** (-slope[:, None] / 2), n=_fast_length(samples))[:, :samples]
    return waveforms + noise * (_power(waveforms) / _power(noise) * _ratio(-snr)).sqrt()[:, None]


def reverberate(
    waveforms: Waveforms, decay: Amounts, direct: Amounts, *, generators: Sequence[torch.Generator]
) -> Waveforms:
    """Adds the reverberation of a room; the direct sound stays as it is and in its place.

    Args:
        waveforms: any level.
        decay: seconds in which the reverberation falls by 60 dB.
        direct: energy of the direct sound over that of the reverberation, dB.
        generators: source of the impulse response of each row.

    >>> click = torch.eye(1, 8000)
    >>> heard = reverberate(click, torch.tensor([0.3]), torch.zeros(1), generators=[torch.Generator().manual_seed(0)])
    >>> round(float(heard[0, 0]), 4), round(float(heard[0, 1:].square().sum()), 2)
    (1.0, 1.0)
    """
    samples = waveforms.shape[1]
    times = torch.arange(samples, device=waveforms.device) / SAMPLE_RATE
    tail = _normal(samples, generators) * torch.exp(-3 * math.log(10) * times / decay[:, None])
    tail[:, :_EARLY] = 0.0
    tail = tail * (_ratio(-direct) / tail.square().sum(dim=1).clamp(min=1e-20)).sqrt()[:, None]
    length = _fast_length(2 * samples)
    echoes = torch.fft.irfft(torch.fft.rfft(waveforms, n=length) * torch.fft.rfft(tail, n=length), n=length)
    return waveforms + echoes[:, :samples]


def limit_band(waveforms: Waveforms, low: Amounts, high: Amounts) -> Waveforms:
    """Passes a band of frequencies: Butterworth magnitude of order 8 at each end, without a shift of phase.

    Args:
        waveforms: any level.
        low: lower end, Hz, where the power is halved; 0 for none.
        high: upper end, Hz; infinite for none.

    >>> hum = torch.sin(2 * torch.pi * 50 * torch.arange(16000) / 16000)[None]
    >>> bool(limit_band(hum, torch.tensor([300.0]), torch.tensor([3400.0])).abs().mean() < 0.01)
    True
    """
    samples = waveforms.shape[1]
    length = _fast_length(samples + _RINGING)
    frequencies = torch.fft.rfftfreq(length, 1 / SAMPLE_RATE, device=waveforms.device)
    below = (frequencies / high[:, None]) ** (2 * _ORDER)
    above = (low[:, None] / frequencies.clamp(min=1e-3)) ** (2 * _ORDER)
    gains = torch.rsqrt((1 + below) * (1 + above))  # rows bins
    return torch.fft.irfft(torch.fft.rfft(waveforms, n=length) * gains, n=length)[:, :samples]


def mix(
    waveforms: Waveforms, others: Waveforms, ratio: Amounts, stretches: Sequence[tuple[int, int, int]]
) -> Waveforms:
    """Adds a stretch of another waveform to each; its level follows from the energies of both as a whole.

    Args:
        waveforms: any level.
        others: the waveforms that are added; silence adds nothing.
        ratio: power of a waveform over that of the other, dB.
        stretches: for each row, the first sample, the first sample of the other, and the number of samples.

    >>> mixed = mix(torch.ones(1, 8), torch.full((1, 8), 5.0), torch.tensor([20.0]), [(2, 0, 3)])
    >>> [round(float(each), 3) for each in mixed[0]]
    [1.0, 1.0, 1.1, 1.1, 1.1, 1.0, 1.0, 1.0]
    """
    gains = (_power(waveforms) / _power(others).clamp(min=1e-20) * _ratio(-ratio)).sqrt()
    mixed = waveforms.clone()
    for row, (start, other, samples) in enumerate(stretches):
        mixed[row, start : start + samples] += gains[row] * others[row, other : other + samples]
    return mixed


def change_speed(waveform: Float32[Tensor, " samples"], length: int) -> Float32[Tensor, " length"]:
    """Changes tempo and pitch together: resamples one waveform to a number of samples.

    Args:
        waveform: its spectrum is cut off or continued by zeros, so that its two ends are neighbours.
        length: fewer samples are faster and higher.

    >>> len(change_speed(torch.randn(16000), 14400))
    14400
    """
    if len(waveform) == length:
        return waveform
    return torch.fft.irfft(torch.fft.rfft(waveform), n=length) * (length / len(waveform))


def shift_pitch(waveform: Float32[Tensor, " samples"], semitones: float) -> Float32[Tensor, " samples"]:
    """Changes the pitch of one waveform; tempo and length stay.

    Args:
        waveform: any level, at least 1024 samples.
        semitones: 12 double every frequency; rounded so that the waveform is stretched by multiples of 10 ms.

    >>> len(shift_pitch(torch.randn(16001), 2.0))
    16001
    """
    grain = SAMPLE_RATE // 100  # few lengths, as the plan of a transform costs more than the transform
    length = round(len(waveform) * 2 ** (semitones / 12) / grain) * grain
    return change_speed(_stretch(waveform, length), len(waveform))


def _stretch(waveform: Float32[Tensor, " samples"], length: int) -> Float32[Tensor, " length"]:
    """Phase vocoder: another length at the same pitch (Flanagan and Golden 1966; Laroche and Dolson 1999).

    Both hops are equal, so that the phase of a bin advances from frame to frame as in the waveform: a product of unit
    numbers, without angles.
    """
    window = torch.hann_window(_N_FFT, device=waveform.device)
    spectrum = torch.stft(waveform, _N_FFT, _HOP, window=window, return_complex=True)  # bins frames
    times = torch.arange(length // _HOP + 1, device=waveform.device) * (len(waveform) / length)
    left = times.long().clamp(max=spectrum.shape[1] - 2)
    magnitude = _magnitude(spectrum)
    magnitude = torch.lerp(magnitude[:, left], magnitude[:, left + 1], times - left)
    advance = _unit(spectrum[:, 1:] * spectrum[:, :-1].conj())
    turns = torch.cat([_unit(spectrum[:, :1]), advance[:, left[:-1]]], dim=1).cumprod(dim=1)
    stretched = _lock_phases(magnitude * _unit(turns))
    return torch.istft(stretched, _N_FFT, _HOP, window=window, length=length)


def _unit(numbers: Complex[Tensor, "bins frames"]) -> Complex[Tensor, "bins frames"]:
    """Numbers of the same phase and the absolute value 1; 0 stays as it is."""
    return numbers / _magnitude(numbers).clamp(min=1e-18)


def _magnitude(numbers: Complex[Tensor, "bins frames"]) -> Float[Tensor, "bins frames"]:
    """Absolute values, faster on CPUs than `abs`, which avoids an overflow that no spectrum of samples has."""
    return (numbers.real.square() + numbers.imag.square()).sqrt()


def _lock_phases(spectrum: Complex[Tensor, "bins frames"]) -> Complex[Tensor, "bins frames"]:
    """Loose phase locking, see :mod:`speechssl.data.augment`."""
    locked = spectrum.clone()
    locked[1:] -= spectrum[:-1]
    locked[:-1] -= spectrum[1:]
    return _unit(locked) * _magnitude(spectrum)


def _normal(samples: int, generators: Sequence[torch.Generator]) -> Waveforms:
    """White noise, each row from its generator."""
    return torch.stack([torch.randn(samples, generator=each, device=each.device) for each in generators])


def _power(waveforms: Waveforms) -> Float[Tensor, " rows"]:
    return waveforms.square().mean(dim=1)


def _ratio(decibels: Amounts) -> Amounts:
    return 10 ** (decibels / 10)


def _fast_length(samples: int) -> int:
    """A length of at least so many samples with small prime factors: a transform of a prime length is slow.

    >>> _fast_length(32001)
    32768
    """
    step = 1 << max(samples.bit_length() - 4, 0)
    return -(-samples // step) * step
