"""Layer norm with accurate bf16 gradients on CPUs.

On CPUs torch's kernel sums the gradients of weight and bias in the type of its input. In bf16 a running sum stops
growing once it is 256 times a summand: over 25,600 rows, four crops of 2 s after the first convolution, the gradient of
the bias was wrong by 90 %. On GPUs that kernel sums in fp32.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class LayerNorm(nn.LayerNorm):
    """Layer norm over the last axis like torch's; bf16 on CPUs is computed in fp32 where gradients are needed.

    Example:
        >>> norm = LayerNorm(4)
        >>> norm(torch.tensor([[1.0, 1.0, 3.0, 3.0]], dtype=torch.bfloat16)).tolist()
        [[-1.0, -1.0, 1.0, 1.0]]
    """

    def forward(self, input: Float[Tensor, "*shape dim"]) -> Float[Tensor, "*shape dim"]:  # noqa: A002 -- torch's own name, by which it may be called
        """Zero mean and unit variance of each row, then scale and shift; the type of the input."""
        if input.device.type != "cpu" or input.dtype != torch.bfloat16 or not torch.is_grad_enabled():
            return super().forward(input)
        normed = F.layer_norm(input.float(), self.normalized_shape, self.weight.float(), self.bias.float(), self.eps)
        return normed.to(input.dtype)
