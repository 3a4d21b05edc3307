"""Clips to batches, one pass of a model each: short clips by duration, long clips in windows.

An embedding does not depend on what else is in the batch, so clips share a batch with clips of about their length. A
clip longer than a window is cut into overlapping windows that come in batches of their own: every frame then has
context on both sides, and memory does not grow with the clip.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from speechssl.audio import SAMPLE_RATE, normalize
from speechssl.inference.windows import LongClip, Waveform, Window, scan

CPU_BATCH_SECONDS, GPU_BATCH_SECONDS = 20.0, 240.0  # of padded audio: the fastest of 8, 20, 60 on a core; fills a GPU

R = TypeVar("R")


@dataclass(frozen=True)
class Batch:
    """Waveforms for one pass.

    Attributes:
        clips: the place of each row's clip among all clips.
        rows: what the model takes, normalised where it is trained on normalised audio; and which frames are kept.
        long: the clip that all rows are windows of; None where the rows are whole clips.
    """

    clips: Sequence[int]
    rows: Sequence[Window]
    long: LongClip | None = None

    @property
    def samples(self) -> list[Waveform]:
        """Of each row."""
        return [row.samples for row in self.rows]

    def halves(self) -> "list[Batch]":
        """The same rows in two batches."""
        middle = len(self.rows) // 2
        return [Batch(self.clips[half], self.rows[half], self.long) for half in (slice(middle), slice(middle, None))]


@dataclass(frozen=True)
class Batching:
    """How a model takes clips.

    Attributes:
        seconds: of padded audio in a batch.
        window_seconds: a longer clip is cut into windows of this length.
        normalize: whether the model takes waveforms of zero mean and unit variance.
        equal: only equal lengths share a batch, for models whose result padding would change.
        padded: samples that a clip of so many takes in a batch.
    """

    seconds: float
    window_seconds: float
    normalize: bool
    equal: bool = False
    padded: Callable[[int], int] = int

    def is_long(self, num_samples: int) -> bool:
        """Whether a clip is cut into windows."""
        return num_samples > self.window_seconds * SAMPLE_RATE

    def by_duration(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Places by rising length, cut into batches; see `by_duration`. A clip that is cut into windows comes alone."""
        limit = self.window_seconds * SAMPLE_RATE
        return by_duration(lengths, seconds=self.seconds, padded=self.padded, equal=self.equal, alone_above=limit)

    def batches(
        self, clips: Sequence[Waveform | LongClip], cut: Callable[[LongClip], Iterator[Window]]
    ) -> Iterator[Batch]:
        """Batches of whole clips by rising length, then the windows of each long clip in order.

        Args:
            clips: mono at 16 kHz, checked; waveforms in memory, or clips that are read in blocks.
            cut: gives the windows of a long clip, normalised.

        Raises:
            AudioError: a long clip cannot be read.
        """
        short = {
            place: clip
            for place, clip in enumerate(clips)
            if not isinstance(clip, LongClip) and not self.is_long(len(clip))
        }
        places = list(short)
        for batch in self.by_duration([len(clip) for clip in short.values()]):
            chosen = [places[number] for number in batch]
            ready = [normalize(short[place]) if self.normalize else short[place] for place in chosen]
            yield Batch(chosen, [Window(samples) for samples in ready])
        for place, clip in enumerate(clips):
            if place not in short:
                long = clip if isinstance(clip, LongClip) else scan(lambda clip=clip: [clip], "clip")
                for windows in self._alike(cut(long)):
                    yield Batch([place] * len(windows), windows, long)

    def _alike(self, windows: Iterator[Window]) -> Iterator[list[Window]]:
        """Neighbours of equal length, as many as fill a batch."""
        batch: list[Window] = []
        for window in windows:
            length = len(window.samples)
            full = (len(batch) + 1) * self.padded(length) > self.seconds * SAMPLE_RATE
            if batch and (full or len(batch[0].samples) != length):
                yield batch
                batch = []
            batch.append(window)
        if batch:
            yield batch


def by_duration(
    lengths: Sequence[int],
    *,
    seconds: float = CPU_BATCH_SECONDS,
    padded: Callable[[int], int] = int,
    equal: bool = False,
    alone_above: float = math.inf,
) -> Iterator[list[int]]:
    """Places by rising length, cut so that no padded batch of more than one holds more than `seconds` of audio.

    Args:
        lengths: samples of each clip.
        seconds: of padded audio in a batch.
        padded: samples that a clip of so many takes.
        equal: only equal lengths share a batch.
        alone_above: a clip of more samples has a batch of its own.

    >>> list(by_duration([16000, 320000, 16000]))
    [[0, 2], [1]]
    >>> list(by_duration([16000, 8000, 16000], equal=True))
    [[1], [0, 2]]
    """
    batch: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda each: lengths[each]):
        full = (len(batch) + 1) * padded(lengths[place]) > seconds * SAMPLE_RATE  # the order is rising
        other = equal and bool(batch) and lengths[batch[0]] != lengths[place]
        if batch and (full or other or lengths[place] > alone_above):
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


def passes(batches: Iterable[Batch], forward: Callable[[Batch], R]) -> Iterator[tuple[Batch, R]]:
    """Each batch with what a model gives for it; in halves where the device has no memory for the whole batch.

    Args:
        batches: what to run.
        forward: one pass of the model.

    Raises:
        torch.OutOfMemoryError: there is no memory for a batch of one.
    """
    for batch in batches:
        waiting = [batch]
        while waiting:
            part = waiting.pop()
            try:
                result = forward(part)
            except torch.OutOfMemoryError:
                if len(part.rows) == 1:
                    raise
                waiting += reversed(part.halves())
                continue
            yield part, result


def pad(waveforms: Sequence[Waveform], *, rows: int = 0, width: int = 0) -> tuple[Tensor, Tensor]:
    """Zero-padded (batch, samples), and the number of samples of each row.

    Args:
        waveforms: at least one.
        rows: of the batch, at least; further rows are silent and as long as the first.
        width: samples of a row, at least.
    """
    lengths = [len(waveform) for waveform in waveforms]
    padded = np.zeros((max(rows, len(lengths)), max(width, *lengths)), dtype=np.float32)
    for row, waveform in zip(padded, waveforms, strict=False):
        row[: len(waveform)] = waveform
    lengths += lengths[:1] * (len(padded) - len(lengths))
    return torch.from_numpy(padded), torch.tensor(lengths)


def batch_seconds_of(device: torch.device) -> float:
    """Seconds of padded audio in a batch on a device."""
    return CPU_BATCH_SECONDS if device.type == "cpu" else GPU_BATCH_SECONDS
