"""Prediction of later frames among others: heads per step, draws of negatives, and scores.

What contrastive predictive coding (van den Oord et al. 2018, arXiv 1807.03748) and wav2vec (Schneider et al. 2019,
arXiv 1904.05862) have in common. Frame t is an anchor; its positives are the frames t + 1 to t + steps of the same row;
its negatives, the same for all steps, are drawn from a pool of frames.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from speechssl.nn.transformer import TransformerConfig, TransformerLayer


class StepHeads(nn.Module):
    """One prediction per step from each context frame.

    Args:
        dim: of the context.
        outputs: of the frames that are predicted.
        steps: number of heads.
        std: standard deviation of the first weights.
        bias: whether the maps are affine.
        block: settings of one causal Transformer block below each map (Rivière et al. 2020, arXiv 2002.02848, section
            3.2); None: the maps alone.

    Example:
        >>> StepHeads(8, 6, 3, std=0.1)(torch.randn(2, 10, 8)).shape
        torch.Size([2, 10, 3, 6])
    """

    def __init__(
        self,
        dim: int,
        outputs: int,
        steps: int,
        *,
        std: float,
        bias: bool = False,
        block: TransformerConfig | None = None,
    ):
        super().__init__()
        self.blocks = nn.ModuleList([] if block is None else [TransformerLayer(block) for _ in range(steps)])
        maps = [nn.Linear(dim, outputs, bias=bias) for _ in range(steps)]
        for each in maps:
            nn.init.normal_(each.weight, std=std)
            if bias:
                nn.init.zeros_(each.bias)
        self.maps = nn.ModuleList(maps)

    def forward(self, context: Float[Tensor, "batch frames dim"]) -> Float[Tensor, "batch frames steps outputs"]:
        """Predictions of the frames 1 to ``steps`` frames later."""
        given = [block(context, None) for block in self.blocks] or [context] * len(self.maps)
        return torch.stack([head(each) for head, each in zip(self.maps, given, strict=True)], dim=2)


@dataclass(frozen=True)
class Negatives:
    """Negatives of each anchor.

    Attributes:
        row: place of the row of each in the (micro-)batch.
        frame: its frame.
    """

    row: Int[Tensor, "batch anchors negatives"]
    frame: Int[Tensor, "batch anchors negatives"]


def draw_negatives(
    groups: Int[np.ndarray, " batch"],
    rows: Int[np.ndarray, " batch"],
    *,
    global_rows: int,
    anchors: int,
    frames: int,
    count: int,
    rng: np.random.Generator,
) -> Negatives:
    """Draw negatives, uniform with replacement, from all frames of the rows of the same group.

    The random numbers are those of the row in the global batch. Which frames they choose depends on the other rows of
    the (micro-)batch, except where each row is a group of its own.

    Args:
        groups: a number per row of the (micro-)batch.
        rows: places of these rows in the global batch.
        global_rows: rows of the global batch.
        anchors: of a row.
        frames: of a row.
        count: negatives per anchor.
        rng: source of all randomness.

    >>> rng, groups = np.random.default_rng(0), np.array([0, 1, 0])
    >>> drawn = draw_negatives(groups, np.arange(3), global_rows=3, anchors=4, frames=9, count=50, rng=rng)
    >>> [row.unique().tolist() for row in drawn.row], int(drawn.frame.max())
    ([[0, 2], [1], [0, 2]], 8)
    """
    drawn = rng.random((global_rows, anchors, count), dtype=np.float32)[rows]
    members = [np.flatnonzero(groups == group) for group in groups]
    row, frame = np.empty(drawn.shape, dtype=np.int64), np.empty(drawn.shape, dtype=np.int64)
    for place, own in enumerate(members):
        chosen = np.minimum((drawn[place] * (len(own) * frames)).astype(np.int64), len(own) * frames - 1)
        row[place], frame[place] = own[chosen // frames], chosen % frames
    return Negatives(torch.from_numpy(row), torch.from_numpy(frame))


@dataclass(frozen=True)
class StepScores:
    """Scores of one step.

    Attributes:
        positive: score of the frame that follows by the step.
        negatives: scores of the negatives.
        same: True where a negative is the positive.
        own: True where a negative is another frame of the same row.
    """

    positive: Float[Tensor, "batch anchors"]
    negatives: Float[Tensor, "batch anchors negatives"]
    same: Bool[Tensor, "batch anchors negatives"]
    own: Bool[Tensor, "batch anchors negatives"]


def step_scores(
    predicted: Float[Tensor, "batch anchors steps dim"],
    frames: Float[Tensor, "batch frames dim"],
    negatives: Negatives,
    *,
    within: bool,
) -> Iterator[StepScores]:
    """Products of the predictions with positives and negatives, fp32, one step after another.

    The scores of all pairs are one matrix product per step, in which the negatives are looked up: cheaper than a copy
    of a frame per negative.

    Args:
        predicted: predictions of the first ``frames - steps`` frames.
        frames: frames to be predicted.
        negatives: from :func:`draw_negatives`.
        within: whether each row has negatives of its own only.
    """
    batch, anchors, steps, _ = predicted.shape
    count = frames.shape[1]
    own = negatives.row == torch.arange(batch, device=negatives.row.device)[:, None, None]
    place = negatives.frame if within else negatives.row * count + negatives.frame
    anchor = torch.arange(anchors, device=frames.device)[:, None]
    with torch.autocast(frames.device.type, enabled=False):
        predicted, frames = predicted.float(), frames.float()
        keys = frames.mT if within else frames.flatten(0, 1).T  # (batch) dim keys
        for step in range(steps):
            queries = predicted[:, :, step]
            positive = (queries * frames[:, step + 1 : step + 1 + anchors]).sum(dim=-1)
            scores = (queries @ keys).gather(2, place)
            same = own & (negatives.frame == anchor + step + 1)
            yield StepScores(positive, scores, same=same, own=own & ~same)


@torch.no_grad()
def constancy(frames: Float[Tensor, "batch frames dim"]) -> dict[str, Tensor]:
    """Sums from which :func:`constant_share` is computed."""
    frames = frames.float()
    return {
        "frame_sum": frames.sum(dim=(0, 1)),
        "frame_square": frames.square().sum(),
        "frames": torch.full((), float(frames.shape[0] * frames.shape[1]), device=frames.device),
    }


def constant_share(stats: dict[str, Tensor]) -> float:
    """Fraction of the frames' power that is the same in every frame, from the sums of :func:`constancy`.

    >>> constant_share(constancy(torch.ones(2, 3, 4)))
    1.0
    """
    power = (stats["frame_sum"] / stats["frames"]).square().sum() * stats["frames"]
    return float(power / stats["frame_square"].clamp(min=1e-20))
