"""Losses that compare the rows of a global batch, computed in parts with the gradient of the whole.

A part has the vectors of its own rows with gradients, and those of all other rows without. The gradient of the whole
loss with respect to each row's vector needs nothing else; multiplied with the part's vectors it gives a sum whose
gradient is the part's share. Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup"
(GradCache, arXiv 2101.06983), section 3.2.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from speechssl.nn.losses import LossSum


def scattered(values: Tensor, rows: Int[np.ndarray, " part"], global_rows: int) -> Tensor:
    """Values at their places in the global batch, zeros elsewhere, without gradients; parts and ranks add up.

    >>> scattered(torch.tensor([5.0, 6.0]), np.array([2, 0]), 4).tolist()
    [6.0, 0.0, 5.0, 0.0]
    """
    whole = torch.zeros((global_rows, *values.shape[1:]), dtype=values.dtype, device=values.device)
    whole[torch.from_numpy(rows).to(values.device)] = values.detach()
    return whole


def added(tables: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Sum of tensors of the same names, such as those that parts have :func:`scattered`.

    >>> added([{"x": torch.tensor(1.0)}, {"x": torch.tensor(2.0)}])
    {'x': tensor(3.)}
    """
    return {name: torch.stack([each[name] for each in tables]).sum(dim=0) for name in tables[0]}


def loss_in_part(
    loss: Callable[[Tensor, Tensor], LossSum],
    own: Float[Tensor, "part ..."],
    rows: Int[np.ndarray, " part"],
    every: Float[Tensor, "global_rows ..."],
    *,
    parameters: Sequence[nn.Parameter] = (),
) -> LossSum:
    """Share of one part in a loss that compares all rows.

    Args:
        loss: of (vectors of all rows, indices of the rows that are targets), summed over these targets.
        own: vectors of the part's rows, with gradients.
        rows: places of these rows in the global batch.
        every: vectors of all rows; those of the part are replaced by ``own``.
        parameters: of a head that ``loss`` applies to all rows, as batch norm requires. Each part has their whole
            gradient, and counts the fraction of it that its rows are of all rows.

    Returns:
        Value and stats of the part's targets, in fp32. The gradients of all parts add up to that of the loss of all
        targets, those through vectors that are compared with another part's targets included.

    >>> def apart(every, targets):  # squared distances of the targets from all rows
    ...     distances = (every[targets].unsqueeze(1) - every).square().sum(dim=-1)
    ...     return LossSum(distances.sum(), {"count": torch.tensor(float(len(targets)))})
    >>> vectors = torch.eye(3, requires_grad=True)
    >>> parts = [loss_in_part(apart, vectors[p], p, vectors) for p in (np.array([0]), np.array([1, 2]))]
    >>> (whole,) = torch.autograd.grad(apart(vectors, torch.arange(3)).total, vectors)
    >>> (got,) = torch.autograd.grad(parts[0].total + parts[1].total, vectors)
    >>> torch.equal(got, whole), sum(float(part.total.detach()) for part in parts)
    (True, 12.0)
    """
    index = torch.from_numpy(rows).to(own.device)
    leaf = every.detach().float().index_copy(0, index, own.detach().float()).requires_grad_()
    with torch.autocast(own.device.type, enabled=False):
        with torch.enable_grad():
            whole = loss(leaf, torch.arange(len(leaf), device=own.device)).total
            slope, *slopes = torch.autograd.grad(whole, [leaf, *parameters])
        with torch.no_grad():
            found = loss(leaf, index)
        linear = (own.float() * slope[index]).sum()
        share = len(rows) / len(leaf)
        for parameter, each in zip(parameters, slopes, strict=True):
            linear = linear + share * (parameter * each).sum()
        return LossSum(found.total + (linear - linear.detach()), found.stats)
