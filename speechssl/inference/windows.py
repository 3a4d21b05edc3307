"""Clips that are never completely in memory: their levels, and the windows to encode.

A long clip is decoded in blocks, several times: once to check it and to compute its mean and deviation, once more where
the encoder normalises its first convolution over the whole clip, and once for the windows. Decoding is hundreds of
times faster than encoding.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32
from torch import nn

from speechssl.audio import RECEPTIVE_FIELD, SAMPLE_RATE, Levels
from speechssl.inference.tiles import normed_over_time
from speechssl.models.encoder import SpeechEncoder
from speechssl.nn.time_norm import FixedNorm, WindowMoments

Waveform = Float32[np.ndarray, " _"]  # mono samples at 16 kHz; a list of them may differ in length
CONTEXT_SECONDS = 2.0  # on either side of the kept frames of a window
_PART = 160_000  # samples whose windows are in memory at once: 2.5 MB in BASE


@dataclass(frozen=True)
class LongClip:
    """A clip in blocks of mono samples at 16 kHz.

    Attributes:
        num_samples: of all blocks together.
        mean: over all samples.
        deviation: square root of their variance plus 1e-7, as in `audio.normalize`.
        blocks: reads the clip from its start, on each call.
        notes: doubts about its audio.
    """

    num_samples: int
    mean: float
    deviation: float
    blocks: Callable[[], Iterable[Waveform]]
    notes: tuple[str, ...] = ()

    def normalized(self, *, normalize: bool) -> Iterator[Waveform]:
        """Blocks with zero mean and unit variance over the clip; unchanged where `normalize` is False."""
        for block in self.blocks():
            yield ((block - self.mean) / self.deviation).astype(np.float32) if normalize else block


def scan(blocks: Callable[[], Iterable[Waveform]], path: str) -> LongClip:
    """Reads a clip once, to the end, for its checks, length and levels.

    Args:
        blocks: reads the clip from its start.
        path: named in errors.

    Raises:
        AudioError: the blocks cannot be read, or the clip fails a check of `audio.check_waveform`.

    >>> clip = scan(lambda: np.split(np.arange(4000, dtype=np.float32), 4), "a.wav")
    >>> clip.num_samples, clip.mean, round(clip.deviation, 3)
    (4000, 1999.5, 1154.701)
    """
    levels = Levels(blocks(), moments=True)
    notes = levels.check(path)
    return LongClip(levels.num_samples, levels.mean, levels.deviation, blocks, tuple(notes))


@dataclass(frozen=True)
class Window:
    """A stretch of a clip to encode.

    Attributes:
        samples: of the stretch, as the model needs them.
        first: the first frame to keep; those before it are context.
        last: the frame after the last one to keep; None: all to the end.
    """

    samples: Waveform
    first: int = 0
    last: int | None = None


def windows(blocks: Iterable[Waveform], num_frames: int, *, hop: int, context: int, step: int) -> Iterator[Window]:
    """Cuts a clip into overlapping windows, whose kept frames are those of the clip, each once and in order.

    Args:
        blocks: the clip's normalised samples in order.
        num_frames: of the clip.
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


def windows_of(clip: LongClip, encoder: SpeechEncoder, *, seconds: float, normalize: bool) -> Iterator[Window]:
    """Overlapping windows of a clip for an encoder; each kept frame has at least two seconds of context.

    Args:
        clip: read once, to the end.
        encoder: for which the windows are cut.
        seconds: of a window, with its context.
        normalize: to zero mean and unit variance over the clip.

    Raises:
        AudioError: the clip cannot be read.
    """
    hop = encoder.config.conv.hop
    group = encoder.config.squeeze_factor  # frames that are encoded together: a window begins with the first of them
    context = -(-round(CONTEXT_SECONDS * SAMPLE_RATE / hop) // group) * group
    step = (round(seconds * SAMPLE_RATE / hop) - 2 * context) // group * group
    frames = int(encoder.num_frames(torch.tensor(clip.num_samples)))
    return windows(clip.normalized(normalize=normalize), frames, hop=hop, context=context, step=step)


def equal_windows(clip: LongClip, *, seconds: float, normalize: bool) -> Iterator[Window]:
    """A clip in as few windows of equal length as are no longer than `seconds`, without context.

    Args:
        clip: read once, to the end.
        seconds: of a window, at most.
        normalize: to zero mean and unit variance over the clip.

    Raises:
        AudioError: the clip cannot be read.
    """
    count = -(-clip.num_samples // round(seconds * SAMPLE_RATE))
    blocks = clip.normalized(normalize=normalize)
    return (Window(piece) for piece in equal_pieces(blocks, clip.num_samples, count=count))


def equal_pieces(blocks: Iterable[Waveform], num_samples: int, *, count: int) -> Iterator[Waveform]:
    """The samples of all blocks in pieces of equal length, as `numpy.array_split` cuts them.

    >>> [len(piece) for piece in equal_pieces([np.zeros(4, np.float32), np.zeros(4, np.float32)], 8, count=3)]
    [3, 3, 2]
    """
    source, held = iter(blocks), np.zeros(0, dtype=np.float32)
    for number in range(count):
        size = num_samples // count + (number < num_samples % count)
        parts, length = [held], len(held)
        while length < size and (block := next(source, None)) is not None:
            parts.append(block)
            length += len(block)
        held = np.concatenate(parts)
        yield np.ascontiguousarray(held[:size], dtype=np.float32)
        held = held[size:]


def norm_of_the_whole(encoder: SpeechEncoder, clip: LongClip) -> FixedNorm | None:
    """The norm of a group-norm encoder's first convolution over the whole clip, to be applied to its windows.

    None for any other encoder. The whole clip is read once, in blocks.
    """
    layer = normed_over_time(encoder)
    return None if layer is None else _moments(layer.conv, clip, encoder).norm(layer.conv, layer.norm)


@torch.inference_mode()
def _moments(conv: nn.Conv1d, clip: LongClip, encoder: SpeechEncoder) -> WindowMoments:
    """Moments over all windows of the first convolution in the clip."""
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
