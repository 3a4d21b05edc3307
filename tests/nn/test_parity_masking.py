"""Span masking against fairseq's rules written out slowly, against transformers, and by its statistics."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices

from speechssl.nn.masking import MaskConfig, sample_negatives, span_mask


def mask_slowly(lengths: list[int], config: MaskConfig, rng: np.random.Generator) -> np.ndarray:
    """What fairseq's ``compute_mask_indices`` does (static lengths, overlap allowed), one frame at a time.

    It draws in the same order as ours, so that masks and not only their statistics can be compared.
    """
    rounding = rng.random()
    rows = []
    for length in lengths:
        spans = int(config.probability * length / config.length + rounding)
        if spans < config.min_spans:
            spans = config.min_spans
        reserved = config.length
        if length - reserved <= spans:
            reserved = length - spans - 1
        masked = set()
        for start in rng.choice(length - reserved, spans, replace=False):
            for offset in range(config.length):
                if start + offset < length:
                    masked.add(int(start) + offset)
        rows.append(sorted(masked))
    fewest = min(len(row) for row in rows)
    mask = np.zeros((len(lengths), max(lengths)), dtype=bool)
    for index, row in enumerate(rows):
        kept = row if len(row) == fewest else rng.choice(row, fewest, replace=False)
        for frame in kept:
            mask[index, frame] = True
    return mask


@given(
    lengths=st.lists(st.integers(14, 300), min_size=1, max_size=5),
    probability=st.floats(0.05, 0.9),
    length=st.integers(1, 12),
    min_spans=st.integers(1, 2),
    seed=st.integers(0, 2**32 - 1),
)
def test_equals_the_slow_reference(
    lengths: list[int], probability: float, length: int, min_spans: int, seed: int
) -> None:
    config = MaskConfig(probability=probability, length=length, min_spans=min_spans)
    ours = span_mask(np.array(lengths), config, rng=np.random.default_rng(seed))
    slow = mask_slowly(lengths, config, np.random.default_rng(seed))
    np.testing.assert_array_equal(ours, slow)
    counts = ours.sum(axis=1)
    assert (counts == counts[0]).all()
    assert counts[0] >= length
    for row, frames in zip(ours, lengths, strict=True):
        assert not row[frames:].any()


def span_lengths(mask: np.ndarray) -> np.ndarray:
    edges = np.diff(np.pad(mask.astype(int), ((0, 0), (1, 1))), axis=1)
    return np.argwhere(edges == -1)[:, 1] - np.argwhere(edges == 1)[:, 1]


def test_paper_statistics() -> None:
    """Paper, appendix A.2: about 49 % of frames in spans of 14.7 frames (299 ms) on average, median 10, for 15 s."""
    mask = span_mask(np.full(400, 749), MaskConfig(), rng=np.random.default_rng(0))
    lengths = span_lengths(mask)
    # Rows are trimmed to the shortest of the batch, which breaks spans: one row at a time they are whole.
    rng = np.random.default_rng(1)
    single = np.concatenate([span_mask(np.array([749]), MaskConfig(), rng=rng) for _ in range(400)])
    whole = span_lengths(single)
    assert single.mean() == pytest.approx(0.49, abs=0.005)
    assert whole.mean() == pytest.approx(14.7, abs=0.3)
    assert np.median(whole) == 10
    assert mask.mean() < single.mean()
    assert lengths.mean() < whole.mean()


def test_same_statistics_as_transformers() -> None:
    rng = np.random.default_rng(0)
    ours = np.concatenate([span_mask(np.array([499]), MaskConfig(), rng=rng) for _ in range(500)])
    np.random.seed(0)  # noqa: NPY002 (theirs draws from it)
    theirs = np.concatenate([_compute_mask_indices((1, 499), 0.65, 10, min_masks=2) for _ in range(500)])
    assert ours.mean() == pytest.approx(theirs.mean(), abs=0.004)
    assert span_lengths(ours).mean() == pytest.approx(span_lengths(theirs).mean(), abs=0.3)
    # Every frame away from the ends is equally likely.
    np.testing.assert_allclose(ours[:, 20:-20].mean(axis=0), theirs[:, 20:-20].mean(axis=0), atol=0.15)
    assert ours[:, 20:-20].mean(axis=0).std() < 0.03


def test_too_short() -> None:
    with pytest.raises(ValueError, match="11 frames are too few to mask 2 spans of 10 frames; at least 12"):
        span_mask(np.array([50, 11]), MaskConfig(), rng=np.random.default_rng(0))
    assert span_mask(np.array([12]), MaskConfig(), rng=np.random.default_rng(0)).sum() >= 11


def test_negatives_are_uniform_over_the_others() -> None:
    drawn = sample_negatives(2, 6, 30_000, rng=np.random.default_rng(0))
    for row in range(2):
        for frame in range(6):
            counts = np.bincount(drawn[row, frame], minlength=6)
            assert counts[frame] == 0
            np.testing.assert_allclose(np.delete(counts, frame) / 30_000, 0.2, atol=0.012)
    with pytest.raises(ValueError, match="1 masked frame leaves no negative"):
        sample_negatives(1, 1, 10, rng=np.random.default_rng(0))
