"""Conversion of a foreign checkpoint, with a check for missing, misshapen and left-over tensors.

All readers (huggingface_folder.py, fairseq.py, torchaudio_read.py) use this module: settings and weights must fit
exactly, or there is one line that names the file and the tensors. No parameter keeps its random initialisation.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic
import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from speechssl.config import Config, UserError, brief_value, readable
from speechssl.interop.naming import fuse_qkv, split_qkv
from speechssl.models.encoder import EncoderConfig, SpeechEncoder
from speechssl.models.files import brief
from speechssl.models.shapes import check_size
from speechssl.models.storage import PREFIX

_SHOWN = 4  # names in an error


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint converted to our names.

    ``weights`` are those of a :class:`SpeechEncoder` by its own names, in float32; ``objective`` the settings of the
    contrastive objective and ``tensors`` its tensors, where the source has it; ``left_out`` are the names, in the
    source, of heads and other tensors outside both; ``kind`` describes the source.
    """

    path: Path
    kind: str
    config: EncoderConfig
    weights: dict[str, Tensor]
    objective: dict[str, Any] | None
    tensors: dict[str, Tensor]
    left_out: tuple[str, ...]

    def encoder(self) -> SpeechEncoder:
        """The encoder, in evaluation mode on the CPU."""
        return assemble(self.config, self.weights)


@dataclass(frozen=True)
class Peer:
    """Naming of one other project.

    ``to_ours`` gives our name of a tensor (q, k, v unfused) or None; ``to_theirs`` is its inverse; ``is_head`` whether
    a tensor without a name here is known and may be left out.
    """

    to_ours: Callable[[str], str | None]
    to_theirs: Callable[[str], str | None]
    is_head: Callable[[str], bool]


def assemble(config: EncoderConfig, weights: Mapping[str, Tensor]) -> SpeechEncoder:
    """Build an encoder with the given tensors, without random initialisation or use of a random generator."""
    encoder = skeleton(config)
    encoder.load_state_dict(dict(weights), assign=True)
    return encoder.eval()


def skeleton(config: EncoderConfig) -> SpeechEncoder:
    """Encoder with uninitialised parameters; no random generator is used.

    Not on torch's meta device: random initialisation there makes torch import its compiler, which takes seconds.

    Raises:
        ValueError: contradictory settings.
    """
    with torch.random.fork_rng(devices=[]), _NothingDrawn():
        return SpeechEncoder(config)


class _NothingDrawn(TorchFunctionMode):
    """Skips random initialisation: tensors keep the content of their memory."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = dict(kwargs or {})
        if func in (Tensor.normal_, Tensor.uniform_) or getattr(func, "__module__", None) == nn.init.__name__:
            return named["tensor"] if "tensor" in named else args[0]
        return func(*args, **named)


def read_checkpoint(
    path: Path,
    given: Mapping[str, Tensor],
    config: EncoderConfig,
    *,
    kind: str,
    peer: Peer,
    objective: Mapping[str, Any] | None = None,
) -> Checkpoint:
    """Rename and check every tensor of a source.

    Args:
        path: name of the source in errors.
        given: its tensors by its names.
        config: the encoder's settings from the source.
        kind: description for the provenance.
        peer: naming of the source's project.
        objective: settings of the contrastive objective (``quantizer`` and ``dim`` are used); None: its tensors are
            left out.

    Raises:
        UserError: tensors that are missing, unknown or of another shape; contradictory settings.
    """
    try:
        check_size(config, {name: tuple(value.shape) for name, value in given.items()})
    except ValueError as error:
        raise UserError(f"{path}: its settings {brief(error)}") from None
    try:
        expected = {PREFIX + name: value for name, value in skeleton(config).state_dict().items()}
    except (ValueError, RuntimeError) as error:
        raise UserError(f"{path}: its settings give no valid encoder: {brief(error)}") from None
    shapes = {name: tuple(value.shape) for name, value in split_qkv(expected).items()}
    optional = {"mask_embedding": (config.dim,)}
    found = _sorted_names(given, peer)
    renamed, names, left_out, unknown = found.renamed, found.names, found.left_out, found.unknown
    if objective is not None and {"quantizer.codebooks", "mask_embedding"} <= renamed.keys():
        shapes |= _objective_shapes(config, objective)
    else:
        extra = [name for name in renamed if not name.startswith(PREFIX) and name not in optional]
        left_out += [names[name] for name in extra]
        renamed = {name: value for name, value in renamed.items() if name not in extra}
    unknown += [names[name] for name in renamed if name not in shapes and name not in optional]
    missing = [peer.to_theirs(name) or name for name in shapes if name not in renamed]
    if missing or unknown:
        problems = [_listed("missing tensors", missing), _listed("unknown tensors", unknown)]
        raise UserError(f"{path}: does not fit its settings: {'; '.join(filter(None, problems))}")
    for name, shape in (optional | shapes).items():
        if name in renamed and tuple(renamed[name].shape) != shape:
            found = list(renamed[name].shape)
            raise UserError(f"{path}: {names[name]} has the shape {found}, its settings need {list(shape)}")
    for name, value in renamed.items():
        if not value.is_floating_point():
            raise UserError(f"{path}: {names[name]} holds {value.dtype}, weights are floating-point numbers")
    # Copies: the source may be a memory-mapped file.
    fused = fuse_qkv({name: value.to(torch.float32, copy=True) for name, value in renamed.items()})
    if "quantizer.codebooks" in fused:
        codebooks = fused["quantizer.codebooks"]  # 1 groups*codes dim/groups
        groups = fused["project_target.weight"].shape[1] // codebooks.shape[2]
        fused["quantizer.codebooks"] = codebooks.reshape(groups, -1, codebooks.shape[2])
    return Checkpoint(
        path=path,
        kind=kind,
        config=config,
        weights={name.removeprefix(PREFIX): value for name, value in fused.items() if name.startswith(PREFIX)},
        objective=None if "quantizer.codebooks" not in fused else dict(objective or {}),
        tensors={f"objective.{name}": value for name, value in fused.items() if not name.startswith(PREFIX)},
        left_out=tuple(sorted(left_out)),
    )


@dataclass(frozen=True)
class _Sorted:
    """``renamed`` by our names, ``names`` the source's for each, and the source's names of the rest."""

    renamed: dict[str, Tensor]
    names: dict[str, str]
    left_out: list[str]
    unknown: list[str]


def _sorted_names(given: Mapping[str, Tensor], peer: Peer) -> _Sorted:
    found = _Sorted({}, {}, [], [])
    for name, value in given.items():
        ours = peer.to_ours(name)
        if ours is not None and ours not in found.renamed:
            found.renamed[ours], found.names[ours] = value, name
        elif ours is None and peer.is_head(name):
            found.left_out.append(name)
        else:
            found.unknown.append(name)
    return found


class _Mask(Config, extra="ignore"):
    probability: float = Field(ge=0, le=1)
    length: PositiveInt


class _Quantizer(Config, extra="ignore"):
    groups: PositiveInt
    codes: PositiveInt
    dim: PositiveInt


class _Objective(Config, extra="ignore"):
    mask: _Mask
    quantizer: _Quantizer
    dim: PositiveInt
    negatives: PositiveInt
    logit_temperature: PositiveFloat


def checked_objective(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of a contrastive objective, unchanged.

    Raises:
        ValueError: a setting of another type or out of its range.
    """
    try:
        _Objective.model_validate(settings)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise ValueError(f"objective: {name}={brief_value(first['input'])}: {first['msg']}") from None
    return settings


def _objective_shapes(config: EncoderConfig, objective: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    quantizer = objective["quantizer"]
    entries, dim = quantizer["groups"] * quantizer["codes"], objective["dim"]
    return {
        "quantizer.codebooks": (1, entries, quantizer["dim"] // quantizer["groups"]),
        "quantizer.scores.weight": (entries, config.conv.dim),
        "quantizer.scores.bias": (entries,),
        "project_context.weight": (dim, config.dim),
        "project_context.bias": (dim,),
        "project_target.weight": (dim, quantizer["dim"]),
        "project_target.bias": (dim,),
        "mask_embedding": (config.dim,),
    }


def _listed(words: str, names: Sequence[str]) -> str:
    """Words and the first names; empty where there are none.

    >>> _listed("missing tensors", ["a", "b"]), _listed("missing tensors", [])
    ('missing tensors: a, b', '')
    """
    if not names:
        return ""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{words}: {', '.join(readable(name, longest=200) for name in sorted(names)[:_SHOWN])}{more}"
