"""What a fine-tuned model gives for a clip that is never whole in memory.

The windows are those that :mod:`speechssl.models.heads` cuts of a waveform in memory: the numbers are the same.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from jaxtyping import Float32

from speechssl.audio import SAMPLE_RATE
from speechssl.inference.windows import Block, LongClip, windows
from speechssl.models import heads
from speechssl.models.classifier import Classifier, LogMelClassifier
from speechssl.models.ctc import CTCModel

MAX_BYTES = 1 << 30  # of emissions of one clip: 50 hours with 30 symbols


class TooLongError(ValueError):
    """A clip whose emissions would not fit into `MAX_BYTES`; `str()` is the reason."""


def classify_long(model: Classifier | LogMelClassifier, clip: LongClip) -> Float32[np.ndarray, " classes"]:
    """Probabilities of the classes: the mean over equal windows, as :func:`heads.classify` has it."""
    count = -(-clip.num_samples // round(heads.WINDOW_SECONDS * SAMPLE_RATE))
    total = np.zeros(len(model.classes), dtype=np.float32)
    for piece in equal_pieces(clip.normalized(normalize=model.normalized), clip.num_samples, count=count):
        total += heads.class_probabilities(model, [piece])[0]
    return total / np.float32(count)


def emissions_long(model: CTCModel, clip: LongClip) -> Float32[np.ndarray, "frames symbols"]:
    """Natural logarithms of symbol probabilities, from overlapping windows, as :func:`heads.emissions` has it.

    Raises:
        TooLongError: more frames than can be held with this number of symbols.
    """
    encoder, symbols = model.trunk.encoder, len(model.vocabulary)
    frames = int(encoder.num_frames(torch.tensor(clip.num_samples)))
    if frames * symbols * 4 > MAX_BYTES:
        hours = clip.num_samples / SAMPLE_RATE / 3600
        raise TooLongError(
            f"too long to write down at once: {hours:.1f} h with {symbols} symbols take "
            f"{frames * symbols * 4 / 2**30:.1f} GiB, at most {MAX_BYTES / 2**30:.1f}; cut the recording"
        )
    hop = encoder.config.conv.hop
    context, step = heads.window_frames(hop)
    found = np.empty((frames, symbols), dtype=np.float32)
    done = 0
    blocks = clip.normalized(normalize=model.normalized)
    for window in windows(blocks, frames, hop=hop, context=context, step=step):
        rows = heads.symbol_log_probs(model, [window.samples])[0, window.first : window.last]
        found[done : done + len(rows)] = rows
        done += len(rows)
    return found


def equal_pieces(blocks: Iterable[Block], num_samples: int, *, count: int) -> Iterator[Block]:
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
