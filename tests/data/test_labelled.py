"""Batches of labelled utterances: pure in their number, every example in its turn, the same however they are sliced."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechssl.audio import normalize
from speechssl.config import UserError
from speechssl.data.augment import OFF, AugmentConfig
from speechssl.data.labelled import LabelledBatch, LabelledBatches, LabelledConfig
from tests.toys import RATE, ToyStore

LENGTHS = [RATE, RATE // 2, 3 * RATE, 2 * RATE, RATE // 4, RATE + 7, RATE + 1]
ALWAYS = AugmentConfig(speed=1.0, noise=1.0, gain=1.0, pitch=0.0)


def toy_store(lengths: list[int]) -> ToyStore:
    rng = np.random.default_rng(0)
    return ToyStore([rng.integers(-9000, 9000, size=length).astype(np.int16) for length in lengths])


STORE = toy_store(LENGTHS)


def made(**changes: object) -> LabelledBatches:
    options = {"normalized": True, "augmentation": None, "seed": 5, "shuffle": True}
    indices = changes.pop("indices", range(len(LENGTHS)))
    config = LabelledConfig(batch_seconds=changes.pop("batch_seconds", 4.0), max_seconds=changes.pop("max", 20.0))
    return LabelledBatches(STORE, list(indices), config, **(options | changes))


def same(one: LabelledBatch, other: LabelledBatch) -> bool:
    return (
        np.array_equal(one.waveforms, other.waveforms)
        and np.array_equal(one.examples, other.examples)
        and np.array_equal(one.num_samples, other.num_samples)
    )


def test_a_batch_depends_on_its_number_alone() -> None:
    forward, backward = (made(augmentation=ALWAYS, max=0.9) for _ in range(2))
    there = [forward.batch(number) for number in range(6)]
    back = [backward.batch(number) for number in reversed(range(6))][::-1]
    assert all(same(*pair) for pair in zip(there, back, strict=True))
    other = made(augmentation=ALWAYS, max=0.9, seed=6)
    assert not all(same(there[number], other.batch(number)) for number in range(6))


def test_two_epochs_are_two_orders_and_draws() -> None:
    batches = made(augmentation=ALWAYS, batch_seconds=100.0)
    first, second = batches.batch(0), batches.batch(1)
    assert sorted(first.examples.tolist()) == sorted(second.examples.tolist()) == list(range(7))
    assert not np.array_equal(first.waveforms[:, :4000], second.waveforms[:, :4000])


@given(
    lengths=st.lists(st.integers(400, 4000), min_size=1, max_size=12),
    seconds=st.floats(0.01, 2.0),
    shuffle=st.booleans(),
)
def test_every_example_has_its_turn(lengths: list[int], seconds: float, shuffle: bool) -> None:
    batches = LabelledBatches(
        toy_store(lengths),
        list(range(len(lengths))),
        LabelledConfig(batch_seconds=seconds),
        normalized=False,
        augmentation=None,
        seed=1,
        shuffle=shuffle,
    )
    for epoch in range(2):
        numbers = range(epoch * batches.batches_per_epoch, (epoch + 1) * batches.batches_per_epoch)
        drawn = [batches.batch(number) for number in numbers]
        seen = [example for batch in drawn for example in batch.examples.tolist()]
        assert set(seen) == set(range(len(lengths)))
        if shuffle:  # training fills the last batch up; validation counts everyone once
            assert all(len(batch.examples) == batches.batch_size for batch in drawn)
        else:
            assert sorted(seen) == list(range(len(lengths)))
            sizes = [len(batch.examples) for batch in drawn]
            assert max(sizes) - min(sizes) <= 1  # nobody is left over for ranks to share
        for batch in drawn:
            assert batch.num_samples.tolist() == [lengths[example] for example in batch.examples.tolist()]
            for row, count, example in zip(batch.waveforms, batch.num_samples, batch.examples, strict=True):
                assert not row[count:].any()
                assert np.array_equal(row[:count], batches.store.waveform(int(example)))


def test_slices_for_ranks_and_micro_batches_are_the_batch() -> None:
    """The same examples and draws, whoever works on which row."""
    batches = made(augmentation=ALWAYS, batch_seconds=100.0, max=0.9)
    whole = batches.batch(3)
    ranks = [batches.batch(3, rank=rank, world_size=2) for rank in range(2)]
    for parts in (ranks, whole.micro_batches(3), [part for rank in ranks for part in rank.micro_batches(2)]):
        assert [row for part in parts for row in part.rows.tolist()] == list(range(whole.global_rows))
        for part in parts:
            assert (part.number, part.global_rows, part.global_seconds) == (3, 7, whole.global_seconds)
            assert part.waveforms.shape[1] == part.num_samples.max()  # no padding that nobody needs
            for place, row in enumerate(part.rows.tolist()):
                count = part.num_samples[place]
                assert part.examples[place] == whole.examples[row]
                assert np.array_equal(part.waveforms[place, :count], whole.waveforms[row, :count])
    assert len(whole.micro_batches(50)) == 7


@pytest.mark.slow
def test_crops() -> None:
    """Training crops anywhere, and elsewhere each time; validation at the start."""
    train, valid = (
        made(indices=[2], max=1.0, normalized=False),
        made(indices=[2], max=1.0, normalized=False, shuffle=False),
    )
    whole = STORE.waveform(2)
    crops = [train.batch(number).waveforms[0] for number in range(8)]
    places = [next(s for s in range(2 * RATE + 1) if whole[s] == crop[0] and whole[s + 1] == crop[1]) for crop in crops]
    assert len(set(places)) > 5
    for start, crop in zip(places, crops, strict=True):
        assert np.array_equal(crop, whole[start : start + RATE])
    assert np.array_equal(valid.batch(0).waveforms[0], whole[:RATE])


def test_normalised_after_augmentation() -> None:
    batch = made(augmentation=AugmentConfig(speed=0.0, pitch=0.0, noise=1.0, gain=1.0), batch_seconds=100.0).batch(0)
    for row, count in zip(batch.waveforms, batch.num_samples, strict=True):
        assert row[:count].mean() == pytest.approx(0, abs=1e-4)
        assert row[:count].std() == pytest.approx(1, abs=1e-3)
    still = made(augmentation=OFF, batch_seconds=100.0).batch(0)
    expected = normalize(STORE.waveform(int(still.examples[0])))
    np.testing.assert_allclose(still.waveforms[0, : still.num_samples[0]], expected, atol=1e-6)


def test_nothing_to_learn_and_too_many_ranks() -> None:
    with pytest.raises(UserError, match="no labelled utterance"):
        made(indices=[])
    with pytest.raises(UserError, match="3 ranks cannot share a batch of 2 utterances"):
        made(indices=[0, 1]).batch(0, world_size=3)
