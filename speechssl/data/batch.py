"""A batch of crops, and its optional parts for an objective: augmented views, labels of frames, near and far crops.

The optional parts are made together with the crops, ahead of the training step, as a function of (seed, number of the
batch, row): ranks and micro-batches get slices of the same draw, and a resumed run gets the same batches.
"""

import dataclasses
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float64, Int, Int64, Integer
from torch import Tensor

from speechssl.audio import samples_to_seconds
from speechssl.config import Config
from speechssl.data.augment import AugmentConfig


@dataclass(frozen=True)
class FrameGrid:
    """Positions of the frames of an encoder.

    Attributes:
        hop: samples from one frame to the next.
        receptive_field: input samples of a frame.
        padding: zeros before the first sample, samples.
    """

    hop: int
    receptive_field: int
    padding: int = 0

    def count(self, samples: int) -> int:
        """Number of frames of a number of samples.

        >>> FrameGrid(320, 400).count(16000)
        49
        """
        return max(0, (samples + 2 * self.padding - self.receptive_field) // self.hop + 1)

    def centres(self, frames: int) -> Float64[np.ndarray, " frames"]:
        """Centre of each frame, samples from the first sample on.

        >>> FrameGrid(320, 400).centres(3)
        array([200., 520., 840.])
        """
        return np.arange(frames) * self.hop - self.padding + self.receptive_field / 2


@runtime_checkable
class FrameLabels(Protocol):
    """A class for every frame of every utterance of a corpus; :class:`speechssl.data.units.Units` is one."""

    @property
    def grid(self) -> FrameGrid:
        """Positions of the labelled frames."""
        ...

    def of(self, index: int) -> Integer[np.ndarray, " frames"]:
        """Labels of an utterance, by its place in the manifest."""
        ...


@dataclass(frozen=True)
class Pairs:
    """A near and a far crop beside every crop.

    Attributes:
        near_seconds: largest distance from the start of a crop to that of its near one, s.
        far_seconds: smallest distance to the far one in the same recording, s; where the recording is too short for
            that, the far crop is of another recording in the batch.
    """

    near_seconds: float
    far_seconds: float

    def __post_init__(self) -> None:
        if not 0 < self.near_seconds <= self.far_seconds:
            raise ValueError(f"near_seconds {self.near_seconds:g}, far_seconds {self.far_seconds:g}: 0 < near <= far")


@dataclass(frozen=True)
class BatchSpec:
    """Parts of a batch that an objective needs besides the crops.

    Attributes:
        views: augmented copies of every crop.
        augment: settings of the copies; without other speeds, which would change their length.
        labels: name of the labels of frames that the corpus has (see :mod:`speechssl.data.units`), or settings of
            clusters, which are made where there are none; None: none.
        grid: positions of the encoder's frames, for which labels are looked up.
        hop: crops start on multiples of it, samples; that of the labels, so that frames of a crop are labelled.
        pairs: near and far crops; None: none. Crops are then at most half as long as the shortest recording of a batch.
    """

    views: int = 0
    augment: AugmentConfig | None = None
    labels: str | Config | None = None
    grid: FrameGrid | None = None
    hop: int = 1
    pairs: Pairs | None = None

    def __post_init__(self) -> None:
        if (self.views > 0) != (self.augment is not None):
            raise ValueError(f"views {self.views}, augment {self.augment}: both or neither")
        if self.augment is not None and self.augment.speed > 0:
            raise ValueError(f"augment.speed {self.augment.speed:g} of views, allowed: 0, as it changes the length")
        if (self.labels is None) != (self.grid is None):
            raise ValueError("labels need the grid of the frames that they are looked up for")


CROPS_ALONE = BatchSpec()


@dataclass(frozen=True)
class CropBatch:
    """A slice of a global batch of normalised waveforms of equal length.

    Random draws are made for the whole batch and sliced by `rows`, so that any way of slicing gives the same draws.

    Attributes:
        waveforms: the crops.
        rows: places of these crops in the global batch.
        global_rows: crops in the global batch.
        views: augmented copies of the crops; None where the objective needs none, as for all that follow.
        labels: of the encoder's frames of the crops.
        near: a crop near each crop.
        near_offset: samples from the start of the crop to that of its near one; below zero where it comes before.
        far: a crop far from each crop.
    """

    waveforms: Float[Tensor, "batch samples"]
    rows: Int[np.ndarray, " batch"]
    global_rows: int
    views: Float[Tensor, "views batch samples"] | None = None
    labels: Int64[Tensor, "batch frames"] | None = None
    near: Float[Tensor, "batch samples"] | None = None
    near_offset: Int64[Tensor, " batch"] | None = None
    far: Float[Tensor, "batch samples"] | None = None

    @property
    def global_seconds(self) -> float:
        """Seconds of audio in the global batch."""
        return samples_to_seconds(self.global_rows * self.waveforms.shape[1])

    def micro_batches(self, count: int) -> "list[CropBatch]":
        """Split into ``count`` nearly equal parts, fewer when there are fewer rows."""
        parts = np.array_split(np.arange(len(self.rows)), min(count, len(self.rows)))
        return [self._part(part) for part in parts]

    def to(self, device: torch.device) -> "CropBatch":
        """The same batch with its tensors on a device."""
        moved = {name: tensor.to(device, non_blocking=True) for name, tensor in self._tensors().items()}
        return dataclasses.replace(self, **moved)

    def _part(self, part: Int[np.ndarray, " part"]) -> "CropBatch":
        tensors = {name: each[:, part] if name == "views" else each[part] for name, each in self._tensors().items()}
        return dataclasses.replace(self, **tensors, rows=self.rows[part])

    def _tensors(self) -> dict[str, Tensor]:
        values = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}
