"""AdamW, learning-rate schedule and the rule that sets the rate from the batch size.

Schedules are fractions of the run, so that a short run is the same recipe as a long one. Rate and batch: small-budget
wav2vec 2.0 runs at many batch sizes (Vaessen and van Leeuwen 2024, arXiv 2402.13723, table 1) follow a square root:
1.6e-4 at 10 minutes of audio an update, 5e-4 at 40 minutes and above.
"""

import math

import torch
from pydantic import Field, PositiveFloat
from torch import nn

from speechssl.config import Config


class OptimConfig(Config):
    """Optimiser and schedule; defaults are for BASE-like models."""

    reference_lr: float = 1.6e-4  # at reference_seconds of audio an update
    reference_seconds: float = 600.0
    max_lr: float = 5e-4
    conv_lr_scale: float = 1.0  # learning rate of the convolutions relative to the rest
    warmup: float = Field(default=0.08, ge=0, lt=1)  # fraction of the run (fairseq: 32k of 400k)
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-6
    weight_decay: float = 0.01
    clip: PositiveFloat = 10.0  # gradient norm


def peak_learning_rate(config: OptimConfig, batch_seconds: float) -> float:
    """Peak learning rate for so many seconds of audio an update: square-root rule with a cap.

    >>> peak_learning_rate(OptimConfig(), 600.0), peak_learning_rate(OptimConfig(), 1e5)
    (0.00016, 0.0005)
    """
    return min(config.max_lr, config.reference_lr * math.sqrt(batch_seconds / config.reference_seconds))


def schedule(progress: float, warmup: float) -> float:
    """Factor on the peak rate at a fraction of the run: linear up during ``warmup``, linear down to zero at the end.

    >>> [round(schedule(p, 0.1), 3) for p in (0.0, 0.05, 0.1, 0.55, 1.0)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    if progress < warmup:
        return progress / warmup
    return max(0.0, (1.0 - progress) / (1.0 - warmup))


def build_optimizer(model: nn.Module, config: OptimConfig, *, slow: nn.Module | None = None) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only; parameters of ``slow`` get ``conv_lr_scale`` times the rate.

    Each group carries its factor under ``scale``; :func:`set_learning_rate` multiplies by it.
    """
    slow_parameters = set() if slow is None else set(slow.parameters())
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            scale = config.conv_lr_scale if parameter in slow_parameters else 1.0
            decay = config.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((scale, decay), []).append(parameter)
    return torch.optim.AdamW(
        [{"params": params, "scale": scale, "weight_decay": decay} for (scale, decay), params in groups.items()],
        lr=0.0,
        betas=config.betas,
        eps=config.eps,
        fused=True,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the rate of every group, times its own scale."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]
