"""A frozen encoder applied to checked waveforms: batches by duration, windows of long clips, pooling over frames.

The result of a clip does not depend on what else is in the batch: padding is masked. (In int8, where the inputs of a
layer have one scale, it depends a little.) Each clip goes through the convolutions alone (see `tiles`) where padding
would change their result (a group norm), and on a CPU, where padding would cost time; only the Transformer then has a
padded batch. A clip longer than a window is encoded in overlapping windows; every frame then has at least two seconds
of context on both sides, and memory stays bounded. At the input to the first block such frames equal those of the
unsplit clip to 1e-5. In deeper layers attention ends with the window (three minutes of speech, a trained encoder of
four blocks: pooled vectors within 2 % of their largest number, frames of the final output at a cosine above 0.95).
Normalisation over a whole clip (of the waveform, and of the first convolution of a group-norm encoder) is over the
whole of a long clip too.
"""

import functools
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from torch import Tensor

from speechssl.audio import SAMPLE_RATE
from speechssl.config import UserError
from speechssl.inference.batches import Batch, Batching, batch_seconds_of, pad, passes
from speechssl.inference.layers import Layer, layer_weights, weighted
from speechssl.inference.packing import DType, float_type, packed
from speechssl.inference.pooling import POOLINGS, Moments, Piece, Pooling
from speechssl.inference.tiles import projected
from speechssl.inference.windows import LongClip, Waveform, Window, norm_of_the_whole, windows_of
from speechssl.models.encoder import EncoderOutput, SpeechEncoder
from speechssl.nn.time_norm import FixedNorm

ENCODER_WINDOW_SECONDS = 60.0  # a longer clip is encoded in windows
BUCKETS = (1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)  # s, padded lengths of a compiled encoder's batches


class Encoding:
    """A frozen encoder in evaluation mode on a device, with its batches.

    Args:
        encoder: it is moved, not copied. On a CPU a copy with weights packed for the processor is used (see `packing`):
            later changes of the weights have no effect.
        device: where the encoder runs.
        dtype: of the arithmetic; results are float32. `int8`: of the linear layers, on a CPU.
        mix: weights of the hidden states in the layer `mix` (see `learned_mix`).
        compiled: whether to compile it; batches then have few shapes. Not for group-norm encoders.

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
        self.encoder = packed(encoder, dtype=dtype) if on_cpu else encoder  # the network that runs
        self.layers = encoder.config.transformer.layers
        self.dim = encoder.config.dim
        self.batch_seconds = batch_seconds_of(device)
        self.window_seconds = math.inf  # a lower limit than ENCODER_WINDOW_SECONDS, where memory is short
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
        self, clips: Sequence[Waveform | LongClip], *, pooling: Pooling = "mean", layers: Sequence[Layer] = (-1,)
    ) -> Float32[np.ndarray, "layers clips dim"]:
        """Vectors of several layers in one pass over checked clips at 16 kHz; one (clips, dim) block per layer.

        Raises:
            AudioError: a clip that is read in blocks cannot be read.
            UserError: unknown pooling or layer.
        """
        vectors = np.zeros((len(layers), len(clips), self.width(pooling)), dtype=np.float32)
        for places, found in self.vectors(clips, pooling=pooling, layers=layers):
            vectors[:, places] = found
        return vectors

    def vectors(
        self, clips: Sequence[Waveform | LongClip], *, pooling: Pooling, layers: Sequence[Layer]
    ) -> Iterator[tuple[Sequence[int], Float32[np.ndarray, "layers batch dim"]]]:
        """As `embed_layers`, batch by batch: places of some clips, and their vectors."""
        self.width(pooling)
        passed = self._passes(clips, layers)
        for long, group in itertools.groupby(passed, key=lambda each: each[0].clips[0] if each[0].long else None):
            if long is None:
                for batch, piece in group:
                    yield batch.clips, Moments.of(piece).pooled(pooling)
            else:
                yield [long], functools.reduce(Moments.merged, _moments(group)).pooled(pooling)

    def frames(
        self, waveform: Waveform, *, layers: Sequence[Layer] = (-1,)
    ) -> Float32[np.ndarray, "layers frames dim"]:
        """Every frame of one checked waveform, of several layers in one pass.

        Raises:
            UserError: unknown layer.
        """
        return self.frames_layers([waveform], layers=layers)[0]

    def frames_layers(
        self, clips: Sequence[Waveform | LongClip], *, layers: Sequence[Layer] = (-1,)
    ) -> list[Float32[np.ndarray, "layers frames dim"]]:
        """Every frame of several checked clips, batched by duration.

        Raises:
            AudioError: a clip that is read in blocks cannot be read.
            UserError: unknown layer.
        """
        found: list[list[Float32[np.ndarray, "layers frames dim"]]] = [[] for _ in clips]
        for place, frames in self.frames_in_parts(clips, layers=layers):
            found[place].append(frames)
        return [np.concatenate(parts, axis=1) for parts in found]

    def frames_in_parts(
        self, clips: Sequence[Waveform | LongClip], *, layers: Sequence[Layer]
    ) -> Iterator[tuple[int, Float32[np.ndarray, "layers frames dim"]]]:
        """As `frames_layers`, batch by batch: the place of a clip and its frames, those of a long clip in order."""
        for batch, piece in self._passes(clips, layers):
            for row, (place, window) in enumerate(zip(batch.clips, batch.rows, strict=True)):
                yield place, piece.cut(row, window.first, window.last).states[:, 0].cpu().numpy()

    def width(self, pooling: Pooling) -> int:
        """Numbers in a pooled vector.

        Raises:
            UserError: unknown pooling.
        """
        if pooling not in POOLINGS:
            raise UserError(f"pooling must be one of {', '.join(POOLINGS)}, got {pooling!r}")
        return self.dim * (2 if pooling == "mean+std" else 1)

    @property
    def batching(self) -> Batching:
        """Current settings of batches and windows."""
        return Batching(
            seconds=self.batch_seconds,
            window_seconds=min(self.window_seconds, ENCODER_WINDOW_SECONDS),
            normalize=self.encoder.config.normalize,
            padded=self._padded,
        )

    def _padded(self, length: int) -> int:
        if not self.bucketed:
            return length
        return next((round(each * SAMPLE_RATE) for each in BUCKETS if each * SAMPLE_RATE >= length), length)

    def _passes(self, clips: Sequence[Waveform | LongClip], layers: Sequence[Layer]) -> Iterator[tuple[Batch, Piece]]:
        """Batches of clips with their frames."""
        batching = self.batching
        chosen = [layer_weights(layer, blocks=self.layers, mix=self.mix) for layer in layers]
        norm: FixedNorm | None = None  # of the long clip that is being encoded

        def cut(clip: LongClip) -> Iterator[Window]:
            nonlocal norm
            norm = norm_of_the_whole(self.encoder, clip)
            return windows_of(clip, self.encoder, seconds=batching.window_seconds, normalize=batching.normalize)

        return passes(
            batching.batches(clips, cut),
            lambda batch: self.encode([row.samples for row in batch.rows], chosen, norm=norm if batch.long else None),
        )

    @torch.inference_mode()
    def encode(
        self, waveforms: Sequence[Waveform], chosen: Sequence[Tensor], *, norm: FixedNorm | None = None
    ) -> Piece:
        """One pass over a batch of waveforms.

        Args:
            waveforms: normalised, where the encoder needs it.
            chosen: weights of the hidden states for each layer (see `layer_weights`).
            norm: of the first convolution over the whole clip, for windows of a group-norm encoder.
        """
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._half):
            output = self._one_by_one(waveforms, norm) if self.alone else self._padded_batch(waveforms)
        assert output.hidden_states is not None
        assert output.num_frames is not None
        num_frames = output.num_frames[: len(waveforms)]
        rows, longest = slice(len(waveforms)), int(num_frames.max())
        states: list[Tensor] = [state[rows, :longest] for state in output.hidden_states]
        return Piece(torch.stack([weighted(states, weights) for weights in chosen]), num_frames)

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
        """All waveforms together; a compiled encoder has one shape per bucket."""
        width = self._padded(max(len(waveform) for waveform in waveforms))
        rows = int(self.batch_seconds * SAMPLE_RATE) // width if self.bucketed else 0
        padded, num_samples = pad(waveforms, rows=rows, width=width)
        return self.encoder(padded.to(self.device), num_samples.to(self.device), all_layers=True)


def few_lengths(frames: int) -> int:
    """The next of sixteen numbers per octave: oneDNN compiles a kernel for each shape, and keeps a thousand of them.

    >>> [few_lengths(frames) for frames in (1, 31, 33, 499, 1000)]
    [1, 31, 34, 512, 1024]
    """
    step = max(1, 2 ** (frames.bit_length() - 5))
    return -(-frames // step) * step


def _moments(passed: Iterable[tuple[Batch, Piece]]) -> Iterator[Moments]:
    """Moments of each window of a long clip."""
    for batch, piece in passed:
        for row, window in enumerate(batch.rows):
            yield Moments.of(piece.cut(row, window.first, window.last))
