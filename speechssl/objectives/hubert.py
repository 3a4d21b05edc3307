"""HuBERT: masked prediction of units, the clusters of frames.

Hsu et al. 2021, "HuBERT: Self-Supervised Speech Representation Learning by Masked Prediction of Hidden Units", arXiv
2106.07447, sections II-B to II-D. Targets are fixed before training, so that nothing can collapse: clusters of MFCC at
first, then of a hidden layer of the model that was trained on those (``units.source``). The loss is the cross-entropy
at masked frames alone (the paper's alpha = 1) of cosine similarities to one learnt vector per unit.

Differences from the paper, each a setting: the clustered frames have the encoder's hop of 20 ms and are normalised
within each utterance, without which clusters are speakers and channels; small presets mask less and have neither
feature penalty nor a smaller gradient into the convolutions, as Lin et al. 2022 (MelHuBERT, arXiv 2211.09944).
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from pydantic import PositiveFloat
from torch import Tensor, nn

from speechssl.config import Config as BaseConfig
from speechssl.data.batch import BatchSpec, CropBatch, FrameGrid
from speechssl.data.units import UnitsConfig
from speechssl.models.encoder import EncoderConfig, SpeechEncoder
from speechssl.models.masked import check_masking, objective_context
from speechssl.nn.decoder import ConvDecoder, DecoderConfig, decoder_shapes
from speechssl.nn.losses import code_cross_entropy, cosine_scores
from speechssl.nn.masking import MaskConfig, span_mask
from speechssl.objectives.base import Context, Curve, Metrics, Objective, StepOutput, Symptom
from speechssl.objectives.prosody import ProsodyConfig, prosody_head, prosody_metrics, prosody_term

_MASK = 11  # part of the seed, so that this random stream differs from others

ADVICE = {
    "few units": "almost all frames have the same units: cluster anew with more of them (objective.units.classes), or "
    "other features (objective.units.source)",
    "constant prediction": "the same few units are predicted everywhere: lower optim.reference_lr, or mask less "
    "(objective.mask.probability)",
    "not learning": "the loss stays at that of the units' frequencies: more updates, a larger batch "
    "(crops.batch_seconds), or another optim.reference_lr",
}


class SymptomConfig(BaseConfig):
    """When an update counts as showing a symptom."""

    min_unit_perplexity: float = 4.0  # of the targets of an update
    min_predicted_perplexity: float = 2.0  # of the predictions of an update
    chance_margin: float = 0.01  # a loss within this fraction of the entropy of the targets counts as chance


class HubertConfig(ProsodyConfig):
    """Settings; defaults are the paper's BASE in its first iteration (fairseq ``hubert_base_librispeech.yaml``)."""

    name: Literal["hubert"] = "hubert"  # pyright: ignore[reportIncompatibleVariableOverride] -- frozen
    units: UnitsConfig = UnitsConfig()
    mask: MaskConfig = MaskConfig(probability=0.8)
    decoder: DecoderConfig = DecoderConfig()  # with mask.drop
    dim: int = 256  # of the space where context and units are compared
    logit_temperature: PositiveFloat = 0.1
    feature_penalty: float = 10.0  # weight of the mean square of the latents before their norm
    feature_gradient: float = 0.1  # scale of the gradient into the convolutions
    symptoms: SymptomConfig = SymptomConfig()

    def around(self, start: Path) -> "HubertConfig":
        """Its units are clusters of the encoder's middle layer, as in HuBERT's second iteration."""
        return self.model_copy(update={"units": self.units.model_copy(update={"source": str(start)})})

    def shapes(self, encoder: EncoderConfig) -> dict[str, tuple[int, ...]]:
        """Shapes of the units' vectors and of the projection."""
        own = {"units": (self.units.classes, self.dim), "project.weight": (self.dim, encoder.dim)}
        return own | decoder_shapes(encoder.dim, self.decoder if self.mask.drop else None)

    def check(self, encoder: EncoderConfig) -> None:
        """Compare the masks with the encoder."""
        check_masking(encoder, self.mask, self.decoder)

    def in_words(self) -> str:
        """Units and mask."""
        mask = self.mask.in_words()
        return f"{self.units.classes} units of {self.units.source}, {mask}{self.in_addition()}"


Config = HubertConfig

_LESS = MaskConfig(probability=0.65)

PRESETS: dict[str, HubertConfig] = {
    "tiny": HubertConfig(mask=_LESS, dim=128, feature_penalty=0.0, feature_gradient=1.0),
    "small": HubertConfig(mask=_LESS, feature_penalty=0.0, feature_gradient=1.0),
    "base": HubertConfig(),
    "large": HubertConfig(dim=768),
}

_RATES = {"reference_lr": 1e-3, "reference_seconds": 32.0, "max_lr": 1e-3, "conv_lr_scale": 0.1}

RUNS: Mapping[str, Mapping[str, Mapping[str, object]]] = {
    "tiny": {
        "crops": {"seconds": 2.0, "min_seconds": 1.5, "batch_seconds": 32.0},
        "optim": _RATES | {"reference_lr": 2e-3, "max_lr": 2e-3},
        "loop": {"steps": 1200, "validate_every": 200, "checkpoint_every": 200},
    },
    "small": {
        "crops": {"seconds": 4.0, "min_seconds": 2.0, "batch_seconds": 64.0},
        "optim": _RATES | {"max_lr": 5e-4},
        "loop": {"steps": 20_000, "validate_every": 250, "checkpoint_every": 250},
    },
    "base": {"crops": {"normalize": False}},
    "large": {"crops": {"seconds": 20.0, "batch_seconds": 75.0}, "optim": {"max_lr": 3e-4}},
}

CURVES = (
    Curve(
        "loss",
        "Loss (nats per masked frame)",
        caption="Cross-entropy of the unit of a masked frame. The dashed line is the entropy of the units: the loss of "
        "a model that only knows how frequent each is.",
        chance="chance_loss",
        headline=True,
    ),
    Curve("accuracy", "Accuracy of the unit", limits=(0.0, None), headline=True),
    Curve(
        "predicted_perplexity",
        "Perplexity of units",
        label="predicted",
        caption="Perplexity: how many units are in effective use.",
        alarm="symptoms.min_predicted_perplexity",
        limits=(0.0, None),
    ),
    Curve("unit_perplexity", "Perplexity of units", label="targets", bound="units.classes", limits=(0.0, None)),
)


def build(encoder: SpeechEncoder, config: HubertConfig, *, seed: int) -> "Hubert":
    """Build the objective around an encoder."""
    return Hubert(encoder, config, seed=seed)


class Hubert(Objective):
    """Encoder, projection and one vector per unit; a target is a masked frame.

    Args:
        encoder: trained in place.
        config: the objective.
        seed: seed of masks.

    Example:
        >>> from speechssl.models.encoder import PRESETS as ENCODERS
        >>> objective = Hubert(SpeechEncoder(ENCODERS["tiny"]), PRESETS["tiny"], seed=0)
        >>> units = torch.randint(100, (2, 99))
        >>> loss = objective(CropBatch(torch.randn(2, 32000), np.arange(2), 2, labels=units), step=0, progress=0.0)
        >>> sorted(loss.terms), int(loss.stats["count"])
        (['feature_penalty', 'units'], 84)
    """

    def __init__(self, encoder: SpeechEncoder, config: HubertConfig, *, seed: int):
        super().__init__(encoder, seed=seed)
        self.config = config
        self.project = nn.Linear(encoder.config.dim, config.dim)
        self.units = nn.Parameter(torch.rand(config.units.classes, config.dim))  # fairseq's uniform
        self.mask_embedding = nn.Parameter(torch.rand(encoder.config.dim))  # the same
        self.decoder = ConvDecoder(encoder.config.dim, config.decoder) if config.mask.drop else None
        self.prosody = prosody_head(encoder.config, config)

    @property
    def batch_spec(self) -> BatchSpec:
        """The unit of each frame."""
        conv = self.encoder.config.conv
        grid = FrameGrid(conv.hop, conv.receptive_field, conv.padding)
        return BatchSpec(labels=self.config.units, grid=grid, hop=conv.hop, level=self.prosody is not None)

    @property
    def min_frames(self) -> int:
        """Frames that the minimum number of spans needs."""
        return self.config.mask.min_frames(self.encoder.config.squeeze_factor)

    def forward(
        self,
        batch: CropBatch,
        *,
        step: int,
        progress: float,  # noqa: ARG002 -- nothing follows the run
        shared: Mapping[str, Tensor] | None = None,  # noqa: ARG002 -- the loss is a sum over frames
    ) -> StepOutput:
        """Loss of a (micro-)batch; masks are functions of (seed, step, position in the batch)."""
        assert batch.labels is not None
        mask, labels = self.mask(batch, step=step), batch.labels
        features = self.encoder.features(batch.waveforms)  # batch frames channels
        if features.requires_grad and self.config.feature_gradient != 1.0:
            features.register_hook(lambda gradient: gradient * self.config.feature_gradient)
        latents = self.encoder.feature_norm(features)
        context = objective_context(self.encoder, latents, self.mask_embedding, mask, self.decoder)
        logits = self.scores(context[mask])  # targets classes
        found = code_cross_entropy(logits.unsqueeze(-2), labels[mask].unsqueeze(-1))
        more_terms, more_stats = prosody_term(self.prosody, context, mask, batch.waveforms, batch.level)
        with torch.autocast(features.device.type, enabled=False):
            terms = {"units": found.total} | more_terms
            if self.config.feature_penalty:
                penalty = self.config.feature_penalty * features.float().square().mean()
                terms["feature_penalty"] = penalty * found.count
            total = torch.stack(list(terms.values())).sum()
        with torch.no_grad():
            classes = self.config.units.classes
            stats = {
                "count": found.count,
                "correct": found.stats["correct"].sum(),
                "targets": torch.bincount(labels[mask], minlength=classes).float(),
                "predicted": torch.bincount(logits.argmax(dim=-1), minlength=classes).float(),
            }
        detached = {name: term.detach() for name, term in terms.items()}
        terms = {"feature_penalty": total.new_zeros(())} | detached
        return StepOutput(total=total, terms=terms, stats=stats | more_stats)

    def mask(self, crops: CropBatch, *, step: int) -> Bool[Tensor, "batch frames"]:
        """Masks of these crops, sliced from the draw for the whole global batch."""
        frames = int(self.encoder.num_frames(torch.tensor(crops.waveforms.shape[1])))
        group = self.encoder.config.squeeze_factor
        rng = np.random.default_rng((self.seed, _MASK, step))
        drawn = span_mask(np.full(crops.global_rows, frames), self.config.mask, rng=rng, group=group)
        return torch.from_numpy(drawn[crops.rows]).to(crops.waveforms.device, non_blocking=True)  # no wait for a GPU

    def scores(self, context: Float[Tensor, "frames dim"]) -> Float[Tensor, "frames classes"]:
        """Logit of each unit: cosine similarity over temperature."""
        return cosine_scores(self.project(context), self.units, temperature=self.config.logit_temperature)

    def context(self, batch: CropBatch, *, step: int) -> Context:
        """Output of the context network with the masks of a step."""
        mask = self.mask(batch, step=step)
        latents = self.encoder.latents(batch.waveforms)
        frames = objective_context(self.encoder, latents, self.mask_embedding, mask, self.decoder)
        return Context(frames, hidden=mask)

    def metrics(self, terms: dict[str, Tensor], stats: dict[str, Tensor]) -> Metrics:
        """Numbers to log from the summed terms and stats of an effective batch.

        ``loss`` in nats per masked frame; ``chance_loss`` the entropy of the units of these frames; perplexities of the
        units and of the predictions.
        """
        count = stats["count"]
        entropy = {name: _entropy(stats[name]) for name in ("targets", "predicted")}
        found: Metrics = {
            "loss": float(sum(terms.values()) / count),
            "unit_loss": float(terms["units"] / count),
            "feature_penalty": float(terms["feature_penalty"] / count),
            "chance_loss": entropy["targets"],
            "accuracy": float(stats["correct"] / count),
            "unit_perplexity": math.exp(entropy["targets"]),
            "predicted_perplexity": math.exp(entropy["predicted"]),
        }
        return found | prosody_metrics(stats)

    def summary(self, metrics: Mapping[str, Any]) -> str:
        """Loss, accuracy and perplexity of the predictions.

        >>> from speechssl.models.encoder import PRESETS as ENCODERS
        >>> objective = Hubert(SpeechEncoder(ENCODERS["tiny"]), PRESETS["tiny"], seed=0)
        >>> objective.summary({"loss": 2.5, "accuracy": 0.25, "predicted_perplexity": 40.5})
        'loss 2.500, accuracy 0.250, perplexity 40'
        """
        return (
            f"loss {metrics['loss']:.3f}, accuracy {metrics['accuracy']:.3f}, "
            f"perplexity {metrics['predicted_perplexity']:.0f}"
        )

    def symptoms(
        self,
        metrics: Mapping[str, float | Sequence[float]],
        probed: Mapping[str, float | Sequence[float]],  # noqa: ARG002 -- nothing slower is measured
    ) -> list[Symptom]:
        """Three failure modes: targets that are nearly constant, constant predictions, a loss that stays at chance."""
        limits = self.config.symptoms
        value = {name: float(each) for name, each in metrics.items() if isinstance(each, int | float)}
        signs = {
            "few units": (
                value["unit_perplexity"] < limits.min_unit_perplexity,
                f"perplexity of the units {value['unit_perplexity']:.2f}",
            ),
            "constant prediction": (
                value["predicted_perplexity"] < limits.min_predicted_perplexity,
                f"perplexity of the predictions {value['predicted_perplexity']:.2f}",
            ),
            "not learning": (
                value["unit_loss"] > (1 - limits.chance_margin) * value["chance_loss"],
                f"loss {value['unit_loss']:.3f}, entropy of the units {value['chance_loss']:.3f}",
            ),
        }
        return [Symptom(state, present, evidence, ADVICE[state]) for state, (present, evidence) in signs.items()]


def _entropy(counts: Float[Tensor, " classes"]) -> float:
    """Entropy of a histogram, nats."""
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * shares.log()).sum())
