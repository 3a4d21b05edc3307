"""Random-projection quantizer: codes of frames without anything learnt.

Chiu et al. 2022 (BEST-RQ, arXiv 2202.01855), section 3.1: a random projection (Xavier) and random codes (normal), both
fixed.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

_CODES = 14  # part of the seed, so that this random stream differs from others


class RandomQuantizer(nn.Module):
    """Index of the nearest of fixed random codes after a fixed random projection; several codebooks side by side.

    Nearest in the distance of vectors of unit length (the paper's equation 1), which is the largest cosine, so that the
    length of the projected vector has no effect and only the codes are scaled.

    Example:
        >>> quantizer = RandomQuantizer(160, codebooks=4, codes=512, dim=16, seed=0)
        >>> quantizer(torch.randn(10, 160)).shape, list(quantizer.parameters())
        (torch.Size([10, 4]), [])
    """

    projection: Float[Tensor, "codebooks inputs dim"]
    codes: Float[Tensor, "codebooks codes dim"]

    def __init__(self, inputs: int, *, codebooks: int, codes: int, dim: int, seed: int):
        super().__init__()
        rng = np.random.default_rng((seed, _CODES))
        xavier = math.sqrt(2 / (inputs + dim))
        drawn = {
            "projection": xavier * rng.standard_normal((codebooks, inputs, dim)),
            "codes": rng.standard_normal((codebooks, codes, dim)),
        }
        for name, values in drawn.items():
            self.register_buffer(name, torch.from_numpy(values).float())
        self.codes = F.normalize(self.codes, dim=-1)

    @torch.no_grad()
    def forward(self, frames: Float[Tensor, "frames inputs"]) -> Int[Tensor, "frames codebooks"]:
        """Indices of the codes, computed in fp32."""
        with torch.autocast(frames.device.type, enabled=False):
            projected = torch.einsum("fi,cid->cfd", frames.float(), self.projection.float())
            return (projected @ self.codes.float().mT).argmax(dim=-1).T
