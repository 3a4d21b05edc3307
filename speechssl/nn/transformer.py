"""Transformer context network.

wav2vec 2.0 (Baevski et al. 2020, arXiv 2006.11477, section 2): a grouped convolution gives relative positions, then
BERT-like blocks. Post-norm is the paper's BASE, pre-norm its LARGE (``do_stable_layer_norm`` elsewhere). Layer drop
after Fan et al. 2019 (arXiv 1909.11556). The positions of data2vec and WavLM are off by default, and so are recurrent
blocks (:mod:`speechssl.nn.recurrent`).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from pydantic import Field, NonNegativeInt, PositiveInt, model_serializer, model_validator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from speechssl.config import Config
from speechssl.nn.conv import convolve
from speechssl.nn.dropout import dropout
from speechssl.nn.norm import LayerNorm
from speechssl.nn.positions import PositionalStack, RelativeBias, RelativeGate
from speechssl.nn.recurrent import RecurrentLayer

LONG_SEQUENCE = 2048  # frames, 41 s; from here on the scores of all pairs would take too much memory
Share = Annotated[float, Field(ge=0, le=1)]
_QUERIES = 512  # queries whose scores are in memory at once in a long sequence without the fused kernel


class TransformerConfig(Config):
    """Shape and regularisation; defaults are the paper's BASE."""

    dim: PositiveInt = 768
    layers: PositiveInt = 12
    heads: PositiveInt = 12
    feedforward: PositiveInt = 3072
    pre_norm: bool = False
    position_kernel: PositiveInt = 128  # frames
    position_groups: PositiveInt = 16
    dropout: Share = 0.1
    attention_dropout: Share = 0.1
    activation_dropout: Share = 0.0
    layer_drop: Share = 0.05
    norm_eps: float = Field(default=1e-5, gt=0, le=1)
    position_stack: NonNegativeInt = 0  # convolutions of data2vec's stack (nn/positions.py); 0: wav2vec 2.0's one
    relative_buckets: NonNegativeInt = 0  # of WavLM's gated relative position bias; 0: none
    relative_distance: PositiveInt = 800  # frames from which on all distances share the last bucket
    causal: bool = False  # a frame depends on no frame after it
    block: Literal["attention", "gru", "lstm"] = "attention"  # recurrent ones (nn/recurrent.py) are causal

    @model_validator(mode="after")
    def _causal_parts(self) -> "TransformerConfig":
        if self.causal and (self.position_stack or self.relative_buckets):
            raise ValueError("causal: positions are one convolution then (position_stack=0, relative_buckets=0)")
        if self.block != "attention" and not self.causal:
            raise ValueError(f"block={self.block}: recurrent blocks need causal=true")
        return self

    @model_serializer(mode="wrap")
    def _without_block(self, plain: Callable[["TransformerConfig"], dict[str, Any]]) -> dict[str, Any]:
        """Leave out ``block`` where it changes nothing: models and their hashes stay those of before."""
        values = plain(self)
        if self.block == "attention":
            values.pop("block", None)
        return values


@dataclass(frozen=True)
class TransformerOutput:
    """``frames`` is the final output; ``hidden_states`` (on request) the first input, then each block's output.

    A dropped block's output is its input.
    """

    frames: Float[Tensor, "batch frames dim"]
    hidden_states: list[Tensor] | None


class PositionalConvolution(nn.Module):
    """Convolutional relative positional embedding: weight-normalised grouped convolution over time, GELU.

    A causal one depends on a frame and the ``kernel - 1`` frames before it.
    """

    def __init__(self, dim: int, kernel: int, groups: int, *, causal: bool = False):
        super().__init__()
        self.causal = causal
        conv = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=groups)
        nn.init.normal_(conv.weight, std=math.sqrt(4 / (kernel * dim)))  # fairseq's
        nn.init.zeros_(conv.bias)  # pyright: ignore[reportArgumentType]  (made with a bias)
        nn.utils.parametrizations.weight_norm(conv, dim=2)
        self.conv = conv

    def forward(self, x: Float[Tensor, "batch frames dim"]) -> Float[Tensor, "batch frames dim"]:
        """Position features of the same shape; frames outside the input are zeros."""
        (kernel,), groups, frames = self.conv.kernel_size, self.conv.groups, x.shape[1]
        if self.causal:
            x = F.pad(x, (0, 0, kernel - 1, 0))
        y = convolve(x, self.conv.weight, self.conv.bias, padding=0 if self.causal else kernel // 2, groups=groups)
        return F.gelu(y[:, :frames])  # an even kernel gives one frame too many


class SelfAttention(nn.Module):
    """Multi-head self-attention with one fused projection for queries, keys and values."""

    def __init__(self, dim: int, heads: int, dropout: float, *, causal: bool = False):
        super().__init__()
        self.causal = causal
        if dim % heads:
            raise ValueError(f"dim {dim} is not divisible by {heads} heads")
        self.heads, self.dropout = heads, dropout
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(
        self, x: Float[Tensor, "batch frames dim"], mask: Bool[Tensor, "batch 1 1 frames"] | None
    ) -> Float[Tensor, "batch frames dim"]:
        """Attention over frames where ``mask`` is True; causal attention has no mask, as padding follows the frames."""
        q, k, v = self.project(x)
        assert not self.causal or mask is None
        return self.out(self.attend(q, k, v, mask).transpose(1, 2).flatten(2))

    def project(self, x: Float[Tensor, "batch frames dim"]) -> Float[Tensor, "3 batch heads frames head_dim"]:
        """Queries, keys and values of each head."""
        heads = self.qkv(x).unflatten(-1, (3, self.heads, -1))  # batch frames 3 heads head_dim
        return heads.permute(2, 0, 3, 1, 4)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Attention by the faster implementation, with dropout in training; a float mask is added to the scores."""
        probability = self.dropout if self.training else 0.0
        attention = plain_attention if prefers_plain(q, probability) else F.scaled_dot_product_attention
        return attention(q, k, v, mask, probability, self.causal)


class GatedAttention(SelfAttention):
    """Self-attention with WavLM's gated relative position bias on its scores.

    The biases of all pairs are not stored as a matrix: they are a sliding-window view of a vector over distances.
    """

    def __init__(self, dim: int, heads: int, dropout: float):
        super().__init__(dim, heads, dropout)
        self.gate = RelativeGate(dim, heads)

    def forward(
        self,
        x: Float[Tensor, "batch frames dim"],
        mask: Bool[Tensor, "batch 1 1 frames"] | None,
        distances: Float[Tensor, "heads distances"] | None = None,
    ) -> Float[Tensor, "batch frames dim"]:
        """Attention over frames where ``mask`` is True; ``distances`` from :class:`RelativeBias`."""
        assert distances is not None
        frames, (q, k, v) = x.shape[1], self.project(x)
        # From the last query to the first: the biases of consecutive queries are shifted by one, so a sliding window
        # over the vector of distances gives the matrix.
        q, gate = q.flip(2), self.gate(x).flip(2)
        compiling = torch.compiler.is_compiling()
        if compiling:  # the compiled window would have a fixed size; indexing does not
            steps = torch.arange(frames, device=x.device)
            biases = distances[:, steps[:, None] + steps]  # heads frames frames
        else:
            biases = distances.unfold(-1, frames, 1)
        whole = compiling or frames < LONG_SEQUENCE
        pieces: list[Tensor] = []
        for first in (0,) if whole else range(0, frames, _QUERIES):
            part = slice(None) if whole else slice(first, first + _QUERIES)
            bias = gate[:, :, part] * biases[:, part]  # batch heads queries frames
            if mask is not None:
                bias = bias.masked_fill(~mask, float("-inf"))
            pieces.append(self.attend(q[:, :, part], k, v, bias.to(q.dtype)))
        y = pieces[0] if whole else torch.cat(pieces, dim=2)
        return self.out(y.flip(2).transpose(1, 2).flatten(2))


def prefers_plain(q: Float[Tensor, "batch heads frames dim"], dropout: float) -> bool:
    """Whether plain matrix products beat the fused kernel.

    On CPUs the fused kernel is two to three times slower in bf16 and does not exist with dropout, from 50 to 1500
    frames; in fp32 without dropout it is a little faster at any length.
    """
    slow = q.dtype == torch.bfloat16 or dropout > 0
    return q.device.type == "cpu" and slow and q.shape[2] < LONG_SEQUENCE


def plain_attention(
    q: Float[Tensor, "batch heads queries dim"],
    k: Float[Tensor, "batch heads frames dim"],
    v: Float[Tensor, "batch heads frames dim"],
    mask: Bool[Tensor, "batch 1 1 frames"] | Float[Tensor, "batch heads queries frames"] | None,
    probability: float,
    causal: bool = False,
) -> Float[Tensor, "batch heads queries dim"]:
    """Attention with dropout, in matrix products; with the arguments of torch's fused kernel."""
    scores = q @ (k * q.shape[-1] ** -0.5).transpose(-1, -2)  # batch heads queries frames
    if causal:
        after = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(after, float("-inf"))
    if mask is not None and mask.dtype != torch.bool:
        scores = scores + mask
    elif mask is not None:
        scores = scores + torch.zeros_like(mask, dtype=scores.dtype).masked_fill_(~mask, float("-inf"))
    return dropout(scores.softmax(dim=-1), probability, training=True).to(v.dtype) @ v


class TransformerLayer(nn.Module):
    """One block: attention and feed-forward, each with a residual; norm before (pre) or after (post) each."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.config = config
        shape = config.dim, config.heads, config.attention_dropout
        gated = config.relative_buckets > 0
        self.attention = GatedAttention(*shape) if gated else SelfAttention(*shape, causal=config.causal)
        self.attention_norm = LayerNorm(config.dim, eps=config.norm_eps)
        self.expand = nn.Linear(config.dim, config.feedforward)
        self.activation: nn.Module = nn.GELU()
        self.contract = nn.Linear(config.feedforward, config.dim)
        self.output_norm = LayerNorm(config.dim, eps=config.norm_eps)

    def feed_forward(self, x: Float[Tensor, "batch frames dim"]) -> Float[Tensor, "batch frames dim"]:
        """Position-wise expansion, GELU, contraction."""
        x = dropout(self.activation(self.expand(x)), self.config.activation_dropout, training=self.training)
        return dropout(self.contract(x), self.config.dropout, training=self.training)

    def attend(self, x: Tensor, mask: Tensor | None, distances: Tensor | None = None) -> Tensor:
        """Attention with its dropout."""
        y = self.attention(x, mask) if distances is None else self.attention(x, mask, distances)
        return dropout(y, self.config.dropout, training=self.training)

    def forward(
        self,
        x: Float[Tensor, "batch frames dim"],
        mask: Bool[Tensor, "batch 1 1 frames"] | None,
        distances: Float[Tensor, "heads distances"] | None = None,
    ) -> Float[Tensor, "batch frames dim"]:
        """One block, in the order of the configured norm; ``distances`` only with relative positions."""
        if self.config.pre_norm:
            x = x + self.attend(self.attention_norm(x), mask, distances)
            return x + self.feed_forward(self.output_norm(x))
        x = self.attention_norm(x + self.attend(x, mask, distances))
        return self.output_norm(x + self.feed_forward(x))


class Transformer(nn.Module):
    """Positions, then blocks.

    Example:
        >>> config = TransformerConfig(dim=32, layers=2, heads=4, feedforward=64, position_kernel=8, position_groups=4)
        >>> output = Transformer(config).eval()(torch.randn(2, 10, 32), None, all_layers=True)
        >>> output.frames.shape, len(output.hidden_states)
        (torch.Size([2, 10, 32]), 3)
    """

    recompute: bool = False
    """Whether training keeps only the input of each block and computes the rest again in the backward pass.

    That needs less memory and about a third more time (Chen et al. 2016, arXiv 1604.06174); the gradients are the same.
    """

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.config = config
        shape = config.dim, config.position_kernel, config.position_groups
        stack = config.position_stack
        self.positions = (
            PositionalStack(*shape, depth=stack) if stack else PositionalConvolution(*shape, causal=config.causal)
        )
        self.relative = None
        if config.relative_buckets:
            self.relative = RelativeBias(
                config.heads, buckets=config.relative_buckets, distance=config.relative_distance
            )
        self.norm = LayerNorm(config.dim, eps=config.norm_eps)
        self.layers = nn.ModuleList(_block(config) for _ in range(config.layers))
        self.apply(_init_linear)

    def forward(
        self,
        x: Float[Tensor, "batch frames dim"],
        valid: Bool[Tensor, "batch frames"] | None,
        *,
        all_layers: bool = False,
        kept: Int[Tensor, "batch kept"] | None = None,
    ) -> TransformerOutput:
        """Context frames.

        Args:
            x: projected latent frames.
            valid: True where a frame belongs to its utterance; None when nothing is padded. Invalid frames are zeroed
                before the positional convolution and masked in attention.
            all_layers: keep every block's output.
            kept: places of the frames that are encoded, in rising order, with the positions that they have in the whole
                sequence; None: all. Needs a sequence without padding, and no relative position bias.
        """
        assert kept is None or (valid is None and self.relative is None)
        mask = None
        if valid is not None:
            x = x.masked_fill(~valid.unsqueeze(-1), 0.0)
            mask = None if self.config.causal else valid[:, None, None, :]
        x = x + (self.positions(x, valid) if isinstance(self.positions, PositionalStack) else self.positions(x))
        if kept is not None:
            x = x.gather(1, kept.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
        if not self.config.pre_norm:
            x = self.norm(x)
        x = dropout(x, self.config.dropout, training=self.training)
        distances = None if self.relative is None else self.relative(x.shape[1])
        hidden = [x]
        for layer in self.layers:
            dropped = self.training and self.config.layer_drop and torch.rand(()).item() < self.config.layer_drop
            if not dropped and self.recompute and torch.is_grad_enabled():
                x = checkpoint(layer, x, mask, distances, use_reentrant=False)
            elif not dropped:
                x = layer(x, mask, distances)
            hidden.append(x)
        if self.config.pre_norm:
            x = self.norm(x)
            hidden[-1] = x
        return TransformerOutput(frames=x, hidden_states=hidden if all_layers else None)


def _block(config: TransformerConfig) -> TransformerLayer | RecurrentLayer:
    if config.block == "attention":
        return TransformerLayer(config)
    return RecurrentLayer(
        config.block, config.dim, pre_norm=config.pre_norm, dropout=config.dropout, norm_eps=config.norm_eps
    )


def _init_linear(module: nn.Module) -> None:
    """BERT's initialisation, as in fairseq: normal with deviation 0.02, no bias."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
