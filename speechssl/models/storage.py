"""Model folders: ``config.json`` (settings) and ``model.safetensors`` (weights).

Encoder tensors have the prefix ``encoder.``; other prefixes belong to the objective or a head, and are not read by
:func:`load_encoder`. Both files are written under a temporary name, flushed to disk and renamed: a reader never gets
half a model.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pydantic
import torch
from safetensors.torch import save
from torch import Tensor

from speechssl.config import UserError, brief_value
from speechssl.files import write_atomic
from speechssl.models.encoder import PRESETS, EncoderConfig, SpeechEncoder
from speechssl.models.files import brief, read_header, read_json, read_tensors
from speechssl.models.shapes import check_size

FORMAT = 1
PREFIX = "encoder."
HEAD = "head."  # prefix of tensors that fine-tuning adds
EMBEDDING = "embedding"  # table of the config: the layer and pooling to use where none is named
_TABLES = ("head", "objective", "provenance", "training", EMBEDDING)


def save_model(
    folder: Path,
    encoder: SpeechEncoder | None,
    *,
    extra: Mapping[str, Any] | None = None,
    tensors: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a model folder.

    Args:
        folder: created when missing; an older model in it is replaced.
        encoder: its config and weights are saved; None for a model without an encoder.
        extra: further JSON keys for ``config.json`` (objective, provenance); may not be ``format`` or ``encoder``.
        tensors: further weights by full name, outside the prefix ``encoder.``.

    Raises:
        ValueError: a name in ``extra`` or ``tensors`` collides with the encoder's.
    """
    extra, tensors = dict(extra or {}), dict(tensors or {})
    taken = ({"format", "encoder"} & extra.keys()) | {name for name in tensors if name.startswith(PREFIX)}
    if taken:
        raise ValueError(f"names reserved for the encoder: {', '.join(sorted(taken))}")
    own = {} if encoder is None else encoder.state_dict()
    weights = {PREFIX + name: value for name, value in own.items()} | tensors
    config = {"format": FORMAT, "encoder": encoder and encoder.config.model_dump(mode="json"), **extra}
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(
        folder / "model.safetensors", save({name: value.detach().cpu().contiguous() for name, value in weights.items()})
    )
    write_atomic(folder / "config.json", (json.dumps(config, indent=2) + "\n").encode())


def read_model_config(folder: Path) -> dict[str, Any]:
    """Read the ``config.json`` of a model folder.

    Raises:
        UserError: not a model folder, or written by a newer speechssl.
    """
    path = folder / "config.json"
    if not path.is_file() or not (folder / "model.safetensors").is_file():
        raise UserError(f"{folder}: not a model folder (config.json and model.safetensors are expected in it)")
    config = read_json(path)
    if "encoder" not in config:
        raise UserError(f"{path}: not the config of a speechssl model (no key 'encoder')")
    if config.get("format") != FORMAT:
        raise UserError(f"{path}: model format {brief_value(config.get('format'))}, this version reads {FORMAT}")
    for key in _TABLES:
        if not isinstance(config.get(key, {}), dict):
            raise UserError(f"{path}: {key} must be a table, is a {type(config[key]).__name__}")
    return config


def read_encoder_config(folder: Path) -> EncoderConfig:
    """Read the settings of the encoder of a model folder.

    Raises:
        UserError: not a model folder, a model without an encoder, settings of another version, or of an encoder that is
            larger than the file of its weights; names file and key.
    """
    config = read_model_config(folder)
    if config["encoder"] is None:
        raise UserError(f"{folder}: a model without an encoder; it can classify, but gives no embeddings")
    path = folder / "config.json"
    try:
        found = EncoderConfig.model_validate_json(json.dumps(config["encoder"]))
        check_size(found, read_header(folder / "model.safetensors").shapes)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{path}: {'.'.join(map(str, ('encoder', *first['loc'])))}: {first['msg']}") from None
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{path}: its settings {brief(error)}") from None
    return found


def load_encoder(folder: Path) -> SpeechEncoder:
    """Load the encoder of a model folder, in evaluation mode on the CPU.

    Raises:
        UserError: not a model folder, or weights that do not fit its config; names the file.
    """
    config, path = read_encoder_config(folder), folder / "model.safetensors"
    weights = read_tensors(path, prefix=PREFIX)
    try:
        encoder = SpeechEncoder(config)
    except (ValueError, RuntimeError) as error:  # contradictory settings
        raise UserError(f"{folder / 'config.json'}: its settings give no valid encoder: {brief(error)}") from None
    try:
        encoder.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(f"{path}: weights do not fit the config: {brief(error)}") from None
    return encoder.eval()


def encoder_dim(folder: Path | None) -> int:
    """Dimension of the frames of a model folder's encoder; of the preset `tiny` where there is no folder.

    Raises:
        UserError: not a model folder, or a model without an encoder.
    """
    if folder is None:
        return PRESETS["tiny"].dim
    return read_encoder_config(folder).dim


def model_hash(folder: Path) -> str:
    """Sixteen hexadecimal digits that change with the config or weights of the encoder, or of the head if there is one.

    Tensors of a pretraining objective are not included.
    """
    config = read_model_config(folder)
    parts = [config["encoder"]] + ([config["head"]] if "head" in config else [])
    tensors = read_tensors(folder / "model.safetensors", prefix=PREFIX)
    if "head" in config:
        head = read_tensors(folder / "model.safetensors", prefix=HEAD)
        tensors |= {HEAD + name: value for name, value in head.items()}
    return _digest(parts[0] if len(parts) == 1 else parts, tensors)


def encoder_hash(encoder: SpeechEncoder) -> str:
    """The :func:`model_hash` that a folder with this encoder alone would have.

    >>> len(encoder_hash(SpeechEncoder(PRESETS["tiny"])))
    16
    """
    return _digest(encoder.config.model_dump(mode="json"), encoder.state_dict())


def _digest(settings: object, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, value in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
