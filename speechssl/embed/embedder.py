"""The Python API: a pretrained encoder, audio in, vectors out.

    model = speechssl.load()                        # the bundled model; or a folder: speechssl.load("runs/mine")
    vectors = model.embed(["a.wav", "b.flac"])      # (2, dim)
    frames = model.frames("a.wav")                  # (frames, dim), one every 20 ms
    times = model.frame_times("a.wav")              # (frames,), seconds
    states = model.hidden_states("a.wav")           # one (frames, dim) per layer

An embedding does not depend on what else is in the batch: batches are made by duration and padding is masked, so that a
batch of one gives the same as a batch of many (1e-5 in fp32). A group-norm encoder, whose result depends on padding,
gets batches of equal length. Clips longer than a minute are encoded in overlapping windows; every frame then has at
least two seconds of context on both sides, and memory stays bounded.
"""

import logging
from collections.abc import Iterable, Iterator
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float32, Float64

from speechssl.audio import SAMPLE_RATE
from speechssl.config import UserError
from speechssl.device import device_of
from speechssl.embed.clips import Clip, decoded, is_single, to_waveform
from speechssl.inference.chosen import Choice, read_choice
from speechssl.inference.engine import Encoding
from speechssl.inference.layers import Layer, learned_mix
from speechssl.inference.pooling import Pooling
from speechssl.inference.precision import Precision, check_precision, choose
from speechssl.inference.windows import Waveform
from speechssl.interop.sources import open_source
from speechssl.models.encoder import SpeechEncoder
from speechssl.nn.conv import ConvConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

    from speechssl.inference.predictor import Prediction, Predictor

_LOGGER = logging.getLogger("speechssl")
DECODED_SECONDS = 600.0  # of audio held at once by `embed`: 38 MB


def load(
    name: str | PathLike[str] | None = None, *, device: str = "auto", dtype: Precision = "float32"
) -> "EmbeddingModel":
    """Loads an encoder for embedding.

    Args:
        name: a run folder or a model folder, a folder of Hugging Face's transformers, `hf:org/name`, a fairseq `.pt`,
            or `torchaudio:BUNDLE` (see `interop.sources`). None, or `bundled`: the model that comes with the package;
            `.name` of the result says which, and so does a message of the logger `speechssl` at the level INFO.
        device: a torch device, or `auto`: a GPU when there is one, else the CPU.
        dtype: `float32`; `bfloat16` (about three digits; pooling stays in float32); `int8` on a CPU (linear layers,
            about two digits); or `auto`: bfloat16 where the processor has it and the first clips' vectors have a cosine
            above 0.999 with those of float32, else float32.

    Raises:
        UserError: no model there, none bundled, an unknown device or dtype.

    >>> import tempfile
    >>> from speechssl.models.encoder import PRESETS
    >>> from speechssl.models.storage import save_model
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_model(Path(folder), SpeechEncoder(PRESETS["tiny"]))
    ...     model = load(folder, device="cpu")
    >>> model.embed(np.sin(np.arange(16000) / 10)).shape
    (192,)
    """
    source = open_source(name if name is None or isinstance(name, str) else Path(name))
    if name is None:
        _LOGGER.info("no model named: the bundled model %s is used", source.name)
    return EmbeddingModel(
        source.encoder, device=device, dtype=dtype, folder=source.folder, digest=source.digest, name=source.name
    )


class EmbeddingModel:
    """A frozen encoder in evaluation mode. The encoder itself is at `.encoder`.

    On a CPU, a copy with weights packed for the processor is used: load the model anew after a change to `.encoder`.

    Where `folder` holds a fine-tuned model, `predict` gives the predictions of its head.

    Attributes:
        name: what it was loaded from; of the bundled model its name, such as `tiny-1`; empty if it was not loaded.
        choice: layer and pooling where a method is given none: what the model's config says, else -1 and `mean`.
    """

    def __init__(
        self,
        encoder: SpeechEncoder,
        *,
        device: str = "auto",
        dtype: Precision = "float32",
        folder: Path | None = None,
        digest: str | None = None,
        name: str = "",
    ):
        self.name = name
        self.choice: Choice = read_choice(folder)
        self.device = device_of(device)
        check_precision(dtype, self.device)
        self.dtype: Precision = dtype
        self.encoding = Encoding(
            encoder,
            device=self.device,
            dtype="float32" if dtype == "auto" else dtype,
            mix=None if folder is None else learned_mix(folder),
        )
        self._folder = folder
        self._digest = digest
        self._head: Predictor | None = None
        self.encoder = encoder
        self.layers, self.dim = self.encoding.layers, self.encoding.dim
        self.hop = self.encoding.hop  # samples from one frame to the next

    def __getstate__(self) -> dict[str, Any]:
        """All but the packed network, which cannot be copied and is made again."""
        encoding, state = self.encoding, dict(self.__dict__)
        del state["encoding"]
        return state | {"encoding_state": (encoding.dtype, encoding.mix, encoding.batch_seconds)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restores the state and packs the network again."""
        dtype, mix, batch_seconds = state.pop("encoding_state")
        self.__dict__.update(state)
        self.encoding = Encoding(self.encoder, device=self.device, dtype=dtype, mix=mix)
        self.encoding.batch_seconds = batch_seconds

    def settle(self, waveforms: "Sequence[Waveform]") -> None:
        """Chooses the dtype for `auto`, and sets `.dtype` to it; `embed` calls it with its first clips.

        Args:
            waveforms: checked, at 16 kHz; the first batch of them is encoded in both dtypes.
        """
        if self.dtype != "auto" or not waveforms:
            return
        first = next(self.encoding.batching.by_duration([len(waveform) for waveform in waveforms]))
        trial = [waveforms[index] for index in first]
        mix = self.encoding.mix
        found = choose(self.encoder, trial, device=self.device, dtype="auto", mix=mix).dtype
        if found == "bfloat16":
            batch_seconds = self.encoding.batch_seconds
            self.encoding = Encoding(self.encoder, device=self.device, dtype="bfloat16", mix=mix)
            self.encoding.batch_seconds = batch_seconds
        self.dtype = found

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits that change with the model's config or weights.

        Raises:
            UserError: the encoder was not loaded from a model.
        """
        if self._digest is None:
            raise UserError("this encoder was not loaded from a model, and has no hash")
        return self._digest

    def embed(
        self, clips: Clip | Iterable[Clip], *, pooling: Pooling | None = None, layer: Layer | None = None
    ) -> Float32[np.ndarray, "*clips dim"]:
        """One vector per clip.

        Args:
            clips: one clip (see `Clip`), or several: a list, a Series, a generator. Ten minutes of audio are in
                memory at once, so that a generator may be of any length.
            pooling: `mean` over frames, or `mean+std`: the mean, then the (uncorrected) standard deviation; None: that
                of `choice`.
            layer: a hidden state: 0 is the input to the first block, -1 the final output; `"mean"` averages all,
                and `"mix"` is the average that the head of a fine-tuned model has learnt; None: that of `choice`.

        Returns:
            (clips, dim), in the order given; (dim,) for a single clip. With `mean+std` dim is twice the encoder's.

        Raises:
            AudioError: a clip that cannot be used; its message names the file, or the place in the list.
            UserError: unknown pooling or layer.
        """
        chosen = self.choice.or_given(layer=layer, pooling=pooling)
        one = partial(self.embed_layers, pooling=chosen.pooling, layers=[chosen.layer])
        vectors = [one([])[0]]  # settings are checked before decoding
        if is_single(clips):
            return one([to_waveform(clips, name="clip")])[0, 0]
        for waveforms in _portions(decoded(clips)):
            vectors.append(one(waveforms)[0])
        return np.concatenate(vectors)

    def embed_layers(
        self, waveforms: "Sequence[Waveform]", *, pooling: Pooling = "mean", layers: "Sequence[Layer]" = (-1,)
    ) -> Float32[np.ndarray, "layers clips dim"]:
        """Vectors of several layers in one pass over checked waveforms at 16 kHz; one (clips, dim) block per layer."""
        self.settle(waveforms)
        return self.encoding.embed_layers(waveforms, pooling=pooling, layers=layers)

    def frames(self, clip: Clip, *, layer: Layer | None = None) -> Float32[np.ndarray, "frames dim"]:
        """Every frame of one clip: frame n covers 25 ms from n x 20 ms on (see `frame_times`).

        Args:
            clip: one clip.
            layer: as in `embed`.

        Raises:
            AudioError: a clip that cannot be used.
            UserError: unknown layer.
        """
        return self._frames(clip, layers=[self.choice.or_given(layer=layer, pooling=None).layer])[0]

    def frame_times(self, clip: Clip | int) -> Float64[np.ndarray, " frames"]:
        """Centres of the frames of a clip, in seconds from its start.

        Frame n covers 25 ms from n x 20 ms on, so that its centre is at n x 20 ms + 12.5 ms. A model whose convolutions
        cover more than 25 ms (the presets `tiny` and `small`: 29 ms) has the same centres: it is padded on both sides.

        Args:
            clip: one clip, or a number of frames.

        Raises:
            AudioError: a clip that cannot be used.
            UserError: a negative number of frames.

        >>> from speechssl.models.encoder import PRESETS
        >>> model = EmbeddingModel(SpeechEncoder(PRESETS["tiny"]), device="cpu")
        >>> model.frame_times(3)
        array([0.0125, 0.0325, 0.0525])
        """
        if isinstance(clip, int | np.integer):
            return frame_centres(self.encoder.config.conv, int(clip))
        samples = torch.tensor(len(to_waveform(clip, name="clip")))
        return frame_centres(self.encoder.config.conv, int(self.encoder.num_frames(samples)))

    def hidden_states(self, clip: Clip) -> list[Float32[np.ndarray, "frames dim"]]:
        """Every frame of one clip at every layer, from one pass.

        Args:
            clip: one clip. All layers are in memory at once: 13 layers of 768 numbers are 2 MB per second.

        Returns:
            One (frames, dim) array per layer: the input to the first block, then each block's output; the last is the
            encoder's final output, as in `frames`.

        Raises:
            AudioError: a clip that cannot be used.
        """
        return list(self._frames(clip, layers=range(self.layers + 1)))

    def _frames(self, clip: Clip, *, layers: "Sequence[Layer]") -> Float32[np.ndarray, "layers frames dim"]:
        self.encoding.embed_layers([], layers=layers)  # settings are checked before decoding
        waveform = to_waveform(clip, name="clip")
        self.settle([waveform])
        return self.encoding.frames(waveform, layers=layers)

    def predict(self, clips: Clip | Iterable[Clip]) -> "Prediction | list[Prediction]":
        """Predictions of a fine-tuned model: a class with probabilities, or a transcript with word times.

        Args:
            clips: one clip, or several, as in `embed`.

        Returns:
            One prediction per clip, in the order given; a single one for a single clip.

        Raises:
            AudioError: a clip that cannot be used; its message names the file, or the place in the list.
            UserError: the model has no head.
        """
        predictor = self._predictor()
        if is_single(clips):
            return predictor.predict([to_waveform(clips, name="clip")])[0]
        return [each for waveforms in _portions(decoded(clips)) for each in predictor.predict(waveforms)]

    def _predictor(self) -> "Predictor":
        from speechssl.inference.predictor import Predictor

        if self._folder is None:
            raise UserError("this encoder was not loaded from the folder of a fine-tuned model")
        if self._head is None:
            self._head = Predictor(self._folder, device=str(self.device))
        return self._head


def frame_centres(conv: ConvConfig, frames: int) -> Float64[np.ndarray, " frames"]:
    """Centres of the first frames of a convolutional feature encoder, in seconds from the first sample on.

    Args:
        conv: settings of the encoder.
        frames: their number.

    Raises:
        UserError: a negative number.

    >>> frame_centres(ConvConfig(), 2)
    array([0.0125, 0.0325])
    """
    if frames < 0:
        raise UserError(f"need a number of frames of at least 0, got {frames}")
    return (np.arange(frames) * conv.hop - conv.padding + conv.receptive_field / 2) / SAMPLE_RATE


def _portions(waveforms: Iterator[Waveform]) -> Iterator[list[Waveform]]:
    """Lists of at most the audio that may be in memory at once."""
    portion: list[Waveform] = []
    samples = 0
    for waveform in waveforms:
        portion.append(waveform)
        samples += len(waveform)
        if samples > DECODED_SECONDS * SAMPLE_RATE:
            yield portion
            portion, samples = [], 0
    if portion:
        yield portion
