"""Outputs of a fine-tuned model for clips: class probabilities, or symbol probabilities of each frame.

Clips are waveforms in memory or are read in blocks, of any length. One above HEAD_WINDOW_SECONDS is cut: a classifier
gives the mean over equal windows, a recogniser the frames of overlapping ones.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float32

from speechssl.audio import SAMPLE_RATE
from speechssl.inference.batches import Batch, Batching, batch_seconds_of, pad, passes
from speechssl.inference.windows import LongClip, Waveform, equal_windows, windows_of
from speechssl.models.classifier import Classifier, LogMelClassifier
from speechssl.models.ctc import CTCModel
from speechssl.models.heads import Head, encoder_of

HEAD_WINDOW_SECONDS = 30.0
MAX_BYTES = 1 << 30  # of emissions of one clip: 50 hours with 30 symbols


class TooLongError(ValueError):
    """A clip whose emissions would not fit into `MAX_BYTES`; `str()` is the reason."""


def classify(
    model: Classifier | LogMelClassifier, clips: Sequence[Waveform | LongClip]
) -> Float32[np.ndarray, "clips classes"]:
    """Probabilities of the classes, one row per clip.

    Args:
        model: in evaluation mode.
        clips: mono at 16 kHz in [-1, 1], checked.

    Raises:
        AudioError: a clip that is read in blocks cannot be read.
    """

    def forward(batch: Batch) -> Float32[np.ndarray, "rows classes"]:
        padded, num_samples = pad([row.samples for row in batch.rows])
        return model(padded.to(device), num_samples.to(device)).float().softmax(dim=-1).cpu().numpy()

    device = next(model.parameters()).device
    return _mean_over_windows(model, clips, forward, width=len(model.classes))


def pooled_vectors(model: Classifier, clips: Sequence[Waveform | LongClip]) -> Float32[np.ndarray, "clips features"]:
    """Pooled vectors before standardisation, one row per clip; the mean over windows of a long clip.

    Raises:
        AudioError: a clip that is read in blocks cannot be read.
    """

    def forward(batch: Batch) -> Float32[np.ndarray, "rows features"]:
        padded, num_samples = pad([row.samples for row in batch.rows])
        return model.pooled(padded.to(device), num_samples.to(device)).float().cpu().numpy()

    device = next(model.parameters()).device
    return _mean_over_windows(model, clips, forward, width=len(model.centre))


def _mean_over_windows(
    model: Classifier | LogMelClassifier,
    clips: Sequence[Waveform | LongClip],
    forward: Callable[[Batch], Float32[np.ndarray, "rows width"]],
    *,
    width: int,
) -> Float32[np.ndarray, "clips width"]:
    total = np.zeros((len(clips), width), dtype=np.float32)
    windows = np.zeros((len(clips), 1), dtype=np.float32)
    batching = batching_of(model)
    batches = batching.batches(
        clips, lambda clip: equal_windows(clip, seconds=HEAD_WINDOW_SECONDS, normalize=model.normalized)
    )
    with torch.inference_mode():
        for batch, rows in passes(batches, forward):
            for place, row in zip(batch.clips, rows, strict=True):
                total[place] += row
                windows[place] += 1
    return total / windows


def emissions(model: CTCModel, clips: Sequence[Waveform | LongClip]) -> list[Float32[np.ndarray, "frames symbols"]]:
    """Natural logarithms of symbol probabilities, one array of frames per clip.

    Args:
        model: in evaluation mode.
        clips: mono at 16 kHz in [-1, 1], checked.

    Raises:
        AudioError: a clip that is read in blocks cannot be read.
        TooLongError: the emissions of a clip would not fit into `MAX_BYTES`.
    """
    reasons = [reason for clip in clips if (reason := too_long(model, clip))]
    if reasons:
        raise TooLongError(reasons[0])
    found = [np.empty((_frames(model, clip), len(model.vocabulary)), dtype=np.float32) for clip in clips]
    filled = [0] * len(clips)

    def forward(batch: Batch) -> Float32[np.ndarray, "rows frames symbols"]:
        padded, num_samples = pad([row.samples for row in batch.rows])
        return model(padded.to(device), num_samples.to(device)).log_probs.cpu().numpy()

    device, batching = next(model.parameters()).device, batching_of(model)
    encoder, normalized = model.trunk.encoder, model.normalized
    batches = batching.batches(
        clips, lambda clip: windows_of(clip, encoder, seconds=HEAD_WINDOW_SECONDS, normalize=normalized)
    )
    with torch.inference_mode():
        for batch, rows in passes(batches, forward):
            for place, window, row in zip(batch.clips, batch.rows, rows, strict=True):
                left = len(found[place]) - filled[place]
                kept = row[window.first : window.last][:left]  # frames after the end of a shorter row are padding
                found[place][filled[place] : filled[place] + len(kept)] = kept
                filled[place] += len(kept)
    return found


def too_long(model: CTCModel, clip: Waveform | LongClip) -> str:
    """The reason why the emissions of a clip do not fit into memory; empty where they do."""
    frames, symbols = _frames(model, clip), len(model.vocabulary)
    if frames * symbols * 4 <= MAX_BYTES:
        return ""
    hours = _num_samples(clip) / SAMPLE_RATE / 3600
    return (
        f"too long to write down at once: {hours:.1f} h with {symbols} symbols take "
        f"{frames * symbols * 4 / 2**30:.1f} GiB, at most {MAX_BYTES / 2**30:.1f}; cut the recording"
    )


def batching_of(model: Head) -> Batching:
    """Batches for a fine-tuned model: padded, except for group-norm encoders, whose result depends on padding."""
    encoder = encoder_of(model)
    return Batching(
        seconds=batch_seconds_of(next(model.parameters()).device),
        window_seconds=HEAD_WINDOW_SECONDS,
        normalize=model.normalized,
        equal=encoder is not None and encoder.config.conv.norm == "group",
    )


def _frames(model: CTCModel, clip: Waveform | LongClip) -> int:
    return int(model.trunk.encoder.num_frames(torch.tensor(_num_samples(clip))))


def _num_samples(clip: Waveform | LongClip) -> int:
    return clip.num_samples if isinstance(clip, LongClip) else len(clip)
