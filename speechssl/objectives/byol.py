"""BYOL: the embedding that a moving teacher has of one view is predicted from another view, without negatives.

Grill et al. 2020, "Bootstrap Your Own Latent: A New Approach to Self-Supervised Learning", arXiv 2006.07733, sections
3.1 to 3.3: encoder, projector and predictor; targets from moving averages of encoder and projector; the squared error
of unit vectors, in both directions. For audio: Niizumi et al. 2021, "BYOL for Audio" (BYOL-A), arXiv 2103.06695, whose
views are made of one segment. The released encoder is the trained one, as in both papers.

Differences: a view is the crop, augmented, the other a crop near it, which mostly overlaps (``near_seconds``); the
network is the encoder of all objectives on the waveform, its frames averaged over a crop. Batch norm in projector and
predictor, which keeps the method from collapse, is over both views of the global batch, with its gradient, for any
number of micro-batches and ranks.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from pydantic import PositiveInt
from torch import Tensor

from speechssl.config import Config as BaseConfig
from speechssl.data.batch import CropBatch
from speechssl.data.crops import Seconds
from speechssl.distributed import sum_over_ranks
from speechssl.models.encoder import EncoderConfig, SpeechEncoder
from speechssl.nn.ema import EMA, DecayConfig
from speechssl.nn.losses import LossSum, negative_cosine
from speechssl.nn.projector import projector, projector_shapes
from speechssl.nn.rows import added, loss_in_part
from speechssl.objectives.base import Curve, Metrics, StepOutput, Symptom
from speechssl.objectives.views import (
    AUGMENT,
    RANK_CURVE,
    Views,
    ViewsConfig,
    at_rows,
    deviation,
    pooled,
    retrieval,
    two_views,
    unit_sum,
)

ADVICE = {
    "constant targets": "the teacher gives nearly the same for all recordings: lower optim.reference_lr, a larger "
    "batch (crops.batch_seconds), or let the teacher follow more slowly (objective.decay.start, objective.decay.end)",
    "few dimensions": "the vectors vary in few directions: lower optim.reference_lr, or more recordings per batch "
    "(crops.batch_seconds)",
    "not learning": "predictions are no closer to their own target than to others: more updates, another "
    "optim.reference_lr, or a teacher that follows faster in a short run (lower objective.decay.start)",
}


class SymptomConfig(BaseConfig):
    """When an update counts as showing a symptom."""

    min_deviation: float = 0.1  # standard deviation of the unit targets, 1 where their mean is zero
    min_rank: float = 2.0  # effective rank of the pooled vectors of a validation batch
    chance_factor: float = 2.0  # an accuracy below so many times that of chance counts as chance


class ByolConfig(ViewsConfig):
    """Settings; defaults are the paper's."""

    name: Literal["byol"] = "byol"  # pyright: ignore[reportIncompatibleVariableOverride] -- frozen
    near_seconds: Seconds = 0.5
    hidden: PositiveInt = 4096  # of projector and predictor
    dim: PositiveInt = 256  # of the embeddings that are predicted
    decay: DecayConfig = DecayConfig(start=0.996, end=1.0, ramp=1.0, shape="cosine")
    symptoms: SymptomConfig = SymptomConfig()

    def shapes(self, encoder: EncoderConfig) -> dict[str, tuple[int, ...]]:
        """Shapes of projector, predictor and the teacher's projector."""
        sizes = {"projector": encoder.dim, "predictor": self.dim, "teacher_projector.module": encoder.dim}
        found: dict[str, tuple[int, ...]] = {}
        for name, inputs in sizes.items():
            found |= projector_shapes(name, inputs, self.hidden, self.dim)
        return found

    def in_words(self) -> str:
        """Views, embeddings and teacher."""
        teacher = f"teacher of decay {self.decay.start:g} to {self.decay.end:g}"
        return f"views within {self.near_seconds:g} s, {self.dim} dimensions, {teacher}"


Config = ByolConfig

PRESETS: dict[str, ByolConfig] = {
    "tiny": ByolConfig(hidden=512, dim=128, decay=DecayConfig(start=0.95, end=0.995, ramp=1.0, shape="cosine")),
    "small": ByolConfig(hidden=1024, decay=DecayConfig(start=0.99, end=0.9995, ramp=1.0, shape="cosine")),
    "base": ByolConfig(),
    "large": ByolConfig(),
}

_RATES = {"reference_lr": 1e-3, "reference_seconds": 128.0, "max_lr": 1e-3, "conv_lr_scale": 0.1}

RUNS: Mapping[str, Mapping[str, Mapping[str, object]]] = {
    # Crops are at most half as long as a recording; two crops of each row are encoded, by student and teacher.
    "tiny": {
        "crops": {"seconds": 1.0, "min_seconds": 0.5, "batch_seconds": 128.0},
        "augment": AUGMENT,
        "optim": _RATES,
        "loop": {"steps": 600, "validate_every": 100, "checkpoint_every": 100},
        "health": {"grace": 300, "patience": 100},
    },
    "small": {
        "crops": {"seconds": 2.0, "min_seconds": 1.0, "batch_seconds": 512.0},
        "augment": AUGMENT,
        "optim": _RATES | {"reference_lr": 5e-4, "max_lr": 5e-4},
        "loop": {"steps": 20_000, "validate_every": 250, "checkpoint_every": 250},
    },
    "base": {
        "crops": {"seconds": 2.0, "min_seconds": 1.0, "batch_seconds": 1024.0, "normalize": False},
        "augment": AUGMENT,
    },
    "large": {
        "crops": {"seconds": 2.0, "min_seconds": 1.0, "batch_seconds": 1024.0},
        "augment": AUGMENT,
        "optim": {"max_lr": 3e-4},
    },
}

CURVES = (
    Curve(
        "loss",
        "Squared error of unit vectors (0 to 4)",
        caption="Error of the predicted embedding of the other view. It falls to zero in a collapse, too: read it with "
        "accuracy and deviation.",
        limits=(0.0, None),
        headline=True,
    ),
    Curve(
        "accuracy",
        "Accuracy among all recordings",
        caption="How often a prediction is more similar to its own target than to those of all other recordings of the "
        "batch; in a collapse at chance or below.",
        chance="chance_accuracy",
        limits=(0.0, 1.0),
        headline=True,
    ),
    Curve(
        "target_deviation",
        "Deviation of unit vectors",
        label="targets",
        caption="0 where all are equal, 1 where their mean is zero.",
        alarm="symptoms.min_deviation",
        limits=(0.0, 1.0),
    ),
    Curve("prediction_deviation", "Deviation of unit vectors", label="predictions", limits=(0.0, 1.0)),
    RANK_CURVE,
)


def build(encoder: SpeechEncoder, config: ByolConfig, *, seed: int) -> "Byol":
    """Build the objective around an encoder."""
    return Byol(encoder, config, seed=seed)


class Byol(Views):
    """Encoder, projector, predictor and moving averages of the first two; a target is a view, two per row.

    Args:
        encoder: trained in place.
        config: the objective.
        seed: nothing is drawn here; crops and their effects are drawn with the batch.

    Example:
        >>> import numpy as np
        >>> from speechssl.models.encoder import PRESETS as ENCODERS
        >>> objective = Byol(SpeechEncoder(ENCODERS["tiny"]), PRESETS["tiny"], seed=0)
        >>> crops, near = torch.randn(2, 3, 16000)
        >>> batch = CropBatch(crops, np.arange(3), 3, near=near, recording=torch.arange(3))
        >>> int(objective(batch, step=0, progress=0.0).stats["count"])
        6
    """

    criterion = None  # errors of a moving teacher cannot be compared over time

    def __init__(self, encoder: SpeechEncoder, config: ByolConfig, *, seed: int):
        super().__init__(encoder, config, seed=seed)
        self.projector = projector(encoder.config.dim, config.hidden, config.dim)
        self.predictor = projector(config.dim, config.hidden, config.dim)
        self.teacher = EMA(encoder)
        self.teacher_projector = EMA(self.projector)

    def forward(
        self,
        batch: CropBatch,
        *,
        step: int,  # noqa: ARG002 -- nothing is drawn
        progress: float,  # noqa: ARG002 -- the decay is applied after updates
        shared: Mapping[str, Tensor] | None = None,
    ) -> StepOutput:
        """Loss of a (micro-)batch, with the batch norm of the global batch."""
        own = pooled(self.encoder, two_views(batch))
        if shared is None:
            shared = sum_over_ranks(self._table(batch, own))
        expected = self._targets(shared["teacher"])
        recordings = shared["recordings"]

        def loss(every: Float[Tensor, "rows 2 dim"], targets: Int[Tensor, " targets"]) -> LossSum:
            predictions = self.predictor(self.projector(every.flatten(0, 1))).unflatten(0, (-1, 2))[targets]
            found = negative_cosine(predictions, expected[targets])
            stats = retrieval(predictions, expected, targets, recordings)
            sums = {"target_units": unit_sum(expected[targets]), "prediction_units": unit_sum(predictions)}
            return LossSum(2 * found.count + 2 * found.total, found.stats | stats | sums)

        parameters = [*self.projector.parameters(), *self.predictor.parameters()]
        found = loss_in_part(loss, own, batch.rows, shared["vectors"], parameters=parameters)
        return StepOutput(total=found.total, terms={"error": found.total.detach()}, stats=found.stats)

    @torch.no_grad()
    def _targets(self, vectors: Float[Tensor, "rows 2 dim"]) -> Float[Tensor, "rows 2 out"]:
        """The teacher's projection of the other view of each view."""
        with torch.autocast(vectors.device.type, enabled=False):
            return self.teacher_projector.module(vectors.flatten(0, 1)).unflatten(0, (-1, 2)).flip(1)

    @torch.no_grad()
    def _table(self, batch: CropBatch, own: Float[Tensor, "batch 2 dim"]) -> dict[str, Tensor]:
        """Vectors of student and teacher at their rows in the global batch."""
        teacher = self.teacher.module
        assert isinstance(teacher, SpeechEncoder)
        return at_rows(batch, vectors=own, teacher=pooled(teacher, two_views(batch)))

    @torch.no_grad()
    def gather(self, parts: Sequence[CropBatch], *, step: int) -> dict[str, Tensor]:  # noqa: ARG002 -- no draws
        """Pooled vectors of all rows, over which the heads of each part normalise."""
        return added([self._table(part, pooled(self.encoder, two_views(part))) for part in parts])

    def after_update(self, *, step: int, progress: float) -> None:  # noqa: ARG002 -- the decay follows the run
        """The teacher follows encoder and projector."""
        decay = self.config.decay.at(progress)
        self.teacher.update(self.encoder, decay)
        self.teacher_projector.update(self.projector, decay)

    def metrics(self, terms: dict[str, Tensor], stats: dict[str, Tensor]) -> Metrics:
        """Numbers to log from the summed terms and stats of an effective batch.

        ``loss`` per view, 2 less twice the cosine; ``accuracy``, how often a prediction is most similar to its own
        target; deviations of the unit vectors of targets and predictions.
        """
        count = stats["count"]
        return {
            "loss": float(terms["error"] / count),
            "accuracy": float(stats["correct"] / count),
            "chance_accuracy": float((-stats["chance"] / count).exp()),
            "target_deviation": deviation(stats["target_units"], count),
            "prediction_deviation": deviation(stats["prediction_units"], count),
        }

    def summary(self, metrics: Mapping[str, Any]) -> str:
        """Error, accuracy and deviation."""
        found = f"error {metrics['loss']:.3f}, accuracy {metrics['accuracy']:.3f}"
        return f"{found}, deviation of targets {metrics['target_deviation']:.3f}"

    def symptoms(
        self,
        metrics: Mapping[str, float | Sequence[float]],
        probed: Mapping[str, float | Sequence[float]],
    ) -> list[Symptom]:
        """Three failure modes: equal targets, vectors of few dimensions, predictions that fit any target."""
        limits = self.config.symptoms
        value = {name: float(each) for name, each in {**metrics, **probed}.items() if isinstance(each, int | float)}
        signs = {
            "constant targets": (
                value["target_deviation"] < limits.min_deviation,
                f"deviation of the unit targets {value['target_deviation']:.4f}",
            ),
            "few dimensions": (
                value.get("effective_rank", limits.min_rank) < limits.min_rank,
                f"effective rank {value.get('effective_rank', limits.min_rank):.1f}",
            ),
            "not learning": (
                value["accuracy"] < limits.chance_factor * value["chance_accuracy"],
                f"accuracy {value['accuracy']:.3f}, at chance {value['chance_accuracy']:.3f}",
            ),
        }
        return [Symptom(state, present, evidence, ADVICE[state]) for state, (present, evidence) in signs.items()]
