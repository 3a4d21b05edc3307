"""The encoder API of X-ARES: this package's encoders for the eXtensive Audio Representation and Evaluation Suite.

Zhang et al. 2025 (arXiv 2505.16369); `pip install xares`, checked with 0.1.3. Its runner imports a Python file and
makes the one class in it whose name ends in `Encoder`, without arguments:

    # mine_encoder.py, for `python -m xares.run mine_encoder.py src/tasks/*.py`
    from speechssl.xares import XaresModel

    class MineEncoder(XaresModel):
        def __init__(self):
            super().__init__("runs/mine")

X-ARES pads the sounds of a batch with zeros and does not pass their lengths on. The zeros at the end of a sound are
therefore taken as padding, in every batch: they change neither the frames before them nor the mean over frames.
"""

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from speechssl.audio import RECEPTIVE_FIELD, SAMPLE_RATE
from speechssl.config import UserError
from speechssl.embed.embedder import load
from speechssl.hear import HearModel, waveforms_of
from speechssl.inference.layers import Layer


class XaresModel(HearModel):
    """Frozen encoder with the attributes of X-ARES; `.to(device)` moves it.

    Attributes:
        sampling_rate: sample rate of its input, Hz.
        output_dim: dimension of the vector of a frame.
        hop_size_in_ms: time from one frame to the next, ms.

    Args:
        name: what `speechssl.load` takes; None: the bundled model.
        layer: a hidden state: 0 is the input to the first block, -1 the final output; `"mean"` averages all, `"mix"` is
            the average that a fine-tuned head has learnt. None: what the model's config names, else -1.

    Raises:
        UserError: no model there, none bundled, an unknown layer.
    """

    def __init__(self, name: str | None = None, *, layer: Layer | None = None):
        model = load(name, device="cpu")
        chosen = model.choice.or_given(layer=layer, pooling=None)
        super().__init__(model.encoder, layer=chosen.layer, mix=model.encoding.mix)
        self.sampling_rate = SAMPLE_RATE
        self.output_dim = self.timestamp_embedding_size
        self.hop_size_in_ms = model.hop * 1000 / SAMPLE_RATE

    def forward(self, audio: Tensor) -> Float32[Tensor, "sounds frames dim"]:
        """One vector every 20 ms.

        Args:
            audio: (sounds, samples) or (samples,), floating point in [-1, 1], mono at 16 kHz, on any device; shorter
                sounds end in zeros. Of any length: long sounds are encoded in windows.

        Returns:
            (sounds, frames, output_dim), on the device of `audio`. Frames of padding hold the mean of the sound's own
            frames.

        Raises:
            UserError: another shape or type, fewer than 400 samples, or NaN.
        """
        padded = waveforms_of(audio[None] if audio.ndim == 1 else audio)
        if not padded:
            raise UserError("audio: no sound in it")
        frames = int(self.encoder.num_frames(torch.tensor(len(padded[0]))))
        vectors = np.empty((len(padded), frames, self.output_dim), dtype=np.float32)
        found = self.encoding().frames_layers([_without_padding(each) for each in padded], layers=[self.layer])
        for row, states in zip(vectors, found, strict=True):
            row[: len(states[0])] = states[0]
            row[len(states[0]) :] = states[0].mean(axis=0)
        return torch.from_numpy(vectors).to(audio.device)


def _without_padding(waveform: Float32[np.ndarray, " samples"]) -> Float32[np.ndarray, " rest"]:
    """The samples up to the last one that is not zero, at least those of one frame.

    >>> _without_padding(np.r_[np.ones(500), np.zeros(100)].astype(np.float32)).shape
    (500,)
    """
    sounding = np.flatnonzero(waveform)
    end = int(sounding[-1]) + 1 if len(sounding) else 0
    return waveform[: max(end, RECEPTIVE_FIELD)]
