"""Readers of fairseq's checkpoints of wav2vec 2.0, HuBERT and data2vec-audio, and unilm's of WavLM.

A checkpoint is ``{"args": Namespace or None, "cfg": settings, "model": tensors, ...}``: ``args`` until the end of 2020,
``cfg`` since then, as plain dictionaries or as omegaconf's objects. A fine-tuned model (CTC) has the prefix
``w2v_encoder.w2v_model.`` and the settings of its encoder in ``w2v_args``. WavLM's settings are directly in ``cfg``.
Names and defaults are those of ``fairseq/models/wav2vec/wav2vec2.py``.

Where a file has no settings of its encoder, the shapes of its tensors must be those of a published architecture
(:mod:`speechssl.interop.published`).
"""

import ast
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic
from torch import Tensor

from speechssl.config import UserError, brief_value
from speechssl.interop.naming import Table, modern_weight_norm, rename
from speechssl.interop.pickled import is_state_dict, plain
from speechssl.interop.published import recognised
from speechssl.interop.reading import Checkpoint, Peer, checked_objective, read_checkpoint
from speechssl.models.encoder import EncoderConfig
from speechssl.models.files import brief

NAMES: Table = (
    ("mask_emb", "mask_embedding"),
    ("feature_extractor.conv_layers.#.0.", "encoder.features.layers.#.conv."),
    ("feature_extractor.conv_layers.#.2.1.", "encoder.features.layers.#.norm."),  # over channels
    ("feature_extractor.conv_layers.0.2.", "encoder.features.layers.0.norm."),  # over time
    ("layer_norm.", "encoder.feature_norm."),
    ("post_extract_proj.", "encoder.projection."),
    ("encoder.pos_conv.#.0.", "encoder.transformer.positions.layers.#."),  # data2vec
    ("encoder.pos_conv.0.", "encoder.transformer.positions.conv."),
    ("encoder.layer_norm.", "encoder.transformer.norm."),
    ("encoder.layers.#.self_attn.q_proj.", "encoder.transformer.layers.#.attention.q."),
    ("encoder.layers.#.self_attn.k_proj.", "encoder.transformer.layers.#.attention.k."),
    ("encoder.layers.#.self_attn.v_proj.", "encoder.transformer.layers.#.attention.v."),
    ("encoder.layers.#.self_attn.out_proj.", "encoder.transformer.layers.#.attention.out."),
    ("encoder.layers.0.self_attn.relative_attention_bias.weight", "encoder.transformer.relative.biases"),  # WavLM
    ("encoder.layers.#.self_attn.grep_linear.", "encoder.transformer.layers.#.attention.gate.scores."),
    ("encoder.layers.#.self_attn.grep_a", "encoder.transformer.layers.#.attention.gate.scale"),
    ("encoder.layers.#.self_attn_layer_norm.", "encoder.transformer.layers.#.attention_norm."),
    ("encoder.layers.#.fc1.", "encoder.transformer.layers.#.expand."),
    ("encoder.layers.#.fc2.", "encoder.transformer.layers.#.contract."),
    ("encoder.layers.#.final_layer_norm.", "encoder.transformer.layers.#.output_norm."),
    ("quantizer.vars", "quantizer.codebooks"),
    ("quantizer.weight_proj.", "quantizer.scores."),
    ("final_proj.", "project_context."),
    ("project_q.", "project_target."),
)
_FINE_TUNED, _HEAD = "w2v_encoder.w2v_model.", "w2v_encoder."
# HuBERT's labels, data2vec's targets, and parts of objectives that are not supported here
_HEADS = ("label_embs_concat", "final_proj", "_ema", "target_glu.", "project_q.", "quantizer.", "mask_emb")

_SETTINGS = (  # (theirs, ours, their default)
    ("encoder_embed_dim", "dim", 768),
    ("encoder_layers", "layers", 12),
    ("encoder_attention_heads", "heads", 12),
    ("encoder_ffn_embed_dim", "feedforward", 3072),
    ("layer_norm_first", "pre_norm", False),
    ("conv_pos", "position_kernel", 128),
    ("conv_pos_groups", "position_groups", 16),
    ("dropout", "dropout", 0.1),
    ("attention_dropout", "attention_dropout", 0.1),
    ("activation_dropout", "activation_dropout", 0.0),
    ("encoder_layerdrop", "layer_drop", 0.0),
)
_CONV_LAYERS = "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)] + [(512,2,2)]"
_LONGEST_LIST = 1000  # characters, or layers
_NORMS = {"default": "group", "layer_norm": "layer"}
_FIXED = (
    ("activation_fn", "gelu"),
    ("layer_type", "transformer"),
    ("quantize_input", False),
    ("conv_pos_batch_norm", False),
)
# Settings of fine-tuning that override the encoder's: fairseq's outer name, fairseq's inner name.
_OVERRIDES = {"layerdrop": "encoder_layerdrop"} | {
    name: name for name in ("dropout", "attention_dropout", "activation_dropout", "dropout_input")
}


@dataclass(frozen=True)
class _Settings:
    """``model`` is empty where the file has no encoder settings; ``normalize`` None where it is not set."""

    model: Mapping[str, Any]
    criterion: Mapping[str, Any]
    normalize: bool | None


def is_checkpoint(content: Any) -> bool:
    """Whether the content of a ``.pt`` file has fairseq's layout."""
    model = content.get("model") if isinstance(content, dict) else None
    return bool(model) and is_state_dict(model)


def read_content(path: Path, content: Mapping[str, Any]) -> Checkpoint:
    """Encoder, and objective where there is one, of the result of :func:`speechssl.interop.pickled.load_pickled`.

    Args:
        path: the file, for errors.
        content: content for which :func:`is_checkpoint` is true.

    Raises:
        UserError: another model, a setting that is not supported, or tensors that do not fit the settings.
    """
    tensors: Mapping[str, Tensor] = content["model"]
    fine_tuned = any(name.startswith(_FINE_TUNED) for name in tensors)
    try:
        settings = _find_settings(content, fine_tuned=fine_tuned)
        config = _encoder(settings, tensors)
        objective = None if fine_tuned else _objective(settings, tensors)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    except (TypeError, AttributeError, KeyError, ArithmeticError) as error:  # None or a word instead of a number
        raise UserError(f"{path}: a setting is missing or of another kind ({brief(error)})") from None
    peer = Peer(to_ours=_our_name, to_theirs=_fairseq_names(_FINE_TUNED if fine_tuned else ""), is_head=_is_head)
    kind = f"fairseq {settings.model.get('_name') or 'wav2vec2'}{' ctc' if fine_tuned else ''}"
    return read_checkpoint(path, tensors, config, kind=kind, peer=peer, objective=objective)


def _our_name(name: str) -> str | None:
    return rename(modern_weight_norm(name.removeprefix(_FINE_TUNED)), NAMES)


def _fairseq_names(prefix: str) -> Callable[[str], str | None]:
    def to_fairseq(name: str) -> str | None:
        found = rename(name, NAMES, back=True)
        return None if found is None else prefix + found

    return to_fairseq


def _is_head(name: str) -> bool:
    return name.removeprefix(_FINE_TUNED).startswith(_HEADS) or (
        name.startswith(_HEAD) and not name.startswith(_FINE_TUNED)
    )


# Settings


def _find_settings(content: Mapping[str, Any], *, fine_tuned: bool) -> _Settings:
    root = plain(content.get("cfg")) or plain(content.get("args")) or {}
    if not isinstance(root, dict):
        raise ValueError(f"its settings are no table but a {type(root).__name__}")
    outer = _table(root, "model") or root
    inside = _table(outer, "w2v_args") if fine_tuned else root
    inner = _table(inside, "model") or inside
    if fine_tuned and inner:
        inner = inner | {theirs: outer[name] for name, theirs in _OVERRIDES.items() if outer.get(name) is not None}
    resolved = {name: _resolved(value, root) for name, value in inner.items()}
    places = (_table(root, "task"), root, outer, _table(inside, "task"), inside)
    said = [place["normalize"] for place in places if isinstance(place.get("normalize"), bool)]
    # A file of WavLM or of an old version may have other keys at the top level; a model has a dimension.
    model = resolved if "encoder_embed_dim" in resolved or "encoder_layers" in resolved else {}
    return _Settings(model, _table(root, "criterion") or root, said[0] if said else None)


def _table(table: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = table.get(key)
    return value if isinstance(value, dict) else {}


def _resolved(value: Any, root: Mapping[str, Any]) -> Any:
    """Resolve omegaconf's ``${a.b}``; None, like a missing value, if the target does not exist."""
    match = re.fullmatch(r"\$\{([\w.]+)\}", value) if isinstance(value, str) else None
    if match is None:
        return value
    found: Any = root
    for key in match[1].split("."):
        found = found.get(key) if isinstance(found, dict) else None
    return found


def _encoder(settings: _Settings, tensors: Mapping[str, Tensor]) -> EncoderConfig:
    given = settings.model
    if not given:
        shapes = {_our_name(name): value.shape for name, value in tensors.items()}
        config = recognised({name: shape for name, shape in shapes.items() if name is not None})
        if config is None:
            raise ValueError(
                "has no settings of its encoder, and its tensors are those of no published architecture; strides, "
                "heads and the order of the norms cannot be known"
            )
        return config if settings.normalize is None else config.model_copy(update={"normalize": settings.normalize})
    for name, allowed in _FIXED:
        if given.get(name, allowed) != allowed:
            raise ValueError(f"{name}={brief_value(given[name])} cannot be expressed here; only {name}={allowed!r} can")
    transformer = {ours: _default(given, theirs, default) for theirs, ours, default in _SETTINGS}
    depth = _default(given, "pos_conv_depth", 1)
    if depth > 1:
        transformer |= {"position_stack": depth, "position_kernel": max(3, transformer["position_kernel"] // depth)}
    if given.get("relative_position_embedding"):
        if not given.get("gru_rel_pos"):
            raise ValueError("gru_rel_pos=False cannot be expressed here: relative positions are gated")
        transformer |= {"relative_buckets": given["num_buckets"], "relative_distance": given["max_distance"]}
    mode = _default(given, "extractor_mode", "default")
    if mode not in _NORMS:
        raise ValueError(f"extractor_mode={brief_value(mode)} cannot be expressed here; allowed: {', '.join(_NORMS)}")
    conv = {
        "layers": _conv_layers(_default(given, "conv_feature_layers", _CONV_LAYERS)),
        "norm": _NORMS[mode],
        "bias": _default(given, "conv_bias", default=False),
    }
    normalize = settings.normalize or False  # fairseq's default
    dropout = _default(given, "dropout_input", 0.0)
    try:
        return EncoderConfig.model_validate(
            {"conv": conv, "transformer": transformer, "normalize": normalize, "feature_dropout": dropout}
        )
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise ValueError(f"setting {name}={brief_value(first['input'])}: {first['msg']}") from None


def _default(given: Mapping[str, Any], name: str, default: Any) -> Any:
    value = given.get(name)
    return default if value is None else value


def _conv_layers(text: Any) -> Any:
    """``[(512, 10, 5)] + [(512, 3, 2)] * 4`` as a list; only lists, tuples, whole numbers, ``+`` and ``*`` are read.

    >>> _conv_layers("[(8, 10, 5)] + [(8, 3, 2)] * 2")
    [(8, 10, 5), (8, 3, 2), (8, 3, 2)]
    """
    if not isinstance(text, str):
        return text
    if len(text) > _LONGEST_LIST:
        raise ValueError(f"conv_feature_layers is a string of {len(text)} characters; at most {_LONGEST_LIST} are read")

    def value(node: ast.expr) -> Any:
        match node:
            case ast.List(elts=parts):
                return [value(part) for part in parts]
            case ast.Tuple(elts=parts):
                return tuple(value(part) for part in parts)
            case ast.Constant(value=int(number)) if 0 <= number < 10**6:
                return number
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return value(left) + value(right)
            case ast.BinOp(left=left, op=ast.Mult(), right=ast.Constant(value=int(times))) if 0 <= times < 100:
                part = value(left)
                if not isinstance(part, list) or len(part) * times > _LONGEST_LIST:  # several factors multiply
                    raise TypeError
                return part * times
            case _:
                raise ValueError(f"conv_feature_layers={brief_value(text)} is no list of (channels, kernel, stride)")

    try:
        return value(ast.parse(text, mode="eval").body)
    except (SyntaxError, TypeError, RecursionError, MemoryError):
        raise ValueError(f"conv_feature_layers={brief_value(text)} is no list of (channels, kernel, stride)") from None


def _objective(settings: _Settings, tensors: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """Settings of the contrastive objective; its sizes are those of its tensors. None where there is no such objective.

    The temperature decays per step in fairseq and by fraction of the run here: only its start and end are read.
    """
    needed = ("quantizer.vars", "quantizer.weight_proj.weight", "project_q.weight", "final_proj.weight")
    if any(name not in tensors for name in needed) or any(name.startswith("target_glu.") for name in tensors):
        return None
    given, (entries, part) = settings.model, tensors["quantizer.vars"].shape[-2:]
    dim, total = tensors["project_q.weight"].shape
    groups = total // part
    objective: dict[str, Any] = {
        "mask": {"probability": _default(given, "mask_prob", 0.65), "length": _default(given, "mask_length", 10)},
        "quantizer": {"groups": groups, "codes": entries // max(groups, 1), "dim": total},
        "dim": dim,
        "negatives": _default(given, "num_negatives", 100),
        "logit_temperature": _default(given, "logit_temp", 0.1),
        "feature_gradient": _default(given, "feature_grad_mult", 1.0),
    }
    weights = _numbers(settings.criterion.get("loss_weights"))
    if weights:
        objective |= {"diversity_weight": weights[0], "feature_penalty": weights[1] if len(weights) > 1 else 0.0}
    temperatures = _numbers(given.get("latent_temp"))
    if len(temperatures) == 3:
        objective |= {"gumbel_start": temperatures[0], "gumbel_end": temperatures[1]}
    return checked_objective(objective)


def _numbers(value: Any) -> list[float]:
    """Numbers of a list, or of a list given as text.

    >>> _numbers("(2,0.5,0.999995)")
    [2.0, 0.5, 0.999995]
    """
    if isinstance(value, str):
        return [float(number) for number in re.findall(r"\d+(?:\.\d+)?(?:[eE][+-]?\d+)?", value)]
    return [float(number) for number in value] if isinstance(value, list) else []
