"""Weights, gradients and optimiser state divided among the processes (FSDP2), for models that one device is small for.

Zhao et al. 2023, "PyTorch FSDP" (arXiv 2304.11277), in its second version, ``torch.distributed.fsdp.fully_shard``. Each
Transformer block is one unit, the rest of the model another: a process holds one Nth of each, gathers a unit when it
runs it and frees it afterwards, in both passes. Files hold whole tensors, so a run resumes with or without shards and
on any number of processes. Torch's modules for this take a second to import, so they are imported where they are used.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from speechssl.config import UserError
from speechssl.distributed import Process, largest
from speechssl.nn.transformer import TransformerLayer
from speechssl.train.optim import Optimizer

_METHODS = ("gather", "probe")  # of a Trainable, that run parts of the model outside its forward pass


def shard(model: nn.Module, process: Process) -> None:
    """Divide the parameters of a model among the processes, in place; they are the same in every process before.

    Raises:
        UserError: layer drop, which draws other blocks in each process, while all have to gather the same.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    blocks = [module for module in model.modules() if isinstance(module, TransformerLayer)]
    dropped = max((block.config.layer_drop for block in blocks), default=0.0)
    if dropped:
        raise UserError(
            f"loop.shard: all processes run the same blocks; given encoder.transformer.layer_drop={dropped:g}, "
            "allowed with it: 0"
        )
    mesh = init_device_mesh(process.device.type, (process.world_size,))
    for block in blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh, reshard_after_forward=True)  # otherwise a changed shard would not be gathered again
    for name in _METHODS:
        if hasattr(model, name):
            register_fsdp_forward_method(model, name)


def whole(state: Any, *, keep: bool = True) -> Any:
    """A state with whole tensors on the CPU instead of shards; all processes call it.

    Args:
        state: tensors and plain values in dictionaries and lists.
        keep: False returns a state without tensors: a process that only sends its shards needs no memory for others'.
    """
    if isinstance(state, Mapping):
        return {name: whole(each, keep=keep) for name, each in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(whole(each, keep=keep) for each in state)
    if not isinstance(state, Tensor):
        return state
    tensor = gathered(state)
    return tensor.cpu() if keep else None


def gathered(tensor: Tensor) -> Tensor:
    """The whole of a tensor that may be divided among the processes, which all call it then."""
    placed: Any = tensor
    return placed.full_tensor() if _is_shard(tensor) else tensor


def divided(state: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """This process's parts of whole tensors.

    Args:
        state: whole tensors, the same in every process.
        like: tensors of the same names; where one is divided, the whole one is divided in the same way.
    """
    return {name: _divided(each, like[name]) if name in like else each for name, each in state.items()}


def divided_optimizer(state: dict[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    """An optimiser's state with this process's parts of the tensors that have the shape of their parameter."""
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    if not any(map(_is_shard, parameters)):
        return state
    found: dict[int, dict[str, Any]] = {}
    for number, values in state["state"].items():
        own = parameters[number]
        parts = {
            n: isinstance(each, Tensor) and each.shape == own.shape and each.ndim > 0 for n, each in values.items()
        }
        found[number] = {n: _divided(each, own) if parts[n] else each for n, each in values.items()}
    return {**state, "state": found}


def even_parts(own: int, device: torch.device) -> int:
    """The smallest number of micro-batches of all processes: all have to gather equally often."""
    return -int(largest(-float(own), device))


def _divided(value: Tensor, like: Tensor) -> Tensor:
    if not _is_shard(like):
        return value
    from torch.distributed.tensor import distribute_tensor

    placed: Any = like
    return distribute_tensor(value.to(like.device), placed.device_mesh, placed.placements, src_data_rank=None)


def _is_shard(tensor: Tensor) -> bool:
    if type(tensor) in (Tensor, nn.Parameter):  # nothing to import then
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)
