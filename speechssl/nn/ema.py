"""Exponential moving average (EMA) of a module: the teacher of BYOL, DINO and data2vec.

Tarvainen and Valpola 2017, "Mean teachers are better role models" (arXiv 1703.01780); Grill et al. 2020, BYOL, section
3.1 (arXiv 2006.07733); Baevski et al. 2022, data2vec (arXiv 2202.03555).

The average is part of the state of the module that holds it, so that checkpoints contain it and a resumed run equals an
uninterrupted one.
"""

import copy
import math
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from speechssl.config import Config


class DecayConfig(Config):
    """Decay of the average over a run: weight of the old average in an update. Equal ends give a constant.

    Attributes:
        start: decay at the first update (data2vec BASE: 0.999; BYOL: 0.996).
        end: decay from ``ramp`` on (data2vec BASE: 0.9999; BYOL: 1).
        ramp: fraction of the run after which the end is reached (data2vec BASE: 30k of 400k updates).
        shape: "linear" as in data2vec, "cosine" as in BYOL and DINO.
    """

    start: float = Field(default=0.999, ge=0, le=1)
    end: float = Field(default=0.9999, ge=0, le=1)
    ramp: float = Field(default=0.075, gt=0, le=1)
    shape: Literal["linear", "cosine"] = "linear"

    def at(self, progress: float) -> float:
        """Decay at a fraction of the run.

        >>> config = DecayConfig(start=0.9, end=1.0, ramp=0.5)
        >>> [round(config.at(progress), 3) for progress in (0.0, 0.25, 0.5, 1.0)]
        [0.9, 0.95, 1.0, 1.0]
        """
        share = min(1.0, progress / self.ramp)
        if self.shape == "cosine":
            share = (1 - math.cos(math.pi * share)) / 2
        return self.start + share * (self.end - self.start)


class EMA(nn.Module):
    """Moving average of a module's parameters and floating-point buffers, without gradients and always in eval mode.

    Half-precision tensors are stored in fp32: in 16 bits, the updates of a decay near 1 are lost in rounding. Integer
    buffers are copied. The module must not be wrapped for compilation or data parallelism.

    Args:
        source: the module to average; the average starts as a copy of it.
        exclude: names of parameters, buffers or submodules of the source that are copied at each update, not averaged
            (data2vec's feature encoder).

    Attributes:
        module: the averaged module.

    Raises:
        ValueError: a name in ``exclude`` that the source does not have.

    >>> student = nn.Linear(1, 1, bias=False)
    >>> teacher = EMA(student)
    >>> _ = nn.init.constant_(student.weight, 1.0), nn.init.zeros_(teacher.module.weight)
    >>> teacher.update(student, decay=0.75)
    >>> teacher.module.weight.item(), teacher.module(torch.ones(1)).requires_grad
    (0.25, False)
    """

    def __init__(self, source: nn.Module, *, exclude: Sequence[str] = ()):
        super().__init__()
        self.module = copy.deepcopy(source).requires_grad_(requires_grad=False).eval()
        for each in _tensors(self.module).values():
            if each.dtype in (torch.float16, torch.bfloat16):
                each.data = each.data.float()
        names = _tensors(source)
        unknown = [each for each in exclude if not any(_within(name, each) for name in names)]
        if unknown:
            raise ValueError(f"exclude={unknown}: no such parameter, buffer or submodule in {type(source).__name__}")
        self._copied = {name for name in names if any(_within(name, each) for each in exclude)}

    def train(self, mode: bool = True) -> "EMA":  # noqa: ARG002 -- torch passes it
        """Stay in eval mode, independent of the mode of the parent module."""
        return super().train(mode=False)

    @torch.no_grad()
    def update(self, source: nn.Module, decay: float) -> None:
        """One step: ``average = decay * average + (1 - decay) * source``, all tensors at once, in fp32.

        Args:
            source: the initial module, or one with tensors of the same names and shapes.
            decay: from 0 to 1, see :meth:`DecayConfig.at`.

        Raises:
            ValueError: a decay outside its range, or a source with other tensors.
        """
        averages, sources = _tensors(self.module), _tensors(source)
        if {name: each.shape for name, each in averages.items()} != {n: each.shape for n, each in sources.items()}:
            raise ValueError(f"the average of another module: its tensors are not those of {type(source).__name__}")
        update = get_ema_multi_avg_fn(decay)
        averaged = [name for name, each in averages.items() if each.is_floating_point() and name not in self._copied]
        if averaged:
            update([averages[n] for n in averaged], [sources[n].to(averages[n].dtype) for n in averaged], 0)
        for name in averages.keys() - set(averaged):
            averages[name].copy_(sources[name])

    @contextmanager
    def applied_to(self, source: nn.Module, *, in_place: bool = False) -> Generator[None, None, None]:
        """Give a module the averaged tensors until the block ends; its own come back then, to the last bit.

        Args:
            source: the module.
            in_place: copy values into its tensors and back, where something else refers to their memory (FSDP).

        >>> student = nn.Linear(1, 1, bias=False)
        >>> teacher = EMA(student)
        >>> _ = nn.init.ones_(student.weight), nn.init.zeros_(teacher.module.weight)
        >>> with teacher.applied_to(student):
        ...     student.weight.item()
        0.0
        >>> student.weight.item()
        1.0
        """
        averages, sources = _tensors(self.module), _tensors(source)
        own = {name: each.detach().clone() if in_place else each.data for name, each in sources.items()}

        def give(tensors: Mapping[str, Tensor]) -> None:
            for name, each in sources.items():
                if in_place:
                    each.detach().copy_(tensors[name])
                else:
                    each.data = tensors[name].to(each.dtype)

        try:
            give(averages)
            yield
        finally:
            give(own)


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _within(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}.")
