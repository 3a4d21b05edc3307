"""The Python API: a pretrained encoder, audio in, vectors out.

    model = speechssl.load("runs/demo/pretrain")
    vectors = model.embed(["a.wav", "b.flac"])      # (2, dim)
    frames = model.frames("a.wav")                  # (frames, dim), one every 20 ms

The numbers do not depend on the company a clip is in: batches are made by duration and padding is masked, so a batch
of one gives what a batch of many does (1e-5 in fp32). A group-norm encoder, whose result padding would change, gets
batches of equal length. Clips longer than a minute are encoded in overlapping windows; every frame then has at least
two seconds of context on both sides, and memory stays bounded.
"""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from jaxtyping import Float32, Shaped

from speechssl.audio import SAMPLE_RATE, AudioError, check_waveform, decode, resample
from speechssl.config import UserError
from speechssl.embed.encoding import DType, Encoding, Layer, Pooling, Waveform, device_of
from speechssl.models.encoder import SpeechEncoder
from speechssl.models.storage import load_encoder

if TYPE_CHECKING:
    from speechssl.embed.predict import Prediction, Predictor

Clip = str | PathLike[str] | Shaped[np.ndarray, "..."] | tuple[Shaped[np.ndarray, "..."], int | float]
"""A path, mono samples at 16 kHz (floating point, or int16 of full scale 32768), or such samples and their rate in Hz.

The shape is checked by `to_waveform`, with a better message than a type check has.
"""

DECODED_SECONDS = 600.0  # of audio held at once by `embed`


def load(path: str | PathLike[str], *, device: str = "auto", dtype: DType = "float32") -> "EmbeddingModel":
    """Load a model folder for embedding.

    Args:
        path: a folder with `config.json` and `model.safetensors`, as pretraining leaves it.
        device: a torch device, or `auto`: a GPU when there is one, else the CPU.
        dtype: `float32`, or `bfloat16` for autocast (about three digits; pooling stays in float32).

    Raises:
        UserError: no model there, an unknown device or dtype.

    >>> import tempfile
    >>> from speechssl.models.encoder import PRESETS
    >>> from speechssl.models.storage import save_model
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_model(Path(folder), SpeechEncoder(PRESETS["tiny"]))
    ...     model = load(folder, device="cpu")
    >>> model.embed(np.sin(np.arange(16000) / 10)).shape
    (192,)
    """
    encoder = load_encoder(Path(path))
    return EmbeddingModel(encoder, device=device, dtype=dtype, folder=Path(path))


class EmbeddingModel:
    """A frozen encoder in evaluation mode. The encoder itself is at `.encoder`.

    Where `folder` holds a fine-tuned model, `predict` says what its head says.
    """

    def __init__(
        self, encoder: SpeechEncoder, *, device: str = "auto", dtype: DType = "float32", folder: Path | None = None
    ):
        self.encoding = Encoding(encoder, device=device_of(device), dtype=dtype)
        self._folder = folder
        self._head: Predictor | None = None
        self.encoder = self.encoding.encoder
        self.device = self.encoding.device
        self.dtype: DType = dtype
        self.layers, self.dim = self.encoding.layers, self.encoding.dim
        self.hop = self.encoding.hop  # samples from one frame to the next

    def embed(
        self, clips: Clip | Sequence[Clip], *, pooling: Pooling = "mean", layer: Layer = -1
    ) -> Float32[np.ndarray, "*clips dim"]:
        """One vector a clip.

        Args:
            clips: one clip or a list of clips (see `Clip`).
            pooling: `mean` over frames, or `mean+std`: the mean, then the (uncorrected) standard deviation.
            layer: a hidden state: 0 is the input to the first block, -1 the final output; `"mean"` averages all.

        Returns:
            (clips, dim), in the order given; (dim,) for a single clip. With `mean+std` dim is twice the encoder's.

        Raises:
            AudioError: a clip that cannot be used; names the file, or the place in the list.
            UserError: unknown pooling or layer.
        """
        if _is_single(clips):
            return self.embed([cast(Clip, clips)], pooling=pooling, layer=layer)[0]
        vectors: list[Float32[np.ndarray, "clips dim"]] = []
        waveforms: list[Waveform] = []
        for number, clip in enumerate(cast(Sequence[Clip], clips)):
            waveforms.append(to_waveform(clip, name=f"clip {number}"))
            if sum(len(waveform) for waveform in waveforms) > DECODED_SECONDS * SAMPLE_RATE:
                vectors.append(self.embed_layers(waveforms, pooling=pooling, layers=[layer])[0])
                waveforms = []
        vectors.append(self.embed_layers(waveforms, pooling=pooling, layers=[layer])[0])
        return np.concatenate(vectors)

    def embed_layers(
        self, waveforms: Sequence[Waveform], *, pooling: Pooling = "mean", layers: Sequence[Layer] = (-1,)
    ) -> Float32[np.ndarray, "layers clips dim"]:
        """Vectors of several layers in one pass over checked waveforms at 16 kHz; one (clips, dim) block a layer."""
        return self.encoding.embed_layers(waveforms, pooling=pooling, layers=layers)

    def frames(self, clip: Clip, *, layer: Layer = -1) -> Float32[np.ndarray, "frames dim"]:
        """Every frame of one clip: frame n covers 25 ms from n x 20 ms on.

        Args:
            clip: one clip.
            layer: as in `embed`.

        Raises:
            AudioError: a clip that cannot be used.
            UserError: unknown layer.
        """
        return self.encoding.frames(to_waveform(clip, name="clip"), layers=[layer])[0]

    def predict(self, clips: Clip | Sequence[Clip]) -> "Prediction | list[Prediction]":
        """What a fine-tuned model says: a class with probabilities, or a transcript with word times.

        Args:
            clips: one clip or a list of clips (see `Clip`).

        Returns:
            One prediction a clip, in the order given; a single one for a single clip.

        Raises:
            AudioError: a clip that cannot be used; names the file, or the place in the list.
            UserError: the model has no head.
        """
        predictor = self._predictor()
        if _is_single(clips):
            return predictor.predict([to_waveform(cast(Clip, clips), name="clip")])[0]
        named = enumerate(cast(Sequence[Clip], clips))
        return predictor.predict([to_waveform(clip, name=f"clip {number}") for number, clip in named])

    def _predictor(self) -> "Predictor":
        from speechssl.embed.predict import Predictor

        if self._folder is None:
            raise UserError("this encoder was not loaded from the folder of a fine-tuned model")
        if self._head is None:
            self._head = Predictor(self._folder, device=str(self.device))
        return self._head


def _is_single(clips: Clip | Sequence[Clip]) -> bool:
    if isinstance(clips, tuple):  # samples with their rate, or several clips
        return len(clips) == 2 and isinstance(clips[1], int | float | np.number)
    return isinstance(clips, str | PathLike | np.ndarray)


def to_waveform(clip: Clip, *, name: str) -> Waveform:
    """Checked mono float32 samples at 16 kHz.

    Args:
        clip: a path, samples, or (samples, rate).
        name: what to call the clip in an error when it has no path.

    Raises:
        AudioError: cannot be decoded, wrong shape or type, not finite, silent, shorter than 400 samples.

    >>> to_waveform((np.sin(np.arange(8000)).astype(np.float32), 8000), name="clip").shape
    (16000,)
    >>> to_waveform(np.zeros((2, 16000)), name="clip 3")
    Traceback (most recent call last):
    speechssl.audio.AudioError: clip 3: need mono samples of shape (samples,), got shape (2, 16000)
    """
    if isinstance(clip, str | PathLike):
        waveform = decode(str(clip))
        check_waveform(waveform, str(clip))
        return waveform
    samples, rate = clip if isinstance(clip, tuple) else (clip, SAMPLE_RATE)
    if rate <= 0:
        raise AudioError(name, f"need a rate above 0 Hz, got {rate}")
    if samples.ndim != 1:
        raise AudioError(name, f"need mono samples of shape (samples,), got shape {samples.shape}")
    if samples.dtype == np.int16:
        waveform = samples.astype(np.float32) / 32768
    elif np.issubdtype(samples.dtype, np.floating):
        waveform = samples.astype(np.float32)
    else:
        raise AudioError(name, f"need samples of a floating type or int16, got {samples.dtype}")
    if not np.isfinite(waveform).all():  # before the resampler smears them
        raise AudioError(name, f"{int((~np.isfinite(waveform)).sum())} samples are NaN or infinite")
    waveform = np.ascontiguousarray(resample(waveform, int(rate), SAMPLE_RATE))
    check_waveform(waveform, name)
    return waveform
