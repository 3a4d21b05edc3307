"""The share of a part in a loss that compares all rows, with a head whose batch norm sees all rows."""

import numpy as np
import pytest
import torch
from torch import Tensor

from speechssl.nn.losses import LossSum
from speechssl.nn.projector import projector
from speechssl.nn.rows import loss_in_part


@pytest.mark.parametrize("parts", [[[0, 1, 2, 3, 4, 5]], [[0, 1], [2, 3, 4, 5]], [[4], [0, 5], [3, 2, 1]]])
def test_parts_have_the_gradient_of_one_batch_in_vectors_and_head(parts: list[list[int]]) -> None:
    torch.manual_seed(0)
    vectors, head = torch.randn(6, 4, requires_grad=True), projector(4, 8, 3)
    wanted = [vectors, *head.parameters()]

    def loss(every: Tensor, targets: Tensor) -> LossSum:
        embeddings = head(every)
        apart = torch.cdist(embeddings[targets], embeddings).square().sum()
        return LossSum(apart, {"count": torch.tensor(float(len(targets)))})

    whole = loss(vectors, torch.arange(6))
    expected = torch.autograd.grad(whole.total, wanted)
    found = [
        loss_in_part(loss, vectors[rows], np.array(rows), vectors, parameters=[*head.parameters()]) for rows in parts
    ]
    total = torch.stack([each.total for each in found]).sum()
    torch.testing.assert_close(total, whole.total)
    assert sum(float(each.count) for each in found) == 6
    for got, each in zip(torch.autograd.grad(total, wanted), expected, strict=True):
        torch.testing.assert_close(got, each, rtol=1e-4, atol=1e-4)
