"""Projection head: the small network between an encoder's pooled vectors and a loss that compares rows of a batch."""

from torch import nn


def projector(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Linear map, batch norm, ReLU, linear map, as in BYOL (Grill et al. 2020, arXiv 2006.07733, section 3.3).

    The norm uses the statistics of the given batch in training and evaluation: a head is no part of the saved encoder.
    For the gradient of one batch in parts, each part needs the rows of the global batch
    (:func:`speechssl.nn.rows.loss_in_part`). The first map has no bias: the norm takes it out again, and its gradient
    would be rounding noise, which AdamW scales up.

    Args:
        inputs: dimension of the pooled vectors.
        hidden: of the layer between.
        outputs: of the embeddings.

    >>> import torch
    >>> head = projector(4, 8, 3).eval()
    >>> head(torch.randn(5, 4)).shape, [name for name, _ in head.named_buffers()]
    (torch.Size([5, 3]), [])
    """
    norm = nn.BatchNorm1d(hidden, track_running_stats=False)
    return nn.Sequential(nn.Linear(inputs, hidden, bias=False), norm, nn.ReLU(), nn.Linear(hidden, outputs))


def projector_shapes(name: str, inputs: int, hidden: int, outputs: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the matrices of a projector with such a name.

    >>> projector_shapes("head", 4, 8, 3)
    {'head.0.weight': (8, 4), 'head.3.weight': (3, 8)}
    """
    return {f"{name}.0.weight": (hidden, inputs), f"{name}.3.weight": (outputs, hidden)}
