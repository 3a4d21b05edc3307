"""Speech recognition on an encoder: a linear layer per frame, trained with connectionist temporal classification.

Graves et al. 2006, "Connectionist Temporal Classification"; the head is that of wav2vec 2.0 (Baevski et al. 2020, arXiv
2006.11477, section 3.3), on a learned mix of layers (SUPERB, arXiv 2105.01051): the best layer for phones differs
between encoders, and is rarely the last one of a contrastive model. Public models have the paper's own head: the linear
layer directly on the last layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import NonNegativeInt, PositiveInt, model_validator
from torch import Tensor, nn

from speechssl.config import Config
from speechssl.models.encoder import EncoderOutput, SpeechEncoder
from speechssl.models.trunk import Hidden, Trunk
from speechssl.nn.dropout import dropout
from speechssl.nn.norm import LayerNorm
from speechssl.nn.pooling import LayerMix, zero_padding
from speechssl.nn.transformer import Share
from speechssl.text import Vocabulary


class CTCConfig(Config):
    """Settings of the head.

    Attributes:
        dropout: of the frames, and inside the head.
        units: characters of the transcripts, or phones of English words (:mod:`speechssl.decoding.phones`), which a
            beam search turns into words.
        layers: "mix" is a learned mix of all layers; "last" is the paper's head, which other toolkits can load.
        conv_layers: convolutions over time below the linear layer; 0: the linear layer alone.
        conv_dim: their channels.
        conv_kernel: frames that each sees.
    """

    units: Literal["characters", "phones"] = "characters"
    dropout: Share = 0.1
    layers: Literal["mix", "last"] = "mix"
    conv_layers: NonNegativeInt = 0
    conv_dim: PositiveInt = 256
    conv_kernel: PositiveInt = 5

    @model_validator(mode="after")
    def _frames_on_both_sides(self) -> "CTCConfig":
        if self.conv_kernel % 2 == 0:
            raise ValueError(f"conv_kernel is {self.conv_kernel}; an odd number sees as many frames before as after")
        return self


@dataclass(frozen=True)
class CTCOutput:
    """Natural logarithms of each symbol's probability in each frame, in fp32, with the number of valid frames.

    ``middle`` is the encoder's hidden state at half depth, for losses there.
    """

    log_probs: Float[Tensor, "batch frames symbols"]
    num_frames: Int[Tensor, " batch"]
    middle: Float[Tensor, "batch frames dim"] | None = None


class TimeDelayLayers(nn.Module):
    """Convolutions over time with residual connections; padding does not change the result.

    A time-delay network (Waibel et al. 1989; Peddinti et al. 2015, Interspeech). On a frozen encoder it learns what
    separates the symbols without changing what pretraining has learned.

    Example:
        >>> layers = TimeDelayLayers(8, CTCConfig(conv_layers=2, conv_dim=16))
        >>> layers(torch.randn(2, 50, 8), torch.tensor([50, 20])).shape
        torch.Size([2, 50, 16])
    """

    def __init__(self, dim: int, config: CTCConfig):
        super().__init__()
        self.dropout = config.dropout
        widths = [dim] + [config.conv_dim] * config.conv_layers
        self.convs = nn.ModuleList(
            nn.Conv1d(before, after, config.conv_kernel, padding=config.conv_kernel // 2)
            for before, after in pairwise(widths)
        )
        self.norms = nn.ModuleList(LayerNorm(width) for width in widths[1:])

    def forward(
        self, frames: Float[Tensor, "batch frames dim"], num_frames: Int[Tensor, " batch"] | None
    ) -> Float[Tensor, "batch frames channels"]:
        """Run the layers; frames beyond ``num_frames`` count as zeros."""
        for conv, norm in zip(self.convs, self.norms, strict=True):
            given = frames if num_frames is None else zero_padding(frames, num_frames)
            given = dropout(given, self.dropout, training=self.training)
            found = nn.functional.gelu(norm(conv(given.transpose(1, 2)).transpose(1, 2)))
            frames = found + frames if found.shape == frames.shape else found
        return frames


class CTCModel(nn.Module):
    """Encoder with a CTC head.

    Example:
        >>> from speechssl.models.encoder import PRESETS
        >>> vocabulary = Vocabulary.from_texts(["ab"])
        >>> model = CTCModel(SpeechEncoder(PRESETS["tiny"]), vocabulary, CTCConfig())
        >>> model(torch.randn(1, 16000), torch.tensor([16000])).log_probs.shape
        torch.Size([1, 49, 4])
    """

    def __init__(self, encoder: SpeechEncoder, vocabulary: Vocabulary, config: CTCConfig):
        super().__init__()
        self.vocabulary, self.config = vocabulary, config
        self.normalized = encoder.config.normalize
        self.trunk = Trunk(encoder)
        mixes = config.layers == "mix"
        self.mix = LayerMix(encoder.config.transformer.layers + 1) if mixes else None
        self.norm = LayerNorm(encoder.config.dim) if mixes else None
        self.context = TimeDelayLayers(encoder.config.dim, config) if config.conv_layers else None
        self.output = nn.Linear(config.conv_dim if config.conv_layers else encoder.config.dim, len(vocabulary))
        nn.init.zeros_(self.output.bias)

    def forward(
        self,
        waveforms: Float[Tensor, "batch samples"],
        num_samples: Int[Tensor, " batch"],
        *,
        hidden: Hidden | None = None,
        frozen: bool = False,
    ) -> CTCOutput:
        """Symbol probabilities of each frame.

        Args:
            waveforms: padded at the end.
            num_samples: valid samples of each.
            hidden: masks of the projected frames.
            frozen: no gradient reaches the encoder.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            output = self.trunk(waveforms, num_samples, hidden=hidden)
        assert output.num_frames is not None
        logits = self.logits(output)
        with torch.autocast(logits.device.type, enabled=False):  # bf16 has three digits: too few for a log-softmax
            log_probs = logits.float().log_softmax(dim=-1)
        states = output.hidden_states
        return CTCOutput(log_probs, output.num_frames, middle=None if states is None else states[len(states) // 2])

    def logits(self, output: EncoderOutput) -> Float[Tensor, "batch frames symbols"]:
        """Scores of the symbols from all layers of an encoder."""
        frames = output.frames
        if self.mix is not None and self.norm is not None:
            assert output.hidden_states is not None
            frames = self.norm(self.mix(output.hidden_states))
        if self.context is not None:
            frames = self.context(frames, output.num_frames)
        return self.output(dropout(frames, self.config.dropout, training=self.training))


def ctc_loss(output: CTCOutput, targets: Sequence[Sequence[int]], *, blank: int = 0) -> Float[Tensor, " batch"]:
    """Negative log-likelihood of each target in nats; zero, with a zero gradient, where it cannot be aligned.

    >>> even = CTCOutput(torch.full((1, 2, 2), 0.5).log(), torch.tensor([2]))
    >>> round(ctc_loss(even, [[1]]).exp().item(), 3)  # three of four paths give the target
    1.333
    """
    device = output.log_probs.device
    return nn.functional.ctc_loss(
        output.log_probs.transpose(0, 1),
        torch.tensor([index for target in targets for index in target], dtype=torch.long, device=device),
        output.num_frames.to(torch.long),
        torch.tensor([len(target) for target in targets], dtype=torch.long, device=device),
        blank=blank,
        reduction="none",
        zero_infinity=True,
    )


def frames_needed(target: Sequence[int]) -> int:
    """Minimum number of frames to align a target: one per symbol, and a blank between equal neighbours.

    >>> frames_needed([2, 2, 3])
    4
    """
    return len(target) + sum(a == b for a, b in pairwise(target))
