"""Search of the number of micro-batches: the fastest that fits into memory.

A global batch stays what the recipe says; it is divided into more or fewer micro-batches (``loop.accumulation``), which
give the same update. The smallest number that fits is usually the fastest on a GPU; on CPUs smaller parts may stay in
the caches.
"""

import itertools
import time
from contextlib import suppress

import torch

from speechssl.config import UserError
from speechssl.distributed import Process, alone, largest
from speechssl.objectives.base import Trainable
from speechssl.terminal import say_once
from speechssl.train.update import Batch, accumulate

_MOST = 2**30  # micro-batches: one row each
_REPEATS = 2  # timed updates of each number, after one that is not


def find_accumulation(objective: Trainable, batch: Batch, *, process: Process, autocast: torch.autocast) -> int:
    """Number of micro-batches per process with the most audio per second; 1, 2, 4 … until it has become slower twice.

    Nothing is learnt: weights, gradients and the state of random streams are as before.

    Args:
        objective: model and loss, on the device.
        batch: this process's part of a global batch with crops of full length.
        process: rank, world size, device; all processes take the number that is the fastest on the slowest of them.
        autocast: precision of the forward pass.

    Raises:
        UserError: not even one crop at a time fits into memory.
    """
    best, best_seconds, slower = 0, float("inf"), 0
    rows = -int(largest(-float(len(batch.micro_batches(_MOST))), process.device))  # of the rank with the fewest
    with torch.random.fork_rng():
        for parts in itertools.takewhile(lambda parts: parts <= rows, (2**power for power in itertools.count())):
            with alone():
                own = _seconds(objective, batch, parts, process, autocast)
            seconds = largest(own, process.device)
            slower = slower + 1 if best and seconds >= best_seconds else 0
            if seconds < best_seconds:
                best, best_seconds = parts, seconds
            if slower == 2:
                break
    if not best:
        raise UserError("one crop does not fit into memory; lower crops.seconds, or set loop.recompute=true")
    speed = batch.global_seconds / best_seconds
    say_once(f"loop.accumulation={best}: {speed:.0f} seconds of audio per second, the fastest number that fits")
    return best


def _seconds(objective: Trainable, batch: Batch, parts: int, process: Process, autocast: torch.autocast) -> float:
    """Seconds of an update in so many parts; infinite where it does not fit."""
    seconds = float("inf")
    with suppress(torch.OutOfMemoryError):
        for _ in range(1 + _REPEATS):
            _wait(process.device)
            begin = time.monotonic()
            accumulate(
                objective,
                objective,
                batch,
                parts=parts,
                step=0,
                progress=0.0,
                device=process.device,
                autocast=autocast,
            )
            _wait(process.device)
            seconds = time.monotonic() - begin  # the last one: the first ones make kernels
    objective.zero_grad(set_to_none=True)
    if process.device.type == "cuda":
        torch.cuda.empty_cache()
    return seconds


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
