"""TERA: log-mel frames rebuilt from input that is altered in time, frequency and magnitude.

Liu et al. 2021, "TERA: Self-Supervised Learning of Transformer Encoder Representation for Speech", arXiv 2007.06028,
sections II-B to II-D. The loss is the L1 distance of predicted and unaltered log-mel, normalised per band over the
crop, where time or frequency was altered; altered magnitudes alone are no targets.

The paper alters the log-mel frames that its encoder gets. Here the encoder gets the waveform, and what corresponds is
altered. Time: latents of a stretch of masked frames are replaced by a learnt vector (paper: zeros; 80 % of the
stretches, s3prl: of the utterances), by latents of other frames (10 %), or left as they are (10 %). Frequency: the band
is removed from the waveform of the whole crop, so that its log-mel is low, not zero, the mean. Magnitude: noise on the
log power of each band and frame, of the paper's variance at an average deviation of speech. Samples that only hidden
frames see are zero before both, as filters would spread them. Other differences: a frame is 20 ms, so that the paper's
blocks of 7 frames of 10 ms are 4 frames; small presets hide 8 (160 ms), which cannot be rebuilt from their neighbours
alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, NonNegativeFloat, model_validator
from torch import Tensor, nn

from speechssl.config import Config as BaseConfig
from speechssl.data.batch import CropBatch
from speechssl.models.encoder import EncoderConfig, SpeechEncoder
from speechssl.models.masked import check_masking, masked_context
from speechssl.nn.alteration import seen_samples, with_noisy_magnitudes, without_bands
from speechssl.nn.decoder import DecoderConfig
from speechssl.nn.features import MEL
from speechssl.nn.losses import regression
from speechssl.nn.masking import MaskConfig, span_mask
from speechssl.nn.norm import LayerNorm
from speechssl.nn.targets import encoder_framing, interpolated, normalized_log_mel
from speechssl.objectives.base import Context, Curve, Metrics, Objective, ObjectiveConfig, StepOutput, Symptom

_MASK, _ALTERED, _NOISE = 11, 15, 16  # part of the seed, so that the random streams differ
Share = Annotated[float, Field(ge=0, le=1)]

ADVICE = {
    "local task": "hidden frames are nearly a line between their neighbours, which teaches little: hide longer spans "
    "(objective.mask.length)",
    "constant prediction": "the same frame is predicted everywhere: lower optim.reference_lr, or hide less "
    "(objective.mask.probability)",
    "not learning": "the error stays at that of the mean frame: more updates, a larger batch (crops.batch_seconds), or "
    "another optim.reference_lr",
}


class SymptomConfig(BaseConfig):
    """When an update counts as showing a symptom."""

    min_interpolation: float = 0.25  # error of a line over that of the mean frame; speech: 0.45 and more
    min_deviation: float = 0.05  # of the predictions at altered frames, whose targets have about 1
    chance_margin: float = 0.02  # an error within this fraction of that of the mean frame counts as chance


class TeraConfig(ObjectiveConfig):
    """Settings; defaults are the paper's at frames of 20 ms (s3prl ``pretrain/tera``), with all three alterations."""

    name: Literal["tera"] = "tera"  # pyright: ignore[reportIncompatibleVariableOverride] -- frozen
    mask: MaskConfig = MaskConfig(probability=0.15, length=4, min_spans=1)
    replaced: Share = 0.1  # stretches of masked frames that are those of another place
    kept: Share = 0.1  # stretches of masked frames that are left as they are
    frequency: Share = 0.2  # largest width of the removed bands, fraction of all
    noise: Share = 0.15  # crops with noisy magnitudes
    noise_deviation: NonNegativeFloat = 1.6  # nats of power; sqrt(0.2) of the 3.6 by which a band of speech deviates
    symptoms: SymptomConfig = SymptomConfig()

    @model_validator(mode="after")
    def _something_is_hidden(self) -> "TeraConfig":
        if self.replaced + self.kept > 1:
            raise ValueError(f"replaced {self.replaced:g} and kept {self.kept:g}: together at most 1")
        return self

    def shapes(self, encoder: EncoderConfig) -> dict[str, tuple[int, ...]]:
        """Shapes of the prediction network."""
        return {"predict.0.weight": (encoder.dim, encoder.dim), "predict.3.weight": (MEL.bands, encoder.dim)}

    def check(self, encoder: EncoderConfig) -> None:
        """Compare the masks with the encoder."""
        if self.mask.drop:
            raise ValueError("objective.mask.drop=true: frames that the encoder gets are rebuilt too; allowed: false")
        check_masking(encoder, self.mask, DecoderConfig())

    def in_words(self) -> str:
        """The alterations."""
        return f"{self.mask.in_words()}, up to {self.frequency:g} of the bands, noise in {self.noise:g} of the crops"


Config = TeraConfig

_LONGER = MaskConfig(probability=0.15, length=8)

PRESETS: dict[str, TeraConfig] = {
    "tiny": TeraConfig(mask=_LONGER),
    "small": TeraConfig(mask=_LONGER),
    "base": TeraConfig(),
    "large": TeraConfig(),
}

_RATES = {"reference_lr": 1e-3, "reference_seconds": 32.0, "max_lr": 1e-3, "conv_lr_scale": 0.1}

RUNS: Mapping[str, Mapping[str, Mapping[str, object]]] = {
    "tiny": {
        "crops": {"seconds": 2.0, "min_seconds": 1.5, "batch_seconds": 32.0},
        "optim": _RATES,
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
        "Error (deviations of a band)",
        caption="Mean absolute error of altered log-mel values, in standard deviations of a band over its crop. The "
        "dashed line is the error of the mean frame.",
        chance="chance_loss",
        limits=(0.0, None),
        headline=True,
    ),
    Curve("time_loss", "Error by alteration", label="hidden frames", limits=(0.0, None), headline=True),
    Curve(
        "interpolation_loss",
        "Error by alteration",
        label="hidden frames, by interpolation",
        caption="A line between the frames before and after a span is the error that neighbours alone give.",
        limits=(0.0, None),
    ),
    Curve("frequency_loss", "Error by alteration", label="removed bands", limits=(0.0, None)),
    Curve(
        "prediction_deviation",
        "Deviation of the predictions",
        caption="Standard deviation over masked frames, mean over bands; that of the targets is about 1.",
        alarm="symptoms.min_deviation",
        limits=(0.0, None),
    ),
)


def build(encoder: SpeechEncoder, config: TeraConfig, *, seed: int) -> "Tera":
    """Build the objective around an encoder."""
    return Tera(encoder, config, seed=seed)


@dataclass(frozen=True)
class Draws:
    """What is altered in each crop.

    Attributes:
        masked: frames to rebuild.
        hidden: of these, frames whose latents the context does not get; others are left as they are.
        source: frame whose latents stand at each frame; another one where frames of another place stand.
        embedded: frames at which the learnt vector stands.
        first: first removed band.
        width: removed bands.
        noisy: rows with noisy magnitudes, of this slice of the batch.
    """

    masked: Bool[Tensor, "batch frames"]
    hidden: Bool[Tensor, "batch frames"]
    source: Int[Tensor, "batch frames"]
    embedded: Bool[Tensor, "batch frames"]
    first: Int[Tensor, " batch"]
    width: Int[Tensor, " batch"]
    noisy: Int[np.ndarray, " noisy"]


class Tera(Objective):
    """Encoder and prediction network; a target is an altered value of a log-mel frame.

    Args:
        encoder: trained in place.
        config: the objective.
        seed: seed of the alterations.

    Example:
        >>> from speechssl.models.encoder import PRESETS as ENCODERS
        >>> objective = Tera(SpeechEncoder(ENCODERS["tiny"]), PRESETS["tiny"], seed=0)
        >>> loss = objective(CropBatch(torch.randn(2, 32000), np.arange(2), 2), step=0, progress=0.0)
        >>> sorted(loss.terms), bool(loss.stats["count"] >= loss.stats["time_count"] > 0)
        (['l1'], True)
    """

    def __init__(self, encoder: SpeechEncoder, config: TeraConfig, *, seed: int):
        super().__init__(encoder, seed=seed)
        self.config = config
        dim = encoder.config.dim
        norm = LayerNorm(dim, eps=encoder.config.transformer.norm_eps)
        self.predict = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), norm, nn.Linear(dim, MEL.bands))
        self.mask_embedding = nn.Parameter(torch.rand(dim))

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
        shared: Mapping[str, Tensor] | None = None,  # noqa: ARG002 -- the loss is a sum over values
    ) -> StepOutput:
        """Loss of a (micro-)batch; alterations are functions of (seed, step, position in the batch)."""
        draws = self.draw(batch, step=step)
        predictions = self.predict(self._encoded(batch, draws, step=step)).float()  # batch frames bands
        framing = encoder_framing(self.encoder.config.conv)
        targets = normalized_log_mel(batch.waveforms, framing)[:, : predictions.shape[1]]
        place = torch.arange(MEL.bands, device=targets.device)
        removed = (place >= draws.first.unsqueeze(1)) & (place < (draws.first + draws.width).unsqueeze(1))
        altered = draws.masked.unsqueeze(2) | removed.unsqueeze(1)  # batch frames bands
        found = regression(predictions.unsqueeze(-1), targets.unsqueeze(-1), distance="l1", mask=altered)
        with torch.no_grad():
            errors, masked = (predictions - targets).abs(), draws.masked
            only_removed = altered & ~masked.unsqueeze(2)
            drawn = interpolated(targets, masked)[masked]
            stats = {
                "count": found.count,
                "mean_error": targets[altered].abs().sum(),
                "time_error": errors[masked].sum(),
                "time_mean_error": targets[masked].abs().sum(),
                "time_count": masked.sum().float() * MEL.bands,
                "interpolation_error": (drawn - targets[masked]).abs().sum(),
                "frequency_error": errors[only_removed].sum(),
                "frequency_count": only_removed.sum().float(),
                "sum": predictions[masked].sum(dim=0),
                "squares": predictions[masked].square().sum(dim=0),
            }
        return StepOutput(total=found.total, terms={"l1": found.total.detach()}, stats=stats)

    def draw(self, crops: CropBatch, *, step: int) -> Draws:
        """Alterations of these crops, sliced from the draw for the whole global batch."""
        frames, config, rows = int(self.encoder.num_frames(torch.tensor(crops.samples))), self.config, crops.global_rows
        rng = np.random.default_rng((self.seed, _MASK, step))
        group = self.encoder.config.squeeze_factor
        masked = span_mask(np.full(rows, frames), config.mask, rng=rng, group=group)[crops.rows]
        rng = np.random.default_rng((self.seed, _ALTERED, step))
        offsets, noise, places = rng.random((3, rows))[:, crops.rows]
        dice = rng.random((rows, frames))[crops.rows]
        width = rng.integers(0, int(config.frequency * MEL.bands) + 1, rows)[crops.rows]
        first = (places * (MEL.bands - width + 1)).astype(np.int64)
        begins = masked & ~np.pad(masked, ((0, 0), (1, 0)))[:, :-1]  # one draw for each stretch of masked frames
        begin = np.maximum.accumulate(np.where(begins, np.arange(frames), 0), axis=1)
        dice = np.take_along_axis(dice, begin, axis=1)
        hidden, replaced = masked & (dice >= config.kept), masked & (dice >= 1 - config.replaced)
        source = np.tile(np.arange(frames), (len(masked), 1))
        for row in np.flatnonzero(replaced.any(axis=1)):  # the other frames from a drawn place on
            others, filled = np.flatnonzero(~masked[row]), np.flatnonzero(replaced[row])
            if len(others):
                source[row, filled] = others[(int(offsets[row] * len(others)) + np.arange(len(filled))) % len(others)]
        arrays = (masked, hidden, source, hidden & ~replaced, first, width)
        device = crops.waveforms.device
        masked, hidden, source, embedded, first, width = (
            torch.from_numpy(each).to(device, non_blocking=True) for each in arrays
        )
        return Draws(masked, hidden, source, embedded, first, width, noisy=np.flatnonzero(noise < config.noise))

    def _encoded(self, batch: CropBatch, draws: Draws, *, step: int) -> Float[Tensor, "batch frames dim"]:
        """Context frames of the altered crops."""
        latents = self.encoder.latents(self.altered(batch, draws, step=step))
        latents = latents.gather(1, draws.source.unsqueeze(-1).expand_as(latents))
        return masked_context(self.encoder, latents, self.mask_embedding, draws.embedded).frames

    @torch.no_grad()
    def altered(self, batch: CropBatch, draws: Draws, *, step: int) -> Float[Tensor, "batch samples"]:
        """The crops without their removed bands and with noisy magnitudes; silent where only hidden frames see them."""
        conv, waveforms = self.encoder.config.conv, batch.waveforms
        seen = seen_samples(
            ~draws.hidden, batch.samples, encoder_framing(conv), padding=conv.padding, field=conv.receptive_field
        )
        waveforms = without_bands(waveforms * seen, draws.first, draws.width)
        if len(draws.noisy):
            rows, places = batch.rows[draws.noisy].tolist(), torch.from_numpy(draws.noisy).to(waveforms.device)
            generators = [_generator((self.seed, _NOISE, step, row), waveforms.device) for row in rows]
            deviation = self.config.noise_deviation
            noisy = with_noisy_magnitudes(waveforms[places], deviation=deviation, generators=generators)
            waveforms = waveforms.index_copy(0, places, noisy)
        return waveforms

    def context(self, batch: CropBatch, *, step: int) -> Context:
        """Output of the context network with the alterations of a step."""
        draws = self.draw(batch, step=step)
        return Context(self._encoded(batch, draws, step=step), hidden=draws.hidden)

    def metrics(self, terms: dict[str, Tensor], stats: dict[str, Tensor]) -> Metrics:
        """Numbers to log from the summed terms and stats of an effective batch.

        Errors are absolute, in deviations of a band: ``loss`` of all altered values, ``chance_loss`` of the mean frame
        there; ``time_loss`` and ``interpolation_loss`` at masked frames, ``frequency_loss`` in removed bands elsewhere
        (0 where none is); ``prediction_deviation`` over masked frames.
        """
        frames = stats["time_count"] / MEL.bands
        variance = (stats["squares"] / frames - (stats["sum"] / frames).square()).clamp(min=0)
        return {
            "loss": float(terms["l1"] / stats["count"]),
            "chance_loss": float(stats["mean_error"] / stats["count"]),
            "time_loss": float(stats["time_error"] / stats["time_count"]),
            "time_chance_loss": float(stats["time_mean_error"] / stats["time_count"]),
            "interpolation_loss": float(stats["interpolation_error"] / stats["time_count"]),
            "frequency_loss": float(stats["frequency_error"] / stats["frequency_count"].clamp(min=1)),
            "prediction_deviation": float(variance.sqrt().mean()),
        }

    def summary(self, metrics: Mapping[str, Any]) -> str:
        """Errors of all values, at hidden frames and in removed bands."""
        parts = f"{metrics['time_loss']:.3f} hidden frames, {metrics['frequency_loss']:.3f} removed bands"
        return f"error {metrics['loss']:.3f} of {metrics['chance_loss']:.3f} ({parts})"

    def symptoms(
        self,
        metrics: Mapping[str, float | Sequence[float]],
        probed: Mapping[str, float | Sequence[float]],  # noqa: ARG002 -- nothing slower is measured
    ) -> list[Symptom]:
        """Three failure modes: spans that interpolation fills, constant predictions, an error that stays at chance."""
        limits = self.config.symptoms
        value = {name: float(each) for name, each in metrics.items() if isinstance(each, int | float)}
        signs = {
            "local task": (
                value["interpolation_loss"] < limits.min_interpolation * value["time_chance_loss"],
                f"error of a line {value['interpolation_loss']:.3f}, of the mean frame {value['time_chance_loss']:.3f}",
            ),
            "constant prediction": (
                value["prediction_deviation"] < limits.min_deviation,
                f"deviation of the predictions {value['prediction_deviation']:.4f}",
            ),
            "not learning": (
                value["loss"] > (1 - limits.chance_margin) * value["chance_loss"],
                f"error {value['loss']:.3f}, of the mean frame {value['chance_loss']:.3f}",
            ),
        }
        return [Symptom(state, present, evidence, ADVICE[state]) for state, (present, evidence) in signs.items()]


def _generator(key: tuple[int, ...], device: torch.device) -> torch.Generator:
    """A random stream of its own."""
    state = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)
    return torch.Generator(device).manual_seed(state)
