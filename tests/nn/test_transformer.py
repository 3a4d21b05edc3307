"""The context network against loops, its two ways of attention, padding, and what training mode adds."""

import math
from collections import Counter
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from speechssl.nn import transformer
from speechssl.nn.pooling import valid_frames
from speechssl.nn.transformer import (
    PositionalConvolution,
    SelfAttention,
    Transformer,
    TransformerConfig,
    TransformerLayer,
)

pytestmark = pytest.mark.usefixtures("two_threads_throughout")

SMALL = TransformerConfig(
    dim=24, layers=3, heads=3, feedforward=40, position_kernel=6, position_groups=4, layer_drop=0.0
)


def small(**changes: object) -> Transformer:
    return Transformer(SMALL.model_copy(update=changes))


def slow_attention(attention: SelfAttention, x: Tensor, valid: Tensor) -> Tensor:
    """Each head and each frame on its own."""
    queries, keys, values = (x @ attention.qkv.weight.T + attention.qkv.bias).chunk(3, dim=-1)
    size = x.shape[-1] // attention.heads
    output = torch.zeros_like(x)
    for row in range(x.shape[0]):
        frames = [frame for frame in range(x.shape[1]) if valid[row, frame]]
        for head in range(attention.heads):
            part = slice(head * size, (head + 1) * size)
            for frame in range(x.shape[1]):
                scores = [
                    float(queries[row, frame, part] @ keys[row, other, part]) / math.sqrt(size) for other in frames
                ]
                total = sum(math.exp(score) for score in scores)
                for other, score in zip(frames, scores, strict=True):
                    output[row, frame, part] += math.exp(score) / total * values[row, other, part]
    return output @ attention.out.weight.T + attention.out.bias


@pytest.mark.parametrize("plain", [True, False])
@torch.no_grad()
def test_attention_equals_a_loop(plain: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformer, "prefers_plain", lambda *_: plain)
    attention, x = SelfAttention(12, 3, 0.5).eval(), torch.randn(2, 6, 12)
    valid = valid_frames(torch.tensor([6, 4]), 6)
    expected = slow_attention(attention, x, valid)
    torch.testing.assert_close(attention(x, valid[:, None, None, :]), expected, rtol=1e-4, atol=1e-5)
    everything = slow_attention(attention, x, torch.ones(2, 6, dtype=torch.bool))
    torch.testing.assert_close(attention(x, None), everything, rtol=1e-4, atol=1e-5)


def test_both_ways_of_attention_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain products equal the fused kernel, gradients too."""
    x = torch.randn(2, 40, 24, requires_grad=True)
    for valid in (None, valid_frames(torch.tensor([40, 13]), 40)):
        results = []
        for plain in (True, False):
            monkeypatch.setattr(transformer, "prefers_plain", lambda *_, plain=plain: plain)
            torch.manual_seed(1)
            frames = small().eval()(x, valid).frames
            results.append((frames.detach(), torch.autograd.grad(frames[:, :13].square().sum(), x)[0]))
        for product, fused in zip(*results, strict=True):
            torch.testing.assert_close(product, fused, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kernel", [5, 6])
@torch.no_grad()
def test_positions_equal_a_loop(kernel: int) -> None:
    """Grouped convolution centred on each frame, weights normalised for each tap, zeros outside."""
    layer = PositionalConvolution(8, kernel, 2)
    direction, gain = layer.conv.parametrizations.weight.original1, layer.conv.parametrizations.weight.original0
    gain.mul_(torch.rand_like(gain) + 0.5)
    weight = gain * direction / direction.square().sum(dim=(0, 1), keepdim=True).sqrt()
    x = torch.randn(1, 7, 8)
    expected = torch.zeros(1, 7, 8)
    for frame in range(7):
        for channel in range(8):
            group = slice(4 * (channel // 4), 4 * (channel // 4) + 4)
            total = layer.conv.bias[channel].clone()
            for tap in range(kernel):
                place = frame + tap - kernel // 2
                if 0 <= place < 7:
                    total += weight[channel, :, tap] @ x[0, place, group]
            expected[0, frame, channel] = F.gelu(total)
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pre_norm", [True, False])
@torch.no_grad()
def test_order_of_the_norms(pre_norm: bool) -> None:
    layer = TransformerLayer(SMALL.model_copy(update={"pre_norm": pre_norm})).eval()
    x = torch.randn(2, 5, 24)
    norm, out = layer.attention_norm, layer.output_norm

    def feed(y: Tensor) -> Tensor:
        return layer.contract(F.gelu(layer.expand(y)))

    if pre_norm:
        y = x + layer.attention(norm(x), None)
        expected = y + feed(out(y))
    else:
        y = norm(x + layer.attention(x, None))
        expected = out(y + feed(y))
    torch.testing.assert_close(layer(x, None), expected)


@pytest.mark.parametrize("pre_norm", [True, False])
@torch.no_grad()
def test_hidden_states(pre_norm: bool) -> None:
    model, x = small(pre_norm=pre_norm).eval(), torch.randn(1, 9, 24)
    output = model(x, None, all_layers=True)
    assert output.hidden_states is not None
    assert len(output.hidden_states) == 4
    assert output.hidden_states[-1] is output.frames
    first = x + model.positions(x)
    torch.testing.assert_close(output.hidden_states[0], first if pre_norm else model.norm(first))
    torch.testing.assert_close(model.layers[0](output.hidden_states[0], None), output.hidden_states[1])
    if pre_norm:  # the last norm belongs to the output
        torch.testing.assert_close(output.frames.mean(dim=-1), torch.zeros(1, 9), atol=1e-5, rtol=0)
    assert model(x, None).hidden_states is None


@pytest.mark.parametrize("plain", [True, False])
@torch.no_grad()
def test_padded_frames_do_not_leak(plain: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformer, "prefers_plain", lambda *_: plain)
    model, num_frames = small(pre_norm=True).eval(), torch.tensor([11, 5, 1])
    valid, x = valid_frames(num_frames, 11), torch.randn(3, 11, 24)
    frames = model(x, valid).frames
    loud = model(x.masked_fill(~valid.unsqueeze(-1), 1e4), valid).frames
    for row, count in enumerate(num_frames.tolist()):
        torch.testing.assert_close(frames[row, :count], loud[row, :count], rtol=0, atol=0)
        alone = model(x[row : row + 1, :count], None).frames
        torch.testing.assert_close(frames[row : row + 1, :count], alone, rtol=1e-4, atol=1e-5)


def test_evaluation_is_deterministic_whatever_is_dropped_in_training() -> None:
    drops = {"dropout": 0.3, "attention_dropout": 0.3, "activation_dropout": 0.3, "layer_drop": 0.5}
    model, x = small(**drops), torch.randn(2, 8, 24)
    model.eval()
    first = model(x, None).frames
    assert all(torch.equal(model(x, None).frames, first) for _ in range(5))
    assert model(x, None, all_layers=True).hidden_states is not None
    model.train()
    assert not torch.equal(model(x, None).frames, model(x, None).frames)
    torch.manual_seed(5)
    again = model(x, None).frames
    torch.manual_seed(5)
    assert torch.equal(model(x, None).frames, again)


@pytest.mark.parametrize("name", ["dropout", "attention_dropout", "activation_dropout"])
@pytest.mark.parametrize("plain", [True, False])
def test_each_dropout_acts_in_training(name: str, plain: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformer, "prefers_plain", lambda *_: plain)
    none = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}
    x = torch.randn(2, 8, 24)
    quiet = small(**none)
    assert torch.equal(quiet(x, None).frames, quiet(x, None).frames)
    noisy = small(**(none | {name: 0.5}))
    assert not torch.equal(noisy(x, None).frames, noisy(x, None).frames)


def test_dropout_acts_in_every_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the positions, and in each block after attention, weights of attention, expansion and contraction."""
    seen: Counter[float] = Counter()

    def count(x: Tensor, probability: float, *, training: bool) -> Tensor:
        seen[probability] += training
        return x

    monkeypatch.setattr(transformer, "dropout", count)
    monkeypatch.setattr(transformer, "prefers_plain", lambda *_: True)
    small(dropout=0.1, attention_dropout=0.2, activation_dropout=0.3)(torch.randn(1, 5, 24), None)
    assert seen == {0.1: 1 + 2 * 3, 0.2: 3, 0.3: 3}


@torch.no_grad()
def test_layers_are_dropped_as_often_as_told() -> None:
    model = small(layer_drop=0.3, layers=10, dropout=0.0, attention_dropout=0.0)
    run = [blocks_that_ran(model) for _ in range(60)]
    assert 0.65 < sum(run) / 600 < 0.75
    assert blocks_that_ran(small(layer_drop=1.0)) == 0


def blocks_that_ran(model: Transformer) -> int:
    """A dropped block hands on its input, so that there are always as many hidden states."""
    states = model(torch.randn(1, 3, 24), None, all_layers=True).hidden_states
    assert len(states) == model.config.layers + 1
    return sum(after is not before for before, after in pairwise(states))


def test_heads_must_share_the_dimension() -> None:
    with pytest.raises(ValueError, match="dim 10 is not divisible by 4 heads"):
        SelfAttention(10, 4, 0.0)


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("pre_norm", [True, False])
@pytest.mark.parametrize("kernel", [5, 6])
@torch.no_grad()
def test_a_causal_network_does_not_see_what_comes_later(
    plain: bool, pre_norm: bool, kernel: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transformer, "prefers_plain", lambda *_: plain)
    network = small(causal=True, pre_norm=pre_norm, position_kernel=kernel).eval()
    x, noise = torch.randn(2, 12, 24), torch.randn(2, 12, 24)
    expected = network(x, None).frames
    for frame in range(1, 12):
        changed = torch.cat([x[:, :frame], noise[:, frame:]], dim=1)
        got = network(changed, None).frames
        torch.testing.assert_close(got[:, :frame], expected[:, :frame], rtol=1e-5, atol=1e-6)
        assert (got[:, frame] - expected[:, frame]).abs().max() > 1e-3


@torch.no_grad()
def test_causal_positions_are_those_of_the_frames_before() -> None:
    positions = PositionalConvolution(8, 5, 2, causal=True)
    x = torch.randn(1, 9, 8)
    shifted = PositionalConvolution(8, 5, 2)
    shifted.load_state_dict(positions.state_dict())
    later = shifted(F.pad(x, (0, 0, 2, 0)))[:, :9]  # two frames to each side, moved by two
    torch.testing.assert_close(positions(x), later)


@pytest.mark.parametrize("plain", [True, False])
@torch.no_grad()
def test_causal_networks_ignore_padding(plain: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformer, "prefers_plain", lambda *_: plain)
    network, x = small(causal=True).eval(), torch.randn(2, 10, 24)
    alone = network(x[1:, :6], None).frames
    together = network(x, valid_frames(torch.tensor([10, 6]), 10)).frames
    torch.testing.assert_close(together[1, :6], alone[0], rtol=1e-5, atol=1e-6)


def test_causal_dropout_acts_in_training() -> None:
    network, x = small(causal=True, attention_dropout=0.5).train(), torch.randn(1, 8, 24)
    assert not torch.equal(network(x, None).frames, network(x, None).frames)


@pytest.mark.parametrize("setting", [{"position_stack": 2}, {"relative_buckets": 8}])
def test_causal_positions_are_one_convolution(setting: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="causal: positions are one convolution then"):
        TransformerConfig(causal=True, **setting)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_recomputed_blocks_give_the_same_gradients(dropout: float) -> None:
    """To the last bit, with dropout as well; only the inputs of the blocks are kept."""
    config = TransformerConfig(
        dim=16, layers=3, heads=2, feedforward=32, position_kernel=4, position_groups=2, layer_drop=0.0, dropout=dropout
    )
    torch.manual_seed(0)
    transformer = Transformer(config).train()
    x = torch.randn(2, 12, 16)
    found: list[list[torch.Tensor]] = []
    kept: list[int] = []
    for recompute in (False, True):
        transformer.recompute = recompute
        transformer.zero_grad()
        torch.manual_seed(1)
        saved: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=saved: s.append(t.numel()) or t, lambda t: t):
            frames = transformer(x, None).frames
        frames.square().sum().backward()
        kept.append(sum(saved))
        found.append([frames.detach(), *(each.grad.clone() for each in transformer.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert kept[1] < 0.4 * kept[0]
