"""Batches as pure functions: batch ``n`` depends on the seed, the corpus and ``n``, not on earlier draws.

So a run that is resumed at step ``n`` gets the same batches as an uninterrupted one, and ranks and micro-batches are
slices of one global batch.

Pretraining crops (fairseq's ``raw_audio_dataset`` crops a batch to its shortest item): nothing is padded. Utterances
shorter than the minimum are joined with others of the same speaker first (with short clips alone, masks and negatives
are degenerate).
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from pydantic import Field
from torch import Tensor

from speechssl.audio import normalize, samples_to_seconds, seconds_to_samples
from speechssl.config import Config, UserError
from speechssl.data.augment import augment
from speechssl.data.batch import CROPS_ALONE, BatchSpec, CropBatch, FrameGrid, FrameLabels, Pairs, StoredBatch
from speechssl.data.batch_augment import MIN_PITCHED, NO_AUGMENT, BatchAugmentConfig, RowEffects, draw_effects
from speechssl.data.stored_crops import Crop, Store, Unit, read_crop, stacked

_ORDER, _CROP, _JOIN, _VIEW, _PAIR, _EFFECTS = 1, 2, 3, 6, 7, 8  # purposes of random streams; part of their seeds
_READERS = 16  # requests to a server at a time
_LENGTH_STEP = seconds_to_samples(0.25)
WINDOW = 16  # batches whose crops are sorted by length together


Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class CropConfig(Config):
    """Lengths of training examples and batches."""

    seconds: Seconds = 15.6  # longest crop (paper: 250,000 samples)
    min_seconds: Seconds = 2.0  # shorter utterances are joined within a speaker (fairseq: 32,000 samples)
    batch_seconds: Seconds = 87.5  # crops of full length in a global batch (paper: 1.4 M samples per GPU)
    normalize: bool = True  # zero mean, unit variance for each crop


class CropBatches:
    """Global batches of crops over one or several packed corpora.

    Args:
        stores: packed corpora.
        config: crop and batch sizes.
        seed: of order, joins, crop places, views and pairs.
        keep: utterances of each corpus that are used; default all.
        spec: parts of the batch besides the crops.
        labels: of each corpus, where the spec has labels of frames.
        augment: augmentation of the crops.

    Raises:
        UserError: nothing is long enough to train on, or effects that the spec or the lengths do not allow.
    """

    def __init__(
        self,
        stores: Sequence[Store],
        config: CropConfig,
        *,
        seed: int,
        keep: Sequence[Sequence[int]] | None = None,
        spec: BatchSpec = CROPS_ALONE,
        labels: Sequence[FrameLabels] = (),
        augment: BatchAugmentConfig = NO_AUGMENT,
    ):
        self.stores, self.config, self.seed = list(stores), config, seed
        self.spec, self.labels, self.augment = spec, labels, augment
        assert spec.labels is None or len(labels) == len(stores)
        self._longest = seconds_to_samples(config.seconds)
        self._shortest = seconds_to_samples(config.min_seconds)
        if not self._shortest <= self._longest:
            raise UserError(f"crops: min_seconds {config.min_seconds} must be at most seconds {config.seconds}")
        check_effects(augment, spec, shortest=self._shortest)
        keep = [range(len(store.lengths)) for store in stores] if keep is None else keep
        self.units, self.dropped = self._join(keep)
        if not self.units:
            raise UserError(
                f"nothing to train on: no utterance, alone or joined within its speaker, reaches {config.min_seconds} s"
            )
        self.batch_size = max(2, round(config.batch_seconds / config.seconds))
        self.batches_per_epoch = -(-len(self.units) // self.batch_size)
        remote = any(getattr(store, "is_remote", False) for store in self.stores)
        self._readers = ThreadPoolExecutor(_READERS) if remote else None
        self._cached: tuple[int, Int64[np.ndarray, "batches batch"]] | None = None
        self.seconds = sum(unit.samples for unit in self.units) / seconds_to_samples(1.0)

    def _join(self, keep: Sequence[Sequence[int]]) -> "tuple[list[Unit], int]":
        """Long utterances alone, short ones joined within a speaker (a folder where it is unknown) up to a crop."""
        units: list[Unit] = []
        dropped = 0
        rng = np.random.default_rng((self.seed, _JOIN))
        for place, (store, indices) in enumerate(zip(self.stores, keep, strict=True)):
            short: dict[str, list[int]] = {}
            for index in indices:
                utterance, samples = store.utterances[index], int(store.lengths[index])
                if samples >= self._shortest:
                    units.append(Unit(place, (int(index),), samples))
                else:
                    short.setdefault(utterance.speaker or str(Path(utterance.audio).parent), []).append(int(index))
            for _, members in sorted(short.items()):
                group: list[int] = []
                samples = 0
                for index in rng.permutation(members).tolist():
                    group.append(index)
                    samples += int(store.lengths[index])
                    if samples >= self._longest:
                        units.append(Unit(place, tuple(group), samples))
                        group, samples = [], 0
                if samples >= self._shortest:
                    units.append(Unit(place, tuple(group), samples))
                else:
                    dropped += len(group)
        return units, dropped

    def _epoch(self, epoch: int) -> Int64[np.ndarray, "batches batch"]:
        """Units of every batch of an epoch: shuffled, then sorted by length within windows, so as to crop little."""
        rng = np.random.default_rng((self.seed, _ORDER, epoch))
        order = rng.permutation(len(self.units))
        missing = self.batches_per_epoch * self.batch_size - len(order)
        order = np.concatenate([order, rng.choice(len(self.units), missing)])
        lengths = np.minimum([self.units[index].samples for index in order], self._longest)
        window = np.arange(len(order)) // (self.batch_size * WINDOW)
        order = order[np.lexsort((lengths, window))]
        return rng.permutation(order.reshape(self.batches_per_epoch, self.batch_size))

    def batch(self, number: int, *, rank: int = 0, world_size: int = 1) -> CropBatch:
        """Batch ``number`` (from 0, without end), or one rank's share of it, ready on the CPU; see :meth:`stored`."""
        return self.stored(number, rank=rank, world_size=world_size).to(torch.device("cpu"))

    def stored(self, number: int, *, rank: int = 0, world_size: int = 1) -> StoredBatch:
        """Batch ``number`` (from 0, without end), or one rank's share of it, to be copied to a device.

        All crops have the length of the global batch's shortest unit, at most ``seconds``, rounded down to a
        quarter of a second (an eighth of ``seconds`` for crops of less than 2 s).

        Raises:
            UserError: more ranks than crops.
        """
        if world_size > self.batch_size:
            raise UserError(f"{world_size} ranks cannot share a batch of {self.batch_size} crops")
        epoch, place = divmod(number, self.batches_per_epoch)
        members = [self.units[index] for index in self._order(epoch)[place]]
        available = min(self._longest, *(unit.samples // (2 if self.spec.pairs else 1) for unit in members))
        # A length that occurs for the first time costs some 5 ms for each kernel of the encoder.
        step = min(_LENGTH_STEP, self._longest // 8)
        samples = max(available - available % step, min(available, self._shortest))
        effects = [] if self.augment.is_off else self._effects(members, samples, number)
        widths = [drawn.width for drawn in effects] or [samples] * len(members)
        starts = [self._start(self._rng(_CROP, number, row), unit, widths[row]) for row, unit in enumerate(members)]
        rows = np.array_split(np.arange(len(members)), world_size)[rank]
        crops = self._read_all([(members[row], starts[row], widths[row]) for row in rows])
        stored, gains = stacked(crops, max(samples, *widths))
        batch = StoredBatch(stored, gains, rows, len(members), samples, self.config.normalize)
        if effects:
            batch = replace(batch, effects=tuple(effects[row] for row in rows))
            batch = self._with_others(batch, members, starts)
        return replace(batch, level=self.spec.level, beside=self._beside(crops, members, starts, number, rows, samples))

    def _effects(self, members: Sequence[Unit], samples: int, number: int) -> list[RowEffects]:
        count = len(members)
        return [
            draw_effects(
                self.augment,
                row=row,
                rows=count,
                samples=samples,
                available=unit.samples,
                rng=self._rng(_EFFECTS, number, row),
            )
            for row, unit in enumerate(members)
        ]

    def _with_others(self, batch: StoredBatch, members: Sequence[Unit], starts: Sequence[int]) -> StoredBatch:
        """The batch with the crops that are mixed in, without their own effects."""
        if not self.augment.mix:
            return batch
        samples, others = batch.samples, [drawn.other for drawn in batch.effects]
        wanted = {
            row: (members[row], min(starts[row], members[row].samples - samples), samples)
            for row in others
            if row is not None
        }
        read = dict(zip(wanted, self._read_all([*wanted.values()]), strict=True))
        nothing = Crop(np.zeros(samples, dtype=np.int16))
        stored, gains = stacked([nothing if row is None else read[row] for row in others], samples)
        return replace(batch, others=stored, other_gains=gains)

    def _beside(
        self,
        crops: Sequence[Crop],
        members: Sequence[Unit],
        starts: Sequence[int],
        number: int,
        rows: Int64[np.ndarray, " batch"],
        samples: int,
    ) -> dict[str, Tensor]:
        """The optional parts of a batch."""
        beside: dict[str, Tensor] = {}
        if self.spec.views:
            drawn = [self._views(crop.waveform, number, int(row)) for crop, row in zip(crops, rows, strict=True)]
            beside["views"] = torch.stack([self._normalized(each) for each in zip(*drawn, strict=True)])
        if self.spec.grid is not None:
            found = [self._labels_of(members[row], starts[row], samples, self.spec.grid) for row in rows]
            beside["labels"] = torch.from_numpy(np.stack(found))
        if self.spec.pairs is not None:
            beside |= self._pairs(self.spec.pairs, members, starts, number, rows, samples)
        if self.spec.speakers:
            beside["speakers"] = torch.from_numpy(self._speakers(members)[rows])
        return beside

    def _speakers(self, members: Sequence[Unit]) -> Int64[np.ndarray, " all_rows"]:
        """For each row the first row of the same speaker; its own where the speaker is unknown."""
        first: dict[tuple[int, str], int] = {}
        found = np.arange(len(members))
        for row, unit in enumerate(members):  # a unit is joined within a speaker
            name = self.stores[unit.store].utterances[unit.utterances[0]].speaker
            if name is not None:
                found[row] = first.setdefault((unit.store, name), row)
        return found

    def _rng(self, purpose: int, *place: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, purpose, *place))

    def _start(self, rng: np.random.Generator, unit: Unit, samples: int) -> int:
        """Any place of a crop in its unit, on a multiple of the hop."""
        return int(rng.integers(unit.samples - samples + 1)) // self.spec.hop * self.spec.hop

    def _views(self, crop: Float32[np.ndarray, " samples"], number: int, row: int) -> list[np.ndarray]:
        assert self.spec.augment is not None
        rngs = [self._rng(_VIEW, number, row, view) for view in range(self.spec.views)]
        return [augment(crop, self.spec.augment, rng=rng) for rng in rngs]

    def _labels_of(self, unit: Unit, start: int, samples: int, grid: FrameGrid) -> Int64[np.ndarray, " frames"]:
        """The label of the utterance that holds a frame's centre, of the labelled frame that is nearest to it."""
        lengths = [int(self.stores[unit.store].lengths[index]) for index in unit.utterances]
        begins = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        centres = start + grid.centres(grid.count(samples))
        owner = np.searchsorted(begins, centres, side="right") - 1
        labels = self.labels[unit.store]
        found = np.empty(len(centres), dtype=np.int64)
        for place, index in enumerate(unit.utterances):
            mine, known = owner == place, labels.of(index)
            own = (centres[mine] - begins[place] - labels.grid.centres(1)[0]) / labels.grid.hop
            found[mine] = known[np.clip(np.rint(own).astype(np.int64), 0, len(known) - 1)]
        return found

    def _pairs(
        self,
        pairs: Pairs,
        members: Sequence[Unit],
        starts: Sequence[int],
        number: int,
        rows: Int64[np.ndarray, " batch"],
        samples: int,
    ) -> dict[str, Tensor]:
        hop = self.spec.hop
        reach, away = seconds_to_samples(pairs.near_seconds), seconds_to_samples(pairs.far_seconds)
        near, far = list[np.ndarray](), list[np.ndarray]()
        offsets, sources = list[int](), list[int]()
        recordings = self._recordings(members)
        for row in rows.tolist():
            unit, start, rng = members[row], starts[row], self._rng(_PAIR, number, row)
            last = unit.samples - samples
            low, high = -(-max(0, start - reach) // hop), min(last, start + reach) // hop  # both ends in hops
            place = int(rng.integers(low, high + 1)) * hop
            near.append(self._read(unit, place, samples).waveform)
            offsets.append(place - start)
            before, after = max(0, start - away + 1), max(0, last - start - away + 1)  # starts that are far enough
            other = int(rng.integers(1, len(members)))
            drawn = int(rng.integers(before + after)) if before + after else 0
            if before + after:
                far.append(
                    self._read(unit, drawn if drawn < before else start + away + drawn - before, samples).waveform
                )
                sources.append(-1)
            else:
                sources.append(int(recordings[(row + other) % len(members)]))
                stranger = members[(row + other) % len(members)]
                far.append(self._read(stranger, self._start(rng, stranger, samples), samples).waveform)
        return {
            "near": self._normalized(near),
            "near_offset": torch.tensor(offsets),
            "far": self._normalized(far),
            "recording": torch.from_numpy(recordings[rows]),
            "far_recording": torch.tensor(sources),
        }

    def _recordings(self, members: Sequence[Unit]) -> Int64[np.ndarray, " all_rows"]:
        """For each row the first row of the same audio file."""
        first: dict[tuple[int, str], int] = {}
        files = [(unit.store, self.stores[unit.store].utterances[unit.utterances[0]].audio) for unit in members]
        return np.array([first.setdefault(file, row) for row, file in enumerate(files)])

    def _normalized(self, crops: Sequence[np.ndarray]) -> Float[Tensor, "batch samples"]:
        """Crops for training: normalised where the settings require it."""
        return torch.from_numpy(np.stack([normalize(crop) if self.config.normalize else crop for crop in crops]))

    def _order(self, epoch: int) -> Int64[np.ndarray, "batches batch"]:
        """The epoch's order, cached until another one is needed."""
        cached = self._cached  # read once: another thread may replace it in between
        if cached is None or cached[0] != epoch:
            self._cached = cached = (epoch, self._epoch(epoch))
        return cached[1]

    def _read_all(self, crops: Sequence[tuple[Unit, int, int]]) -> list[Crop]:
        """Crops of units, in order; in threads where each is a request to a server, which takes a round trip."""
        if self._readers is None:
            return [self._read(*crop) for crop in crops]
        return list(self._readers.map(lambda crop: self._read(*crop), crops))

    def _read(self, unit: Unit, start: int, samples: int) -> Crop:
        return read_crop(self.stores[unit.store], unit, start, samples)


def check_effects(augment: BatchAugmentConfig, spec: BatchSpec, *, shortest: int) -> None:
    """Check that a batch with the effects is one for an objective.

    Raises:
        UserError: effects that the parts of the batch or the shortest crop, in samples, do not allow.
    """
    if augment.speed and (spec.labels is not None or spec.views or spec.pairs is not None):
        raise UserError(
            f"augment.speed={augment.speed:g}: the objective has targets at the times of the recording, which another "
            "speed would move; set augment.speed=0"
        )
    if augment.pitch and shortest < MIN_PITCHED:
        raise UserError(
            f"augment.pitch={augment.pitch:g} needs crops of at least {samples_to_seconds(MIN_PITCHED)} s; raise "
            f"crops.min_seconds, or set augment.pitch=0"
        )
