"""Decoded clips to vectors: parts of the plan, batches by duration within a part, one encoder for each device.

A part is a run of neighbours in the plan: some minutes of audio, or a thousand clips. Which clips share a part, and
which share a batch, follows from the plan and the lengths of its clips alone: a run that was killed and goes on makes
the same batches, and the same numbers to the last bit.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TypeVar

import numpy as np
import torch
from jaxtyping import Float32

from speechssl.audio import AudioError
from speechssl.extract.decode import Clip, Decoded, Failed, Streamed
from speechssl.extract.plan import Item
from speechssl.extract.resources import PART_SECONDS, Resources
from speechssl.files import naming
from speechssl.inference.engine import Encoding
from speechssl.inference.layers import Layer
from speechssl.inference.packing import DType
from speechssl.inference.pooling import Pooling
from speechssl.inference.precision import Precision
from speechssl.models.encoder import SpeechEncoder

PART_CLIPS = 1024


@dataclass(frozen=True)
class Row:
    """One clip of a part, done; its frames, where they are kept, are `num_frames` from `first_frame` of the part on.

    `file_seconds` is the duration of its file.
    """

    item: Item
    seconds: float
    first_frame: int = 0
    num_frames: int = 0
    file_seconds: float = 0.0


@dataclass(frozen=True)
class Encoded:
    """A part: rows in the order of the plan, their vectors or the file of their frames, and what failed.

    Attributes:
        rows: the clips that are done.
        failed: those that could not be used.
        vectors: of the rows; empty at frame level.
        frames: raw float32 of (frames, layers, dim), at frame level.
        done: of each clip of the part in order, whether it is a row.
        notes: what is doubtful about a row, "LOCATION: note".
    """

    rows: list[Row]
    failed: list[Failed]
    vectors: Float32[np.ndarray, "rows layers dim"]
    frames: Path | None
    done: list[bool]
    notes: list[str] = field(default_factory=list)


def parts_of(
    clips: Iterable[Clip], *, most_seconds: float | None = None, most_clips: int | None = None
) -> Iterator[list[Clip]]:
    """Runs of clips that are encoded and written together.

    Args:
        clips: in the order of the plan.
        most_seconds: a part ends when it has so much audio; None: PART_SECONDS.
        most_clips: or so many clips; None: PART_CLIPS.
    """
    most_seconds = PART_SECONDS if most_seconds is None else most_seconds
    most_clips = PART_CLIPS if most_clips is None else most_clips
    part: list[Clip] = []
    seconds = 0.0
    for clip in clips:
        part.append(clip)
        seconds += 0.0 if isinstance(clip, Failed) else clip.seconds
        if seconds >= most_seconds or len(part) >= most_clips:
            yield part
            part, seconds = [], 0.0
    if part:
        yield part


@dataclass(frozen=True)
class Job:
    """What every encoder of a run does.

    Attributes:
        pooling: None keeps every frame.
        layers: that are read.
        dim: of the encoder.
        mix: weights that the layer `mix` stands for.
        dtype: as it was asked for.
        compiled: whether the encoder is compiled.
    """

    pooling: Pooling | None
    layers: tuple[Layer, ...]
    dim: int
    mix: tuple[float, ...] | None
    dtype: Precision
    compiled: bool


class PartEncoder:
    """Encodes parts on one device.

    Args:
        encoder: it is used, not copied.
        job: what to do.
        device: where.
        dtype: of the arithmetic.
        resources: seconds of a batch and of a window.
        frames: a folder for files of frames, where those are kept.
        release: called with a clip whose samples can be freed.
        tell: called with the clips and seconds that are newly done, and how many of the clips have failed.
    """

    def __init__(
        self,
        encoder: SpeechEncoder,
        job: Job,
        *,
        device: torch.device,
        dtype: DType,
        resources: Resources,
        frames: Path | None = None,
        release: Callable[[Clip], None] = lambda _: None,
        tell: Callable[[int, float, int], None] = lambda *_: None,
    ):
        self.encoding = Encoding(encoder, device=device, dtype=dtype, mix=job.mix, compiled=job.compiled)
        self.encoding.batch_seconds = resources.batch_seconds
        self.encoding.window_seconds = resources.window_seconds
        self.layers, self.release = job.layers, release
        self.pooling: Pooling | None = job.pooling
        self._frames, self._tell = frames, tell

    def __call__(self, part: Sequence[Clip]) -> Encoded:
        """One part."""
        if self.pooling is not None:
            return self._finish(part, self._vectors(part, self.pooling), None)
        assert self._frames is not None
        path = self._frames / f".{threading.get_ident()}-{id(part)}.f32"
        with naming(path), path.open("wb") as file:
            found = self._all_frames(part, file)
        return self._finish(part, found, path)

    def _vectors(self, part: Sequence[Clip], pooling: Pooling) -> "dict[int, _Found]":
        found: dict[int, _Found] = {}
        whole = _of(part, Decoded)
        batches = self.encoding.vectors([clip.waveform for _, clip in whole], pooling=pooling, layers=self.layers)
        for numbers, vectors in batches:
            for row, number in enumerate(numbers):
                place, clip = whole[number]
                found[place] = _checked(vectors[:, row])
                self._done(clip, found[place])
        for place, clip in _of(part, Streamed):
            try:
                vectors = self.encoding.embed_layers([clip.clip], pooling=pooling, layers=self.layers)
                found[place] = _checked(vectors[:, 0])
            except AudioError as error:
                found[place] = error.reason
            self._done(clip, found[place])
        return found

    def _all_frames(self, part: Sequence[Clip], file: IO[bytes]) -> "dict[int, _Found]":
        found: dict[int, _Found] = {}
        size, written = len(self.layers) * self.encoding.dim, 0
        whole = _of(part, Decoded)
        waveforms = [clip.waveform for _, clip in whole]
        for number, frames in self.encoding.frames_in_parts(waveforms, layers=self.layers):
            place, clip = whole[number]
            checked = _checked(frames)
            if not isinstance(checked, str):
                file.write(np.ascontiguousarray(frames.transpose(1, 0, 2)).tobytes())
                checked = (written, frames.shape[1])
                written += frames.shape[1]
            found[place] = checked
            self._done(clip, found[place])
        for place, clip in _of(part, Streamed):
            count = 0
            try:
                for _, frames in self.encoding.frames_in_parts([clip.clip], layers=self.layers):
                    checked = _checked(frames)
                    if isinstance(checked, str):
                        raise AudioError(clip.item.location, checked)
                    file.write(np.ascontiguousarray(frames.transpose(1, 0, 2)).tobytes())
                    count += frames.shape[1]
                found[place] = (written, count)
                written += count
            except AudioError as error:
                found[place] = error.reason
                file.seek(written * size * 4)
                file.truncate()
            self._done(clip, found[place])
        return found

    def _done(self, clip: Decoded | Streamed, result: "_Found") -> None:
        self.release(clip)
        failed = isinstance(result, str)
        self._tell(1, 0.0 if failed else clip.seconds, int(failed))

    def _finish(self, part: Sequence[Clip], found: "dict[int, _Found]", frames: Path | None) -> Encoded:
        rows: list[Row] = []
        failed: list[Failed] = []
        vectors: list[Float32[np.ndarray, "layers dim"]] = []
        done: list[bool] = []
        notes: list[str] = []
        for place, clip in enumerate(part):
            if isinstance(clip, Failed):
                failed.append(clip)
                done.append(False)
                self._tell(1, 0.0, 1)
                continue
            result = found[place]
            done.append(not isinstance(result, str))
            if isinstance(result, str):
                failed.append(Failed(clip.item, result))
                continue
            notes += [f"{clip.item.location}: {note}" for note in clip.notes]
            if isinstance(result, tuple):
                rows.append(Row(clip.item, clip.seconds, *result, file_seconds=clip.file_seconds))
            else:
                rows.append(Row(clip.item, clip.seconds, file_seconds=clip.file_seconds))
                vectors.append(result)
        empty = np.zeros((0, len(self.layers), 0), dtype=np.float32)
        return Encoded(rows, failed, np.stack(vectors) if vectors else empty, frames, done, notes)


# Vectors or frames (layers, dim); where frames lie in a file: the first and how many; or why there are none.
_Found = Float32[np.ndarray, "..."] | tuple[int, int] | str


C = TypeVar("C", Decoded, Streamed)


def _of(part: Sequence[Clip], kind: type[C]) -> list[tuple[int, C]]:
    """The clips of one kind with their places."""
    return [(place, clip) for place, clip in enumerate(part) if isinstance(clip, kind)]


def _checked(numbers: Float32[np.ndarray, "..."]) -> Float32[np.ndarray, "..."] | str:
    return numbers if np.isfinite(numbers).all() else "the model gives numbers that are not finite"
