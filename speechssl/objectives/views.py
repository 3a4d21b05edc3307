"""Two views of a recording, one vector each, and measures of whether vectors still differ: SimCLR, BYOL, DINO.

The views are the crop, with the effects of the run's ``augment``, and a crop near it, as recorded. What they share is
learnt: with one microphone per recording also its channel, unless ``augment`` changes that.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from speechssl.data.batch import BatchSpec, CropBatch, Pairs
from speechssl.data.crops import Seconds
from speechssl.metrics.unit_quality import effective_rank
from speechssl.models.encoder import SpeechEncoder
from speechssl.nn.losses import cosine_scores, info_nce
from speechssl.nn.pooling import mean_pool
from speechssl.nn.rows import scattered
from speechssl.objectives.base import Curve, Metrics, Objective, ObjectiveConfig

AUGMENT = {  # of the crop, so that the channel and its noise are no property that both views have
    "reverb": 0.3,
    "noise": 0.5,
    "low_pass": 0.3,
    "high_pass": 0.3,
}

RANK_CURVE = Curve(
    "effective_rank",
    "Effective rank of the pooled vectors",
    caption="Dimensions that the pooled vectors of a validation batch vary in, their mean subtracted; near one, all "
    "recordings differ in one direction only.",
    alarm="symptoms.min_rank",
    limits=(0.0, None),
    training=False,
)


class ViewsConfig(ObjectiveConfig):
    """Settings of an objective on two views.

    Attributes:
        near_seconds: largest distance from the start of a crop to that of its other view.
    """

    near_seconds: Seconds = 10.0


class Views(Objective):
    """An objective on two views of each recording.

    Args:
        encoder: trained in place.
        config: the objective.
        seed: seed of its draws.
    """

    def __init__(self, encoder: SpeechEncoder, config: ViewsConfig, *, seed: int):
        super().__init__(encoder, seed=seed)
        self.config: Any = config

    @property
    def batch_spec(self) -> BatchSpec:
        """A near crop beside every crop; the far one is not used."""
        near = self.config.near_seconds
        return BatchSpec(pairs=Pairs(near_seconds=near, far_seconds=near))

    def probe(self, batch: CropBatch) -> Metrics:
        """Effective rank of the released encoder's vectors; 1 where they are equal."""
        vectors = pooled(self.released, batch.waveforms.unsqueeze(1))[:, 0].cpu().numpy()
        try:
            return {"effective_rank": effective_rank(vectors, centre=True)}
        except ValueError:
            return {"effective_rank": 1.0}


def two_views(batch: CropBatch) -> Float[Tensor, "batch 2 samples"]:
    """The crops of a batch, each with the one near it."""
    assert batch.near is not None
    return torch.stack([batch.waveforms, batch.near], dim=1)


def pooled(encoder: SpeechEncoder, crops: Float[Tensor, "batch crops samples"]) -> Float[Tensor, "batch crops dim"]:
    """Mean over the frames of each crop, fp32; all are encoded in one pass."""
    frames = encoder(crops.flatten(0, 1)).frames
    return mean_pool(frames.float()).unflatten(0, crops.shape[:2])


def at_rows(batch: CropBatch, **values: Tensor) -> dict[str, Tensor]:
    """Values of a part and its recordings at their rows in the global batch, zeros elsewhere; parts add up."""
    assert batch.recording is not None
    own = {**values, "recordings": batch.recording}
    return {name: scattered(each, batch.rows, batch.global_rows) for name, each in own.items()}


def retrieval(
    queries: Float[Tensor, "targets views dim"],
    keys: Float[Tensor, "rows views dim"],
    targets: Int[Tensor, " targets"],
    recordings: Int[Tensor, " rows"],
) -> dict[str, Tensor]:
    """How often a query's own key is more similar than those of all other recordings.

    Args:
        queries: of the target rows.
        keys: of all rows; a query is compared with those of the same view.
        targets: rows of the queries.
        recordings: one number per row.

    Returns:
        Sums over targets and views: ``correct`` and ``chance``, see :func:`~speechssl.nn.losses.info_nce`.

    >>> rows = torch.eye(3).unsqueeze(1)
    >>> found = retrieval(rows.roll(1, 0), rows, torch.arange(3), torch.arange(3))
    >>> float(found["correct"]), round(float(found["chance"].exp()))  # 3 choices each
    (0.0, 27)
    """
    scores = cosine_scores(queries.transpose(0, 1), keys.transpose(0, 1), temperature=1.0)  # views targets rows
    positive = scores.gather(-1, targets.expand(len(scores), -1).unsqueeze(-1)).squeeze(-1)
    same = (recordings[targets].unsqueeze(1) == recordings).expand_as(scores)
    found = info_nce(positive, scores, same=same).stats
    return {name: found[name] for name in ("correct", "chance")}


def unit_sum(vectors: Float[Tensor, "*shape dim"]) -> Float[Tensor, " dim"]:
    """Sum of the vectors scaled to unit length, for :func:`deviation`."""
    return F.normalize(vectors.detach().float(), dim=-1).flatten(0, -2).sum(dim=0)


def deviation(total: Float[Tensor, " dim"], count: Tensor) -> float:
    """Standard deviation of unit vectors: 0 where all are equal, 1 where their mean is zero.

    Args:
        total: their sum.
        count: their number.

    >>> round(deviation(unit_sum(torch.eye(2)), torch.tensor(2)) ** 2, 3)
    0.5
    """
    return float((1 - (total / count.clamp(min=1)).square().sum()).clamp(min=0).sqrt())
