"""Context frames of an encoder with masked projected frames, for pretraining and fine-tuning.

Baevski et al. 2020 (wav2vec 2.0, arXiv 2006.11477), sections 3.1 and 4.2: a learnt embedding replaces hidden frames
before the positional convolution, so that the context does not depend on them.
"""

from jaxtyping import Bool, Float, Int
from torch import Tensor, where

from speechssl.models.encoder import EncoderOutput, SpeechEncoder


def masked_context(
    encoder: SpeechEncoder,
    latents: Float[Tensor, "batch frames channels"],
    mask_embedding: Float[Tensor, " dim"],
    hidden: Bool[Tensor, "batch frames"],
    *,
    channels: Bool[Tensor, "batch dim"] | None = None,
    num_frames: Int[Tensor, " batch"] | None = None,
    all_layers: bool = False,
) -> EncoderOutput:
    """Context frames of latents, some of which are masked.

    Args:
        encoder: its projection and Transformer are used.
        latents: normalised, from `SpeechEncoder.latents`.
        mask_embedding: replaces hidden frames.
        hidden: True where a frame is hidden.
        channels: True where a channel of all frames of an utterance is zero.
        num_frames: valid frames of each utterance; None when nothing is padded.
        all_layers: return every hidden state.
    """
    projected = where(hidden.unsqueeze(-1), mask_embedding, encoder.project(latents))
    if channels is not None:
        projected = projected.masked_fill(channels.unsqueeze(1), 0.0)
    return encoder.contextualize(projected, num_frames, all_layers=all_layers)
