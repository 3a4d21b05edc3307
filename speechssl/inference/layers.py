"""Layers of an encoder by name: weights of the hidden states."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from speechssl.config import UserError
from speechssl.models.storage import HEAD, read_encoder_config, read_tensors

ALL_LAYERS: Literal["mean"] = "mean"
Layer = int | Literal["mean", "mix"]


def layer_weights(layer: Layer, *, blocks: int, mix: Sequence[float] | None) -> Float[Tensor, " states"]:
    """Weights of the hidden states for a layer, of an encoder with `blocks` blocks.

    Raises:
        UserError: no such layer, or a model without a learnt mix.

    >>> layer_weights(-1, blocks=2, mix=None)
    tensor([0., 0., 1.])
    """
    weights = torch.zeros(blocks + 1)
    if layer == ALL_LAYERS:
        return weights + 1 / len(weights)
    if layer == "mix":
        if mix is None:
            raise UserError("layer 'mix' is the mix of a fine-tuned head; this model has none")
        return torch.tensor(mix)
    if layer not in range(-blocks - 1, blocks + 1):
        raise UserError(
            f"layer must be {ALL_LAYERS!r}, 'mix' or from {-blocks - 1} to {blocks} "
            f"(0: input to the first of {blocks} blocks), got {layer!r}"
        )
    weights[layer] = 1.0
    return weights


def learned_mix(folder: Path) -> tuple[float, ...] | None:
    """The learnt mix of layers of a fine-tuned model's head; None where it has none.

    Args:
        folder: a model folder.

    Raises:
        UserError: not a model folder, or weights that do not fit its settings.
    """
    weights = read_tensors(folder / "model.safetensors", prefix=HEAD).get("mix.weights")
    if weights is None:
        return None
    states = read_encoder_config(folder).transformer.layers + 1
    if tuple(weights.shape) != (states,):
        raise UserError(
            f"{folder}: {HEAD}mix.weights has the shape {list(weights.shape)}, its settings make it {[states]}"
        )
    return tuple(weights.float().softmax(dim=0).tolist())


def weighted(states: Sequence[Tensor], weights: Float[Tensor, " states"]) -> Float[Tensor, "batch frames dim"]:
    """Weighted sum of hidden states, in float32."""
    used = [(state, weight) for state, weight in zip(states, weights.tolist(), strict=True) if weight]
    if len(used) == 1 and used[0][1] == 1.0:
        return used[0][0].float()
    total = torch.zeros_like(states[0], dtype=torch.float32)
    for state, weight in used:
        total += state.float() * weight
    return total
