"""wav2vec: later latents told from distractors of the same crop, one by one.

Schneider, Baevski, Collobert and Auli 2019, "wav2vec: Unsupervised Pre-training for Speech Recognition", arXiv
1904.05862, section 2.2: for each step k an affine map of the context is compared with the latent k frames later and
with distractors of the same audio; the loss is binary cross-entropy, in which the distractors weigh as much as their
number.

Differences from the paper: the context network is the encoder's causal Transformer, so that embeddings are its layers,
not causal convolutions with group norms, which would let a frame depend on all others; norms are over channels. Frames
are 20 ms apart, not 10 ms, and small presets predict fewer of them. The maps start small, so that the first scores are
about one. A distractor that is the positive is left out. Neither skip connections nor the logarithm of the latents.
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from speechssl.config import Config as BaseConfig
from speechssl.data.batch import CropBatch
from speechssl.models.causal import CAUSAL_RUNS, SPEECH_LEVEL, check_causal, expect_level
from speechssl.models.encoder import EncoderConfig, SpeechEncoder
from speechssl.nn.future import Negatives, StepHeads, constancy, constant_share, draw_negatives, step_scores
from speechssl.nn.losses import binary_contrast
from speechssl.objectives.base import Context, Curve, Metrics, Objective, ObjectiveConfig, StepOutput, Symptom

_NEGATIVES = 12  # part of the seed, so that this random stream differs from others

ADVICE = {
    "constant features": "the latents are the same in every frame: lower optim.reference_lr or optim.conv_lr_scale",
    "nearest step only": "only the next frame is predicted, with which a frame shares samples: more updates, or a "
    "larger batch (crops.batch_seconds) with a higher optim.reference_lr",
    "not learning": "the loss stays at that of equal scores: more updates, a larger batch (crops.batch_seconds), a "
    "longer warm-up (optim.warmup), or another optim.reference_lr",
}


class SymptomConfig(BaseConfig):
    """When an update counts as showing a symptom."""

    max_constant_share: float = 0.99  # of the power of the latents
    nearest_ratio: float = 0.1  # accuracy above chance of the second step, fraction of that of the first
    chance_margin: float = 0.01  # a loss within this fraction of the loss of equal scores counts as chance


class Wav2VecConfig(ObjectiveConfig):
    """Settings; defaults are the paper's (fairseq ``examples/wav2vec``)."""

    name: Literal["wav2vec"] = "wav2vec"  # pyright: ignore[reportIncompatibleVariableOverride] -- frozen
    steps: PositiveInt = 12  # frames ahead, from 1 on
    negative_count: PositiveInt = 10  # distractors per frame, the same for all steps
    negative_weight: PositiveFloat = 10.0  # of the mean over the distractors: the paper's lambda, their number
    input_level: float = Field(default=SPEECH_LEVEL, gt=0)  # root mean square the first layer is initialised for
    symptoms: SymptomConfig = SymptomConfig()

    def shapes(self, encoder: EncoderConfig) -> dict[str, tuple[int, ...]]:
        """Shape of each step's map."""
        return {f"heads.maps.{step}.weight": (encoder.conv.dim, encoder.dim) for step in range(self.steps)}

    def check(self, encoder: EncoderConfig) -> None:
        """Compare the task with the encoder."""
        check_causal(encoder, self.name)

    def in_words(self) -> str:
        """Steps and distractors."""
        return f"{self.steps} steps, {self.negative_count} distractors"


Config = Wav2VecConfig

PRESETS: dict[str, Wav2VecConfig] = {
    "tiny": Wav2VecConfig(steps=8),
    "small": Wav2VecConfig(steps=8),
    "base": Wav2VecConfig(),
    "large": Wav2VecConfig(),
}

RUNS = CAUSAL_RUNS

CURVES = (
    Curve(
        "loss",
        "Loss (nats per predicted frame)",
        caption="Binary cross-entropy of a later frame and its distractors, mean over the steps. The dashed line is "
        "the loss of the best equal score.",
        chance="chance_loss",
        headline=True,
    ),
    Curve(
        "step_accuracy",
        "Accuracy by step",
        caption="How often the frame scores above all its distractors; one line per step, the nearest frame first.",
        limits=(0.0, None),
    ),
    Curve(
        "real_rate",
        "Answers that are right",
        label="real frames",
        caption="Fractions of later frames that are taken for real, and of distractors that are not.",
        limits=(0.0, 1.0),
    ),
    Curve("fake_rate", "Answers that are right", label="distractors", limits=(0.0, 1.0)),
    Curve(
        "constant_share",
        "Constant share of the latents",
        caption="Fraction of the power of the latents that is the same in every frame.",
        alarm="symptoms.max_constant_share",
        limits=(0.0, 1.0),
    ),
)


def build(encoder: SpeechEncoder, config: Wav2VecConfig, *, seed: int) -> "Wav2Vec":
    """Build the objective around an encoder."""
    return Wav2Vec(encoder, config, seed=seed)


class Wav2Vec(Objective):
    """Causal encoder and one affine map per step; a target is a frame at a step from another.

    Args:
        encoder: trained in place; its first layer is initialised for the level of recordings.
        config: the objective.
        seed: seed of distractors.

    Example:
        >>> from speechssl.config import merged
        >>> from speechssl.models.causal import CAUSAL
        >>> from speechssl.models.encoder import PRESETS as ENCODERS
        >>> causal = EncoderConfig.model_validate(merged(ENCODERS["tiny"].model_dump(), CAUSAL))
        >>> objective = Wav2Vec(SpeechEncoder(causal), PRESETS["tiny"], seed=0)
        >>> loss = objective(CropBatch(0.05 * torch.randn(2, 32000), np.arange(2), 2), step=0, progress=0.0)
        >>> int(loss.stats["count"])  # 91 frames with 8 later ones, two crops
        1456
    """

    def __init__(self, encoder: SpeechEncoder, config: Wav2VecConfig, *, seed: int):
        super().__init__(encoder, seed=seed)
        check_causal(encoder.config, config.name)
        expect_level(encoder, config.input_level)
        self.config = config
        dim, outputs = encoder.config.dim, encoder.config.conv.dim
        std = (dim * outputs) ** -0.5  # of context and latents of unit variance the scores then have unit variance
        self.heads = StepHeads(dim, outputs, config.steps, std=std, bias=True)

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
        """Loss of a (micro-)batch; distractors are functions of (seed, step, position in the batch)."""
        latents = self.encoder.latents(batch.waveforms)
        context = self.encoder.contextualize(self.encoder.project(latents), None).frames
        predicted = self.heads(context)[:, : -self.config.steps]
        negatives = self.draw(batch, frames=latents.shape[1], step=step)
        found = [
            binary_contrast(each.positive, each.negatives, weight=self.config.negative_weight, same=each.same)
            for each in step_scores(predicted, latents, negatives, within=True)
        ]
        total = torch.stack([each.total for each in found]).sum()
        each_step = {name: torch.stack([each.stats[name] for each in found]) for name in found[0].stats}
        sums = {name: value if name == "correct" else value.sum() for name, value in each_step.items()}
        stats = sums | constancy(latents.detach())
        return StepOutput(total=total, terms={"contrastive": total.detach()}, stats=stats)

    def draw(self, batch: CropBatch, *, frames: int, step: int) -> Negatives:
        """Distractors: frames of the same crop."""
        drawn = draw_negatives(
            batch.rows,
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

        ``loss`` and ``chance_loss`` in nats per target; ``accuracy``, how often the positive scores above all its
        distractors, also per step; ``real_rate``, positives with a score above zero; ``fake_rate``, distractors with
        one below; ``constant_share`` of the power of the latents.
        """
        count = stats["count"]
        return {
            "loss": float(terms["contrastive"] / count),
            "chance_loss": float(stats["chance"] / count),
            "accuracy": float(stats["correct"].sum() / count),
            "step_accuracy": (stats["correct"] * self.config.steps / count).tolist(),
            "real_rate": float(stats["real"] / count),
            "fake_rate": float(stats["fake"] / count),
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
        """Three failure modes: constant latents, only the nearest step, a loss at chance."""
        limits, accuracy = self.config.symptoms, metrics["step_accuracy"]
        equal = 1 / (1 + self.config.negative_count)
        learnt = [each - equal for each in accuracy[:2]]
        at_chance = metrics["loss"] > (1 - limits.chance_margin) * metrics["chance_loss"]
        signs = {
            "constant features": (
                metrics["constant_share"] > limits.max_constant_share,
                f"{metrics['constant_share']:.3f} of the power of the latents is constant",
            ),
            "nearest step only": (
                not at_chance and len(learnt) > 1 and learnt[1] < limits.nearest_ratio * learnt[0],
                f"accuracy by step {', '.join(f'{each:.3f}' for each in accuracy[:2])} …, {equal:.3f} at chance",
            ),
            "not learning": (at_chance, f"loss {metrics['loss']:.3f} at chance {metrics['chance_loss']:.3f}"),
        }
        return [Symptom(state, present, evidence, ADVICE[state]) for state, (present, evidence) in signs.items()]
