"""Batches as pure functions: batch ``n`` depends on the seed, the corpus and ``n``, not on earlier draws.

So a run that is resumed at step ``n`` gets the same batches as an uninterrupted one, and ranks and micro-batches are
slices of one global batch.

Pretraining crops (fairseq's ``raw_audio_dataset`` crops a batch to its shortest item): nothing is padded. Utterances
shorter than the minimum are joined with others of the same speaker first (with short clips alone, masks and negatives
are degenerate).
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from pydantic import Field
from torch import Tensor

from speechssl.audio import normalize, seconds_to_samples
from speechssl.config import Config, UserError
from speechssl.data.augment import augment
from speechssl.data.batch import CROPS_ALONE, BatchSpec, CropBatch, FrameGrid, FrameLabels, Pairs
from speechssl.data.manifest import Utterance

_ORDER, _CROP, _JOIN, _VIEW, _PAIR = 1, 2, 3, 6, 7  # purposes of random streams; part of their seeds
_READERS = 16  # requests to a server at a time
_LENGTH_STEP = seconds_to_samples(0.25)
WINDOW = 16  # batches whose crops are sorted by length together


@runtime_checkable
class Store(Protocol):
    """Interface of a packed corpus for batching; :class:`speechssl.data.waveforms.WaveformStore` is one."""

    @property
    def utterances(self) -> list[Utterance]:
        """The manifest, in order."""
        ...

    @property
    def lengths(self) -> Int64[np.ndarray, " utterances"]:
        """Samples of each utterance at 16 kHz."""
        ...

    def waveform(self, index: int, start: int = 0, stop: int | None = None) -> Float32[np.ndarray, " samples"]:
        """Samples ``start`` to ``stop`` of an utterance."""
        ...


Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class CropConfig(Config):
    """Lengths of training examples and batches."""

    seconds: Seconds = 15.6  # longest crop (paper: 250,000 samples)
    min_seconds: Seconds = 2.0  # shorter utterances are joined within a speaker (fairseq: 32,000 samples)
    batch_seconds: Seconds = 87.5  # crops of full length in a global batch (paper: 1.4 M samples per GPU)
    normalize: bool = True  # zero mean, unit variance for each crop


@dataclass(frozen=True)
class _Unit:
    """One or several utterances that make a training example; ``store`` is the number of the corpus."""

    store: int
    utterances: tuple[int, ...]
    samples: int


class CropBatches:
    """Global batches of crops over one or several packed corpora.

    Args:
        stores: packed corpora.
        config: crop and batch sizes.
        seed: of order, joins, crop places, views and pairs.
        keep: utterances of each corpus that are used; default all.
        spec: parts of the batch besides the crops.
        labels: of each corpus, where the spec has labels of frames.

    Raises:
        UserError: nothing is long enough to train on.
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
    ):
        self.stores, self.config, self.seed = list(stores), config, seed
        self.spec, self.labels = spec, labels
        assert spec.labels is None or len(labels) == len(stores)
        self._longest = seconds_to_samples(config.seconds)
        self._shortest = seconds_to_samples(config.min_seconds)
        if not self._shortest <= self._longest:
            raise UserError(f"crops: min_seconds {config.min_seconds} must be at most seconds {config.seconds}")
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

    def _join(self, keep: Sequence[Sequence[int]]) -> "tuple[list[_Unit], int]":
        """Long utterances alone, short ones joined within a speaker (a folder where it is unknown) up to a crop."""
        units: list[_Unit] = []
        dropped = 0
        rng = np.random.default_rng((self.seed, _JOIN))
        for place, (store, indices) in enumerate(zip(self.stores, keep, strict=True)):
            short: dict[str, list[int]] = {}
            for index in indices:
                utterance, samples = store.utterances[index], int(store.lengths[index])
                if samples >= self._shortest:
                    units.append(_Unit(place, (int(index),), samples))
                else:
                    short.setdefault(utterance.speaker or str(Path(utterance.audio).parent), []).append(int(index))
            for _, members in sorted(short.items()):
                group: list[int] = []
                samples = 0
                for index in rng.permutation(members).tolist():
                    group.append(index)
                    samples += int(store.lengths[index])
                    if samples >= self._longest:
                        units.append(_Unit(place, tuple(group), samples))
                        group, samples = [], 0
                if samples >= self._shortest:
                    units.append(_Unit(place, tuple(group), samples))
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
        """Batch ``number`` (from 0, without end), or one rank's share of it.

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
        starts = [self._start(self._rng(_CROP, number, row), unit, samples) for row, unit in enumerate(members)]
        rows = np.array_split(np.arange(len(members)), world_size)[rank]
        crops = self._read_all([(members[row], starts[row], samples) for row in rows])
        batch = CropBatch(self._stacked(crops), rows, len(members))
        if self.spec.views:
            drawn = [self._views(crop, number, int(row)) for crop, row in zip(crops, rows, strict=True)]
            batch = replace(batch, views=torch.stack([self._stacked(each) for each in zip(*drawn, strict=True)]))
        if self.spec.grid is not None:
            found = [self._labels_of(members[row], starts[row], samples, self.spec.grid) for row in rows]
            batch = replace(batch, labels=torch.from_numpy(np.stack(found)))
        if self.spec.pairs is not None:
            batch = self._with_pairs(batch, self.spec.pairs, members, starts, number)
        return batch

    def _rng(self, purpose: int, *place: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, purpose, *place))

    def _start(self, rng: np.random.Generator, unit: _Unit, samples: int) -> int:
        """Any place of a crop in its unit, on a multiple of the hop."""
        return int(rng.integers(unit.samples - samples + 1)) // self.spec.hop * self.spec.hop

    def _views(self, crop: Float32[np.ndarray, " samples"], number: int, row: int) -> list[np.ndarray]:
        assert self.spec.augment is not None
        rngs = [self._rng(_VIEW, number, row, view) for view in range(self.spec.views)]
        return [augment(crop, self.spec.augment, rng=rng) for rng in rngs]

    def _labels_of(self, unit: _Unit, start: int, samples: int, grid: FrameGrid) -> Int64[np.ndarray, " frames"]:
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

    def _with_pairs(
        self, batch: CropBatch, pairs: Pairs, members: Sequence[_Unit], starts: Sequence[int], number: int
    ) -> CropBatch:
        samples, hop = batch.waveforms.shape[1], self.spec.hop
        reach, away = seconds_to_samples(pairs.near_seconds), seconds_to_samples(pairs.far_seconds)
        near, far = list[np.ndarray](), list[np.ndarray]()
        offsets: list[int] = []
        for row in batch.rows.tolist():
            unit, start, rng = members[row], starts[row], self._rng(_PAIR, number, row)
            last = unit.samples - samples
            low, high = -(-max(0, start - reach) // hop), min(last, start + reach) // hop  # both ends in hops
            place = int(rng.integers(low, high + 1)) * hop
            near.append(self._read(unit, place, samples))
            offsets.append(place - start)
            before, after = max(0, start - away + 1), max(0, last - start - away + 1)  # starts that are far enough
            other = int(rng.integers(1, len(members)))
            drawn = int(rng.integers(before + after)) if before + after else 0
            if before + after:
                far.append(self._read(unit, drawn if drawn < before else start + away + drawn - before, samples))
            else:
                stranger = members[(row + other) % len(members)]
                far.append(self._read(stranger, self._start(rng, stranger, samples), samples))
        return replace(batch, near=self._stacked(near), near_offset=torch.tensor(offsets), far=self._stacked(far))

    def _stacked(self, crops: Sequence[np.ndarray]) -> Float[Tensor, "batch samples"]:
        """Crops for training: normalised where the settings require it."""
        return torch.from_numpy(np.stack([normalize(crop) if self.config.normalize else crop for crop in crops]))

    def _order(self, epoch: int) -> Int64[np.ndarray, "batches batch"]:
        """The epoch's order, cached until another one is needed."""
        cached = self._cached  # read once: another thread may replace it in between
        if cached is None or cached[0] != epoch:
            self._cached = cached = (epoch, self._epoch(epoch))
        return cached[1]

    def _read_all(self, crops: Sequence[tuple[_Unit, int, int]]) -> list[np.ndarray]:
        """Crops of units, in order; in threads where each is a request to a server, which takes a round trip."""
        if self._readers is None:
            return [self._read(*crop) for crop in crops]
        return list(self._readers.map(lambda crop: self._read(*crop), crops))

    def _read(self, unit: _Unit, start: int, samples: int) -> Float[np.ndarray, " samples"]:
        store = self.stores[unit.store]
        pieces: list[np.ndarray] = []
        for index in unit.utterances:
            length = int(store.lengths[index])
            if start < length and samples > 0:
                piece = store.waveform(index, start, min(length, start + samples))
                pieces.append(piece)
                samples -= len(piece)
            start = max(0, start - length)
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
