"""APC: prediction of a later log-mel frame from the frames before it.

Chung, Hsu, Tang and Glass 2019, "An Unsupervised Autoregressive Model for Speech Representation Learning", arXiv
1904.03240, section 2: the frame ``steps`` frames ahead is predicted from the context so far by one linear map; the loss
is the L1 distance. Targets are fixed functions of the audio, so that nothing can collapse.

Differences from the paper: the context network is the encoder of all objectives, convolutions over the waveform and a
causal Transformer, not three recurrent layers over log-mel; three recurrent layers are a setting of the encoder
(``encoder.transformer.block=gru``). Frames are 20 ms apart, not 10 ms. A target has zero mean and unit variance of each
band over the crop: the paper normalises over an utterance too, but its input as well; here the input is the waveform as
recorded, because a mean over the whole of it depends on what comes later.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from speechssl.config import Config as BaseConfig
from speechssl.data.batch import CropBatch
from speechssl.models.causal import CAUSAL_RUNS, SPEECH_LEVEL, check_causal, expect_level
from speechssl.models.encoder import EncoderConfig, SpeechEncoder
from speechssl.nn.features import MelConfig
from speechssl.nn.losses import regression
from speechssl.nn.targets import encoder_framing, normalized_log_mel
from speechssl.objectives.base import Context, Curve, Metrics, Objective, ObjectiveConfig, StepOutput, Symptom

ADVICE = {
    "constant prediction": "the prediction is nearly the same in all frames of a crop: lower optim.reference_lr, or "
    "another encoder.conv.init",
    "copying": "the prediction is no better than a repetition of the present frame: predict frames farther ahead "
    "(objective.steps), or train for longer (loop.steps)",
    "not learning": "the loss stays at that of the mean frame of a crop: more updates, a larger batch "
    "(crops.batch_seconds), or another optim.reference_lr",
}


class SymptomConfig(BaseConfig):
    """When an update counts as showing a symptom."""

    min_prediction_deviation: float = 0.05  # standard deviation over time, fraction of that of the targets
    copy_margin: float = 0.01  # a loss within this fraction of the repeated frame's counts as copying
    chance_margin: float = 0.01  # a loss within this fraction of the mean frame's counts as chance


class ApcConfig(ObjectiveConfig):
    """Settings; the paper's, with steps of 20 ms."""

    name: Literal["apc"] = "apc"  # pyright: ignore[reportIncompatibleVariableOverride] -- frozen
    steps: PositiveInt = 3  # frames ahead: 60 ms; s3prl's `n_future` is 5 frames of 10 ms
    mel: MelConfig = MelConfig()
    input_level: float = Field(default=SPEECH_LEVEL, gt=0)  # root mean square the first layer is initialised for
    symptoms: SymptomConfig = SymptomConfig()

    def shapes(self, encoder: EncoderConfig) -> dict[str, tuple[int, ...]]:
        """Shape of the linear map."""
        return {"predict.weight": (self.mel.bands, encoder.dim)}

    def check(self, encoder: EncoderConfig) -> None:
        """Compare the task with the encoder."""
        check_causal(encoder, self.name)

    def in_words(self) -> str:
        """What is predicted."""
        return f"{self.mel.bands} log-mel bands {self.steps} frames ahead"


Config = ApcConfig

PRESETS: dict[str, ApcConfig] = {"tiny": ApcConfig(), "small": ApcConfig(), "base": ApcConfig(), "large": ApcConfig()}

RUNS = CAUSAL_RUNS

CURVES = (
    Curve(
        "loss",
        "Loss (L1, deviations per band)",
        label="prediction",
        caption="Mean absolute error of a predicted log-mel band, in standard deviations of that band over the crop. "
        "The dashed line is the loss of the mean frame; the second line that of a repetition of the present frame.",
        chance="chance_loss",
        headline=True,
    ),
    Curve("copy_loss", "Loss (L1, deviations per band)", label="repeated frame"),
    Curve(
        "prediction_deviation",
        "Deviation of the prediction over time",
        caption="Standard deviation of the predictions of a crop, fraction of that of their targets.",
        alarm="symptoms.min_prediction_deviation",
        limits=(0.0, None),
    ),
)


def build(encoder: SpeechEncoder, config: ApcConfig, *, seed: int) -> "Apc":
    """Build the objective around an encoder."""
    return Apc(encoder, config, seed=seed)


class Apc(Objective):
    """Causal encoder and a linear map to log-mel; a target is a frame that is ``steps`` frames ahead of another.

    Args:
        encoder: trained in place; its first layer is initialised for the level of recordings.
        config: the objective.
        seed: nothing is drawn.

    Example:
        >>> import numpy as np
        >>> from speechssl.config import merged
        >>> from speechssl.models.causal import CAUSAL
        >>> from speechssl.models.encoder import PRESETS as ENCODERS
        >>> causal = EncoderConfig.model_validate(merged(ENCODERS["tiny"].model_dump(), CAUSAL))
        >>> objective = Apc(SpeechEncoder(causal), PRESETS["tiny"], seed=0)
        >>> crops = CropBatch(0.05 * torch.randn(2, 32000), np.arange(2), 2)
        >>> int(objective(crops, step=0, progress=0.0).stats["count"])  # 99 frames each
        192
    """

    def __init__(self, encoder: SpeechEncoder, config: ApcConfig, *, seed: int):
        super().__init__(encoder, seed=seed)
        check_causal(encoder.config, config.name)
        expect_level(encoder, config.input_level)
        self.config = config
        self.predict = nn.Linear(encoder.config.dim, config.mel.bands)

    @property
    def min_frames(self) -> int:
        """Frames of a crop with two targets, the fewest that vary."""
        return self.config.steps + 2

    def forward(
        self,
        batch: CropBatch,
        *,
        step: int,  # noqa: ARG002 -- nothing is drawn
        progress: float,  # noqa: ARG002 -- nothing follows the run
        shared: Mapping[str, Tensor] | None = None,  # noqa: ARG002 -- the loss is a sum over frames
    ) -> StepOutput:
        """Loss of a (micro-)batch."""
        steps, frames = self.config.steps, self.targets(batch.waveforms)
        now, later = frames[:, :-steps], frames[:, steps:]  # batch targets bands
        predicted = self.predict(self.encoder(batch.waveforms).frames[:, :-steps])
        found = regression(predicted, later, distance="l1")
        with torch.no_grad():
            stats = {
                "count": found.count,
                "chance": regression(later, later.mean(dim=1, keepdim=True).expand_as(later), distance="l1").total,
                "copied": regression(now, later, distance="l1").total,
                "predicted_variance": _variance(predicted.float()),
                "target_variance": _variance(later),
            }
        return StepOutput(total=found.total, terms={"l1": found.total.detach()}, stats=stats)

    def targets(self, waveforms: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch frames bands"]:
        """Log-mel at the encoder's frames, zero mean and unit deviation of each band over the crop."""
        return normalized_log_mel(waveforms, encoder_framing(self.encoder.config.conv), config=self.config.mel)

    def context(self, batch: CropBatch, *, step: int) -> Context:  # noqa: ARG002 -- nothing is drawn
        """Output of the causal encoder."""
        return Context(self.encoder(batch.waveforms).frames, causal=True)

    def metrics(self, terms: dict[str, Tensor], stats: dict[str, Tensor]) -> Metrics:
        """Numbers to log from the summed terms and stats of an effective batch.

        ``loss``, ``chance_loss`` (mean frame of the crop) and ``copy_loss`` (present frame), mean absolute error of a
        band; ``prediction_deviation`` over time, fraction of that of the targets.
        """
        count = stats["count"]
        share = stats["predicted_variance"] / stats["target_variance"].clamp(min=1e-12)
        return {
            "loss": float(terms["l1"] / count),
            "chance_loss": float(stats["chance"] / count),
            "copy_loss": float(stats["copied"] / count),
            "prediction_deviation": float(share.sqrt()),
        }

    def summary(self, metrics: Mapping[str, Any]) -> str:
        """Loss, and the losses of the mean frame and of the repeated frame."""
        return (
            f"loss {metrics['loss']:.3f} (mean frame {metrics['chance_loss']:.3f}, "
            f"repeated frame {metrics['copy_loss']:.3f})"
        )

    def symptoms(
        self,
        metrics: Mapping[str, float | Sequence[float]],
        probed: Mapping[str, float | Sequence[float]],  # noqa: ARG002 -- nothing slower is measured
    ) -> list[Symptom]:
        """Three failure modes: a prediction without change over time, one that copies, a loss that stays at chance."""
        limits = self.config.symptoms
        value = {name: float(each) for name, each in metrics.items() if isinstance(each, int | float)}
        loss, chance, copied = value["loss"], value["chance_loss"], value["copy_loss"]
        signs = {
            "constant prediction": (
                value["prediction_deviation"] < limits.min_prediction_deviation,
                f"deviation of the prediction {value['prediction_deviation']:.3f} of that of the targets",
            ),
            "copying": (
                copied < chance and loss > (1 - limits.copy_margin) * copied,
                f"loss {loss:.3f}, of a repeated frame {copied:.3f}",
            ),
            "not learning": (
                loss > (1 - limits.chance_margin) * chance,
                f"loss {loss:.3f}, of the mean frame {chance:.3f}",
            ),
        }
        return [Symptom(state, present, evidence, ADVICE[state]) for state, (present, evidence) in signs.items()]


def _variance(frames: Float[Tensor, "batch frames bands"]) -> Float[Tensor, ""]:
    """Squared deviations from the mean frame of each row, mean over bands, summed over frames."""
    return (frames - frames.mean(dim=1, keepdim=True)).square().mean(dim=-1).sum()
