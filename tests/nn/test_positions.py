"""data2vec's and WavLM's positions against loops; that they are parts of our encoder's peers is shown in interop."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from speechssl.nn import transformer
from speechssl.nn.pooling import valid_frames
from speechssl.nn.positions import PositionalStack, RelativeBias, RelativeGate
from speechssl.nn.transformer import GatedAttention, Transformer, TransformerConfig

SMALL = TransformerConfig(
    dim=24,
    layers=2,
    heads=3,
    feedforward=40,
    position_kernel=6,
    position_groups=4,
    layer_drop=0.0,
    relative_buckets=12,
    relative_distance=9,
)


def slow_bucket(distance: int, *, buckets: int, farthest: int) -> int:
    """T5's, with half of the buckets for what lies ahead."""
    half = buckets // 2
    exact = half // 2
    away = abs(distance)
    place = away
    if away >= exact:
        place = min(half - 1, exact + int(math.log(away / exact) / math.log(farthest / exact) * (half - exact)))
    return place + half * (distance > 0)


@pytest.mark.parametrize(("buckets", "farthest"), [(12, 9), (320, 800), (32, 128), (7, 5)])
@torch.no_grad()
def test_buckets_equal_a_loop(buckets: int, farthest: int) -> None:
    bias, frames = RelativeBias(2, buckets=buckets, distance=farthest), 900
    bias.biases.copy_(torch.arange(buckets)[:, None] * torch.tensor([1.0, -1.0]))
    found = bias(frames)
    expected = [slow_bucket(place - frames + 1, buckets=buckets, farthest=farthest) for place in range(2 * frames - 1)]
    assert found[0].tolist() == expected
    assert torch.equal(found[1], -found[0])


def test_buckets_that_are_none() -> None:
    with pytest.raises(ValueError, match="2 buckets up to 9 frames; need 4"):
        RelativeBias(2, buckets=2, distance=9)
    with pytest.raises(ValueError, match="40 buckets up to 10 frames"):
        RelativeBias(2, buckets=40, distance=10)


def slow_attention(attention: GatedAttention, x: Tensor, valid: Tensor, distances: Tensor) -> Tensor:
    """Each head, each query and each key on its own."""
    queries, keys, values = (x @ attention.qkv.weight.T + attention.qkv.bias).chunk(3, dim=-1)
    size, frames, gate = x.shape[-1] // attention.heads, x.shape[1], attention.gate
    output = torch.zeros_like(x)
    for row in range(x.shape[0]):
        for head in range(attention.heads):
            part = slice(head * size, (head + 1) * size)
            for query in range(frames):
                raw = gate.scores.weight @ x[row, query, part] + gate.scores.bias
                update, reset = torch.sigmoid(raw[:4].sum()), torch.sigmoid(raw[4:].sum())
                factor = update * (reset * gate.scale[0, head, 0, 0] - 1) + 2
                scores = torch.full((frames,), -math.inf)
                for key in range(frames):
                    if valid[row, key]:
                        product = queries[row, query, part] @ keys[row, key, part] / math.sqrt(size)
                        scores[key] = product + factor * distances[head, key - query + frames - 1]
                output[row, query, part] = scores.softmax(dim=0) @ values[row, :, part]
    return output @ attention.out.weight.T + attention.out.bias


@pytest.mark.parametrize("plain", [True, False])
@torch.no_grad()
def test_gated_attention_equals_a_loop(plain: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformer, "prefers_plain", lambda *_: plain)
    attention, x, distances = GatedAttention(12, 3, 0.5).eval(), torch.randn(2, 6, 12), torch.randn(3, 11)
    for parameter in attention.gate.parameters():
        parameter.normal_()
    valid = valid_frames(torch.tensor([6, 4]), 6)
    expected = slow_attention(attention, x, valid, distances)
    torch.testing.assert_close(attention(x, valid[:, None, None, :], distances), expected, rtol=1e-4, atol=1e-5)
    everything = slow_attention(attention, x, torch.ones(2, 6, dtype=torch.bool), distances)
    torch.testing.assert_close(attention(x, None, distances), everything, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_long_sequence_in_parts_equals_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = Transformer(SMALL).eval(), torch.randn(2, 23, 24)
    valid = valid_frames(torch.tensor([23, 17]), 23)
    whole = model(x, valid).frames
    monkeypatch.setattr(transformer, "LONG_SEQUENCE", 20)
    monkeypatch.setattr(transformer, "_QUERIES", 5)
    torch.testing.assert_close(model(x, valid).frames, whole, rtol=0, atol=1e-5)


@torch.no_grad()
def test_what_is_compiled_equals_what_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = Transformer(SMALL).eval(), torch.randn(2, 23, 24)
    valid = valid_frames(torch.tensor([23, 17]), 23)
    eager = model(x, valid).frames
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(model(x, valid).frames, eager, rtol=0, atol=1e-6)


@torch.no_grad()
def test_gates_at_rest() -> None:
    """Scores of zero: half of each gate, hence 0.5 (0.5 scale - 1) + 2."""
    gate = RelativeGate(12, 3)
    for parameter in gate.scores.parameters():
        parameter.zero_()
    gate.scale.fill_(3.0)
    assert torch.equal(gate(torch.randn(2, 5, 12)), torch.full((2, 3, 5, 1), 2.25))


def test_every_parameter_learns() -> None:
    """Biases and gates are not cut off from the loss."""
    model = Transformer(SMALL.model_copy(update={"position_stack": 2}))
    model(torch.randn(2, 15, 24), None).frames.square().sum().backward()
    without = [
        name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()
    ]
    assert without == []


@pytest.mark.parametrize("kernel", [5, 4])
@torch.no_grad()
def test_stack_equals_a_loop(kernel: int) -> None:
    stack, x = PositionalStack(8, kernel, 2, depth=3), torch.randn(1, 9, 8)
    expected = x.transpose(1, 2)
    for conv in stack.layers:
        expected = F.conv1d(expected, conv.weight, conv.bias, padding=kernel // 2, groups=2)[..., :9]
        centred = expected - expected.mean(dim=1, keepdim=True)
        expected = F.gelu(centred / (centred.square().mean(dim=1, keepdim=True) + 1e-5).sqrt())
    torch.testing.assert_close(stack(x, None), expected.transpose(1, 2), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("changes", [{"position_stack": 3}, {}, {"position_stack": 2, "pre_norm": True}])
@torch.no_grad()
def test_padding_changes_nothing(changes: dict[str, object]) -> None:
    model = Transformer(SMALL.model_copy(update=changes)).eval()
    x = torch.randn(2, 20, 24)
    padded = model(x, valid_frames(torch.tensor([20, 7]), 20)).frames
    torch.testing.assert_close(padded[1:, :7], model(x[1:, :7], None).frames, rtol=0, atol=1e-5)


@torch.no_grad()
def test_bf16_is_close() -> None:
    model, x = Transformer(SMALL).eval(), torch.randn(2, 20, 24)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = model(x, None).frames
    assert F.cosine_similarity(half.float().flatten(), model(x, None).frames.flatten(), dim=0) > 0.999
