"""The engine of one machine: decoding threads, and one encoder for each device, fed from one queue."""

import copy
import itertools
from collections.abc import Generator, Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float32

from speechssl.audio import RECEPTIVE_FIELD, AudioError
from speechssl.extract.decode import Clip, Decoded, Streamed, decoding
from speechssl.extract.encode import Encoded, Job, PartEncoder, parts_of
from speechssl.extract.ordered import InOrder
from speechssl.extract.plan import Item
from speechssl.extract.resources import Resources
from speechssl.extract.resume import Run
from speechssl.inference.precision import choose
from speechssl.models.encoder import SpeechEncoder

Engine = Literal["local", "ray"]
_AHEAD = 32  # parts that may wait for an earlier one, for each device
_CHECKED_SECONDS = 20.0  # of the first part that are also encoded in float32


def run_local(
    items: Iterator[Item],
    encoder: SpeechEncoder,
    job: Job,
    run: Run,
    *,
    devices: Sequence[torch.device],
    resources: Resources,
) -> Generator[Encoded]:
    """Encode a plan; parts come in its order.

    Args:
        items: what is to be done.
        encoder: on the CPU; it is used, and copied for further devices.
        job: what to do.
        run: its settings say what an earlier run has chosen; its tally counts what is done.
        devices: one encoder each.
        resources: memory and threads.
    """
    long_samples = round(resources.window_seconds * 16000)
    budget, threads = resources.audio_bytes, resources.threads
    with decoding(items, threads=threads, budget=budget, long_samples=long_samples, spool=run.folder) as clips:
        parts = parts_of(clips)
        first: list[list[Clip]] = []
        for part in parts:  # as far as the first that has something to try the arithmetic on
            first.append(part)
            if any(isinstance(clip, Decoded | Streamed) for clip in part):
                break
        if "cosine" not in run.settings:  # no earlier run has chosen the arithmetic
            trial = first_clips(first[-1]) if first else []
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
                release=clips.release,
                tell=run.tally.tell,
            )
            for own, device in zip(copies, devices, strict=True)
        ]
        del copies
        del encoder  # what works is a copy with its weights laid out anew
        encoded: InOrder[list[Clip], Encoded] = InOrder(itertools.chain(first, parts), ahead=_AHEAD * len(workers))
        # Not waited for: a worker may be in the middle of minutes of audio, or wait for clips of the decoding threads.
        with encoded.running([lambda _, part, own=worker: own(part) for worker in workers], name="encode", wait=False):
            yield from encoded


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
