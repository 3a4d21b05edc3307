"""SimCLR: two views of a recording are closer to each other than to views of other recordings.

Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual Representations", arXiv 2002.05709, section 2:
encoder, projection head and the NT-Xent loss over all views of a batch. For audio: Saeed et al. 2020, "Contrastive
Learning of General-Purpose Audio Representations" (COLA), arXiv 2010.10915, where the views are two crops of one
recording.

Differences: views are COLA's two crops, one of them augmented as in SimCLR; the network is the encoder of all
objectives on the waveform, its frames averaged over a crop. Crops of the recording of a target are no negatives of it.
The loss and the batch norm of the head are over the global batch, with its gradient, for any number of micro-batches
and ranks.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from speechssl.config import Config as BaseConfig
from speechssl.data.batch import CropBatch
from speechssl.distributed import sum_over_ranks
from speechssl.models.encoder import EncoderConfig, SpeechEncoder
from speechssl.nn.losses import LossSum, nt_xent
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
    two_views,
    unit_sum,
)

ADVICE = {
    "equal embeddings": "all views have nearly the same embedding: lower optim.reference_lr, or raise "
    "objective.temperature",
    "few dimensions": "the vectors vary in few directions: lower optim.reference_lr, more recordings per batch "
    "(crops.batch_seconds), or a lower objective.temperature",
    "not learning": "the other view is found no more often than by chance: more updates, longer crops (crops.seconds), "
    "less augmentation (augment), or another optim.reference_lr",
}


class SymptomConfig(BaseConfig):
    """When an update counts as showing a symptom."""

    min_deviation: float = 0.1  # standard deviation of the unit embeddings, 1 where their mean is zero
    min_rank: float = 2.0  # effective rank of the pooled vectors of a validation batch
    chance_margin: float = 0.02  # a loss within this fraction of that at chance counts as chance


class SimClrConfig(ViewsConfig):
    """Settings; defaults are the paper's on ImageNet."""

    name: Literal["simclr"] = "simclr"  # pyright: ignore[reportIncompatibleVariableOverride] -- frozen
    hidden: PositiveInt = 2048  # of the projection head
    dim: PositiveInt = 128  # of the embeddings that are compared
    temperature: PositiveFloat = 0.1
    symptoms: SymptomConfig = SymptomConfig()

    def shapes(self, encoder: EncoderConfig) -> dict[str, tuple[int, ...]]:
        """Shapes of the projection head."""
        return projector_shapes("projector", encoder.dim, self.hidden, self.dim)

    def in_words(self) -> str:
        """Views, embeddings and temperature."""
        return f"views within {self.near_seconds:g} s, {self.dim} dimensions, temperature {self.temperature:g}"


Config = SimClrConfig

PRESETS: dict[str, SimClrConfig] = {
    "tiny": SimClrConfig(hidden=512),
    "small": SimClrConfig(hidden=1024),
    "base": SimClrConfig(),
    "large": SimClrConfig(),
}

_RATES = {"reference_lr": 1e-3, "reference_seconds": 128.0, "max_lr": 1e-3, "conv_lr_scale": 0.1}

RUNS: Mapping[str, Mapping[str, Mapping[str, object]]] = {
    # Crops are at most half as long as a recording; two crops of each row are encoded.
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
        "crops": {"seconds": 4.0, "min_seconds": 2.0, "batch_seconds": 2048.0, "normalize": False},
        "augment": AUGMENT,
    },
    "large": {
        "crops": {"seconds": 4.0, "min_seconds": 2.0, "batch_seconds": 2048.0},
        "augment": AUGMENT,
        "optim": {"max_lr": 3e-4},
    },
}

CURVES = (
    Curve(
        "loss",
        "Contrastive loss (nats)",
        caption="Cross-entropy of a recording's other view among all views of other recordings. The dashed line is the "
        "loss of equal similarities.",
        chance="chance_loss",
        limits=(0.0, None),
        headline=True,
    ),
    Curve(
        "accuracy",
        "Accuracy among all views",
        caption="How often the other view of the recording is the most similar one.",
        chance="chance_accuracy",
        limits=(0.0, 1.0),
        headline=True,
    ),
    Curve(
        "deviation",
        "Deviation of the unit embeddings",
        caption="0 where all embeddings are equal, 1 where their mean is zero.",
        alarm="symptoms.min_deviation",
        limits=(0.0, 1.0),
    ),
    RANK_CURVE,
)


def build(encoder: SpeechEncoder, config: SimClrConfig, *, seed: int) -> "SimClr":
    """Build the objective around an encoder."""
    return SimClr(encoder, config, seed=seed)


class SimClr(Views):
    """Encoder, mean over the frames of a crop and a projection head; a target is a view, two per row.

    Args:
        encoder: trained in place.
        config: the objective.
        seed: nothing is drawn here; crops and their effects are drawn with the batch.

    Example:
        >>> import numpy as np
        >>> from speechssl.models.encoder import PRESETS as ENCODERS
        >>> objective = SimClr(SpeechEncoder(ENCODERS["tiny"]), PRESETS["tiny"], seed=0)
        >>> crops, near = torch.randn(2, 3, 16000)
        >>> batch = CropBatch(crops, np.arange(3), 3, near=near, recording=torch.arange(3))
        >>> int(objective(batch, step=0, progress=0.0).stats["count"])
        6
    """

    def __init__(self, encoder: SpeechEncoder, config: SimClrConfig, *, seed: int):
        super().__init__(encoder, config, seed=seed)
        self.projector = projector(encoder.config.dim, config.hidden, config.dim)

    def forward(
        self,
        batch: CropBatch,
        *,
        step: int,  # noqa: ARG002 -- nothing is drawn
        progress: float,  # noqa: ARG002 -- nothing follows the run
        shared: Mapping[str, Tensor] | None = None,
    ) -> StepOutput:
        """Loss of a (micro-)batch, with negatives from the global batch."""
        own = pooled(self.encoder, two_views(batch))
        if shared is None:
            shared = sum_over_ranks(at_rows(batch, vectors=own))
        recordings = shared["recordings"]

        def loss(every: Float[Tensor, "rows 2 dim"], targets: Int[Tensor, " targets"]) -> LossSum:
            embeddings = self.projector(every.flatten(0, 1)).unflatten(0, (-1, 2))
            first, second = embeddings.unbind(dim=1)
            found = nt_xent(first, second, temperature=self.config.temperature, groups=recordings, targets=targets)
            return LossSum(found.total, found.stats | {"units": unit_sum(embeddings[targets])})

        found = loss_in_part(loss, own, batch.rows, shared["vectors"], parameters=[*self.projector.parameters()])
        return StepOutput(total=found.total, terms={"nt_xent": found.total.detach()}, stats=found.stats)

    @torch.no_grad()
    def gather(self, parts: Sequence[CropBatch], *, step: int) -> dict[str, Tensor]:  # noqa: ARG002 -- no draws
        """Pooled vectors and recordings of all rows, among which each part finds its negatives."""
        return added([at_rows(part, vectors=pooled(self.encoder, two_views(part))) for part in parts])

    def metrics(self, terms: dict[str, Tensor], stats: dict[str, Tensor]) -> Metrics:
        """Numbers to log from the summed terms and stats of an effective batch.

        ``loss`` per view, ``chance_loss`` that of equal similarities; ``accuracy``, how often the other view is the
        most similar one; ``deviation`` of the unit embeddings.
        """
        count = stats["count"]
        return {
            "loss": float(terms["nt_xent"] / count),
            "chance_loss": float(stats["chance"] / count),
            "accuracy": float(stats["correct"] / count),
            "chance_accuracy": float((-stats["chance"] / count).exp()),
            "deviation": deviation(stats["units"], count),
        }

    def summary(self, metrics: Mapping[str, Any]) -> str:
        """Loss and accuracy."""
        return f"loss {metrics['loss']:.3f} of {metrics['chance_loss']:.3f}, accuracy {metrics['accuracy']:.3f}"

    def symptoms(
        self,
        metrics: Mapping[str, float | Sequence[float]],
        probed: Mapping[str, float | Sequence[float]],
    ) -> list[Symptom]:
        """Three failure modes: equal embeddings, vectors of few dimensions, views that are not found."""
        limits = self.config.symptoms
        value = {name: float(each) for name, each in {**metrics, **probed}.items() if isinstance(each, int | float)}
        signs = {
            "equal embeddings": (
                value["deviation"] < limits.min_deviation,
                f"deviation of the unit embeddings {value['deviation']:.4f}",
            ),
            "few dimensions": (
                value.get("effective_rank", limits.min_rank) < limits.min_rank,
                f"effective rank {value.get('effective_rank', limits.min_rank):.1f}",
            ),
            "not learning": (
                value["loss"] > (1 - limits.chance_margin) * value["chance_loss"],
                f"loss {value['loss']:.3f}, at chance {value['chance_loss']:.3f}",
            ),
        }
        return [Symptom(state, present, evidence, ADVICE[state]) for state, (present, evidence) in signs.items()]
