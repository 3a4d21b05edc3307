"""Audio2Vec: a slice of the log-mel spectrum from its context, or the context from the slice.

Tagliasacchi, Gfeller, de Chaumont Quitry and Roblek 2019, "Self-supervised audio representation learning for mobile
devices", arXiv 1905.11796, section 3: the two directions of word2vec (Mikolov et al. 2013, arXiv 1301.3781) on audio.
CBoW predicts a slice from ``context`` slices on either side, skip-gram these slices from the one between them; gaps
between the slices keep the task from being solved by continuity. The loss is the mean square error of log-mel.

Differences from the paper: the encoder is that of all objectives. A window of slices is one sequence of its context
network in which all but the given slices are replaced by a learnt vector; the output at the slices to predict goes
through one linear map (paper: each given slice is encoded alone, and a convolutional decoder makes the prediction from
their concatenated embeddings). Each band of log-mel has zero mean and unit deviation over the crop, without which the
mean spectrum is most of what is predicted. Lengths of slices and gaps are ours. The third task of the paper, the
distance in time between two slices (temporal gap), is left out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from pydantic import PositiveInt
from torch import Tensor, nn

from speechssl.config import Config as BaseConfig
from speechssl.data.batch import CropBatch
from speechssl.models.encoder import EncoderConfig, SpeechEncoder
from speechssl.models.masked import masked_context
from speechssl.nn.features import MEL
from speechssl.nn.losses import regression
from speechssl.nn.targets import encoder_framing, normalized_log_mel
from speechssl.objectives.base import Context, Curve, Metrics, Objective, ObjectiveConfig, StepOutput, Symptom

_WINDOW = 14  # part of the seed, so that this random stream differs from others
_GAP, _CENTRE, _CONTEXT = 0, 1, 2  # parts of a window

ADVICE = {
    "constant prediction": "nearly the same spectrum is predicted everywhere: lower optim.reference_lr, or train for "
    "longer (loop.steps)",
    "not learning": "the loss stays at that of the mean frame of a crop: more updates, a larger batch "
    "(crops.batch_seconds), a shorter objective.gap, or another optim.reference_lr",
}


class SymptomConfig(BaseConfig):
    """When an update counts as showing a symptom."""

    min_prediction_deviation: float = 0.05  # standard deviation of the predictions, fraction of that of the targets
    chance_margin: float = 0.01  # a loss within this fraction of the mean frame's counts as chance


class Audio2VecConfig(ObjectiveConfig):
    """Settings; two slices on either side, as in the paper."""

    name: Literal["audio2vec"] = "audio2vec"  # pyright: ignore[reportIncompatibleVariableOverride] -- frozen
    direction: Literal["cbow", "skip-gram"] = "cbow"
    slice: PositiveInt = 10  # frames: 200 ms
    gap: PositiveInt = 5  # frames between two slices: 100 ms
    context: PositiveInt = 2  # slices on either side
    symptoms: SymptomConfig = SymptomConfig()

    @property
    def window(self) -> int:
        """Frames from the first to the last slice.

        >>> Audio2VecConfig().window
        70
        """
        return (2 * self.context + 1) * self.slice + 2 * self.context * self.gap

    def shapes(self, encoder: EncoderConfig) -> dict[str, tuple[int, ...]]:
        """Shapes of the linear map and of what replaces hidden frames."""
        return {"predict.weight": (MEL.bands, encoder.dim), "mask_embedding": (encoder.dim,)}

    def in_words(self) -> str:
        """Direction and slices."""
        what = "a slice from its context" if self.direction == "cbow" else "the context from a slice"
        return f"{what}: {2 * self.context} + 1 slices of {self.slice} frames, {self.gap} apart"


Config = Audio2VecConfig

PRESETS: dict[str, Audio2VecConfig] = {size: Audio2VecConfig() for size in ("tiny", "small", "base", "large")}

_RATES = {"reference_lr": 1e-3, "reference_seconds": 32.0, "max_lr": 1e-3, "conv_lr_scale": 0.1}

RUNS: Mapping[str, Mapping[str, Mapping[str, object]]] = {
    "tiny": {
        "crops": {"seconds": 1.5, "min_seconds": 1.5, "batch_seconds": 32.0},
        "optim": _RATES,
        "loop": {"steps": 1200, "validate_every": 200, "checkpoint_every": 200},
    },
    "small": {
        "crops": {"seconds": 3.0, "min_seconds": 1.5, "batch_seconds": 64.0},
        "optim": _RATES | {"max_lr": 5e-4},
        "loop": {"steps": 20_000, "validate_every": 250, "checkpoint_every": 250},
    },
    "base": {"crops": {"normalize": False}},
    "large": {"crops": {"seconds": 20.0, "batch_seconds": 75.0}, "optim": {"max_lr": 3e-4}},
}

CURVES = (
    Curve(
        "loss",
        "Loss (mean square, variances per band)",
        caption="Mean square error of a predicted log-mel band, in variances of that band over the crop. The dashed "
        "line is the loss of the mean frame of the crop.",
        chance="chance_loss",
        headline=True,
    ),
    Curve(
        "prediction_deviation",
        "Deviation of the predictions",
        caption="Standard deviation of the predicted bands over all predictions, fraction of that of their targets.",
        alarm="symptoms.min_prediction_deviation",
        limits=(0.0, None),
        headline=True,
    ),
)


def build(encoder: SpeechEncoder, config: Audio2VecConfig, *, seed: int) -> "Audio2Vec":
    """Build the objective around an encoder."""
    return Audio2Vec(encoder, config, seed=seed)


@dataclass(frozen=True)
class Windows:
    """Windows of crops; every array has a row per window, crop after crop.

    Attributes:
        row: crop of each window.
        frames: the window's frames within the crop.
        parts: whether a frame is of a gap, of the slice at the centre or of one of the context.
    """

    row: Int[Tensor, " windows"]
    frames: Int[Tensor, "windows width"]
    parts: Int[Tensor, "windows width"]


class Audio2Vec(Objective):
    """Encoder and a linear map to log-mel; a target is a frame of a slice to predict.

    Args:
        encoder: trained in place.
        config: the objective.
        seed: seed of the places of the windows.

    Example:
        >>> from speechssl.models.encoder import PRESETS as ENCODERS
        >>> objective = Audio2Vec(SpeechEncoder(ENCODERS["tiny"]), PRESETS["tiny"], seed=0)
        >>> crops = CropBatch(torch.randn(2, 24000), np.arange(2), 2)
        >>> int(objective(crops, step=0, progress=0.0).stats["count"])  # one slice of 10 frames in each crop
        20
    """

    def __init__(self, encoder: SpeechEncoder, config: Audio2VecConfig, *, seed: int):
        super().__init__(encoder, seed=seed)
        self.config = config
        self.predict = nn.Linear(encoder.config.dim, MEL.bands)
        self.mask_embedding = nn.Parameter(torch.rand(encoder.config.dim))

    @property
    def min_frames(self) -> int:
        """A slice, the gaps beside it and a frame of the context, wherever the crop is."""
        return self.config.slice + 2 * self.config.gap + 1

    def forward(
        self,
        batch: CropBatch,
        *,
        step: int,
        progress: float,  # noqa: ARG002 -- nothing follows the run
        shared: Mapping[str, Tensor] | None = None,  # noqa: ARG002 -- the loss is a sum over frames
    ) -> StepOutput:
        """Loss of a (micro-)batch; windows are functions of (seed, step, position in the batch)."""
        windows = self.windows(batch, step=step)
        context = self._encoded(batch, windows)
        mel = normalized_log_mel(batch.waveforms, encoder_framing(self.encoder.config.conv))
        wanted = windows.parts == (_CENTRE if self.config.direction == "cbow" else _CONTEXT)
        targets = mel[windows.row.unsqueeze(1), windows.frames][wanted]  # targets bands
        predictions = self.predict(context[wanted])
        found = regression(predictions, targets, distance="mse")
        with torch.no_grad():
            predicted = predictions.float()
            stats = {
                "count": found.count,
                "chance": targets.square().mean(dim=-1).sum(),
                "predicted_sum": predicted.sum(dim=0),
                "predicted_square": predicted.square().sum(dim=0),
                "target_sum": targets.sum(dim=0),
                "target_square": targets.square().sum(dim=0),
            }
        return StepOutput(total=found.total, terms={"mse": found.total.detach()}, stats=stats)

    def windows(self, crops: CropBatch, *, step: int) -> Windows:
        """Windows of these crops, sliced from the draw for the whole global batch.

        As many as fit side by side, from a drawn frame on. In a crop that is shorter than a window there is one, of
        which as much as fits is used: always its whole centre, and some of its context.
        """
        config, width = self.config, self.config.window
        frames = int(self.encoder.num_frames(torch.tensor(crops.samples)))
        parts = np.full(width, _GAP)
        for number in range(2 * config.context + 1):
            start = number * (config.slice + config.gap)
            parts[start : start + config.slice] = _CENTRE if number == config.context else _CONTEXT
        rng = np.random.default_rng((self.seed, _WINDOW, step))
        count = max(1, frames // width)
        if frames < width:
            centre = config.context * (config.slice + config.gap)
            low, high = max(0, centre + config.slice - frames), min(width - frames, centre)
            cut = rng.integers(low, high + 1, size=crops.global_rows)[crops.rows]
            places = np.broadcast_to(np.arange(frames), (len(crops.rows), frames))
            parts = parts[cut[:, None] + np.arange(frames)]
        else:
            first = rng.integers(frames - count * width + 1, size=crops.global_rows)[crops.rows]
            starts = (first[:, None] + width * np.arange(count)).ravel()
            places = starts[:, None] + np.arange(width)
            parts = np.broadcast_to(parts, places.shape)
        row = np.arange(len(crops.rows)).repeat(count)
        device = crops.waveforms.device
        return Windows(
            *(torch.from_numpy(np.array(each)).to(device, non_blocking=True) for each in (row, places, parts))
        )

    def hidden(self, windows: Windows) -> Bool[Tensor, "windows width"]:
        """Frames of the windows that the context network does not get."""
        return windows.parts != (_CONTEXT if self.config.direction == "cbow" else _CENTRE)

    def _encoded(self, batch: CropBatch, windows: Windows) -> Float[Tensor, "windows width dim"]:
        latents = self.encoder.latents(batch.waveforms)[windows.row.unsqueeze(1), windows.frames]
        return masked_context(self.encoder, latents, self.mask_embedding, self.hidden(windows)).frames

    def context(self, batch: CropBatch, *, step: int) -> Context:
        """Output of the context network at the frames of the windows of a step, zeros at others."""
        windows = self.windows(batch, step=step)
        encoded = self._encoded(batch, windows)
        shape = (len(batch.rows), int(self.encoder.num_frames(torch.tensor(batch.samples))))
        place = (windows.row.unsqueeze(1), windows.frames)
        frames = encoded.new_zeros((*shape, encoded.shape[-1])).index_put(place, encoded)
        hidden = torch.ones(shape, dtype=torch.bool, device=encoded.device).index_put(place, self.hidden(windows))
        return Context(frames, hidden=hidden)

    def metrics(self, terms: dict[str, Tensor], stats: dict[str, Tensor]) -> Metrics:
        """Numbers to log from the summed terms and stats of an effective batch.

        ``loss`` and ``chance_loss`` (mean frame of the crop), mean square error of a band; ``prediction_deviation``,
        fraction of that of the targets.
        """
        count = stats["count"]

        def variance(name: str) -> Tensor:
            mean = stats[f"{name}_sum"] / count
            return (stats[f"{name}_square"] / count - mean.square()).clamp(min=0).mean()

        share = variance("predicted") / variance("target").clamp(min=1e-12)
        return {
            "loss": float(terms["mse"] / count),
            "chance_loss": float(stats["chance"] / count),
            "prediction_deviation": float(share.sqrt()),
        }

    def summary(self, metrics: Mapping[str, Any]) -> str:
        """Loss, and the loss of the mean frame."""
        return f"loss {metrics['loss']:.3f} (mean frame {metrics['chance_loss']:.3f})"

    def symptoms(
        self,
        metrics: Mapping[str, float | Sequence[float]],
        probed: Mapping[str, float | Sequence[float]],  # noqa: ARG002 -- nothing slower is measured
    ) -> list[Symptom]:
        """Two failure modes: the same prediction everywhere, a loss that stays at that of the mean frame."""
        limits = self.config.symptoms
        value = {name: float(each) for name, each in metrics.items() if isinstance(each, int | float)}
        signs = {
            "constant prediction": (
                value["prediction_deviation"] < limits.min_prediction_deviation,
                f"deviation of the prediction {value['prediction_deviation']:.3f} of that of the targets",
            ),
            "not learning": (
                value["loss"] > (1 - limits.chance_margin) * value["chance_loss"],
                f"loss {value['loss']:.3f}, of the mean frame {value['chance_loss']:.3f}",
            ),
        }
        return [Symptom(state, present, evidence, ADVICE[state]) for state, (present, evidence) in signs.items()]
