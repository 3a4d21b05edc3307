"""Layer and pooling that serve a model best: the table `embedding` of its `config.json`.

    "embedding": {"layer": "mean", "pooling": "mean+std", "chosen_on": {…}}

`experiments.choose_embedding` writes it, from data on which no result of the model is reported. It applies wherever the
user names no layer or no pooling; a model without it gives the mean of its last layer.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from speechssl.config import UserError, brief_value
from speechssl.inference.layers import Layer, layer_weights, learned_mix
from speechssl.inference.pooling import POOLINGS, Pooling
from speechssl.models.storage import EMBEDDING, read_encoder_config, read_model_config


@dataclass(frozen=True)
class Choice:
    """A layer and a pooling.

    >>> Choice().or_given(layer=2, pooling=None)
    Choice(layer=2, pooling='mean')
    """

    layer: Layer = -1
    pooling: Pooling = "mean"

    def or_given(self, *, layer: Layer | None, pooling: Pooling | None) -> "Choice":
        """This choice, with what the user names in its place."""
        given = {} if layer is None else {"layer": layer}
        return replace(self, **given, **({} if pooling is None else {"pooling": pooling}))


DEFAULT = Choice()
"""Mean of the last layer: of models that say nothing."""


def read_choice(folder: Path | None) -> Choice:
    """Layer and pooling of a model folder; the default where its config says nothing, or there is no folder.

    Raises:
        UserError: not a model folder, or a table `embedding` with another layer or pooling than the model can give.
    """
    if folder is None:
        return DEFAULT
    table = read_model_config(folder).get(EMBEDDING)
    if table is None:
        return DEFAULT
    where = f"{folder / 'config.json'}: {EMBEDDING}"
    layer, pooling = table.get("layer", DEFAULT.layer), table.get("pooling", DEFAULT.pooling)
    if pooling not in POOLINGS:
        raise UserError(f"{where}.pooling must be one of {', '.join(POOLINGS)}, is {brief_value(pooling)}")
    if isinstance(layer, bool) or not isinstance(layer, int | str):
        raise UserError(f"{where}.layer must be a number, mean or mix, is {brief_value(layer)}")
    try:
        blocks = read_encoder_config(folder).transformer.layers
        layer_weights(cast("Layer", layer), blocks=blocks, mix=learned_mix(folder))
    except UserError as error:
        raise UserError(f"{where}.layer: {error}") from None
    return Choice(cast("Layer", layer), pooling)
