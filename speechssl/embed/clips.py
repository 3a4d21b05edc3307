"""Clips in every accepted form, and their conversion to checked mono samples at 16 kHz.

A clip is a path, samples at 16 kHz, samples with their rate, a torch tensor instead of either array, a file open for
reading bytes, or an object of datasets, torchaudio, soundfile or torchcodec (see `clip_forms`). The error for anything
else says what was given. The rate is never guessed: samples without a rate are at 16 kHz, and a pair in the wrong order
or a rate in kHz is refused.
"""

import hashlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
from jaxtyping import Shaped
from torch import Tensor

from speechssl.audio import MAX_RATE, MIN_RATE, SAMPLE_RATE, AudioError, check_waveform, decode, resample
from speechssl.config import UserError
from speechssl.data.members import local_file
from speechssl.data.places import local_path
from speechssl.embed.clip_forms import (
    array_of,
    arrow_values,
    columns_of,
    is_arrow,
    is_clip_mapping,
    is_number,
    mono,
    unwrapped,
)
from speechssl.inference.windows import Waveform


@runtime_checkable
class BinaryFile(Protocol):
    """A file open for reading bytes: from a disk, from memory, from the net."""

    def read(self, size: int = -1, /) -> bytes:
        """The next bytes, at most `size`; all remaining bytes when it is negative."""
        ...


Samples = Shaped[np.ndarray, "..."] | Shaped[Tensor, "..."]
Clip = str | PathLike[str] | Samples | tuple[Samples, int | float] | BinaryFile | Mapping[str, Any]
"""A path, mono samples at 16 kHz (floating point, or int16 of full scale 32768), such samples and their rate in Hz, a
file open for reading bytes, or `{"array": samples, "sampling_rate": Hz}`.

Samples with their rate may have channels, (channels, samples) or (samples, channels), at most eight: they are averaged.

The shape is checked by `to_waveform`, with a better message than a type check has.
"""

_ALLOWED = (
    "a clip is a path, an array of samples, (samples, rate) or {'array', 'sampling_rate'}, or a file open for "
    "reading bytes"
)


def to_waveform(clip: object, *, name: str) -> Waveform:
    """Checked mono float32 samples at 16 kHz.

    An open file is read from its position to its end; a seekable file is put back to that position, so that it can be
    read again. It is copied to the temporary folder first, so that its errors are those of a path.

    Args:
        clip: see `Clip`; the error for anything else says what was given.
        name: what to call the clip in an error when it has no path.

    Raises:
        AudioError: a clip that cannot be decoded, of a wrong shape or type, with a rate outside 4 to 192 kHz, not
            finite, silent, or shorter than 400 samples.

    >>> to_waveform((np.sin(np.arange(8000)).astype(np.float32), 8000), name="clip").shape
    (16000,)
    >>> to_waveform([0.0, 0.1], name="clip 3")
    Traceback (most recent call last):
    speechssl.audio.AudioError: clip 3: a list of numbers; make samples an array: numpy.array(samples, numpy.float32)
    """
    clip = unwrapped(clip, name=name)
    if isinstance(clip, str | PathLike):
        path = local_path(str(cast("str | PathLike[str]", clip)))
        with local_file(path) as file:  # a manifest may name a file within a tar
            waveform = decode(file)
        check_waveform(waveform, path)
        return waveform
    if hasattr(clip, "read"):
        return _from_file(cast(BinaryFile, clip), name)
    with_rate = isinstance(clip, tuple) and len(clip) == 2
    samples, rate = cast("tuple[object, object]", clip) if with_rate else (clip, SAMPLE_RATE)
    if is_number(samples) and not is_number(rate):
        raise AudioError(name, "a rate before the samples; the pair is (samples, rate)")
    return _from_samples(samples, rate, name, with_rate=with_rate)


def is_single(clips: object) -> bool:
    """Whether this is one clip rather than several.

    >>> is_single("a.wav"), is_single(["a.wav"]), is_single(np.array(["a.wav", "b.wav"]))
    (True, False, False)
    """
    if isinstance(clips, np.ndarray):
        return clips.dtype.kind not in "OSU"  # those hold paths or clips
    if isinstance(clips, tuple):  # samples with their rate, or several clips
        return len(clips) == 2 and (is_number(clips[0]) or _is_rate(clips[1]))
    if isinstance(clips, str | bytes | PathLike | Tensor) or hasattr(clips, "read"):
        return True
    return is_clip_mapping(clips) or hasattr(clips, "get_all_samples") or hasattr(clips, "sample_rate")


def decoded(clips: object) -> Iterator[Waveform]:
    """The waveforms of several clips, one at a time, in the order given.

    Args:
        clips: an iterable, such as a list, a Series or a generator.

    Raises:
        AudioError: a clip that cannot be used; names the file, or the place in the list.
        UserError: not several clips.
    """
    for number, clip in enumerate(each(clips)):
        yield to_waveform(clip, name=f"clip {number}")


def each(clips: object) -> Iterator[object]:
    """The clips of a list, a Series or a generator; refuses iterables whose items are no clips, such as tables.

    Raises:
        UserError: a table or a mapping, whose items are names, or no iterable.
    """
    if isinstance(clips, Mapping) or columns_of(clips) is not None:
        kind = type(clips).__name__
        raise UserError(f"clips: a {kind} has names, not clips, in a row; give one of its columns, or its values")
    if is_arrow(clips):
        return arrow_values(clips)
    if not isinstance(clips, Iterable):
        raise UserError(f"clips: got {_kind(clips)}; {_ALLOWED}, or several of them")
    return iter(cast("Iterable[object]", clips))


def content_digest(clip: object) -> str | None:
    """Digest of a clip's content, without decoding it, for the key of a cache.

    For a path it is that of the bytes of its file: a cache hit then needs no decoding, which is slower than hashing by
    two orders of magnitude, but one sound in two containers counts as two. For samples it is that of their values, type
    and rate.

    Returns:
        64 hexadecimal digits; None for an open file, which has to be decoded first, and for anything but a clip.

    >>> content_digest(np.zeros(400)) == content_digest((np.zeros(400), 16000.0))
    True
    """
    if isinstance(clip, str | PathLike):
        path = Path(cast("str | PathLike[str]", clip))
        try:
            if not path.is_file():  # opening a pipe would block
                return None
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except (OSError, ValueError):  # decoding gives the reason
            return None
    try:
        clip = unwrapped(clip, name="clip")
    except AudioError:  # decoding gives the reason
        return None
    samples, rate = clip if isinstance(clip, tuple) and len(clip) == 2 else (clip, SAMPLE_RATE)
    array = array_of(samples)
    if array is None or array.dtype.hasobject or not is_number(rate):
        return None
    axes = "" if array.ndim == 1 else f" {isinstance(clip, tuple)}"  # with a rate, an axis may be one of channels
    digest = hashlib.sha256(f"{array.dtype.str} {array.shape} {float(cast(float, rate))}{axes}".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _from_file(file: BinaryFile, name: str) -> Waveform:
    given = getattr(file, "name", None)
    name = given if isinstance(given, str) and given else name
    handle: Any = file
    can_seek = bool(hasattr(file, "seekable") and handle.seekable())
    place = handle.tell() if can_seek else 0
    with tempfile.TemporaryDirectory(prefix="speechssl-") as folder:
        copy = Path(folder) / (Path(name).name or "clip")
        try:
            with copy.open("wb") as spool:
                shutil.copyfileobj(file, spool)
        except (TypeError, UnicodeDecodeError):
            raise AudioError(name, "a file open for text; open it with 'rb'") from None
        finally:
            if can_seek:
                handle.seek(place)
        if copy.stat().st_size == 0:
            at_end = f"; it stands at byte {place}, seek(0) reads it from the start" if place else ""
            raise AudioError(name, f"an open file with nothing left to read{at_end}")
        try:
            waveform = decode(copy)
            check_waveform(waveform, name)
        except AudioError as error:
            raise AudioError(name, error.reason) from None
    return waveform


def _from_samples(samples: object, rate: object, name: str, *, with_rate: bool) -> Waveform:
    array = array_of(samples)
    if array is None:
        raise AudioError(name, _what(samples))
    if not is_number(rate):
        given = repr(rate) if isinstance(rate, str) else _kind(rate)
        raise AudioError(name, f"need a rate in Hz beside the samples, got {given}")
    hertz = float(cast(float, rate))
    if not (MIN_RATE <= hertz <= MAX_RATE and hertz == int(hertz)):
        raise AudioError(name, f"need a rate of {MIN_RATE} to {MAX_RATE} Hz, a whole number, got {rate}")
    if array.dtype == np.int16:
        waveform = array.astype(np.float32) / 32768
    elif np.issubdtype(array.dtype, np.floating):
        waveform = array.astype(np.float32)
    else:
        raise AudioError(name, f"need samples of a floating type or int16, got {array.dtype}")
    waveform = mono(waveform, with_rate=with_rate, name=name, rate=int(hertz))
    if not np.isfinite(waveform).all():  # before the resampler smears them
        raise AudioError(name, f"{int((~np.isfinite(waveform)).sum())} samples are NaN or infinite")
    waveform = np.ascontiguousarray(resample(waveform, int(hertz), SAMPLE_RATE))
    check_waveform(waveform, name)
    return waveform


def _is_rate(value: object) -> bool:
    """Whether the second of two values is meant as a rate: a number, also as text, or an array without axes."""
    if isinstance(value, str):
        return value.strip().replace(".", "", 1).isdecimal()
    return is_number(value) or (isinstance(value, np.ndarray | Tensor) and value.ndim == 0)


def _what(clip: object) -> str:
    """What was given instead of a clip, and what to do."""
    if isinstance(clip, bytes | bytearray | memoryview):
        return "bytes; give the path, or io.BytesIO(bytes) for the bytes of a file"
    if isinstance(clip, list | tuple | range):
        first = next(iter(cast("list[object]", clip)), None)
        if is_number(first):
            return f"a {type(clip).__name__} of numbers; make samples an array: numpy.array(samples, numpy.float32)"
    if is_number(clip):
        return "a number; if the list is samples, make it an array: numpy.array(samples, numpy.float32)"
    return f"got {_kind(clip)}; {_ALLOWED}"


def _kind(value: object) -> str:
    return "None" if value is None else f"an object of type {type(value).__name__}"
