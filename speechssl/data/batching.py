"""Batches as pure functions: batch ``n`` depends on the seed, the corpus and ``n``, never on what was drawn before.

So a run that is resumed at step ``n`` sees the data it would have seen, and ranks and micro-batches are slices of one
global batch.

Pretraining crops (fairseq's ``raw_audio_dataset`` crops a batch to its shortest item): nothing is padded. Utterances
shorter than the minimum are joined with others of the same speaker first (short clips alone make masks and distractors
degenerate).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, Int64
from pydantic import Field
from torch import Tensor

from speechssl.audio import normalize, samples_to_seconds, seconds_to_samples
from speechssl.config import Config, UserError
from speechssl.data.manifest import Utterance

_ORDER, _CROP, _JOIN = 1, 2, 3  # what a random stream is for; part of its seed
WINDOW = 16  # batches whose crops are sorted by length together


@runtime_checkable
class Store(Protocol):
    """What batching needs of a packed corpus; :class:`speechssl.data.waveforms.WaveformStore` is one."""

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
    """What one training example sees."""

    seconds: Seconds = 15.6  # longest crop (paper: 250,000 samples)
    min_seconds: Seconds = 2.0  # shorter utterances are joined within a speaker (fairseq: 32,000 samples)
    batch_seconds: Seconds = 87.5  # crops of full length in a global batch (paper: 1.4 M samples a GPU)
    normalize: bool = True  # zero mean, unit variance for each crop


@dataclass(frozen=True)
class CropBatch:
    """A slice of a global batch of normalised waveforms of equal length.

    ``rows`` are the places of these crops in the global batch of ``global_rows``; random draws are made for the whole
    batch and sliced by them, so that any way of slicing gives the same draws.
    """

    waveforms: Float[Tensor, "batch samples"]
    rows: Int[np.ndarray, " batch"]
    global_rows: int

    @property
    def global_seconds(self) -> float:
        """Seconds of audio in the global batch."""
        return samples_to_seconds(self.global_rows * self.waveforms.shape[1])

    def micro_batches(self, count: int) -> "list[CropBatch]":
        """Split into ``count`` nearly equal parts, fewer when there are fewer rows."""
        parts = np.array_split(np.arange(len(self.rows)), min(count, len(self.rows)))
        return [CropBatch(self.waveforms[part], self.rows[part], self.global_rows) for part in parts]

    def to(self, device: torch.device) -> "CropBatch":
        """The same batch with its waveforms on a device."""
        return CropBatch(self.waveforms.to(device, non_blocking=True), self.rows, self.global_rows)


@dataclass(frozen=True)
class _Unit:
    """One or several utterances that make a training example; ``store`` tells which corpus."""

    store: int
    utterances: tuple[int, ...]
    samples: int


class CropBatches:
    """Global batches of crops over one or several packed corpora.

    Args:
        stores: packed corpora.
        config: crop and batch sizes.
        seed: of order, joins and crop places.

    Raises:
        UserError: nothing is long enough to train on.
    """

    def __init__(
        self, stores: Sequence[Store], config: CropConfig, *, seed: int, keep: Sequence[Sequence[int]] | None = None
    ):
        self.stores, self.config, self.seed = list(stores), config, seed
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
        self._cached: tuple[int, Int64[np.ndarray, "batches batch"]] | None = None
        self.seconds = sum(unit.samples for unit in self.units) / seconds_to_samples(1.0)

    def _join(self, keep: Sequence[Sequence[int]]) -> "tuple[list[_Unit], int]":
        """Long utterances alone, short ones joined within a speaker (a folder where none is known) up to a crop."""
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
        """Units of every batch of an epoch: shuffled, then sorted by length within windows to waste little."""
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

        All crops have the length of the global batch's shortest unit, at most ``seconds``.

        Raises:
            UserError: more ranks than crops.
        """
        if world_size > self.batch_size:
            raise UserError(f"{world_size} ranks cannot share a batch of {self.batch_size} crops")
        epoch, place = divmod(number, self.batches_per_epoch)
        members = [self.units[index] for index in self._order(epoch)[place]]
        samples = min(self._longest, *(unit.samples for unit in members))
        starts = [
            int(np.random.default_rng((self.seed, _CROP, number, row)).integers(unit.samples - samples + 1))
            for row, unit in enumerate(members)
        ]
        rows = np.array_split(np.arange(len(members)), world_size)[rank]
        crops = [self._read(members[row], starts[row], samples) for row in rows]
        return CropBatch(waveforms=torch.from_numpy(np.stack(crops)), rows=rows, global_rows=len(members))

    def _order(self, epoch: int) -> Int64[np.ndarray, "batches batch"]:
        """The epoch's order, kept until another one is asked for: a cache, not state."""
        cached = self._cached  # read once: another thread may ask for another epoch in between
        if cached is None or cached[0] != epoch:
            self._cached = cached = (epoch, self._epoch(epoch))
        return cached[1]

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
        waveform = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
        return normalize(waveform) if self.config.normalize else waveform


def length_buckets(
    lengths: Sequence[float], batch_seconds: float, *, seed: int, epoch: int, shuffle: bool = True
) -> Iterator[list[int]]:
    """Batches of utterances of like length for fine-tuning, each of at most ``batch_seconds`` including padding.

    Args:
        lengths: seconds of each utterance.
        batch_seconds: longest length in a batch times its size stays at or below this; a longer utterance is a
            batch of its own.
        seed: with ``epoch`` the only source of randomness.
        epoch: number of the pass over the data.
        shuffle: jitter lengths by up to 5 % before sorting and shuffle the batches; False gives plain sorted batches.

    Yields:
        Indices into ``lengths``; every index once.

    Example:
        >>> list(length_buckets([1.0, 9.0, 1.1, 8.0], 18.0, seed=0, epoch=0, shuffle=False))
        [[0, 2], [3, 1]]
    """
    rng = np.random.default_rng((seed, _ORDER, epoch))
    seconds = np.asarray(lengths, dtype=float)
    jitter = rng.uniform(0.95, 1.05, len(seconds)) if shuffle else np.ones(len(seconds))
    batches: list[list[int]] = []
    longest = 0.0
    for index in np.argsort(seconds * jitter, kind="stable").tolist():
        longest = max(longest, seconds[index]) if batches else seconds[index]
        # A new batch also where lengths jump: padding one long utterance's worth onto many short ones is waste.
        if (
            not batches
            or longest * (len(batches[-1]) + 1) > batch_seconds
            or seconds[index] > 2 * seconds[batches[-1][0]]
        ):
            batches.append([])
            longest = seconds[index]
        batches[-1].append(index)
    yield from (
        batches[place] for place in (rng.permutation(len(batches)).tolist() if shuffle else range(len(batches)))
    )
