"""Continued pretraining of a model on other audio.

Continued pretraining collapses easily, as users of fairseq report who continued its released models: gradients of a
randomly initialised head damage a trained encoder, restarted schedules undo the training, and a full learning rate
causes forgetting in the first hundred updates. So all parameters of the objective are loaded, its schedules keep the
final values of the first run (:meth:`~speechssl.objectives.base.ObjectiveConfig.continued`), and the rate is a fraction
of the first run's, with a longer warm-up.

Of a model without an objective (the bundled one, an imported one), or for another objective than the model's, the
encoder is carried over, and a new objective is made around it.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import pydantic
from torch import Tensor, nn

from speechssl.config import UserError
from speechssl.models.encoder import SpeechEncoder
from speechssl.models.files import read_header, read_tensors
from speechssl.models.storage import PREFIX, read_encoder_config, read_model_config
from speechssl.objectives import load_objective
from speechssl.objectives.base import ENCODER, Objective, ObjectiveConfig
from speechssl.train.pretrain_config import PretrainConfig

RATE = 0.3  # of the first run's learning rates
WARMUP = 0.15  # of the run


NEW = "hubert"
"""The objective around an encoder that comes without one: its units are those of a layer of that encoder."""


def objective_of(start: Path) -> str | None:
    """The objective that pretrained a model; None where its folder has none.

    Raises:
        UserError: not a model folder, a model with a head, or an objective that this version does not have.
    """
    config = read_model_config(start)
    if "head" in config:
        raise UserError(f"{start}: a fine-tuned model; pretraining continues from a pretrained one")
    name = dict(config.get("objective") or {}).get("name")
    if name is None:
        return None
    try:
        load_objective(str(name))
    except UserError as error:
        raise UserError(f"{start}: {error}") from None
    return str(name)


def adaptation(defaults: PretrainConfig, start: Path) -> PretrainConfig:
    """Settings for continuing from a model: its encoder and objective, crops as it needs them, a smaller rate.

    Args:
        defaults: settings of a run with the objective that is to be trained, for all the rest.
        start: a model folder.

    Raises:
        UserError: not a model folder, or its objective cannot be read.
    """
    encoder = read_encoder_config(start)
    if objective_of(start) == defaults.objective.name:
        settings = _settings(start, type(defaults.objective))
        _check_objective(start, settings.shapes(encoder))
        settings = settings.continued()
    else:
        settings = defaults.objective.around(start)
    slower = {"reference_lr": RATE * defaults.optim.reference_lr, "max_lr": RATE * defaults.optim.max_lr}
    optim = defaults.optim.model_copy(update={**slower, "warmup": max(WARMUP, defaults.optim.warmup)})
    crops = defaults.crops.model_copy(update={"normalize": encoder.normalize})
    changes = {"encoder": encoder, "objective": settings, "crops": crops, "optim": optim}
    return defaults.model_copy(update=changes)


def _settings(start: Path, kind: type[ObjectiveConfig]) -> ObjectiveConfig:
    try:
        return kind.model_validate_json(json.dumps(read_model_config(start)["objective"]))
    except pydantic.ValidationError as error:
        raise UserError(f"{start / 'config.json'}: {' '.join(str(error.errors()[0]['msg']).split())}") from None


def _check_objective(start: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise `UserError` where settings and tensors of an objective differ in shape, before an objective is built."""
    stored = read_header(start / "model.safetensors").shapes
    for name, shape in shapes.items():
        found = stored.get(f"objective.{name}")
        if found != shape:
            given = "is missing" if found is None else f"has the shape {list(found)}"
            raise UserError(f"{start}: objective.{name} {given}, its settings need {list(shape)}")


def carry_over_encoder(start: Path, encoder: SpeechEncoder) -> None:
    """Load the encoder of a model folder, before an objective and its teachers are made of it.

    Raises:
        UserError: the weights are not those of this architecture, or some are missing.
    """
    _load(encoder, read_tensors(start / "model.safetensors", prefix=PREFIX), start)


def carry_over(start: Path, objective: Objective) -> None:
    """Load the encoder and all other parameters of a model folder into an objective; a teacher starts as the encoder.

    Raises:
        UserError: the weights are not those of this architecture, or some are missing.
    """
    path = start / "model.safetensors"
    encoder, encoders = read_tensors(path, prefix=PREFIX), {ENCODER, objective.released_prefix}
    weights = {prefix + name: value for prefix in encoders for name, value in encoder.items()}
    _load(objective, weights | read_tensors(path, prefix="objective."), start)


def _load(module: nn.Module, weights: Mapping[str, Tensor], start: Path) -> None:
    wanted = module.state_dict()
    lacking, foreign = sorted(wanted.keys() - weights.keys()), sorted(weights.keys() - wanted.keys())
    other = [name for name in sorted(wanted.keys() & weights.keys()) if wanted[name].shape != weights[name].shape]
    if lacking or foreign or other:
        found = (("not there", lacking), ("without a place", foreign), ("of another shape", other))
        words = [f"{len(names)} {what} ({names[0]}{', …' * (len(names) > 1)})" for what, names in found if names]
        raise UserError(
            f"{start}: not a model of these settings; tensors: {', '.join(words)}; the architecture is the model's own"
        )
    module.load_state_dict(weights)
