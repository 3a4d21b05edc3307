"""The encoder at work on checked waveforms: batches by duration, windows of long clips, pooling over frames.

What a clip gives does not depend on the company it is in: padding is masked, and a group-norm encoder, whose result
padding would change, gets batches of equal length. A clip longer than a window is encoded in overlapping windows; every
frame then has at least two seconds of context on both sides, and memory stays bounded.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from speechssl.audio import RECEPTIVE_FIELD, SAMPLE_RATE, normalize
from speechssl.config import UserError
from speechssl.models.encoder import SpeechEncoder

Pooling = Literal["mean", "mean+std"]
POOLINGS: tuple[Pooling, ...] = ("mean", "mean+std")
DType = Literal["float32", "bfloat16"]
Waveform = Float32[np.ndarray, " _"]  # mono samples at 16 kHz; a list of them may differ in length

CPU_BATCH_SECONDS, GPU_BATCH_SECONDS = 20.0, 240.0  # of padded audio: the fastest of 8, 20, 60 on a core; fills a GPU
WINDOW_SECONDS = 60.0  # a clip up to this is encoded whole
CONTEXT_SECONDS = 2.0  # that a window has on either side of the frames it gives

ALL_LAYERS: Literal["mean"] = "mean"
Layer = int | Literal["mean"]


class Encoding:
    """A frozen encoder in evaluation mode on a device, and how it is fed."""

    def __init__(self, encoder: SpeechEncoder, *, device: torch.device, dtype: DType = "float32"):
        if dtype not in ("float32", "bfloat16"):
            raise UserError(f"dtype must be float32 or bfloat16, got {dtype!r}")
        self.device, self.dtype = device, dtype
        self.encoder = encoder.to(device).eval().requires_grad_(requires_grad=False)
        self.layers = encoder.config.transformer.layers
        self.dim = encoder.config.dim
        self.batch_seconds = CPU_BATCH_SECONDS if device.type == "cpu" else GPU_BATCH_SECONDS
        self.hop = encoder.config.conv.hop  # samples from one frame to the next

    def embed_layers(
        self, waveforms: Sequence[Waveform], *, pooling: Pooling = "mean", layers: Sequence[Layer] = (-1,)
    ) -> Float32[np.ndarray, "layers clips dim"]:
        """Vectors of several layers in one pass over checked waveforms at 16 kHz; one (clips, dim) block a layer.

        Raises:
            UserError: unknown pooling or layer.
        """
        if pooling not in POOLINGS:
            raise UserError(f"pooling must be one of {', '.join(POOLINGS)}, got {pooling!r}")
        numbers = [self.layer_number(layer) for layer in layers]
        width = self.dim * (2 if pooling == "mean+std" else 1)
        vectors = np.zeros((len(layers), len(waveforms), width), dtype=np.float32)
        for batch in self.batches([len(waveform) for waveform in waveforms]):
            moments = self.moments([waveforms[index] for index in batch], numbers)
            vectors[:, batch] = moments.pooled(pooling)
        return vectors

    def frames(
        self, waveform: Waveform, *, layers: Sequence[Layer] = (-1,)
    ) -> Float32[np.ndarray, "layers frames dim"]:
        """Every frame of one checked waveform, of several layers in one pass.

        Raises:
            UserError: unknown layer.
        """
        numbers = [self.layer_number(layer) for layer in layers]
        pieces = [piece.states[:, 0].cpu().numpy() for piece in self.pieces([waveform], numbers)]
        return np.concatenate(pieces, axis=1).astype(np.float32, copy=False)

    def layer_number(self, layer: Layer) -> int | None:
        """Non-negative index into the hidden states; None for the mean of all.

        Raises:
            UserError: no such layer.
        """
        if layer == ALL_LAYERS:
            return None
        if layer not in range(-self.layers - 1, self.layers + 1):
            raise UserError(
                f"layer must be {ALL_LAYERS!r} or lie in {-self.layers - 1} … {self.layers} "
                f"(0: input to the first of {self.layers} blocks), got {layer!r}"
            )
        return layer % (self.layers + 1)

    def batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
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

    def moments(self, waveforms: Sequence[Waveform], layers: Sequence[int | None]) -> "Moments":
        """Count, mean and variance over frames of one batch; a long clip adds up window by window."""
        total: Moments | None = None
        for piece in self.pieces(waveforms, layers):
            total = Moments.of(piece) if total is None else total.merged(Moments.of(piece))
        assert total is not None
        return total

    def pieces(self, waveforms: Sequence[Waveform], layers: Sequence[int | None]) -> "Iterator[Piece]":
        """Frames of one batch; a clip longer than a window comes in several pieces."""
        if len(waveforms) > 1 or len(waveforms[0]) <= WINDOW_SECONDS * SAMPLE_RATE:
            yield self.encode([self._normalized(waveform) for waveform in waveforms], layers)
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
            yield self.encode([window], layers).cut(first - start, last - start)

    def _normalized(self, waveform: Waveform) -> Waveform:
        return normalize(waveform) if self.encoder.config.normalize else waveform

    @torch.inference_mode()
    def encode(self, waveforms: Sequence[Waveform], layers: Sequence[int | None]) -> "Piece":
        """One pass over a batch as it is."""
        lengths = [len(waveform) for waveform in waveforms]
        padded = np.zeros((len(waveforms), max(lengths)), dtype=np.float32)
        for row, waveform in zip(padded, waveforms, strict=True):
            row[: len(waveform)] = waveform
        num_samples = torch.tensor(lengths, device=self.device)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.dtype == "bfloat16"):
            output = self.encoder(torch.from_numpy(padded).to(self.device), num_samples, all_layers=True)
        states: list[Tensor] = [state.float() for state in output.hidden_states]
        chosen = [torch.stack(states).mean(dim=0) if layer is None else states[layer] for layer in layers]
        return Piece(torch.stack(chosen), output.num_frames)


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


@dataclass(frozen=True)
class Piece:
    """Frames of some layers for a batch: (layers, batch, frames, dim), valid up to `num_frames`."""

    states: Float[Tensor, "layers batch frames dim"]
    num_frames: Tensor

    def __getitem__(self, place: tuple[int, int]) -> Float[Tensor, "frames dim"]:
        layer, row = place
        return self.states[layer, row, : int(self.num_frames[row])]

    def cut(self, first: int, last: int) -> "Piece":
        """Frames first … last-1 of a batch of one."""
        return Piece(self.states[:, :, first:last], torch.full_like(self.num_frames, last - first))


@dataclass(frozen=True)
class Moments:
    """Count, mean and summed squared deviation over frames, in float64 where windows are added up."""

    count: Tensor
    mean: Tensor
    squares: Tensor

    @classmethod
    def of(cls, piece: Piece) -> "Moments":
        """Those of one piece."""
        states = piece.states.double()
        count = piece.num_frames.double()[None, :, None]  # (1, batch, 1)
        valid = torch.arange(states.shape[2], device=states.device) < piece.num_frames[:, None]  # (batch, frames)
        mask = valid[None, :, :, None]
        mean = (states * mask).sum(dim=2) / count  # (layers, batch, dim)
        squares = ((states - mean[:, :, None]) * mask).square().sum(dim=2)
        return cls(count, mean, squares)

    def merged(self, other: "Moments") -> "Moments":
        """Both together (Chan, Golub and LeVeque, "Algorithms for computing the sample variance", 1983)."""
        count = self.count + other.count
        step = other.mean - self.mean
        mean = self.mean + step * other.count / count
        squares = self.squares + other.squares + step.square() * self.count * other.count / count
        return Moments(count, mean, squares)

    def pooled(self, pooling: Pooling) -> Float32[np.ndarray, "layers batch dim"]:
        """Means, or means and deviations, as float32."""
        mean = self.mean.float().cpu().numpy()
        if pooling == "mean":
            return mean
        std = (self.squares / self.count).sqrt().float().cpu().numpy()
        return np.concatenate([mean, std], axis=-1)
