"""The engine of one machine: decoding threads, and one encoder for each device, fed from one queue."""

import copy
import itertools
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float32

from speechssl.audio import RECEPTIVE_FIELD, AudioError
from speechssl.extract.decode import Clip, Decoded, Streamed, decoding
from speechssl.extract.encode import Encoded, PartEncoder, parts_of
from speechssl.extract.ordered import InOrder
from speechssl.extract.plan import Item
from speechssl.extract.progress import Tally
from speechssl.extract.resources import Resources
from speechssl.inference.layers import Layer
from speechssl.inference.pooling import Pooling
from speechssl.inference.precision import Precision, choose, encoding_of
from speechssl.models.encoder import SpeechEncoder

Engine = Literal["local", "ray"]
_AHEAD = 32  # parts that may wait for an earlier one, for each device
_CHECKED_SECONDS = 20.0  # of the first part that are also encoded in float32


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


@runtime_checkable
class Ledger(Protocol):
    """What an engine needs of the run it works for: settings that an earlier run has chosen, a place, a tally."""

    folder: Path
    settings: dict[str, Any]
    tally: Tally

    def settle(self, dtype: str, cosine: float | None) -> None:
        """Keep the arithmetic that was chosen."""
        ...


def run_local(
    items: Iterator[Item],
    encoder: SpeechEncoder,
    job: Job,
    ledger: Ledger,
    *,
    devices: Sequence[torch.device],
    resources: Resources,
) -> Generator[Encoded]:
    """Encode a plan; parts come in its order.

    Args:
        items: what is to be done.
        encoder: on the CPU; it is used, and copied for further devices.
        job: what to do.
        ledger: of the run.
        devices: one encoder each.
        resources: memory and threads.
    """
    long_samples = round(resources.window_seconds * 16000)
    budget, threads = resources.audio_bytes, resources.threads
    with decoding(items, threads=threads, budget=budget, long_samples=long_samples, spool=ledger.folder) as clips:
        parts = parts_of(clips)
        first: list[list[Clip]] = []
        for part in parts:  # as far as the first that has something to try the arithmetic on
            first.append(part)
            if any(isinstance(clip, Decoded | Streamed) for clip in part):
                break
        dtype = _settled(encoder, job, ledger, first[-1] if first else [], device=devices[0])
        release = clips.release
        workers = _workers(encoder, job, ledger, dtype, devices=devices, resources=resources, release=release)
        del encoder  # what works is a copy with its weights laid out anew
        encoded: InOrder[list[Clip], Encoded] = InOrder(itertools.chain(first, parts), ahead=_AHEAD * len(workers))
        # Not waited for: a worker may be in the middle of minutes of audio, or wait for clips of the decoding threads.
        with encoded.running([lambda _, part, own=worker: own(part) for worker in workers], name="encode", wait=False):
            yield from encoded


def _workers(
    encoder: SpeechEncoder,
    job: Job,
    ledger: Ledger,
    dtype: Precision,
    *,
    devices: Sequence[torch.device],
    resources: Resources,
    release: Callable[[Clip], None],
) -> list[PartEncoder]:
    """One for each device; the first has the encoder itself, the others copies."""
    workers: list[PartEncoder] = []
    copies = [encoder, *(copy.deepcopy(encoder) for _ in devices[1:])]
    for own, device in zip(copies, devices, strict=True):
        encoding = encoding_of(own, device=device, dtype=dtype, mix=job.mix, compiled=job.compiled)
        encoding.batch_seconds = resources.batch_seconds
        encoding.window_seconds = resources.window_seconds
        worker = PartEncoder(
            encoding,
            pooling=job.pooling,
            layers=job.layers,
            frames=ledger.folder,
            release=release,
            tell=ledger.tally.tell,
        )
        workers.append(worker)
    return workers


def _settled(
    encoder: SpeechEncoder, job: Job, ledger: Ledger, part: Sequence[Clip], *, device: torch.device
) -> Precision:
    """The arithmetic of the run: what an earlier run chose, or a choice on the first clips."""
    if "cosine" in ledger.settings:
        return ledger.settings["dtype"]
    choice = choose(encoder, first_clips(part), device=device, dtype=job.dtype, layers=job.layers, mix=job.mix)
    ledger.settle(choice.dtype, choice.cosine)
    return choice.dtype


def first_clips(part: Sequence[Clip]) -> list[Float32[np.ndarray, " samples"]]:
    """Some seconds of audio of a part, at least one clip where it has one."""
    found: list[Float32[np.ndarray, " samples"]] = []
    for clip in part:
        if sum(map(len, found)) >= _CHECKED_SECONDS * 16000:
            break
        if isinstance(clip, Decoded):
            found.append(clip.waveform)
        elif isinstance(clip, Streamed):
            found += _beginning(clip)
    return found


def _beginning(clip: Streamed) -> list[Float32[np.ndarray, " samples"]]:
    try:
        block = next((each for each in clip.clip.blocks() if len(each) >= RECEPTIVE_FIELD and each.any()), None)
    except AudioError:  # told when its turn comes
        return []
    return [] if block is None else [block[: round(_CHECKED_SECONDS * 16000)]]
