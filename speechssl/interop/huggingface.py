"""Weights and settings of transformers' ``Wav2Vec2Model`` and ``Wav2Vec2ForPreTraining``, both ways, by name only.

Pure functions on plain dicts; transformers itself is not needed. Names on our side are those of a model folder:
``encoder.`` for :class:`~speechssl.models.encoder.SpeechEncoder`, the rest as in
:class:`~speechssl.objectives.wav2vec2.Wav2Vec2`.

What differs from ours: queries, keys and values are three layers there and one here; their codebooks lie behind one
another; they know no feature penalty, no gradient scale, no padding of the waveform and no Gabor front.

A setting that one side cannot express is an error. Settings of fine-tuning heads (vocabulary, CTC) are not looked at.
Input normalisation is a setting of their ``Wav2Vec2FeatureExtractor``, not of the model.
"""

import re
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from speechssl.config import Config
from speechssl.models.encoder import EncoderConfig

WeightNorm = Literal["parametrizations", "weight_g"]  # torch's naming from 2.0 on, and the older one of published files

_PREFIX = "wav2vec2."  # of Wav2Vec2Model inside Wav2Vec2ForPreTraining
_BASE_NAMES = (  # (theirs, ours) inside Wav2Vec2Model; # stands for the number of a layer
    ("masked_spec_embed", "mask_embedding"),
    ("feature_extractor.conv_layers.#.conv.", "encoder.features.layers.#.conv."),
    ("feature_extractor.conv_layers.#.layer_norm.", "encoder.features.layers.#.norm."),
    ("feature_projection.layer_norm.", "encoder.feature_norm."),
    ("feature_projection.projection.", "encoder.projection."),
    ("encoder.pos_conv_embed.conv.", "encoder.transformer.positions.conv."),
    ("encoder.layer_norm.", "encoder.transformer.norm."),
    ("encoder.layers.#.attention.q_proj.", "encoder.transformer.layers.#.attention.q."),  # q, k, v: fused below
    ("encoder.layers.#.attention.k_proj.", "encoder.transformer.layers.#.attention.k."),
    ("encoder.layers.#.attention.v_proj.", "encoder.transformer.layers.#.attention.v."),
    ("encoder.layers.#.attention.out_proj.", "encoder.transformer.layers.#.attention.out."),
    ("encoder.layers.#.layer_norm.", "encoder.transformer.layers.#.attention_norm."),
    ("encoder.layers.#.feed_forward.intermediate_dense.", "encoder.transformer.layers.#.expand."),
    ("encoder.layers.#.feed_forward.output_dense.", "encoder.transformer.layers.#.contract."),
    ("encoder.layers.#.final_layer_norm.", "encoder.transformer.layers.#.output_norm."),
)
_HEAD_NAMES = (  # of Wav2Vec2ForPreTraining itself
    ("quantizer.codevectors", "quantizer.codebooks"),
    ("quantizer.weight_proj.", "quantizer.scores."),
    ("project_hid.", "project_context."),
    ("project_q.", "project_target."),
)
_WEIGHT_NORM = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}
_QKV = re.compile(r"(.*\.attention\.)(q|k|v)(\..*)")

_ENCODER_SETTINGS = (  # (theirs, ours, their default): a config file may leave out defaults
    ("conv_bias", "conv.bias", False),
    ("feat_extract_norm", "conv.norm", "group"),
    ("hidden_size", "transformer.dim", 768),
    ("num_hidden_layers", "transformer.layers", 12),
    ("num_attention_heads", "transformer.heads", 12),
    ("intermediate_size", "transformer.feedforward", 3072),
    ("do_stable_layer_norm", "transformer.pre_norm", False),
    ("num_conv_pos_embeddings", "transformer.position_kernel", 128),
    ("num_conv_pos_embedding_groups", "transformer.position_groups", 16),
    ("hidden_dropout", "transformer.dropout", 0.1),
    ("attention_dropout", "transformer.attention_dropout", 0.1),
    ("activation_dropout", "transformer.activation_dropout", 0.1),
    ("layerdrop", "transformer.layer_drop", 0.1),
    ("layer_norm_eps", "transformer.norm_eps", 1e-5),
    ("feat_proj_dropout", "feature_dropout", 0.0),
)
_OBJECTIVE_SETTINGS = (
    ("mask_time_prob", "mask.probability", 0.05),
    ("mask_time_length", "mask.length", 10),
    ("mask_time_min_masks", "mask.min_spans", 2),
    ("num_codevector_groups", "quantizer.groups", 2),
    ("num_codevectors_per_group", "quantizer.codes", 320),
    ("codevector_dim", "quantizer.dim", 256),
    ("proj_codevector_dim", "dim", 256),
    ("num_negatives", "negatives", 100),
    ("contrastive_logits_temperature", "logit_temperature", 0.1),
    ("diversity_loss_weight", "diversity_weight", 0.1),
)
_CONV_SETTINGS = (  # theirs and their default; ours has one triple a layer
    ("conv_dim", (512,) * 7),
    ("conv_kernel", (10, 3, 3, 3, 3, 2, 2)),
    ("conv_stride", (5, 2, 2, 2, 2, 2, 2)),
)
_FIXED = (
    ("hidden_act", "gelu"),
    ("feat_extract_activation", "gelu"),
    ("add_adapter", False),
    ("adapter_attn_dim", None),
)
_FIXED_OBJECTIVE = (("feat_quantizer_dropout", 0.0), ("mask_feature_prob", 0.0))


def import_config(config: Mapping[str, Any], *, normalize: bool = True) -> EncoderConfig:
    """Encoder settings from a transformers config.

    Args:
        config: what their ``config.json`` or ``Wav2Vec2Config.to_dict()`` holds; a missing key has their default.
        normalize: ``do_normalize`` of their ``preprocessor_config.json`` (their default: True).

    Raises:
        ValueError: a setting that our encoder cannot follow.

    Example:
        >>> encoder = import_config({"hidden_size": 1024, "do_stable_layer_norm": True, "feat_extract_norm": "layer"})
        >>> encoder.dim, encoder.transformer.pre_norm, encoder.conv.hop
        (1024, True, 320)
    """
    _check_fixed(config, _FIXED)
    settings = _from_table(config, _ENCODER_SETTINGS)
    shapes = (config.get(name, default) for name, default in _CONV_SETTINGS)
    settings["conv"]["layers"] = tuple(zip(*shapes, strict=True))
    encoder = EncoderConfig.model_validate(settings | {"normalize": normalize})
    if encoder.conv.padding:
        raise ValueError(_padding_message(encoder))
    return encoder


def import_objective(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the contrastive objective from a transformers config, for ``Wav2Vec2Config.model_validate``.

    Published files mostly carry the mask of fine-tuning (``mask_time_prob`` 0.05 or 0.075), pretraining used 0.65. The
    feature penalty and the gradient scale, which they do not have, are set to what has no effect.

    Example:
        >>> import_objective({"num_codevectors_per_group": 64, "mask_time_prob": 0.65})["quantizer"]
        {'groups': 2, 'codes': 64, 'dim': 256}
    """
    _check_fixed(config, _FIXED_OBJECTIVE)
    return _from_table(config, _OBJECTIVE_SETTINGS) | {"feature_penalty": 0.0, "feature_gradient": 1.0}


def export_config(encoder: EncoderConfig, objective: Config | None = None) -> dict[str, Any]:
    """Arguments of transformers' ``Wav2Vec2Config`` for an encoder and, where given, a ``Wav2Vec2Config`` of ours.

    Of the objective, the feature penalty, the gradient scale and the temperature schedule stay behind: there they are
    the training script's. Initialisations stay behind too, the weights carry them.

    Raises:
        ValueError: the Gabor front, a padded front, or a quantizer that normalises its input.

    Example:
        >>> from speechssl.models.encoder import PRESETS
        >>> config = export_config(PRESETS["large"])
        >>> config["hidden_size"], config["feat_extract_norm"], config["do_stable_layer_norm"]
        (1024, 'layer', True)
    """
    if encoder.conv.front == "gabor":
        raise ValueError("front='gabor' cannot be expressed in transformers' Wav2Vec2Config; only front='conv' can")
    if encoder.conv.padding:
        raise ValueError(_padding_message(encoder))
    config = _to_table(encoder, _ENCODER_SETTINGS) | dict(_FIXED)
    for (name, _), values in zip(_CONV_SETTINGS, zip(*encoder.conv.layers, strict=True), strict=True):
        config[name] = values
    if objective is not None:
        if _get(objective, "quantizer.normalize_input"):
            raise ValueError("quantizer.normalize_input=True cannot be expressed in transformers' Wav2Vec2Config")
        config |= _to_table(objective, _OBJECTIVE_SETTINGS) | dict(_FIXED_OBJECTIVE)
    return config


def import_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our names and layout for the weights of a ``Wav2Vec2Model`` or ``Wav2Vec2ForPreTraining``.

    Args:
        weights: their state dict, with either naming of the weight-normalised positional convolution.

    Returns:
        New dict; tensors are shared where they need no new layout.

    Raises:
        ValueError: names that are no part of those two models, a head's for example.

    Example:
        >>> three = {f"wav2vec2.encoder.layers.0.attention.{name}_proj.bias": torch.zeros(4) for name in "qkv"}
        >>> [(name, tuple(value.shape)) for name, value in import_weights(three).items()]
        [('encoder.transformer.layers.0.attention.qkv.bias', (12,))]
    """
    renamed: dict[str, Tensor] = {}
    unknown: list[str] = []
    for name, value in weights.items():
        stem, _, last = name.rpartition(".")
        modern = f"{stem}.{_WEIGHT_NORM[last]}" if last in _WEIGHT_NORM else name
        ours = _rename(modern.removeprefix(_PREFIX), _BASE_NAMES) or _rename(modern, _HEAD_NAMES)
        if ours is None:
            unknown.append(name)
        else:
            renamed[ours] = value
    if unknown:
        raise ValueError(f"not weights of Wav2Vec2Model or Wav2Vec2ForPreTraining: {', '.join(sorted(unknown))}")
    if "quantizer.codebooks" in renamed:
        codebooks = renamed["quantizer.codebooks"]  # 1 groups*codes dim/groups
        groups = renamed["project_target.weight"].shape[1] // codebooks.shape[2]
        renamed["quantizer.codebooks"] = codebooks.reshape(groups, -1, codebooks.shape[2])  # groups codes dim/groups
    return _fuse_qkv(renamed)


def export_weights(weights: Mapping[str, Tensor], *, weight_norm: WeightNorm = "parametrizations") -> dict[str, Tensor]:
    """Their names and layout for ours; the inverse of :func:`import_weights`.

    Args:
        weights: an encoder's, with the prefix ``encoder.``, or a whole objective's.
        weight_norm: naming of the positional convolution: ``"parametrizations"`` is what their modules hold today,
            ``"weight_g"`` what published files hold.

    Returns:
        State dict of ``Wav2Vec2ForPreTraining`` where the quantizer is among the weights, else of ``Wav2Vec2Model``.

    Raises:
        ValueError: names that do not belong to a wav2vec 2.0 model.

    Example:
        >>> list(export_weights({"encoder.transformer.norm.bias": torch.zeros(4)}))
        ['encoder.layer_norm.bias']
    """
    prefix = _PREFIX if any(name.startswith("quantizer.") for name in weights) else ""
    exported: dict[str, Tensor] = {}
    unknown: list[str] = []
    for name, value in _split_qkv(weights).items():
        base, head = _rename(name, _BASE_NAMES, back=True), _rename(name, _HEAD_NAMES, back=True)
        if base is not None:
            exported[prefix + (_old_weight_norm(base) if weight_norm == "weight_g" else base)] = value
        elif head is not None:
            exported[head] = value.flatten(0, 1).unsqueeze(0) if name == "quantizer.codebooks" else value
        else:
            unknown.append(name)
    if unknown:
        raise ValueError(f"not weights of a wav2vec 2.0 encoder or objective: {', '.join(sorted(unknown))}")
    return exported


def _rename(name: str, table: tuple[tuple[str, str], ...], *, back: bool = False) -> str | None:
    """The other side's name; a pattern that ends in a dot stands for all that begin with it."""
    for theirs, ours in table:
        pattern, target = (ours, theirs) if back else (theirs, ours)
        match = re.match(re.escape(pattern).replace(r"\#", r"(\d+)"), name)
        if match and (pattern.endswith(".") or match.end() == len(name)):
            return target.replace("#", match[1] if match.groups() else "") + name[match.end() :]
    return None


def _fuse_qkv(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    fused: dict[str, Tensor] = {}
    for name, value in weights.items():
        match = _QKV.fullmatch(name)
        if match is None:
            fused[name] = value
        elif match[2] == "q":
            fused[f"{match[1]}qkv{match[3]}"] = torch.cat([weights[match[1] + part + match[3]] for part in "qkv"])
    return fused


def _split_qkv(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    split: dict[str, Tensor] = {}
    for name, value in weights.items():
        if ".attention.qkv." in name:
            # Clones: tensors that share memory could not be written to safetensors.
            for part, third in zip("qkv", value.chunk(3), strict=True):
                split[name.replace(".qkv.", f".{part}.")] = third.clone()
        else:
            split[name] = value
    return split


def _old_weight_norm(name: str) -> str:
    for old, modern in _WEIGHT_NORM.items():
        name = name.replace(modern, old)
    return name


def _from_table(config: Mapping[str, Any], table: tuple[tuple[str, str, Any], ...]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for theirs, ours, default in table:
        *path, last = ours.split(".")
        place = settings
        for key in path:
            place = place.setdefault(key, {})
        place[last] = config.get(theirs, default)
    return settings


def _to_table(config: Config, table: tuple[tuple[str, str, Any], ...]) -> dict[str, Any]:
    return {theirs: _get(config, ours) for theirs, ours, _ in table}


def _get(config: Config, path: str) -> Any:
    value: Any = config
    for key in path.split("."):
        value = getattr(value, key)
    return value


def _check_fixed(config: Mapping[str, Any], fixed: tuple[tuple[str, Any], ...]) -> None:
    for name, allowed in fixed:
        given = config.get(name, allowed)
        if given != allowed:
            raise ValueError(f"{name}={given!r} cannot be expressed here; only {name}={allowed!r} can")


def _padding_message(encoder: EncoderConfig) -> str:
    return (
        f"convolutions that see {encoder.conv.receptive_field} samples get {encoder.conv.padding} zeros on both sides "
        "here and none in transformers; only a receptive field of 400 samples or less is the same in both"
    )
