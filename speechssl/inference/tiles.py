"""One clip through the convolutions, in tiles of frames.

The activations between two convolutions are the largest of an encoder: 6.5 MB per second of audio after BASE's first.
On a CPU a clip goes through all convolutions in tiles of little more than a second, which stay in the caches: ten
seconds took 156 to 186 ms in fp32 where one pass took 349, and 68 ms instead of 79 in bf16 (two cores of an AMD EPYC,
best of five). The frames equal those of one pass (nearly in int8, where each tile has its own scale). Tiles have few
lengths: oneDNN compiles a kernel for each length, in 5 ms, and keeps a thousand of them, in 300 MB.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from speechssl.models.encoder import SpeechEncoder
from speechssl.nn.conv import ConvLayer, GaborLayer, pre_emphasis
from speechssl.nn.cpu.packed import FoldedConvLayer
from speechssl.nn.time_norm import FixedNorm, TimeNorm, WindowMoments

TILE_FRAMES = 64  # the fastest of 16, 32, 64, 128, 256 in fp32 and bf16 together
_STEP = 8  # frames; lengths of tiles are multiples of it

Samples = Float[Tensor, " _"]
_Layer = Callable[[Float[Tensor, "1 time 1"]], Float[Tensor, "1 frames channels"]]


@torch.inference_mode()
def projected(encoder: SpeechEncoder, samples: Samples, norm: FixedNorm | None) -> Float[Tensor, "frames dim"]:
    """The Transformer's input for one clip.

    Args:
        encoder: in evaluation mode.
        samples: of a clip, normalised where the encoder needs it; at least one frame.
        norm: of the first convolution over time, for a window of a longer clip; None: computed from these samples.
    """
    conv, total = encoder.features.config, int(encoder.num_frames(torch.tensor(len(samples))))
    padded = F.pad(samples, (conv.padding, conv.padding))
    layers: list[_Layer] = list(encoder.features.layers)
    timed = normed_over_time(encoder)
    # What depends on the whole clip is computed before it is cut.
    if isinstance(layers[0], GaborLayer):
        padded, layers[0] = pre_emphasis(padded[None, :, None])[0, :, 0], layers[0].powers
    elif timed is not None:
        known = WindowMoments.of(padded, timed.conv).norm(timed.conv, timed.norm) if norm is None else norm
        layers[0] = lambda x: timed.normed(x, known)
    longest, step = (TILE_FRAMES, _STEP) if padded.device.type == "cpu" else (total, 1)  # on a GPU one tile
    found: list[Float[Tensor, "frames dim"]] = []
    for start in range(0, total, longest):
        frames = min(longest, total - start)
        length = (-(-frames // step) * step - 1) * conv.hop + conv.receptive_field
        tile = padded[start * conv.hop :][:length]
        x = F.pad(tile, (0, length - len(tile)))[None, :, None]
        for layer in layers:
            x = layer(x)
        found.append(encoder.project(encoder.feature_norm(x))[0, :frames])
    return torch.cat(found)


@dataclass(frozen=True)
class TimeNormed:
    """A first layer with a norm over time; `normed` applies the layer with a given norm."""

    conv: nn.Conv1d
    norm: TimeNorm
    normed: Callable[[Tensor, FixedNorm], Tensor]


def normed_over_time(encoder: SpeechEncoder) -> TimeNormed | None:
    """The first layer of a group-norm encoder; None for any other encoder."""
    layer = encoder.features.layers[0]
    if isinstance(layer, ConvLayer | FoldedConvLayer) and isinstance(layer.norm, TimeNorm):
        return TimeNormed(layer.conv, layer.norm, layer.normed)
    return None
