"""What is hidden is hidden: nothing of a hidden frame reaches any frame of the context."""

import pytest
import torch

from speechssl.config import UserError, load_config
from speechssl.models.encoder import SpeechEncoder
from speechssl.models.masked import decoded_context, masked_context
from speechssl.nn.decoder import ConvDecoder, DecoderConfig
from speechssl.nn.squeeze import repeated
from speechssl.nn.transformer import PositionalConvolution
from speechssl.objectives import OBJECTIVES, load_objective
from speechssl.train.pretrain_config import config_of, runs
from tests.toys import MICRO_ENCODER, changed

DECODING = [name for name in OBJECTIVES if {"mask", "decoder"} <= set(load_objective(name).Config.model_fields)]


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


def squeezed_encoder() -> SpeechEncoder:
    torch.manual_seed(0)
    encoder = SpeechEncoder(changed(MICRO_ENCODER, squeeze_factor=2)).eval()
    assert encoder.squeeze is not None
    torch.nn.init.normal_(encoder.squeeze.merge.weight, std=0.1)
    return encoder


def test_half_of_a_hidden_pair_reaches_nothing() -> None:
    squeezed = squeezed_encoder()
    latents, hidden = torch.randn(2, 21, MICRO_ENCODER.conv.dim), torch.zeros(2, 21, dtype=torch.bool)
    hidden[0, 3:8] = hidden[1, 11:] = True  # both begin in the middle of a pair
    embedding = torch.randn(MICRO_ENCODER.dim)
    noise = torch.where(hidden.unsqueeze(-1), torch.randn_like(latents), latents)
    expected, got = (masked_context(squeezed, each, embedding, hidden).frames for each in (latents, noise))
    assert torch.equal(got, expected)


def drawn(squeezed: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents of 21 frames, and masks of 8 of them in two rows."""
    hidden = torch.zeros(2, 21, dtype=torch.bool)
    first = 4 if squeezed else 3
    hidden[0, first : first + 8] = hidden[1, :2] = hidden[1, 12:18] = True
    return torch.randn(2, 21, MICRO_ENCODER.conv.dim), hidden


@pytest.mark.parametrize("squeezed", [False, True])
def test_unmasked_frames_alone_equal_attention_without_hidden_keys(squeezed: bool) -> None:
    """The plain path over the whole sequence, where no frame attends to a hidden one."""
    encoder = squeezed_encoder() if squeezed else SpeechEncoder(MICRO_ENCODER).eval()
    latents, hidden = drawn(squeezed)
    embedding, decoder = torch.randn(MICRO_ENCODER.dim), ConvDecoder(MICRO_ENCODER.dim, DecoderConfig(layers=1))
    with torch.no_grad():
        found = decoded_context(encoder, latents, embedding, hidden, decoder)
        x = torch.where(hidden.unsqueeze(-1), embedding, encoder.project(latents))
        seen = ~hidden
        if encoder.squeeze is not None:
            x, seen = encoder.squeeze(x, None), seen[:, ::2]
        transformer = encoder.transformer
        assert isinstance(transformer.positions, PositionalConvolution)
        x = x + transformer.positions(x)
        for layer in transformer.layers:
            x = layer(x, seen[:, None, None, :])
        x = torch.where(seen.unsqueeze(-1), transformer.norm(x), decoder.mask_embedding)
        expected = decoder(repeated(x, 21) if squeezed else x)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_nothing_hidden_equals_the_plain_context(encoder: SpeechEncoder) -> None:
    latents, embedding = torch.randn(2, 20, MICRO_ENCODER.conv.dim), torch.randn(MICRO_ENCODER.dim)
    nothing = torch.zeros(2, 20, dtype=torch.bool)
    decoder = ConvDecoder(MICRO_ENCODER.dim, DecoderConfig(layers=1))
    plain = masked_context(encoder, latents, embedding, nothing).frames
    assert torch.equal(decoded_context(encoder, latents, embedding, nothing, decoder), decoder(plain))


def test_masks_that_cannot_be_dropped(encoder: SpeechEncoder) -> None:
    latents, hidden = drawn(squeezed=False)
    embedding, decoder = torch.randn(MICRO_ENCODER.dim), ConvDecoder(MICRO_ENCODER.dim, DecoderConfig())
    with pytest.raises(ValueError, match="a pair of frames is hidden in part"):
        decoded_context(squeezed_encoder(), latents, embedding, hidden, decoder)
    hidden[0] = False
    with pytest.raises(ValueError, match="13 to 21 unmasked frames per row"):
        decoded_context(encoder, latents, embedding, hidden, decoder)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["encoder.squeeze_factor=2", "objective.mask.length=5"], r"objective\.mask\.length=5 .*choose an even length"),
        (
            ["objective.mask.drop=false", "objective.decoder.layers=2"],
            r"objective\.decoder is used with objective\.mask\.drop=true only",
        ),
        (
            ["objective.mask.drop=true", "encoder.transformer.relative_buckets=32"],
            r"cannot be combined with encoder\.transformer\.relative_buckets",
        ),
        (
            ["objective.mask.drop=true", "objective.decoder.groups=5"],
            r"decoder\.groups=5 does not divide encoder\.transformer\.dim=192",
        ),
        (["encoder.squeeze_factor=3"], r"squeeze_factor.*given 3, allowed: 1 or 2"),
        (
            ["encoder.squeeze_factor=2", "encoder.transformer.causal=true", "encoder.normalize=false"],
            r"causal needs squeeze_factor=1",
        ),
    ],
)
@pytest.mark.parametrize("objective", DECODING)
def test_settings_that_contradict_each_other(objective: str, overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config(config_of(objective), overrides=overrides, defaults=runs(objective)["tiny"])
