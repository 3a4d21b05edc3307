"""Layer norm in bf16: the gradients of fp32, whatever the number of rows."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from speechssl.models.encoder import PRESETS, SpeechEncoder
from speechssl.nn.norm import LayerNorm

ROWS, DIM = 25_600, 16


def gradients(x: Tensor, slope: Tensor, norm: LayerNorm) -> list[Tensor]:
    norm.zero_grad()
    leaf = x.clone().requires_grad_()
    norm(leaf).backward(slope)
    return [leaf.grad.float(), *(parameter.grad.float() for parameter in norm.parameters())]  # pyright: ignore[reportOptionalMemberAccess]


@pytest.mark.parametrize("parameters", [torch.float32, torch.bfloat16])  # under autocast, and a model all in bf16
def test_gradients_of_many_rows(parameters: torch.dtype) -> None:
    x, slope = torch.randn(ROWS, DIM).bfloat16(), (0.1 * torch.randn(ROWS, DIM) + 0.05).bfloat16()
    got = gradients(x, slope, LayerNorm(DIM).to(parameters))
    expected = gradients(x.float(), slope.float(), LayerNorm(DIM))
    for ours, exact in zip(got, expected, strict=True):
        assert float((ours - exact).norm() / exact.norm()) < 0.01


def test_values_are_those_of_torch() -> None:
    norm = LayerNorm(DIM)
    with torch.no_grad():
        norm.weight.normal_()
        norm.bias.normal_()
    for x in (torch.randn(2, 5, DIM), torch.randn(2, 5, DIM).bfloat16()):
        expected = F.layer_norm(x, (DIM,), norm.weight, norm.bias)
        assert norm(x).dtype == x.dtype
        torch.testing.assert_close(norm(x), expected)
        with torch.no_grad():
            torch.testing.assert_close(norm(x), expected)


def test_the_encoder_has_no_other_layer_norm() -> None:
    for name in ("tiny", "base"):
        norms = [module for module in SpeechEncoder(PRESETS[name]).modules() if isinstance(module, torch.nn.LayerNorm)]
        assert norms
        assert all(isinstance(norm, LayerNorm) for norm in norms)
