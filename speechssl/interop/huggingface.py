"""Conversion of names of weights and settings to and from transformers' wav2vec2, HuBERT, WavLM and data2vec-audio.

Pure functions on plain dicts; transformers itself is not needed. Names on our side are those of a model folder:
``encoder.`` for :class:`~speechssl.models.encoder.SpeechEncoder`, the rest as in
:class:`~speechssl.objectives.wav2vec2.Wav2Vec2`.

Differences: queries, keys and values are three layers there and one here; their codebooks are concatenated; they have
no feature penalty, no gradient scale, no padding of the waveform and no Gabor front. HuBERT may leave out a norm, WavLM
adds relative positions, data2vec-audio has a stack of positional convolutions.

A setting that one side does not support is an error. Settings of fine-tuning heads (vocabulary, CTC) are ignored. Input
normalisation is a setting of their ``Wav2Vec2FeatureExtractor``, not of the model.
"""

from collections.abc import Mapping
from typing import Any, Literal

import pydantic
from torch import Tensor

from speechssl.config import Config, brief_value, readable
from speechssl.interop.naming import Table, fuse_qkv, modern_weight_norm, old_weight_norm, rename, split_qkv
from speechssl.models.encoder import EncoderConfig

WeightNorm = Literal["parametrizations", "weight_g"]  # torch's naming from 2.0 on, and the older one of published files

MODEL_TYPES = ("wav2vec2", "hubert", "wavlm", "data2vec-audio")
PREFIXES = ("wav2vec2.", "hubert.", "wavlm.", "data2vec_audio.")  # of the encoder inside a model with a head
BASE_NAMES: Table = (  # inside Wav2Vec2Model, HubertModel, WavLMModel, Data2VecAudioModel
    ("masked_spec_embed", "mask_embedding"),
    ("feature_extractor.conv_layers.#.conv.", "encoder.features.layers.#.conv."),
    ("feature_extractor.conv_layers.#.layer_norm.", "encoder.features.layers.#.norm."),
    ("feature_projection.layer_norm.", "encoder.feature_norm."),
    ("feature_projection.projection.", "encoder.projection."),
    ("encoder.pos_conv_embed.conv.", "encoder.transformer.positions.conv."),
    ("encoder.pos_conv_embed.layers.#.conv.", "encoder.transformer.positions.layers.#."),  # data2vec-audio
    ("encoder.layer_norm.", "encoder.transformer.norm."),
    ("encoder.layers.#.attention.q_proj.", "encoder.transformer.layers.#.attention.q."),  # q, k, v: fused below
    ("encoder.layers.#.attention.k_proj.", "encoder.transformer.layers.#.attention.k."),
    ("encoder.layers.#.attention.v_proj.", "encoder.transformer.layers.#.attention.v."),
    ("encoder.layers.#.attention.out_proj.", "encoder.transformer.layers.#.attention.out."),
    ("encoder.layers.0.attention.rel_attn_embed.weight", "encoder.transformer.relative.biases"),  # WavLM, all layers'
    ("encoder.layers.#.attention.gru_rel_pos_linear.", "encoder.transformer.layers.#.attention.gate.scores."),
    ("encoder.layers.#.attention.gru_rel_pos_const", "encoder.transformer.layers.#.attention.gate.scale"),
    ("encoder.layers.#.layer_norm.", "encoder.transformer.layers.#.attention_norm."),
    ("encoder.layers.#.feed_forward.intermediate_dense.", "encoder.transformer.layers.#.expand."),
    ("encoder.layers.#.feed_forward.output_dense.", "encoder.transformer.layers.#.contract."),
    ("encoder.layers.#.final_layer_norm.", "encoder.transformer.layers.#.output_norm."),
)
OBJECTIVE_NAMES: Table = (  # of Wav2Vec2ForPreTraining itself
    ("quantizer.codevectors", "quantizer.codebooks"),
    ("quantizer.weight_proj.", "quantizer.scores."),
    ("project_hid.", "project_context."),
    ("project_q.", "project_target."),
)
_Settings = tuple[tuple[str, str, Any], ...]

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
_HUBERT_SETTINGS = (("feat_proj_layer_norm", "feature_norm", True),)
_WAVLM_SETTINGS = (
    ("num_buckets", "transformer.relative_buckets", 320),
    ("max_bucket_distance", "transformer.relative_distance", 800),
)
_DATA2VEC_SETTINGS = (  # in the place of those of the same name, ours or theirs
    ("num_conv_pos_embeddings", "transformer.position_stack", 5),
    ("conv_pos_kernel_size", "transformer.position_kernel", 19),
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
_CONV_SETTINGS = (  # theirs and their default; ours has one triple per layer
    ("conv_dim", (512,) * 7),
    ("conv_kernel", (10, 3, 3, 3, 3, 2, 2)),
    ("conv_stride", (5, 2, 2, 2, 2, 2, 2)),
)
_FIXED = (("hidden_act", "gelu"), ("feat_extract_activation", "gelu"))
_FIXED_OF = {  # settings that only some types of model have
    "wav2vec2": (("add_adapter", False), ("adapter_attn_dim", None)),
    "hubert": (("conv_pos_batch_norm", False),),
    "wavlm": (("add_adapter", False),),
    "data2vec-audio": (("add_adapter", False),),
}
_DATA2VEC_IGNORES = {"feat_extract_norm", "do_stable_layer_norm"}  # always "layer" and False, ignored in files
_FIXED_OBJECTIVE = (("feat_quantizer_dropout", 0.0), ("mask_feature_prob", 0.0))


def import_config(config: Mapping[str, Any], *, normalize: bool = True) -> EncoderConfig:
    """Encoder settings from a transformers config.

    Args:
        config: content of their ``config.json`` or ``Wav2Vec2Config.to_dict()``; a missing key has their default.
        normalize: ``do_normalize`` of their ``preprocessor_config.json`` (their default: True).

    Raises:
        ValueError: another type of model, or a setting that is not supported.

    Example:
        >>> encoder = import_config({"hidden_size": 1024, "do_stable_layer_norm": True, "feat_extract_norm": "layer"})
        >>> encoder.dim, encoder.transformer.pre_norm, encoder.conv.hop
        (1024, True, 320)
        >>> import_config({"model_type": "wavlm"}).transformer.relative_buckets
        320
    """
    kind = config.get("model_type", "wav2vec2")
    if kind not in MODEL_TYPES:
        raise ValueError(f"model_type={brief_value(kind)} cannot be read; allowed: {', '.join(MODEL_TYPES)}")
    _check_fixed(config, (*_FIXED, *_FIXED_OF[kind]))
    shapes = {name: config.get(name, default) for name, default in _CONV_SETTINGS}
    if len({len(values) for values in shapes.values()}) > 1:
        found = ", ".join(f"{name}={brief_value(list(values))}" for name, values in shapes.items())
        raise ValueError(f"one value per layer is needed: {found}")
    table = _encoder_settings(kind)
    settings = _from_table(config, table)
    settings["conv"]["layers"] = tuple(zip(*shapes.values(), strict=True))
    if kind == "data2vec-audio":
        settings["conv"]["norm"] = "layer"
    try:
        encoder = EncoderConfig.model_validate(settings | {"normalize": normalize})
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        theirs = next((name for name, ours, _ in table if ours == place), place)
        raise ValueError(f"{theirs}={brief_value(first['input'])} cannot be expressed here: {first['msg']}") from None
    if encoder.conv.padding:
        raise ValueError(_padding_message(encoder))
    return encoder


def import_objective(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the contrastive objective from a transformers config, for ``Wav2Vec2Config.model_validate``.

    Published files mostly have the mask settings of fine-tuning (``mask_time_prob`` 0.05 or 0.075); pretraining used
    0.65. The feature penalty and the gradient scale, which they do not have, are set to values without effect.

    Example:
        >>> import_objective({"num_codevectors_per_group": 64, "mask_time_prob": 0.65})["quantizer"]
        {'groups': 2, 'codes': 64, 'dim': 256}
    """
    _check_fixed(config, _FIXED_OBJECTIVE)
    return _from_table(config, _OBJECTIVE_SETTINGS) | {"feature_penalty": 0.0, "feature_gradient": 1.0}


def model_type(encoder: EncoderConfig) -> str:
    """The one of :data:`MODEL_TYPES` that an encoder is exported as; wav2vec2 where possible.

    Raises:
        ValueError: a combination that none of them has.

    Example:
        >>> from speechssl.models.encoder import PRESETS
        >>> model_type(PRESETS["base"]), model_type(import_config({"model_type": "wavlm"}))
        ('wav2vec2', 'wavlm')
    """
    transformer = encoder.transformer
    needed = [
        *(["wavlm"] if transformer.relative_buckets else []),
        *(["data2vec-audio"] if transformer.position_stack else []),
        *([] if encoder.feature_norm else ["hubert"]),
    ]
    if len(needed) > 1:
        raise ValueError(f"no model of transformers combines what {' and '.join(needed)} have")
    if transformer.position_stack and (transformer.pre_norm or encoder.conv.norm != "layer"):
        raise ValueError("data2vec-audio has norm='layer' and pre_norm=False; no model of transformers has another")
    return needed[0] if needed else "wav2vec2"


def export_config(encoder: EncoderConfig, objective: Config | None = None) -> dict[str, Any]:
    """Arguments of transformers' config for an encoder and, where given, a ``Wav2Vec2Config`` of ours.

    The class is that of :func:`model_type`: ``Wav2Vec2Config``, ``HubertConfig``, ``WavLMConfig`` or
    ``Data2VecAudioConfig``.

    Of the objective, the feature penalty, the gradient scale and the temperature schedule are left out: there they are
    settings of the training script. Initialisations are left out, too.

    Raises:
        ValueError: the Gabor front, a padded front, a causal or squeezed encoder, a quantizer that normalises its
            input or whose input is log-mel, the decoder of ``mask.drop``, an error of :func:`model_type`, or an
            objective where the type has none.

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
    if encoder.squeeze_factor > 1:
        raise ValueError(f"squeeze_factor={encoder.squeeze_factor} cannot be expressed in transformers or torchaudio")
    if encoder.transformer.causal:
        raise ValueError("a causal encoder cannot be expressed in transformers' or torchaudio's wav2vec 2.0")
    kind = model_type(encoder)
    config = _to_table(encoder, _encoder_settings(kind)) | dict(_FIXED) | dict(_FIXED_OF[kind])
    for (name, _), values in zip(_CONV_SETTINGS, zip(*encoder.conv.layers, strict=True), strict=True):
        config[name] = values
    if objective is not None:
        if kind != "wav2vec2":
            raise ValueError(f"transformers' {kind} has no contrastive objective")
        if _get(objective, "quantizer.normalize_input"):
            raise ValueError("quantizer.normalize_input=True cannot be expressed in transformers' Wav2Vec2Config")
        if _get(objective, "targets") != "features":
            raise ValueError("targets='log-mel': transformers quantises latents")
        if _get(objective, "mask.drop"):
            raise ValueError("the decoder of mask.drop=true cannot be expressed in transformers")
        config |= _to_table(objective, _OBJECTIVE_SETTINGS) | dict(_FIXED_OBJECTIVE)
    return config


def import_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our names and layout for the weights of a ``Wav2Vec2Model`` or ``Wav2Vec2ForPreTraining``.

    Args:
        weights: their state dict, with either naming of the weight-normalised positional convolution.

    Returns:
        New dict; tensors are shared where they need no new layout.

    Raises:
        ValueError: names that are not in those two models, for example a head's.

    Example:
        >>> import torch
        >>> three = {f"wav2vec2.encoder.layers.0.attention.{name}_proj.bias": torch.zeros(4) for name in "qkv"}
        >>> [(name, tuple(value.shape)) for name, value in import_weights(three).items()]
        [('encoder.transformer.layers.0.attention.qkv.bias', (12,))]
    """
    renamed: dict[str, Tensor] = {}
    unknown: list[str] = []
    for name, value in weights.items():
        ours = our_name(name)
        if ours is None:
            unknown.append(name)
        else:
            renamed[ours] = value
    if unknown:
        raise ValueError(f"not weights of Wav2Vec2Model or Wav2Vec2ForPreTraining: {_listed(unknown)}")
    if "quantizer.codebooks" in renamed:
        codebooks = renamed["quantizer.codebooks"]  # 1 groups*codes dim/groups
        groups = renamed["project_target.weight"].shape[1] // codebooks.shape[2]
        renamed["quantizer.codebooks"] = codebooks.reshape(groups, -1, codebooks.shape[2])  # groups codes dim/groups
    return fuse_qkv(renamed)


def our_name(name: str) -> str | None:
    """Our name of one of their weights, q, k and v unfused; None if it is in neither the encoder nor the objective.

    >>> our_name("hubert.encoder.layers.3.final_layer_norm.bias")
    'encoder.transformer.layers.3.output_norm.bias'
    """
    modern = modern_weight_norm(name)
    for prefix in PREFIXES:
        modern = modern.removeprefix(prefix)
    return rename(modern, BASE_NAMES) or rename(modern, OBJECTIVE_NAMES)


def export_weights(weights: Mapping[str, Tensor], *, weight_norm: WeightNorm = "parametrizations") -> dict[str, Tensor]:
    """Their names and layout for ours; the inverse of :func:`import_weights`.

    Args:
        weights: an encoder's, with the prefix ``encoder.``, or a whole objective's.
        weight_norm: naming of the positional convolution: ``"parametrizations"`` as in their current modules,
            ``"weight_g"`` as in published files.

    Returns:
        State dict of ``Wav2Vec2ForPreTraining`` where the quantizer is among the weights, else of ``Wav2Vec2Model``.

    Raises:
        ValueError: names that do not belong to a wav2vec 2.0 model.

    Example:
        >>> import torch
        >>> list(export_weights({"encoder.transformer.norm.bias": torch.zeros(4)}))
        ['encoder.layer_norm.bias']
    """
    prefix = PREFIXES[0] if any(name.startswith("quantizer.") for name in weights) else ""
    exported: dict[str, Tensor] = {}
    unknown: list[str] = []
    for name, value in split_qkv(weights).items():
        base, head = rename(name, BASE_NAMES, back=True), rename(name, OBJECTIVE_NAMES, back=True)
        if base is not None:
            exported[prefix + (old_weight_norm(base) if weight_norm == "weight_g" else base)] = value
        elif head is not None:
            exported[head] = value.flatten(0, 1).unsqueeze(0) if name == "quantizer.codebooks" else value
        else:
            unknown.append(name)
    if unknown:
        raise ValueError(f"not weights of a wav2vec 2.0 encoder or objective: {_listed(unknown)}")
    return exported


def _encoder_settings(kind: str) -> _Settings:
    own = {"hubert": _HUBERT_SETTINGS, "wavlm": _WAVLM_SETTINGS, "data2vec-audio": _DATA2VEC_SETTINGS}.get(kind, ())
    shared = _ENCODER_SETTINGS
    if kind == "data2vec-audio":
        taken = {name for setting in own for name in setting[:2]} | _DATA2VEC_IGNORES
        shared = tuple(setting for setting in shared if taken.isdisjoint(setting[:2]))
    return (*shared, *own)


def _from_table(config: Mapping[str, Any], table: _Settings) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for theirs, ours, default in table:
        *path, last = ours.split(".")
        place = settings
        for key in path:
            place = place.setdefault(key, {})
        place[last] = config.get(theirs, default)
    return settings


def _to_table(config: Config, table: _Settings) -> dict[str, Any]:
    return {theirs: _get(config, ours) for theirs, ours, _ in table}


def _get(config: Config, path: str) -> Any:
    value: Any = config
    for key in path.split("."):
        value = getattr(value, key)
    return value


def _check_fixed(config: Mapping[str, Any], fixed: tuple[tuple[str, Any], ...]) -> None:
    for name, allowed in fixed:
        found = config.get(name, allowed)
        if found != allowed:
            raise ValueError(f"{name}={brief_value(found)} cannot be expressed here; only {name}={allowed!r} can")


def _padding_message(encoder: EncoderConfig) -> str:
    return (
        f"a receptive field of {encoder.conv.receptive_field} samples gets {encoder.conv.padding} zeros on both sides "
        "here and none in transformers; only a receptive field of 400 samples or less is the same in both"
    )


def _listed(names: list[str]) -> str:
    return readable(", ".join(sorted(names)), longest=300)
