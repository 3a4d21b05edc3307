"""Continued pretraining of a model on other audio.

Continued pretraining collapses easily, as users of fairseq report who continued its released models: gradients of a
randomly initialised head damage a trained encoder, restarted schedules undo the training, and a full learning rate
causes forgetting in the first hundred updates. So all parameters of the objective are loaded, its schedules keep the
final values of the first run (:meth:`~speechssl.objectives.base.ObjectiveConfig.continued`), and the rate is a fraction
of the first run's, with a longer warm-up.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import pydantic

from speechssl.config import UserError
from speechssl.models.files import read_header, read_tensors
from speechssl.models.storage import PREFIX, read_encoder_config, read_model_config
from speechssl.objectives import load_objective
from speechssl.objectives.base import ENCODER, Objective, ObjectiveConfig
from speechssl.train.pretrain_config import PretrainConfig

RATE = 0.3  # of the first run's learning rates
WARMUP = 0.15  # of the run


def objective_of(start: Path) -> str:
    """The objective that pretrained a model.

    Raises:
        UserError: not a model folder, or one without an objective.
    """
    name = dict(read_model_config(start).get("objective") or {}).get("name")
    if name is None:
        raise UserError(f"{start}: has no objective to continue with (a fine-tuned or imported model?)")
    try:
        load_objective(str(name))
    except UserError as error:
        raise UserError(f"{start}: {error}") from None
    return str(name)


def adaptation(defaults: PretrainConfig, start: Path) -> PretrainConfig:
    """Settings for continuing from a model: its encoder and objective, crops as it needs them, a smaller rate.

    Args:
        defaults: settings of a run with the same objective, for all the rest.
        start: a model folder.

    Raises:
        UserError: not a model folder, or one without an objective.
    """
    kind: type[ObjectiveConfig] = load_objective(objective_of(start)).Config
    encoder = read_encoder_config(start)
    try:
        settings = kind.model_validate_json(json.dumps(read_model_config(start)["objective"]))
    except pydantic.ValidationError as error:
        raise UserError(f"{start / 'config.json'}: {' '.join(str(error.errors()[0]['msg']).split())}") from None
    _check_objective(start, settings.shapes(encoder))
    slower = {"reference_lr": RATE * defaults.optim.reference_lr, "max_lr": RATE * defaults.optim.max_lr}
    optim = defaults.optim.model_copy(update={**slower, "warmup": max(WARMUP, defaults.optim.warmup)})
    crops = defaults.crops.model_copy(update={"normalize": encoder.normalize})
    changes = {"encoder": encoder, "objective": settings.continued(), "crops": crops, "optim": optim}
    return defaults.model_copy(update=changes)


def _check_objective(start: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise `UserError` where settings and tensors of an objective differ in shape, before an objective is built."""
    stored = read_header(start / "model.safetensors").shapes
    for name, shape in shapes.items():
        found = stored.get(f"objective.{name}")
        if found != shape:
            given = "is missing" if found is None else f"has the shape {list(found)}"
            raise UserError(f"{start}: objective.{name} {given}, its settings need {list(shape)}")


def carry_over(start: Path, objective: Objective) -> None:
    """Load the encoder and all other parameters of a model folder into an objective; a teacher starts as the encoder.

    Raises:
        UserError: the weights are not those of this architecture, or some are missing.
    """
    path = start / "model.safetensors"
    encoder, encoders = read_tensors(path, prefix=PREFIX), {ENCODER, objective.released_prefix}
    weights = {prefix + name: value for prefix in encoders for name, value in encoder.items()}
    weights |= read_tensors(path, prefix="objective.")
    wanted = objective.state_dict()
    lacking, foreign = sorted(wanted.keys() - weights.keys()), sorted(weights.keys() - wanted.keys())
    other = [name for name in sorted(wanted.keys() & weights.keys()) if wanted[name].shape != weights[name].shape]
    if lacking or foreign or other:
        found = (("not there", lacking), ("without a place", foreign), ("of another shape", other))
        words = [f"{len(names)} {what} ({names[0]}{', …' * (len(names) > 1)})" for what, names in found if names]
        raise UserError(
            f"{path}: not a model of these settings; tensors: {', '.join(words)}; the architecture is the model's own"
        )
    objective.load_state_dict(weights)
