"""From clean synthetic speech to a recording: vocal effort, breath, room, noise and level, all seeded.

The room is an exponentially decaying noise tail after the direct sound (Polack's model of late reverberation); the
noise has a spectrum that falls like 1/f to a power around 1. Spectral tilt and room are one multiplication in the
frequency domain.
"""

import numpy as np
from jaxtyping import Float

from speechssl.audio import SAMPLE_RATE, seconds_to_samples
from speechssl.data.corpora.espeak_styles import Manner

_ROOM_STREAM = 2
_SNR_RANGE = (10.0, 35.0)  # dB, before the loudness of the style changes it
_LEVEL_RANGE = (-35.0, -17.0)  # dB RMS relative to full scale
_DRY_SHARE = 0.25  # of the utterances have no room
_PEAK = 0.95


def record(
    speech: Float[np.ndarray, " samples"], manner: Manner, *, seed: int, index: int
) -> Float[np.ndarray, " recorded"]:
    """Simulates a noisy recording of clean speech in a room, at a random level.

    Args:
        speech: 16 kHz, any level, not silent.
        manner: loudness, tilt and breath are used.
        seed: of the corpus.
        index: of the utterance; draws are a pure function of (seed, index).

    Returns:
        float32 within ±0.95, up to 0.8 s longer than the speech (pauses before and after, and the tail of the room).

    >>> tone = np.sin(np.arange(16000) / 9).astype(np.float32)
    >>> manner = Manner(words_per_minute=165, pitch=50, pitch_range=50, loudness=0.0, tilt=0.0, breath=-30.0, mark=".")
    >>> recorded = record(tone, manner, seed=0, index=1)
    >>> 1.0 < recorded.size / 16000 < 1.8, float(abs(recorded).max()) <= 0.95
    (True, True)
    """
    rng = np.random.default_rng([_ROOM_STREAM, seed, index])
    voice = speech / np.sqrt(np.mean(np.square(speech)))
    voice = voice + _breath(voice, manner.breath, rng)
    before, after = rng.uniform(0.05, 0.25, size=2)
    voice = np.pad(voice, (seconds_to_samples(before), seconds_to_samples(after)))
    response = _room(rng)
    count = voice.size + response.size - 1
    size = _transform_size(count)
    spectrum = np.fft.rfft(voice, size) * np.fft.rfft(response, size) * _tilt(size, manner.tilt)
    recorded = np.fft.irfft(spectrum, size)[:count]
    recorded /= np.sqrt(np.mean(np.square(recorded)))
    low, high = _SNR_RANGE
    snr = min(max(rng.uniform(low, high) + manner.loudness, low), high)
    recorded += _noise(count, rng) * 10 ** (-snr / 20)
    recorded *= 10 ** (rng.uniform(*_LEVEL_RANGE) / 20)
    recorded *= min(1.0, _PEAK / float(np.abs(recorded).max()))
    return recorded.astype(np.float32)


def _breath(
    voice: Float[np.ndarray, " samples"], level: float, rng: np.random.Generator
) -> Float[np.ndarray, " samples"]:
    """High-passed noise that follows the envelope of the voice (10 ms), `level` dB relative to it."""
    window = seconds_to_samples(0.01)
    energy = np.cumsum(np.concatenate([np.zeros(window), np.square(voice, dtype=np.float64)]))
    envelope = np.sqrt((energy[window:] - energy[:-window]) / window)
    noise = rng.standard_normal(voice.size + 1)
    return np.diff(noise) / np.sqrt(2) * envelope * 10 ** (level / 20)


def _room(rng: np.random.Generator) -> Float[np.ndarray, " taps"]:
    """Impulse response: the direct sound and, most of the time, a tail of 0.1 to 0.4 s decay time (60 dB)."""
    dry = rng.random() < _DRY_SHARE
    decay, gap, ratio = rng.uniform(0.1, 0.4), rng.uniform(0.002, 0.012), rng.uniform(5, 18)  # s, s, dB direct to tail
    if dry:
        return np.ones(1)
    times = np.arange(seconds_to_samples(0.75 * decay)) / SAMPLE_RATE  # the tail is cut at -45 dB
    tail = rng.standard_normal(times.size) * 10 ** (-3 * times / decay) * (times >= gap)
    tail *= 10 ** (-ratio / 20) / np.sqrt(np.sum(np.square(tail)))
    tail[0] = 1.0
    return tail


def _tilt(size: int, slope: float) -> Float[np.ndarray, " bins"]:
    """Gain of each bin: `slope` dB per octave around 1 kHz, level below 125 Hz."""
    frequencies = np.fft.rfftfreq(size, 1 / SAMPLE_RATE)
    return 10 ** (slope * np.log2(np.maximum(frequencies, 125) / 1000) / 20)


def _noise(count: int, rng: np.random.Generator) -> Float[np.ndarray, " samples"]:
    """Unit-variance noise with a power spectrum of 1/f to the power of 0.6 to 1.4, level below 50 Hz."""
    size = _transform_size(count)
    white = np.fft.rfft(rng.standard_normal(size))
    frequencies = np.fft.rfftfreq(size, 1 / SAMPLE_RATE)
    noise = np.fft.irfft(white * np.maximum(frequencies, 50) ** (-rng.uniform(0.6, 1.4) / 2), size)[:count]
    return noise / noise.std()


def _transform_size(count: int) -> int:
    """Length of a Fourier transform that holds `count` samples and has small factors, hence is fast."""
    return -(-count // 2048) * 2048
