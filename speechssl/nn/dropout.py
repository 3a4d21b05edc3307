"""Dropout with fast mask generation on CPUs.

On CPUs torch draws one Bernoulli variable per element, which takes a third of the time of a whole attention at 250
frames. Here a 64-bit draw of torch's generator gives the masks of four elements.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

_LEVELS = 2**16  # a mask is decided by 16 bits: the probability is rounded to a multiple of 1.5e-5


def dropout(x: Float[Tensor, "*shape"], probability: float, *, training: bool) -> Float[Tensor, "*shape"]:
    """Zero each element with a probability and scale the others by 1 / (1 - probability); same distribution as torch's.

    Args:
        x: any floating tensor.
        probability: probability of an element to be dropped.
        training: False gives ``x`` itself.

    Example:
        >>> kept = dropout(torch.ones(10_000), 0.25, training=True)
        >>> kept.unique().tolist(), round(float(kept.mean()), 1)
        ([0.0, 1.3333333730697632], 1.0)
    """
    dropped = round(probability * _LEVELS)
    if not training or dropped == 0:
        return x
    if x.device.type != "cpu" or not 0 < dropped < _LEVELS or torch.compiler.is_compiling():
        return F.dropout(x, probability)
    words = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)  # every bit is random
    bits = words.view(torch.int16)[: x.numel()].view(x.shape)  # uniform from -_LEVELS / 2 on
    # The mask is floating-point: products of booleans with numbers, and torch.where, are ten times slower.
    mask = torch.ge(bits, dropped - _LEVELS // 2, out=torch.empty(x.shape, dtype=x.dtype))
    return x * mask.mul_(_LEVELS / (_LEVELS - dropped))
