"""Going on from a pretrained model with other audio: what is carried over, and what must not start again.

Continued pretraining collapses easily, as users of fairseq report who went on from its released models: a fresh
quantizer sends noise into a trained encoder, a Gumbel temperature of 2 makes the codes random again, and a full
learning rate forgets in the first hundred updates. So quantizer and projections are carried over, the temperature stays
where the first run left it, and the rate is a part of the first run's, with a longer warm-up.
"""

import json
from pathlib import Path

import pydantic
from torch import nn

from speechssl.config import UserError
from speechssl.models.files import read_header, read_tensors
from speechssl.models.storage import PREFIX, read_encoder_config, read_model_config
from speechssl.objectives.wav2vec2 import Wav2Vec2Config
from speechssl.train.pretrain_config import PretrainConfig

RATE = 0.3  # of the first run's learning rates
WARMUP = 0.15  # of the run


def adaptation(defaults: PretrainConfig, start: Path) -> PretrainConfig:
    """Settings for going on from a model: its encoder and objective, a temperature that stays, a smaller rate.

    Args:
        defaults: settings of a pretraining run, for all the rest.
        start: a model folder.

    Raises:
        UserError: not a model folder, or one that another objective than wav2vec 2.0 pretrained.
    """
    known = read_model_config(start)
    objective = dict(known.get("objective") or {})
    if objective.pop("name", None) != "wav2vec2":
        raise UserError(f"{start}: has no wav2vec 2.0 objective to go on with (a fine-tuned or imported model?)")
    encoder = read_encoder_config(start)
    try:
        settings = Wav2Vec2Config.model_validate_json(json.dumps(objective))
    except pydantic.ValidationError as error:
        raise UserError(f"{start / 'config.json'}: {' '.join(str(error.errors()[0]['msg']).split())}") from None
    _check_objective(start, settings)
    slower = {"reference_lr": RATE * defaults.optim.reference_lr, "max_lr": RATE * defaults.optim.max_lr}
    optim = defaults.optim.model_copy(update={**slower, "warmup": max(WARMUP, defaults.optim.warmup)})
    stays = settings.model_copy(update={"gumbel_start": settings.gumbel_end})
    return defaults.model_copy(update={"encoder": encoder, "objective": stays, "optim": optim})


def _check_objective(start: Path, settings: Wav2Vec2Config) -> None:
    """Raises `UserError` where settings and tensors of an objective differ in size, before an objective is made."""
    shapes = read_header(start / "model.safetensors").shapes
    quantizer = settings.quantizer
    wanted = {
        "quantizer.codebooks": (quantizer.groups, quantizer.codes, quantizer.dim // quantizer.groups),
        "project_target.weight": (settings.dim, quantizer.dim),
    }
    for name, shape in wanted.items():
        found = shapes.get(f"objective.{name}")
        if found != shape:
            given = "is missing" if found is None else f"has the shape {list(found)}"
            raise UserError(f"{start}: objective.{name} {given}, its settings make it {list(shape)}")


def carry_over(start: Path, objective: nn.Module) -> None:
    """Load encoder, quantizer, projections and mask embedding of a model folder into an objective.

    Raises:
        UserError: the weights are not those of this architecture, or some are missing.
    """
    path = start / "model.safetensors"
    weights = {PREFIX + name: value for name, value in read_tensors(path, prefix=PREFIX).items()}
    try:
        objective.load_state_dict(weights | read_tensors(path, prefix="objective."))
    except RuntimeError as error:
        raise UserError(f"{path}: weights do not fit the settings: {' '.join(str(error).split())}") from None
