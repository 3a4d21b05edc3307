"""The log-mel CNN: padding never counts, librosa agrees on the bands, loudness and pitch can be learned."""

import librosa
import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional as F

from speechssl.models.logmel_cnn import BANDS, LogMelCNN, LogMelCNNConfig, scaled_log_mel

SMALL = LogMelCNNConfig(channels=(8, 8, 8), dropout=0.0)


def _tones(pitches: list[float], levels: list[float], *, samples: int = 6400) -> torch.Tensor:
    times = torch.arange(samples) / 16000
    noise = 1e-3 * torch.randn(len(pitches), samples)
    tones = torch.sin(2 * torch.pi * torch.tensor(pitches)[:, None] * times)
    return torch.tensor(levels)[:, None] * tones + noise


def test_the_size_that_the_head_says() -> None:
    model = LogMelCNN(4, LogMelCNNConfig())
    assert 0.2e6 < sum(parameter.numel() for parameter in model.parameters()) < 0.4e6
    assert "mel" not in model.state_dict()


def test_bands_are_those_of_librosa() -> None:
    waveform = torch.randn(8000) * 0.1
    ours = scaled_log_mel(waveform[None], torch.tensor([8000]))[0]
    # Their frames start 56 samples earlier, where ours has padded the 400-sample window to 512 points.
    padded = np.pad(waveform.numpy(), 56)
    spectrum = librosa.stft(padded, n_fft=512, win_length=400, hop_length=160, center=False)
    bands = librosa.filters.mel(sr=16000, n_fft=512, n_mels=BANDS) @ np.abs(spectrum) ** 2
    np.testing.assert_allclose(ours.numpy(), (np.log(bands.T + 1e-8) + 10) / 4, atol=1e-4)
    assert len(ours) == (8000 - 400) // 160 + 1


@pytest.mark.parametrize("samples", [400, 559, 560, 1200, 5000, 7999])
def test_an_utterance_gives_the_same_alone_and_in_a_batch(samples: int) -> None:
    model = LogMelCNN(3, LogMelCNNConfig(channels=(8, 16, 16, 16))).eval()
    with torch.no_grad():
        for block in model.blocks:  # norms that do not leave zero at zero
            block.norm.bias.normal_()
        model.shift.normal_()
        waveform = 0.1 * torch.randn(1, samples)
        alone = model(waveform, torch.tensor([samples]))
        batch = torch.cat([F.pad(waveform, (0, 8000 - samples), value=0.7), 0.1 * torch.randn(1, 8000)])
        together = model(batch, torch.tensor([samples, 8000]))
    torch.testing.assert_close(together[:1], alone, atol=1e-5, rtol=0)


def test_padding_has_no_gradient() -> None:
    model = LogMelCNN(3, SMALL)
    waveforms = (0.1 * torch.randn(2, 4000)).requires_grad_()
    model(waveforms, torch.tensor([2000, 4000])).sum().backward()
    assert waveforms.grad is not None
    assert waveforms.grad[0, 2000:].abs().max() == 0
    assert waveforms.grad[0, :1900].abs().max() > 0


def test_silence_is_finite() -> None:
    model = LogMelCNN(3, SMALL)
    logits = model(torch.zeros(2, 1600), torch.tensor([1600, 400]))
    logits.sum().backward()
    assert torch.isfinite(logits).all()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_it_learns_pitch_and_loudness() -> None:
    pitches = [300.0, 320.0, 2000.0, 2100.0] * 2
    levels = [0.02] * 4 + [0.4] * 4
    labels = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])  # four classes: low or high, soft or loud
    waveforms, lengths = _tones(pitches, levels), torch.full((8,), 6400)
    model = LogMelCNN(4, SMALL)
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(60):
        loss = F.cross_entropy(model(waveforms, lengths), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.05
    fresh = _tones([310.0, 2050.0, 310.0, 2050.0], [0.025, 0.025, 0.35, 0.35])
    assert model(fresh, torch.full((4,), 6400)).argmax(dim=1).tolist() == [0, 1, 2, 3]


def test_bf16_autocast_keeps_the_bands_in_fp32() -> None:
    model = LogMelCNN(3, SMALL).eval()
    waveforms, lengths = 0.1 * torch.randn(2, 4000), torch.tensor([4000, 2500])
    with torch.no_grad():
        expected = model(waveforms, lengths)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = model(waveforms, lengths)
    torch.testing.assert_close(got.float(), expected, atol=0.05, rtol=0.05)


def test_impossible_shapes_are_refused() -> None:
    for channels in ((), (8,) * 7, (0,)):
        with pytest.raises(ValidationError):
            LogMelCNNConfig(channels=channels)
