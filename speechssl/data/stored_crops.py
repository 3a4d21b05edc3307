"""Reading of crops: a stretch of one or several utterances as it is stored, and crops stacked to a batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float32, Int64, Shaped
from torch import Tensor

from speechssl.data.manifest import Utterance


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

    def gain(self, index: int) -> float | None:
        """Factor of the samples that `read` gives where they are int16; None in any other form."""
        ...

    def read(self, index: int, start: int = 0, stop: int | None = None) -> Shaped[np.ndarray, " samples"]:
        """Samples ``start`` to ``stop`` of an utterance as they are stored."""
        ...

    def waveform(self, index: int, start: int = 0, stop: int | None = None) -> Float32[np.ndarray, " samples"]:
        """Samples ``start`` to ``stop`` of an utterance."""
        ...


@dataclass(frozen=True)
class Unit:
    """One or several utterances that make a training example; ``store`` is the number of the corpus."""

    store: int
    utterances: tuple[int, ...]
    samples: int


@dataclass(frozen=True)
class Crop:
    """Samples as they are stored: int16 with a factor, or float32."""

    samples: Shaped[np.ndarray, " samples"]
    gain: float = 1.0

    @property
    def waveform(self) -> Float32[np.ndarray, " samples"]:
        """Samples in the units of their file."""
        return self.samples.astype(np.float32) * np.float32(self.gain)  # a power of two: nothing is rounded


def read_crop(store: Store, unit: Unit, start: int, samples: int) -> Crop:
    """A stretch of a unit; int16 where all its utterances are stored as int16 with one factor.

    Args:
        store: the corpus of the unit.
        unit: one or several utterances.
        start: first sample, from the start of the unit.
        samples: number of samples, all within the unit.
    """
    pieces: list[tuple[int, int, int]] = []
    for index in unit.utterances:
        length = int(store.lengths[index])
        if start < length and samples > 0:
            pieces.append((index, start, min(length, start + samples)))
            samples -= pieces[-1][2] - start
        start = max(0, start - length)
    gains = {store.gain(index) for index, _, _ in pieces}
    gain = gains.pop() if len(gains) == 1 else None
    read = store.waveform if gain is None else store.read
    found = [read(*piece) for piece in pieces]
    return Crop(found[0] if len(found) == 1 else np.concatenate(found), 1.0 if gain is None else gain)


def stacked(crops: Sequence[Crop], width: int) -> tuple[Tensor, Float32[Tensor, " batch"]]:
    """Samples with zeros behind them, (batch, width), and the factor of each crop.

    Args:
        crops: int16 or float32; where not all are int16, samples are float32 with a factor of 1.
        width: samples of a row, at least as many as the longest crop has.
    """
    alike = all(crop.samples.dtype == np.int16 for crop in crops)
    stored = np.zeros((len(crops), width), dtype=np.int16 if alike else np.float32)
    for row, crop in zip(stored, crops, strict=True):
        row[: len(crop.samples)] = crop.samples if alike else crop.waveform
    gains = [crop.gain if alike else 1.0 for crop in crops]
    return torch.from_numpy(stored), torch.tensor(gains, dtype=torch.float32)
