"""What a batch has beside its crops: views, labels of frames, near and far crops: functions of seed, step, row."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from speechssl.audio import normalize
from speechssl.config import UserError
from speechssl.data.augment import AugmentConfig, augment
from speechssl.data.batch import BatchSpec, CropBatch, FrameGrid, Pairs
from speechssl.data.crops import CropBatches, CropConfig
from speechssl.data.units import Units, read_units, write_units
from speechssl.data.waveforms import WaveformStore
from tests.toys import RATE, ToyStore, tones, toy_corpus

AUGMENT = AugmentConfig(speed=0.0, pitch=0.5, noise=1.0, gain=1.0)
GRID = FrameGrid(hop=320, receptive_field=400)
CONFIG = CropConfig(seconds=0.5, min_seconds=0.1, batch_seconds=2.0, normalize=False)  # batches of four
EVERYTHING = BatchSpec(
    views=2, augment=AUGMENT, labels="phones", grid=GRID, hop=320, pairs=Pairs(near_seconds=0.2, far_seconds=0.3)
)


def tone_store(count: int = 9, *, seconds: float = 1.4) -> ToyStore:
    lengths = np.random.default_rng(0).uniform(0.8, 1.2, count) * seconds
    waveforms = [(32767 * tones(float(each), seed=index)).astype(np.int16) for index, each in enumerate(lengths)]
    return ToyStore(waveforms, [f"s{index % 2}" for index in range(count)])


def units_of(store: ToyStore, grid: FrameGrid = GRID) -> Units:
    """Frame `n` of utterance `i` has the label 1000 i + n."""
    counts = np.array([grid.count(int(length)) for length in store.lengths])
    labels = np.concatenate([1000 * index + np.arange(count) for index, count in enumerate(counts)])
    return Units(grid, labels, counts)


def batches_of(store: ToyStore, spec: BatchSpec, config: CropConfig = CONFIG) -> CropBatches:
    return CropBatches([store], config, seed=3, spec=spec, labels=[units_of(store)] if spec.labels else [])


def tensors(batch: CropBatch) -> dict[str, Tensor]:
    return {name: each for name, each in vars(batch).items() if isinstance(each, Tensor)}


def start_of(store: ToyStore, crop: Tensor) -> tuple[int, int]:
    """Which utterance a crop is from, and where it starts."""
    samples = np.rint(crop.numpy() * 32768).astype(np.int16)
    for index, whole in enumerate(store.waveforms):
        windows = np.lib.stride_tricks.sliding_window_view(whole, len(samples))
        places = np.flatnonzero((windows[:, 0] == samples[0]) & (windows[:, -1] == samples[-1]))
        for place in places.tolist():
            if np.array_equal(windows[place], samples):
                return index, place
    raise AssertionError("a crop of no utterance")


def test_ranks_and_micro_batches_get_slices_of_one_batch() -> None:
    store = tone_store()
    batches = batches_of(store, EVERYTHING)
    whole = batches.batch(5)
    pairs = {"near", "near_offset", "far", "recording", "far_recording"}
    assert set(tensors(whole)) == {"waveforms", "views", "labels"} | pairs
    for parts in ([batches.batch(5, rank=rank, world_size=3) for rank in range(3)], whole.micro_batches(2)):
        for name, each in tensors(whole).items():
            axis = 1 if name == "views" else 0
            assert torch.equal(torch.cat([tensors(part)[name] for part in parts], dim=axis), each), name
    batches.batch(0)  # what was drawn before does not count
    assert all(torch.equal(tensors(batches.batch(5))[name], each) for name, each in tensors(whole).items())
    assert not torch.equal(whole.near, batches.batch(6).near)


def test_a_batch_without_a_spec_has_crops_alone() -> None:
    assert set(tensors(batches_of(tone_store(), BatchSpec()).batch(0))) == {"waveforms"}


def test_views_are_augmented_crops() -> None:
    spec = BatchSpec(views=3, augment=AUGMENT)
    batch, other = (batches_of(tone_store(), spec).batch(number) for number in (2, 3))
    assert batch.views is not None
    assert other.views is not None
    assert batch.views.shape == (3, *batch.waveforms.shape)
    for view in range(3):
        for row in range(4):
            rng = np.random.default_rng((3, 6, 2, row, view))
            expected = augment(batch.waveforms[row].numpy(), AUGMENT, rng=rng)
            assert np.array_equal(batch.views[view, row].numpy(), expected)
    assert not torch.equal(batch.views[0], batch.views[1])
    levels = CONFIG.model_copy(update={"normalize": True})
    normalized = batches_of(tone_store(), spec, levels).batch(2).views
    assert normalized is not None
    assert np.allclose(normalized[0, 0].numpy(), normalize(batch.views[0, 0].numpy()), atol=1e-5)


def test_frames_of_a_crop_are_labelled_frames() -> None:
    store = tone_store()
    batches = batches_of(store, BatchSpec(labels="phones", grid=GRID, hop=320))
    for number in range(6):
        batch = batches.batch(number)
        assert batch.labels is not None
        assert batch.labels.shape == (4, GRID.count(batch.waveforms.shape[1]))
        for crop, labels in zip(batch.waveforms, batch.labels, strict=True):
            index, start = start_of(store, crop)
            assert start % 320 == 0
            assert labels.tolist() == [1000 * index + start // 320 + frame for frame in range(len(labels))]


def test_labels_of_another_grid_are_those_of_the_nearest_frame() -> None:
    store = tone_store(2)
    labelled = FrameGrid(hop=160, receptive_field=400)
    batches = CropBatches(
        [store],
        CropConfig(seconds=0.5, min_seconds=0.5, batch_seconds=1.0, normalize=False),
        seed=0,
        spec=BatchSpec(labels="x", grid=FrameGrid(320, 464, padding=32), hop=160),  # the same centres
        labels=[units_of(store, labelled)],
    )
    batch = batches.batch(0)
    assert batch.labels is not None
    for crop, labels in zip(batch.waveforms, batch.labels, strict=True):
        index, start = start_of(store, crop)
        assert labels.tolist() == [1000 * index + start // 160 + 2 * frame for frame in range(len(labels))]


def test_joined_utterances_keep_their_labels() -> None:
    lengths = [4000, 5003, 4321, 3777]
    store = ToyStore([np.full(length, index + 1, dtype=np.int16) for index, length in enumerate(lengths)], ["s"] * 4)
    config = CropConfig(seconds=1.5, min_seconds=0.5, batch_seconds=3.0, normalize=False)
    batches = batches_of(store, BatchSpec(labels="x", grid=GRID, hop=320), config)
    batch = batches.batch(1)
    assert batch.labels is not None
    for crop, labels in zip(batch.waveforms, batch.labels, strict=True):
        spoken = np.rint(crop.numpy() * 32768).astype(int) - 1  # which utterance a sample is of
        centres = GRID.centres(len(labels)).astype(int)
        assert (labels.numpy() // 1000 == spoken[centres]).all()
        for index in set(spoken.tolist()):
            own = labels.numpy()[labels.numpy() // 1000 == index] % 1000
            assert (np.diff(own) >= 0).all()
            assert len(own) < 2 or np.diff(own)[:-1].max(initial=1) <= 1


def test_near_crops_are_near_and_far_ones_far() -> None:
    store = tone_store(seconds=2.0)
    batches = batches_of(store, BatchSpec(pairs=Pairs(near_seconds=0.2, far_seconds=0.6), hop=160))
    offsets: list[int] = []
    others = 0
    for number in range(8):
        batch = batches.batch(number)
        assert batch.near is not None
        assert batch.near_offset is not None
        assert batch.far is not None
        assert batch.far_recording is not None
        for row, crop in enumerate(batch.waveforms):
            index, start = start_of(store, crop)
            near, far = start_of(store, batch.near[row]), start_of(store, batch.far[row])
            offsets.append(int(batch.near_offset[row]))
            assert near == (index, start + offsets[-1])
            assert abs(offsets[-1]) <= 0.2 * RATE
            assert offsets[-1] % 160 == 0
            if far[0] == index:
                assert abs(far[1] - start) >= 0.6 * RATE
            assert (far[0] == index) == (int(batch.far_recording[row]) == -1)
            others += far[0] != index
    assert min(offsets) < 0 < max(offsets)
    assert others < 8  # long enough for a far place of their own, nearly all


def test_a_far_crop_of_a_short_recording_is_of_another_one() -> None:
    store = tone_store(seconds=0.8)
    batch = batches_of(store, BatchSpec(pairs=Pairs(near_seconds=0.2, far_seconds=5.0))).batch(0)
    assert batch.far is not None
    assert batch.recording is not None
    assert batch.far_recording is not None
    indices = [start_of(store, crop)[0] for crop in batch.waveforms]
    for row, far in enumerate(batch.far):
        source = start_of(store, far)[0]
        assert source != indices[row]
        assert int(batch.far_recording[row]) == indices.index(source)
        assert int(batch.recording[row]) == indices.index(indices[row])


def test_utterances_of_one_file_are_one_recording() -> None:
    store = tone_store(seconds=0.8)
    store.utterances = [each.model_copy(update={"audio": "one.wav"}) for each in store.utterances]
    batch = batches_of(store, BatchSpec(pairs=Pairs(near_seconds=0.2, far_seconds=5.0))).batch(0)
    assert batch.recording is not None
    assert batch.far_recording is not None
    assert batch.recording.tolist() == batch.far_recording.tolist() == [0] * len(batch.rows)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (lambda: BatchSpec(views=2), "views 2, augment None: both or neither"),
        (lambda: BatchSpec(views=1, augment=AugmentConfig()), "augment.speed 0.5 of views, allowed: 0"),
        (lambda: BatchSpec(labels="x"), "labels need the grid"),
        (lambda: Pairs(near_seconds=2.0, far_seconds=1.0), "near_seconds 2, far_seconds 1: 0 < near <= far"),
    ],
)
def test_specs_that_cannot_be(spec: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spec()


def test_the_grid_counts_as_the_encoder_does() -> None:
    from speechssl.nn.conv import ConvFeatureEncoder
    from tests.toys import MICRO_ENCODER

    conv = MICRO_ENCODER.conv
    encoder, grid = ConvFeatureEncoder(conv), FrameGrid(conv.hop, conv.receptive_field, conv.padding)
    for samples in (0, 399, 400, 719, 720, 16000, 16123):
        assert grid.count(samples) == int(encoder.num_frames(torch.tensor(samples)))


# Labels on disk


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> WaveformStore:
    return WaveformStore(toy_corpus(tmp_path_factory.mktemp("units"), utterances=3, seconds=0.5))


def test_units_come_back(packed: WaveformStore) -> None:
    labels = [np.arange(24) + 300 * index for index in range(3)]
    write_units(packed, "k500", labels, GRID)
    units = read_units(packed, "k500")
    assert units.grid == GRID
    assert [units.of(index).tolist() for index in range(3)] == [each.tolist() for each in labels]
    assert (packed.folder / "units" / "k500.npy").stat().st_size < 2 * 72 + 200  # 16 bits are enough


def test_units_that_do_not_fit(packed: WaveformStore, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"units/none\.json: no such labels of frames"):
        read_units(packed, "none")
    with pytest.raises(ValueError, match="2 arrays of labels for 3 utterances"):
        write_units(packed, "few", [np.zeros(3, dtype=int)] * 2, GRID)
    write_units(packed, "k", [np.zeros(24, dtype=int)] * 3, GRID)
    other = WaveformStore(toy_corpus(tmp_path, utterances=3, seconds=0.6))
    (other.folder / "units").mkdir()
    for suffix in (".json", ".npy"):
        (other.folder / "units" / f"k{suffix}").write_bytes((packed.folder / "units" / f"k{suffix}").read_bytes())
    with pytest.raises(UserError, match="labels of another corpus"):
        read_units(other, "k")
    np.save(packed.folder / "units" / "k.npy", np.zeros(5, dtype=np.uint8))
    with pytest.raises(UserError, match="damaged: 3 utterances with 72 labels, found 5"):
        read_units(packed, "k")
    (packed.folder / "units" / "k.json").write_text("[]")
    with pytest.raises(UserError, match=r"k\.json: labels of frames that cannot be read"):
        read_units(packed, "k")
