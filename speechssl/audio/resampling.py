"""Operations on whole waveforms: resampling, and zero mean and unit variance."""

import math

import numpy as np
import soxr
from jaxtyping import Float

_HEAD = 4000  # samples; 21 ms at 192 kHz
_OFFSET = 3.0  # deviations; the mean of a head without an offset is below


def constant_offset(waveform: Float[np.ndarray, " samples"]) -> np.float32:
    """The mean at the start of a recording when it is far above the variation there, otherwise 0.

    It is subtracted before resampling: the filter assumes zeros outside a recording, and the step to the offset rings
    like a click at both ends.

    >>> constant_offset(np.full(100, 0.5, dtype=np.float32)), constant_offset(np.zeros(0, dtype=np.float32))
    (np.float32(0.5), np.float32(0.0))
    """
    head = waveform[:_HEAD]
    if not len(head):
        return np.float32(0)
    with np.errstate(invalid="ignore"):  # the caller checks for samples that are not finite
        mean, deviation = float(head.mean(dtype=np.float64)), float(head.std(dtype=np.float64))
    return np.float32(mean if abs(mean) > _OFFSET * deviation else 0)


def resample(waveform: Float[np.ndarray, " samples"], from_rate: int, to_rate: int) -> Float[np.ndarray, " resampled"]:
    """Resamples a waveform with soxr's high quality band-limited filter.

    Args:
        waveform: mono samples.
        from_rate: their rate, Hz.
        to_rate: the new rate, Hz.

    Returns:
        The same array when the rates are equal, otherwise `round(samples * to_rate / from_rate)` samples, float32.

    >>> resample(np.zeros(8000, dtype=np.float32), 8000, 16000).shape
    (16000,)
    """
    if from_rate == to_rate:
        return waveform
    offset = constant_offset(waveform)
    resampled = soxr.resample(waveform - offset if offset else waveform, from_rate, to_rate, quality="HQ")
    return np.asarray(resampled, dtype=np.float32) + offset


def normalize(waveform: Float[np.ndarray, " samples"]) -> Float[np.ndarray, " samples"]:
    """Zero mean and unit variance over the utterance, float32.

    The 1e-7 inside the root is that of Hugging Face's `Wav2Vec2FeatureExtractor.zero_mean_unit_var_norm`.

    >>> normalize(np.array([1.0, 3.0], dtype=np.float32)).round(3)
    array([-1.,  1.], dtype=float32)
    """
    mean = float(waveform.mean(dtype=np.float64))
    deviation = math.sqrt(float(waveform.var(dtype=np.float64)) + 1e-7)
    return ((waveform - mean) / deviation).astype(np.float32, copy=False)
