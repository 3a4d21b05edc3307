"""Muon for the matrices of the Transformer's blocks, AdamW for all other parameters.

Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; the step size is that of Liu et al. 2025,
"Muon is scalable for LLM training" (arXiv 2502.16982, section 2.2): the root mean square of an update is that of AdamW,
so that both share one learning rate and one weight decay. Both optimisers are torch's. Queries, keys and values are one
stored matrix and three matrices here, since an orthogonal update mixes the rows of a matrix.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from speechssl.nn.transformer import TransformerLayer


@dataclass(frozen=True)
class Matrix:
    """A weight that Muon trains.

    Attributes:
        weight: the parameter of the model.
        parts: number of matrices of equal height that it stores, one below the other.
    """

    weight: Tensor
    parts: int = 1


def matrices(model: nn.Module) -> list[Matrix]:
    """Trained matrices of attention and feed-forward in every Transformer block of a model.

    >>> from speechssl.nn.transformer import TransformerConfig
    >>> block = TransformerLayer(TransformerConfig(dim=8, heads=2, feedforward=16))
    >>> [(each.parts, tuple(each.weight.shape)) for each in matrices(block)]
    [(3, (24, 8)), (1, (8, 8)), (1, (16, 8)), (1, (8, 16))]
    """
    found: list[Matrix] = []
    for block in model.modules():
        if isinstance(block, TransformerLayer):
            attention = block.attention
            found += [Matrix(attention.qkv.weight, parts=3), Matrix(attention.out.weight)]
            found += [Matrix(block.expand.weight), Matrix(block.contract.weight)]
    return [each for each in found if each.weight.requires_grad]


class MuonAdamW:
    """The two optimisers as one, with the part of torch's interface that the training loop uses.

    Args:
        groups: parameter groups of Muon, with a :class:`Matrix` per parameter and the keys of ``torch.optim.Muon``.
        adamw: the optimiser of all other parameters, a fused one.

    Attributes:
        found_inf: 1 skips a step of both, as in torch's fused optimisers; a number on the device.
    """

    found_inf: Tensor | None = None

    def __init__(self, groups: Sequence[Mapping[str, Any]], adamw: torch.optim.Optimizer):
        self.adamw = adamw
        self._parts: list[tuple[Matrix, list[nn.Parameter]]] = []
        for group in groups:
            for each in group["params"]:
                self._parts.append((each, [nn.Parameter(part) for part in each.weight.detach().chunk(each.parts)]))
        parts = iter(self._parts)
        own = [{**group, "params": [p for _ in group["params"] for p in next(parts)[1]]} for group in groups]
        self.muon = torch.optim.Muon(own, lr=0.0, adjust_lr_fn="match_rms_adamw")
        for _, views in self._parts:
            for view in views:  # from the start, so that a skipped first step has something to come back to
                self.muon.state[view]["momentum_buffer"] = torch.zeros_like(view)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Groups of both optimisers."""
        return [*self.muon.param_groups, *self.adamw.param_groups]

    @torch.no_grad()
    def step(self) -> None:
        """Update the weights, or leave all as it was where :attr:`found_inf` is 1, without waiting for the device.

        Torch's Muon cannot skip a step, so weights and momentum are copied before it.
        """
        for matrix, views in self._parts:
            gradient = matrix.weight.grad
            slices = [None] * matrix.parts if gradient is None else gradient.chunk(matrix.parts)
            for view, data, part in zip(views, matrix.weight.detach().chunk(matrix.parts), slices, strict=True):
                view.data, view.grad = data, part
        changed = [view for _, views in self._parts for view in views if view.grad is not None]
        changed += [self.muon.state[view]["momentum_buffer"] for view in changed]
        before = [] if self.found_inf is None else [each.detach().clone() for each in changed]
        self.muon.step()
        if self.found_inf is not None:
            skip = self.found_inf.bool()
            for each, old in zip(changed, before, strict=True):
                each.copy_(torch.where(skip, old, each))
            self.adamw.found_inf = self.found_inf  # pyright: ignore[reportAttributeAccessIssue] -- as GradScaler
        self.adamw.step()
        if self.found_inf is not None:
            del self.adamw.found_inf  # pyright: ignore[reportAttributeAccessIssue]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop all gradients."""
        for matrix, views in self._parts:
            for each in (matrix.weight, *views):
                each.grad = None
        self.adamw.zero_grad(set_to_none=set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """State of both."""
        return {"muon": self.muon.state_dict(), "adamw": self.adamw.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state of both.

        Raises:
            KeyError: the state of another optimiser.
            ValueError: the state for other parameters.
        """
        self.muon.load_state_dict(state["muon"])
        self.adamw.load_state_dict(state["adamw"])
