"""Augmentation: closed forms on sines, exact noise levels, lengths, and draws that depend on the generator alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from speechssl.config import UserError, load_config
from speechssl.data.augment import OFF, AugmentConfig, add_noise, augment, change_speed, shift_pitch

RATE = 16000


def _sine(pitch: float, seconds: float = 1.0) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * pitch * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)


def _pitch_of(waveform: np.ndarray) -> float:
    """Frequency of the highest peak, interpolated between bins."""
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform)), 1 << 18))
    return float(spectrum.argmax()) * RATE / (1 << 18)


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("factor", [0.9, 1.1, 1.0371])
def test_speed_moves_length_and_pitch_together(factor: float) -> None:
    changed = change_speed(_sine(440.0), factor)
    assert len(changed) == round(RATE / factor)
    assert _pitch_of(changed) == pytest.approx(440 * factor, rel=1e-3)
    middle = changed[1000:-1000]
    assert np.sqrt(np.mean(middle**2)) == pytest.approx(0.3 / np.sqrt(2), rel=0.01)


@pytest.mark.parametrize("semitones", [-4.0, -0.5, 1.0, 12.0])
@pytest.mark.parametrize("pitch", [220.0, 1000.0])
def test_pitch_leaves_the_length(pitch: float, semitones: float) -> None:
    changed = shift_pitch(_sine(pitch), semitones)
    assert len(changed) == RATE
    assert _pitch_of(changed) == pytest.approx(pitch * 2 ** (semitones / 12), rel=3e-3)
    middle = changed[2000:-2000]
    assert np.sqrt(np.mean(middle**2)) == pytest.approx(0.3 / np.sqrt(2), rel=0.05)


def test_pitch_leaves_the_time() -> None:
    """A burst stays where it is."""
    waveform = np.zeros(RATE, dtype=np.float32)
    waveform[8000:9600] = _sine(500.0, 0.1)
    changed = shift_pitch(waveform, 3.0)
    centre = np.sum(np.arange(RATE) * changed**2) / np.sum(changed**2)
    assert centre == pytest.approx(8800, abs=200)


@pytest.mark.parametrize("color", ["white", "pink"])
def test_noise_has_the_level_and_the_color(color: str) -> None:
    waveform = _sine(300.0, 2.0)
    noise = add_noise(waveform, 13.0, color=color, rng=_rng()).astype(np.float64) - waveform
    snr = 10 * np.log10(np.mean(waveform.astype(np.float64) ** 2) / np.mean(noise**2))
    assert snr == pytest.approx(13.0, abs=0.01)
    power = np.abs(np.fft.rfft(noise)) ** 2
    octaves = [power[round(f * 2) : round(f * 4)].sum() for f in (500, 1000, 2000, 4000)]
    slope = np.polyfit(np.arange(4), 10 * np.log10(octaves), 1)[0]
    assert slope == pytest.approx(3.01 if color == "white" else 0.0, abs=0.5)  # dB an octave


def test_silence_stays_silent() -> None:
    silence = np.zeros(4000, dtype=np.float32)
    assert not add_noise(silence, 0.0, color="white", rng=_rng()).any()
    everything = AugmentConfig(speed=1, pitch=1, noise=1, gain=1)
    assert not augment(silence, everything, rng=_rng()).any()


def test_gain_is_in_decibel_and_not_clipped() -> None:
    loud = AugmentConfig(speed=0, pitch=0, noise=0, gain=1, gain_db=(20.0, 20.0))
    waveform = _sine(300.0)
    np.testing.assert_allclose(augment(waveform, loud, rng=_rng()), 10 * waveform, rtol=1e-6)


def test_off_is_the_identity() -> None:
    waveform = _sine(300.0)
    assert augment(waveform, OFF, rng=_rng()) is waveform
    still = AugmentConfig(
        speed=1,
        speed_factors=(1.0, 1.0),
        pitch=1,
        pitch_semitones=(0.0, 0.0),
        noise=0,
        gain=1,
        gain_db=(0.0, 0.0),
    )
    np.testing.assert_array_equal(augment(waveform, still, rng=_rng()), waveform)


def test_it_is_a_pure_function_of_the_generator() -> None:
    waveform = _sine(300.0)
    before = waveform.copy()
    config = AugmentConfig(speed=1, pitch=1, noise=1, gain=1)
    first, again = (augment(waveform, config, rng=_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(waveform, before)
    other = augment(waveform, config, rng=_rng(4))
    assert len(first) != len(other)
    # Turning one effect off leaves the others' draws alone.
    no_gain = augment(waveform, config.model_copy(update={"gain": 0.0}), rng=_rng(3))
    ratio = first[abs(no_gain) > 0.01] / no_gain[abs(no_gain) > 0.01]
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-4)


def test_probabilities_are_kept() -> None:
    waveform = _sine(300.0, 0.05)
    config = AugmentConfig(speed=0.25, pitch=0, noise=0, gain=0)
    rng = _rng()
    changed = sum(len(augment(waveform, config, rng=rng)) != len(waveform) for _ in range(1000))
    assert changed == pytest.approx(250, abs=50)


@given(st.integers(400, 5000), st.integers(0, 2**32 - 1), st.floats(1e-4, 3.0))
def test_any_length_and_level(samples: int, seed: int, level: float) -> None:
    waveform = (level * _rng(seed).standard_normal(samples)).astype(np.float32)
    config = AugmentConfig(speed=1, pitch=1, noise=1, gain=1)
    changed = augment(waveform, config, rng=_rng(seed))
    assert changed.dtype == np.float32
    assert np.isfinite(changed).all()
    assert max(400, samples / 1.1 - 1) <= len(changed) <= samples / 0.9 + 1
    without_speed = augment(waveform, config.model_copy(update={"speed": 0.0}), rng=_rng(seed))
    assert len(without_speed) == samples


def test_settings_that_cannot_be() -> None:
    for wrong in ({"speed": 1.5}, {"speed_factors": (1.1, 0.9)}, {"speed_factors": (0.0, 1.0)}, {"noise_color": "red"}):
        with pytest.raises(ValidationError):
            AugmentConfig.model_validate(wrong)
    assert load_config(AugmentConfig, overrides=["speed_factors=[0.8, 1.2]"]).speed_factors == (0.8, 1.2)
    with pytest.raises(UserError, match="gain_db"):
        load_config(AugmentConfig, overrides=["gain_db=[6.0, -6.0]"])
