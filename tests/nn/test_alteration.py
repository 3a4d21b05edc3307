"""Alterations of waveforms, by what they do to log-mel frames."""

import numpy as np
import pytest
import torch

from speechssl.nn.alteration import seen_samples, with_noisy_magnitudes, without_bands
from speechssl.nn.conv import ConvConfig, ConvFeatureEncoder
from speechssl.nn.features import log_mel
from speechssl.nn.targets import encoder_framing, interpolated

ROWS, SAMPLES = 3, 16000


def mel(waveforms: torch.Tensor) -> torch.Tensor:
    """Without the first and the last frames, which a filter over the whole waveform changes in a circle."""
    return log_mel(waveforms, torch.full((len(waveforms),), waveforms.shape[1]))[:, 2:-2]


def test_removed_bands_are_silent_and_others_stay() -> None:
    torch.manual_seed(0)
    waveforms = torch.randn(ROWS, SAMPLES)
    first, width = torch.tensor([0, 30, 64]), torch.tensor([0, 8, 16])
    before, after = mel(waveforms), mel(without_bands(waveforms, first, width))
    assert torch.equal(after[0], before[0])
    for row in (1, 2):
        low, high = int(first[row]), int(first[row] + width[row])
        change = (after[row] - before[row]).mean(dim=0)
        assert (change[low:high] < -2).all()  # the first and the last one have some of the window's slope
        assert (change[low + 2 : high - 2] < -8).all()
        others = torch.cat([change[: max(0, low - 2)], change[high + 2 :]])
        assert others.abs().max() < 0.3


def test_magnitudes_deviate_as_much_as_asked_for() -> None:
    torch.manual_seed(0)
    waveforms = torch.randn(ROWS, SAMPLES)
    generators = [torch.Generator().manual_seed(7) for _ in range(ROWS)]
    changed = with_noisy_magnitudes(waveforms, deviation=1.0, generators=generators)
    difference = mel(changed) - mel(waveforms)
    assert 0.5 < float(difference.std()) < 1.1
    none = with_noisy_magnitudes(waveforms, deviation=0.0, generators=generators)
    torch.testing.assert_close(none, waveforms, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "layers", [((8, 256, 40), (8, 2, 2), (8, 2, 2), (8, 2, 2)), ((8, 10, 5), (8, 8, 8), (8, 8, 8))]
)
def test_seen_samples_are_those_that_change_a_frame(layers: tuple[tuple[int, int, int], ...]) -> None:
    """By the gradient of the given frames to each sample."""
    torch.manual_seed(0)
    conv = ConvConfig(layers=layers)
    encoder = ConvFeatureEncoder(conv)
    waveforms = torch.randn(2, 4000, requires_grad=True)
    latents = encoder(waveforms)
    given = torch.from_numpy(np.random.default_rng(0).random(latents.shape[:2]) < 0.3)
    latents[given].square().sum().backward()
    assert waveforms.grad is not None
    seen = seen_samples(given, 4000, encoder_framing(conv), padding=conv.padding, field=conv.receptive_field)
    assert not (waveforms.grad.abs() > 0)[~seen].any()
    before = torch.cat([seen[:, 1:], torch.zeros(2, 1, dtype=torch.bool)], dim=1)  # one more sample, for pre-emphasis
    assert (waveforms.grad.abs() > 0)[seen & before & seen.roll(1, 1)].float().mean() > 0.99


def test_interpolation() -> None:
    rng = np.random.default_rng(0)
    frames, masked = rng.standard_normal((4, 20, 3)).astype(np.float32), rng.random((4, 20)) < 0.6
    masked[3] = True
    found = interpolated(torch.from_numpy(frames), torch.from_numpy(masked)).numpy()
    for row in range(3):
        others = np.flatnonzero(~masked[row])
        for band in range(3):
            expected = np.interp(np.arange(20), others, frames[row, others, band])
            np.testing.assert_allclose(found[row, :, band], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found[3], frames[3])
