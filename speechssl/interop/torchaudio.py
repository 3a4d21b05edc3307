"""Conversion of names of weights and settings to and from ``torchaudio.models.wav2vec2_model`` and ``wavlm_model``.

Its names are transformers' with the projection moved into the encoder, so this is a renaming before
:mod:`speechssl.interop.huggingface`. WavLM's queries, keys and values are one layer, as ours are. It has no objective:
encoder weights only.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from speechssl.interop import huggingface
from speechssl.models.encoder import EncoderConfig

# (theirs, transformers')
RENAMES = (("encoder.feature_projection.", "feature_projection."), ("encoder.transformer.", "encoder."))

_ARGUMENTS = (  # (torchaudio's, transformers'), in the order of its signature
    ("extractor_conv_bias", "conv_bias"),
    ("encoder_embed_dim", "hidden_size"),
    ("encoder_projection_dropout", "feat_proj_dropout"),
    ("encoder_pos_conv_kernel", "num_conv_pos_embeddings"),
    ("encoder_pos_conv_groups", "num_conv_pos_embedding_groups"),
    ("encoder_num_layers", "num_hidden_layers"),
    ("encoder_num_heads", "num_attention_heads"),
    ("encoder_num_buckets", "num_buckets"),  # WavLM
    ("encoder_max_distance", "max_bucket_distance"),
    ("encoder_attention_dropout", "attention_dropout"),
    ("encoder_ff_interm_features", "intermediate_size"),
    ("encoder_ff_interm_dropout", "activation_dropout"),
    ("encoder_dropout", "hidden_dropout"),
    ("encoder_layer_norm_first", "do_stable_layer_norm"),
    ("encoder_layer_drop", "layerdrop"),
)


def export_config(encoder: EncoderConfig) -> dict[str, Any]:
    """Arguments of ``torchaudio.models.wav2vec2_model`` for an encoder; of ``wavlm_model`` for WavLM's.

    Raises:
        ValueError: the Gabor front, a padded front or data2vec's positions, which it does not have, or another epsilon
            than its norms have.

    Example:
        >>> from speechssl.models.encoder import PRESETS
        >>> export_config(PRESETS["base"])["extractor_mode"]
        'group_norm'
    """
    if encoder.conv.front == "gabor":
        raise ValueError("front='gabor' cannot be expressed in torchaudio's wav2vec2_model; only front='conv' can")
    if encoder.conv.padding:
        raise ValueError(
            f"a receptive field of {encoder.conv.receptive_field} samples gets {encoder.conv.padding} zeros on both "
            "sides here and none in torchaudio; only a receptive field of 400 samples or less is the same in both"
        )
    transformer = encoder.transformer
    if transformer.position_stack or not encoder.feature_norm:
        raise ValueError("a stack of positional convolutions, or no norm before the projection: not in torchaudio")
    shared = huggingface.export_config(encoder)
    if shared["layer_norm_eps"] != 1e-5:
        raise ValueError(f"torchaudio's norms have an epsilon of 1e-5, not {shared['layer_norm_eps']}")
    return {
        "extractor_mode": f"{shared['feat_extract_norm']}_norm",
        "extractor_conv_layer_config": [tuple(layer) for layer in encoder.conv.layers],
        **{name: shared[theirs] for name, theirs in _ARGUMENTS if theirs in shared},
        "aux_num_out": None,
    }


def import_config(arguments: Mapping[str, Any], *, normalize: bool) -> EncoderConfig:
    """Encoder settings from the arguments of ``wav2vec2_model`` or ``wavlm_model``.

    Args:
        arguments: arguments of a bundle of torchaudio.
        normalize: whether its waveforms have zero mean and unit variance.

    Raises:
        ValueError: a setting that is not supported.

    Example:
        >>> from speechssl.models.encoder import PRESETS
        >>> import_config(export_config(PRESETS["base"]), normalize=False) == PRESETS["base"]
        True
    """
    shared = {theirs: arguments[name] for name, theirs in _ARGUMENTS if name in arguments}
    dims, kernels, strides = zip(*arguments["extractor_conv_layer_config"], strict=True)
    shared |= {"conv_dim": dims, "conv_kernel": kernels, "conv_stride": strides}
    shared["feat_extract_norm"] = arguments["extractor_mode"].removesuffix("_norm")
    shared["model_type"] = "wavlm" if "encoder_num_buckets" in arguments else "wav2vec2"
    return huggingface.import_config(shared, normalize=normalize)


def import_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our names, with the prefix ``encoder.``, for the weights of a torchaudio ``Wav2Vec2Model`` without a head.

    Raises:
        ValueError: names that are no part of that model.

    Example:
        >>> import torch
        >>> list(import_weights({"encoder.feature_projection.projection.bias": torch.zeros(4)}))
        ['encoder.projection.bias']
    """
    return huggingface.import_weights({replace_prefix(name, RENAMES): value for name, value in weights.items()})


def export_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Their names for an encoder's weights (prefix ``encoder.``); the inverse of :func:`import_weights`.

    Raises:
        ValueError: names that are no part of an encoder.

    Example:
        >>> import torch
        >>> list(export_weights({"encoder.transformer.norm.bias": torch.zeros(4)}))
        ['encoder.transformer.layer_norm.bias']
    """
    foreign = sorted(name for name in weights if not name.startswith("encoder."))
    if foreign:
        raise ValueError(f"not weights of an encoder: {', '.join(foreign)}")
    back = tuple((shared, theirs) for theirs, shared in RENAMES)
    return {replace_prefix(name, back): value for name, value in huggingface.export_weights(weights).items()}


def replace_prefix(name: str, table: tuple[tuple[str, str], ...]) -> str:
    """Replace the first prefix of the table that matches the name."""
    for prefix, replacement in table:
        if name.startswith(prefix):
            return replacement + name.removeprefix(prefix)
    return name
