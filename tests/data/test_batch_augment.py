"""Stored samples on their way to a device, and augmentation: functions of seed, number of the batch and row."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from speechssl.audio import normalize
from speechssl.config import UserError, load_config
from speechssl.data.augment import AugmentConfig
from speechssl.data.batch import BatchSpec, CropBatch, FrameGrid, Pairs, StoredBatch, normalized, normalized_on_device
from speechssl.data.batch_augment import NO_AUGMENT, BatchAugmentConfig, augmented, draw_effects
from speechssl.data.crops import CropBatches, CropConfig
from speechssl.train.update import staged
from tests.toys import RATE, ToyStore, tones

CPU = torch.device("cpu")
CONFIG = CropConfig(seconds=0.5, min_seconds=0.3, batch_seconds=2.0)  # batches of four
NAMES = ("speed", "pitch", "mix", "reverb", "noise", "telephone", "low_pass", "high_pass")
EVERYTHING = BatchAugmentConfig.model_validate(dict.fromkeys(NAMES, 0.6))


def tone_store(count: int = 9) -> ToyStore:
    lengths = np.random.default_rng(0).uniform(0.8, 1.2, count)
    waveforms = [(32767 * tones(float(each), seed=index)).astype(np.int16) for index, each in enumerate(lengths)]
    return ToyStore(waveforms, [f"s{index % 2}" for index in range(count)])


def batches(augment: BatchAugmentConfig = NO_AUGMENT, store: ToyStore | None = None, **options: Any) -> CropBatches:
    return CropBatches([store or tone_store()], CONFIG, seed=3, augment=augment, **options)


def always(*names: str, **amounts: Any) -> BatchAugmentConfig:
    return BatchAugmentConfig.model_validate(dict.fromkeys(names, 1.0) | amounts)


# The way to a device


class Quiet(ToyStore):
    """Every third utterance is stored as float32, every other third with a gain of its own."""

    def gain(self, index: int) -> Any:
        return (1 / 32768, None, 1 / 2**20)[index % 3]

    def waveform(self, index: int, start: int = 0, stop: int | None = None) -> np.ndarray:
        return self.read(index, start, stop).astype(np.float32) * np.float32(self.gain(index) or 1.7 / 32768)


@pytest.mark.parametrize("normalize_crops", [True, False])
@pytest.mark.parametrize("kind", [ToyStore, Quiet])
def test_crops_are_those_of_the_store_to_the_last_bit(kind: type[ToyStore], normalize_crops: bool) -> None:
    store = kind(tone_store().waveforms)
    made = CropBatches([store], CONFIG.model_copy(update={"normalize": normalize_crops}), seed=3)
    for number in range(3):
        stored, ready = made.stored(number), made.batch(number)
        assert (stored.stored.dtype == torch.int16) == (kind is ToyStore)
        for row, crop in zip(stored.stored, ready.waveforms, strict=True):
            found = False
            for index in range(len(store.waveforms)):
                whole = store.waveform(index)
                raw = row.numpy() * np.float32(1 / 32768 if kind is ToyStore else 1.0)
                for start in np.flatnonzero(whole[: len(whole) - len(raw) + 1] == raw[0]).tolist():
                    if np.array_equal(whole[start : start + len(raw)], raw):
                        expected = normalize(raw) if normalize_crops else raw
                        assert np.array_equal(crop.numpy(), expected)
                        found = True
            assert found


def test_joined_utterances_with_different_factors_are_float32() -> None:
    waveforms = [(32767 * tones(0.2, seed=index)).astype(np.int16) for index in range(6)]
    joined = CropBatches([Quiet(waveforms, ["s"] * 6)], CONFIG, seed=3)
    same = CropBatches([ToyStore(waveforms, ["s"] * 6)], CONFIG, seed=3)
    assert joined.stored(0).stored.dtype == torch.float32
    assert same.stored(0).stored.dtype == torch.int16


def test_normalisation_on_a_device_is_that_of_the_cpu() -> None:
    waveforms = torch.from_numpy(np.stack([10.0**-row * tones(1.0, seed=row) + 0.01 for row in range(4)]))
    assert (normalized_on_device(waveforms) - normalized(waveforms)).abs().max() < 1e-6


@pytest.mark.slow  # torch loads its shapes of operations
def test_crops_are_made_on_their_device() -> None:
    away = batches().stored(0).to(torch.device("meta"))  # every operation on one device
    assert away.waveforms.device.type == "meta"
    assert away.waveforms.dtype == torch.float32


def test_a_batch_for_a_gpu_waits_in_pinned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[Tensor] = []
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: pinned.append(self) or self.clone())
    made = batches(always("mix")).stored(0)
    waiting = staged(made, torch.device("cuda"))
    assert isinstance(waiting, StoredBatch)
    assert {id(each) for each in pinned} == {
        id(each) for each in (made.stored, made.gains, made.others, made.other_gains)
    }
    assert isinstance(staged(made, CPU), CropBatch)
    assert len(pinned) == 4


# Pure functions


def pieces(made: CropBatches, number: int) -> list[tuple[str, list[StoredBatch]]]:
    return [
        ("ranks", [made.stored(number, rank=rank, world_size=3) for rank in range(3)]),
        ("micro-batches", made.stored(number).micro_batches(3)),
        (
            "micro-batches of ranks",
            [p for r in (0, 1) for p in made.stored(number, rank=r, world_size=2).micro_batches(2)],
        ),
        ("resumed", [batches(EVERYTHING).stored(number)]),
    ]


@pytest.mark.parametrize("number", range(4))
def test_ranks_micro_batches_and_resumed_runs_get_the_same(number: int) -> None:
    made = batches(EVERYTHING)
    whole = made.batch(number)
    assert whole.waveforms.shape == (4, whole.samples) == batches().batch(number).waveforms.shape
    for name, parts in pieces(made, number):
        ready = [part.to(CPU) for part in parts]
        assert np.concatenate([each.rows for each in ready]).tolist() == [0, 1, 2, 3], name
        together = torch.cat([each.waveforms for each in ready])
        torch.testing.assert_close(together, whole.waveforms, rtol=0, atol=2e-5, msg=name)
    assert torch.equal(batches(EVERYTHING).batch(number).waveforms, whole.waveforms)
    assert not torch.equal(whole.waveforms, batches().batch(number).waveforms)


@pytest.mark.parametrize("row", range(4))
def test_other_rows_do_not_count(row: int) -> None:
    """Besides the crop that is mixed in, which a row has with it."""
    batch = batches(EVERYTHING).stored(0)
    changed = torch.randint(-9999, 9999, batch.stored.shape, dtype=torch.int16)
    changed[row] = batch.stored[row]
    other = dataclasses.replace(batch, stored=changed)
    assert torch.equal(other.to(CPU).waveforms[row], batch.to(CPU).waveforms[row])


def test_the_crop_that_is_mixed_in_is_another_row_of_the_global_batch() -> None:
    made = batches(always("mix"))
    partners: set[tuple[int, int]] = set()
    for number in range(12):
        whole = made.stored(number)
        assert whole.others is not None
        for row, drawn in enumerate(whole.effects):
            assert drawn.other is not None
            assert drawn.other != row
            assert torch.equal(whole.others[row], whole.stored[drawn.other])  # wherever that row is processed
            partners.add((row, drawn.other))
        last = made.stored(number, rank=3, world_size=4)
        assert last.others is not None
        assert torch.equal(last.others[0], whole.others[3])
    assert len(partners) > 8


def test_nothing_is_read_for_rows_without_a_mix() -> None:
    made = batches(BatchAugmentConfig(mix=0.5))
    for number in range(6):
        batch = made.stored(number)
        assert batch.others is not None
        silent = [not row.any() for row in batch.others]
        assert silent == [drawn.other is None for drawn in batch.effects]
    assert batches(always("noise")).stored(0).others is None


@pytest.mark.parametrize("name", NAMES)
def test_one_effect_less_changes_no_other(name: str) -> None:
    def drawn(config: BatchAugmentConfig) -> list[Any]:
        return [
            draw_effects(config, row=row, rows=4, samples=8000, available=9000, rng=np.random.default_rng(row))
            for row in range(30)
        ]

    kept = {"speed": "width", "pitch": "pitch", "mix": "other", "reverb": "reverb", "noise": "noise"}
    every, less = drawn(EVERYTHING), drawn(EVERYTHING.model_copy(update={name: 0.0}))
    changed = kept.get(name, "band")
    assert [getattr(each, changed) for each in every] != [getattr(each, changed) for each in less]
    for field in ({*kept.values(), "band", "seed", "stretch", "ratio"}) - {changed}:
        assert [getattr(each, field) for each in every] == [getattr(each, field) for each in less], field


def test_probabilities_and_ranges() -> None:
    config = BatchAugmentConfig(speed=0.3, pitch=0.4, noise=0.7, reverb=0.5, telephone=0.2, high_pass=0.5)
    drawn = [
        draw_effects(config, row=0, rows=2, samples=16000, available=32000, rng=np.random.default_rng(row))
        for row in range(800)
    ]
    shares = {"pitch": 0.4, "noise": 0.7, "reverb": 0.5, "band": 1 - 0.8 * 0.5, "other": 0.0}
    for name, share in shares.items():
        assert np.mean([getattr(each, name) is not None for each in drawn]) == pytest.approx(share, abs=0.06), name
    assert np.mean([each.width != 16000 for each in drawn]) == pytest.approx(0.3, abs=0.06)
    assert {each.width % 160 for each in drawn} == {0}
    widths, snr = [each.width for each in drawn], [each.noise[0] for each in drawn if each.noise]
    assert (min(widths), max(widths)) == (14400, 17600)
    assert 5.0 <= min(snr) < 6 < 29 < max(snr) <= 30.0
    bands = {each.band for each in drawn if each.band}
    assert (300.0, 3400.0) in bands
    assert all(high in (3400.0, np.inf) for _, high in bands)


# The effects on crops


def test_what_is_drawn_is_what_is_heard() -> None:
    clean, noisy = (batches(each).stored(1) for each in (NO_AUGMENT, always("noise", noise_slope=(0.0, 0.0))))
    assert torch.equal(clean.stored, noisy.stored)
    plain = torch.stack([row.float() for row in clean.stored]) / 32768
    added = augmented(plain, noisy.effects, samples=noisy.samples) - plain
    for row, drawn in enumerate(noisy.effects):
        assert drawn.noise is not None
        ratio = 10 * torch.log10(plain[row].square().mean() / added[row].square().mean())
        assert float(ratio) == pytest.approx(drawn.noise[0], abs=0.01)


@pytest.mark.parametrize("factor", [0.8, 1.24])
def test_another_speed_reads_as_much_as_it_needs(factor: float) -> None:
    """A tone of a kilohertz is heard at the factor times its frequency through the whole crop."""
    samples = np.arange(2 * RATE)
    store = ToyStore(
        [(20000 * np.sin(2 * np.pi * 1000 / RATE * samples + index)).astype(np.int16) for index in range(4)]
    )
    batch = batches(always("speed", speed_factors=(factor, factor)), store).batch(0)
    assert batch.samples == 8000
    for crop in batch.waveforms:
        for half in crop.chunk(2):
            spectrum = torch.fft.rfft(half * torch.hann_window(len(half))).abs()
            assert float(spectrum.argmax()) * RATE / len(half) == pytest.approx(1000 * factor, abs=4)


def test_a_recording_that_is_just_long_enough_is_not_sped_up() -> None:
    store = ToyStore([(32767 * tones(0.5, seed=index)).astype(np.int16) for index in range(4)])
    faster = batches(always("speed", speed_factors=(1.25, 1.25)), store)
    assert torch.equal(faster.batch(0).waveforms, batches(NO_AUGMENT, store).batch(0).waveforms)


def test_crops_are_normalised_after_the_effects() -> None:
    batch = batches(EVERYTHING).batch(0)
    torch.testing.assert_close(batch.waveforms.mean(1), torch.zeros(4), rtol=0, atol=1e-4)
    torch.testing.assert_close(batch.waveforms.std(1), torch.ones(4), rtol=0, atol=1e-3)


def test_labels_stay_those_of_the_recording() -> None:
    """Effects that keep times: the clean crop is found at its place in the augmented one."""
    from tests.data.test_batch_spec import units_of

    store, grid = tone_store(), FrameGrid(hop=320, receptive_field=400)
    options = {"spec": BatchSpec(labels="x", grid=grid, hop=320), "labels": [units_of(store)]}
    clean = batches(NO_AUGMENT, store, **options).batch(2)
    noisy = batches(always("reverb", "noise", "telephone", "mix"), store, **options).batch(2)
    assert clean.labels is not None
    assert noisy.labels is not None
    assert torch.equal(clean.labels, noisy.labels)
    for row in range(4):
        lags = {
            lag: float(clean.waveforms[row, 50:-50] @ noisy.waveforms[row, 50 + lag :][: clean.samples - 100])
            for lag in range(-50, 50)
        }
        assert max(lags, key=lambda lag: lags[lag]) == 0


# Mistakes


VIEWS = BatchSpec(views=1, augment=AugmentConfig(speed=0.0))


@pytest.mark.parametrize("spec", [VIEWS, BatchSpec(pairs=Pairs(near_seconds=0.1, far_seconds=0.2))])
def test_speed_is_refused_where_targets_have_times(spec: BatchSpec) -> None:
    with pytest.raises(UserError, match=r"augment\.speed=0\.5: .* set augment\.speed=0"):
        batches(BatchAugmentConfig(speed=0.5), spec=spec)


def test_pitch_needs_a_window() -> None:
    short = CONFIG.model_copy(update={"min_seconds": 0.05})
    with pytest.raises(UserError, match=r"augment\.pitch=0\.5 needs crops of at least 0\.064 s"):
        CropBatches([tone_store()], short, seed=0, augment=BatchAugmentConfig(pitch=0.5))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["noise=1.5"], "noise"),
        (["noise=-0.1"], "noise"),
        (["noise_snr=[30,5]"], "the lower end comes first"),
        (["reverb_seconds=[0,0.5]"], "allowed: above 0"),
        (["speed_factors=[0.1,1]"], "speed_factors"),
        (["pitch_semitones=[-13,1]"], "allowed: within -12 to 12"),
        (["mix_share=[0,1.5]"], "allowed: within 0 to 1"),
        (["low_pass=0.5", "high_pass=0.5", "low_pass_hz=[400,800]"], "high_pass_hz up to 500; allowed: below"),
        (["low_pass=0.5", "telephone=0.5", "low_pass_hz=[200,800]"], "low_pass_hz from 200; allowed with telephone"),
        (["high_pass=0.5", "telephone=0.5", "high_pass_hz=[200,3500]"], "high_pass_hz up to 3500; allowed with"),
        (["low_pass=0.5", "low_pass_hz=[7000,9000]"], "allowed: within 1 to 8000"),
        (["high_pass=0.5", "high_pass_hz=[8100,9000]"], "allowed: within 1 to 8000"),
        (["noise_snr=[nan,5]"], "noise_snr"),
        (["mix_ratio=[-inf,5]"], "mix_ratio"),
    ],
)
def test_settings_that_cannot_be(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config(BatchAugmentConfig, overrides=words)
