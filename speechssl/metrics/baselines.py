"""Fixed-length baseline features without learning: MFCC and log-mel statistics.

Both take one waveform at 16 kHz and are librosa's (McFee et al., "librosa: Audio and Music Signal Analysis in Python",
2015), with windows of 25 ms every 10 ms. Statistics of short-time features over the utterance ("functionals") are the
classic utterance features of paralinguistics: Schuller, Steidl and Batliner, "The INTERSPEECH 2009 Emotion Challenge"
(2009), section 5; MFCC themselves: Davis and Mermelstein, "Comparison of Parametric Representations for Monosyllabic
Word Recognition in Continuously Spoken Sentences" (1980).
"""

import functools

import numpy as np
from jaxtyping import Float

from speechssl.audio import SAMPLE_RATE

WINDOW = 400  # samples: 25 ms, also the shortest clip that is accepted
HOP = 160  # samples: 10 ms
N_FFT = 512  # the next power of two above the window
MEL_BANDS = 40  # of the MFCC; with 40 bands every mel filter spans at least one bin of a 512-point transform
LOGMEL_BANDS = 80  # as in most log-mel front ends; see logmel_statistics for the transform they need
COEFFICIENTS = 20  # librosa's default number of MFCC
_DELTA_WIDTH = 9  # frames; librosa's default regression window

MFCC_DIM = 4 * COEFFICIENTS
LOGMEL_DIM = 2 * LOGMEL_BANDS


def mfcc_statistics(waveform: Float[np.ndarray, " samples"]) -> Float[np.ndarray, " dim"]:
    """Mean and standard deviation over the frames of 20 MFCC and their deltas: 80 numbers.

    The order is mean of the coefficients, mean of the deltas, then the standard deviations in the same order.
    Clips with fewer than 9 frames repeat their edge frames for the delta regression (`mode="nearest"`).

    Args:
        waveform: 16 kHz, at least 400 samples, any scale.

    Raises:
        ValueError: when the clip is shorter than 400 samples.

    >>> mfcc_statistics(np.sin(np.arange(SAMPLE_RATE) / 10, dtype=np.float32)).shape
    (80,)
    """
    return _statistics(mfcc_frames(waveform).T)


def mfcc_frames(waveform: Float[np.ndarray, " samples"]) -> Float[np.ndarray, "frames dim"]:
    """20 MFCC and their deltas per frame; frame n is centred on n x 10 ms.

    Args:
        waveform: 16 kHz, at least 400 samples, any scale.

    Raises:
        ValueError: when the clip is shorter than 400 samples.

    >>> mfcc_frames(np.sin(np.arange(SAMPLE_RATE) / 10, dtype=np.float32)).shape
    (101, 40)
    """
    import librosa

    mel = _mel(waveform, bands=MEL_BANDS, n_fft=N_FFT)
    coefficients = librosa.feature.mfcc(S=librosa.power_to_db(mel, top_db=None), n_mfcc=COEFFICIENTS)
    deltas = librosa.feature.delta(_pad_to_width(coefficients), width=_DELTA_WIDTH, mode="nearest")
    deltas = deltas[:, : coefficients.shape[1]]
    return np.concatenate([coefficients, deltas]).T


def logmel_statistics(waveform: Float[np.ndarray, " samples"]) -> Float[np.ndarray, " dim"]:
    """Mean and standard deviation over the frames of 80 log-mel bands (natural logarithm): 160 numbers.

    The window is 25 ms, zero-padded to a 1,024-point transform: with 512 points the lowest of 80 filters would be
    empty.

    Args:
        waveform: 16 kHz, at least 400 samples, any scale.

    Raises:
        ValueError: when the clip is shorter than 400 samples.

    >>> logmel_statistics(np.sin(np.arange(SAMPLE_RATE) / 10, dtype=np.float32)).shape
    (160,)
    """
    mel = _mel(waveform, bands=LOGMEL_BANDS, n_fft=2 * N_FFT)
    return _statistics(np.log(np.maximum(mel, 1e-10)))  # librosa.power_to_db's minimum


def _mel(waveform: Float[np.ndarray, " samples"], *, bands: int, n_fft: int) -> Float[np.ndarray, "bands frames"]:
    import librosa

    if waveform.ndim != 1 or len(waveform) < WINDOW:
        raise ValueError(f"need one waveform of at least {WINDOW} samples, got shape {waveform.shape}")
    # Frames centred on multiples of the hop with zeros beyond the edges, as in librosa, which however warns about clips
    # shorter than the transform.
    padded = np.pad(waveform.astype(np.float32), n_fft // 2)
    spectrum = librosa.stft(padded, n_fft=n_fft, win_length=WINDOW, hop_length=HOP, center=False)  # (bins, frames)
    return _filters(bands, n_fft) @ np.square(np.abs(spectrum))


@functools.lru_cache(maxsize=4)
def _filters(bands: int, n_fft: int) -> Float[np.ndarray, "bands bins"]:
    """Librosa's mel filters, cached: computing them per clip would take longer than the clip's features."""
    import librosa

    return librosa.filters.mel(sr=SAMPLE_RATE, n_fft=n_fft, n_mels=bands)


def _pad_to_width(coefficients: Float[np.ndarray, "coefficients frames"]) -> Float[np.ndarray, "coefficients padded"]:
    missing = max(0, _DELTA_WIDTH - coefficients.shape[1])
    return np.pad(coefficients, ((0, 0), (0, missing)), mode="edge")


def _statistics(frames: Float[np.ndarray, "bands frames"]) -> Float[np.ndarray, " dim"]:
    return np.concatenate([frames.mean(axis=1), frames.std(axis=1)]).astype(np.float32)
