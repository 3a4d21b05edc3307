"""Checks of decoded samples: what no model can learn from is refused with a reason."""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from speechssl.audio.errors import AudioError
from speechssl.audio.units import RECEPTIVE_FIELD

SILENCE_PEAK = 10 ** (-90 / 20)  # of full scale, after the mean is removed: about one step of a 16-bit file


def not_finite(waveform: Float[np.ndarray, " samples"]) -> int:
    """How many samples are NaN or infinite."""
    return len(waveform) - int(np.count_nonzero(np.isfinite(waveform)))


def check_waveform(waveform: Float[np.ndarray, " samples"], path: str | Path) -> None:
    """Refuses a waveform that a model cannot learn from.

    Silence is a peak below -90 dBFS after the mean is removed: less than about one step of a 16-bit file, so speech
    that is merely quiet passes, and a constant offset does not.

    Args:
        waveform: mono samples at 16 kHz, full scale 1.0.
        path: named in the error.

    Raises:
        AudioError: NaN or infinite samples, fewer than 400 samples, or silence.

    >>> check_waveform(np.sin(np.arange(400, dtype=np.float32)), "a.wav")
    >>> check_waveform(np.zeros(16000, dtype=np.float32), "a.wav")
    Traceback (most recent call last):
        ...
    speechssl.audio.AudioError: a.wav: all silence (every sample is zero)
    """
    if len(waveform) < RECEPTIVE_FIELD:
        raise AudioError(
            path, f"too short: {len(waveform)} samples at 16 kHz, one frame of the model needs {RECEPTIVE_FIELD}"
        )
    bad = not_finite(waveform)
    if bad:
        raise AudioError(path, f"{bad} of {len(waveform)} samples are NaN or infinite")
    if not waveform.any():
        raise AudioError(path, "all silence (every sample is zero)")
    mean = float(waveform.mean(dtype=np.float64))
    peak = max(float(waveform.max()) - mean, mean - float(waveform.min()))
    if peak < SILENCE_PEAK and abs(mean) >= SILENCE_PEAK:
        raise AudioError(path, f"all silence (a constant offset of {mean:.4f} and nothing else)")
    if peak < SILENCE_PEAK:
        raise AudioError(path, f"all silence (a peak of {peak:.1g} of full scale, below -90 dBFS)")
