"""Names and shapes of an encoder's tensors computed from its settings, to compare with a file.

Settings in a file may describe an encoder of any size. They are compared with the file's tensors before an encoder is
allocated.
"""

import math
from collections.abc import Mapping, Sequence

from speechssl.models.encoder import EncoderConfig
from speechssl.nn.conv import ConvConfig
from speechssl.nn.transformer import TransformerConfig

_MARGIN = 4  # allowed ratio of described to stored elements, so that a later error can name missing tensors
_SMALL = 1 << 24, 1000  # numbers of elements and tensors that are always allowed

Shapes = dict[str, tuple[int, ...]]


def encoder_shapes(config: EncoderConfig) -> Shapes:
    """The shape of each tensor in the state dict of a :class:`~speechssl.models.encoder.SpeechEncoder`.

    >>> from speechssl.models.encoder import PRESETS
    >>> sum(math.prod(shape) for shape in encoder_shapes(PRESETS["base"]).values())  # 94.4 M
    94370944
    """
    shapes = {f"features.layers.{name}": shape for name, shape in _conv_shapes(config.conv).items()}
    if config.feature_norm:
        shapes |= _norm("feature_norm", config.conv.dim)
    shapes |= _linear("projection", config.conv.dim, config.dim)
    if config.squeeze_factor > 1:
        shapes |= _linear("squeeze.merge", config.squeeze_factor * config.dim, config.dim)
    return shapes | {f"transformer.{name}": shape for name, shape in _transformer_shapes(config.transformer).items()}


def check_size(config: EncoderConfig, shapes: Mapping[str, Sequence[int]]) -> None:
    """Compare settings with the tensors of their file, before an encoder is built.

    Args:
        config: the settings.
        shapes: shapes of all tensors of the file, with any names.

    Raises:
        ValueError: the settings describe an encoder several times larger than the file.
    """
    tensors = config.transformer.layers + config.transformer.position_stack + len(config.conv.layers)
    numbers = sum(math.prod(shape) for shape in shapes.values())
    if tensors > _MARGIN * len(shapes) + _SMALL[1]:
        raise ValueError(f"describe an encoder of {tensors} layers, and the file holds {len(shapes)} tensors")
    wanted = sum(math.prod(shape) for shape in encoder_shapes(config).values())
    if wanted > _MARGIN * numbers + _SMALL[0]:
        raise ValueError(f"describe an encoder of {wanted} numbers, and the file holds {numbers}")


def _conv_shapes(config: ConvConfig) -> Shapes:
    shapes: Shapes = {}
    inputs = 1
    for number, (channels, kernel, _) in enumerate(config.layers):
        gabor = number == 0 and config.front == "gabor"
        shapes[f"{number}.conv.weight"] = (2 * channels if gabor else channels, inputs, kernel)
        if config.bias and not gabor:
            shapes[f"{number}.conv.bias"] = (channels,)
        if config.norm == "layer" or number == 0:
            shapes |= _norm(f"{number}.norm", channels)
        inputs = channels
    return shapes


def _transformer_shapes(config: TransformerConfig) -> Shapes:
    dim, kernel = config.dim, (config.dim, config.dim // config.position_groups, config.position_kernel)
    shapes: Shapes = _norm("norm", dim)
    if config.position_stack:
        for number in range(config.position_stack):
            shapes |= {f"positions.layers.{number}.weight": kernel, f"positions.layers.{number}.bias": (dim,)}
    else:
        weight = "positions.conv.parametrizations.weight.original"
        shapes |= {"positions.conv.bias": (dim,), f"{weight}0": (1, 1, kernel[2]), f"{weight}1": kernel}
    if config.relative_buckets:
        shapes["relative.biases"] = (config.relative_buckets, config.heads)
    layer = _layer_shapes(config)
    for number in range(config.layers):
        shapes |= {f"layers.{number}.{name}": shape for name, shape in layer.items()}
    return shapes


def _layer_shapes(config: TransformerConfig) -> Shapes:
    dim = config.dim
    if config.block != "attention":
        gates = {"gru": 3, "lstm": 4}[config.block] * dim
        weights = {f"recurrent.weight_{each}_l0": (gates, dim) for each in ("ih", "hh")}
        return weights | {f"recurrent.bias_{each}_l0": (gates,) for each in ("ih", "hh")} | _norm("norm", dim)
    shapes = _linear("attention.qkv", dim, 3 * dim) | _linear("attention.out", dim, dim)
    if config.relative_buckets:
        shapes |= _linear("attention.gate.scores", dim // config.heads, 8)
        shapes["attention.gate.scale"] = (1, config.heads, 1, 1)
    shapes |= _norm("attention_norm", dim) | _norm("output_norm", dim)
    return shapes | _linear("expand", dim, config.feedforward) | _linear("contract", config.feedforward, dim)


def _linear(name: str, inputs: int, outputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _norm(name: str, dim: int) -> Shapes:
    return {f"{name}.weight": (dim,), f"{name}.bias": (dim,)}
