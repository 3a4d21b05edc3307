"""The HEAR 2021 API: this package's encoders for the benchmark "Holistic Evaluation of Audio Representations".

Turian et al. 2022 (arXiv 2203.03022); the API is at https://hearbenchmark.com/hear-api.html. Its runner imports a
module by name and calls these three functions:

    model = speechssl.hear.load_model()                                         # or load_model("runs/mine")
    vectors = speechssl.hear.get_scene_embeddings(audio, model)                 # (sounds, size)
    frames, times = speechssl.hear.get_timestamp_embeddings(audio, model)       # (sounds, frames, size), ms

Sounds may be silent, noise or music: only sounds shorter than one frame are refused.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor, nn

from speechssl.audio import RECEPTIVE_FIELD, SAMPLE_RATE
from speechssl.config import UserError
from speechssl.embed.embedder import frame_centres, load
from speechssl.inference.engine import Encoding
from speechssl.inference.layers import Layer
from speechssl.inference.pooling import Pooling
from speechssl.models.encoder import SpeechEncoder


class HearModel(nn.Module):
    """Frozen encoder with the attributes of the API; `.to(device)` moves it.

    Attributes:
        sample_rate: sample rate of its input, Hz.
        scene_embedding_size: dimension of the vector of a sound.
        timestamp_embedding_size: dimension of the vector of a frame.

    Args:
        encoder: any.
        layer: as in `load_model`.
        pooling: the same.
        mix: weights of the hidden states for the layer `mix`.
    """

    def __init__(
        self,
        encoder: SpeechEncoder,
        *,
        layer: Layer = -1,
        pooling: Pooling = "mean",
        mix: Sequence[float] | None = None,
    ):
        super().__init__()
        self.encoder, self.mix = encoder, mix
        self.layer: Layer = layer
        self.pooling: Pooling = pooling
        self._at_work: Encoding | None = None
        self.sample_rate = SAMPLE_RATE
        self.timestamp_embedding_size = encoder.config.dim
        # An empty batch: an unknown layer or pooling raises its error here.
        empty = self.encoding().embed_layers([], pooling=pooling, layers=[layer])
        self.scene_embedding_size = int(empty.shape[-1])

    def __getstate__(self) -> dict[str, Any]:
        """State without the running encoding, which cannot be copied and is created again."""
        return dict(self.__dict__) | {"_at_work": None}

    def encoding(self) -> Encoding:
        """The encoding on the current device."""
        device = next(self.encoder.parameters()).device
        if self._at_work is None or self._at_work.device != device:
            self._at_work = Encoding(self.encoder, device=device, mix=self.mix)
        return self._at_work


def load_model(model_file_path: str = "", *, layer: Layer | None = None, pooling: Pooling | None = None) -> HearModel:
    """Load a model for the other two functions, on the CPU.

    Args:
        model_file_path: what `speechssl.load` takes; nothing: the bundled model.
        layer: a hidden state: 0 is the input to the first block, -1 the final output; `"mean"` averages all, `"mix"` is
            the average that a fine-tuned head has learnt. None: what the model's config names, else -1.
        pooling: of frames to the vector of a sound: `mean`, or `mean+std`, which is twice as long. None: what the
            model's config names, else `mean`.

    Raises:
        UserError: no model there, none bundled, an unknown layer or pooling.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from speechssl.models.encoder import PRESETS
    >>> from speechssl.models.storage import save_model
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_model(Path(folder), SpeechEncoder(PRESETS["tiny"]))
    ...     model = load_model(folder)
    >>> model.sample_rate, model.scene_embedding_size, model.timestamp_embedding_size
    (16000, 192, 192)
    """
    model = load(model_file_path or None, device="cpu")
    chosen = model.choice.or_given(layer=layer, pooling=pooling)
    return HearModel(model.encoder, layer=chosen.layer, pooling=chosen.pooling, mix=model.encoding.mix)


def get_scene_embeddings(audio: Tensor, model: HearModel) -> Float32[Tensor, "sounds dim"]:
    """One vector per sound.

    Args:
        audio: (sounds, samples), floating point in [-1, 1], mono at 16 kHz, on any device.
        model: of `load_model`.

    Returns:
        (sounds, scene_embedding_size), on the device of `audio`.

    Raises:
        UserError: another shape or type, fewer than 400 samples, or NaN.

    >>> from speechssl.models.encoder import PRESETS
    >>> get_scene_embeddings(torch.zeros(2, 16000), HearModel(SpeechEncoder(PRESETS["tiny"]))).shape
    torch.Size([2, 192])
    """
    vectors = model.encoding().embed_layers(waveforms_of(audio), pooling=model.pooling, layers=[model.layer])[0]
    return torch.from_numpy(vectors).to(audio.device)


def get_timestamp_embeddings(audio: Tensor, model: HearModel) -> tuple[Float32[Tensor, "sounds frames dim"], Tensor]:
    """One vector every 20 ms, with its time.

    Args:
        audio: as in `get_scene_embeddings`.
        model: of `load_model`.

    Returns:
        Vectors, (sounds, frames, timestamp_embedding_size), and the centres of the frames in milliseconds, (sounds,
        frames) float32; both on the device of `audio`.

    Raises:
        UserError: as `get_scene_embeddings`.

    >>> from speechssl.models.encoder import PRESETS
    >>> frames, times = get_timestamp_embeddings(torch.zeros(2, 1000), HearModel(SpeechEncoder(PRESETS["tiny"])))
    >>> frames.shape, times[1]
    (torch.Size([2, 2, 192]), tensor([12.5000, 32.5000]))
    """
    encoding, waveforms = model.encoding(), waveforms_of(audio)
    found = [states[0] for states in encoding.frames_layers(waveforms, layers=[model.layer])]
    frames = np.stack(found) if found else np.zeros((0, 0, model.timestamp_embedding_size), dtype=np.float32)
    centres = frame_centres(model.encoder.config.conv, frames.shape[1]) * 1000
    times = torch.from_numpy(np.tile(centres.astype(np.float32), (len(frames), 1)))
    return torch.from_numpy(frames).to(audio.device), times.to(audio.device)


def waveforms_of(audio: Tensor) -> list[Float32[np.ndarray, " samples"]]:
    """The sounds of a batch, checked.

    Raises:
        UserError: another shape or type than (sounds, samples) of floating point, fewer than 400 samples, or NaN.
    """
    if audio.ndim != 2 or not audio.is_floating_point():
        shape = tuple(audio.shape)
        raise UserError(f"audio: need floating point samples of shape (sounds, samples), got {audio.dtype} of {shape}")
    if audio.shape[1] < RECEPTIVE_FIELD:
        raise UserError(f"audio: {audio.shape[1]} samples at 16 kHz, one frame of the model needs {RECEPTIVE_FIELD}")
    samples = audio.detach().float().cpu().numpy()
    if not np.isfinite(samples).all():
        raise UserError(f"audio: {int((~np.isfinite(samples)).sum())} samples are NaN or infinite")
    return list(np.ascontiguousarray(samples))
