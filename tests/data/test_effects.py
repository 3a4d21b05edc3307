"""The physical facts of each effect: levels, frequencies, times, and that a row depends on nothing but itself."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from speechssl.data.effects import add_noise, change_speed, limit_band, mix, reverberate, shift_pitch
from tests.toys import RATE, tones

SAMPLES = 2 * RATE


def voices(rows: int = 3, seconds: float = 2.0) -> Tensor:
    return torch.from_numpy(np.stack([tones(seconds, speaker=row, seed=row) for row in range(rows)]))


def tone(frequency: float, samples: int = SAMPLES) -> Tensor:
    return torch.sin(2 * torch.pi * frequency * torch.arange(samples) / RATE)


def generators(rows: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(row) for row in range(rows)]


def decibels(power: Tensor) -> Tensor:
    return 10 * torch.log10(power)


def loudest(waveform: Tensor) -> float:
    """The frequency of the highest peak of the spectrum, Hz."""
    windowed = waveform * torch.hann_window(len(waveform))
    return float(torch.fft.rfft(windowed).abs().argmax()) * RATE / len(waveform)


def lag(reference: Tensor, moved: Tensor, most: int = 400) -> int:
    """By how many samples one waveform is behind the other."""
    lags = range(-most, most + 1)
    return max(lags, key=lambda lag: float(reference[most:-most] @ moved[most + lag : len(moved) - most + lag]))


def test_noise_has_the_ratio_and_the_slope() -> None:
    clean, snr, slope = voices(), torch.tensor([0.0, 10.0, 25.0]), torch.tensor([0.0, 1.0, 0.5])
    noise = add_noise(clean, snr, slope, generators=generators(3)) - clean
    ratio = decibels(clean.square().mean(1) / noise.square().mean(1))
    torch.testing.assert_close(ratio, snr, rtol=0, atol=0.01)
    power = torch.fft.rfft(noise).abs().square()  # bins of half a hertz
    octaves = decibels(torch.stack([power[:, 2 * low : 4 * low].mean(1) for low in (500, 1000, 2000)], dim=1))
    for row, falls in enumerate(octaves.diff(dim=1) / -3.01):  # 3 dB per octave are a slope of 1
        assert falls.mean() == pytest.approx(float(slope[row]), abs=0.1)


def test_silence_stays_silent() -> None:
    silence, one = torch.zeros(1, RATE), torch.ones(1)
    assert not add_noise(silence, one, one, generators=generators(1)).any()
    assert not reverberate(silence, one, one, generators=generators(1)).any()
    assert not limit_band(silence, one * 300, one * 3400).any()
    assert not shift_pitch(silence[0], 2.0).any()
    assert torch.equal(mix(torch.ones(1, RATE), silence, one, [(0, 0, RATE)]), torch.ones(1, RATE))
    assert not mix(silence, torch.ones(1, RATE), one, [(0, 0, RATE)]).any()


def test_what_is_outside_of_the_band_is_gone() -> None:
    inside, low, high = tone(1000.0), tone(100.0), tone(6000.0)
    limited = limit_band((inside + low + high)[None], torch.tensor([300.0]), torch.tensor([3400.0]))[0]
    middle = slice(RATE // 2, -RATE // 2)
    torch.testing.assert_close(limited[middle], inside[middle], rtol=0, atol=0.015)  # neither changed nor moved
    edge = limit_band(tone(3400.0)[None], torch.zeros(1), torch.tensor([3400.0]))[0, middle]
    assert float(decibels(edge.square().mean() / 0.5)) == pytest.approx(-3.01, abs=0.05)
    same = limit_band(voices(1), torch.zeros(1), torch.full((1,), math.inf))
    torch.testing.assert_close(same, voices(1), rtol=0, atol=1e-6)


def test_a_filter_does_not_reach_around_the_ends() -> None:
    click = torch.zeros(1, SAMPLES)
    click[0, 0] = 1.0
    assert limit_band(click, torch.tensor([300.0]), torch.tensor([3400.0]))[0, -RATE // 2 :].abs().max() < 1e-4


def test_a_room_keeps_the_direct_sound_in_its_place() -> None:
    dry, decay, direct = voices(), torch.tensor([0.2, 0.5, 0.8]), torch.tensor([0.0, 5.0, 10.0])
    wet = reverberate(dry, decay, direct, generators=generators(3))
    assert wet.shape == dry.shape
    for row in range(3):
        assert lag(dry[row], wet[row]) == 0
    click = torch.zeros(3, SAMPLES)
    click[:, 100] = 1.0
    response = reverberate(click, decay, direct, generators=generators(3))
    assert response[:, :100].abs().max() < 1e-5  # nothing is heard before it is said
    torch.testing.assert_close(response[:, 100], torch.ones(3))
    assert response[:, 101:132].abs().max() < 1e-5
    late = reverberate(click.roll(-200, 1), decay, direct, generators=generators(3))  # the click is before the end
    assert late[:, :-100].abs().max() < 1e-5
    tail = response[:, 132:]
    torch.testing.assert_close(decibels(tail.square().sum(1)), -direct, rtol=0, atol=0.05)
    left = decibels(tail.square().flip(1).cumsum(1).flip(1))  # Schroeder's integral
    for row in range(3):
        start, end = (int((left[row] < left[row, 0] - fall).int().argmax()) for fall in (5, 35))
        assert (end - start) / RATE * 2 == pytest.approx(float(decay[row]), rel=0.1)


def test_another_voice_is_added_at_its_stretch_and_level() -> None:
    first, second, ratio = voices(2), voices(2).flip(0), torch.tensor([3.0, 12.0])
    mixed = mix(first, second, ratio, [(1000, 5000, 8000), (0, 0, SAMPLES)])
    added = mixed - first
    assert not added[0, :1000].any()
    assert not added[0, 9000:].any()
    gain = float(added[0, 1000:9000] @ second[0, 5000:13000] / second[0, 5000:13000].square().sum())
    torch.testing.assert_close(added[0, 1000:9000], gain * second[0, 5000:13000], rtol=0, atol=1e-5)
    assert 20 * math.log10(gain) == pytest.approx(
        float(decibels(first[0].square().mean() / second[0].square().mean())) - 3.0, abs=0.01
    )
    assert float(decibels(first[1].square().mean() / added[1].square().mean())) == pytest.approx(12.0, abs=0.01)


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_speed_moves_frequency_and_time(factor: float) -> None:
    length = round(SAMPLES * factor)
    changed = change_speed(tone(1000.0, length), SAMPLES)
    assert len(changed) == SAMPLES
    assert loudest(changed) == pytest.approx(1000.0 * factor, abs=1.0)
    click = torch.zeros(length)
    click[length // 4] = 1.0
    assert int(change_speed(click, SAMPLES).argmax()) == pytest.approx(SAMPLES / 4, abs=1)
    assert decibels(changed.square().mean() / 0.5).abs() < 0.05
    assert change_speed(changed, SAMPLES) is changed


@pytest.mark.parametrize("semitones", [-2.0, -0.5, 1.3])
def test_pitch_moves_frequency_and_keeps_times(semitones: float) -> None:
    shifted = shift_pitch(tone(1000.0), semitones)
    assert loudest(shifted) == pytest.approx(1000.0 * 2 ** (semitones / 12), rel=0.006)
    assert decibels(shifted[4000:-4000].square().mean() / 0.5).abs() < 0.5
    beats = tone(1000.0) * (1 + tone(4.0))
    envelopes = [
        torch.nn.functional.avg_pool1d(each.square()[None], 401, 1, 200)[0]
        for each in (beats, shift_pitch(beats, semitones))
    ]
    envelopes = [each - each.mean() for each in envelopes]
    assert abs(lag(envelopes[0], envelopes[1])) < RATE // 100  # within 10 ms


EFFECTS: list[Callable[[Tensor], Tensor]] = [
    lambda each: add_noise(
        each, torch.full((len(each),), 9.0), torch.ones(len(each)), generators=generators(len(each))
    ),
    lambda each: reverberate(
        each, torch.full((len(each),), 0.4), torch.zeros(len(each)), generators=generators(len(each))
    ),
    lambda each: limit_band(each, torch.full((len(each),), 300.0), torch.full((len(each),), 3400.0)),
    lambda each: mix(each, each.flip(1), torch.zeros(len(each)), [(0, 100, 900)] * len(each)),
]


@pytest.mark.parametrize("effect", EFFECTS)
def test_a_row_depends_on_itself_alone(effect: Callable[[Tensor], Tensor]) -> None:
    waveforms = voices()
    kept = waveforms.clone()
    together = effect(waveforms)
    assert torch.equal(waveforms, kept)
    assert not torch.equal(together, waveforms)
    torch.testing.assert_close(effect(waveforms[:1])[0], together[0], rtol=0, atol=1e-6)
    others = waveforms.clone()
    others[1:] = 7.0
    assert torch.equal(effect(others)[0], together[0])
