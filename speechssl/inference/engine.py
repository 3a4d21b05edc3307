"""The encoder at work on checked waveforms: batches by duration, windows of long clips, pooling over frames.

What a clip gives does not depend on the company it is in: padding is masked (in int8, where the inputs of a layer have
one scale, it does a little). Where padding would change the result of the convolutions (a group norm), and on a CPU,
where it would only cost time, each clip goes through them alone (see `tiles`), and the Transformer alone sees a padded
batch. A clip longer than a window is encoded in overlapping windows; every frame then has at least two seconds of
context on both sides, and memory stays bounded. At the input to the first block such frames are those of the unsplit
clip to 1e-5; deeper, attention ends with the window (three minutes of speech, a trained encoder of four blocks: pooled
vectors within 2 % of their largest number, frames of the final output at a cosine above 0.95). What is normalised over
a whole clip (the waveform, and the first convolution of a group-norm encoder) is so over the whole of a long one too.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from torch import Tensor

from speechssl.audio import SAMPLE_RATE, normalize
from speechssl.config import UserError
from speechssl.inference.packing import DType, float_type, packed
from speechssl.inference.pooling import POOLINGS, Moments, Piece, Pooling
from speechssl.inference.tiles import projected
from speechssl.inference.windows import LongClip, Window, norm_of_the_whole, scan, windows
from speechssl.models.encoder import EncoderOutput, SpeechEncoder
from speechssl.models.storage import HEAD, read_encoder_config, read_tensors
from speechssl.nn.time_norm import FixedNorm

Waveform = Float32[np.ndarray, " _"]  # mono samples at 16 kHz; a list of them may differ in length

CPU_BATCH_SECONDS, GPU_BATCH_SECONDS = 20.0, 240.0  # of padded audio: the fastest of 8, 20, 60 on a core; fills a GPU
WINDOW_SECONDS = 60.0  # a clip up to this is encoded whole
CONTEXT_SECONDS = 2.0  # that a window has on either side of the frames it gives
BUCKETS = (1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)  # s, what a compiled encoder's batches are padded to

ALL_LAYERS: Literal["mean"] = "mean"
Layer = int | Literal["mean", "mix"]


class Encoding:
    """A frozen encoder in evaluation mode on a device, and how it is fed.

    Args:
        encoder: any; it is moved, not copied. On a CPU a copy of it does the work, in which the weights are laid out
            for the processor (see `packing`): a weight that is changed later is not seen.
        device: where to.
        dtype: of the arithmetic; what comes out is float32. `int8`: of the linear layers, on a CPU.
        mix: weights of the hidden states that the layer `mix` stands for (see `learned_mix`).
        compiled: compile it; batches then have few shapes. Not for group-norm encoders.

    Raises:
        UserError: an unknown dtype; int8, or a group-norm encoder, to compile.
    """

    def __init__(
        self,
        encoder: SpeechEncoder,
        *,
        device: torch.device,
        dtype: DType = "float32",
        mix: Sequence[float] | None = None,
        compiled: bool = False,
    ):
        if dtype not in ("float32", "bfloat16", "int8"):
            raise UserError(f"dtype must be float32, bfloat16 or int8, got {dtype!r}")
        self.device, self.mix = device, mix
        self.dtype: DType = dtype
        self._half = float_type(dtype, device) == torch.bfloat16
        encoder = encoder.to(device).eval().requires_grad_(requires_grad=False)
        on_cpu = device.type == "cpu" and not compiled
        self.encoder = packed(encoder, dtype=dtype) if on_cpu else encoder  # what does the work
        self.layers = encoder.config.transformer.layers
        self.dim = encoder.config.dim
        self.batch_seconds = CPU_BATCH_SECONDS if device.type == "cpu" else GPU_BATCH_SECONDS
        self.window_seconds = math.inf  # shorter windows than usual, where memory is short
        self.hop = encoder.config.conv.hop  # samples from one frame to the next
        grouped = encoder.config.conv.norm == "group"
        self.alone = on_cpu or grouped  # each clip by itself in the convolutions
        self.bucketed = compiled
        if compiled and dtype == "int8":
            raise UserError("dtype int8 and compile do not go together: what is compiled has no int8 layers")
        if compiled and grouped:
            raise UserError(
                "a group-norm encoder cannot be compiled here: its clips must not be padded to equal shapes"
            )
        if compiled:
            encoder.features.compile(dynamic=False)
            encoder.transformer.compile(dynamic=False)

    def embed_layers(
        self, waveforms: Sequence[Waveform], *, pooling: Pooling = "mean", layers: Sequence[Layer] = (-1,)
    ) -> Float32[np.ndarray, "layers clips dim"]:
        """Vectors of several layers in one pass over checked waveforms at 16 kHz; one (clips, dim) block a layer.

        Raises:
            UserError: unknown pooling or layer.
        """
        vectors = np.zeros((len(layers), len(waveforms), self.width(pooling)), dtype=np.float32)
        chosen = [self.choice(layer) for layer in layers]
        for batch in self.batches([len(waveform) for waveform in waveforms]):
            moments = self._moments([waveforms[index] for index in batch], chosen)
            vectors[:, batch] = moments.pooled(pooling)
        return vectors

    def embed_long(
        self, clip: LongClip, *, pooling: Pooling = "mean", layers: Sequence[Layer] = (-1,)
    ) -> Float32[np.ndarray, "layers dim"]:
        """One clip's vectors of several layers; only a window of it is in memory."""
        self.width(pooling)
        pieces = self._long_pieces(clip, [self.choice(layer) for layer in layers])
        return _total(pieces).pooled(pooling)[:, 0]

    def frames(
        self, waveform: Waveform, *, layers: Sequence[Layer] = (-1,)
    ) -> Float32[np.ndarray, "layers frames dim"]:
        """Every frame of one checked waveform, of several layers in one pass.

        Raises:
            UserError: unknown layer.
        """
        pieces = self._pieces([waveform], [self.choice(layer) for layer in layers])
        return np.concatenate([_only(piece) for piece in pieces], axis=1).astype(np.float32, copy=False)

    def frames_layers(
        self, waveforms: Sequence[Waveform], *, layers: Sequence[Layer] = (-1,)
    ) -> list[Float32[np.ndarray, "layers frames dim"]]:
        """Every frame of several checked waveforms that are no longer than a window, batched by duration."""
        chosen = [self.choice(layer) for layer in layers]
        found: dict[int, Float32[np.ndarray, "layers frames dim"]] = {}
        for batch in self.batches([len(waveform) for waveform in waveforms]):
            for piece in self._pieces([waveforms[index] for index in batch], chosen):
                for row, index in enumerate(batch):
                    found[index] = _only(piece.cut(row, 0, int(piece.num_frames[row])))
        return [found[index] for index in range(len(waveforms))]

    def frames_long(
        self, clip: LongClip, *, layers: Sequence[Layer] = (-1,)
    ) -> Iterator[Float32[np.ndarray, "layers frames dim"]]:
        """Every frame of a long clip, window by window."""
        for piece in self._long_pieces(clip, [self.choice(layer) for layer in layers]):
            yield _only(piece)

    def width(self, pooling: Pooling) -> int:
        """Numbers in a pooled vector.

        Raises:
            UserError: unknown pooling.
        """
        if pooling not in POOLINGS:
            raise UserError(f"pooling must be one of {', '.join(POOLINGS)}, got {pooling!r}")
        return self.dim * (2 if pooling == "mean+std" else 1)

    def choice(self, layer: Layer) -> Float[Tensor, " states"]:
        """Weights of the hidden states that a layer stands for.

        Raises:
            UserError: no such layer, or no mix was learnt.
        """
        return layer_weights(layer, blocks=self.layers, mix=self.mix)

    def batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Indices by rising length, cut so that a padded batch stays below `batch_seconds`; long clips come alone."""
        batch: list[int] = []
        for index in sorted(range(len(lengths)), key=lambda i: lengths[i]):
            longest = self._padded(lengths[index])  # the order is rising
            full = (len(batch) + 1) * longest > self.batch_seconds * SAMPLE_RATE
            if batch and (full or self.is_long(lengths[index])):
                yield batch
                batch = []
            batch.append(index)
        if batch:
            yield batch

    def is_long(self, num_samples: int) -> bool:
        """Whether a clip goes through windows."""
        return num_samples > min(self.window_seconds, WINDOW_SECONDS) * SAMPLE_RATE

    def _padded(self, length: int) -> int:
        if not self.bucketed:
            return length
        return next((round(each * SAMPLE_RATE) for each in BUCKETS if each * SAMPLE_RATE >= length), length)

    def _moments(self, waveforms: Sequence[Waveform], chosen: Sequence[Tensor]) -> Moments:
        return _total(self._pieces(waveforms, chosen))

    def _pieces(self, waveforms: Sequence[Waveform], chosen: Sequence[Tensor]) -> Iterator[Piece]:
        """Frames of one batch; a clip longer than a window comes in several pieces."""
        if len(waveforms) == 1 and self.is_long(len(waveforms[0])):
            yield from self._long_pieces(scan(lambda: [waveforms[0]], "clip"), chosen)
            return
        ready = [normalize(each) if self.encoder.config.normalize else each for each in waveforms]
        yield self.encode(ready, chosen)

    def _long_pieces(self, clip: LongClip, chosen: Sequence[Tensor]) -> Iterator[Piece]:
        frames = int(self.encoder.num_frames(torch.tensor(clip.num_samples)))
        context = round(CONTEXT_SECONDS * SAMPLE_RATE / self.hop)
        step = round(min(self.window_seconds, WINDOW_SECONDS) * SAMPLE_RATE / self.hop) - 2 * context
        blocks = clip.normalized(normalize=self.encoder.config.normalize)
        norm = norm_of_the_whole(self.encoder, clip)
        for batch in self._alike(windows(blocks, frames, hop=self.hop, context=context, step=step)):
            piece = self.encode([window.samples for window in batch], chosen, norm=norm)
            for row, window in enumerate(batch):
                yield piece.cut(row, window.first, window.last)

    def _alike(self, found: Iterator[Window]) -> Iterator[list[Window]]:
        """Neighbours of equal length, as many as fill a batch."""
        batch: list[Window] = []
        for window in found:
            length = len(window.samples)
            full = (len(batch) + 1) * self._padded(length) > self.batch_seconds * SAMPLE_RATE
            if batch and (full or len(batch[0].samples) != length):
                yield batch
                batch = []
            batch.append(window)
        if batch:
            yield batch

    @torch.inference_mode()
    def encode(
        self, waveforms: Sequence[Waveform], chosen: Sequence[Tensor], *, norm: FixedNorm | None = None
    ) -> Piece:
        """One pass over a batch of waveforms as they are.

        Args:
            waveforms: normalised, where the encoder asks for it.
            chosen: as `choice` gives it.
            norm: over time of the clip that they are windows of.
        """
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._half):
            output = self._one_by_one(waveforms, norm) if self.alone else self._padded_batch(waveforms)
        assert output.hidden_states is not None
        assert output.num_frames is not None
        num_frames = output.num_frames[: len(waveforms)]
        rows, longest = slice(len(waveforms)), int(num_frames.max())
        states: list[Tensor] = [state[rows, :longest] for state in output.hidden_states]
        return Piece(torch.stack([_weighted(states, weights) for weights in chosen]), num_frames)

    def _one_by_one(self, waveforms: Sequence[Waveform], norm: FixedNorm | None) -> EncoderOutput:
        """Each waveform alone through the convolutions, all together through the Transformer."""
        num_frames = self.encoder.num_frames(torch.tensor([len(waveform) for waveform in waveforms]))
        assert int(num_frames.min()) > 0
        longest = few_lengths(int(num_frames.max()))
        rows: list[Float[Tensor, "frames dim"]] = []
        for waveform, frames in zip(waveforms, num_frames.tolist(), strict=True):
            samples = torch.from_numpy(np.ascontiguousarray(waveform)).to(self.device)
            rows.append(F.pad(projected(self.encoder, samples, norm), (0, 0, 0, longest - frames)))
        return self.encoder.contextualize(torch.stack(rows), num_frames.to(self.device), all_layers=True)

    def _padded_batch(self, waveforms: Sequence[Waveform]) -> EncoderOutput:
        """All waveforms together; rows may be more than they are."""
        lengths = [len(waveform) for waveform in waveforms]
        width = self._padded(max(lengths))
        rows = max(len(lengths), int(self.batch_seconds * SAMPLE_RATE) // width) if self.bucketed else len(lengths)
        lengths += lengths[:1] * (rows - len(lengths))  # a compiled encoder sees one shape a bucket
        padded = np.zeros((rows, width), dtype=np.float32)
        for row, waveform in zip(padded, waveforms, strict=False):
            row[: len(waveform)] = waveform
        num_samples = torch.tensor(lengths, device=self.device)
        return self.encoder(torch.from_numpy(padded).to(self.device), num_samples, all_layers=True)


def layer_weights(layer: Layer, *, blocks: int, mix: Sequence[float] | None) -> Float[Tensor, " states"]:
    """Weights of the hidden states that a layer stands for, of an encoder with so many blocks.

    Raises:
        UserError: no such layer, or no mix was learnt.

    >>> layer_weights(-1, blocks=2, mix=None)
    tensor([0., 0., 1.])
    """
    weights = torch.zeros(blocks + 1)
    if layer == ALL_LAYERS:
        return weights + 1 / len(weights)
    if layer == "mix":
        if mix is None:
            raise UserError("layer 'mix' is what a fine-tuned head has learnt; this model has none")
        return torch.tensor(mix)
    if layer not in range(-blocks - 1, blocks + 1):
        raise UserError(
            f"layer must be {ALL_LAYERS!r}, 'mix' or lie in {-blocks - 1} … {blocks} "
            f"(0: input to the first of {blocks} blocks), got {layer!r}"
        )
    weights[layer] = 1.0
    return weights


def few_lengths(frames: int) -> int:
    """The next of sixteen numbers an octave: oneDNN compiles a kernel for each new shape, and keeps a thousand of them.

    >>> [few_lengths(frames) for frames in (1, 31, 33, 499, 1000)]
    [1, 31, 34, 512, 1024]
    """
    step = max(1, 2 ** (frames.bit_length() - 5))
    return -(-frames // step) * step


def learned_mix(folder: Path) -> tuple[float, ...] | None:
    """The mix of layers that the head of a fine-tuned model reads; None where it has none.

    Args:
        folder: a model folder.

    Raises:
        UserError: not a model folder, or weights that do not fit its settings.
    """
    weights = read_tensors(folder / "model.safetensors", prefix=HEAD).get("mix.weights")
    if weights is None:
        return None
    states = read_encoder_config(folder).transformer.layers + 1
    if tuple(weights.shape) != (states,):
        raise UserError(
            f"{folder}: {HEAD}mix.weights has the shape {list(weights.shape)}, its settings make it {[states]}"
        )
    return tuple(weights.float().softmax(dim=0).tolist())


def _weighted(states: Sequence[Tensor], weights: Float[Tensor, " states"]) -> Float[Tensor, "batch frames dim"]:
    used = [(state, weight) for state, weight in zip(states, weights.tolist(), strict=True) if weight]
    if len(used) == 1 and used[0][1] == 1.0:
        return used[0][0].float()
    total = torch.zeros_like(states[0], dtype=torch.float32)
    for state, weight in used:
        total += state.float() * weight
    return total


def _total(pieces: Iterator[Piece]) -> Moments:
    total: Moments | None = None
    for piece in pieces:
        moments = Moments.of(piece)
        total = moments if total is None else total.merged(moments)
    assert total is not None
    return total


def _only(piece: Piece) -> Float32[np.ndarray, "layers frames dim"]:
    return piece.states[:, 0].cpu().numpy()
