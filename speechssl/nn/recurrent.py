"""Recurrent blocks for a causal context network, in the place of Transformer blocks.

The context networks of CPC (van den Oord et al. 2018, arXiv 1807.03748: one GRU; Rivière et al. 2020, arXiv 2002.02848:
one LSTM) and of APC (Chung et al. 2019, arXiv 1904.03240: three GRU with residuals). A block reads frames in their
order, so no frame depends on those after it, and none on padding, which comes last.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from speechssl.nn.dropout import dropout
from speechssl.nn.norm import LayerNorm


class RecurrentLayer(nn.Module):
    """One recurrent layer with a residual; norm before (pre) or after (post) it, as in a Transformer block.

    Args:
        kind: "gru" or "lstm".
        dim: of the frames, and of the state.
        pre_norm: whether the norm is before the layer.
        dropout: of the layer's output.
        norm_eps: added to the variance.

    Example:
        >>> layer, x = RecurrentLayer("gru", 8, pre_norm=True).eval(), torch.randn(1, 5, 8)
        >>> later = x.clone()
        >>> later[:, 3:] = 0
        >>> torch.equal(layer(later, None)[:, :3], layer(x, None)[:, :3])
        True
    """

    def __init__(
        self, kind: Literal["gru", "lstm"], dim: int, *, pre_norm: bool, dropout: float = 0.0, norm_eps: float = 1e-5
    ):
        super().__init__()
        self.pre_norm, self.dropout = pre_norm, dropout
        self.recurrent = {"gru": nn.GRU, "lstm": nn.LSTM}[kind](dim, dim, batch_first=True)
        self.norm = LayerNorm(dim, eps=norm_eps)

    def forward(
        self,
        x: Float[Tensor, "batch frames dim"],
        mask: Bool[Tensor, "batch 1 1 frames"] | None,
        distances: Tensor | None = None,
    ) -> Float[Tensor, "batch frames dim"]:
        """One block, with the arguments of a Transformer block; nothing is masked, as padding comes last."""
        assert mask is None
        assert distances is None
        y = self._read(self.norm(x) if self.pre_norm else x)
        x = x + dropout(y, self.dropout, training=self.training)
        return x if self.pre_norm else self.norm(x)

    def _read(self, x: Float[Tensor, "batch frames dim"]) -> Float[Tensor, "batch frames dim"]:
        """States over time, computed in the type of the weights: rounding errors add up over frames."""
        weight = self.recurrent.weight_hh_l0
        assert isinstance(weight, Tensor)
        with torch.autocast(x.device.type, enabled=False):
            states, _ = self.recurrent(x.to(weight.dtype))
        return states.to(x.dtype)
