"""Weights and settings of ``torchaudio.models.wav2vec2_model``, both ways, by name only.

Its names are transformers' with the projection moved into the encoder, so this is a rename in front of
:mod:`speechssl.interop.huggingface`. It has no objective: encoder weights only.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from speechssl.interop import huggingface
from speechssl.models.encoder import EncoderConfig

# (theirs, transformers')
_RENAMES = (("encoder.feature_projection.", "feature_projection."), ("encoder.transformer.", "encoder."))


def export_config(encoder: EncoderConfig) -> dict[str, Any]:
    """Arguments of ``torchaudio.models.wav2vec2_model`` for an encoder.

    Raises:
        ValueError: the Gabor front or a padded front, which it does not have, or another epsilon than its norms have.

    Example:
        >>> from speechssl.models.encoder import PRESETS
        >>> export_config(PRESETS["base"])["extractor_mode"]
        'group_norm'
    """
    shared = huggingface.export_config(encoder)
    if shared["layer_norm_eps"] != 1e-5:
        raise ValueError(f"torchaudio's norms have an epsilon of 1e-5, not {shared['layer_norm_eps']}")
    return {
        "extractor_mode": f"{shared['feat_extract_norm']}_norm",
        "extractor_conv_layer_config": [tuple(layer) for layer in encoder.conv.layers],
        "extractor_conv_bias": shared["conv_bias"],
        "encoder_embed_dim": shared["hidden_size"],
        "encoder_projection_dropout": shared["feat_proj_dropout"],
        "encoder_pos_conv_kernel": shared["num_conv_pos_embeddings"],
        "encoder_pos_conv_groups": shared["num_conv_pos_embedding_groups"],
        "encoder_num_layers": shared["num_hidden_layers"],
        "encoder_num_heads": shared["num_attention_heads"],
        "encoder_attention_dropout": shared["attention_dropout"],
        "encoder_ff_interm_features": shared["intermediate_size"],
        "encoder_ff_interm_dropout": shared["activation_dropout"],
        "encoder_dropout": shared["hidden_dropout"],
        "encoder_layer_norm_first": shared["do_stable_layer_norm"],
        "encoder_layer_drop": shared["layerdrop"],
        "aux_num_out": None,
    }


def import_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our names, with the prefix ``encoder.``, for the weights of a torchaudio ``Wav2Vec2Model`` without a head.

    Raises:
        ValueError: names that are no part of that model.

    Example:
        >>> import torch
        >>> list(import_weights({"encoder.feature_projection.projection.bias": torch.zeros(4)}))
        ['encoder.projection.bias']
    """
    return huggingface.import_weights({_replace_prefix(name, _RENAMES): value for name, value in weights.items()})


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
    back = tuple((shared, theirs) for theirs, shared in _RENAMES)
    return {_replace_prefix(name, back): value for name, value in huggingface.export_weights(weights).items()}


def _replace_prefix(name: str, table: tuple[tuple[str, str], ...]) -> str:
    for prefix, replacement in table:
        if name.startswith(prefix):
            return replacement + name.removeprefix(prefix)
    return name
