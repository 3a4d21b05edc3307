"""Transformer context network.

wav2vec 2.0 (Baevski et al. 2020, arXiv 2006.11477, section 2): a grouped convolution gives relative positions, then
BERT-like blocks. Post-norm is the paper's BASE, pre-norm its LARGE (``do_stable_layer_norm`` elsewhere). Layer drop
after Fan et al. 2019 (arXiv 1909.11556).
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from speechssl.config import Config
from speechssl.nn.conv import convolve
from speechssl.nn.dropout import dropout
from speechssl.nn.norm import LayerNorm

LONG_SEQUENCE = 2048  # frames, 41 s; from here on the scores of all pairs would take too much memory


class TransformerConfig(Config):
    """Shape and regularisation; defaults are the paper's BASE."""

    dim: int = 768
    layers: int = 12
    heads: int = 12
    feedforward: int = 3072
    pre_norm: bool = False
    position_kernel: int = 128  # frames
    position_groups: int = 16
    dropout: float = 0.1
    attention_dropout: float = 0.1
    activation_dropout: float = 0.0
    layer_drop: float = 0.05
    norm_eps: float = 1e-5


@dataclass(frozen=True)
class TransformerOutput:
    """``frames`` is the final output; ``hidden_states`` (on request) the first input, then each block's output.

    A dropped block's output is its input.
    """

    frames: Float[Tensor, "batch frames dim"]
    hidden_states: list[Tensor] | None


class PositionalConvolution(nn.Module):
    """Convolutional relative positional embedding: weight-normalised grouped convolution over time, GELU."""

    def __init__(self, dim: int, kernel: int, groups: int):
        super().__init__()
        conv = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=groups)
        nn.init.normal_(conv.weight, std=math.sqrt(4 / (kernel * dim)))  # fairseq's
        nn.init.zeros_(conv.bias)  # pyright: ignore[reportArgumentType]  (made with a bias)
        nn.utils.parametrizations.weight_norm(conv, dim=2)
        self.conv = conv

    def forward(self, x: Float[Tensor, "batch frames dim"]) -> Float[Tensor, "batch frames dim"]:
        """Position features of the same shape; frames outside count as zeros."""
        padding, groups = self.conv.kernel_size[0] // 2, self.conv.groups
        y = convolve(x, self.conv.weight, self.conv.bias, padding=padding, groups=groups)
        return F.gelu(y[:, : x.shape[1]])  # an even kernel gives one frame too many


class SelfAttention(nn.Module):
    """Multi-head self-attention with one fused projection for queries, keys and values."""

    def __init__(self, dim: int, heads: int, dropout: float):
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim {dim} is not divisible by {heads} heads")
        self.heads, self.dropout = heads, dropout
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(
        self, x: Float[Tensor, "batch frames dim"], mask: Bool[Tensor, "batch 1 1 frames"] | None
    ) -> Float[Tensor, "batch frames dim"]:
        """Attention over frames where ``mask`` is True."""
        heads = self.qkv(x).unflatten(-1, (3, self.heads, -1))  # batch frames 3 heads head_dim
        q, k, v = heads.permute(2, 0, 3, 1, 4)  # each: batch heads frames head_dim
        probability = self.dropout if self.training else 0.0
        attention = plain_attention if prefers_plain(q, probability) else F.scaled_dot_product_attention
        y = attention(q, k, v, mask, probability)
        return self.out(y.transpose(1, 2).flatten(2))


def prefers_plain(q: Float[Tensor, "batch heads frames dim"], dropout: float) -> bool:
    """Whether plain matrix products beat the fused kernel.

    On CPUs the fused kernel is two to three times slower in bf16 and does not exist with dropout, from 50 to 1500
    frames; in fp32 without dropout it is a little faster at any length.
    """
    slow = q.dtype == torch.bfloat16 or dropout > 0
    return q.device.type == "cpu" and slow and q.shape[2] < LONG_SEQUENCE


def plain_attention(
    q: Float[Tensor, "batch heads frames dim"],
    k: Float[Tensor, "batch heads frames dim"],
    v: Float[Tensor, "batch heads frames dim"],
    mask: Bool[Tensor, "batch 1 1 frames"] | None,
    probability: float,
) -> Float[Tensor, "batch heads frames dim"]:
    """Attention with dropout, in matrix products; arguments as torch's fused kernel takes them."""
    scores = q @ (k * q.shape[-1] ** -0.5).transpose(-1, -2)  # batch heads frames frames
    if mask is not None:
        scores = scores + torch.zeros_like(mask, dtype=scores.dtype).masked_fill_(~mask, float("-inf"))
    return dropout(scores.softmax(dim=-1), probability, training=True).to(v.dtype) @ v


class TransformerLayer(nn.Module):
    """One block: attention and feed-forward, each with a residual; norm before (pre) or after (post) each."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.config = config
        self.attention = SelfAttention(config.dim, config.heads, config.attention_dropout)
        self.attention_norm = LayerNorm(config.dim, eps=config.norm_eps)
        self.expand = nn.Linear(config.dim, config.feedforward)
        self.contract = nn.Linear(config.feedforward, config.dim)
        self.output_norm = LayerNorm(config.dim, eps=config.norm_eps)

    def feed_forward(self, x: Float[Tensor, "batch frames dim"]) -> Float[Tensor, "batch frames dim"]:
        """Position-wise expansion, GELU, contraction."""
        x = dropout(F.gelu(self.expand(x)), self.config.activation_dropout, training=self.training)
        return dropout(self.contract(x), self.config.dropout, training=self.training)

    def attend(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Attention with its dropout."""
        return dropout(self.attention(x, mask), self.config.dropout, training=self.training)

    def forward(
        self, x: Float[Tensor, "batch frames dim"], mask: Bool[Tensor, "batch 1 1 frames"] | None
    ) -> Float[Tensor, "batch frames dim"]:
        """One block, in the order of the configured norm."""
        if self.config.pre_norm:
            x = x + self.attend(self.attention_norm(x), mask)
            return x + self.feed_forward(self.output_norm(x))
        x = self.attention_norm(x + self.attend(x, mask))
        return self.output_norm(x + self.feed_forward(x))


class Transformer(nn.Module):
    """Positions, then blocks.

    Example:
        >>> config = TransformerConfig(dim=32, layers=2, heads=4, feedforward=64, position_kernel=8, position_groups=4)
        >>> output = Transformer(config).eval()(torch.randn(2, 10, 32), None, all_layers=True)
        >>> output.frames.shape, len(output.hidden_states)
        (torch.Size([2, 10, 32]), 3)
    """

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.config = config
        self.positions = PositionalConvolution(config.dim, config.position_kernel, config.position_groups)
        self.norm = LayerNorm(config.dim, eps=config.norm_eps)
        self.layers = nn.ModuleList(TransformerLayer(config) for _ in range(config.layers))
        self.apply(_init_linear)

    def forward(
        self,
        x: Float[Tensor, "batch frames dim"],
        valid: Bool[Tensor, "batch frames"] | None,
        *,
        all_layers: bool = False,
    ) -> TransformerOutput:
        """Context frames.

        Args:
            x: projected latent frames.
            valid: True where a frame belongs to its utterance; None when nothing is padded. Invalid frames are
                zeroed before the positional convolution and never attended to.
            all_layers: keep every block's output.
        """
        mask = None
        if valid is not None:
            x = x * valid.unsqueeze(-1)
            mask = valid[:, None, None, :]
        x = x + self.positions(x)
        if not self.config.pre_norm:
            x = self.norm(x)
        x = dropout(x, self.config.dropout, training=self.training)
        hidden = [x]
        for layer in self.layers:
            dropped = self.training and self.config.layer_drop and torch.rand(()).item() < self.config.layer_drop
            x = x if dropped else layer(x, mask)
            hidden.append(x)
        if self.config.pre_norm:
            x = self.norm(x)
            hidden[-1] = x
        return TransformerOutput(frames=x, hidden_states=hidden if all_layers else None)


def _init_linear(module: nn.Module) -> None:
    """BERT's initialisation, as fairseq has it: normal with deviation 0.02, no bias."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
