"""Fixed features against librosa called step by step, on clips of any length."""

import librosa
import numpy as np
import pytest

from speechssl.metrics import baselines


def clip(samples, seed=0):
    rng = np.random.default_rng(seed)
    time = np.arange(samples) / 16000
    return (0.1 * np.sin(2 * np.pi * 220 * time) + 0.05 * rng.normal(size=samples)).astype(np.float32)


@pytest.mark.slow
def test_mfcc_are_librosas():
    waveform = clip(16000)
    mfcc = librosa.feature.mfcc(
        y=waveform, sr=16000, n_mfcc=20, n_fft=512, win_length=400, hop_length=160, n_mels=40, pad_mode="constant"
    )
    deltas = librosa.feature.delta(mfcc, width=9, mode="nearest")
    frames = np.concatenate([mfcc, deltas])
    found = baselines.mfcc_statistics(waveform)
    # librosa.feature.mfcc clips at 80 dB below the peak by default; this clip never gets there.
    np.testing.assert_allclose(found, np.concatenate([frames.mean(1), frames.std(1)]), atol=1e-3)


def test_logmel_are_librosas():
    waveform = clip(16000)
    mel = librosa.feature.melspectrogram(
        y=waveform, sr=16000, n_fft=1024, win_length=400, hop_length=160, n_mels=80, pad_mode="constant"
    )
    frames = np.log(mel)
    np.testing.assert_allclose(
        baselines.logmel_statistics(waveform), np.concatenate([frames.mean(1), frames.std(1)]), atol=1e-4
    )


@pytest.mark.parametrize("statistics", [baselines.mfcc_statistics, baselines.logmel_statistics])
@pytest.mark.parametrize("samples", [400, 401, 559, 560, 1000, 1439, 1440, 16000])
def test_every_length_from_the_receptive_field_on(statistics, samples):
    found = statistics(clip(samples))
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    assert found.shape == (baselines.MFCC_DIM if statistics is baselines.mfcc_statistics else baselines.LOGMEL_DIM,)


@pytest.mark.parametrize("statistics", [baselines.mfcc_statistics, baselines.logmel_statistics])
def test_silence_and_shorter_clips(statistics):
    assert np.isfinite(statistics(np.zeros(1600, dtype=np.float32))).all()
    with pytest.raises(ValueError, match="at least 400 samples"):
        statistics(clip(399))


def test_no_mel_filter_is_empty():
    """An empty filter would be a constant dimension."""
    for bands, n_fft in ((baselines.MEL_BANDS, baselines.N_FFT), (baselines.LOGMEL_BANDS, 2 * baselines.N_FFT)):
        assert (librosa.filters.mel(sr=16000, n_fft=n_fft, n_mels=bands).max(axis=1) > 0).all()


def test_louder_moves_the_level_alone():
    quiet, loud = baselines.logmel_statistics(clip(16000)), baselines.logmel_statistics(clip(16000) * 10)
    np.testing.assert_allclose(loud[:80] - quiet[:80], np.log(100), atol=1e-3)
    np.testing.assert_allclose(loud[80:], quiet[80:], atol=1e-3)
