"""Context frames of an encoder with masked projected frames, for pretraining and fine-tuning.

Baevski et al. 2020 (wav2vec 2.0, arXiv 2006.11477), sections 3.1 and 4.2: a learnt embedding replaces hidden frames
before the positional convolution, so that the context does not depend on them. In pretraining the Transformer may get
the other frames alone (:func:`decoded_context`).
"""

from jaxtyping import Bool, Float, Int
from torch import Tensor, where

from speechssl.models.encoder import EncoderConfig, EncoderOutput, SpeechEncoder
from speechssl.nn.decoder import ConvDecoder, DecoderConfig
from speechssl.nn.masking import MaskConfig
from speechssl.nn.squeeze import PAIR, repeated


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


def decoded_context(
    encoder: SpeechEncoder,
    latents: Float[Tensor, "batch frames channels"],
    mask_embedding: Float[Tensor, " dim"],
    hidden: Bool[Tensor, "batch frames"],
    decoder: ConvDecoder,
) -> Float[Tensor, "batch frames dim"]:
    """Output of a decoder at all frames, where the Transformer encodes unmasked frames only.

    Positions are those of the whole sequence with its masked frames replaced, as in :func:`masked_context`.

    Args:
        encoder: its projection and Transformer are used.
        latents: normalised, from `SpeechEncoder.latents`; without padding.
        mask_embedding: replaces hidden frames before the positional convolution.
        hidden: True where a frame is hidden; equally many in every row, in whole pairs where the encoder squeezes.
        decoder: gets the encoded frames, and its own mask embedding at all others.

    Raises:
        ValueError: rows differ in their number of hidden frames, or a pair is hidden in part.
    """
    frames = latents.shape[1]
    steps = where(hidden.unsqueeze(-1), mask_embedding, encoder.project(latents))
    hidden_steps = hidden
    if encoder.squeeze is not None:
        steps, hidden_steps = encoder.squeeze(steps, None), hidden[:, ::PAIR]
        if bool((hidden_steps[:, : frames // PAIR] != hidden[:, 1::PAIR]).any()):
            raise ValueError("a pair of frames is hidden in part; masks of a squeezed encoder are drawn in pairs")
    counts = (~hidden_steps).sum(dim=1)
    if bool((counts != counts[0]).any()):
        raise ValueError(f"{int(counts.min())} to {int(counts.max())} unmasked frames per row; need equally many")
    kept = (~hidden_steps).nonzero()[:, 1].unflatten(0, (len(hidden), -1))  # batch kept
    encoded = encoder.transformer(steps, None, kept=kept).frames
    filled = decoder.fill(encoded, kept, steps.shape[1])
    return decoder(filled if encoder.squeeze is None else repeated(filled, frames))


def objective_context(
    encoder: SpeechEncoder,
    latents: Float[Tensor, "batch frames channels"],
    mask_embedding: Float[Tensor, " dim"],
    hidden: Bool[Tensor, "batch frames"],
    decoder: ConvDecoder | None,
) -> Float[Tensor, "batch frames dim"]:
    """Frames that an objective predicts from: those of the Transformer, or of a decoder after it."""
    if decoder is None:
        return masked_context(encoder, latents, mask_embedding, hidden).frames
    return decoded_context(encoder, latents, mask_embedding, hidden, decoder)


def check_masking(encoder: EncoderConfig, mask: MaskConfig, decoder: DecoderConfig) -> None:
    """Compare the settings of an encoder with those of an objective that masks.

    Raises:
        ValueError: they contradict each other; names the settings, and what is allowed.
    """
    if mask.length % encoder.squeeze_factor:
        raise ValueError(
            f"objective.mask.length={mask.length} with encoder.squeeze_factor={encoder.squeeze_factor}: "
            "spans are hidden in whole pairs of frames; choose an even length"
        )
    if not mask.drop:
        if decoder != DecoderConfig():
            raise ValueError("objective.decoder is used with objective.mask.drop=true only; set that, or leave it out")
        return
    if encoder.transformer.relative_buckets or encoder.transformer.causal:
        name = "causal" if encoder.transformer.causal else "relative_buckets"
        raise ValueError(f"objective.mask.drop=true cannot be combined with encoder.transformer.{name}")
    if encoder.dim % decoder.groups:
        raise ValueError(
            f"objective.decoder.groups={decoder.groups} does not divide encoder.transformer.dim={encoder.dim}"
        )
