"""Batches for fine-tuning: whole utterances of similar length, padded, with their targets.

As in pretraining, batch ``n`` is a pure function of the seed, the examples and ``n``: order, crops and augmentation
do not depend on earlier draws, so that a resumed run gets the same batches as an uninterrupted one.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Int, Int64
from pydantic import Field, NonNegativeInt
from torch import Tensor

from speechssl.audio import normalize, samples_to_seconds, seconds_to_samples
from speechssl.config import Config, UserError
from speechssl.data.augment import AugmentConfig, augment
from speechssl.data.crops import WINDOW
from speechssl.data.stored_crops import Store

_ORDER, _CROP, _AUGMENT = 11, 12, 13  # purposes of random streams; part of their seeds


@dataclass(frozen=True)
class Example:
    """One labelled utterance.

    Attributes:
        index: of the utterance in its prepared corpus.
        target: the name of a class, or a normalised transcript.
    """

    index: int
    target: str


class LabelledConfig(Config):
    """Settings of batches of labelled utterances."""

    batch_seconds: float = Field(default=32.0, gt=0)  # of audio in a global batch, for utterances of mean length
    batch_utterances: NonNegativeInt = 0  # in a global batch; 0: as many as batch_seconds hold
    max_seconds: float = Field(
        default=20.0, gt=0
    )  # longer ones are cropped at random, or left out where texts are learnt


@dataclass(frozen=True)
class LabelledBatch:
    """A slice of a global batch of padded waveforms.

    ``examples`` are places in the list of examples; ``rows`` are places in the global batch of ``global_rows``, from
    which random draws are made, so that any way of slicing gives the same draws.
    """

    waveforms: Float32[Tensor, "batch samples"]
    num_samples: Int64[Tensor, " batch"]
    examples: Int64[np.ndarray, " batch"]
    rows: Int[np.ndarray, " batch"]
    number: int
    global_rows: int
    global_seconds: float

    def micro_batches(self, count: int) -> "list[LabelledBatch]":
        """Split into ``count`` nearly equal parts, fewer when there are fewer rows."""
        parts = np.array_split(np.arange(len(self.rows)), min(count, len(self.rows)))
        return [self._part(part) for part in parts]

    def pinned(self) -> "LabelledBatch":
        """A copy in page-locked memory, from which a GPU copies while the program continues."""
        return dataclasses.replace(
            self, waveforms=self.waveforms.pin_memory(), num_samples=self.num_samples.pin_memory()
        )

    def to(self, device: torch.device) -> "LabelledBatch":
        """The same batch with its tensors on a device."""
        return dataclasses.replace(
            self,
            waveforms=self.waveforms.to(device, non_blocking=True),
            num_samples=self.num_samples.to(device, non_blocking=True),
        )

    def _part(self, part: Int64[np.ndarray, " part"]) -> "LabelledBatch":
        longest = int(self.num_samples[part].max())
        return LabelledBatch(
            waveforms=self.waveforms[part, :longest],
            num_samples=self.num_samples[part],
            examples=self.examples[part],
            rows=self.rows[part],
            number=self.number,
            global_rows=self.global_rows,
            global_seconds=self.global_seconds,
        )


class LabelledBatches:
    """Global batches over labelled utterances of a prepared corpus.

    Args:
        store: the prepared corpus.
        indices: of the examples' utterances.
        config: sizes.
        normalized: zero mean and unit variance for each utterance, after augmentation.
        augmentation: random changes; None: no change, and crops at the start.
        seed: of order, crops and augmentation.
        shuffle: False gives every example once per epoch, in order of length (for validation).

    Raises:
        UserError: no examples.
    """

    def __init__(
        self,
        store: Store,
        indices: Sequence[int],
        config: LabelledConfig,
        *,
        normalized: bool,
        augmentation: AugmentConfig | None,
        seed: int,
        shuffle: bool = True,
    ):
        if not indices:
            raise UserError("nothing to train on: no labelled utterance")
        self.store, self.indices, self.config = store, np.asarray(indices, dtype=np.int64), config
        self.normalized, self.augmentation, self.seed, self.shuffle = normalized, augmentation, seed, shuffle
        self._longest = seconds_to_samples(config.max_seconds)
        self.lengths = np.minimum(np.asarray(store.lengths)[self.indices], self._longest)
        self.seconds = samples_to_seconds(int(self.lengths.sum()))
        mean = self.seconds / len(indices)
        wanted = config.batch_utterances or max(1, round(config.batch_seconds / mean))
        self.batch_size = min(wanted, len(indices))
        self.batches_per_epoch = -(-len(indices) // self.batch_size)
        self._cached: tuple[int, list[Int64[np.ndarray, " batch"]]] | None = None

    def _epoch(self, epoch: int) -> list[Int64[np.ndarray, " batch"]]:
        """Examples of every batch of an epoch: shuffled, then sorted by length within windows to pad little."""
        if not self.shuffle:
            order = np.argsort(self.lengths, kind="stable")
            return np.array_split(order, self.batches_per_epoch)  # even: ranks cannot share a batch of one
        rng = np.random.default_rng((self.seed, _ORDER, epoch))
        order = rng.permutation(len(self.indices))
        missing = self.batches_per_epoch * self.batch_size - len(order)
        order = np.concatenate([order, rng.choice(len(self.indices), missing)])
        window = np.arange(len(order)) // (self.batch_size * WINDOW)
        order = order[np.lexsort((self.lengths[order], window))]
        return list(rng.permutation(order.reshape(self.batches_per_epoch, self.batch_size)))

    def batch(self, number: int, *, rank: int = 0, world_size: int = 1) -> LabelledBatch:
        """Batch ``number`` (from 0, without end), or one rank's share of it.

        Raises:
            UserError: more ranks than utterances in a batch.
        """
        epoch, place = divmod(number, self.batches_per_epoch)
        cached = self._cached  # read once: another thread may replace it in between
        if cached is None or cached[0] != epoch:
            self._cached = cached = (epoch, self._epoch(epoch))
        members = cached[1][place]
        if world_size > len(members):
            raise UserError(f"{world_size} ranks cannot share a batch of {len(members)} utterances")
        rows = np.array_split(np.arange(len(members)), world_size)[rank]
        waveforms = [self._waveform(int(members[row]), number, int(row)) for row in rows]
        lengths = np.array([len(waveform) for waveform in waveforms], dtype=np.int64)
        padded = np.zeros((len(rows), int(lengths.max())), dtype=np.float32)
        for row, waveform in zip(padded, waveforms, strict=True):
            row[: len(waveform)] = waveform
        return LabelledBatch(
            waveforms=torch.from_numpy(padded),
            num_samples=torch.from_numpy(lengths),
            examples=members[rows].astype(np.int64),
            rows=rows,
            number=number,
            global_rows=len(members),
            global_seconds=samples_to_seconds(int(self.lengths[members].sum())),
        )

    def _waveform(self, example: int, number: int, row: int) -> Float32[np.ndarray, " samples"]:
        index = int(self.indices[example])
        length, wanted = int(self.store.lengths[index]), int(self.lengths[example])
        start = 0
        if self.shuffle and length > wanted:
            start = int(np.random.default_rng((self.seed, _CROP, number, row)).integers(length - wanted + 1))
        waveform = self.store.waveform(index, start, start + wanted)
        if self.augmentation is not None:
            rng = np.random.default_rng((self.seed, _AUGMENT, number, row))
            waveform = augment(waveform, self.augmentation, rng=rng)
        return normalize(waveform) if self.normalized else waveform
