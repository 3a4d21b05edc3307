"""Published architectures, recognised by tensor shapes where a file has no settings.

Strides, the number of heads, the order of the norms and whether waveforms are normalised do not show in the shapes of
tensors. A file of tensors alone is therefore read only if its shapes are exactly those of one of these.
"""

from collections.abc import Mapping, Sequence

from speechssl.models.encoder import EncoderConfig
from speechssl.models.shapes import Shapes, encoder_shapes
from speechssl.models.storage import PREFIX
from speechssl.nn.conv import PAPER_LAYERS, ConvConfig
from speechssl.nn.transformer import TransformerConfig

_GROUP = ConvConfig(layers=PAPER_LAYERS, norm="group", bias=False)
_LAYER = ConvConfig(layers=PAPER_LAYERS, norm="layer", bias=True)
_PLAIN = ConvConfig(layers=PAPER_LAYERS, norm="layer", bias=False)


def _pre_norm(dim: int, layers: int, *, conv: ConvConfig = _LAYER, buckets: int = 0) -> EncoderConfig:
    shape = TransformerConfig(dim=dim, layers=layers, heads=16, feedforward=4 * dim, pre_norm=True, layer_drop=0.0)
    transformer = shape.model_copy(update={"relative_buckets": buckets})
    return EncoderConfig(conv=conv, transformer=transformer, normalize=True)


_LARGE = TransformerConfig(dim=1024, layers=24, heads=16, feedforward=4096)
_STACKED = TransformerConfig(position_stack=5, position_kernel=19)
PUBLISHED: tuple[EncoderConfig, ...] = (
    # wav2vec 2.0 and HuBERT BASE; wav2vec 2.0 LARGE on LibriSpeech (fairseq examples/wav2vec)
    EncoderConfig(conv=_GROUP, transformer=TransformerConfig(), normalize=False),
    EncoderConfig(conv=_GROUP, transformer=_LARGE, normalize=False),
    # wav2vec 2.0 LARGE on LibriVox, XLSR-53, XLS-R 300 M and MMS; XLS-R 1 B and 2 B (fairseq examples/wav2vec, mms)
    _pre_norm(1024, 24),
    _pre_norm(1280, 48),
    _pre_norm(1920, 48),
    # HuBERT LARGE and X-LARGE, convolutions without biases (fairseq examples/hubert)
    _pre_norm(1024, 24, conv=_PLAIN),
    _pre_norm(1280, 48, conv=_PLAIN),
    # WavLM BASE and LARGE (unilm/wavlm)
    EncoderConfig(conv=_GROUP, transformer=TransformerConfig(relative_buckets=320), normalize=False),
    _pre_norm(1024, 24, conv=_PLAIN, buckets=320),
    # data2vec BASE (fairseq examples/data2vec)
    EncoderConfig(conv=_PLAIN, transformer=_STACKED, normalize=True),
)


def _unfused(shapes: Shapes) -> Shapes:
    """Shapes with queries, keys and values as three layers, as after :func:`speechssl.interop.naming.split_qkv`."""
    found: Shapes = {}
    for name, shape in shapes.items():
        if ".attention.qkv." in name:
            found |= {name.replace(".qkv.", f".{part}."): (shape[0] // 3, *shape[1:]) for part in "qkv"}
        else:
            found[name] = shape
    return found


def recognised(shapes: Mapping[str, Sequence[int]]) -> EncoderConfig | None:
    """The published encoder that has exactly these tensors, by our names (q, k, v unfused); other tensors are ignored.

    >>> recognised({"encoder.projection.weight": (32, 16)}) is None
    True
    """
    given = {name: tuple(shape) for name, shape in shapes.items() if name.startswith(PREFIX)}
    for config in PUBLISHED:
        if given.get("encoder.projection.weight") != (config.dim, config.conv.dim):
            continue
        if {PREFIX + name: shape for name, shape in _unfused(encoder_shapes(config)).items()} == given:
            return config
    return None
