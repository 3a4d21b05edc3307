"""The seam between the training loop and a method.

The loop knows precision, accumulation, data parallelism, clipping, schedules, validation, checkpoints and logs. An
objective knows its loss, what is logged of it, how it fails, and what must be summed over a batch that is processed in
parts. Losses are *sums* over targets: the loop divides gradients by ``stats["count"]``, summed over micro-batches and
ranks, so that accumulation, data parallelism and one big batch give the same update.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor, nn

from speechssl.config import Config
from speechssl.data.batch import CROPS_ALONE, BatchSpec, CropBatch
from speechssl.models.encoder import EncoderConfig, SpeechEncoder

Metrics = dict[str, float | list[float]]
ENCODER = "encoder."  # prefix of the encoder's parameters in every objective


class ObjectiveConfig(Config):
    """Settings of an objective.

    Attributes:
        name: which objective, one of :data:`speechssl.objectives.OBJECTIVES`.
    """

    name: str

    def continued(self) -> "ObjectiveConfig":
        """Settings for a run that continues from a model of this objective."""
        return self

    def shapes(self, encoder: EncoderConfig) -> dict[str, tuple[int, ...]]:  # noqa: ARG002 -- a default
        """Shapes of the largest tensors beside the encoder, to compare with a file before anything is allocated."""
        return {}

    def in_words(self) -> str:
        """The settings that shape the method most, for people."""
        return ""


@dataclass(frozen=True)
class StepOutput:
    """Sums over the targets of one (micro-)batch, and what to log.

    Attributes:
        total: differentiable, to be divided by the number of targets of the whole effective batch.
        terms: its weighted parts, detached.
        stats: detached sums that add up over micro-batches and ranks; ``count`` is the number of targets.
    """

    total: Float[Tensor, ""]
    terms: dict[str, Tensor]
    stats: dict[str, Tensor]


@dataclass(frozen=True)
class Symptom:
    """A way to fail, and whether an update shows it.

    Attributes:
        state: its name, in two or three words.
        present: whether it shows.
        evidence: the numbers.
        advice: which settings to change.
    """

    state: str
    present: bool
    evidence: str
    advice: str


@dataclass(frozen=True)
class Curve:
    """A metric that the report draws over updates.

    Attributes:
        metric: key of a row of the log; a list of numbers gives a line each.
        title: of its panel, with the unit; neighbours of one title share a panel.
        label: of its line, where a panel has several.
        caption: how to read it, in whole sentences; the report shows it under the figure.
        chance: key of the value of a model that knows nothing, drawn as a dashed line.
        bound: setting of the objective that is the metric's largest value, as `quantizer.codes`; a dashed line.
        alarm: setting of the objective beyond which the metric is a symptom, as `symptoms.max_constant_share`; dotted.
        limits: of the vertical axis; None where the values decide, for both ends or one.
        training: whether updates log it.
        validation: whether validations log it.
        headline: whether its last validation value stands at the top of the report.
    """

    metric: str
    title: str
    label: str = ""
    caption: str = ""
    chance: str | None = None
    bound: str | None = None
    alarm: str | None = None
    limits: tuple[float | None, float | None] | None = None
    training: bool = True
    validation: bool = True
    headline: bool = False


@dataclass(frozen=True)
class Context:
    """Frames that an objective predicts from, and what of the audio each of them must not depend on.

    Attributes:
        frames: output of the context network.
        hidden: True where the input frame is hidden from the whole context (masked); None: none is.
        causal: whether a frame must not depend on input frames after it.
    """

    frames: Float[Tensor, "batch frames dim"]
    hidden: Bool[Tensor, "batch frames"] | None = None
    causal: bool = False


class Trainable(nn.Module):
    """What the training loop can train: a model and its loss. A subclass writes :meth:`forward` and :meth:`metrics`.

    Attributes:
        criterion: the metric whose smallest validation value is the best; None: the last state is the model, as with
            moving teachers, whose losses do not compare over time.
    """

    criterion: str | None = "loss"

    def forward(
        self, batch: Any, *, step: int, progress: float, shared: Mapping[str, Tensor] | None = None
    ) -> StepOutput:
        """Loss of a (micro-)batch.

        Args:
            batch: on the device of the parameters.
            step: number of the update; of a validation batch, the batch's number.
            progress: fraction of the run done.
            shared: sums of :meth:`gather` over the whole effective batch, where it is processed in parts.
        """
        raise NotImplementedError  # every objective has its own

    def metrics(self, terms: dict[str, Tensor], stats: dict[str, Tensor]) -> Metrics:
        """Numbers to log from terms and stats that are summed over an effective batch; ``loss`` is one of them."""
        raise NotImplementedError  # every objective has its own

    def summary(self, metrics: Mapping[str, Any]) -> str:
        """The few numbers to watch."""
        return f"loss {metrics['loss']:.3f}"

    def gather(self, parts: Sequence[Any], *, step: int) -> dict[str, Tensor]:  # noqa: ARG002 -- a default
        """Sums over the parts of a batch that the loss of each part needs, without gradients; the loop adds ranks."""
        return {}

    def after_update(self, *, step: int, progress: float) -> None:
        """Runs after each update of the weights; a moving teacher follows here."""

    def probe(self, batch: Any) -> Metrics:  # noqa: ARG002 -- a default
        """Slower measurements on a fixed batch, at validations; in evaluation mode, without gradients."""
        return {}

    def symptoms(
        self,
        metrics: Mapping[str, Any],  # noqa: ARG002 -- a default
        probed: Mapping[str, Any],  # noqa: ARG002 -- a default
    ) -> list[Symptom]:
        """Ways to fail, the most specific first.

        Args:
            metrics: of an update.
            probed: of the last :meth:`probe`; empty before it.
        """
        return []


class Objective(Trainable):
    """A pretraining method around an encoder.

    Args:
        encoder: trained in place; its parameters are named ``encoder.*``.
        seed: of every random draw, which is a function of (seed, step, place in the global batch).

    Attributes:
        exact_in_parts: whether micro-batches and ranks give the gradient of one big batch.
    """

    exact_in_parts: bool = True

    def __init__(self, encoder: SpeechEncoder, *, seed: int):
        super().__init__()
        self.encoder, self.seed = encoder, seed

    @property
    def batch_spec(self) -> BatchSpec:
        """What the batches have beside the crops."""
        return CROPS_ALONE

    @property
    def min_frames(self) -> int:
        """Frames that a crop must have at least."""
        return 1

    def context(self, batch: CropBatch, *, step: int) -> "Context | None":  # noqa: ARG002 -- a default
        """What the loss predicts from, with the draws of a step; None of a method that hides nothing."""
        return None

    @property
    def released(self) -> SpeechEncoder:
        """The encoder that the model folder keeps: the trained one, or a teacher; a module of this one."""
        return self.encoder

    @property
    def released_prefix(self) -> str:
        """What the names of the released encoder's parameters begin with."""
        released = self.released
        return next(name for name, module in self.named_modules() if module is released) + "."
