"""What is hidden is hidden: nothing of a hidden frame reaches any frame of the context."""

import pytest
import torch

from speechssl.models.encoder import SpeechEncoder
from speechssl.models.masked import masked_context
from tests.toys import MICRO_ENCODER


@pytest.fixture(scope="module")
def encoder() -> SpeechEncoder:
    torch.manual_seed(0)
    return SpeechEncoder(MICRO_ENCODER).eval()


def test_hidden_frames_reach_nothing(encoder: SpeechEncoder) -> None:
    latents = torch.randn(2, 20, MICRO_ENCODER.conv.dim)
    hidden = torch.zeros(2, 20, dtype=torch.bool)
    hidden[0, 3:8] = hidden[1, 10:] = True
    embedding = torch.randn(MICRO_ENCODER.dim)
    expected = masked_context(encoder, latents, embedding, hidden, all_layers=True)
    noise = torch.where(hidden.unsqueeze(-1), torch.randn_like(latents), latents)
    got = masked_context(encoder, noise, embedding, hidden, all_layers=True)
    assert torch.equal(got.frames, expected.frames)
    seen = latents.clone()
    seen[0, 2] += 1
    assert not torch.equal(masked_context(encoder, seen, embedding, hidden).frames, expected.frames)
    assert expected.hidden_states is not None
    assert len(expected.hidden_states) == MICRO_ENCODER.transformer.layers + 1


def test_hidden_channels_and_padding(encoder: SpeechEncoder) -> None:
    latents = torch.randn(2, 20, MICRO_ENCODER.conv.dim)
    nothing = torch.zeros(2, 20, dtype=torch.bool)
    embedding, counts = torch.randn(MICRO_ENCODER.dim), torch.tensor([20, 12])
    plain = encoder.contextualize(encoder.project(latents), counts).frames
    assert torch.equal(masked_context(encoder, latents, embedding, nothing, num_frames=counts).frames, plain)
    channels = torch.zeros(2, MICRO_ENCODER.dim, dtype=torch.bool)
    channels[0, :4] = True
    without = masked_context(encoder, latents, embedding, nothing, channels=channels, num_frames=counts).frames
    projected = encoder.project(latents).clone()
    projected[0, :, :4] = 0
    assert torch.equal(without, encoder.contextualize(projected, counts).frames)
    assert torch.equal(without[1], plain[1])
