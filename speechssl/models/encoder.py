"""SpeechEncoder (normalised waveforms to context frames) and its presets.

wav2vec 2.0 (Baevski et al. 2020, arXiv 2006.11477): convolutional feature encoder, layer norm and projection,
Transformer. The default mode (layer-norm convolutions, pre-norm blocks, input of zero mean and unit variance) is
padding-invariant: an utterance gives the same output alone and in any batch. The group-norm mode exists for public BASE
checkpoints and accepts only batches of equal length. HuBERT, WavLM and data2vec-audio are the same encoder with other
settings (:mod:`speechssl.interop`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from jaxtyping import Bool, Float, Int
from pydantic import model_serializer, model_validator
from torch import Tensor, nn

from speechssl.config import Config
from speechssl.nn.conv import PAPER_LAYERS, ConvConfig, ConvFeatureEncoder
from speechssl.nn.dropout import dropout
from speechssl.nn.norm import LayerNorm
from speechssl.nn.pooling import valid_frames, zero_padding
from speechssl.nn.squeeze import PairSqueeze, repeated
from speechssl.nn.transformer import Share, Transformer, TransformerConfig, TransformerOutput


class EncoderConfig(Config):
    """Settings of the encoder."""

    conv: ConvConfig = ConvConfig()
    transformer: TransformerConfig = TransformerConfig(pre_norm=True)
    normalize: bool = True  # callers pass waveforms of zero mean and unit variance
    feature_dropout: Share = 0.0  # after the projection
    feature_norm: bool = True  # of the latents, before the projection; DistilHuBERT has none
    squeeze_factor: Literal[1, 2] = 1  # frames per step of the Transformer; 2: steps of 40 ms (nn/squeeze.py)

    @model_validator(mode="after")
    def _causal_throughout(self) -> "EncoderConfig":
        """Refuse statistics over a whole crop, which would make frames depend on later samples."""
        if self.transformer.causal and (self.normalize or self.conv.norm == "group"):
            raise ValueError(
                "transformer.causal needs normalize=false and conv.norm=layer: a mean and a deviation over the whole "
                "waveform, or over all frames, depend on what comes later"
            )
        if self.transformer.causal and self.squeeze_factor > 1:
            raise ValueError("transformer.causal needs squeeze_factor=1: a pair's first frame depends on its second")
        return self

    @model_serializer(mode="wrap")
    def _without_squeeze(self, plain: Callable[["EncoderConfig"], dict[str, Any]]) -> dict[str, Any]:
        """Leave out ``squeeze_factor`` where it changes nothing: models and their hashes stay those of before."""
        values = plain(self)
        if self.squeeze_factor == 1:
            values.pop("squeeze_factor", None)
        return values

    @property
    def dim(self) -> int:
        """Dimension of the context frames."""
        return self.transformer.dim


def _slim(*channels: int) -> ConvConfig:
    """Gabor front at 2.5 ms and narrow layers (SEW, Wu et al. 2021, arXiv 2109.06870), 20 ms hop.

    Most of the time of finer fronts goes into their first two layers: this one costs a third of one at 0.6 ms.
    """
    kernels, strides = (256, 2, 2, 2), (40, 2, 2, 2)
    return ConvConfig(layers=tuple(zip(channels, kernels, strides, strict=True)), front="gabor", init="tap-average")


PRESETS: dict[str, EncoderConfig] = {
    # name: convolutions, then dim, layers, heads, feed-forward; 2.0 M, 18.9 M, 94.4 M and 315 M parameters
    "tiny": EncoderConfig(
        conv=_slim(64, 96, 128, 192),
        transformer=TransformerConfig(
            dim=192,
            layers=4,
            heads=4,
            feedforward=768,
            pre_norm=True,
            position_kernel=32,
            dropout=0.0,
            attention_dropout=0.0,
            layer_drop=0.0,
        ),
    ),
    "small": EncoderConfig(
        conv=_slim(96, 192, 256, 384),
        transformer=TransformerConfig(
            dim=384,
            layers=10,
            heads=6,
            feedforward=1536,
            pre_norm=True,
            position_kernel=64,
            dropout=0.05,
            attention_dropout=0.05,
            layer_drop=0.0,
        ),
    ),
    "base": EncoderConfig(
        conv=ConvConfig(layers=PAPER_LAYERS, norm="group", bias=False),
        transformer=TransformerConfig(),
        normalize=False,
        feature_dropout=0.1,
    ),
    "large": EncoderConfig(
        transformer=TransformerConfig(
            dim=1024,
            layers=24,
            heads=16,
            feedforward=4096,
            pre_norm=True,
            dropout=0.0,
            attention_dropout=0.0,
            layer_drop=0.0,
        ),
    ),
}


@dataclass(frozen=True)
class EncoderOutput:
    """Context frames with their counts; ``hidden_states`` (on request) from the first block's input to the output."""

    frames: Float[Tensor, "batch frames dim"]
    num_frames: Int[Tensor, " batch"] | None
    hidden_states: list[Tensor] | None


class SpeechEncoder(nn.Module):
    """Waveforms to context frames, one every 20 ms.

    Example:
        >>> import torch
        >>> encoder = SpeechEncoder(PRESETS["tiny"]).eval()
        >>> encoder(torch.randn(2, 16000), torch.tensor([16000, 8000])).num_frames
        tensor([49, 24])
    """

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.config = config
        self.features = ConvFeatureEncoder(config.conv)
        norm = LayerNorm(config.conv.dim, eps=config.transformer.norm_eps) if config.feature_norm else nn.Identity()
        self.feature_norm = norm
        self.projection = nn.Linear(config.conv.dim, config.dim)
        self.squeeze = PairSqueeze(config.dim) if config.squeeze_factor > 1 else None
        self.transformer = Transformer(config.transformer)

    def num_frames(self, num_samples: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
        """Number of frames for a number of samples."""
        return self.features.num_frames(num_samples)

    def forward(
        self,
        waveforms: Float[Tensor, "batch samples"],
        num_samples: Int[Tensor, " batch"] | None = None,
        *,
        all_layers: bool = False,
    ) -> EncoderOutput:
        """Encode.

        Args:
            waveforms: 16 kHz, normalised per utterance when ``config.normalize``; anything beyond ``num_samples``,
                NaN and infinities too, is ignored.
            num_samples: valid samples of each utterance; None when nothing is padded.
            all_layers: return every hidden state.

        Raises:
            ValueError: an utterance is shorter than one frame, or lengths differ in the group-norm mode.
        """
        if num_samples is None:
            latents = self.latents(waveforms)
            return self.contextualize(self.project(latents), None, all_layers=all_layers)
        if self.config.conv.norm == "group" and bool((num_samples != waveforms.shape[1]).any()):
            raise ValueError("a group-norm encoder accepts batches of equal length only: padding changes its result")
        num_frames = self.num_frames(num_samples)
        if bool((num_frames < 1).any()):
            raise ValueError(f"an utterance of {int(num_samples.min())} samples is shorter than one frame")
        waveforms = zero_padding(waveforms, num_samples)
        return self.contextualize(self.project(self.latents(waveforms)), num_frames, all_layers=all_layers)

    def latents(self, waveforms: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch frames channels"]:
        """Normalised latent frames, the input of projection and quantizer."""
        return self.feature_norm(self.features(waveforms))

    def project(self, latents: Float[Tensor, "batch frames channels"]) -> Float[Tensor, "batch frames dim"]:
        """Latents in the Transformer's dimension, after dropout."""
        return dropout(self.projection(latents), self.config.feature_dropout, training=self.training)

    def contextualize(
        self,
        projected: Float[Tensor, "batch frames dim"],
        num_frames: Int[Tensor, " batch"] | None,
        *,
        all_layers: bool = False,
    ) -> EncoderOutput:
        """Run the Transformer over projected (and perhaps masked) frames."""
        valid: Bool[Tensor, "batch frames"] | None = None
        if num_frames is not None and bool((num_frames < projected.shape[1]).any()):
            valid = valid_frames(num_frames, projected.shape[1])
        output = self.transform(projected, valid, all_layers=all_layers)
        return EncoderOutput(frames=output.frames, num_frames=num_frames, hidden_states=output.hidden_states)

    def transform(
        self,
        projected: Float[Tensor, "batch frames dim"],
        valid: Bool[Tensor, "batch frames"] | None,
        *,
        all_layers: bool = False,
    ) -> TransformerOutput:
        """Run the Transformer; with pairs of frames where ``config.squeeze_factor`` is 2, its output repeated.

        Args:
            projected: frames, one every 20 ms.
            valid: True where a frame belongs to its utterance; None when nothing is padded.
            all_layers: return every hidden state.
        """
        if self.squeeze is None:
            return self.transformer(projected, valid, all_layers=all_layers)
        frames, steps = projected.shape[1], None if valid is None else valid[:, :: self.config.squeeze_factor]
        output = self.transformer(self.squeeze(projected, valid), steps, all_layers=all_layers)
        states = None if output.hidden_states is None else [repeated(each, frames) for each in output.hidden_states]
        return TransformerOutput(repeated(output.frames, frames), states)
