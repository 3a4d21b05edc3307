"""Parts of the plan to vectors, on this machine: one encoder per device, with one decoding queue for all.

A part is a run of neighbours in the plan: some minutes of audio, or a thousand clips. Which clips share a part, and
which share a batch, follows from the plan and the lengths of its clips alone: a run that was killed and resumes makes
the same batches, and the same numbers to the last bit.
"""

import copy
import itertools
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np
import torch
from jaxtyping import Float32

from speechssl.audio import RECEPTIVE_FIELD, SAMPLE_RATE, AudioError
from speechssl.extract.decode import Decoded, DecodeResult, Decoding, Failed, Streamed, parts_of
from speechssl.extract.machine.ordered import InOrder
from speechssl.extract.machine.resources import Resources
from speechssl.extract.plan import Item
from speechssl.extract.resume import Run
from speechssl.files import naming
from speechssl.inference.engine import Encoding
from speechssl.inference.layers import Layer
from speechssl.inference.packing import DType
from speechssl.inference.pooling import Pooling
from speechssl.inference.precision import Precision, choose
from speechssl.models.encoder import SpeechEncoder

NOT_FINITE = "the model gives numbers that are not finite"
_AHEAD = 32  # parts that may wait for an earlier one, per device
_CHECKED_SECONDS = 20.0  # of the first part that are also encoded in float32


@dataclass(frozen=True)
class Row:
    """One encoded clip of a part.

    Attributes:
        item: the clip.
        seconds: its length.
        first_frame: its first frame among those of the part, at frame level.
        num_frames: its frames, at frame level.
        file_seconds: duration of its file.
    """

    item: Item
    seconds: float
    first_frame: int = 0
    num_frames: int = 0
    file_seconds: float = 0.0


@dataclass(frozen=True)
class Encoded:
    """An encoded part, in the order of the plan.

    Attributes:
        rows: the encoded clips.
        failed: clips that could not be used.
        vectors: of the rows; empty at frame level.
        frames: a file of raw float32 (frames, layers, dim), at frame level.
        done: for each clip of the part in order, whether it has a row.
        notes: doubts about the audio of a row, "LOCATION: note".
    """

    rows: list[Row]
    failed: list[Failed]
    vectors: Float32[np.ndarray, "rows layers dim"]
    frames: Path | None
    done: list[bool]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Job:
    """Settings of all encoders of a run.

    Attributes:
        pooling: None keeps every frame.
        layers: hidden states to read.
        dim: of the encoder.
        mix: weights of the hidden states in the layer `mix`.
        dtype: as requested.
        compiled: whether the encoder is compiled.
    """

    pooling: Pooling | None
    layers: tuple[Layer, ...]
    dim: int
    mix: tuple[float, ...] | None
    dtype: Precision
    compiled: bool


# Clips with their places in a part, encoded together: all that are in memory, or one that is read in blocks.
_Group = Sequence[tuple[int, Decoded | Streamed]]
# Vectors (layers, dim); or the first frame and the number of frames in the file; or the reason why there are none.
_Found = Float32[np.ndarray, "..."] | tuple[int, int] | str


class PartEncoder:
    """Encodes parts on one device.

    Args:
        encoder: it is used, not copied.
        job: settings.
        device: where it runs.
        dtype: of the arithmetic.
        resources: seconds of a batch and of a window.
        frames: a folder for files of frames, where those are kept.
        release: called with a clip whose samples can be freed.
        count: called with newly finished clips, their seconds, and how many of the clips failed.
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
        release: Callable[[DecodeResult], None] = lambda _: None,
        count: Callable[[int, float, int], None] = lambda *_: None,
    ):
        self.encoding = Encoding(encoder, device=device, dtype=dtype, mix=job.mix, compiled=job.compiled)
        self.encoding.batch_seconds = resources.batch_seconds
        self.encoding.window_seconds = resources.window_seconds
        self.release = release
        self._job, self._folder, self._count = job, frames, count

    def __call__(self, part: Sequence[DecodeResult]) -> Encoded:
        """Encodes one part."""
        clips = [(place, clip) for place, clip in enumerate(part) if not isinstance(clip, Failed)]
        whole = [each for each in clips if isinstance(each[1], Decoded)]
        groups = [whole, *([each] for each in clips if isinstance(each[1], Streamed))]
        if self._job.pooling is not None:
            return self._encoded(part, self._vectors(groups, self._job.pooling), None)
        assert self._folder is not None
        path = self._folder / f".{threading.get_ident()}-{id(part)}.f32"
        with naming(path), path.open("wb") as file:
            found = self._frames(groups, file)
        return self._encoded(part, found, path)

    def _vectors(self, groups: Sequence[_Group], pooling: Pooling) -> dict[int, _Found]:
        found: dict[int, _Found] = {}
        for group in groups:
            try:
                clips = [clip.waveform if isinstance(clip, Decoded) else clip.clip for _, clip in group]
                for numbers, vectors in self.encoding.vectors(clips, pooling=pooling, layers=self._job.layers):
                    for row, number in enumerate(numbers):
                        place, clip = group[number]
                        finite = np.isfinite(vectors[:, row]).all()
                        found[place] = vectors[:, row] if finite else NOT_FINITE
                        self._done(clip, found[place])
            except AudioError as error:  # of a clip that is read in blocks, which is alone in its group
                [(place, clip)] = group
                found[place] = error.reason
                self._done(clip, error.reason)
        return found

    def _frames(self, groups: Sequence[_Group], file: IO[bytes]) -> dict[int, _Found]:
        found: dict[int, _Found] = {}
        size, written = 4 * len(self._job.layers) * self.encoding.dim, 0  # bytes of a frame; frames in the file
        for group in groups:
            try:
                clips = [clip.waveform if isinstance(clip, Decoded) else clip.clip for _, clip in group]
                for number, frames in self.encoding.frames_in_parts(clips, layers=self._job.layers):
                    place, clip = group[number]
                    if np.isfinite(frames).all():
                        before = found.get(place)
                        first, count = before if isinstance(before, tuple) else (written, 0)
                        found[place] = (first, count + frames.shape[1])
                        file.write(np.ascontiguousarray(frames.transpose(1, 0, 2)).tobytes())
                        written += frames.shape[1]
                    elif isinstance(clip, Streamed):
                        raise AudioError(clip.item.location, NOT_FINITE)
                    else:
                        found[place] = NOT_FINITE
                    if isinstance(clip, Decoded):
                        self._done(clip, found[place])
            except AudioError as error:  # as above; frames that were written before are removed
                [(place, _)] = group
                before = found.get(place)
                written = before[0] if isinstance(before, tuple) else written
                found[place] = error.reason
                file.seek(written * size)
                file.truncate()
            for place, clip in group:
                if isinstance(clip, Streamed):
                    self._done(clip, found[place])
        return found

    def _done(self, clip: Decoded | Streamed, result: _Found) -> None:
        """Frees and counts a clip."""
        self.release(clip)
        failed = isinstance(result, str)
        self._count(1, 0.0 if failed else clip.seconds, int(failed))

    def _encoded(self, part: Sequence[DecodeResult], found: dict[int, _Found], frames: Path | None) -> Encoded:
        """The part in the order of the plan."""
        rows, failed, done, notes = list[Row](), list[Failed](), list[bool](), list[str]()
        vectors: list[Float32[np.ndarray, "layers dim"]] = []
        for place, clip in enumerate(part):
            if isinstance(clip, Failed):
                self._count(1, 0.0, 1)
                failed.append(clip)
                done.append(False)
                continue
            result = found[place]
            done.append(not isinstance(result, str))
            if isinstance(result, str):
                failed.append(Failed(clip.item, result))
                continue
            notes += [f"{clip.item.location}: {note}" for note in clip.notes]
            span = result if isinstance(result, tuple) else (0, 0)
            rows.append(Row(clip.item, clip.seconds, *span, file_seconds=clip.file_seconds))
            vectors += [] if isinstance(result, tuple) else [result]
        empty = np.zeros((0, len(self._job.layers), 0), dtype=np.float32)
        return Encoded(rows, failed, np.stack(vectors) if vectors else empty, frames, done, notes)


def run_local(
    items: Iterator[Item],
    encoder: SpeechEncoder,
    job: Job,
    run: Run,
    *,
    devices: Sequence[torch.device],
    resources: Resources,
) -> Generator[Encoded]:
    """Encodes a plan; parts come in its order.

    Args:
        items: the clips to encode.
        encoder: on the CPU; it is used, and copied for further devices.
        job: settings of the encoders.
        run: its settings have the dtype that an earlier run chose; its counts are kept up to date.
        devices: one encoder each.
        resources: memory and threads.
    """
    long_samples = round(resources.window_seconds * SAMPLE_RATE)
    clips = Decoding(items, budget=resources.audio_bytes, long_samples=long_samples, spool=run.folder)
    with clips.running([clips.decode] * resources.threads, name="decode"):
        parts = parts_of(clips)
        first: list[list[DecodeResult]] = []
        for part in parts:  # up to the first with audio to check the dtype on
            first.append(part)
            if any(isinstance(clip, Decoded | Streamed) for clip in part):
                break
        if "cosine" not in run.settings:  # no earlier run has chosen the dtype
            trial = trial_clips(first[-1]) if first else []
            choice = choose(encoder, trial, device=devices[0], dtype=job.dtype, layers=job.layers, mix=job.mix)
            run.settle(choice.dtype, choice.cosine)
        copies = [encoder, *(copy.deepcopy(encoder) for _ in devices[1:])]
        workers = [
            PartEncoder(
                own,
                job,
                device=device,
                dtype=run.settings["dtype"],
                resources=resources,
                frames=run.folder,
                release=clips.free,
                count=run.counts.add,
            )
            for own, device in zip(copies, devices, strict=True)
        ]
        del copies
        del encoder  # the workers have copies with packed weights
        encoded: InOrder[list[DecodeResult], Encoded] = InOrder(
            itertools.chain(first, parts), ahead=_AHEAD * len(workers)
        )
        # Not waited for: a worker may be in the middle of minutes of audio, or wait for clips of the decoding threads.
        with encoded.running([lambda _, part, own=worker: own(part) for worker in workers], name="encode", wait=False):
            yield from encoded


def trial_clips(part: Sequence[DecodeResult]) -> list[Float32[np.ndarray, " samples"]]:
    """Some seconds of audio of a part to check a dtype on; at least one clip where the part has a readable one."""
    found: list[Float32[np.ndarray, " samples"]] = []
    for clip in part:
        if sum(map(len, found)) >= _CHECKED_SECONDS * SAMPLE_RATE:
            break
        if isinstance(clip, Decoded):
            found.append(clip.waveform)
        elif isinstance(clip, Streamed):
            try:
                block = next((each for each in clip.clip.blocks() if len(each) >= RECEPTIVE_FIELD and each.any()), None)
            except AudioError:  # it is reported when the clip is encoded
                continue
            found += [] if block is None else [block[: round(_CHECKED_SECONDS * SAMPLE_RATE)]]
    return found
