"""Prediction of units beside an objective's own loss for the first share of a run: a warm start.

Codes that are learnt together with the encoder are nearly random at first, and contrastive runs stay at chance for
their first hundreds of updates. Units, clusters of frames made before training, are steady targets. The loss is that of
HuBERT (Hsu et al. 2021, arXiv 2106.07447, section II-B) at the same masked frames, with a weight that falls linearly to
0. w2v-BERT (Chung et al. 2021, arXiv 2108.06209) has both losses with a constant weight, and the codes of its
contrastive part as units.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from speechssl.config import Config
from speechssl.nn.losses import code_cross_entropy, cosine_scores
from speechssl.objectives.base import Curve, Metrics, Symptom

STATE = "units not learnt"
ADVICE = (
    "the loss of the units stays at that of their frequencies: lower or raise optim.reference_lr, raise "
    "objective.warm_units.weight, or take other units (objective.units), or none (objective.warm_units.share=0)"
)

CURVES = (
    Curve(
        "unit_loss",
        "Warm start: loss of units (nats per masked frame)",
        caption="Cross-entropy of the unit of a masked frame, without its weight. The dashed line is the entropy of "
        "the units. After the warm start its weight is 0 and it may rise.",
        chance="unit_chance",
    ),
    Curve("unit_accuracy", "Warm start: accuracy of the unit", limits=(0.0, None)),
)


class WarmUnitsConfig(Config):
    """The warm start.

    Attributes:
        share: fraction of the run at whose end the weight reaches 0; 0: none.
        weight: of the loss of units at the start.
    """

    share: float = Field(default=0.0, ge=0, le=1)
    weight: PositiveFloat = 1.0

    def at(self, progress: float) -> float:
        """Weight at a fraction of the run.

        >>> [WarmUnitsConfig(share=0.2, weight=2.0).at(progress) for progress in (0.0, 0.1, 0.2, 1.0)]
        [2.0, 1.0, 0.0, 0.0]
        """
        return self.weight * max(0.0, 1 - progress / self.share) if self.share else 0.0


class UnitHead(nn.Module):
    """Projection of the context and one vector per unit.

    Args:
        config: weight over the run.
        inputs: dimension of the context.
        dim: of the space where context and units are compared.
        classes: number of units.
        temperature: divides the cosine similarity.
    """

    def __init__(self, config: WarmUnitsConfig, *, inputs: int, dim: int, classes: int, temperature: float):
        super().__init__()
        self.config, self.temperature = config, temperature
        self.project = nn.Linear(inputs, dim)
        self.units = nn.Parameter(torch.rand(classes, dim))  # fairseq's uniform

    def forward(
        self, context: Float[Tensor, "targets dim"], labels: Int[Tensor, " targets"], *, progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted sum of the losses of masked frames, and stats that :func:`unit_metrics` needs.

        With a weight of 0 the sum is still part of the graph, as data parallelism needs.

        Args:
            context: output of the context network at masked frames.
            labels: their units.
            progress: fraction of the run done.
        """
        logits = cosine_scores(self.project(context), self.units, temperature=self.temperature)  # targets classes
        found = code_cross_entropy(logits.unsqueeze(-2), labels.unsqueeze(-1))
        weight = self.config.at(progress)
        stats = {
            "unit_loss": found.total.detach(),
            "unit_correct": found.stats["correct"].sum(),
            "unit_weight": weight * found.count,
            "unit_targets": torch.bincount(labels, minlength=len(self.units)).float(),
        }
        return weight * found.total, stats


def unit_metrics(stats: Mapping[str, Tensor]) -> Metrics:
    """Numbers to log from the summed stats of an effective batch; none without a warm start.

    ``unit_loss`` in nats per masked frame, without its weight; ``unit_chance`` the entropy of the units of these
    frames; ``unit_weight`` the weight.
    """
    if "unit_loss" not in stats:
        return {}
    count, targets = stats["count"], stats["unit_targets"]
    shares = targets[targets > 0] / targets.sum()
    return {
        "unit_loss": float(stats["unit_loss"] / count),
        "unit_chance": float(-(shares * shares.log()).sum()),
        "unit_accuracy": float(stats["unit_correct"] / count),
        "unit_weight": float(stats["unit_weight"] / count),
    }


def unit_symptoms(metrics: Mapping[str, Any], *, margin: float) -> list[Symptom]:
    """The failure mode of a warm start, while it lasts: units that are not learnt.

    Args:
        metrics: of an update.
        margin: a loss within this fraction of the entropy of the units counts as chance.
    """
    if "unit_loss" not in metrics:
        return []
    weight, loss, chance = (float(metrics[name]) for name in ("unit_weight", "unit_loss", "unit_chance"))
    present = weight > 0 and loss > (1 - margin) * chance
    return [Symptom(STATE, present, f"loss of units {loss:.3f}, their entropy {chance:.3f}", ADVICE)]
