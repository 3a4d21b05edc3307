"""TRILL: crops that are near in time are closer to each other than to crops of other recordings.

Shor et al. 2020, "Towards Learning a Universal Non-Semantic Representation of Speech", arXiv 2002.12764, section 3.2:
triplets of a crop (anchor), a crop of the same recording within a time scale (positive) and one from farther away or of
another recording (negative); the negative is mined within the batch, semi-hard as in FaceNet (Schroff et al. 2015,
arXiv 1503.03832, section 3.2). What changes slowly, such as voice and emotion, makes near crops similar.

Differences from the paper: the network is the encoder of all objectives on the waveform, its frames averaged over the
crop, not a residual network on log-mel; crops are as long as ``crops.seconds`` (paper: 0.96 s); speech corpora, whose
utterances are mostly shorter than the time scale of 10 s, so that the positive is any crop of the same recording.
Negatives are mined among the global batch over micro-batches and ranks, with the gradient of one batch.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from speechssl.config import Config as BaseConfig
from speechssl.data.batch import BatchSpec, CropBatch, Pairs
from speechssl.data.crops import Seconds
from speechssl.distributed import sum_over_ranks
from speechssl.models.encoder import EncoderConfig, SpeechEncoder
from speechssl.nn.losses import LossSum, semi_hard_triplet
from speechssl.nn.rows import added, loss_in_part, scattered
from speechssl.objectives.base import Curve, Metrics, Objective, ObjectiveConfig, StepOutput, Symptom
from speechssl.objectives.views import pooled

_CROP, _NEAR, _FAR = 0, 1, 2  # places of a row's embeddings
_ABSENT = -2  # recording of a row that no part of the batch has

ADVICE = {
    "equal distances": "all crops have nearly the same embedding: lower optim.reference_lr, or raise objective.margin",
    "no active triplets": "almost every negative is farther than its positive by the margin already: raise "
    "objective.margin, or compare with more recordings (crops.batch_seconds)",
    "not learning": "near crops are no closer than those of other recordings: more updates, longer crops "
    "(crops.seconds), or another optim.reference_lr",
}


class SymptomConfig(BaseConfig):
    """When an update counts as showing a symptom."""

    min_distance_deviation: float = 0.01  # standard deviation of the squared distances to all negatives
    min_active: float = 0.01  # fraction of the triplets with a loss above zero
    chance_margin: float = 0.05  # an accuracy below 0.5 and this counts as chance


class TrillConfig(ObjectiveConfig):
    """Settings; time scale and dimension are the paper's."""

    name: Literal["trill"] = "trill"  # pyright: ignore[reportIncompatibleVariableOverride] -- frozen
    near_seconds: Seconds = 10.0  # largest distance of a positive
    far_seconds: Seconds = 10.0  # smallest distance of a negative in the same recording
    dim: PositiveInt = 512  # of the embeddings that are compared
    margin: float = Field(default=0.1, gt=0, lt=4)  # of squared distances of unit vectors, which are 4 at most
    symptoms: SymptomConfig = SymptomConfig()

    def shapes(self, encoder: EncoderConfig) -> dict[str, tuple[int, ...]]:
        """Shape of the embedding's linear map."""
        return {"project.weight": (self.dim, encoder.dim)}

    def check(self, encoder: EncoderConfig) -> None:  # noqa: ARG002 -- its own settings alone
        """Compare the two distances."""
        if self.near_seconds > self.far_seconds:
            raise ValueError(
                f"objective.near_seconds={self.near_seconds:g} with objective.far_seconds={self.far_seconds:g}: a "
                "positive must be nearer than a negative; raise far_seconds, or lower near_seconds"
            )

    def in_words(self) -> str:
        """Time scale and margin."""
        return f"positives within {self.near_seconds:g} s, margin {self.margin:g}, {self.dim} dimensions"


Config = TrillConfig

PRESETS: dict[str, TrillConfig] = {
    "tiny": TrillConfig(dim=128),
    "small": TrillConfig(dim=256),
    "base": TrillConfig(),
    "large": TrillConfig(),
}

_RATES = {"reference_lr": 1e-3, "reference_seconds": 32.0, "max_lr": 1e-3, "conv_lr_scale": 0.1}

RUNS: Mapping[str, Mapping[str, Mapping[str, object]]] = {
    # Crops are at most half as long as a recording, and three crops of each row are encoded.
    "tiny": {
        "crops": {"seconds": 1.0, "min_seconds": 0.5, "batch_seconds": 32.0},
        "optim": _RATES,
        "loop": {"steps": 1200, "validate_every": 200, "checkpoint_every": 200},
    },
    "small": {
        "crops": {"seconds": 2.0, "min_seconds": 1.0, "batch_seconds": 128.0},
        "optim": _RATES | {"max_lr": 5e-4},
        "loop": {"steps": 20_000, "validate_every": 250, "checkpoint_every": 250},
    },
    "base": {"crops": {"seconds": 4.0, "min_seconds": 2.0, "normalize": False}},
    "large": {"crops": {"seconds": 4.0, "min_seconds": 2.0}, "optim": {"max_lr": 3e-4}},
}

CURVES = (
    Curve(
        "loss",
        "Triplet loss",
        caption="Required difference of the squared distances to negative and positive, less the actual one. The "
        "dashed line is the margin, the loss of equal distances.",
        chance="chance_loss",
        limits=(0.0, None),
        headline=True,
    ),
    Curve(
        "accuracy",
        "Accuracy among all negatives",
        caption="How often the near crop is closer than a crop of another recording, over all pairs, not only the "
        "mined ones.",
        chance="chance_accuracy",
        limits=(0.0, 1.0),
        headline=True,
    ),
    Curve("near_distance", "Squared distance (0 to 4)", label="near crops", limits=(0.0, None)),
    Curve("far_distance", "Squared distance (0 to 4)", label="other recordings", limits=(0.0, None)),
    Curve(
        "distance_deviation",
        "Health of the distances",
        label="deviation of distances",
        alarm="symptoms.min_distance_deviation",
        limits=(0.0, None),
    ),
    Curve(
        "active",
        "Health of the distances",
        label="active triplets",
        caption="Active triplets have a loss above zero; the others teach nothing.",
        alarm="symptoms.min_active",
        limits=(0.0, None),
    ),
)


def build(encoder: SpeechEncoder, config: TrillConfig, *, seed: int) -> "Trill":
    """Build the objective around an encoder."""
    return Trill(encoder, config, seed=seed)


class Trill(Objective):
    """Encoder, mean over the frames of a crop and a linear map; a target is a crop with its near one.

    Args:
        encoder: trained in place.
        config: the objective.
        seed: nothing is drawn here; crops are drawn with the batch.

    Example:
        >>> import numpy as np
        >>> from speechssl.models.encoder import PRESETS as ENCODERS
        >>> objective = Trill(SpeechEncoder(ENCODERS["tiny"]), PRESETS["tiny"], seed=0)
        >>> crops, near, far = torch.randn(3, 2, 16000)
        >>> recording = torch.arange(2)
        >>> batch = CropBatch(
        ...     crops, np.arange(2), 2, near=near, far=far, recording=recording, far_recording=recording.flip(0)
        ... )
        >>> int(objective(batch, step=0, progress=0.0).stats["count"])
        2
    """

    def __init__(self, encoder: SpeechEncoder, config: TrillConfig, *, seed: int):
        super().__init__(encoder, seed=seed)
        self.config = config
        self.project = nn.Linear(encoder.config.dim, config.dim)

    @property
    def batch_spec(self) -> BatchSpec:
        """A near and a far crop beside every crop."""
        return BatchSpec(pairs=Pairs(near_seconds=self.config.near_seconds, far_seconds=self.config.far_seconds))

    def forward(
        self,
        batch: CropBatch,
        *,
        step: int,  # noqa: ARG002 -- nothing is drawn
        progress: float,  # noqa: ARG002 -- nothing follows the run
        shared: Mapping[str, Tensor] | None = None,
    ) -> StepOutput:
        """Loss of a (micro-)batch, with negatives from the global batch."""
        own = self.embed(batch)
        if shared is None:
            shared = sum_over_ranks(_table(batch, own))
        allowed = allowed_negatives(shared["recordings"] + _ABSENT)

        def loss(every: Float[Tensor, "rows 3 dim"], targets: Int[Tensor, " targets"]) -> LossSum:
            anchors, positives = every[targets, _CROP], every[targets, _NEAR]
            candidates = every.transpose(0, 1).flatten(0, 1)
            return semi_hard_triplet(
                anchors, positives, candidates, allowed=allowed[targets], margin=self.config.margin
            )

        found = loss_in_part(loss, own, batch.rows, shared["embeddings"])
        index = torch.from_numpy(batch.rows).to(own.device)
        every = shared["embeddings"].index_copy(0, index, own.detach())
        stats = found.stats | _pair_stats(every[index], every, allowed[index])
        return StepOutput(total=found.total, terms={"triplet": found.total.detach()}, stats=stats)

    def embed(self, batch: CropBatch) -> Float[Tensor, "batch 3 dim"]:
        """Unit vectors of the crops, near and far ones, in fp32."""
        assert batch.near is not None
        assert batch.far is not None
        vectors = pooled(self.encoder, torch.stack([batch.waveforms, batch.near, batch.far], dim=1))
        with torch.autocast(vectors.device.type, enabled=False):
            return F.normalize(self.project(vectors), dim=-1)

    @torch.no_grad()
    def gather(self, parts: Sequence[CropBatch], *, step: int) -> dict[str, Tensor]:  # noqa: ARG002 -- no draws
        """Embeddings and recordings of all rows, among which each part finds its negatives."""
        return added([_table(part, self.embed(part)) for part in parts])

    def metrics(self, terms: dict[str, Tensor], stats: dict[str, Tensor]) -> Metrics:
        """Numbers to log from the summed terms and stats of an effective batch.

        ``loss`` per crop that has a negative, ``chance_loss`` the margin; ``active``, fraction of the crops with a loss
        above zero; over all pairs of a crop and a possible negative: ``accuracy``, how often the positive is nearer,
        ``far_distance`` and ``distance_deviation``, mean and standard deviation of the squared distances.
        """
        count, pairs = stats["count"].clamp(min=1), stats["pairs"].clamp(min=1)
        mean = stats["distances"] / pairs
        return {
            "loss": float(terms["triplet"] / count),
            "chance_loss": self.config.margin,
            "accuracy": float(stats["nearer"] / pairs),
            "chance_accuracy": 0.5,
            "active": float(stats["active"] / count),
            "near_distance": float(stats["near"] / count),
            "far_distance": float(mean),
            "distance_deviation": float((stats["squares"] / pairs - mean.square()).clamp(min=0).sqrt()),
        }

    def summary(self, metrics: Mapping[str, Any]) -> str:
        """Loss, accuracy and active triplets."""
        return f"loss {metrics['loss']:.3f}, accuracy {metrics['accuracy']:.3f}, {100 * metrics['active']:.0f} % active"

    def symptoms(
        self,
        metrics: Mapping[str, float | Sequence[float]],
        probed: Mapping[str, float | Sequence[float]],  # noqa: ARG002 -- nothing slower is measured
    ) -> list[Symptom]:
        """Three failure modes: equal embeddings, nothing left to separate, near crops that are not near."""
        limits = self.config.symptoms
        value = {name: float(each) for name, each in metrics.items() if isinstance(each, int | float)}
        signs = {
            "equal distances": (
                value["distance_deviation"] < limits.min_distance_deviation,
                f"deviation of the squared distances {value['distance_deviation']:.4f}",
            ),
            "no active triplets": (
                value["active"] < limits.min_active,
                f"{100 * value['active']:.1f} % of the triplets have a loss above zero",
            ),
            "not learning": (
                value["accuracy"] < value["chance_accuracy"] + limits.chance_margin,
                f"accuracy {value['accuracy']:.3f}, at chance {value['chance_accuracy']:.1f}",
            ),
        }
        return [Symptom(state, present, evidence, ADVICE[state]) for state, (present, evidence) in signs.items()]


def allowed_negatives(recordings: Int[Tensor, "rows 2"]) -> Bool[Tensor, "rows 3*rows"]:
    """Which crops may be the negative of which anchor.

    Args:
        recordings: numbers of the recordings of a row's crop and of its far crop, as in
            :class:`~speechssl.data.batch.CropBatch`; -2 for a row that is not there.

    Returns:
        Columns are the crops of all rows, then their near, then their far ones: those of other recordings, and the
        anchor's own far crop.

    >>> allowed_negatives(torch.tensor([[0, -1], [1, 0]])).int().tolist()  # the far crop of row 1 is of recording 0
    [[0, 1, 0, 1, 1, 0], [1, 0, 1, 0, 1, 1]]
    """
    crop, far = recordings.unbind(dim=1)
    own_far = far == -1  # from the row's own recording
    far = torch.where(own_far, crop, far)
    other, other_far = crop.unsqueeze(1) != crop, crop.unsqueeze(1) != far
    other_far = other_far | torch.diag(own_far)
    present = crop != _ABSENT
    return torch.cat([other, other, other_far], dim=1) & present.repeat(3) & present.unsqueeze(1)


def _table(batch: CropBatch, vectors: Float[Tensor, "batch 3 dim"]) -> dict[str, Tensor]:
    """Vectors and recordings of a part at their rows in the global batch; recordings are 0 in absent rows."""
    assert batch.recording is not None
    assert batch.far_recording is not None
    recordings = torch.stack([batch.recording, batch.far_recording], dim=1) - _ABSENT
    return {
        "embeddings": scattered(vectors.float(), batch.rows, batch.global_rows),
        "recordings": scattered(recordings, batch.rows, batch.global_rows),
    }


@torch.no_grad()
def _pair_stats(
    own: Float[Tensor, "part 3 dim"], every: Float[Tensor, "rows 3 dim"], allowed: Bool[Tensor, "part candidates"]
) -> dict[str, Tensor]:
    """Sums over all pairs of an anchor and an allowed negative."""
    distances = 2 - 2 * own[:, _CROP] @ every.transpose(0, 1).flatten(0, 1).T  # part candidates
    near = 2 - 2 * (own[:, _CROP] * own[:, _NEAR]).sum(dim=-1, keepdim=True)
    chosen = distances[allowed]
    return {
        "pairs": allowed.sum().float(),
        "nearer": (near < distances)[allowed].sum().float(),
        "distances": chosen.sum(),
        "squares": chosen.square().sum(),
    }
