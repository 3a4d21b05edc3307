"""Log-mel, MFCC, deltas and prosody against librosa and closed forms; padding and batches never matter."""

import math
from collections.abc import Callable

import librosa
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from speechssl.nn import features
from speechssl.nn.conv import PAPER_LAYERS, ConvConfig, ConvFeatureEncoder
from speechssl.nn.features import Framing, MelConfig, delta, log_mel, mel_power, mfcc, pitch, prosody
from speechssl.nn.yin import PitchConfig, _normalised_difference
from tests.toys import tones

pytestmark = pytest.mark.usefixtures("two_threads_throughout")

RATE = 16000
LIBROSA = Framing(hop=160, field=0)  # librosa's center=True
DB = 10 / math.log(10)


def batch_of(waveform: np.ndarray) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(waveform)[None], torch.tensor([len(waveform)])


@pytest.fixture(scope="module")
def voice() -> np.ndarray:
    return tones(1.5, speaker=1)


def librosa_mel(waveform: np.ndarray, config: MelConfig, hop: int, *, center: bool) -> np.ndarray:
    return librosa.feature.melspectrogram(
        y=waveform,
        sr=RATE,
        n_fft=config.n_fft,
        win_length=config.window,
        hop_length=hop,
        n_mels=config.bands,
        fmin=config.low,
        fmax=config.high,
        center=center,
    ).T


def harmonic(frequency: np.ndarray, *, harmonics: int = 8) -> np.ndarray:
    """A tone with harmonics whose frequency at each sample is given."""
    phase = 2 * np.pi * np.cumsum(frequency) / RATE
    return (0.1 * sum(np.sin(k * phase) / k for k in range(1, harmonics + 1))).astype(np.float32)


def glide(start: float, end: float, seconds: float = 0.8) -> np.ndarray:
    """The frequency at each sample of a tone that goes evenly, in octaves, from one to the other."""
    times = np.arange(round(seconds * RATE)) / RATE
    return start * (end / start) ** (times / seconds)


# Frames


@given(st.integers(0, 5000))
def test_frames_are_counted_as_the_encoder_counts(samples: int) -> None:
    config = ConvConfig(layers=tuple((1, kernel, stride) for _, kernel, stride in PAPER_LAYERS))
    assert (config.hop, config.receptive_field) == (Framing().hop, Framing().field)
    count = torch.tensor(samples)
    assert Framing().num_frames(count) == ConvFeatureEncoder(config).num_frames(count)
    assert int(LIBROSA.num_frames(count)) == 1 + samples // 160


@pytest.mark.parametrize("frame", [0, 3, 8])
def test_a_frame_is_centred_between_the_samples_of_its_field(frame: int) -> None:
    """A click there has the same energy in mirrored neighbours, and the most in its own frame."""
    waveform = torch.zeros(1, 3600)
    waveform[0, 320 * frame + 200] = 1.0
    power = mel_power(waveform, torch.tensor([3600])).sum(dim=-1)[0]
    assert power.shape == (11,)
    assert int(power.argmax()) == frame
    assert int((power > 0).sum()) == 1  # windows of 25 ms around multiples of 20 ms share 5 ms at their edges


# Against librosa

MELS = [
    MelConfig(),
    MelConfig(bands=40),
    MelConfig(n_fft=1024),
    MelConfig(bands=64, n_fft=1024, window=1024, low=60, high=7800),
]


@pytest.mark.parametrize("config", MELS)
def test_mel_spectrum_equals_librosa(config: MelConfig, voice: np.ndarray) -> None:
    ours = mel_power(*batch_of(voice), config=config, framing=LIBROSA)[0].numpy()
    theirs = librosa_mel(voice, config, 160, center=True)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= 1e-5 * theirs.max()
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-6 * theirs.max())
    decibels = DB * log_mel(*batch_of(voice), config=config, framing=LIBROSA)[0].numpy()
    np.testing.assert_allclose(decibels, librosa.power_to_db(theirs, top_db=None), atol=1e-3)


@pytest.mark.parametrize(("hop", "field"), [(320, 400), (160, 400), (200, 1400), (320, 0)])
def test_frames_of_any_field_are_librosas_of_a_shifted_waveform(hop: int, field: int, voice: np.ndarray) -> None:
    ours = mel_power(*batch_of(voice), framing=Framing(hop=hop, field=field))[0].numpy()
    before = 256 - field // 2  # samples of the first transform before the utterance
    shifted = np.pad(voice[max(0, -before) :], (max(0, before), 1024))
    theirs = librosa_mel(shifted, MelConfig(), hop, center=False)
    assert len(ours) == (len(voice) - field) // hop + 1
    np.testing.assert_allclose(ours, theirs[: len(ours)], rtol=1e-3, atol=1e-6 * theirs.max())


def test_mfcc_and_deltas_equal_librosa(voice: np.ndarray) -> None:
    config = MelConfig(bands=40)
    ours = mfcc(*batch_of(voice), coefficients=13, deltas=2, config=config, framing=LIBROSA)[0].numpy().T
    levels = librosa.power_to_db(librosa_mel(voice, config, 160, center=True).T, top_db=None)
    cepstra = librosa.feature.mfcc(S=levels, n_mfcc=13)
    np.testing.assert_allclose(ours[:13], cepstra, atol=2e-3)
    for order in (1, 2):
        theirs = librosa.feature.delta(cepstra, order=order, mode="nearest")
        np.testing.assert_allclose(ours[13 * order : 13 * (order + 1)], theirs, atol=2e-3)


@pytest.mark.parametrize(("width", "order"), [(3, 1), (9, 1), (9, 2), (5, 3)])
def test_delta_equals_librosa_at_the_end_of_each_row(width: int, order: int) -> None:
    frames, lengths = torch.randn(4, 20, 3), [20, 13, 9, 2]
    ours = delta(frames, torch.tensor(lengths), width=width, order=order)
    for row, length in enumerate(lengths):
        padded = np.pad(frames[row, :length].numpy(), ((0, max(0, width - length)), (0, 0)), mode="edge")
        theirs = librosa.feature.delta(padded, width=width, order=order, axis=0, mode="nearest")[:length]
        np.testing.assert_allclose(ours[row, :length].numpy(), theirs, atol=1e-5)
        assert not ours[row, length:].any()


@pytest.mark.parametrize("hop", [160, 320])
def test_energy_equals_librosa(hop: int, voice: np.ndarray) -> None:
    framing = Framing(hop=hop, field=0)
    ours = prosody(*batch_of(voice), framing=framing).energy[0].numpy()
    rms = librosa.feature.rms(y=voice, frame_length=400, hop_length=hop, center=True)[0]
    np.testing.assert_allclose(ours, 20 * np.log10(np.maximum(rms, 1e-5)), atol=1e-3)


def test_level_moves_energy_and_log_mel_alone(voice: np.ndarray) -> None:
    """Half the amplitude is 6.02 dB less; pitch, voicing and tilt stay."""
    loud, quiet = prosody(*batch_of(voice)), prosody(*batch_of(voice / 2))
    torch.testing.assert_close(loud.energy - quiet.energy, torch.full_like(loud.energy, 20 * math.log10(2)))
    torch.testing.assert_close(loud.f0, quiet.f0)
    torch.testing.assert_close(loud.voicing, quiet.voicing)
    torch.testing.assert_close(loud.tilt, quiet.tilt, rtol=0, atol=0.05)


# Pitch


@pytest.mark.parametrize(
    "config", [PitchConfig(frame=1024, window=1024), PitchConfig(frame=2048, window=2048, low=65, high=1000)]
)
def test_pitch_equals_librosa_with_its_window(config: PitchConfig, voice: np.ndarray) -> None:
    waveform = np.concatenate([voice, harmonic(glide(100, 300)), 0.01 * np.random.default_rng(0).standard_normal(4000)])
    waveform = waveform.astype(np.float32)
    ours = pitch(*batch_of(waveform), config=config, framing=LIBROSA).f0[0].numpy()
    theirs = librosa.yin(
        waveform, fmin=config.low, fmax=config.high, sr=RATE, frame_length=config.frame, hop_length=160
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)


@pytest.mark.parametrize(("start", "end"), [(70, 70), (220, 220), (480, 400), (80, 120), (100, 300), (300, 90)])
@pytest.mark.parametrize("harmonics", [1, 10])
def test_pitch_of_tones_and_glides(start: float, end: float, harmonics: int) -> None:
    """Steady tones to 0.05 %; glides of up to two octaves a second to 1.5 %, since frames see 50 ms."""
    frequency = glide(start, end)
    found = pitch(*batch_of(harmonic(frequency, harmonics=harmonics)))
    inside = slice(1, -1)  # the first and the last frame see the silence around the tone
    truth = frequency[320 * np.arange(found.f0.shape[1]) + 200]
    error = np.abs(found.f0[0].numpy() / truth - 1)[inside]
    assert error.max() < (5e-4 if start == end else 0.015)
    assert float(found.voicing[0, inside].min()) > 0.95


def test_pitch_is_near_that_of_pyin() -> None:
    """Within 2 %: pyin's bins are 0.6 % wide, and it sees 64 ms."""
    waveform = harmonic(glide(110, 200))
    theirs, _, _ = librosa.pyin(
        waveform, fmin=60, fmax=500, sr=RATE, frame_length=1024, hop_length=320, center=True, fill_na=None
    )
    ours = pitch(*batch_of(waveform), framing=Framing(hop=320, field=0)).f0[0].numpy()
    np.testing.assert_allclose(ours[2:-2], theirs[2:-2], rtol=0.02)


def test_voicing_tells_voices_from_noise_and_silence() -> None:
    noise = 0.1 * torch.randn(16000)
    rows = torch.stack([torch.from_numpy(harmonic(glide(120, 150, 1.0))), noise, torch.zeros(16000), torch.ones(16000)])
    voicing = prosody(rows, torch.full((4,), 16000)).voicing[:, 1:-1]
    assert voicing[0].min() > 0.98
    assert voicing[1].max() < 0.3
    assert not voicing[2:].any()
    mixed = pitch((rows[0] + 0.2 * noise)[None], torch.tensor([16000])).voicing[0, 1:-1]
    assert 0.3 < float(mixed.mean()) < 0.99


def test_normalised_difference_equals_a_loop() -> None:
    """The paper's equations 6 and 8 on one frame."""
    config = PitchConfig(low=400, high=2000, frame=100)
    frame = torch.randn(100).double()
    longest, window = 40, 60
    assert (config.longest, config.compared) == (longest, window)
    difference = [sum(float(frame[j] - frame[j + k]) ** 2 for j in range(window)) for k in range(longest + 1)]
    expected = [difference[k] * k / sum(difference[1 : k + 1]) for k in range(8, longest + 1)]
    got = _normalised_difference(frame.float().view(1, 1, -1), config)[0, 0]
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-4)


@pytest.mark.parametrize("slope", [0.0, -6.0, -12.0])
def test_tilt_of_coloured_noise(slope: float) -> None:
    """Noise whose power falls by so many dB an octave."""
    rng = np.random.default_rng(0)
    spectrum = np.fft.rfft(rng.standard_normal(1 << 17))
    octaves = np.log2(np.maximum(np.arange(len(spectrum)) * RATE / (1 << 17), 20))
    noise = np.fft.irfft(spectrum * 10 ** (slope * (octaves - 10) / 20)).astype(np.float32)
    tilt = prosody(*batch_of(0.1 * noise / np.abs(noise).max())).tilt
    assert float(tilt.mean()) == pytest.approx(slope, abs=0.4)


# Padding, types, edges

FEATURES: dict[str, Callable[[Tensor, Tensor], list[Tensor]]] = {
    "mel_power": lambda x, n: [mel_power(x, n)],
    "log_mel": lambda x, n: [log_mel(x, n)],
    "mfcc": lambda x, n: [mfcc(x, n)],
    "pitch": lambda x, n: list(vars(pitch(x, n)).values()),
    "prosody": lambda x, n: list(vars(prosody(x, n)).values()),
}


@pytest.mark.parametrize("rubbish", [0.0, 0.7, math.nan, math.inf])
@pytest.mark.parametrize("name", FEATURES)
def test_an_utterance_has_the_same_features_alone_and_in_any_batch(name: str, rubbish: float) -> None:
    lengths = [8000, 399, 400, 3333, 7999]
    waveforms = [torch.from_numpy(tones(0.5, seed=row))[:length] for row, length in enumerate(lengths)]
    batch = torch.full((len(lengths), 8000), rubbish)
    for row, waveform in zip(batch, waveforms, strict=True):
        row[: len(waveform)] = waveform
    together = FEATURES[name](batch, torch.tensor(lengths))
    for row, waveform in enumerate(waveforms):
        count = int(Framing().num_frames(torch.tensor(len(waveform))))
        for ours, alone in zip(together, FEATURES[name](waveform[None], torch.tensor([len(waveform)])), strict=True):
            assert alone.shape[1] == count
            assert not ours[row, count:].any()
            torch.testing.assert_close(ours[row, :count], alone[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", FEATURES)
def test_fp32_whatever_comes_in(name: str, voice: np.ndarray) -> None:
    waveforms, lengths = batch_of(voice)
    expected = FEATURES[name](waveforms.bfloat16().float(), lengths)
    with torch.autocast("cpu", torch.bfloat16):
        got = FEATURES[name](waveforms.bfloat16(), lengths)
    for ours, theirs in zip(got, expected, strict=True):
        assert ours.dtype == torch.float32
        assert torch.equal(ours, theirs)


def test_pitch_in_blocks_equals_all_at_once(monkeypatch: pytest.MonkeyPatch, voice: np.ndarray) -> None:
    waveforms, lengths = torch.from_numpy(np.stack([voice, voice[::-1].copy()])), torch.full((2,), len(voice))
    whole = pitch(waveforms, lengths)
    monkeypatch.setattr(features, "_BLOCK_CPU", 14)
    parts = pitch(waveforms, lengths)
    torch.testing.assert_close(parts.f0, whole.f0)
    torch.testing.assert_close(parts.voicing, whole.voicing)


def test_gradients_after_a_first_use_in_inference_mode(voice: np.ndarray) -> None:
    """Cached filters must not be inference tensors."""
    config = MelConfig(bands=31)
    waveforms, lengths = batch_of(voice[:4000])
    with torch.inference_mode():
        mfcc(waveforms, lengths, config=config)
    waveforms.requires_grad_()
    mfcc(waveforms, lengths, config=config).square().sum().backward()
    assert waveforms.grad is not None
    assert waveforms.grad.isfinite().all()
    assert waveforms.grad.any()


def test_silence_is_at_the_floor() -> None:
    found = prosody(torch.zeros(1, 1000), torch.tensor([1000]))
    torch.testing.assert_close(found.energy, torch.full((1, 2), -100.0))
    torch.testing.assert_close(found.tilt, torch.zeros(1, 2), rtol=0, atol=1e-4)
    assert found.f0.isfinite().all()


def test_nan_in_an_utterance_stays_visible() -> None:
    """Not an index error, which on a GPU would end the process."""
    waveform = torch.from_numpy(tones(0.2))[None]
    waveform[0, 500] = math.nan
    found = prosody(waveform, torch.tensor([3200]))
    for each in (found.voicing, found.energy, found.tilt):
        assert each[0, 1].isnan()
        assert each[0, -1].isfinite()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: mel_power(torch.zeros(1, 800), torch.tensor([800]), config=MelConfig(bands=300)), "some are empty"),
        (lambda: mfcc(torch.zeros(1, 800), torch.tensor([800]), coefficients=81), "1 to the number of bands"),
        (lambda: MelConfig(window=600, n_fft=512), "longer than the transform"),
        (lambda: MelConfig(low=4000, high=4000), "low must be below high"),
        (lambda: PitchConfig(frame=266), "longer than the longest period"),
        (lambda: PitchConfig(frame=800, window=801), "not shorter than its window"),
        (lambda: Framing(field=401), "multiple of 2"),
        (lambda: delta(torch.zeros(1, 9, 1), torch.tensor([9]), width=4), "odd widths"),
        (lambda: delta(torch.zeros(1, 9, 1), torch.tensor([9]), width=3, order=3), "orders from 1"),
        (lambda: features.yin(torch.zeros(1, 1, 400)), "800 are needed"),
    ],
)
def test_what_is_refused(make: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
