"""Log-mel CNN: the usual supervised baseline for speech emotion, trained from scratch on the labels alone.

After the CNN6/CNN10 of PANNs (Kong et al. 2020, "PANNs: Large-Scale Pretrained Audio Neural Networks for Audio Pattern
Recognition", section II-A, arXiv 1912.10211): 64 log-mel bands, blocks of a 3x3 convolution, norm, ReLU and 2x2 mean
pooling, maximum and mean over time, a linear layer. Differences: one convolution per block and fewer channels (0.24 M
parameters: a few hundred labels are too few for 5 M), 10 ms hop at 16 kHz, maximum and mean are concatenated, and so
are the last four bands (their mean would lose the frequency of the energy), and layer norm over channels instead of
batch norm, whose statistics would include padding and other utterances.

Loudness is kept: bands are shifted and scaled by constants, never by the utterance's own statistics.
"""

import itertools
from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from speechssl.config import Config
from speechssl.nn.dropout import dropout
from speechssl.nn.features import Framing, MelConfig, mel_power
from speechssl.nn.norm import LayerNorm
from speechssl.nn.pooling import mean_pool, valid_frames, zero_padding

BANDS = 64  # PANNs, section IV-A
WINDOW = 400  # samples, 25 ms
HOP = 160  # samples, 10 ms
_MEL = MelConfig(bands=BANDS, window=WINDOW, n_fft=512)  # the next power of two
_FRAMES = Framing(hop=HOP, field=WINDOW)  # no frame of an utterance depends on its padding
_FLOOR = 1e-8  # power; below the resolution of 16 bits in any band
_MEAN, _STD = -10.0, 4.0  # of natural log powers, all bands: read speech (LibriSpeech, 26 speakers) has -9.6 and 3.8

_Width = Annotated[int, Field(ge=1, le=4096)]


class LogMelCNNConfig(Config):
    """Shape of the network.

    Attributes:
        channels: of each block; every block halves time and bands, so at most 6.
        dropout: before the linear layer.
    """

    channels: Annotated[tuple[_Width, ...], Field(min_length=1, max_length=6)] = (
        32,
        64,
        128,
        128,
    )
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.3


class LogMelCNN(nn.Module):
    """Logits of classes from raw waveforms; an utterance gives the same result alone and in any batch.

    Args:
        classes: number of classes.
        config: shape of the network.

    >>> model = LogMelCNN(4, LogMelCNNConfig(channels=(8, 8)))
    >>> model(torch.zeros(2, 8000), torch.tensor([8000, 4000])).shape
    torch.Size([2, 4])
    """

    def __init__(self, classes: int, config: LogMelCNNConfig):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(BANDS))
        self.shift = nn.Parameter(torch.zeros(BANDS))
        widths = (1, *config.channels)
        self.blocks = nn.ModuleList(_Block(before, after) for before, after in itertools.pairwise(widths))
        self.dropout = config.dropout
        bands = BANDS >> len(config.channels)
        self.head = nn.Linear(2 * bands * widths[-1], classes)

    def forward(
        self, waveforms: Float[Tensor, "batch samples"], num_samples: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch classes"]:
        """Logits.

        Args:
            waveforms: 16 kHz in [-1, 1] as recorded, not normalised; anything beyond an utterance's length, NaN and
                infinities too, is ignored.
            num_samples: length of each, 400 or more.

        Raises:
            ValueError: an utterance is shorter than one frame.
        """
        if bool((num_samples < WINDOW).any()):
            raise ValueError(f"an utterance of {int(num_samples.min())} samples is shorter than one frame ({WINDOW})")
        num_frames = _FRAMES.num_frames(num_samples)
        x = self.scale * scaled_log_mel(waveforms, num_samples) + self.shift  # (batch, frames, bands)
        x = x.unsqueeze(-1)  # (batch, frames, bands, channels)
        x = zero_padding(x, num_frames)  # as beyond the edges of a single utterance
        for block in self.blocks:
            x = _halve(zero_padding(block(x), num_frames))
            num_frames = torch.div(num_frames + 1, 2, rounding_mode="floor")
        frames = x.flatten(2)  # (batch, frames, bands x channels)
        inside = valid_frames(num_frames, x.shape[1])
        highest = frames.masked_fill(~inside.unsqueeze(-1), float("-inf")).amax(dim=1)
        pooled = torch.cat([mean_pool(frames, num_frames), highest], dim=-1)  # (batch, 2 x bands x channels)
        return self.head(dropout(pooled, self.dropout, training=self.training))


def scaled_log_mel(
    waveforms: Float[Tensor, "batch samples"], num_samples: Int[Tensor, " batch"]
) -> Float[Tensor, "batch frames bands"]:
    """Log powers of mel bands in fp32, shifted and scaled by constants so that speech is around zero.

    Frame t depends on samples 160 t to 160 t + 399: no frame of an utterance depends on its padding.

    Args:
        waveforms: 16 kHz, 400 samples or more; anything beyond an utterance's length is ignored.
        num_samples: length of each.
    """
    with torch.autocast(waveforms.device.type, enabled=False):
        power = mel_power(waveforms, num_samples, config=_MEL, framing=_FRAMES)
        return (torch.log(power + _FLOOR) - _MEAN) / _STD


class _Block(nn.Module):
    """3x3 convolution, layer norm over the channels of each point, ReLU; channels last."""

    def __init__(self, before: int, after: int):
        super().__init__()
        self.conv = nn.Conv2d(before, after, kernel_size=3, padding=1)
        self.norm = LayerNorm(after)

    def forward(self, x: Float[Tensor, "batch frames bands before"]) -> Float[Tensor, "batch frames bands after"]:
        return F.relu(self.norm(self.conv(x.movedim(-1, 1)).movedim(1, -1)))


def _halve(x: Float[Tensor, "batch frames bands channels"]) -> Float[Tensor, "batch half_frames half_bands channels"]:
    """Means of 2x2 points; an odd last frame is paired with zeros, like the padding in a batch."""
    x = F.pad(x, (0, 0, 0, 0, 0, x.shape[1] % 2))
    return F.avg_pool2d(x.movedim(-1, 1), kernel_size=2).movedim(1, -1)
