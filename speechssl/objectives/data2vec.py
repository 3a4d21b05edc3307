"""data2vec: regression of the hidden states that a moving teacher has at masked frames.

Baevski et al. 2022, "data2vec: A General Framework for Self-supervised Learning in Speech, Vision and Language", arXiv
2202.03555, sections 3.2 to 3.4 and 4.2. The teacher is a moving average of the Transformer alone and encodes all
frames; its target is the mean over its last layers of the feed-forward output before the residual connection, each with
zero mean and unit variance per channel over the crop. The student gets masked frames; the loss is the squared error
there. The released encoder is the student, as in the paper.

From data2vec 2.0 (Baevski et al. 2022, arXiv 2212.07525, sections 3.2 and 3.3): several masks per crop share the pass
of the teacher (``masks``), and the student encodes unmasked frames only (``mask.drop``). From MT4SSL (Ma et al. 2022,
arXiv 2211.07321): the unit of a masked frame, as in HuBERT, is predicted beside the regression (``unit_weight``).

Differences: the error is a mean over channels (fairseq: a sum over the square root of their number, the same up to a
factor that Adam does not see). Small presets use masks and student of 2.0, the upper half of the layers, and decays for
their few updates: the fractions of the run over which the teacher averages are about the paper's.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor, nn

from speechssl.config import Config as BaseConfig
from speechssl.data.batch import BatchSpec, CropBatch, FrameGrid
from speechssl.data.units import UnitsConfig
from speechssl.models.encoder import EncoderConfig, SpeechEncoder
from speechssl.models.masked import check_masking, objective_context
from speechssl.nn.decoder import ConvDecoder, DecoderConfig, decoder_shapes
from speechssl.nn.ema import EMA, DecayConfig
from speechssl.nn.losses import code_cross_entropy, regression
from speechssl.nn.masking import MaskConfig, span_mask
from speechssl.nn.squeeze import repeated
from speechssl.nn.transformer import Transformer, TransformerLayer
from speechssl.objectives.base import Context, Curve, Metrics, Objective, StepOutput, Symptom
from speechssl.objectives.prosody import ProsodyConfig, prosody_head, prosody_metrics, prosody_term

_MASK = 11  # part of the seed, so that this random stream differs from others

ADVICE = {
    "constant targets": "the teacher gives nearly the same in every frame: lower optim.reference_lr, lengthen "
    "optim.warmup, or let the teacher follow more slowly (objective.decay.start, objective.decay.end)",
    "constant prediction": "the student predicts nearly the same in every frame: lower optim.reference_lr, or mask "
    "less (objective.mask.probability)",
    "not learning": "the error stays at that of the mean target: more updates, another optim.reference_lr, or a "
    "teacher that follows faster in a short run (lower objective.decay.start)",
}


class SymptomConfig(BaseConfig):
    """When an update counts as showing a symptom; the limits of deviations are those at which fairseq stops a run."""

    min_target_deviation: float = 0.1  # of the targets over masked frames, mean over channels
    min_prediction_deviation: float = 0.01  # of the predictions
    chance_margin: float = 0.01  # an error within this fraction of the variance of the targets counts as chance


class Data2VecConfig(ProsodyConfig):
    """Settings; defaults are the paper's BASE for speech (fairseq ``base_librispeech.yaml``)."""

    name: Literal["data2vec"] = "data2vec"  # pyright: ignore[reportIncompatibleVariableOverride] -- frozen
    masks: PositiveInt = 1  # per crop and pass of the teacher (data2vec 2.0 for speech: 8)
    mask: MaskConfig = MaskConfig()
    decoder: DecoderConfig = DecoderConfig()  # with mask.drop
    layers: float = Field(default=0.667, gt=0, le=1)  # fraction of the layers, the last ones (8 of 12)
    decay: DecayConfig = DecayConfig()
    unit_weight: NonNegativeFloat = 0.0  # of the cross-entropy of a unit beside the mean squared error
    units: UnitsConfig = UnitsConfig()  # with unit_weight
    symptoms: SymptomConfig = SymptomConfig()

    def continued(self) -> "Data2VecConfig":
        """The decay stays where the first run left it: a fast teacher would forget what it averages."""
        return self.model_copy(update={"decay": self.decay.model_copy(update={"start": self.decay.end})})

    def shapes(self, encoder: EncoderConfig) -> dict[str, tuple[int, ...]]:
        """Shapes of the projection, of the teacher's last block and of the classes."""
        last = f"teacher.module.layers.{encoder.transformer.layers - 1}.expand.weight"
        own = {"project.weight": (encoder.dim, encoder.dim), last: (encoder.transformer.feedforward, encoder.dim)}
        if self.unit_weight:
            own["classify.weight"] = (self.units.classes, encoder.dim)
        return own | decoder_shapes(encoder.dim, self.decoder if self.mask.drop else None)

    def check(self, encoder: EncoderConfig) -> None:
        """Compare the masks with the encoder, and the settings of units with their weight."""
        check_masking(encoder, self.mask, self.decoder)
        if not self.unit_weight and self.units != UnitsConfig():
            raise ValueError(
                "objective.units is used with objective.unit_weight above 0 only; set that, or leave it out"
            )

    def in_words(self) -> str:
        """Teacher, masks and units."""
        several = f"{self.masks} masks per crop: " if self.masks > 1 else ""
        units = f", {self.units.classes} units of {self.units.source}" if self.unit_weight else ""
        masks = f"{several}{self.mask.in_words()}{units}{self.in_addition()}"
        return f"teacher of decay {self.decay.start:g} to {self.decay.end:g}, {masks}"


Config = Data2VecConfig

# 50 % of the frames in spans of 5, as in data2vec 2.0; spans overlap here, so that 0.7 gives that share.
_SMALL = {"masks": 4, "mask": MaskConfig(probability=0.7, length=5, drop=True), "layers": 0.5}

PRESETS: dict[str, Data2VecConfig] = {
    "tiny": Data2VecConfig.model_validate(_SMALL | {"decay": DecayConfig(start=0.95, end=0.99, ramp=0.2)}),
    "small": Data2VecConfig.model_validate(_SMALL | {"decay": DecayConfig(start=0.98, end=0.998, ramp=0.1)}),
    "base": Data2VecConfig(),
    "large": Data2VecConfig(),
}

_RATES = {"reference_lr": 1e-3, "reference_seconds": 32.0, "max_lr": 1e-3, "conv_lr_scale": 0.1}
_STACK = {"transformer": {"position_stack": 5, "position_kernel": 19}}

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
    "base": {"encoder": {"conv": {"norm": "layer"}, "normalize": True, **_STACK}},
    "large": {"encoder": _STACK, "crops": {"seconds": 20.0, "batch_seconds": 75.0}, "optim": {"max_lr": 3e-4}},
}

CURVES = (
    Curve(
        "regression_loss",
        "Squared error (mean over channels)",
        caption="Error of the predicted targets at masked frames. The dashed line is the variance of the targets: the "
        "error of a model that predicts their mean. Targets move with the teacher, so that errors of different times "
        "cannot be compared; healthy runs may rise while the teacher improves.",
        chance="chance_loss",
        limits=(0.0, None),
        headline=True,
    ),
    Curve(
        "target_deviation",
        "Deviation over frames",
        label="targets",
        caption="Standard deviation over masked frames, mean over channels; near zero, teacher or student give the "
        "same in every frame.",
        alarm="symptoms.min_target_deviation",
        limits=(0.0, None),
    ),
    Curve("prediction_deviation", "Deviation over frames", label="predictions", limits=(0.0, None), headline=True),
)


def build(encoder: SpeechEncoder, config: Data2VecConfig, *, seed: int) -> "Data2Vec":
    """Build the objective around an encoder."""
    return Data2Vec(encoder, config, seed=seed)


class Data2Vec(Objective):
    """Encoder, moving average of its Transformer, and a projection; a target is a masked frame of one of the masks.

    Args:
        encoder: trained in place; the student.
        config: the objective.
        seed: seed of masks.

    Example:
        >>> from speechssl.models.encoder import PRESETS as ENCODERS
        >>> objective = Data2Vec(SpeechEncoder(ENCODERS["tiny"]), PRESETS["tiny"], seed=0)
        >>> loss = objective(CropBatch(torch.randn(2, 32000), np.arange(2), 2), step=0, progress=0.0)
        >>> sorted(loss.terms), loss.stats["target_sum"].shape
        (['regression'], torch.Size([192]))
    """

    criterion = None  # errors of a moving teacher cannot be compared over time

    def __init__(self, encoder: SpeechEncoder, config: Data2VecConfig, *, seed: int):
        super().__init__(encoder, seed=seed)
        self.config = config
        dim = encoder.config.dim
        self.teacher = EMA(encoder.transformer)
        self.project = nn.Linear(dim, dim)
        self.mask_embedding = nn.Parameter(torch.rand(dim))  # fairseq's uniform
        self.decoder = ConvDecoder(dim, config.decoder) if config.mask.drop else None
        self.classify = nn.Linear(dim, config.units.classes) if config.unit_weight else None
        self.prosody = prosody_head(encoder.config, config)

    @property
    def batch_spec(self) -> BatchSpec:
        """The unit of each frame, where units are predicted."""
        level = self.prosody is not None
        if self.classify is None:
            return BatchSpec(level=level)
        conv = self.encoder.config.conv
        grid = FrameGrid(conv.hop, conv.receptive_field, conv.padding)
        return BatchSpec(labels=self.config.units, grid=grid, hop=conv.hop, level=level)

    @property
    def min_frames(self) -> int:
        """Frames that the minimum number of spans needs."""
        return self.config.mask.min_frames(self.encoder.config.squeeze_factor)

    def forward(
        self,
        batch: CropBatch,
        *,
        step: int,
        progress: float,  # noqa: ARG002 -- the decay is applied after updates
        shared: Mapping[str, Tensor] | None = None,  # noqa: ARG002 -- the loss is a sum over frames
    ) -> StepOutput:
        """Loss of a (micro-)batch; masks are functions of (seed, step, position in the batch)."""
        hidden = self.masks(batch, step=step).flatten(0, 1)  # masks*batch frames
        latents = self.encoder.latents(batch.waveforms)
        targets = self._copies(self.targets(latents))[hidden]  # targets dim
        context = objective_context(self.encoder, self._copies(latents), self.mask_embedding, hidden, self.decoder)
        predictions = self.project(context[hidden])
        found = regression(predictions, targets, distance="mse")
        terms = {"regression": found.total}
        stats = {"count": found.count} | _moments("target", targets) | _moments("prediction", predictions.detach())
        if self.classify is not None:
            assert batch.labels is not None
            units = self._copies(batch.labels)[hidden].unsqueeze(-1)
            classified = code_cross_entropy(self.classify(context[hidden]).unsqueeze(-2), units)
            terms["units"] = self.config.unit_weight * classified.total
            stats["correct"] = classified.stats["correct"].sum()
        more_terms, more_stats = prosody_term(self.prosody, context, hidden, batch.waveforms, batch.level)
        terms, stats = terms | more_terms, stats | more_stats
        total = torch.stack(list(terms.values())).sum()
        return StepOutput(total=total, terms={name: term.detach() for name, term in terms.items()}, stats=stats)

    def _copies(self, x: Tensor) -> Tensor:
        """The rows of a batch once for every mask."""
        return x.repeat(self.config.masks, *[1] * (x.ndim - 1))

    @torch.no_grad()
    def targets(self, latents: Float[Tensor, "batch frames channels"]) -> Float[Tensor, "batch frames dim"]:
        """Mean of the normalised feed-forward outputs of the teacher's last layers, fp32."""
        steps = self.encoder.projection(latents.detach())
        if self.encoder.squeeze is not None:
            steps = self.encoder.squeeze(steps, None)
        teacher, outputs = self.teacher.module, list[Tensor]()
        assert isinstance(teacher, Transformer)
        count = max(1, round(self.config.layers * len(teacher.layers)))
        blocks = [block for block in list(teacher.layers)[-count:] if isinstance(block, TransformerLayer)]

        def keep(_module: nn.Module, _inputs: tuple[Tensor], output: Tensor) -> None:
            outputs.append(output)

        hooks = [block.contract.register_forward_hook(keep) for block in blocks]
        try:
            teacher(steps, None)
        finally:
            for hook in hooks:
                hook.remove()
        with torch.autocast(latents.device.type, enabled=False):
            normalized = [F.instance_norm(each.float().mT).mT for each in outputs]  # over the frames of a crop
            target = torch.stack(normalized).mean(dim=0)
        return target if self.encoder.squeeze is None else repeated(target, latents.shape[1])

    def masks(self, crops: CropBatch, *, step: int) -> Bool[Tensor, "masks batch frames"]:
        """Masks of these crops, equally many frames in each, sliced from the draw for the whole global batch."""
        frames = int(self.encoder.num_frames(torch.tensor(crops.samples)))
        rng = np.random.default_rng((self.seed, _MASK, step))
        every = np.full(self.config.masks * crops.global_rows, frames)
        drawn = span_mask(every, self.config.mask, rng=rng, group=self.encoder.config.squeeze_factor)
        of_rows = drawn.reshape(self.config.masks, crops.global_rows, frames)[:, crops.rows]
        return torch.from_numpy(of_rows).to(crops.waveforms.device, non_blocking=True)  # no wait for a GPU

    def context(self, batch: CropBatch, *, step: int) -> Context:
        """Output of the student with the first mask of a step."""
        mask = self.masks(batch, step=step)[0]
        latents = self.encoder.latents(batch.waveforms)
        return Context(objective_context(self.encoder, latents, self.mask_embedding, mask, self.decoder), hidden=mask)

    def after_update(self, *, step: int, progress: float) -> None:  # noqa: ARG002 -- the decay follows the run
        """The teacher follows the Transformer."""
        self.teacher.update(self.encoder.transformer, self.config.decay.at(progress))

    def metrics(self, terms: dict[str, Tensor], stats: dict[str, Tensor]) -> Metrics:
        """Numbers to log from the summed terms and stats of an effective batch.

        ``regression_loss`` per masked frame, mean over channels; ``chance_loss`` the variance of the targets; standard
        deviations of targets and predictions over these frames. With units also their cross-entropy and accuracy.
        """
        count = stats["count"]
        variances = {name: _variance(stats, name) for name in ("target", "prediction")}
        found: Metrics = {
            "loss": float(sum(terms.values()) / count),
            "regression_loss": float(terms["regression"] / count),
            "chance_loss": float(variances["target"].mean()),
            "target_deviation": float(variances["target"].sqrt().mean()),
            "prediction_deviation": float(variances["prediction"].sqrt().mean()),
        }
        if self.classify is not None:
            found["unit_loss"] = float(terms["units"] / count) / self.config.unit_weight
            found["accuracy"] = float(stats["correct"] / count)
        return found | prosody_metrics(stats)

    def summary(self, metrics: Mapping[str, Any]) -> str:
        """Error, variance and deviation."""
        error = f"error {metrics['regression_loss']:.3f} of {metrics['chance_loss']:.3f}"
        return f"{error}, deviation of predictions {metrics['prediction_deviation']:.3f}"

    def symptoms(
        self,
        metrics: Mapping[str, float | Sequence[float]],
        probed: Mapping[str, float | Sequence[float]],  # noqa: ARG002 -- nothing slower is measured
    ) -> list[Symptom]:
        """Three failure modes: a teacher or a student that is constant, an error that stays at chance."""
        limits = self.config.symptoms
        value = {name: float(each) for name, each in metrics.items() if isinstance(each, int | float)}
        signs = {
            "constant targets": (
                value["target_deviation"] < limits.min_target_deviation,
                f"deviation of the targets {value['target_deviation']:.4f}",
            ),
            "constant prediction": (
                value["prediction_deviation"] < limits.min_prediction_deviation,
                f"deviation of the predictions {value['prediction_deviation']:.4f}",
            ),
            "not learning": (
                value["regression_loss"] > (1 - limits.chance_margin) * value["chance_loss"],
                f"error {value['regression_loss']:.3f}, variance of the targets {value['chance_loss']:.3f}",
            ),
        }
        return [Symptom(state, present, evidence, ADVICE[state]) for state, (present, evidence) in signs.items()]


def _moments(name: str, frames: Float[Tensor, "frames dim"]) -> dict[str, Tensor]:
    """Sums over frames of each channel and of its square."""
    frames = frames.float()
    return {f"{name}_sum": frames.sum(dim=0), f"{name}_squares": frames.square().sum(dim=0)}


def _variance(stats: Mapping[str, Tensor], name: str) -> Float[Tensor, " dim"]:
    """Variance of each channel over the frames."""
    mean = stats[f"{name}_sum"] / stats["count"]
    return (stats[f"{name}_squares"] / stats["count"] - mean.square()).clamp(min=0)
