"""Position encodings other than wav2vec 2.0's single convolution.

* data2vec (Baevski et al. 2022, arXiv 2202.03555, section 4.2): a stack of small convolutions, each followed by a norm
  without weights.
* WavLM (Chen et al. 2021, arXiv 2110.13900, section on the structure of the model): attention scores have a bias for
  the distance of key and query, one per head and bucket of distances (the buckets are T5's, Raffel et al. 2019, arXiv
  1910.10683), shared by all layers; a gate, which is a function of the query's frame, scales it in each layer.

Public models of both kinds are read into these modules; neither is trained here by default.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from speechssl.nn.conv import convolve


class PositionalStack(nn.Module):
    """Grouped convolutions over time, each with a norm over channels that has no weights, and GELU.

    Frames beyond an utterance's end are set to zero before each convolution, so that padding changes nothing. Other
    implementations zero them once, so that padding affects the last frames of an utterance.
    """

    def __init__(self, dim: int, kernel: int, groups: int, *, depth: int):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=groups) for _ in range(depth)
        )
        for conv in self.layers:
            assert isinstance(conv, nn.Conv1d)
            assert conv.bias is not None
            nn.init.normal_(conv.weight, std=math.sqrt(4 / (kernel * dim)))  # as in the single convolution
            nn.init.zeros_(conv.bias)

    def forward(
        self, x: Float[Tensor, "batch frames dim"], valid: Bool[Tensor, "batch frames"] | None
    ) -> Float[Tensor, "batch frames dim"]:
        """Position features of the same shape; ``valid`` is True where a frame belongs to its utterance."""
        frames = x.shape[1]
        for number, conv in enumerate(self.layers):
            assert isinstance(conv, nn.Conv1d)
            if number and valid is not None:
                x = x.masked_fill(~valid.unsqueeze(-1), 0.0)
            y = convolve(x, conv.weight, conv.bias, padding=conv.kernel_size[0] // 2, groups=conv.groups)
            y = y[:, :frames]  # an even kernel gives one frame too many
            x = F.gelu(F.layer_norm(y, y.shape[-1:]))
        return x


class RelativeBias(nn.Module):
    """Learned biases of the distance between key and query, one per head and bucket.

    Half of the buckets are for keys after the query. Of each half, the first half has one distance per bucket, and the
    other buckets widen logarithmically up to ``distance``; the last one has all larger distances.

    Example:
        >>> RelativeBias(4, buckets=32, distance=80)(10).shape
        torch.Size([4, 19])
    """

    def __init__(self, heads: int, *, buckets: int, distance: int):
        super().__init__()
        if buckets < 4 or distance <= buckets // 4:
            raise ValueError(
                f"{buckets} buckets up to {distance} frames; need 4 buckets, and more frames than a quarter"
            )
        self.distance = distance
        self.biases = nn.Parameter(0.02 * torch.randn(buckets, heads))

    def forward(self, frames: int) -> Float[Tensor, "heads distances"]:
        """Biases for key minus query from ``-(frames - 1)`` to ``frames - 1``."""
        half = self.biases.shape[0] // 2
        exact = half // 2
        away = torch.arange(frames, device=self.biases.device)
        # In the order of operations of transformers and torchaudio, so that rounding gives the same buckets.
        far = torch.log(away.clamp(min=1).float() / exact) / math.log(self.distance / exact) * (half - exact)
        bucket = torch.where(away < exact, away, (exact + far).to(torch.long).clamp(max=half - 1))
        return self.biases[torch.cat([bucket.flip(0), half + bucket[1:]])].t()  # up to the query; after it


class RelativeGate(nn.Module):
    """Gate of the relative position bias per head and query: two gates, each the sigmoid of a sum of four scores."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.scores = nn.Linear(dim // heads, 8)
        self.scale = nn.Parameter(torch.ones(1, heads, 1, 1))

    def forward(self, x: Float[Tensor, "batch frames dim"]) -> Float[Tensor, "batch heads frames 1"]:
        """Factors of the bias; 2 where the first gate is closed."""
        scores = self.scores(x.unflatten(-1, (self.scale.shape[1], -1))).unflatten(-1, (2, 4)).sum(dim=-1)
        update, reset = scores.sigmoid().transpose(1, 2).chunk(2, dim=-1)  # each: batch heads frames 1
        return update * (reset * self.scale - 1.0) + 2.0
