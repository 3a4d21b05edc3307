"""DINO: the distribution over prototypes that a moving teacher gives to one view is predicted from other views.

Caron et al. 2021, "Emerging Properties in Self-Supervised Vision Transformers", arXiv 2104.14294, section 3.1: student
and teacher of the same architecture; cross-entropy between the teacher's distribution of each global view and the
student's of every other view, shorter local ones among them (multi-crop); no negatives. Centring of the teacher's
outputs prevents one prototype from taking all recordings, sharpening by a low temperature prevents the uniform
distribution. The released encoder is the teacher, as in the paper.

Differences: the global views are a crop, augmented, and a crop near it; local views are cut from both. The network is
the encoder of all objectives on the waveform, its frames averaged over a view. Small presets have fewer prototypes, as
65,536 hardly move in a short run, and a teacher that follows faster, though many times slower than the centre: one that
follows as fast gives all recordings the same distribution.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from speechssl.config import Config as BaseConfig
from speechssl.data.batch import CropBatch, normalized
from speechssl.distributed import sum_over_ranks
from speechssl.models.encoder import EncoderConfig, SpeechEncoder
from speechssl.nn.ema import EMA, DecayConfig
from speechssl.nn.losses import cosine_scores
from speechssl.objectives.base import Curve, Metrics, StepOutput, Symptom
from speechssl.objectives.views import AUGMENT, RANK_CURVE, Views, ViewsConfig, pooled, two_views

_CUT = 12  # part of the seed, so that this random stream differs from others

ADVICE = {
    "uniform outputs": "the teacher gives the same probability to all prototypes: lower objective.teacher_temperature "
    "and objective.teacher_temperature_start, or lower optim.reference_lr",
    "one prototype": "the teacher gives one prototype to nearly all recordings: lower objective.centre_momentum, raise "
    "objective.decay.start, or lower optim.reference_lr",
    "few dimensions": "the vectors vary in few directions: lower optim.reference_lr, or more recordings per batch "
    "(crops.batch_seconds)",
    "not learning": "the student does no better than with the teacher's mean output: more updates, another "
    "optim.reference_lr, or a centre that follows faster than the teacher (lower objective.centre_momentum, higher "
    "objective.decay.start)",
}


class SymptomConfig(BaseConfig):
    """When an update counts as showing a symptom."""

    uniform_margin: float = 0.02  # a mean entropy within this fraction of that of equal probabilities counts as uniform
    min_usage: float = 2.0  # prototypes in use, the exponential of the entropy of the mean output
    min_rank: float = 2.0  # effective rank of the pooled vectors of a validation batch
    chance_margin: float = 0.01  # a loss within this fraction of that of the mean output counts as chance


class DinoConfig(ViewsConfig):
    """Settings; defaults are the paper's for ViT."""

    name: Literal["dino"] = "dino"  # pyright: ignore[reportIncompatibleVariableOverride] -- frozen
    local_views: NonNegativeInt = 8  # shorter crops of each row, which the student alone encodes
    local_share: float = Field(default=0.4, gt=0, le=1)  # their length as a fraction of a crop
    hidden: PositiveInt = 2048  # of the head
    dim: PositiveInt = 256  # in which outputs are compared with prototypes
    prototypes: PositiveInt = 65_536
    student_temperature: PositiveFloat = 0.1
    teacher_temperature_start: PositiveFloat = 0.04
    teacher_temperature: PositiveFloat = 0.07
    teacher_warmup: float = Field(default=0.1, ge=0, le=1)  # fraction of the run after which that is reached
    centre_momentum: float = Field(default=0.9, ge=0, lt=1)
    freeze: float = Field(default=0.01, ge=0, le=1)  # fraction of the run in which the prototypes stay
    decay: DecayConfig = DecayConfig(start=0.996, end=1.0, ramp=1.0, shape="cosine")
    symptoms: SymptomConfig = SymptomConfig()

    def continued(self) -> "DinoConfig":
        """The teacher's temperature stays where the first run left it, and the prototypes are trained at once."""
        return self.model_copy(update={"teacher_temperature_start": self.teacher_temperature, "freeze": 0.0})

    def shapes(self, encoder: EncoderConfig) -> dict[str, tuple[int, ...]]:
        """Shapes of the first layer of the head and of the prototypes, of student and teacher."""
        own = {"layers.0.weight": (self.hidden, encoder.dim), "prototypes": (self.prototypes, self.dim)}
        return {f"{part}.{name}": shape for part in ("head", "teacher_head.module") for name, shape in own.items()}

    def in_words(self) -> str:
        """Prototypes, views and teacher."""
        teacher = f"teacher of decay {self.decay.start:g} to {self.decay.end:g}"
        return f"{self.prototypes} prototypes, {self.local_views} local views, {teacher}"

    def temperature(self, progress: float) -> float:
        """Temperature of the teacher at a fraction of the run.

        >>> round(DinoConfig(teacher_warmup=0.5).temperature(0.25), 4)
        0.055
        """
        share = min(1.0, progress / self.teacher_warmup) if self.teacher_warmup else 1.0
        return self.teacher_temperature_start + share * (self.teacher_temperature - self.teacher_temperature_start)


Config = DinoConfig

PRESETS: dict[str, DinoConfig] = {
    "tiny": DinoConfig(
        local_views=4,
        hidden=512,
        dim=128,
        prototypes=1024,
        teacher_temperature=0.04,
        centre_momentum=0.8,
        decay=DecayConfig(start=0.99, end=0.998, ramp=1.0, shape="cosine"),
    ),
    "small": DinoConfig(
        local_views=4,
        hidden=1024,
        prototypes=4096,
        teacher_temperature=0.04,
        decay=DecayConfig(start=0.996, end=0.9995, ramp=1.0, shape="cosine"),
    ),
    "base": DinoConfig(),
    "large": DinoConfig(),
}

_RATES = {"reference_lr": 5e-4, "reference_seconds": 64.0, "max_lr": 5e-4, "conv_lr_scale": 0.1, "clip": 3.0}

RUNS: Mapping[str, Mapping[str, Mapping[str, object]]] = {
    # Crops are at most half as long as a recording; of each row the teacher encodes two, the student also local views.
    "tiny": {
        "crops": {"seconds": 1.0, "min_seconds": 0.5, "batch_seconds": 64.0},
        "augment": AUGMENT,
        "optim": _RATES,
        "loop": {"steps": 1000, "validate_every": 100, "checkpoint_every": 100},
        "health": {"grace": 300, "patience": 100},
    },
    "small": {
        "crops": {"seconds": 3.0, "min_seconds": 1.0, "batch_seconds": 384.0},
        "augment": AUGMENT,
        "optim": _RATES,
        "loop": {"steps": 20_000, "validate_every": 250, "checkpoint_every": 250},
    },
    "base": {
        "crops": {"seconds": 3.0, "min_seconds": 1.5, "batch_seconds": 768.0, "normalize": False},
        "augment": AUGMENT,
        "optim": {"clip": 3.0},
    },
    "large": {
        "crops": {"seconds": 3.0, "min_seconds": 1.5, "batch_seconds": 768.0},
        "augment": AUGMENT,
        "optim": {"max_lr": 3e-4, "clip": 3.0},
    },
}

CURVES = (
    Curve(
        "loss",
        "Cross-entropy (nats)",
        label="loss",
        caption="Cross-entropy of the student's distribution of a view with the teacher's of another. It is the sum of "
        "the teacher's entropy and of the divergence from it. The dashed line is the loss of a student that gives the "
        "teacher's mean output to all recordings: in a collapse, of either kind, the loss is there.",
        chance="chance_loss",
        limits=(0.0, None),
        headline=True,
    ),
    Curve("entropy", "Cross-entropy (nats)", label="teacher's entropy", chance="uniform_entropy", limits=(0.0, None)),
    Curve(
        "divergence",
        "Divergence from the teacher (nats)",
        caption="Kullback-Leibler divergence of student and teacher.",
        limits=(0.0, None),
    ),
    Curve(
        "information",
        "Information about the recording (nats)",
        caption="Entropy of the teacher's mean output less its mean entropy: what a prototype tells about the "
        "recording. 0 with equal probabilities everywhere and with one prototype for all recordings; at most the "
        "logarithm of the number of views in a batch.",
        limits=(0.0, None),
        headline=True,
    ),
    Curve(
        "usage",
        "Prototypes in use",
        caption="Exponential of the entropy of the teacher's mean output over a batch.",
        alarm="symptoms.min_usage",
        limits=(0.0, None),
    ),
    RANK_CURVE,
)


def build(encoder: SpeechEncoder, config: DinoConfig, *, seed: int) -> "Dino":
    """Build the objective around an encoder."""
    return Dino(encoder, config, seed=seed)


class Head(nn.Module):
    """Three linear maps with GELU, unit length, and the cosine with each prototype (the paper's weight-normed layer).

    >>> Head(4, DinoConfig(hidden=8, dim=3, prototypes=5))(torch.randn(2, 4)).shape
    torch.Size([2, 5])
    """

    def __init__(self, inputs: int, config: DinoConfig):
        super().__init__()
        hidden = config.hidden
        self.layers = nn.Sequential(
            nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, config.dim)
        )
        self.prototypes = nn.Parameter(torch.randn(config.prototypes, config.dim))
        for each in self.layers:
            if isinstance(each, nn.Linear):
                nn.init.trunc_normal_(each.weight, std=0.02)
                nn.init.zeros_(each.bias)

    def forward(
        self, vectors: Float[Tensor, "*shape inputs"], *, frozen: bool = False
    ) -> Float[Tensor, "*shape prototypes"]:
        """Cosines, fp32; with ``frozen`` the gradient of the prototypes is zero."""
        prototypes = self.prototypes
        if frozen:  # a gradient there is, as data parallelism needs one
            prototypes = prototypes.detach() + 0.0 * prototypes
        with torch.autocast(vectors.device.type, enabled=False):
            compared = self.layers(vectors.float()).reshape(-1, prototypes.shape[1])  # rows dim
            return cosine_scores(compared, prototypes, temperature=1.0).reshape(*vectors.shape[:-1], -1)


class Dino(Views):
    """Encoder and head, their moving averages, and the centre of the outputs of these.

    A target is a pair of a global view for the teacher and another view for the student.

    Args:
        encoder: trained in place; the student.
        config: the objective.
        seed: seed of the local views.

    Attributes:
        centre: moving mean of the teacher's outputs over the batches of the run.

    Example:
        >>> from speechssl.models.encoder import PRESETS as ENCODERS
        >>> objective = Dino(SpeechEncoder(ENCODERS["tiny"]), PRESETS["tiny"], seed=0)
        >>> crops, near = torch.randn(2, 3, 16000)
        >>> batch = CropBatch(crops, np.arange(3), 3, near=near)
        >>> int(objective(batch, step=0, progress=0.0).stats["count"])  # 3 rows, 2 views for the teacher, 5 others
        30
    """

    criterion = None  # losses of a moving teacher cannot be compared over time
    centre: Tensor

    def __init__(self, encoder: SpeechEncoder, config: DinoConfig, *, seed: int):
        super().__init__(encoder, config, seed=seed)
        self.head = Head(encoder.config.dim, config)
        self.teacher, self.teacher_head = EMA(encoder), EMA(self.head)
        self.register_buffer("centre", torch.zeros(config.prototypes))
        # Sum and number of the teacher's outputs since the last update. No buffer: those of rank 0 replace the others'.
        self._outputs: dict[str, Tensor] = {}

    @property
    def released(self) -> SpeechEncoder:
        """The teacher."""
        teacher = self.teacher.module
        assert isinstance(teacher, SpeechEncoder)
        return teacher

    @property
    def min_frames(self) -> int:
        """Frames of a crop whose local views have about two."""
        return math.ceil(3 / self.config.local_share)

    def forward(
        self,
        batch: CropBatch,
        *,
        step: int,
        progress: float,
        shared: Mapping[str, Tensor] | None = None,  # noqa: ARG002 -- the loss is a sum over rows
    ) -> StepOutput:
        """Loss of a (micro-)batch; local views are functions of (seed, step, position in the batch)."""
        config, views = self.config, two_views(batch)
        expected = self._expected(views, temperature=config.temperature(progress))
        vectors = [pooled(self.encoder, views)]
        if config.local_views:
            vectors.append(pooled(self.encoder, self.local_views(batch, step=step)))
        outputs = self.head(torch.cat(vectors, dim=1), frozen=progress < config.freeze)
        predicted = (outputs / config.student_temperature).log_softmax(dim=-1)
        with torch.autocast(outputs.device.type, enabled=False):
            losses = -torch.einsum("btp,bsp->ts", expected, predicted)  # sums over rows
        pairs = ~torch.eye(*losses.shape, dtype=torch.bool, device=losses.device)  # not a view with itself
        total = losses[pairs].sum()
        stats = {
            "count": (pairs.sum() * len(views)).float(),
            "views": torch.full((), float(2 * len(views)), device=total.device),
            "entropy": -torch.xlogy(expected, expected).sum(),
            "mean_output": expected.sum(dim=(0, 1)),
        }
        return StepOutput(total=total, terms={"cross_entropy": total.detach()}, stats=stats)

    @torch.no_grad()
    def _expected(
        self, views: Float[Tensor, "batch 2 samples"], *, temperature: float
    ) -> Float[Tensor, "batch 2 prototypes"]:
        """Distributions of the teacher, centred and sharpened; in training, its outputs count for the next centre."""
        outputs = self.teacher_head.module(pooled(self.released, views))
        if self.training:
            own = {"sum": outputs.sum(dim=(0, 1)), "count": torch.full_like(self.centre[0], 2 * len(views))}
            self._outputs = {name: each + self._outputs.get(name, 0.0) for name, each in own.items()}
        return ((outputs - self.centre) / temperature).softmax(dim=-1)

    def local_views(self, batch: CropBatch, *, step: int) -> Float[Tensor, "batch locals length"]:
        """Shorter crops of both views in turn, sliced from the draw for the whole global batch."""
        views, count = two_views(batch), self.config.local_views
        length = round(self.config.local_share * batch.samples)
        rng = np.random.default_rng((self.seed, _CUT, step))
        drawn = rng.integers(batch.samples - length + 1, size=(batch.global_rows, count))[batch.rows]
        starts = torch.from_numpy(drawn).to(views.device, non_blocking=True)
        places = starts.unsqueeze(-1) + torch.arange(length, device=views.device)  # batch locals length
        cut = views[:, torch.arange(count, device=views.device) % 2].gather(-1, places)
        if self.encoder.config.normalize:
            cut = normalized(cut.flatten(0, 1)).unflatten(0, cut.shape[:2])
        return cut

    @torch.no_grad()
    def after_update(self, *, step: int, progress: float) -> None:  # noqa: ARG002 -- the decay follows the run
        """The teacher follows encoder and head, the centre the teacher's outputs of the global batch."""
        decay = self.config.decay.at(progress)
        self.teacher.update(self.encoder, decay)
        self.teacher_head.update(self.head, decay)
        if self._outputs:
            found = sum_over_ranks(self._outputs)
            self.centre.lerp_(found["sum"] / found["count"], 1 - self.config.centre_momentum)
            self._outputs = {}

    def metrics(self, terms: dict[str, Tensor], stats: dict[str, Tensor]) -> Metrics:
        """Numbers to log from the summed terms and stats of an effective batch.

        ``loss`` per pair of views, its two parts ``entropy`` and ``divergence``; ``chance_loss``, that of the teacher's
        mean output for all recordings, which is its entropy; ``information``, what is between both entropies;
        ``usage``, number of prototypes of the same entropy as the mean output.
        """
        mean = stats["mean_output"] / stats["views"]
        spread = float(-torch.xlogy(mean, mean).sum())
        loss, entropy = float(terms["cross_entropy"] / stats["count"]), float(stats["entropy"] / stats["views"])
        return {
            "loss": loss,
            "chance_loss": spread,
            "entropy": entropy,
            "uniform_entropy": math.log(len(mean)),
            "divergence": loss - entropy,
            "information": spread - entropy,
            "usage": math.exp(spread),
        }

    def summary(self, metrics: Mapping[str, Any]) -> str:
        """Loss, information and usage."""
        loss = f"loss {metrics['loss']:.3f} of {metrics['chance_loss']:.3f}"
        return f"{loss}, information {metrics['information']:.3f}, {metrics['usage']:.0f} prototypes"

    def symptoms(
        self,
        metrics: Mapping[str, float | Sequence[float]],
        probed: Mapping[str, float | Sequence[float]],
    ) -> list[Symptom]:
        """Four failure modes: the two collapses of the outputs, vectors of few dimensions, a loss at chance."""
        limits = self.config.symptoms
        value = {name: float(each) for name, each in {**metrics, **probed}.items() if isinstance(each, int | float)}
        signs = {
            "uniform outputs": (
                value["entropy"] > (1 - limits.uniform_margin) * value["uniform_entropy"],
                f"mean entropy {value['entropy']:.3f} of {value['uniform_entropy']:.3f}",
            ),
            "one prototype": (value["usage"] < limits.min_usage, f"{value['usage']:.2f} prototypes in use"),
            "few dimensions": (
                value.get("effective_rank", limits.min_rank) < limits.min_rank,
                f"effective rank {value.get('effective_rank', limits.min_rank):.1f}",
            ),
            "not learning": (
                value["loss"] > (1 - limits.chance_margin) * value["chance_loss"],
                f"loss {value['loss']:.3f}, with the mean output {value['chance_loss']:.3f}",
            ),
        }
        return [Symptom(state, present, evidence, ADVICE[state]) for state, (present, evidence) in signs.items()]
