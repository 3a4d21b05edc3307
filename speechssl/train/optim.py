"""Optimisers, learning-rate schedule and the rule that sets the rate from the batch size.

Schedules are fractions of the run, so that a short run is the same recipe as a long one. Rate and batch: small-budget
wav2vec 2.0 runs at many batch sizes (Vaessen and van Leeuwen 2024, arXiv 2402.13723, table 1) follow a square root:
1.6e-4 at 10 minutes of audio an update, 5e-4 at 40 minutes and above.
"""

import math
from collections.abc import Callable
from typing import Annotated, Literal

import torch
from pydantic import Field, FiniteFloat, PositiveFloat, model_validator
from torch import nn

from speechssl.config import Config, UserError
from speechssl.train.muon import Matrix, MuonAdamW, matrices

Optimizer = torch.optim.Optimizer | MuonAdamW
Rate = Annotated[FiniteFloat, Field(ge=0)]
Factor = Annotated[FiniteFloat, Field(gt=0)]


class AdamWConfig(Config):
    """AdamW, or Muon beside it, and the schedule; the defaults are those of wav2vec 2.0 pretraining."""

    name: Literal["adamw", "muon"] = "adamw"  # muon: on the matrices of the Transformer's blocks, AdamW on the rest
    muon_scale: Factor = 1.0  # rate of those matrices relative to the rest, at equal root mean square
    schedule: Literal["linear", "tri-stage", "wsd"] = "linear"
    warmup: float = Field(default=0.08, ge=0, lt=1)  # fraction of the run (fairseq: 32k of 400k)
    hold: float = Field(default=0.4, ge=0, lt=1)  # tri-stage: fraction of the run at the peak (fairseq: .1, .4, .5)
    final_scale: float = Field(default=0.05, gt=0, le=1)  # tri-stage: of the peak, at the end
    cooldown: float = Field(default=0.2, gt=0, lt=1)  # wsd: fraction of the run, at its end
    average: float = Field(default=0.0, ge=0, lt=1)  # decay of the moving average of the weights that is saved; 0: none
    betas: tuple[float, float] = (0.9, 0.98)
    eps: Factor = 1e-6
    weight_decay: Rate = 0.01
    clip: PositiveFloat = 10.0  # gradient norm

    @model_validator(mode="after")
    def _stages_fit(self) -> "AdamWConfig":
        if self.schedule == "tri-stage" and self.warmup + self.hold >= 1:
            raise ValueError(f"warmup {self.warmup:g} and hold {self.hold:g} leave nothing of the run for the decay")
        if self.schedule == "wsd" and self.warmup + self.cooldown > 1:
            raise ValueError(f"warmup {self.warmup:g} and cooldown {self.cooldown:g} are more than the whole run")
        if self.name == "adamw" and self.muon_scale != 1:
            raise ValueError(f"muon_scale {self.muon_scale:g} has no effect with name=adamw; allowed: 1")
        return self


class OptimConfig(AdamWConfig):
    """Optimiser of pretraining; defaults are for BASE-like models."""

    reference_lr: Rate = 1.6e-4  # at reference_seconds of audio an update
    reference_seconds: Factor = 600.0
    max_lr: float = Field(default=5e-4, ge=0)
    conv_lr_scale: Rate = 1.0  # learning rate of the convolutions relative to the rest


def peak_learning_rate(config: OptimConfig, batch_seconds: float) -> float:
    """Peak learning rate for so many seconds of audio an update: square-root rule with a cap.

    >>> peak_learning_rate(OptimConfig(), 600.0), peak_learning_rate(OptimConfig(), 1e5)
    (0.00016, 0.0005)
    """
    return min(config.max_lr, config.reference_lr * math.sqrt(batch_seconds / config.reference_seconds))


def schedule(progress: float, config: AdamWConfig) -> float:
    """Factor on the peak rate at a fraction of the run.

    Linear up during ``warmup``; then ``linear`` goes straight down to zero at the end, and ``tri-stage`` holds the peak
    for ``hold`` and decays exponentially to ``final_scale`` (fairseq's fine-tuning). ``wsd`` (warm-up, stable,
    decay) holds the peak until the last ``cooldown`` of the run and then falls to zero as 1 - sqrt (Hägele et al. 2024,
    arXiv 2405.18392, section 3); runs of all lengths share its constant phase.

    >>> [round(schedule(p, AdamWConfig(warmup=0.1)), 3) for p in (0.0, 0.05, 0.1, 0.55, 1.0)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    >>> stages = AdamWConfig(schedule="tri-stage", warmup=0.1)
    >>> [round(schedule(p, stages), 3) for p in (0.05, 0.1, 0.5, 0.75, 1.0)]
    [0.5, 1.0, 1.0, 0.224, 0.05]
    >>> constant = AdamWConfig(schedule="wsd", warmup=0.1, cooldown=0.2)
    >>> [round(schedule(p, constant), 3) for p in (0.05, 0.1, 0.8, 0.85, 1.0)]
    [0.5, 1.0, 1.0, 0.5, 0.0]
    """
    if progress < config.warmup:
        return progress / config.warmup
    if config.schedule == "linear":
        return max(0.0, (1.0 - progress) / (1.0 - config.warmup))
    if config.schedule == "wsd":
        cooled = max(0.0, progress - (1.0 - config.cooldown)) / config.cooldown
        return max(0.0, 1.0 - math.sqrt(cooled))
    decaying = max(0.0, progress - config.warmup - config.hold) / (1.0 - config.warmup - config.hold)
    return config.final_scale ** min(1.0, decaying)


def build_optimizer(
    model: nn.Module, config: AdamWConfig, *, rate: Callable[[str], float] = lambda _: 1.0
) -> Optimizer:
    """AdamW, or Muon and AdamW, with weight decay on matrices only.

    Args:
        model: its parameters that want a gradient are trained.
        config: the optimiser.
        rate: factor on the learning rate of a parameter, by its name. It is kept under ``scale`` in the parameter's
            group; :func:`set_learning_rate` multiplies by it.

    Raises:
        UserError: Muon for a model without a trained Transformer block.
    """
    orthogonal = {id(each.weight): each for each in matrices(model)} if config.name == "muon" else {}
    if config.name == "muon" and not orthogonal:
        raise UserError("optim.name=muon: the model has no trained Transformer block; allowed here: adamw")
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    muon: dict[float, list[Matrix]] = {}
    for name, parameter in model.named_parameters():
        if id(parameter) in orthogonal:
            muon.setdefault(rate(name) * config.muon_scale, []).append(orthogonal[id(parameter)])
        elif parameter.requires_grad:
            decay = config.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((rate(name), decay), []).append(parameter)
    adamw = torch.optim.AdamW(
        [{"params": params, "scale": scale, "weight_decay": decay} for (scale, decay), params in groups.items()],
        lr=0.0,
        betas=config.betas,
        eps=config.eps,
        fused=True,
    )
    if not muon:
        return adamw
    decay = config.weight_decay
    return MuonAdamW([{"params": each, "scale": scale, "weight_decay": decay} for scale, each in muon.items()], adamw)


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """Set the rate of every group, times its own scale."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]
