"""Prosody functionals: closed forms for tones, glides and silence; finite numbers for everything."""

import numpy as np
import pytest

from speechssl.nn.functionals import FEWEST, NAMES, PROSODY_DIM, STATISTICS, curve_statistics, prosody_functionals

RATE = 16000


def named(waveform):
    return dict(zip(NAMES, prosody_functionals(waveform.astype(np.float32)).tolist(), strict=True))


def glide(low, high, *, seconds=2.0, level=0.1):
    """Harmonic tone whose F0 rises evenly in octaves, with noise, so that no band is below the smallest power."""
    time = np.arange(round(seconds * RATE)) / RATE
    phase = 2 * np.pi * np.cumsum(low * (high / low) ** (time / seconds)) / RATE
    noise = 0.03 * np.random.default_rng(0).normal(size=len(time))
    return level * (sum(np.sin(k * phase) / k for k in range(1, 6)) + noise)


def test_a_glide_has_its_range_and_slope():
    found = named(glide(120, 240))
    assert found["f0 slope"] == pytest.approx(0.5, abs=0.02)  # an octave in two seconds
    assert found["f0 p50"] == pytest.approx(np.log2(120 * 2**0.5 / 100), abs=0.03)
    assert found["f0 range"] == pytest.approx(0.9, abs=0.03)
    assert found["relative f0 p95"] - found["relative f0 p5"] == pytest.approx(found["f0 range"], abs=1e-4)
    assert found["f0 movement"] == pytest.approx(0.5, abs=0.1)
    assert found["share voiced"] > 0.95


def test_louder_is_louder_and_nothing_else():
    one, ten = (named(glide(150, 200, level=level)) for level in (0.02, 0.2))
    for name in NAMES:
        moved = "energy" in name and name.split()[-1] in ("mean", "p5", "p50", "p95")
        assert ten[name] - one[name] == pytest.approx(20 if moved else 0, abs=0.02), name


def test_a_higher_voice_differs_in_absolute_pitch_only():
    low, high = named(glide(100, 150)), named(glide(200, 300))
    assert high["f0 p50"] - low["f0 p50"] == pytest.approx(1, abs=0.05)
    for name in ("f0 range", "relative f0 p5", "relative f0 p95", "f0 slope"):
        assert high[name] == pytest.approx(low[name], abs=0.05), name


def test_growing_loudness_is_a_slope():
    tone = glide(150, 151, seconds=5.0)
    found = named(tone * 10 ** (np.arange(len(tone)) / RATE * 6 / 20))  # 6 dB per second
    assert found["energy slope"] == pytest.approx(6, abs=0.2)
    assert found["voiced energy slope"] == pytest.approx(6, abs=0.2)


@pytest.mark.parametrize("samples", [400, 719, 720, 16000])
@pytest.mark.parametrize("kind", ["zeros", "noise", "constant"])
def test_every_waveform_has_finite_numbers(kind, samples):
    noise = 0.1 * np.random.default_rng(0).normal(size=samples)
    waveform = {"zeros": np.zeros(samples), "noise": noise, "constant": np.full(samples, 0.5)}[kind]
    found = prosody_functionals(waveform.astype(np.float32))
    assert found.shape == (PROSODY_DIM,)
    assert np.isfinite(found).all()
    if kind != "noise":
        assert found[NAMES.index("share voiced")] == 0


def test_a_short_clip_is_refused():
    with pytest.raises(ValueError, match=r"at least 400 samples, got shape \(399,\)"):
        prosody_functionals(np.zeros(399, dtype=np.float32))


def test_silence_around_speech_leaves_the_voiced_curves():
    tone = glide(150, 200)
    quiet = np.zeros(RATE)
    alone, within = named(tone), named(np.concatenate([quiet, tone, quiet]))
    assert within["share voiced"] == pytest.approx(0.5 * alone["share voiced"], abs=0.03)
    for name in ("f0 p50", "tilt p50", "voiced energy p50"):
        assert within[name] == pytest.approx(alone[name], abs=0.1), name
    assert within["energy mean"] < alone["energy mean"] - 20


def test_slopes_use_the_times_of_the_frames():
    times = np.array([0.0, 1.0, 5.0])  # frames between are not voiced
    found = dict(zip(STATISTICS, curve_statistics(3 * times, times), strict=True))
    assert found["slope"] == pytest.approx(3)
    assert found["movement"] == pytest.approx(3)
    single = dict(zip(STATISTICS, curve_statistics(np.array([7.0]), np.array([0.3])), strict=True))
    assert (single["mean"], single["slope"], single["movement"], single["range"]) == (7, 0, 0, 0)
    assert FEWEST >= 2
