"""Span masking of frames and sampling of negatives for pretraining; masking of frames and channels for fine-tuning.

wav2vec 2.0 (Baevski et al. 2020, arXiv 2006.11477, section 3.1): a fraction of all frames is drawn without replacement
as span starts and the following ``length`` frames are masked; spans may overlap. The number of spans is fairseq's
``compute_mask_indices`` (static, overlap allowed, two spans at least, every row trimmed to the same number of masked
frames), so that the masked frames of a batch form a rectangular tensor.
"""

import numpy as np
from jaxtyping import Bool, Int
from pydantic import Field, PositiveInt

from speechssl.config import Config


class MaskConfig(Config):
    """Settings; ``probability`` is the masked fraction if spans did not overlap (paper: 0.065 starts x 10 frames)."""

    probability: float = 0.65
    length: int = 10  # frames
    min_spans: int = 2
    drop: bool = False  # the Transformer encodes unmasked frames only, and a decoder predicts (nn/decoder.py)

    def min_frames(self, group: int = 1) -> int:
        """Smallest number of frames that :func:`span_mask` accepts.

        >>> MaskConfig().min_frames(), MaskConfig().min_frames(2)
        (12, 14)
        """
        return self.length + group * self.min_spans

    def in_words(self) -> str:
        """The main settings, as text for users."""
        also = ", of which the Transformer encodes the unmasked ones only" if self.drop else ""
        return f"mask {self.probability} in spans of {self.length} frames{also}"


def span_mask(
    num_frames: Int[np.ndarray, " batch"], config: MaskConfig, *, rng: np.random.Generator, group: int = 1
) -> Bool[np.ndarray, "batch frames"]:
    """Draw a mask for a batch; every row has the same number of masked frames.

    Args:
        num_frames: frames of each utterance; frames beyond are not masked.
        config: probability, span length, smallest number of spans.
        rng: source of all randomness; the same state gives the same mask.
        group: frames that are masked together, from multiples of it on; ``config.length`` is a multiple of it. Frames
            after the last whole group are not masked.

    Raises:
        ValueError: an utterance is too short for ``min_spans`` different starts of a whole span, or a span is not a
            number of whole groups.

    Example:
        >>> mask = span_mask(np.array([99, 80]), MaskConfig(), rng=np.random.default_rng(0))
        >>> mask.shape, bool((mask.sum(1) == mask.sum(1)[0]).all()), bool(mask[1, 80:].any())
        ((2, 99), True, False)
    """
    if group > 1:
        if config.length % group:
            raise ValueError(f"spans of {config.length} frames cannot be masked in groups of {group}")
        spans_of_groups = config.model_copy(update={"length": config.length // group})
        groups = span_mask(num_frames // group, spans_of_groups, rng=rng)
        mask = np.zeros((len(num_frames), int(num_frames.max())), dtype=bool)
        mask[:, : groups.shape[1] * group] = groups.repeat(group, axis=1)
        return mask
    shortest = int(num_frames.min())
    if shortest < config.length + config.min_spans:
        raise ValueError(
            f"{shortest} frames are too few to mask {config.min_spans} spans of {config.length} frames; "
            f"at least {config.length + config.min_spans} frames are needed"
        )
    rounding = (
        rng.random()
    )  # one draw for the batch: the expected count is exact, rows of equal length get equal counts
    rows: list[np.ndarray] = []
    for frames in num_frames:
        spans = max(config.min_spans, int(config.probability * frames / config.length + rounding))
        # Spans are whole where there are enough starts; in a shorter utterance fairseq truncates the last ones.
        starts = rng.choice(max(frames - config.length, spans + 1), spans, replace=False)
        masked = np.unique(starts[:, None] + np.arange(config.length))
        rows.append(masked[masked < frames])
    count = min(len(row) for row in rows)
    mask = np.zeros((len(rows), int(num_frames.max())), dtype=bool)
    for row, indices in zip(mask, rows, strict=True):
        row[indices if len(indices) == count else rng.choice(indices, count, replace=False)] = True
    return mask


def sample_negatives(
    batch: int, masked: int, negatives: int, *, rng: np.random.Generator
) -> Int[np.ndarray, "batch masked negatives"]:
    """Draw negatives: indices of masked frames of the same utterance, uniform with replacement, without the positive.

    Args:
        batch: utterances.
        masked: masked frames in each.
        negatives: negatives per masked frame (paper: 100).
        rng: source of all randomness.

    Example:
        >>> drawn = sample_negatives(2, 5, 100, rng=np.random.default_rng(0))
        >>> bool((drawn == np.arange(5)[:, None]).any()), int(drawn.max())
        (False, 4)
    """
    if masked < 2:
        raise ValueError(f"{masked} masked frame leaves no negative; at least 2 are needed")
    drawn = rng.integers(0, masked - 1, size=(batch, masked, negatives))
    return drawn + (drawn >= np.arange(masked)[:, None])


class HideConfig(Config):
    """Masking of projected frames in fine-tuning: SpecAugment in the latent space.

    Park et al. 2019 (arXiv 1904.08779), as in wav2vec 2.0's fine-tuning (Baevski et al. 2020, section 4.2). The
    fractions are those masked if spans did not overlap; fairseq's configuration for ten minutes of labels masks .65 of
    the frames in spans of 10 and .25 of the 768 channels in spans of 64.
    """

    frames: float = Field(default=0.65, ge=0, le=1)
    frame_length: PositiveInt = 10
    channels: float = Field(default=0.25, ge=0, le=1)
    channel_length: float = Field(default=1 / 12, gt=0, le=1)  # of all channels: 64 of 768


def hide_spans(size: int, share: float, length: int, *, rng: np.random.Generator) -> Bool[np.ndarray, " size"]:
    """Spans of one row; an expected ``share`` of its ``size`` positions if they did not overlap.

    Unlike :func:`span_mask` there is no smallest number of spans: a row shorter than one span is not masked.

    >>> hidden = hide_spans(200, 0.5, 10, rng=np.random.default_rng(0))
    >>> 50 < int(hidden.sum()) <= 110, bool(hide_spans(9, 0.5, 10, rng=np.random.default_rng(0)).any())
    (True, False)
    """
    hidden = np.zeros(size, dtype=bool)
    starts = size - length + 1
    spans = int(share * size / length + rng.random())  # the draw makes the expected number exact
    if starts < 1 or spans < 1:
        return hidden
    chosen = rng.choice(starts, min(spans, starts), replace=False)
    hidden[(chosen[:, None] + np.arange(length)).ravel()] = True
    return hidden
