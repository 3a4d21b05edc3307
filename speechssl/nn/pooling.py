"""Pooling of frames to one vector per utterance, and of layers to one sequence; padding is excluded.

Attention pooling: Okabe et al. 2018 (arXiv 1803.10963) without the deviation. Learned softmax mix of layers: SUPERB
(arXiv 2105.01051), after ELMo.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


def valid_frames(num_frames: Int[Tensor, " batch"], frames: int) -> Bool[Tensor, "batch frames"]:
    """True where a frame belongs to its utterance.

    >>> valid_frames(torch.tensor([1, 2]), 3).int().tolist()
    [[1, 0, 0], [1, 1, 0]]
    """
    return torch.arange(frames, device=num_frames.device) < num_frames.unsqueeze(-1)


def zero_padding(x: Float[Tensor, "batch steps *features"], count: Int[Tensor, " batch"]) -> Tensor:
    """Set everything beyond the first ``count`` steps of each row to zero.

    By selection, not multiplication: NaN and infinities in the padding affect neither results nor gradients.

    >>> zero_padding(torch.tensor([[1.0, 2.0, float("nan")]]), torch.tensor([2])).tolist()
    [[1.0, 2.0, 0.0]]
    """
    valid = valid_frames(count, x.shape[1])
    return x.masked_fill(~valid[(..., *(None,) * (x.ndim - 2))], 0.0)


def mean_pool(
    frames: Float[Tensor, "batch frames dim"], num_frames: Int[Tensor, " batch"] | None = None
) -> Float[Tensor, "batch dim"]:
    """Mean over the frames of each utterance.

    >>> mean_pool(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([2])).item()
    2.0
    """
    if num_frames is None:
        return frames.mean(dim=1)
    return zero_padding(frames, num_frames).sum(dim=1) / num_frames.unsqueeze(-1)


def mean_std_pool(
    frames: Float[Tensor, "batch frames dim"], num_frames: Int[Tensor, " batch"] | None = None
) -> Float[Tensor, "batch twice_dim"]:
    """Mean and standard deviation over the frames of each utterance; uncorrected: one frame has deviation zero.

    >>> mean_std_pool(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([2])).tolist()
    [[2.0, 1.0]]
    """
    if num_frames is not None:  # before the square, whose gradient at NaN is NaN even when multiplied by zero
        frames = zero_padding(frames, num_frames)
    mean = mean_pool(frames, num_frames)
    variance = mean_pool((frames - mean.unsqueeze(1)).square(), num_frames)
    return torch.cat([mean, variance.clamp(min=1e-20).sqrt()], dim=-1)  # the root's gradient at zero would be NaN


class AttentionPool(nn.Module):
    """Weighted mean with weights from a small network over each frame.

    >>> AttentionPool(4)(torch.randn(2, 7, 4)).shape
    torch.Size([2, 4])
    """

    def __init__(self, dim: int, hidden: int = 128):
        super().__init__()
        self.score = nn.Sequential(nn.Linear(dim, hidden), nn.Tanh(), nn.Linear(hidden, 1))

    def forward(
        self, frames: Float[Tensor, "batch frames dim"], num_frames: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch dim"]:
        """Pooled vectors; frames beyond ``num_frames`` get weight zero."""
        if num_frames is not None:
            frames = zero_padding(frames, num_frames)  # a weight of zero does not remove NaN
        scores = self.score(frames).squeeze(-1)  # batch frames
        if num_frames is not None:
            scores = scores.masked_fill(~valid_frames(num_frames, frames.shape[1]), float("-inf"))
        return torch.einsum("bf,bfd->bd", scores.softmax(dim=-1), frames)


class LayerMix(nn.Module):
    """Learned softmax-weighted sum of hidden states; initialised as their mean.

    >>> LayerMix(2)([torch.zeros(1, 3, 4), torch.ones(1, 3, 4)]).mean().item()
    0.5
    """

    def __init__(self, layers: int):
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(layers))

    def forward(self, hidden_states: Sequence[Tensor]) -> Float[Tensor, "batch frames dim"]:
        """One sequence from all layers."""
        if len(hidden_states) != len(self.weights):
            raise ValueError(f"the mix has {len(self.weights)} weights, {len(hidden_states)} hidden states were given")
        return torch.einsum("l,lbfd->bfd", self.weights.softmax(dim=0), torch.stack(list(hidden_states)))
