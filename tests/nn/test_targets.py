"""Log-mel targets: positions and normalisation."""

import pytest
import torch

from speechssl.nn.conv import ConvConfig
from speechssl.nn.features import Framing, log_mel
from speechssl.nn.targets import encoder_framing, normalized_log_mel, stacked_framing


@pytest.mark.parametrize("stack", [1, 2, 4])
def test_stacked_frames_are_evenly_around_the_centre_of_a_frame(stack: int) -> None:
    """A click at the centre of a frame: its stacked frames are symmetrical, and no other frame has more of it."""
    frame, samples = 7, 8000
    waveforms = torch.full((1, samples), 1e-6)
    waveforms[0, 320 * frame + 200] = 1.0
    fine = stacked_framing(Framing(), stack)
    mel = log_mel(waveforms, torch.tensor([samples]), framing=fine)[0]
    parts = mel[: stack * (len(mel) // stack)].unflatten(0, (-1, stack)).mean(dim=-1)  # frames stack
    assert int(parts.mean(dim=-1).argmax()) == frame
    torch.testing.assert_close(parts[frame], parts[frame].flip(0), rtol=1e-3, atol=1e-3)
    assert normalized_log_mel(waveforms, Framing(), stack=stack).shape == (1, 24, 80 * stack)


def test_each_band_of_a_crop_has_zero_mean_and_unit_deviation() -> None:
    torch.manual_seed(0)
    loud_and_quiet = torch.randn(2, 16000) * torch.tensor([[1.0], [1e-3]])
    found = normalized_log_mel(loud_and_quiet, Framing())
    torch.testing.assert_close(found.mean(dim=1), torch.zeros(2, 80), rtol=0, atol=1e-4)
    torch.testing.assert_close(found.std(dim=1, correction=0), torch.ones(2, 80), rtol=0, atol=1e-3)
    alone = normalized_log_mel(loud_and_quiet[1:], Framing())
    torch.testing.assert_close(found[1:], alone)


def test_digital_silence_is_zero() -> None:
    assert normalized_log_mel(torch.zeros(1, 4000), Framing()).abs().max() == 0


def test_frames_that_cannot_be_divided() -> None:
    with pytest.raises(ValueError, match="3 log-mel frames for each frame of 400 samples, one every 320"):
        stacked_framing(Framing(), 3)


def test_a_padded_encoder_has_the_frames_of_the_papers() -> None:
    slim = ConvConfig(layers=((8, 256, 40), (8, 2, 2), (8, 2, 2), (8, 2, 2)))
    assert encoder_framing(slim) == encoder_framing(ConvConfig()) == Framing()
