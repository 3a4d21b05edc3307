"""Clips that are never whole in memory: what must be known of the whole before, and the windows to encode.

A long clip is decoded in blocks, several times over: once to see that it can be used and to learn its mean and
deviation, once more where the encoder normalises its first convolution over the whole clip, and once for the windows.
Decoding is hundreds of times faster than encoding.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32
from torch import nn

from speechssl.audio import RECEPTIVE_FIELD, Levels
from speechssl.inference.tiles import normed_over_time
from speechssl.models.encoder import SpeechEncoder
from speechssl.nn.time_norm import FixedNorm, WindowMoments

Block = Float32[np.ndarray, " _"]
_PART = 160_000  # samples whose windows are held at once: 2.5 MB in BASE


@dataclass(frozen=True)
class LongClip:
    """A clip in blocks of mono samples at 16 kHz.

    Attributes:
        num_samples: of all blocks together.
        mean: over all samples.
        deviation: the square root of their variance and 1e-7, as `audio.normalize` has it.
        blocks: reads the clip from its start, each time it is called.
        notes: what is doubtful about it.
    """

    num_samples: int
    mean: float
    deviation: float
    blocks: Callable[[], Iterable[Block]]
    notes: tuple[str, ...] = ()

    def normalized(self, *, normalize: bool) -> Iterator[Block]:
        """Blocks of zero mean and unit variance over the clip; as they are when `normalize` is False."""
        for block in self.blocks():
            yield ((block - self.mean) / self.deviation).astype(np.float32) if normalize else block


def scan(blocks: Callable[[], Iterable[Block]], path: str) -> LongClip:
    """Read a clip once, to the end, and learn what encoding must know before it begins.

    Args:
        blocks: reads the clip from its start.
        path: named in errors.

    Raises:
        AudioError: what the blocks raise, and what `audio.check_waveform` raises.

    >>> clip = scan(lambda: np.split(np.arange(4000, dtype=np.float32), 4), "a.wav")
    >>> clip.num_samples, clip.mean, round(clip.deviation, 3)
    (4000, 1999.5, 1154.701)
    """
    levels = Levels(blocks(), moments=True)
    notes = levels.check(path)
    return LongClip(levels.num_samples, levels.mean, levels.deviation, blocks, tuple(notes))


@dataclass(frozen=True)
class Window:
    """A stretch of a clip to encode: its frames first … last-1 are kept, those around them are context."""

    samples: Block
    first: int
    last: int


def windows(blocks: Iterable[Block], num_frames: int, *, hop: int, context: int, step: int) -> Iterator[Window]:
    """Cut a clip into overlapping windows; the kept frames of all are the clip's, each once and in order.

    Args:
        blocks: the clip's normalised samples in order.
        num_frames: that the clip gives.
        hop: samples from one frame to the next.
        context: frames on either side of the kept ones, where the clip has them.
        step: frames kept of a window.

    >>> cut = windows([np.zeros(16000, dtype=np.float32)] * 2, 99, hop=320, context=10, step=40)
    >>> [(len(window.samples), window.first, window.last) for window in cut]
    [(16080, 0, 40), (19280, 10, 50), (9600, 10, 29)]
    """
    source = iter(blocks)
    held, held_from = np.zeros(0, dtype=np.float32), 0  # samples of the clip, and where they start in it
    for first in range(0, num_frames, step):
        last = min(first + step, num_frames)
        start, stop = max(0, first - context), min(num_frames, last + context)
        end = math.inf if stop == num_frames else (stop - 1) * hop + RECEPTIVE_FIELD
        parts, length = [held[start * hop - held_from :]], held_from + len(held)
        while length < end and (block := next(source, None)) is not None:
            parts.append(block)
            length += len(block)
        held, held_from = np.concatenate(parts), start * hop
        stretch = held if math.isinf(end) else held[: int(end) - held_from]
        yield Window(np.ascontiguousarray(stretch, dtype=np.float32), first - start, last - start)


def norm_of_the_whole(encoder: SpeechEncoder, clip: LongClip) -> FixedNorm | None:
    """What a group-norm encoder does to the channels of the whole clip, and so to those of its windows.

    None where there is no such norm. The whole clip is read once for it, in blocks.
    """
    layer = normed_over_time(encoder)
    return None if layer is None else _moments(layer.conv, clip, encoder).norm(layer.conv, layer.norm)


@torch.inference_mode()
def _moments(conv: nn.Conv1d, clip: LongClip, encoder: SpeechEncoder) -> WindowMoments:
    """Of the windows that the first convolution sees of the whole clip."""
    device, padding = conv.weight.device, encoder.features.config.padding
    (kernel,), (stride,) = conv.kernel_size, conv.stride
    total: WindowMoments | None = None
    held = silence = torch.zeros(padding, device=device)
    normalized = clip.normalized(normalize=encoder.config.normalize)
    parts = (block[at : at + _PART] for block in normalized for at in range(0, len(block), _PART))
    for part in itertools.chain(parts, [None]):
        new = silence if part is None else torch.from_numpy(np.ascontiguousarray(part)).to(device)
        held = torch.cat([held, new])
        windows = (len(held) - kernel) // stride + 1
        if windows > 0:
            found = WindowMoments.of(held, conv)
            total = found if total is None else total.merged(found)
            held = held[windows * stride :]
    assert total is not None
    return total
