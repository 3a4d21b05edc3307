"""Batches as pure functions: whatever is asked in whatever order, by one process or several, the same crops come."""

import itertools
import threading
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from speechssl.audio import normalize
from speechssl.config import UserError, load_config
from speechssl.data.batch import CropBatch
from speechssl.data.crops import CropBatches, CropConfig
from tests.toys import RATE, ToyStore, tones

CONFIG = CropConfig(seconds=0.5, min_seconds=0.1, batch_seconds=2.0, normalize=False)  # batches of four


def numbered(lengths: list[float], speakers: list[str | None] | None = None) -> ToyStore:
    """Every sample tells its utterance and (roughly) its place: utterance ``i`` holds ``1000 i + place / 100``."""
    waveforms = []
    for index, seconds in enumerate(lengths):
        samples = round(seconds * RATE)
        waveforms.append((1000 * index + np.arange(samples) // 100).astype(np.int16))
    return ToyStore(waveforms, speakers)


def store(count: int = 11, seed: int = 0) -> ToyStore:
    return numbered(np.random.default_rng(seed).uniform(0.3, 0.9, count).round(3).tolist())


def content(batch: CropBatch) -> tuple[bytes, list[int], int]:
    return batch.waveforms.numpy().tobytes(), batch.rows.tolist(), batch.global_rows


def utterances_of(row: Tensor) -> list[int]:
    """The utterances a crop of :func:`numbered` is made of, in order."""
    return [key for key, _ in itertools.groupby((np.rint(row.numpy() * 32768) // 1000).astype(int).tolist())]


# A pure function


def test_order_of_calls_does_not_matter() -> None:
    numbers = list(range(9))  # three epochs of three batches
    forward = CropBatches([store()], CONFIG, seed=7)
    expected = [content(forward.batch(number)) for number in numbers]
    other = CropBatches([store()], CONFIG, seed=7)
    for number in np.random.default_rng(0).permutation(numbers * 2).tolist():
        assert content(other.batch(number)) == expected[number]
    assert len({waveforms for waveforms, _, _ in expected}) == len(numbers)
    assert [content(CropBatches([store()], CONFIG, seed=8).batch(number)) for number in numbers] != expected


@given(number=st.integers(0, 40), world_size=st.integers(1, 4), seed=st.integers(0, 3))
def test_ranks_and_micro_batches_share_the_global_batch(number: int, world_size: int, seed: int) -> None:
    batches = CropBatches([store()], CONFIG, seed=seed)
    whole = batches.batch(number)
    parts = [batches.batch(number, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert np.concatenate([part.rows for part in parts]).tolist() == whole.rows.tolist() == [0, 1, 2, 3]
    assert np.array_equal(np.concatenate([part.waveforms for part in parts]), whole.waveforms)
    assert {part.global_rows for part in parts} == {4}
    for count in (1, 3, 9):
        micro = whole.micro_batches(count)
        assert len(micro) == min(count, 4)
        assert np.array_equal(np.concatenate([part.waveforms for part in micro]), whole.waveforms)
        assert np.concatenate([part.rows for part in micro]).tolist() == [0, 1, 2, 3]


def test_threads_that_ask_for_different_epochs_each_get_theirs() -> None:
    """The epoch's order is cached; one thread's epoch must never be another's."""
    batches = CropBatches([store(40)], CONFIG, seed=1)
    expected = [batches._order(epoch).copy() for epoch in range(4)]
    wrong: list[int] = []

    def ask(epoch: int) -> None:
        wrong.extend(epoch for _ in range(300) if not np.array_equal(batches._order(epoch), expected[epoch]))

    threads = [threading.Thread(target=ask, args=(epoch,)) for epoch in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_the_cache_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread's call between this one's making and returning of its order must not change what it returns."""
    batches = CropBatches([store()], CONFIG, seed=1)
    expected = batches._order(2).copy()
    batches._order(0)
    make = batches._epoch

    class Meddling(CropBatches):
        def __setattr__(self, name: str, value: object) -> None:
            object.__setattr__(self, name, value)
            if name == "_cached" and not isinstance(value, type(None)) and value[0] == 2:
                object.__setattr__(self, name, (3, make(3)))

    batches.__class__ = Meddling
    assert np.array_equal(batches._order(2), expected)


# What is in a batch


def test_nothing_is_padded_and_crops_lie_within_their_utterance() -> None:
    corpus = store(30)
    batches = CropBatches([corpus], CONFIG, seed=0)
    for number in range(2 * batches.batches_per_epoch):
        batch = batches.batch(number)
        assert batch.waveforms.dtype == torch.float32
        found = [utterances_of(row) for row in batch.waveforms]
        assert all(len(each) == 1 for each in found)
        lengths = [corpus.lengths[each[0]] for each in found]
        longest = min(8000, *lengths)
        assert batch.waveforms.shape == (4, max(longest // 1000 * 1000, min(longest, 1600)))

        for row, [index] in zip(batch.waveforms.numpy(), found, strict=True):
            samples = np.rint(row * 32768).astype(np.int16)
            start = int(np.flatnonzero(corpus.waveforms[index] == samples[0])[0])
            candidates = [corpus.waveforms[index][start + shift :][: len(samples)] for shift in range(100)]
            assert any(np.array_equal(samples, each) for each in candidates)


def test_crops_have_few_lengths() -> None:
    """A new length costs new kernels: quarters of a second, and never less than the shortest crop."""
    corpus = ToyStore([np.ones(length, dtype=np.int16) for length in range(30_000, 70_000, 97)])
    batches = CropBatches([corpus], CropConfig(seconds=4.0, min_seconds=1.9, batch_seconds=16.0), seed=0)
    lengths = {batches.batch(number).waveforms.shape[1] for number in range(2 * batches.batches_per_epoch)}
    assert len(lengths) > 5
    assert lengths <= {30_400, *range(32_000, 64_001, 4_000)}


def test_crops_begin_everywhere() -> None:
    corpus = numbered([2.0, 2.0])
    batches = CropBatches(
        [corpus], CropConfig(seconds=0.5, batch_seconds=1.0, min_seconds=0.5, normalize=False), seed=0
    )
    starts = [
        int(np.rint(row[0] * 32768)) % 1000 / 160 for n in range(200) for row in batches.batch(n).waveforms.numpy()
    ]
    assert min(starts) < 0.05
    assert max(starts) > 1.4
    assert np.histogram(starts, bins=5, range=(0, 1.5))[0].min() > 40


def test_every_unit_is_seen_once_an_epoch_and_the_rest_is_filled_up() -> None:
    batches = CropBatches([store(11)], CONFIG, seed=3)
    assert batches.batches_per_epoch == 3
    orders = []
    for epoch in range(4):
        seen = Counter(
            utterances_of(row)[0] for place in range(3) for row in batches.batch(3 * epoch + place).waveforms
        )
        assert set(seen) == set(range(11))
        assert seen.total() == 12
        orders.append([utterances_of(row)[0] for row in batches.batch(3 * epoch).waveforms])
    assert len({tuple(order) for order in orders}) > 1


def test_lengths_within_a_batch_are_alike() -> None:
    lengths = np.random.default_rng(0).uniform(0.12, 0.5, 64).tolist()
    batches = CropBatches([numbered(lengths[:30]), numbered(lengths[30:])], CONFIG, seed=0)
    kept = sum(batches.batch(number).waveforms.numel() for number in range(16))
    assert kept / (sum(lengths) * RATE) > 0.85  # sixteen batches make one window: only rounding cuts much off


def test_crops_are_normalized_one_by_one() -> None:
    corpus = ToyStore([(32767 * tones(1.0, seed=index)).astype(np.int16) for index in range(4)])
    raw = CropBatches([corpus], CONFIG, seed=0).batch(1)
    scaled = CropBatches([corpus], CONFIG.model_copy(update={"normalize": True}), seed=0).batch(1)
    for row, expected in zip(scaled.waveforms.numpy(), raw.waveforms.numpy(), strict=True):
        np.testing.assert_allclose(row, normalize(expected), atol=1e-6)
        assert abs(float(row.mean())) < 1e-4
        assert float(row.std()) == pytest.approx(1, abs=1e-3)


def test_samples_are_scaled_to_one() -> None:
    corpus = ToyStore([np.full(8000, -32768, dtype=np.int16), np.full(8000, 16384, dtype=np.int16)])
    waveforms = CropBatches([corpus], CONFIG, seed=0).batch(0).waveforms
    assert set(waveforms[:, 0].tolist()) == {-1.0, 0.5}


# Short clips


def test_short_clips_are_joined_within_a_speaker_only() -> None:
    speakers = [("anna", "ben")[index % 2] for index in range(24)]
    corpus = numbered([0.2] * 24, speakers)
    config = CropConfig(seconds=0.5, min_seconds=0.3, batch_seconds=2.0, normalize=False)
    batches = CropBatches([corpus], config, seed=0)
    seen: set[int] = set()
    for number in range(batches.batches_per_epoch):
        for row in batches.batch(number).waveforms:
            members = utterances_of(row)
            assert len(members) >= 2
            assert len({speakers[index] for index in members}) == 1
            seen.update(members)
    joined = [index for unit in batches.units for index in unit.utterances]
    assert sorted(joined) == list(range(24))  # each clip in one unit, none left over here
    assert batches.dropped == 0
    assert len(seen) > 18


def test_clips_of_unknown_speakers_are_joined_within_a_folder_and_never_across_corpora() -> None:
    first, second = numbered([0.2] * 3), numbered([0.2] * 3)
    config = CropConfig(seconds=0.6, min_seconds=0.4, batch_seconds=1.2)
    batches = CropBatches([first, second], config, seed=0)
    assert [(unit.store, len(unit.utterances)) for unit in batches.units] == [(0, 3), (1, 3)]


def test_a_joined_crop_runs_through_its_clips_without_a_gap() -> None:
    corpus = numbered([0.2] * 6, ["anna"] * 6)
    config = CropConfig(seconds=0.5, min_seconds=0.3, batch_seconds=1.0, normalize=False)
    batches = CropBatches([corpus], config, seed=2)
    joined = [np.concatenate([corpus.waveforms[index] for index in unit.utterances]) for unit in batches.units]
    for number in range(6):
        for row in batches.batch(number).waveforms.numpy():
            samples = np.rint(row * 32768).astype(np.int16)
            windows = (np.lib.stride_tricks.sliding_window_view(each, len(samples)) for each in joined)
            assert any((window == samples).all(axis=1).any() for window in windows)


def test_what_is_too_short_alone_and_joined_is_dropped_and_counted() -> None:
    corpus = numbered([0.5, 0.05, 0.05, 0.5], ["anna", "ben", "carl", "carl"])
    batches = CropBatches([corpus], CONFIG, seed=0)
    assert [unit.utterances for unit in batches.units] == [(0,), (3,)]
    assert batches.dropped == 2
    assert batches.seconds == pytest.approx(1.0)


def test_only_what_is_kept_is_used() -> None:
    batches = CropBatches([store()], CONFIG, seed=0, keep=[[2, 5, 8]])
    assert {unit.utterances for unit in batches.units} == {(2,), (5,), (8,)}


# Mistakes


def test_nothing_long_enough_is_said_in_one_line() -> None:
    with pytest.raises(UserError, match=r"^nothing to train on: no utterance, alone or joined .* reaches 2\.0 s$"):
        CropBatches([numbered([0.3, 0.4], ["anna", "ben"])], CropConfig(), seed=0)


def test_lengths_that_contradict_each_other() -> None:
    with pytest.raises(UserError, match=r"min_seconds 2\.0 must be at most seconds 1\.0"):
        CropBatches([store()], CropConfig(seconds=1.0, min_seconds=2.0), seed=0)


@pytest.mark.parametrize("name", ["seconds", "min_seconds", "batch_seconds"])
@pytest.mark.parametrize("value", ["0", "-1.0", "nan", "inf"])
def test_lengths_that_are_none(name: str, value: str) -> None:
    with pytest.raises(UserError, match=f"key '{name}'"):
        load_config(CropConfig, overrides=[f"{name}={value}"])


def test_more_ranks_than_crops() -> None:
    with pytest.raises(UserError, match="5 ranks cannot share a batch of 4 crops"):
        CropBatches([store()], CONFIG, seed=0).batch(0, rank=0, world_size=5)
