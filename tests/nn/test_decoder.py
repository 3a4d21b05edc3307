"""The decoder of masked frames: where frames are put, and which of them a frame depends on."""

import pytest
import torch
import torch.nn.functional as F

from speechssl.nn.decoder import ConvDecoder, DecoderConfig, decoder_shapes

CONFIG = DecoderConfig(layers=2, kernel=3, groups=4)


def test_every_frame_is_in_its_place() -> None:
    decoder = ConvDecoder(8, CONFIG)
    encoded, kept = torch.randn(2, 3, 8), torch.tensor([[0, 1, 4], [2, 3, 5]])
    filled = decoder.fill(encoded, kept, 6)
    for row in range(2):
        for frame in range(6):
            where = (kept[row] == frame).nonzero().flatten().tolist()
            assert torch.equal(filled[row, frame], encoded[row, where[0]] if where else decoder.mask_embedding)


@pytest.mark.parametrize("kernel", [3, 4])
def test_layers_are_convolution_norm_gelu_residual(kernel: int) -> None:
    torch.manual_seed(0)
    decoder, x = ConvDecoder(8, CONFIG.model_copy(update={"kernel": kernel})), torch.randn(2, 9, 8)
    expected = x
    for conv in decoder.layers:
        assert isinstance(conv, torch.nn.Conv1d)
        y = F.conv1d(expected.transpose(1, 2), conv.weight, conv.bias, padding=kernel // 2, groups=4)
        expected = expected + F.gelu(F.layer_norm(y.transpose(1, 2)[:, :9], (8,)))
    torch.testing.assert_close(decoder(x), expected, rtol=1e-5, atol=1e-5)


def test_a_frame_depends_on_its_neighbours_alone() -> None:
    decoder = ConvDecoder(8, CONFIG)
    x = torch.randn(1, 11, 8, requires_grad=True)
    decoder(x)[0, 5].square().sum().backward()
    assert x.grad is not None
    reached = x.grad[0].abs().sum(dim=1).nonzero().flatten().tolist()
    assert reached == [3, 4, 5, 6, 7]  # two layers of three taps


def test_shapes_are_those_of_the_decoder() -> None:
    state = {f"decoder.{name}": tuple(value.shape) for name, value in ConvDecoder(8, CONFIG).state_dict().items()}
    assert decoder_shapes(8, CONFIG).items() <= state.items()
    assert decoder_shapes(8, None) == {}
    with pytest.raises(ValueError, match="groups=4 does not divide the encoder's 6 channels"):
        ConvDecoder(6, CONFIG)
