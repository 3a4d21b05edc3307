"""Interface between the training loop and an objective.

The loop handles precision, accumulation, data parallelism, clipping, schedules, validation, checkpoints and logs. An
objective defines its loss, its logged metrics, its symptoms of failure, and the sums over a batch that is processed in
parts. Losses are *sums* over targets: the loop divides gradients by ``stats["count"]``, summed over micro-batches and
ranks, so that accumulation, data parallelism and one large batch give the same update.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
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
        name: name of the objective, one of :data:`speechssl.objectives.OBJECTIVES`.
    """

    name: str

    def continued(self) -> "ObjectiveConfig":
        """Settings for a run that continues from a model of this objective."""
        return self

    def around(self, start: Path) -> "ObjectiveConfig":  # noqa: ARG002 -- a default
        """Settings of a new objective around the encoder of a model that was trained with another, or without one."""
        return self

    def shapes(self, encoder: EncoderConfig) -> dict[str, tuple[int, ...]]:  # noqa: ARG002 -- a default
        """Shapes of the largest tensors outside the encoder, compared with a file before anything is allocated."""
        return {}

    def check(self, encoder: EncoderConfig) -> None:
        """Raise `ValueError` where these settings and those of an encoder contradict each other."""

    def more_curves(self) -> "tuple[Curve, ...]":
        """What the report draws with these settings, besides the module's ``CURVES``."""
        return ()

    def in_words(self) -> str:
        """The main settings, as text for users."""
        return ""


@dataclass(frozen=True)
class StepOutput:
    """Sums over the targets of one (micro-)batch, and what to log.

    Attributes:
        total: differentiable sum, to be divided by the number of targets of the whole effective batch.
        terms: its weighted terms, detached.
        stats: detached sums that add up over micro-batches and ranks; ``count`` is the number of targets.
    """

    total: Float[Tensor, ""]
    terms: dict[str, Tensor]
    stats: dict[str, Tensor]


@dataclass(frozen=True)
class Symptom:
    """A failure mode, and whether an update shows it.

    Attributes:
        state: its name, in two or three words.
        present: whether the update shows it.
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
        metric: key of a row of the log; a list of numbers gives one line per number.
        title: title of its panel, with the unit; consecutive curves with the same title share a panel.
        label: label of its line, where a panel has several.
        caption: explanation in whole sentences; the report shows it under the figure.
        chance: key of the metric's value at chance, drawn as a dashed line.
        bound: setting of the objective that is the metric's largest value, such as `quantizer.codes`; a dashed line.
        alarm: setting of the objective beyond which the metric is a symptom, such as `symptoms.max_constant_share`;
            dotted.
        limits: limits of the vertical axis; None for automatic, for both ends or one.
        training: whether updates log it.
        validation: whether validations log it.
        headline: whether its last validation value is shown at the top of the report.
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
    """Context frames of an objective, with the input frames that they must not depend on.

    Attributes:
        frames: output of the context network.
        hidden: True where the input frame is hidden from the whole context (masked); None without masking.
        causal: whether a frame must not depend on input frames after it.
    """

    frames: Float[Tensor, "batch frames dim"]
    hidden: Bool[Tensor, "batch frames"] | None = None
    causal: bool = False


class Trainable(nn.Module):
    """Model and loss that the training loop trains. A subclass implements :meth:`forward` and :meth:`metrics`.

    Attributes:
        criterion: the metric whose smallest validation value selects the model; None: the last state is the model, as
            with moving teachers, whose losses cannot be compared over time.
    """

    criterion: str | None = "loss"

    def forward(
        self, batch: Any, *, step: int, progress: float, shared: Mapping[str, Tensor] | None = None
    ) -> StepOutput:
        """Loss of a (micro-)batch.

        Args:
            batch: a batch on the device of the parameters.
            step: number of the update; for a validation batch, number of the batch.
            progress: fraction of the run done.
            shared: sums of :meth:`gather` over the whole effective batch, where a rank processes it in micro-batches.
                Otherwise the loss adds what it needs over ranks (:func:`speechssl.distributed.sum_over_ranks`).
        """
        raise NotImplementedError  # implemented by each objective

    def metrics(self, terms: dict[str, Tensor], stats: dict[str, Tensor]) -> Metrics:
        """Numbers to log from terms and stats that are summed over an effective batch; ``loss`` is one of them."""
        raise NotImplementedError  # every objective has its own

    def summary(self, metrics: Mapping[str, Any]) -> str:
        """Main metrics as text."""
        return f"loss {metrics['loss']:.3f}"

    def gather(self, parts: Sequence[Any], *, step: int) -> dict[str, Tensor]:  # noqa: ARG002 -- a default
        """Sums over this rank's micro-batches that the loss of each needs, without gradients; the loop adds ranks."""
        return {}

    def after_update(self, *, step: int, progress: float) -> None:
        """Runs after each update of the weights; a moving teacher is updated here."""

    def probe(self, batch: Any) -> Metrics:  # noqa: ARG002 -- a default
        """Slower measurements on a fixed batch, at validations; in evaluation mode, without gradients."""
        return {}

    def symptoms(
        self,
        metrics: Mapping[str, Any],  # noqa: ARG002 -- a default
        probed: Mapping[str, Any],  # noqa: ARG002 -- a default
    ) -> list[Symptom]:
        """Failure modes, the most specific first.

        Args:
            metrics: metrics of an update.
            probed: metrics of the last :meth:`probe`; empty before it.
        """
        return []


class Objective(Trainable):
    """A pretraining method around an encoder.

    Args:
        encoder: trained in place; its parameters are named ``encoder.*``.
        seed: seed of every random draw, which is a function of (seed, step, position in the global batch).

    Attributes:
        exact_in_parts: whether micro-batches and ranks give the gradient of one large batch.
        unsaved: prefixes of parameters that training alone needs: checkpoints have them, model folders do not.
    """

    exact_in_parts: bool = True
    unsaved: tuple[str, ...] = ()

    def __init__(self, encoder: SpeechEncoder, *, seed: int):
        super().__init__()
        self.encoder, self.seed = encoder, seed

    @property
    def batch_spec(self) -> BatchSpec:
        """Contents of the batches besides the crops."""
        return CROPS_ALONE

    @property
    def min_frames(self) -> int:
        """Minimum number of frames of a crop."""
        return 1

    def context(self, batch: CropBatch, *, step: int) -> "Context | None":  # noqa: ARG002 -- a default
        """Context frames of the loss, with the draws of a step; None for a method without masking."""
        return None

    @property
    def released(self) -> SpeechEncoder:
        """The encoder saved in the model folder: the trained one, or a teacher; a submodule."""
        return self.encoder

    @property
    def released_prefix(self) -> str:
        """Prefix of the names of the released encoder's parameters."""
        released = self.released
        return next(name for name, module in self.named_modules() if module is released) + "."
