"""Convolutional decoder for an encoder that gets unmasked frames only.

data2vec 2.0 (Baevski et al. 2022, "Efficient Self-supervised Learning with Contextualized Target Representations for
Vision, Speech and Language", arXiv 2212.07525, sections 3.2 and 3.3), after the masked autoencoder of images (He et al.
2021, arXiv 2111.06377): the Transformer encodes unmasked frames, and a small decoder, which is needed in pretraining
alone, predicts at masked ones. Differences: a learnt vector stands at masked frames instead of noise, and the decoder
is as wide as the encoder.
"""

import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import PositiveInt
from torch import Tensor, nn, rand

from speechssl.config import Config
from speechssl.nn.conv import convolve


class DecoderConfig(Config):
    """Shape; defaults are data2vec 2.0's for speech (fairseq ``base_audio_only_task.yaml``)."""

    layers: PositiveInt = 4
    kernel: PositiveInt = 7  # frames
    groups: PositiveInt = 16


def decoder_shapes(dim: int, config: DecoderConfig | None) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the largest tensors of an objective's ``decoder``; none without one."""
    if config is None:
        return {}
    shape = dim, dim // config.groups, config.kernel
    return {f"decoder.layers.{number}.weight": shape for number in (0, config.layers - 1)}


class ConvDecoder(nn.Module):
    """Grouped convolutions over time, each followed by a norm over channels without weights, GELU and a residual.

    Example:
        >>> import torch
        >>> decoder = ConvDecoder(32, DecoderConfig())
        >>> frames = decoder.fill(torch.randn(1, 2, 32), torch.tensor([[0, 3]]), 5)
        >>> bool((frames[0, [1, 2, 4]] == decoder.mask_embedding).all()), decoder(frames).shape
        (True, torch.Size([1, 5, 32]))
    """

    def __init__(self, dim: int, config: DecoderConfig):
        super().__init__()
        if dim % config.groups:
            raise ValueError(f"decoder.groups={config.groups} does not divide the encoder's {dim} channels")
        self.mask_embedding = nn.Parameter(rand(dim))  # fairseq's uniform
        self.layers = nn.ModuleList(
            nn.Conv1d(dim, dim, config.kernel, groups=config.groups) for _ in range(config.layers)
        )

    def fill(
        self, encoded: Float[Tensor, "batch kept dim"], kept: Int[Tensor, "batch kept"], frames: int
    ) -> Float[Tensor, "batch frames dim"]:
        """Encoded frames in their places of a sequence, the mask embedding in all others.

        Args:
            encoded: output of the Transformer at unmasked frames.
            kept: their places.
            frames: length of the sequence.
        """
        batch, _, dim = encoded.shape
        masked = self.mask_embedding.to(encoded.dtype).expand(batch, frames, dim)
        return masked.scatter(1, kept.unsqueeze(-1).expand_as(encoded), encoded)

    def forward(self, x: Float[Tensor, "batch frames dim"]) -> Float[Tensor, "batch frames dim"]:
        """Frames of the same shape."""
        frames = x.shape[1]
        for conv in self.layers:
            assert isinstance(conv, nn.Conv1d)
            y = convolve(x, conv.weight, conv.bias, padding=conv.kernel_size[0] // 2, groups=conv.groups)
            y = y[:, :frames]  # an even kernel gives one frame too many
            x = x + F.gelu(F.layer_norm(y, y.shape[-1:]))
        return x
