"""What holds for every mask and every draw of distractors, whatever the lengths."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechssl.nn.masking import MaskConfig, hide_spans, sample_negatives, span_mask


@given(
    lengths=st.lists(st.integers(12, 120), min_size=1, max_size=6),
    probability=st.floats(0.05, 3.0),
    length=st.integers(1, 10),
    seed=st.integers(0, 1000),
)
def test_every_mask(lengths: list[int], probability: float, length: int, seed: int) -> None:
    config = MaskConfig(probability=probability, length=length)
    mask = span_mask(np.array(lengths), config, rng=np.random.default_rng(seed))
    assert mask.shape == (len(lengths), max(lengths))
    assert len(set(mask.sum(axis=1).tolist())) == 1  # a rectangle of masked frames
    assert mask.sum(axis=1).min() > length - 1
    for row, frames in zip(mask, lengths, strict=True):
        assert not row[frames:].any()
    again = span_mask(np.array(lengths), config, rng=np.random.default_rng(seed))
    assert np.array_equal(mask, again)


@given(frames=st.integers(40, 150), seed=st.integers(0, 1000))
def test_masked_frames_come_in_spans(frames: int, seed: int) -> None:
    """In one utterance nothing is trimmed: every run of masked frames is at least a span long."""
    row = span_mask(np.array([frames]), MaskConfig(), rng=np.random.default_rng(seed))[0]
    edges = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(int), [0]])))
    assert (edges[1::2] - edges[::2]).min() >= MaskConfig().length


@given(batch=st.integers(1, 3), masked=st.integers(2, 30), negatives=st.integers(1, 40), seed=st.integers(0, 1000))
def test_every_draw_of_negatives(batch: int, masked: int, negatives: int, seed: int) -> None:
    drawn = sample_negatives(batch, masked, negatives, rng=np.random.default_rng(seed))
    assert drawn.shape == (batch, masked, negatives)
    assert drawn.min() >= 0
    assert drawn.max() < masked
    assert not (drawn == np.arange(masked)[:, None]).any()


def test_one_masked_frame_has_no_negative() -> None:
    with pytest.raises(ValueError, match="1 masked frame leaves no negative"):
        sample_negatives(1, 1, 5, rng=np.random.default_rng(0))


# What fine-tuning hides


@given(
    size=st.integers(1, 200),
    share=st.floats(0.0, 1.0),
    length=st.integers(1, 30),
    seed=st.integers(0, 1000),
)
def test_hidden_spans(size: int, share: float, length: int, seed: int) -> None:
    hidden = hide_spans(size, share, length, rng=np.random.default_rng(seed))
    assert hidden.shape == (size,)
    assert hidden.sum() <= length * (share * size / length + 1)
    if share == 0 or size < length:
        assert not hidden.any()
    elif hidden.any():
        edges = np.flatnonzero(np.diff(np.concatenate([[0], hidden.astype(int), [0]])))
        assert (edges[1::2] - edges[::2]).min() >= length
    assert np.array_equal(hidden, hide_spans(size, share, length, rng=np.random.default_rng(seed)))


@pytest.mark.parametrize(("size", "share", "length"), [(200, 0.65, 10), (47, 0.3, 10), (12, 0.25, 10), (192, 0.1, 16)])
def test_the_share_of_spans_is_right_on_average(size: int, share: float, length: int) -> None:
    """Counted by union of the spans that a row of so many starts can have, by simulation from the definition."""
    rng, reference = np.random.default_rng(0), np.random.default_rng(1)
    got = np.mean([hide_spans(size, share, length, rng=rng).sum() for _ in range(4000)])
    wanted = share * size / length  # spans
    union: list[int] = []
    for _ in range(4000):
        count = int(np.floor(wanted)) + int(reference.random() < wanted % 1)
        starts = reference.permutation(size - length + 1)[:count]
        union.append(len({start + offset for start in starts.tolist() for offset in range(length)}))
    assert got == pytest.approx(np.mean(union), rel=0.04)


def test_every_place_is_hidden_sometimes() -> None:
    """The first and the last place too: no span sticks out, and none is kept from the edge."""
    rng = np.random.default_rng(0)
    often = np.sum([hide_spans(40, 0.5, 5, rng=rng) for _ in range(500)], axis=0)
    assert often.min() > 0
    assert often[10:30].min() > often[0]  # fewer spans reach the edges


@given(
    lengths=st.lists(st.integers(24, 121), min_size=1, max_size=6),
    probability=st.floats(0.05, 2.0),
    length=st.sampled_from([2, 4, 10]),
    seed=st.integers(0, 1000),
)
def test_masks_in_pairs(lengths: list[int], probability: float, length: int, seed: int) -> None:
    config = MaskConfig(probability=probability, length=length)
    mask = span_mask(np.array(lengths), config, rng=np.random.default_rng(seed), group=2)
    assert mask.shape == (len(lengths), max(lengths))
    assert len(set(mask.sum(axis=1).tolist())) == 1
    assert mask.sum(axis=1).min() >= length
    for row, frames in zip(mask, lengths, strict=True):
        pairs = row[: max(lengths) // 2 * 2].reshape(-1, 2)
        assert (pairs[:, 0] == pairs[:, 1]).all()
        assert not row[frames // 2 * 2 :].any()  # the last frame of an odd number is seen


def test_limits_of_masks_in_pairs() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="spans of 5 frames cannot be masked in groups of 2"):
        span_mask(np.array([99]), MaskConfig(length=5), rng=rng, group=2)
    shortest = MaskConfig().min_frames(2)
    span_mask(np.array([shortest]), MaskConfig(), rng=rng, group=2)
    with pytest.raises(ValueError, match="too few to mask"):
        span_mask(np.array([shortest - 1]), MaskConfig(), rng=rng, group=2)
