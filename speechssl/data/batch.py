"""A batch of crops, and its optional parts for an objective: views, labels of frames, near and far crops, speakers.

A :class:`StoredBatch` holds the samples as the corpus does, mostly int16; on a device it becomes a :class:`CropBatch`.

The optional parts are made together with the crops, ahead of the training step, as a function of (seed, number of the
batch, row): ranks and micro-batches get slices of the same draw, and a resumed run gets the same batches.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int, Int16, Int64, Integer
from torch import Tensor

from speechssl.audio import normalize, samples_to_seconds
from speechssl.config import Config
from speechssl.data.augment import AugmentConfig
from speechssl.data.batch_augment import RowEffects, augmented

R = TypeVar("R", bound="_Rows")


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
        speakers: whether rows of the same speaker are marked.
        level: whether the level of the recordings is kept.
    """

    views: int = 0
    augment: AugmentConfig | None = None
    labels: str | Config | None = None
    grid: FrameGrid | None = None
    hop: int = 1
    pairs: Pairs | None = None
    speakers: bool = False
    level: bool = False

    def __post_init__(self) -> None:
        if (self.views > 0) != (self.augment is not None):
            raise ValueError(f"views {self.views}, augment {self.augment}: both or neither")
        if self.augment is not None and self.augment.speed > 0:
            raise ValueError(f"augment.speed {self.augment.speed:g} of views, allowed: 0, as it changes the length")
        if (self.labels is None) != (self.grid is None):
            raise ValueError("labels need the grid of the frames that they are looked up for")


CROPS_ALONE = BatchSpec()


class _Rows:
    """A dataclass of tensors whose rows are rows of a global batch."""

    rows: Int[np.ndarray, " batch"]

    def micro_batches(self: R, count: int) -> list[R]:
        """Split into ``count`` nearly equal parts, fewer when there are fewer rows."""
        parts = np.array_split(np.arange(len(self.rows)), min(count, len(self.rows)))
        return [self.part(part) for part in parts]

    def part(self: R, part: Int[np.ndarray, " part"]) -> R:
        """The rows at some places."""
        return self.changed(
            lambda name, tensor: tensor[:, part] if name == "views" else tensor[part], rows=self.rows[part]
        )

    def pinned(self: R) -> R:
        """A copy in page-locked memory, from which a GPU copies while the program continues."""
        return self.changed(lambda _, tensor: tensor.pin_memory())

    def changed(self: R, change: Callable[[str, Tensor], Tensor], **values: Any) -> R:
        """The same with other tensors, and other values; tensors of a mapping have the names of its keys."""
        for each in dataclasses.fields(cast("Any", self)):
            value = getattr(self, each.name)
            if isinstance(value, Tensor):
                values[each.name] = change(each.name, value)
            elif isinstance(value, dict):
                values[each.name] = {
                    key: change(key, tensor) for key, tensor in cast("dict[str, Tensor]", value).items()
                }
        return dataclasses.replace(cast("Any", self), **values)


@dataclass(frozen=True)
class CropBatch(_Rows):
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
        speakers: a number per speaker of a corpus, the row of its first crop in the global batch; crops of unknown
            speakers have their own row.
        recording: a number per audio file, the first row of it in the global batch.
        far_recording: the same of the far crops; -1 where one is from the crop's own recording, as far as required.
        level: factor that gives a crop the level of its recording, in which full scale is 1; 1 where crops are not
            normalised.
    """

    waveforms: Float[Tensor, "batch samples"]
    rows: Int[np.ndarray, " batch"]
    global_rows: int
    views: Float[Tensor, "views batch samples"] | None = None
    labels: Int64[Tensor, "batch frames"] | None = None
    near: Float[Tensor, "batch samples"] | None = None
    near_offset: Int64[Tensor, " batch"] | None = None
    far: Float[Tensor, "batch samples"] | None = None
    speakers: Int64[Tensor, " batch"] | None = None
    recording: Int64[Tensor, " batch"] | None = None
    far_recording: Int64[Tensor, " batch"] | None = None
    level: Float32[Tensor, " batch"] | None = None

    @property
    def samples(self) -> int:
        """Length of a crop."""
        return self.waveforms.shape[1]

    @property
    def global_seconds(self) -> float:
        """Seconds of audio in the global batch."""
        return samples_to_seconds(self.global_rows * self.samples)

    def to(self, device: torch.device) -> "CropBatch":
        """The same batch with its tensors on a device."""
        return self.changed(lambda _, tensor: tensor.to(device, non_blocking=True))


@dataclass(frozen=True)
class StoredBatch(_Rows):
    """A slice of a global batch as it is copied to a device, where it is scaled, augmented and normalised.

    Attributes:
        stored: samples as they are stored, float32 where not all of them are int16.
        gains: factors of the samples; powers of two, so that nothing is rounded.
        rows: places of these crops in the global batch.
        global_rows: crops in the global batch.
        samples: length of a crop; another speed reads more or fewer.
        normalize: whether crops get zero mean and unit variance.
        effects: drawn augmentation of each row; none without augmentation.
        others: the crops that are mixed in, zeros in rows without; None where nothing is mixed.
        other_gains: factors of them.
        level: whether the crops on the device have their level beside them.
        beside: the optional parts of the :class:`CropBatch`, by their names.
    """

    stored: Int16[Tensor, "batch width"] | Float32[Tensor, "batch width"]
    gains: Float32[Tensor, " batch"]
    rows: Int[np.ndarray, " batch"]
    global_rows: int
    samples: int
    normalize: bool
    effects: tuple[RowEffects, ...] = ()
    others: Int16[Tensor, "batch samples"] | Float32[Tensor, "batch samples"] | None = None
    other_gains: Float32[Tensor, " batch"] | None = None
    level: bool = False
    beside: dict[str, Tensor] = field(default_factory=dict[str, Tensor])

    @property
    def global_seconds(self) -> float:
        """Seconds of audio in the global batch."""
        return samples_to_seconds(self.global_rows * self.samples)

    def part(self, part: Int[np.ndarray, " part"]) -> "StoredBatch":
        """The rows at some places."""
        effects = tuple(self.effects[place] for place in part) if self.effects else ()
        return dataclasses.replace(super().part(part), effects=effects)

    def to(self, device: torch.device) -> CropBatch:
        """The crops on a device, ready for an objective."""
        moved = self.changed(lambda _, tensor: tensor.to(device, non_blocking=True))
        waveforms = moved.stored.float() * moved.gains[:, None]
        if self.effects:
            assert (moved.others is None) == (moved.other_gains is None)
            others = None
            if moved.others is not None and moved.other_gains is not None:
                others = moved.others.float() * moved.other_gains[:, None]
            waveforms = augmented(waveforms, self.effects, samples=self.samples, others=others)
        beside = dict(moved.beside)
        if self.level:
            beside["level"] = _deviations(waveforms) if self.normalize else torch.ones_like(waveforms[:, 0])
        if self.normalize:
            waveforms = normalized(waveforms)
        return CropBatch(waveforms, self.rows, self.global_rows, **cast("Any", beside))


def normalized(waveforms: Float32[Tensor, "batch samples"]) -> Float32[Tensor, "batch samples"]:
    """Zero mean and unit variance of each row, see :func:`speechssl.audio.normalize`, which is used on the CPU."""
    if waveforms.device.type == "cpu":
        return torch.from_numpy(np.stack([normalize(row) for row in waveforms.numpy()]))
    return normalized_on_device(waveforms)


def normalized_on_device(waveforms: Float32[Tensor, "batch samples"]) -> Float32[Tensor, "batch samples"]:
    """The same in torch; sums in another order, so that the last bits may differ.

    >>> bool((normalized_on_device(torch.tensor([[1.0, 3.0]])) - torch.tensor([[-1.0, 1.0]])).abs().max() < 1e-6)
    True
    """
    variance, mean = torch.var_mean(waveforms.double(), dim=1, keepdim=True, correction=0)
    return (waveforms - mean.float()) / (variance + 1e-7).sqrt().float()


def _deviations(waveforms: Float32[Tensor, "batch samples"]) -> Float32[Tensor, " batch"]:
    """What the normalisation divides by."""
    return (waveforms.double().var(dim=1, correction=0) + 1e-7).sqrt().float()
