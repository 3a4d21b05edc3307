"""Arithmetic on whole waveforms: another sampling rate, and zero mean and unit variance."""

import math

import numpy as np
import soxr
from jaxtyping import Float


def resample(waveform: Float[np.ndarray, " samples"], from_rate: int, to_rate: int) -> Float[np.ndarray, " resampled"]:
    """Another sampling rate, by soxr's high quality band-limited filter.

    Args:
        waveform: mono samples.
        from_rate: their rate, Hz.
        to_rate: the wanted rate, Hz.

    Returns:
        The same array when the rates are equal, otherwise `round(samples * to_rate / from_rate)` samples, float32.

    >>> resample(np.zeros(8000, dtype=np.float32), 8000, 16000).shape
    (16000,)
    """
    if from_rate == to_rate:
        return waveform
    return np.asarray(soxr.resample(waveform, from_rate, to_rate, quality="HQ"), dtype=np.float32)


def normalize(waveform: Float[np.ndarray, " samples"]) -> Float[np.ndarray, " samples"]:
    """Zero mean and unit variance over the utterance, float32.

    The 1e-7 inside the root is that of Hugging Face's `Wav2Vec2FeatureExtractor.zero_mean_unit_var_norm`.

    >>> normalize(np.array([1.0, 3.0], dtype=np.float32)).round(3)
    array([-1.,  1.], dtype=float32)
    """
    mean = float(waveform.mean(dtype=np.float64))
    deviation = math.sqrt(float(waveform.var(dtype=np.float64)) + 1e-7)
    return ((waveform - mean) / deviation).astype(np.float32, copy=False)
