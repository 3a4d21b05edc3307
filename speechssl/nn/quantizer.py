"""Gumbel product quantizer.

wav2vec 2.0 (Baevski et al. 2020, arXiv 2006.11477, section 2) after vq-wav2vec (1910.05453): a linear layer scores the
entries of each of G codebooks, one entry per group is chosen by a straight-through Gumbel softmax, and the chosen
entries are concatenated.

The scale of the initial logits matters: if it is too small, the Gumbel noise chooses the codes; if it is too large, a
few codes are always chosen. ``logit_std`` sets their standard deviation for a normalised input; None keeps the paper's
code default, weights drawn from N(0, 1).
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from pydantic import PositiveInt
from torch import Tensor, nn

from speechssl.config import Config


class QuantizerConfig(Config):
    """Size and initialisation of the codebooks; defaults are the paper's."""

    groups: PositiveInt = 2
    codes: PositiveInt = 320  # entries per group
    dim: PositiveInt = 256  # of the concatenated vector
    logit_std: float | None = None
    normalize_input: bool = False  # zero mean, unit variance over the frames of each crop


@dataclass(frozen=True)
class QuantizerOutput:
    """``probs`` is the softmax of the logits in fp32, without noise and temperature; ``codes`` the chosen entries."""

    vectors: Float[Tensor, "frames dim"]
    codes: Int[Tensor, "frames groups"]
    probs: Float[Tensor, "frames groups codes"]


class GumbelQuantizer(nn.Module):
    """Frames to concatenated codebook entries.

    Example:
        >>> quantizer = GumbelQuantizer(16, QuantizerConfig(groups=2, codes=8, dim=12))
        >>> output = quantizer(torch.randn(5, 16), temperature=1.0)
        >>> output.vectors.shape, output.codes.shape
        (torch.Size([5, 12]), torch.Size([5, 2]))
    """

    def __init__(self, inputs: int, config: QuantizerConfig):
        super().__init__()
        if config.dim % config.groups:
            raise ValueError(f"quantizer dim {config.dim} is not divisible by {config.groups} groups")
        self.config = config
        self.scores = nn.Linear(inputs, config.groups * config.codes)
        nn.init.normal_(
            self.scores.weight, std=1.0 if config.logit_std is None else config.logit_std / math.sqrt(inputs)
        )
        nn.init.zeros_(self.scores.bias)
        self.codebooks = nn.Parameter(
            torch.rand(config.groups, config.codes, config.dim // config.groups)
        )  # fairseq's uniform

    def forward(
        self,
        x: Float[Tensor, "frames inputs"],
        *,
        temperature: float = 1.0,
        noise: Float[Tensor, "frames groups codes"] | None = None,
    ) -> QuantizerOutput:
        """Quantise; all arithmetic in fp32.

        Args:
            x: latent frames.
            temperature: temperature of the straight-through softmax; it affects the gradient, not the choice.
            noise: Gumbel(0, 1) draws added to the logits (:func:`gumbel_noise`); None chooses the likeliest entry.
        """
        with torch.autocast(x.device.type, enabled=False):
            logits = self.scores(x.float()).unflatten(-1, (self.config.groups, self.config.codes))
            noisy = logits if noise is None else logits + noise
            soft = (noisy / temperature).softmax(dim=-1)
            codes = noisy.argmax(dim=-1)
            hard = torch.zeros_like(soft).scatter_(-1, codes.unsqueeze(-1), 1.0)
            choice = hard + (soft - soft.detach())  # exactly the value of `hard`, with the gradient of `soft`
            vectors = torch.einsum("fgv,gvd->fgd", choice, self.codebooks).flatten(1)  # frames dim
            return QuantizerOutput(vectors=vectors, codes=codes, probs=logits.softmax(dim=-1))


def gumbel_noise(*shape: int, generator: torch.Generator) -> Float[Tensor, "*shape"]:
    """Standard Gumbel draws on the generator's device.

    Uniform draws exclude 0 and 1, where the double logarithm is infinite (a known source of NaN elsewhere).

    >>> bool(gumbel_noise(2, 3, generator=torch.Generator().manual_seed(0)).isfinite().all())
    True
    """
    uniform = torch.rand(*shape, generator=generator, device=generator.device)
    return -torch.log(-torch.log(uniform.clamp(1e-7, 1 - 1e-7)))
