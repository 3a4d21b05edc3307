"""One update of the weights, and one validation: sums over micro-batches and ranks.

Gradients are of summed losses; after the last micro-batch they are divided by the number of targets of the whole
effective batch, counted over micro-batches and ranks. So accumulation, data parallelism and one large batch give the
same update.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from speechssl.distributed import Process, sum_over_ranks
from speechssl.objectives.base import Metrics, StepOutput, Trainable
from speechssl.train.optim import Optimizer
from speechssl.train.sharding import gathered

T = TypeVar("T")


@runtime_checkable
class Batch(Protocol):
    """Part of a global batch on one rank."""

    @property
    def global_seconds(self) -> float:
        """Seconds of audio in the global batch."""
        ...

    def micro_batches(self: T, count: int) -> list[T]:
        """Split into ``count`` parts, fewer where there are fewer examples."""
        ...

    def pinned(self: T) -> T:
        """A copy in page-locked memory, from which a GPU copies while the program continues."""
        ...

    def to(self, device: torch.device) -> Any:
        """The batch that an objective takes, on a device."""
        ...


def staged(batch: Batch, device: torch.device) -> Batch:
    """A batch as far as it can be prepared ahead, in a thread: ready on the CPU, in page-locked memory for a GPU."""
    return batch.pinned() if device.type == "cuda" else batch.to(device)


@dataclass(frozen=True)
class Totals:
    """Terms and stats summed over the micro-batches and ranks of an update."""

    terms: dict[str, Tensor]
    stats: dict[str, Tensor]

    @property
    def count(self) -> Tensor:
        """Number of targets."""
        return self.stats["count"]


def accumulate(
    objective: Trainable,
    model: nn.Module,
    batch: Batch,
    *,
    parts: int,
    step: int,
    progress: float,
    device: torch.device,
    autocast: torch.autocast,
) -> Totals:
    """Backward through every micro-batch of this rank.

    Args:
        objective: model and loss.
        model: the objective, or its data-parallel wrapper.
        batch: this rank's part of the global batch.
        parts: number of micro-batches.
        step: number of the update.
        progress: fraction of the run done.
        device: of the model.
        autocast: precision of the forward pass.
    """
    micro = [part.to(device) for part in batch.micro_batches(parts)]
    shared: Mapping[str, Tensor] | None = None
    terms: dict[str, Tensor] = {}
    stats: dict[str, Tensor] = {}
    for index, part in enumerate(micro):
        if isinstance(model, DistributedDataParallel):
            model.require_backward_grad_sync = index == len(micro) - 1  # what no_sync() sets
        with autocast:
            if index == 0:
                shared = _shared(objective, micro, step=step)
            loss: StepOutput = model(part, step=step, progress=progress, shared=shared)
        loss.total.backward()
        _add(terms, loss.terms)
        _add(stats, loss.stats)
    return _summed(terms, stats)


def _shared(objective: Trainable, parts: Sequence[Any], *, step: int) -> Mapping[str, Tensor] | None:
    """Sums over the whole batch for the loss of each part; None where there is one part, or no such sum."""
    if len(parts) == 1:
        return None  # the loss adds ranks itself
    own = objective.gather(parts, step=step)
    return sum_over_ranks(own) if own else None


def _add(totals: dict[str, Tensor], part: Mapping[str, Tensor]) -> None:
    for name, value in part.items():
        totals[name] = totals[name] + value if name in totals else value


def _summed(terms: Mapping[str, Tensor], stats: Mapping[str, Tensor]) -> Totals:
    """Terms and stats of all ranks, in one message."""
    packed = {("terms", name): value for name, value in terms.items()}
    packed |= {("stats", name): value for name, value in stats.items()}
    summed = sum_over_ranks(packed)
    return Totals({name: summed["terms", name] for name in terms}, {name: summed["stats", name] for name in stats})


def update_weights(model: nn.Module, optimizer: Optimizer, count: Tensor, *, process: Process, clip: float) -> Tensor:
    """Divide gradients by the number of targets, clip, step; skip non-finite ones, all without waiting for the device.

    Args:
        model: its gradients are sums over targets.
        optimizer: one that can skip a step by a number on the device: a fused one, or Muon with such a one.
        count: number of targets.
        process: world size; data parallelism has averaged gradients over ranks.
        clip: largest gradient norm.

    Returns:
        The norm before clipping.
    """
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    scale = (process.world_size / count).float()
    for gradient in gradients:
        gradient.mul_(scale)
    norm = gathered(nn.utils.clip_grad_norm_(model.parameters(), clip, foreach=True))
    optimizer.found_inf = (~norm.isfinite()).float()  # pyright: ignore[reportAttributeAccessIssue] -- as GradScaler
    optimizer.step()
    del optimizer.found_inf  # pyright: ignore[reportAttributeAccessIssue]
    optimizer.zero_grad(set_to_none=True)
    return norm


@torch.no_grad()
def validate(
    objective: Trainable, valid: Callable[[int], Batch], batches: int, *, device: torch.device, autocast: torch.autocast
) -> Metrics:
    """Metrics over the first validation batches: no dropout, no noise, masks fixed by the batch's number."""
    objective.eval()
    terms: dict[str, Tensor] = {}
    stats: dict[str, Tensor] = {}
    for number in range(batches):
        batch = valid(number).to(device)
        with autocast:
            loss: StepOutput = objective(batch, step=number, progress=1.0)
        _add(terms, loss.terms)
        _add(stats, loss.stats)
    objective.train()
    totals = _summed(terms, stats)
    return objective.metrics(totals.terms, totals.stats)


@torch.no_grad()
def probe(objective: Trainable, batch: Callable[[], Batch] | None, device: torch.device) -> Metrics:
    """Metrics of :meth:`Trainable.probe` on one batch; none where there is no batch."""
    if batch is None:
        return {}
    objective.eval()
    measured = objective.probe(batch().to(device))
    objective.train()
    return measured


def to_host(rows: Sequence[Sequence[Tensor]]) -> list[list[Tensor]]:
    """The same tensors on the CPU, in one transfer.

    >>> to_host([[torch.tensor(1.0), torch.zeros(2, 1)], [torch.tensor(2.0)]])
    [[tensor(1.), tensor([[0.],
            [0.]])], [tensor(2.)]]
    """
    tensors = [each for row in rows for each in row]
    if all(each.device.type == "cpu" for each in tensors):
        return [list(row) for row in rows]
    flat = torch.cat([each.detach().double().flatten() for each in tensors]).cpu()
    parts = iter(flat.split([each.numel() for each in tensors]))
    return [[next(parts).view(each.shape).to(each.dtype) for each in row] for row in rows]
