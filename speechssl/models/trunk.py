"""Pretrained part of a fine-tuned model: an encoder with random masking of projected frames.

Baevski et al. 2020 (wav2vec 2.0, arXiv 2006.11477), section 4.2: fine-tuning masks frames with the embedding that
pretraining learnt and channels with zeros, a SpecAugment in the latent space.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from speechssl.models.encoder import EncoderOutput, SpeechEncoder
from speechssl.models.masked import masked_context
from speechssl.nn.masking import HideConfig, hide_spans
from speechssl.nn.pooling import zero_padding


@dataclass(frozen=True)
class Hidden:
    """Masks: True where a frame is replaced by the mask embedding, or a channel by zero."""

    frames: Bool[Tensor, "batch frames"]
    channels: Bool[Tensor, "batch dim"]


class Trunk(nn.Module):
    """Encoder with a mask embedding; padding does not change its result, with any norm of the convolutions.

    Example:
        >>> from speechssl.models.encoder import PRESETS
        >>> trunk = Trunk(SpeechEncoder(PRESETS["tiny"]))
        >>> len(trunk(torch.randn(2, 16000), torch.tensor([16000, 8000])).hidden_states)
        5
    """

    def __init__(self, encoder: SpeechEncoder):
        super().__init__()
        self.encoder = encoder
        self.mask_embedding = nn.Parameter(torch.rand(encoder.config.dim))  # fairseq's uniform

    def forward(
        self,
        waveforms: Float[Tensor, "batch samples"],
        num_samples: Int[Tensor, " batch"],
        *,
        hidden: Hidden | None = None,
    ) -> EncoderOutput:
        """All hidden states of a padded batch.

        Args:
            waveforms: normalised where ``encoder.config.normalize`` is set; samples beyond ``num_samples`` are ignored.
            num_samples: valid samples of each.
            hidden: masks from :meth:`draw`.

        Raises:
            ValueError: an utterance is shorter than one frame.
        """
        encoder = self.encoder
        num_frames = encoder.num_frames(num_samples)
        if bool((num_frames < 1).any()):
            raise ValueError(f"an utterance of {int(num_samples.min())} samples is shorter than one frame")
        latents = self._latents(waveforms, num_samples)
        if hidden is None:
            return encoder.contextualize(encoder.project(latents), num_frames, all_layers=True)
        return masked_context(
            encoder,
            latents,
            self.mask_embedding,
            hidden.frames,
            channels=hidden.channels,
            num_frames=num_frames,
            all_layers=True,
        )

    def _latents(
        self, waveforms: Float[Tensor, "batch samples"], num_samples: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch frames channels"]:
        if self.encoder.config.conv.norm == "group":  # statistics over time would include padding
            alone = [row[:count].unsqueeze(0) for row, count in zip(waveforms, num_samples.tolist(), strict=True)]
            return nn.utils.rnn.pad_sequence([self.encoder.latents(each)[0] for each in alone], batch_first=True)
        return self.encoder.latents(zero_padding(waveforms, num_samples))

    def draw(
        self, num_samples: Int[Tensor, " batch"], config: HideConfig, *, rngs: Sequence[np.random.Generator]
    ) -> Hidden:
        """Draw the masks of a batch, with one random stream per utterance."""
        dim = self.encoder.config.dim
        length = max(1, round(config.channel_length * dim))
        num_frames = self.encoder.num_frames(num_samples).tolist()
        frames = np.zeros((len(num_frames), max(num_frames)), dtype=bool)
        channels = np.zeros((len(num_frames), dim), dtype=bool)
        for row, (count, rng) in enumerate(zip(num_frames, rngs, strict=True)):
            frames[row, :count] = hide_spans(count, config.frames, config.frame_length, rng=rng)
            channels[row] = hide_spans(dim, config.channels, length, rng=rng)
        device = num_samples.device
        return Hidden(torch.from_numpy(frames).to(device), torch.from_numpy(channels).to(device))
