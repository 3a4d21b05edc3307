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

from speechssl.audio import RECEPTIVE_FIELD, SAMPLE_RATE, Levels
from speechssl.inference.tiles import normed_over_time
from speechssl.models.encoder import SpeechEncoder
from speechssl.nn.time_norm import FixedNorm, WindowMoments

Waveform = Float32[np.ndarray, " _"]  # mono samples at 16 kHz; a list of them may differ in length
CONTEXT_SECONDS = 2.0  # that a window has on either side of the frames that are kept of it
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
    blocks: Callable[[], Iterable[Waveform]]
    notes: tuple[str, ...] = ()

    def normalized(self, *, normalize: bool) -> Iterator[Waveform]:
        """Waveforms of zero mean and unit variance over the clip; as they are when `normalize` is False."""
        for block in self.blocks():
            yield ((block - self.mean) / self.deviation).astype(np.float32) if normalize else block


def scan(blocks: Callable[[], Iterable[Waveform]], path: str) -> LongClip:
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
    """A stretch of a clip to encode.

    Attributes:
        samples: of the stretch, as the model takes them.
        first: the first frame that is kept; those before it are context.
        last: the frame behind the last that is kept; None: all frames to the end are.
    """

    samples: Waveform
    first: int = 0
    last: int | None = None


def windows(blocks: Iterable[Waveform], num_frames: int, *, hop: int, context: int, step: int) -> Iterator[Window]:
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


def windows_of(clip: LongClip, encoder: SpeechEncoder, *, seconds: float, normalize: bool) -> Iterator[Window]:
    """Overlapping windows of a clip as an encoder takes them; each kept frame has two seconds of context, at least.

    Args:
        clip: read once, to the end.
        encoder: says how many frames samples give.
        seconds: of a window, with its context.
        normalize: to zero mean and unit variance over the clip.

    Raises:
        AudioError: the clip cannot be read.
    """
    hop = encoder.config.conv.hop
    context = round(CONTEXT_SECONDS * SAMPLE_RATE / hop)
    step = round(seconds * SAMPLE_RATE / hop) - 2 * context
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
