"""Frames of a batch, and their counts, means and squared deviations, which can be merged over windows."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from speechssl.nn.pooling import zero_padding

Pooling = Literal["mean", "mean+std"]
POOLINGS: tuple[Pooling, ...] = ("mean", "mean+std")


@dataclass(frozen=True)
class Piece:
    """Frames of some layers for a batch: (layers, batch, frames, dim), valid up to `num_frames`."""

    states: Float[Tensor, "layers batch frames dim"]
    num_frames: Tensor

    def cut(self, row: int, first: int, last: int | None) -> "Piece":
        """Frames `first` to `last - 1` of one clip, as a batch of one; to its end where `last` is None."""
        last = int(self.num_frames[row]) if last is None else last
        return Piece(self.states[:, row : row + 1, first:last], torch.full_like(self.num_frames[:1], last - first))


@dataclass(frozen=True)
class Moments:
    """Count, mean and summed squared deviation over frames, in float64."""

    count: Tensor
    mean: Tensor
    squares: Tensor

    @classmethod
    def of(cls, piece: Piece) -> "Moments":
        """Moments of one piece."""
        count = piece.num_frames.double()[:, None]  # (batch, 1)
        means: list[Tensor] = []
        squares: list[Tensor] = []
        for states in piece.states:  # one by one: all layers in float64 would be the largest tensor in memory
            used = zero_padding(states.double(), piece.num_frames)
            means.append(used.sum(dim=1) / count)  # (batch, dim)
            squares.append(zero_padding(used - means[-1][:, None], piece.num_frames).square().sum(dim=1))
        return cls(count[None], torch.stack(means), torch.stack(squares))

    def merged(self, other: "Moments") -> "Moments":
        """Moments of both together (Chan, Golub and LeVeque, "Algorithms for computing the sample variance", 1983)."""
        count = self.count + other.count
        step = other.mean - self.mean
        mean = self.mean + step * other.count / count
        squares = self.squares + other.squares + step.square() * self.count * other.count / count
        return Moments(count, mean, squares)

    def pooled(self, pooling: Pooling) -> Float32[np.ndarray, "layers batch dim"]:
        """Means, or means and (uncorrected) deviations, as float32."""
        mean = self.mean.float().cpu().numpy()
        if pooling == "mean":
            return mean
        std = (self.squares / self.count).sqrt().float().cpu().numpy()
        return np.concatenate([mean, std], axis=-1)
