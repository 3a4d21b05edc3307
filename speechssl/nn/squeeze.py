"""Half as many frames for a Transformer: projected frames are merged in pairs, outputs are repeated.

SEW (Wu et al. 2021, "Performance-Efficiency Trade-offs in Unsupervised Pre-training for Speech Recognition", arXiv
2109.06870, section 4.3) squeezes the sequence before the Transformer and restores its length after it. Here the pairs
are merged by a learnt convolution that starts as the mean of a pair, SEW's pooling, and the outputs are repeated, where
SEW has a learnt layer.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

PAIR = 2  # frames per step of a squeezed sequence


class PairSqueeze(nn.Module):
    """Convolution of kernel 2 and stride 2 over frames, computed as one product; an odd last frame is paired with zero.

    Example:
        >>> squeeze = PairSqueeze(1)
        >>> frames = torch.tensor([[[1.0], [3.0], [4.0]]])
        >>> squeeze(frames, None).flatten().tolist()
        [2.0, 2.0]
    """

    def __init__(self, dim: int):
        super().__init__()
        self.merge = nn.Linear(PAIR * dim, dim)
        with torch.no_grad():
            self.merge.weight.copy_(torch.eye(dim).repeat(1, PAIR) / PAIR)
            self.merge.bias.zero_()

    def forward(
        self, x: Float[Tensor, "batch frames dim"], valid: Bool[Tensor, "batch frames"] | None
    ) -> Float[Tensor, "batch steps dim"]:
        """One vector per pair; ``steps`` is half of ``frames``, rounded up.

        Args:
            x: projected frames.
            valid: True where a frame belongs to its utterance; frames beyond its end count as zero.
        """
        if valid is not None:
            x = x.masked_fill(~valid.unsqueeze(-1), 0.0)
        return self.merge(torch.cat([x[:, ::PAIR], F.pad(x, (0, 0, 0, 1))[:, 1::PAIR]], dim=-1))


def repeated(x: Float[Tensor, "batch steps dim"], frames: int) -> Float[Tensor, "batch frames dim"]:
    """Each step of a squeezed sequence twice, cut to the number of frames.

    >>> repeated(torch.tensor([[[1.0], [2.0]]]), 3).flatten().tolist()
    [1.0, 1.0, 2.0]
    """
    return x[:, torch.arange(frames, device=x.device) // PAIR]
