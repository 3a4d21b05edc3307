"""CPC: later latents from the context so far, among negatives.

van den Oord, Li and Vinyals 2018, "Representation Learning with Contrastive Predictive Coding", arXiv 1807.03748,
section 2; in the stable form of Rivière, Joulin, Mazaré and Dupoux 2020, "Unsupervised Pretraining Transfers Well
Across Languages", arXiv 2002.02848, section 3: norms over channels instead of batch norm, scores divided by the
dimension, one Transformer block per step as predictor. The loss is InfoNCE, mean over the steps.

Differences from the papers: the context network is the encoder's causal Transformer, so that embeddings are its layers;
the papers' one recurrent layer is a setting of the encoder (``encoder.transformer.block=lstm`` with ``layers=1``).
Frames are 20 ms apart, not 10 ms. Negatives of the same speaker are those of the crops of a batch, which are drawn
without regard to speakers, and of the part of the batch that is processed at once. A negative that is the positive is
left out. Small presets have linear predictors (the first paper's) and negatives of the same crop: these are of the same
speaker too, and any division of a batch gives the same gradient.
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from speechssl.config import Config as BaseConfig
from speechssl.data.batch import BatchSpec, CropBatch
from speechssl.models.causal import CAUSAL_RUNS, SPEECH_LEVEL, check_causal, expect_level
from speechssl.models.encoder import EncoderConfig, SpeechEncoder
from speechssl.nn.future import Negatives, StepHeads, constancy, constant_share, draw_negatives, step_scores
from speechssl.nn.losses import info_nce
from speechssl.objectives.base import Context, Curve, Metrics, Objective, ObjectiveConfig, StepOutput, Symptom

_NEGATIVES = 12  # part of the seed, so that this random stream differs from others

ADVICE = {
    "constant features": "the latents are the same in every frame: lower optim.reference_lr or optim.conv_lr_scale",
    "speaker shortcut": "negatives of other crops are told apart by voice or channel, those of the same crop are not: "
    "draw them from the same crop (objective.negatives=utterance)",
    "nearest step only": "only the next frame is predicted, with which a frame shares samples: more updates, or "
    "objective.predictor=transformer",
    "not learning": "the loss stays at chance, ln(1 + negatives): more updates, a larger batch "
    "(crops.batch_seconds), a longer warm-up (optim.warmup), or another optim.reference_lr",
}


class SymptomConfig(BaseConfig):
    """When an update counts as showing a symptom."""

    max_constant_share: float = 0.99  # of the power of the latents
    max_other_win_rate: float = 0.9  # positives above a negative of another crop, where ...
    min_own_win_rate: float = 0.6  # ... they are seldom above one of the same crop (0.5 at chance)
    nearest_ratio: float = 0.1  # accuracy above chance of the second step, fraction of that of the first
    chance_margin: float = 0.01  # a loss within this fraction of the loss of equal scores counts as chance


class CpcConfig(ObjectiveConfig):
    """Settings; defaults are those of Rivière et al. (``cpc_default_config.py`` of CPC_audio)."""

    name: Literal["cpc"] = "cpc"  # pyright: ignore[reportIncompatibleVariableOverride] -- frozen
    steps: PositiveInt = 12  # frames ahead, from 1 on
    negative_count: PositiveInt = 128  # per frame, the same for all steps
    negatives: Literal["utterance", "speaker", "batch"] = "speaker"  # crops they are drawn from
    predictor: Literal["linear", "transformer"] = "transformer"
    input_level: float = Field(default=SPEECH_LEVEL, gt=0)  # root mean square the first layer is initialised for
    symptoms: SymptomConfig = SymptomConfig()

    def shapes(self, encoder: EncoderConfig) -> dict[str, tuple[int, ...]]:
        """Shape of each step's map."""
        return {f"heads.maps.{step}.weight": (encoder.conv.dim, encoder.dim) for step in range(self.steps)}

    def check(self, encoder: EncoderConfig) -> None:
        """Compare the task with the encoder."""
        check_causal(encoder, self.name)

    def in_words(self) -> str:
        """Steps and negatives."""
        return f"{self.steps} steps, {self.negative_count} negatives of the same {self.negatives}"


Config = CpcConfig

_LESS: dict[str, Any] = {"steps": 6, "negatives": "utterance", "predictor": "linear"}  # 120 ms: the paper's 12 of 10 ms

PRESETS: dict[str, CpcConfig] = {
    "tiny": CpcConfig(**_LESS),
    "small": CpcConfig(**_LESS),
    "base": CpcConfig(),
    "large": CpcConfig(),
}

RUNS = CAUSAL_RUNS

CURVES = (
    Curve(
        "loss",
        "Loss (nats per predicted frame)",
        caption="A later frame is picked among negatives, mean over the steps. The dashed line is the loss of equal "
        "scores.",
        chance="chance_loss",
        headline=True,
    ),
    Curve(
        "step_accuracy",
        "Accuracy by step",
        caption="How often the frame scores above all its negatives; one line per step, the nearest frame first.",
        limits=(0.0, None),
    ),
    Curve(
        "own_win_rate",
        "Positive above a negative of the same crop",
        caption="Fraction of pairs; 0.5 at chance. The voice is the same on both sides.",
        alarm="symptoms.min_own_win_rate",
        limits=(None, 1.0),
    ),
    Curve(
        "constant_share",
        "Constant share of the latents",
        caption="Fraction of the power of the latents that is the same in every frame.",
        alarm="symptoms.max_constant_share",
        limits=(0.0, 1.0),
    ),
)


def build(encoder: SpeechEncoder, config: CpcConfig, *, seed: int) -> "Cpc":
    """Build the objective around an encoder."""
    return Cpc(encoder, config, seed=seed)


class Cpc(Objective):
    """Causal encoder and one predictor per step; a target is a frame at a step from another.

    Args:
        encoder: trained in place; its first layer is initialised for the level of recordings.
        config: the objective.
        seed: seed of negatives.

    Example:
        >>> from speechssl.config import merged
        >>> from speechssl.models.causal import CAUSAL
        >>> from speechssl.models.encoder import PRESETS as ENCODERS
        >>> causal = EncoderConfig.model_validate(merged(ENCODERS["tiny"].model_dump(), CAUSAL))
        >>> objective = Cpc(SpeechEncoder(causal), PRESETS["tiny"], seed=0)
        >>> loss = objective(CropBatch(0.05 * torch.randn(2, 32000), np.arange(2), 2), step=0, progress=0.0)
        >>> int(loss.stats["count"])  # 93 frames with 6 later ones, two crops
        1116
    """

    def __init__(self, encoder: SpeechEncoder, config: CpcConfig, *, seed: int):
        super().__init__(encoder, seed=seed)
        check_causal(encoder.config, config.name)
        expect_level(encoder, config.input_level)
        self.config = config
        self.exact_in_parts = config.negatives == "utterance"
        block, shape = None, (encoder.config.dim, encoder.config.conv.dim)
        if config.predictor == "transformer":
            still: dict[str, Any] = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}
            block = encoder.config.transformer.model_copy(update=still | {"block": "attention", "pre_norm": True})
        self.heads = StepHeads(*shape, config.steps, std=shape[0] ** -0.5, block=block)

    @property
    def batch_spec(self) -> BatchSpec:
        """Speakers, where negatives are of the same one."""
        return BatchSpec(speakers=self.config.negatives == "speaker")

    @property
    def min_frames(self) -> int:
        """One frame with all its steps, and one more for a negative."""
        return self.config.steps + 2

    def forward(
        self,
        batch: CropBatch,
        *,
        step: int,
        progress: float,  # noqa: ARG002 -- nothing follows the run
        shared: Mapping[str, Tensor] | None = None,  # noqa: ARG002 -- the loss is a sum over frames
    ) -> StepOutput:
        """Loss of a (micro-)batch; negatives are functions of (seed, step, position in the batch)."""
        latents = self.encoder.latents(batch.waveforms)
        context = self.encoder.contextualize(self.encoder.project(latents), None).frames
        predicted = self.heads(context)[:, : -self.config.steps] / latents.shape[-1]
        negatives = self.draw(batch, frames=latents.shape[1], step=step)
        within = self.config.negatives == "utterance"
        total, sums, correct = latents.new_zeros((), dtype=torch.float32), dict[str, Tensor](), list[Tensor]()
        for scores in step_scores(predicted, latents, negatives, within=within):
            found = info_nce(scores.positive, scores.negatives, same=scores.same)
            total = total + found.total
            with torch.no_grad():
                won, other = scores.positive.unsqueeze(-1) > scores.negatives, ~(scores.own | scores.same)
                pairs = {"own": (won & scores.own, scores.own), "other": (won & other, other)}
                each = {"count": found.count, "chance": found.stats["chance"]}
                each |= {f"{name}_won": wins.sum().float() for name, (wins, _) in pairs.items()}
                each |= {f"{name}_pairs": all_pairs.sum().float() for name, (_, all_pairs) in pairs.items()}
            sums = {name: value + sums.get(name, 0.0) for name, value in each.items()}
            correct.append(found.stats["correct"])
        stats = sums | {"correct": torch.stack(correct)} | constancy(latents.detach())
        return StepOutput(total=total, terms={"contrastive": total.detach()}, stats=stats)

    def draw(self, batch: CropBatch, *, frames: int, step: int) -> Negatives:
        """Negatives of these crops: frames of the same crop, of crops of the same speaker, or of all crops."""
        groups = batch.rows if self.config.negatives == "utterance" else np.zeros_like(batch.rows)
        if self.config.negatives == "speaker":
            assert batch.speakers is not None
            groups = batch.speakers.cpu().numpy()
        drawn = draw_negatives(
            groups,
            batch.rows,
            global_rows=batch.global_rows,
            anchors=frames - self.config.steps,
            frames=frames,
            count=self.config.negative_count,
            rng=np.random.default_rng((self.seed, _NEGATIVES, step)),
        )
        return Negatives(*(each.to(batch.waveforms.device, non_blocking=True) for each in (drawn.row, drawn.frame)))

    def context(self, batch: CropBatch, *, step: int) -> Context:  # noqa: ARG002 -- no draw changes the context
        """Output of the causal encoder."""
        return Context(self.encoder(batch.waveforms).frames, causal=True)

    def metrics(self, terms: dict[str, Tensor], stats: dict[str, Tensor]) -> Metrics:
        """Numbers to log from the summed terms and stats of an effective batch.

        ``loss`` and ``chance_loss`` in nats per target; ``accuracy``, also per step; ``own_win_rate``, how often the
        positive scores above a negative of the same crop, and ``other_win_rate``, of another crop, where there are
        some; ``constant_share`` of the power of the latents.
        """
        count = stats["count"]
        rates = {
            f"{name}_win_rate": float(stats[f"{name}_won"] / stats[f"{name}_pairs"])
            for name in ("own", "other")
            if stats[f"{name}_pairs"] > 0
        }
        return {
            "loss": float(terms["contrastive"] / count),
            "chance_loss": float(stats["chance"] / count),
            "accuracy": float(stats["correct"].sum() / count),
            "step_accuracy": (stats["correct"] * self.config.steps / count).tolist(),
            **rates,
            "constant_share": constant_share(stats),
        }

    def summary(self, metrics: Mapping[str, Any]) -> str:
        """Loss, and accuracy of the first and the last step."""
        first, last = metrics["step_accuracy"][0], metrics["step_accuracy"][-1]
        return f"loss {metrics['loss']:.3f}, accuracy {first:.3f} to {last:.3f}"

    def symptoms(
        self,
        metrics: Mapping[str, Any],
        probed: Mapping[str, Any],  # noqa: ARG002 -- nothing slower is measured
    ) -> list[Symptom]:
        """Four failure modes: constant latents, voices instead of sounds, only the nearest step, a loss at chance."""
        limits, accuracy = self.config.symptoms, metrics["step_accuracy"]
        own, other = metrics.get("own_win_rate", 1.0), metrics.get("other_win_rate", 0.0)
        equal = 1 / (1 + self.config.negative_count)
        learnt = [each - equal for each in accuracy[:2]]
        at_chance = metrics["loss"] > (1 - limits.chance_margin) * metrics["chance_loss"]
        signs = {
            "constant features": (
                metrics["constant_share"] > limits.max_constant_share,
                f"{metrics['constant_share']:.3f} of the power of the latents is constant",
            ),
            "speaker shortcut": (
                other > limits.max_other_win_rate and own < limits.min_own_win_rate,
                f"above {100 * other:.0f} % of the negatives of other crops, {100 * own:.0f} % of those of the same",
            ),
            "nearest step only": (
                not at_chance and len(learnt) > 1 and learnt[1] < limits.nearest_ratio * learnt[0],
                f"accuracy by step {', '.join(f'{each:.3f}' for each in accuracy[:2])} …, {equal:.3f} at chance",
            ),
            "not learning": (at_chance, f"loss {metrics['loss']:.3f} at chance {metrics['chance_loss']:.3f}"),
        }
        return [Symptom(state, present, evidence, ADVICE[state]) for state, (present, evidence) in signs.items()]
