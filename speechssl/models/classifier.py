"""Utterance classification on an encoder: learned layer mix, pooling over time, one linear layer.

The head of SUPERB (Yang et al. 2021, arXiv 2105.01051, section 3.2) with two additions. Pooled features are
standardised by the training set's mean and deviation, and the linear layer may start as the logistic probe on the
frozen encoder: fine-tuning a head and an encoder together from a random head distorts the pretrained features (Kumar et
al. 2022, "Fine-Tuning can Distort Pretrained Features", arXiv 2202.10054), most of all where labels are few.

With `by_speaker` the standardisation is that of each speaker instead, from unlabelled recordings: the model answers
after `calibrate` was called with a speaker's mean and deviation, and raises an error before.
"""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from speechssl.config import Config, UserError
from speechssl.models.encoder import EncoderOutput, SpeechEncoder
from speechssl.models.logmel_cnn import LogMelCNN, LogMelCNNConfig
from speechssl.models.trunk import Hidden, Trunk
from speechssl.nn.dropout import dropout
from speechssl.nn.pooling import AttentionPool, LayerMix, mean_pool, mean_std_pool
from speechssl.nn.transformer import Share


class ClassifierConfig(Config):
    """Settings of the head."""

    pooling: Literal["mean", "mean+std", "attention"] = "mean+std"
    dropout: Share = 0.1


class Classifier(nn.Module):
    """Encoder with a classification head.

    Attributes:
        classes: their names, in the order of the logits.
        normalized: whether waveforms must have zero mean and unit variance.
        by_speaker: whether pooled features are standardised by speaker.

    Example:
        >>> from speechssl.models.encoder import PRESETS
        >>> model = Classifier(SpeechEncoder(PRESETS["tiny"]), ("sad", "glad"), ClassifierConfig())
        >>> model(torch.randn(3, 16000), torch.tensor([16000, 8000, 400])).shape
        torch.Size([3, 2])
    """

    def __init__(
        self, encoder: SpeechEncoder, classes: tuple[str, ...], config: ClassifierConfig, *, by_speaker: bool = False
    ):
        super().__init__()
        self.classes, self.config = classes, config
        self.by_speaker, self._calibrated = by_speaker, False
        self.normalized = encoder.config.normalize
        self.trunk = Trunk(encoder)
        self.mix = LayerMix(encoder.config.transformer.layers + 1)
        self.attention = AttentionPool(encoder.config.dim) if config.pooling == "attention" else None
        dim = encoder.config.dim * (2 if config.pooling == "mean+std" else 1)
        self.centre = nn.Buffer(torch.zeros(dim))
        self.spread = nn.Buffer(torch.ones(dim))
        self.output = nn.Linear(dim, len(classes))
        nn.init.zeros_(self.output.bias)

    def forward(
        self,
        waveforms: Float[Tensor, "batch samples"],
        num_samples: Int[Tensor, " batch"],
        *,
        hidden: Hidden | None = None,
        frozen: bool = False,
    ) -> Float[Tensor, "batch classes"]:
        """Logits.

        Args:
            waveforms: padded at the end.
            num_samples: valid samples of each.
            hidden: masks of the projected frames.
            frozen: no gradient reaches the encoder.
        """
        return self.logits(self.pooled(waveforms, num_samples, hidden=hidden, frozen=frozen))

    def calibrate(self, centre: Float[Tensor, " features"], spread: Float[Tensor, " features"]) -> None:
        """Use the mean and deviation of a speaker's pooled vectors, of a model with `by_speaker`."""
        assert self.by_speaker
        self.centre.copy_(centre)
        self.spread.copy_(spread)
        self._calibrated = True

    def logits(self, pooled: Float[Tensor, "batch features"]) -> Float[Tensor, "batch classes"]:
        """Scores of the classes from pooled vectors.

        Raises:
            UserError: a model with `by_speaker` that is not calibrated.
        """
        if self.by_speaker and not self._calibrated:
            raise UserError(
                "this model was trained with each speaker's mean and deviation taken out, and needs those of the "
                "speaker: speechssl predict --speaker-folder FOLDER, or --speaker NAME of one that is known"
            )
        standard = (pooled.float() - self.centre) / self.spread
        return self.output(dropout(standard, self.config.dropout, training=self.training))

    def pooled(
        self,
        waveforms: Float[Tensor, "batch samples"],
        num_samples: Int[Tensor, " batch"],
        *,
        hidden: Hidden | None = None,
        frozen: bool = False,
    ) -> Float[Tensor, "batch features"]:
        """One vector per utterance, before standardisation."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            output = self.trunk(waveforms, num_samples, hidden=hidden)
        return self.pool(output)

    def pool(self, output: EncoderOutput) -> Float[Tensor, "batch features"]:
        """One vector per utterance from all layers of an encoder."""
        assert output.hidden_states is not None
        frames = self.mix(output.hidden_states)
        if self.attention is not None:
            return self.attention(frames, output.num_frames)
        pool = mean_std_pool if self.config.pooling == "mean+std" else mean_pool
        return pool(frames.float(), output.num_frames)


class LogMelClassifier(nn.Module):
    """Log-mel CNN with class names, the usual supervised baseline; it is trained like the other models."""

    normalized = False  # loudness is used as a feature

    def __init__(self, classes: tuple[str, ...], config: LogMelCNNConfig):
        super().__init__()
        self.classes, self.config = classes, config
        self.network = LogMelCNN(len(classes), config)

    def forward(
        self, waveforms: Float[Tensor, "batch samples"], num_samples: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch classes"]:
        """Logits of raw waveforms in [-1, 1]."""
        return self.network(waveforms, num_samples)
