"""Batches of clips, one pass of a model each: short clips by duration, long clips in windows.

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
        clips: place of each row's clip among all clips.
        rows: the model's input, normalised where it is trained on normalised audio; and which frames are kept.
        long: the clip that all rows are windows of; None where the rows are whole clips.
    """

    clips: Sequence[int]
    rows: Sequence[Window]
    long: LongClip | None = None

    def halves(self) -> "list[Batch]":
        """The same rows in two batches."""
        middle = len(self.rows) // 2
        return [Batch(self.clips[half], self.rows[half], self.long) for half in (slice(middle), slice(middle, None))]


@dataclass(frozen=True)
class Batching:
    """How clips are batched for a model.

    Attributes:
        seconds: of padded audio in a batch.
        window_seconds: a longer clip is cut into windows of this length.
        normalize: whether the model takes waveforms of zero mean and unit variance.
        equal: whether only equal lengths share a batch, for models whose result depends on padding.
        padded: padded length of a clip in a batch, from its length in samples.
    """

    seconds: float
    window_seconds: float
    normalize: bool
    equal: bool = False
    padded: Callable[[int], int] = int

    def by_duration(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Places by rising length, cut so that no padded batch of more than one holds more than `seconds` of audio.

        A clip that is cut into windows has a batch of its own.

        Args:
            lengths: samples of each clip.
        """
        batch: list[int] = []
        for place in sorted(range(len(lengths)), key=lambda each: lengths[each]):
            full = (len(batch) + 1) * self.padded(lengths[place]) > self.seconds * SAMPLE_RATE  # the order is rising
            other = self.equal and bool(batch) and lengths[batch[0]] != lengths[place]
            if batch and (full or other or lengths[place] > self.window_seconds * SAMPLE_RATE):
                yield batch
                batch = []
            batch.append(place)
        if batch:
            yield batch

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
            if not isinstance(clip, LongClip) and len(clip) <= self.window_seconds * SAMPLE_RATE
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
        """Runs of windows of equal length, cut where a batch is full."""
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
    lengths: Sequence[int], *, seconds: float = CPU_BATCH_SECONDS, equal: bool = False
) -> Iterator[list[int]]:
    """Places by rising length in batches, as `Batching.by_duration` cuts them; no clip is cut into windows.

    Args:
        lengths: samples of each clip.
        seconds: of padded audio in a batch.
        equal: whether only equal lengths share a batch.

    >>> list(by_duration([16000, 320000, 16000]))
    [[0, 2], [1]]
    >>> list(by_duration([16000, 8000, 16000], equal=True))
    [[1], [0, 2]]
    """
    return Batching(seconds=seconds, window_seconds=math.inf, normalize=False, equal=equal).by_duration(lengths)


def passes(batches: Iterable[Batch], forward: Callable[[Batch], R]) -> Iterator[tuple[Batch, R]]:
    """Each batch with the result of one pass; in halves where the device has too little memory for the whole batch.

    Args:
        batches: to run.
        forward: one pass of the model.

    Raises:
        torch.OutOfMemoryError: too little memory for a batch of one.
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
        rows: least number of rows; further rows are silent and as long as the first.
        width: least number of samples per row.
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
