"""Auxiliary masked prediction of frame prosody, which any masked objective can carry with a weight.

F0, voicing, energy and spectral tilt of masked frames are predicted from the context by one linear map, beside the
objective's own loss. After CARE (Dutta and Ganapathy 2024, arXiv 2409.05566) and Hybrid BYOL-S (Elbanna et al. 2022,
arXiv 2203.16637), which add targets of acoustic features to a loss on what is said: units and codes keep little of how
it is said. Differences from both: four measures per frame instead of a set of low-level descriptors, and masked frames
alone, so that the context has to carry prosody over time.

Energy is that of the recording, not of the crop of unit variance that the encoder gets: its changes over the crop are
audible to the encoder, its level is not.
"""

import torch
from jaxtyping import Bool, Float
from pydantic import NonNegativeFloat
from torch import Tensor, nn

from speechssl.models.encoder import EncoderConfig
from speechssl.nn.features import prosody
from speechssl.nn.losses import LossSum
from speechssl.nn.targets import encoder_framing
from speechssl.objectives.base import Curve, Metrics, ObjectiveConfig

MEASURES = ("f0", "voicing", "energy", "tilt")
MIN_VOICING = 0.5  # of frames whose F0 is a target
# Zero and unit of each target, near mean and deviation in five corpora of speech: log2 Hz; part; dB; dB per octave.
_ZERO = (7.4, 0.6, -35.0, -5.0)
_UNIT = (0.6, 0.33, 16.0, 4.0)

CURVES = tuple(
    Curve(
        f"{measure}_explained",
        "Prosody: explained variance",
        label=measure,
        caption=caption,
        limits=(None, 1.0),
    )
    for measure, caption in zip(
        MEASURES,
        (
            "Fraction of the variance of F0 (at voiced frames), voicing, energy and spectral tilt that is predicted at "
            "masked frames; 0 is a constant prediction.",
            *[""] * 3,
        ),
        strict=True,
    )
)


class ProsodyConfig(ObjectiveConfig):
    """Settings of an objective that may carry the prediction.

    Attributes:
        prosody_weight: of the prediction in the loss; 0: none.
    """

    prosody_weight: NonNegativeFloat = 0.0

    def more_curves(self) -> tuple[Curve, ...]:
        """Those of prosody, where it has a weight."""
        return CURVES if self.prosody_weight else ()

    def in_addition(self) -> str:
        """The prediction, in words; nothing for a weight of 0."""
        return f", prosody with weight {self.prosody_weight:g}" if self.prosody_weight else ""


class ProsodyHead(nn.Module):
    """Linear map from context frames to prosody.

    Args:
        encoder: settings of the encoder.
        weight: of the term in the loss.
    """

    def __init__(self, encoder: EncoderConfig, weight: float):
        super().__init__()
        self.weight, self.framing = weight, encoder_framing(encoder.conv)
        self.predict = nn.Linear(encoder.dim, len(MEASURES))

    def forward(
        self,
        context: Float[Tensor, "batch frames dim"],
        mask: Bool[Tensor, "batch frames"],
        waveforms: Float[Tensor, "crops samples"],
        level: Float[Tensor, " crops"],
    ) -> LossSum:
        """Weighted sum over masked frames of the mean square error over the measures, in units of their deviation.

        Args:
            context: output of the context network; of all crops one after another as often as there are masks.
            mask: masked frames.
            waveforms: the crops.
            level: factor that gives them the level of the recording.

        Returns:
            Stats that :func:`prosody_metrics` needs; ``count`` is the number of masked frames.
        """
        targets, known = self.targets(waveforms, level)
        frames, copies = mask.shape[1], len(mask) // len(waveforms)
        targets = targets[:, :frames].repeat(copies, 1, 1)[mask]  # masked measures
        known = known[:, :frames].repeat(copies, 1, 1)[mask].float()
        with torch.autocast(context.device.type, enabled=False):
            errors = (self.predict(context[mask].float()) - targets).square() * known
            total = self.weight * errors.mean(dim=-1).sum()
            count = torch.full((), float(len(targets)), device=targets.device)
            stats = {
                "count": count,
                "prosody": total.detach(),
                "prosody_error": errors.detach().sum(dim=0),
                "prosody_known": known.sum(dim=0),
                "prosody_sum": (targets * known).sum(dim=0),
                "prosody_square": (targets.square() * known).sum(dim=0),
            }
        return LossSum(total, stats)

    @torch.no_grad()
    def targets(
        self, waveforms: Float[Tensor, "batch samples"], level: Float[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch frames 4"], Bool[Tensor, "batch frames 4"]]:
        """Normalised measures of each frame, and which of them are targets: F0 at voiced frames alone."""
        samples = torch.full((len(waveforms),), waveforms.shape[1], device=waveforms.device)
        found = prosody(waveforms.float() * level.unsqueeze(-1), samples, framing=self.framing)
        measured = torch.stack([found.f0.clamp(min=1).log2(), found.voicing, found.energy, found.tilt], dim=-1)
        zero, unit = (measured.new_tensor(each) for each in (_ZERO, _UNIT))
        known = torch.ones_like(measured, dtype=torch.bool)
        known[..., 0] = found.voicing >= MIN_VOICING
        return (measured - zero) / unit, known


def prosody_head(encoder: EncoderConfig, config: ProsodyConfig) -> ProsodyHead | None:
    """The head of an objective; None for a weight of 0."""
    return ProsodyHead(encoder, config.prosody_weight) if config.prosody_weight else None


def prosody_term(
    head: ProsodyHead | None,
    context: Float[Tensor, "batch frames dim"],
    mask: Bool[Tensor, "batch frames"],
    waveforms: Float[Tensor, "crops samples"],
    level: Float[Tensor, " crops"] | None,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Terms and stats to add to those of an objective; none without a head."""
    if head is None:
        return {}, {}
    assert level is not None
    found = head(context, mask, waveforms, level)
    return {"prosody": found.total}, {name: each for name, each in found.stats.items() if name != "count"}


def prosody_metrics(stats: dict[str, Tensor]) -> Metrics:
    """Numbers to log from the summed stats of an effective batch; none without a head.

    ``prosody_loss`` per masked frame, weighted; for each measure the explained part of its variance.
    """
    if "prosody" not in stats:
        return {}
    known = stats["prosody_known"].clamp(min=1)
    mean = stats["prosody_sum"] / known
    variance = (stats["prosody_square"] / known - mean.square()).clamp(min=1e-6)
    explained = 1 - stats["prosody_error"] / known / variance
    found: Metrics = {"prosody_loss": float(stats["prosody"] / stats["count"])}
    return found | {f"{name}_explained": float(each) for name, each in zip(MEASURES, explained, strict=True)}
