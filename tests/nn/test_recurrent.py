"""Recurrent blocks of the context network: against loops, what they cannot see, and the encoder with them."""

import pytest
import torch
from torch import nn

from speechssl.inference.packing import packed
from speechssl.models.shapes import encoder_shapes
from speechssl.nn.pooling import valid_frames
from speechssl.nn.recurrent import RecurrentLayer
from speechssl.nn.transformer import Transformer, TransformerConfig
from tests.objectives.causal import causal_encoder

KINDS = ("gru", "lstm")
SMALL = TransformerConfig(
    dim=24, layers=2, heads=3, feedforward=40, position_kernel=6, position_groups=4, layer_drop=0.0, causal=True
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pre_norm", [True, False])
@torch.no_grad()
def test_a_block_equals_a_loop_over_frames(kind: str, pre_norm: bool) -> None:
    layer = RecurrentLayer(kind, 6, pre_norm=pre_norm).eval()  # pyright: ignore[reportArgumentType] -- one of KINDS
    cell = {"gru": nn.GRUCell, "lstm": nn.LSTMCell}[kind](6, 6)
    cell.load_state_dict({name.removesuffix("_l0"): each for name, each in layer.recurrent.state_dict().items()})
    x, state = torch.randn(1, 7, 6), None
    for frame in range(7):
        given = layer.norm(x[:, frame]) if pre_norm else x[:, frame]
        state = cell(given, state)
        y = x[:, frame] + (state[0] if isinstance(state, tuple) else state)
        torch.testing.assert_close(layer(x, None)[:, frame], y if pre_norm else layer.norm(y))


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_recurrent_network_sees_neither_later_frames_nor_padding(kind: str) -> None:
    network = Transformer(SMALL.model_copy(update={"block": kind})).eval()
    x, noise = torch.randn(2, 12, 24), torch.randn(2, 12, 24)
    expected = network(x, None, all_layers=True).hidden_states
    got = network(torch.cat([x[:, :5], noise[:, 5:]], dim=1), None, all_layers=True).hidden_states
    padded = network(x, valid_frames(torch.tensor([12, 5]), 12), all_layers=True).hidden_states
    assert expected is not None
    assert got is not None
    assert padded is not None
    for before, after, cut in zip(expected, got, padded, strict=True):
        torch.testing.assert_close(after[:, :5], before[:, :5])
        torch.testing.assert_close(cut[1, :5], before[1, :5])
    assert (got[-1][:, 5:] - expected[-1][:, 5:]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_an_encoder_of_recurrent_blocks(kind: str) -> None:
    """Every parameter has a gradient, the shapes are known before it is built, and inference gives the same."""
    encoder = causal_encoder(block=kind)
    x = 0.05 * torch.randn(2, 8000)
    encoder(x).frames.square().sum().backward()
    assert [name for name, each in encoder.named_parameters() if each.grad is None] == []
    shapes = {name: tuple(each.shape) for name, each in encoder.state_dict().items()}
    assert encoder_shapes(encoder.config) == shapes
    encoder.eval()
    with torch.no_grad():
        for dtype, tolerance in (("float32", 1e-4), ("bfloat16", 0.1), ("int8", 0.2)):
            own = packed(encoder, dtype=dtype)  # pyright: ignore[reportArgumentType] -- one of DType
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
                assert (own(x).frames.float() - encoder(x).frames).abs().mean() < tolerance


def test_settings() -> None:
    with pytest.raises(ValueError, match="block=gru: recurrent blocks need causal=true"):
        TransformerConfig(block="gru")
    assert "block" not in TransformerConfig().model_dump()  # the hashes of models stay those of before
    recurrent = TransformerConfig(block="lstm", causal=True)
    assert TransformerConfig.model_validate_json(recurrent.model_dump_json()) == recurrent
