"""The process group: one process without a launcher, several under torchrun; rank, device, sums over ranks.

torchrun --nproc-per-node 2 -m speechssl pretrain CORPUS --out OUT
"""

import os
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from speechssl.device import device_of
from speechssl.files import hold_folder

_together = True


@dataclass(frozen=True)
class Process:
    """Which process this is, of how many, and its device."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and talks."""
        return self.rank == 0


def hold_run(out: Path, process: Process) -> AbstractContextManager[None]:
    """Keeps every other run off a run folder until the block ends; the main process does it for all.

    Raises:
        UserError: another run holds the folder.
        OSError: the folder cannot be made or written; carries its name.
    """
    return hold_folder(out) if process.is_main else nullcontext()


@contextmanager
def process_group(device: str) -> Generator[Process, None, None]:
    """Join torchrun's process group where there is one (nccl on GPUs, gloo on CPUs), and leave it at the end.

    Args:
        device: "auto" (a GPU where there is one), "cpu", "cuda" or "cuda:N".

    Raises:
        UserError: a device that is not there, or that is none.
    """
    name = str(device_of(device))
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        yield Process(rank=0, world_size=1, device=torch.device(name))
        return
    if name == "cuda":
        name = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(name)
    dist.init_process_group("nccl" if name.startswith("cuda") else "gloo")
    try:
        yield Process(rank=dist.get_rank(), world_size=world_size, device=torch.device(name))
    finally:
        dist.destroy_process_group()


K = TypeVar("K")


def sum_over_ranks(tensors: dict[K, Tensor]) -> dict[K, Tensor]:
    """Sum each tensor over all processes, in one message; the same tensors where there is one process."""
    if not _grouped():
        return tensors
    flat = torch.cat([tensor.double().flatten() for tensor in tensors.values()])
    dist.all_reduce(flat)
    parts = flat.split([tensor.numel() for tensor in tensors.values()])
    return {
        name: part.view(tensor.shape).to(tensor.dtype)
        for (name, tensor), part in zip(tensors.items(), parts, strict=True)
    }


def any_rank(flag: bool, device: torch.device) -> bool:
    """Whether the flag is up in any process: all stop together."""
    if not _grouped():
        return flag
    tensor = torch.tensor(int(flag), device=device)
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return bool(tensor)


@contextmanager
def alone() -> Generator[None, None, None]:
    """Sums over ranks are those of this process until the block ends: for trials that may fail on one rank only."""
    global _together
    before, _together = _together, False
    try:
        yield
    finally:
        _together = before


def largest(value: float, device: torch.device) -> float:
    """The largest value of all processes."""
    if not _grouped():
        return value
    tensor = torch.tensor(value, dtype=torch.float64, device=device)
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return float(tensor)


def _grouped() -> bool:
    return _together and dist.is_initialized()


def main_values(values: Sequence[float], device: torch.device) -> list[float]:
    """The main process's values, in every process."""
    if not _grouped():
        return list(values)
    tensor = torch.tensor(values, dtype=torch.float64, device=device)
    dist.broadcast(tensor, src=0)
    return tensor.tolist()
