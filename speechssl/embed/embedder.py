"""The Python API: a pretrained encoder, audio in, vectors out.

    model = speechssl.load("runs/demo/pretrain")
    vectors = model.embed(["a.wav", "b.flac"])      # (2, dim)
    frames = model.frames("a.wav")                  # (frames, dim), one every 20 ms

The numbers do not depend on the company a clip is in: batches are made by duration and padding is masked, so a batch
of one gives what a batch of many does (1e-5 in fp32). A group-norm encoder, whose result padding would change, gets
batches of equal length. Clips longer than a minute are encoded in overlapping windows; every frame then has at least
two seconds of context on both sides, and memory stays bounded.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
import torch
from jaxtyping import Float, Float32, Shaped
from torch import Tensor

from speechssl.audio import (
    RECEPTIVE_FIELD,
    SAMPLE_RATE,
    AudioError,
    check_waveform,
    decode,
    normalize,
    resample,
)
from speechssl.config import UserError
from speechssl.models.encoder import SpeechEncoder
from speechssl.models.storage import load_encoder

if TYPE_CHECKING:
    from speechssl.embed.predict import Prediction, Predictor

Pooling = Literal["mean", "mean+std"]
POOLINGS: tuple[Pooling, ...] = ("mean", "mean+std")
DType = Literal["float32", "bfloat16"]
Waveform = Float32[np.ndarray, " _"]  # mono samples at 16 kHz; a list of them may differ in length
Clip = str | PathLike[str] | Shaped[np.ndarray, "..."] | tuple[Shaped[np.ndarray, "..."], int | float]
"""A path, mono samples at 16 kHz (floating point, or int16 of full scale 32768), or such samples and their rate in Hz.

The shape is checked by `to_waveform`, with a better message than a type check has.
"""

CPU_BATCH_SECONDS, GPU_BATCH_SECONDS = 20.0, 240.0  # of padded audio: the fastest of 8, 20, 60 on a core; fills a GPU
WINDOW_SECONDS = 60.0  # a clip up to this is encoded whole
DECODED_SECONDS = 600.0  # of audio held at once by `embed`
CONTEXT_SECONDS = 2.0  # that a window has on either side of the frames it gives

ALL_LAYERS: Literal["mean"] = "mean"
Layer = int | Literal["mean"]


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
        if dtype not in ("float32", "bfloat16"):
            raise UserError(f"dtype must be float32 or bfloat16, got {dtype!r}")
        self.device = device_of(device)
        self._folder = folder
        self._head: Predictor | None = None
        self.encoder = encoder.to(self.device).eval().requires_grad_(requires_grad=False)
        self.dtype: DType = dtype
        self.layers = encoder.config.transformer.layers
        self.dim = encoder.config.dim
        self.batch_seconds = CPU_BATCH_SECONDS if self.device.type == "cpu" else GPU_BATCH_SECONDS
        self.hop = encoder.config.conv.hop  # samples from one frame to the next

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
        if pooling not in POOLINGS:
            raise UserError(f"pooling must be one of {', '.join(POOLINGS)}, got {pooling!r}")
        numbers = [self._layer(layer) for layer in layers]
        width = self.dim * (2 if pooling == "mean+std" else 1)
        vectors = np.zeros((len(layers), len(waveforms), width), dtype=np.float32)
        for batch in self._batches([len(waveform) for waveform in waveforms]):
            moments = self._moments([waveforms[index] for index in batch], numbers)
            vectors[:, batch] = moments.pooled(pooling)
        return vectors

    def frames(self, clip: Clip, *, layer: Layer = -1) -> Float32[np.ndarray, "frames dim"]:
        """Every frame of one clip: frame n covers 25 ms from n x 20 ms on.

        Args:
            clip: one clip.
            layer: as in `embed`.

        Raises:
            AudioError: a clip that cannot be used.
            UserError: unknown layer.
        """
        number = self._layer(layer)
        waveform = to_waveform(clip, name="clip")
        pieces = [piece[0, 0] for piece in self._pieces([waveform], [number])]
        return np.concatenate([piece.cpu().numpy() for piece in pieces]).astype(np.float32, copy=False)

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

    def _layer(self, layer: Layer) -> int | None:
        """Non-negative index into the hidden states; None for the mean of all."""
        if layer == ALL_LAYERS:
            return None
        if layer not in range(-self.layers - 1, self.layers + 1):
            raise UserError(
                f"layer must be {ALL_LAYERS!r} or lie in {-self.layers - 1} … {self.layers} "
                f"(0: input to the first of {self.layers} blocks), got {layer!r}"
            )
        return layer % (self.layers + 1)

    def _batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Indices by rising length, cut so that a padded batch stays below `batch_seconds`; long clips come alone."""
        equal = self.encoder.config.conv.norm == "group"
        batch: list[int] = []
        for index in sorted(range(len(lengths)), key=lambda i: lengths[i]):
            longest = lengths[index]  # the order is rising
            full = (
                len(batch) + 1
            ) * longest > self.batch_seconds * SAMPLE_RATE or longest > WINDOW_SECONDS * SAMPLE_RATE
            if batch and (full or (equal and lengths[batch[0]] != longest)):
                yield batch
                batch = []
            batch.append(index)
        if batch:
            yield batch

    def _moments(self, waveforms: Sequence[Waveform], layers: Sequence[int | None]) -> "_Moments":
        """Count, mean and variance over frames of one batch; a long clip adds up window by window."""
        total: _Moments | None = None
        for piece in self._pieces(waveforms, layers):
            total = _Moments.of(piece) if total is None else total.merged(_Moments.of(piece))
        assert total is not None
        return total

    def _pieces(self, waveforms: Sequence[Waveform], layers: Sequence[int | None]) -> "Iterator[_Piece]":
        if len(waveforms) > 1 or len(waveforms[0]) <= WINDOW_SECONDS * SAMPLE_RATE:
            yield self._encode([self._normalized(waveform) for waveform in waveforms], layers)
            return
        # The whole clip's mean and variance, as for a clip that is encoded in one go.
        waveform = self._normalized(waveforms[0])
        frames = int(self.encoder.num_frames(torch.tensor(len(waveform))))
        context = round(CONTEXT_SECONDS * SAMPLE_RATE / self.hop)
        step = round(WINDOW_SECONDS * SAMPLE_RATE / self.hop) - 2 * context
        for first in range(0, frames, step):
            last = min(first + step, frames)
            start, stop = max(0, first - context), min(frames, last + context)
            end = len(waveform) if stop == frames else (stop - 1) * self.hop + RECEPTIVE_FIELD
            window = waveform[start * self.hop : end]
            yield self._encode([window], layers).cut(first - start, last - start)

    def _normalized(self, waveform: Waveform) -> Waveform:
        return normalize(waveform) if self.encoder.config.normalize else waveform

    @torch.inference_mode()
    def _encode(self, waveforms: Sequence[Waveform], layers: Sequence[int | None]) -> "_Piece":
        lengths = [len(waveform) for waveform in waveforms]
        padded = np.zeros((len(waveforms), max(lengths)), dtype=np.float32)
        for row, waveform in zip(padded, waveforms, strict=True):
            row[: len(waveform)] = waveform
        num_samples = torch.tensor(lengths, device=self.device)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.dtype == "bfloat16"):
            output = self.encoder(torch.from_numpy(padded).to(self.device), num_samples, all_layers=True)
        states: list[Tensor] = [state.float() for state in output.hidden_states]
        chosen = [torch.stack(states).mean(dim=0) if layer is None else states[layer] for layer in layers]
        return _Piece(torch.stack(chosen), output.num_frames)


def device_of(device: str) -> torch.device:
    """A torch device by name; `auto` is a GPU when there is one, else the CPU.

    Raises:
        UserError: no such device.
    """
    name = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    try:
        found = torch.device(name)
    except RuntimeError:
        raise UserError(f"unknown device {device!r}; 'auto', 'cpu', 'cuda', 'cuda:1' … are allowed") from None
    if found.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device {device!r}: torch sees no GPU on this machine")
    return found


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


@dataclass(frozen=True)
class _Piece:
    """Frames of some layers for a batch: (layers, batch, frames, dim), valid up to `num_frames`."""

    states: Float[Tensor, "layers batch frames dim"]
    num_frames: Tensor

    def __getitem__(self, place: tuple[int, int]) -> Float[Tensor, "frames dim"]:
        layer, row = place
        return self.states[layer, row, : int(self.num_frames[row])]

    def cut(self, first: int, last: int) -> "_Piece":
        """Frames first … last-1 of a batch of one."""
        return _Piece(self.states[:, :, first:last], torch.full_like(self.num_frames, last - first))


@dataclass(frozen=True)
class _Moments:
    """Count, mean and summed squared deviation over frames, in float64 where windows are added up."""

    count: Tensor
    mean: Tensor
    squares: Tensor

    @classmethod
    def of(cls, piece: _Piece) -> "_Moments":
        states = piece.states.double()
        count = piece.num_frames.double()[None, :, None]  # (1, batch, 1)
        valid = torch.arange(states.shape[2], device=states.device) < piece.num_frames[:, None]  # (batch, frames)
        mask = valid[None, :, :, None]
        mean = (states * mask).sum(dim=2) / count  # (layers, batch, dim)
        squares = ((states - mean[:, :, None]) * mask).square().sum(dim=2)
        return cls(count, mean, squares)

    def merged(self, other: "_Moments") -> "_Moments":
        """Both together (Chan, Golub and LeVeque, "Algorithms for computing the sample variance", 1983)."""
        count = self.count + other.count
        step = other.mean - self.mean
        mean = self.mean + step * other.count / count
        squares = self.squares + other.squares + step.square() * self.count * other.count / count
        return _Moments(count, mean, squares)

    def pooled(self, pooling: Pooling) -> Float32[np.ndarray, "layers batch dim"]:
        mean = self.mean.float().cpu().numpy()
        if pooling == "mean":
            return mean
        std = (self.squares / self.count).sqrt().float().cpu().numpy()
        return np.concatenate([mean, std], axis=-1)
