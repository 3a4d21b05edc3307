"""Clips in the forms of other libraries: dictionaries, decoders, Arrow columns, samples with a channel axis.

{"array": samples, "sampling_rate": 16000}      Hugging Face datasets, Audio(decode=True), with or without "path"
{"bytes": b"...", "path": "a.wav"}              Audio(decode=False): the bytes of a file, or None and a path
{"waveform": tensor, "sample_rate": 16000}      pyannote.audio
AudioDecoder, AudioSamples                      torchcodec
(tensor of shape (channels, samples), rate)     torchaudio.load
(array of shape (samples, channels), rate)      soundfile.read

A dictionary of samples without their rate is refused: its maker had a rate, and 16 kHz would be a guess.
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float32, Shaped
from torch import Tensor

from speechssl.audio import SAMPLE_RATE, AudioError, to_mono

MOST_CHANNELS = 8  # a longer axis is that of samples
_SAMPLES, _RATES, _OTHER = ("array", "waveform"), ("sampling_rate", "sample_rate"), ("path", "uri")


def is_clip_mapping(value: object) -> bool:
    """Whether a dictionary is one clip, right or wrong, rather than a table.

    >>> is_clip_mapping({"array": [0.0], "sampling_rate": 16000}), is_clip_mapping({"path": ["a.wav", "b.wav"]})
    (True, False)
    """
    if not isinstance(value, Mapping):
        return False
    keys = cast("Mapping[object, object]", value)
    return any(name in keys for name in (*_SAMPLES, "bytes"))


def unwrapped(clip: object, *, name: str) -> object:
    """A path, samples, a pair of samples and rate, or an open file; any other object is returned unchanged.

    Args:
        clip: see the head of this file.
        name: of the clip in an error.

    Raises:
        AudioError: a dictionary with other keys, or samples in one without their rate.

    >>> unwrapped({"array": "samples", "sampling_rate": 8000, "path": None}, name="clip")
    ('samples', 8000)
    >>> unwrapped({"array": "samples", "rate": 8000}, name="clip 3")
    Traceback (most recent call last):
    speechssl.audio.AudioError: clip 3: a dict with the keys array, rate; a clip is {'array', 'sampling_rate'} ...
    """
    if isinstance(clip, Mapping):
        return _from_mapping(cast("Mapping[object, object]", clip), name)
    decoder: Any = clip
    if hasattr(decoder, "get_all_samples"):
        decoder = decoder.get_all_samples()
    if hasattr(decoder, "sample_rate") and hasattr(decoder, "data"):
        return decoder.data, decoder.sample_rate
    return clip


def _from_mapping(clip: Mapping[object, object], name: str) -> object:
    keys = set(clip)
    samples = [key for key in _SAMPLES if key in keys]
    rates = [key for key in _RATES if key in keys]
    if len(samples) == 1 and len(rates) <= 1 and keys <= {*samples, *rates, *_OTHER}:
        if not rates:
            raise AudioError(
                name,
                f"a dict with {samples[0]!r} and without a rate; add 'sampling_rate': Hz, or give the samples alone "
                f"where they are at {SAMPLE_RATE} Hz",
            )
        return clip[samples[0]], clip[rates[0]]
    content, path = clip.get("bytes"), clip.get("path")
    if "bytes" in keys and keys <= {"bytes", "path"} and (content is None or isinstance(content, bytes)):
        if content is None:
            return path
        file = io.BytesIO(content)
        if isinstance(path, str):
            file.name = path  # errors name it
        return file
    words = ", ".join(sorted(map(str, keys))) or "no keys"
    raise AudioError(
        name,
        f"a dict with the keys {words}; a clip is {{'array', 'sampling_rate'}} or {{'bytes', 'path'}}; "
        "of a row of a table, give the column of clips",
    )


def mono(
    samples: Float32[np.ndarray, "..."], *, with_rate: bool, name: str, rate: int = SAMPLE_RATE
) -> Float32[np.ndarray, " samples"]:
    """Samples with one axis; channels are averaged, as for files.

    Samples with their rate are one clip: of two axes, the one of at most `MOST_CHANNELS` entries is that of channels.
    Without a rate, several rows may also be several clips, and are refused.

    Args:
        samples: of any shape.
        with_rate: whether their rate was given.
        name: of the clip in an error.
        rate: samples per second, Hz.

    Raises:
        AudioError: another shape.

    Warns:
        AudioWarning: the channels cancel each other; one alone is taken.

    >>> mono(np.ones((2, 2), np.float32), with_rate=False, name="clip")
    Traceback (most recent call last):
    speechssl.audio.AudioError: clip: need mono samples of shape (samples,), got shape (2, 2); average its channels, ...
    >>> mono(np.ones((10, 2), np.float32), with_rate=True, name="clip").shape
    (10,)
    """
    shape = samples.shape
    if len(shape) == 2 and 1 in shape:
        return samples.reshape(-1)
    if len(shape) == 2 and with_rate and min(shape) <= MOST_CHANNELS < max(shape):
        return to_mono(samples if shape.index(min(shape)) else samples.T, rate, name)
    if len(shape) == 1:
        return samples
    hint = "average its channels, or give several clips as a list" if len(shape) == 2 else "one clip has one axis"
    raise AudioError(name, f"need mono samples of shape (samples,), got shape {shape}; {hint}")


def arrow_values(column: Any) -> Iterator[object]:
    """Clips of a column of pyarrow: paths, dictionaries, or lists of samples as arrays."""
    for value in column:
        clip = value.as_py()
        yield np.asarray(clip) if isinstance(clip, list) else clip


def is_arrow(value: object) -> bool:
    """Whether a value is an Array, a ChunkedArray, a RecordBatch or a Table of pyarrow."""
    return type(value).__module__.partition(".")[0] == "pyarrow" and hasattr(value, "to_pylist")


def columns_of(value: Any) -> Sequence[str] | None:
    """Names of the columns of a table of pandas, polars, pyarrow or datasets; None for any other object."""
    if hasattr(value, "column_names"):
        names = value.column_names
        return None if isinstance(names, Mapping) else [str(name) for name in names]
    return [str(name) for name in value.columns] if hasattr(value, "columns") else None


def array_of(samples: object) -> Shaped[np.ndarray, "..."] | None:
    """An array as it is, a tensor as an array; None for anything else."""
    if isinstance(samples, Tensor):
        samples = samples.detach().cpu()
        return (samples.float() if samples.dtype == torch.bfloat16 else samples).numpy()
    return samples if isinstance(samples, np.ndarray) else None


def is_number(value: object) -> bool:
    """Whether a value is a number, of Python or numpy; True and False are none."""
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)
