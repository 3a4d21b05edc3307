"""Settings of pretraining: one type per objective, one preset per size of encoder."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, NonNegativeInt, PositiveInt, create_model, model_validator

from speechssl.config import Config, UserError, merged, value_of
from speechssl.data.batch_augment import NO_AUGMENT, BatchAugmentConfig
from speechssl.data.crops import CropConfig
from speechssl.models.encoder import PRESETS, EncoderConfig
from speechssl.objectives import OBJECTIVES, load_objective
from speechssl.objectives.base import ObjectiveConfig
from speechssl.train.health import HealthConfig
from speechssl.train.optim import OptimConfig
from speechssl.train.trainer import LoopConfig


class ProbeConfig(Config):
    """Few-label probes of the frozen encoder along a run."""

    every: NonNegativeInt = 0  # updates from one to the next, each at a validation; 0: none
    shots: PositiveInt = 10  # labelled utterances per class

    @model_validator(mode="after")
    def _shots_are_used(self) -> "ProbeConfig":
        if not self.every and self.shots != type(self).model_fields["shots"].default:
            raise ValueError("probe.shots without probe.every, the number of updates from one probe to the next")
        return self


class PretrainConfig(Config):
    """A pretraining run; ``recipe.toml`` in a run folder is one of these in full.

    :func:`config_of` gives the type for an objective, with that objective's settings.
    """

    encoder: EncoderConfig = PRESETS["base"]
    objective: ObjectiveConfig
    crops: CropConfig = CropConfig()
    augment: BatchAugmentConfig = NO_AUGMENT
    optim: OptimConfig = OptimConfig()
    loop: LoopConfig = LoopConfig()
    health: HealthConfig = HealthConfig()
    seed: NonNegativeInt = 0
    device: str = "auto"
    probe: ProbeConfig = ProbeConfig()
    valid_share: float = Field(default=0.02, ge=0, le=0.5)  # fraction of the audio for validation, at least two batches

    @model_validator(mode="after")
    def _objective_fits(self) -> "PretrainConfig":
        self.objective.check(self.encoder)
        return self

    @classmethod
    def upgraded(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Convert settings of earlier versions, which had an objective's thresholds under `health`."""
        health, objective = values.get("health"), values.get("objective", {})
        if not isinstance(health, Mapping) or not isinstance(objective, Mapping):
            return values
        moved = {name: value for name, value in health.items() if name.startswith(("min_", "max_", "chance_"))}
        kept = {name: value for name, value in health.items() if name not in moved}
        symptoms = {**objective.get("symptoms", {}), **moved}
        return {**values, "health": kept, "objective": {**objective, "symptoms": symptoms}} if moved else values


@functools.cache
def config_of(objective: str) -> type[PretrainConfig]:
    """Settings class of a run with an objective.

    Args:
        objective: one of :data:`speechssl.objectives.OBJECTIVES`.

    >>> config_of("wav2vec2")().objective.name
    'wav2vec2'
    """
    kind: type[ObjectiveConfig] = load_objective(objective).Config
    return create_model(
        "PretrainConfig", __base__=PretrainConfig, __module__=__name__, objective=(kind, kind.model_validate({}))
    )


@functools.cache
def runs(objective: str) -> dict[str, PretrainConfig]:
    """Settings by size of the encoder.

    Args:
        objective: one of :data:`speechssl.objectives.OBJECTIVES`.

    >>> runs("wav2vec2")["tiny"].loop.steps
    1200
    """
    module, kind = load_objective(objective), config_of(objective)
    return {
        size: kind.model_validate(
            merged({"encoder": PRESETS[size].model_dump(), "objective": module.PRESETS[size]}, changed)
        )
        for size, changed in module.RUNS.items()
    }


def objective_name(
    option: str | None, recipe: Path | None, overrides: Sequence[str], *, start: str | None = None
) -> str:
    """The objective of a run: from the command line, the recipe or the model to start from.

    Args:
        option: value of `--objective`.
        recipe: a TOML file.
        overrides: settings of the command line.
        start: objective of the model to continue from, where nothing else is named.

    Raises:
        UserError: command line and recipe contradict each other, or there is no such objective.
    """
    written = value_of(recipe, overrides, "objective.name")
    named = {"--objective": option, "objective.name": written}
    given = {where: str(name) for where, name in named.items() if name is not None}
    if len(set(given.values())) > 1:
        raise UserError("; ".join(f"{where} is {name}" for where, name in given.items()) + ": choose one objective")
    name = next(iter(given.values()), start or OBJECTIVES[0])
    load_objective(name)
    return name
