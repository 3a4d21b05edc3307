"""What a clip may be, and the one way from any of it to checked mono samples at 16 kHz.

A path; samples at 16 kHz; samples with their rate; a torch tensor instead of either array; a file open for reading
bytes; what datasets, torchaudio, soundfile and torchcodec give (see `clip_forms`). Everything else gets one line that
says what was given. The rate is never guessed: samples without one are at 16 kHz, and a pair in the wrong order or a
rate in kHz is refused.
"""

import hashlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from speechssl.audio import MAX_RATE, MIN_RATE, SAMPLE_RATE, AudioError, check_waveform, decode, resample
from speechssl.config import UserError
from speechssl.data.members import local_file
from speechssl.data.places import local_path
from speechssl.embed.clip_forms import arrow_values, columns_of, is_arrow, is_clip_mapping, mono, unwrapped
from speechssl.inference.windows import Waveform


@runtime_checkable
class BinaryFile(Protocol):
    """A file open for reading bytes: from a disk, from memory, from the net."""

    def read(self, size: int = -1, /) -> bytes:
        """Up to so many of the next bytes; all that are left when negative."""
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

    An open file is read from where it stands to its end; one that can seek is put back there, so that it can be read
    again. It is spooled to the temporary folder first: what is wrong with a file is then told as for a path.

    Args:
        clip: see `Clip`; anything else is an error that says what it is.
        name: what to call the clip in an error when it has no path.

    Raises:
        AudioError: cannot be decoded, wrong shape or type, a rate outside 4 to 192 kHz, not finite, silent, shorter
            than 400 samples.

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
    if _is_number(samples) and not _is_number(rate):
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
        return len(clips) == 2 and (_is_number(clips[0]) or _is_rate(clips[1]))
    if isinstance(clips, str | bytes | PathLike | Tensor) or hasattr(clips, "read"):
        return True
    return is_clip_mapping(clips) or hasattr(clips, "get_all_samples") or hasattr(clips, "sample_rate")


def decoded(clips: object) -> Iterator[Waveform]:
    """The waveforms of several clips, one at a time, in the order given.

    Args:
        clips: what can be iterated over: a list, a Series, a generator …

    Raises:
        AudioError: a clip that cannot be used; names the file, or the place in the list.
        UserError: not several clips.
    """
    for number, clip in enumerate(each(clips)):
        yield to_waveform(clip, name=f"clip {number}")


def each(clips: object) -> Iterator[object]:
    """The clips of a list, a Series, a generator …; what would silently give something else is refused.

    Raises:
        UserError: a table or a mapping, whose own order is that of names, or nothing to iterate over.
    """
    if isinstance(clips, Mapping) or columns_of(clips) is not None:
        kind = type(clips).__name__
        raise UserError(f"clips: a {kind} has names, not clips, in a row; give one of its columns, or its values")
    if is_arrow(clips):
        return arrow_values(clips)
    if not isinstance(clips, Iterable):
        raise UserError(f"clips: got {_kind(clips)}; {_ALLOWED}, or several of them")
    return iter(cast("Iterable[object]", clips))


def rows_of(clips: object) -> Sequence[object]:
    """The clips of a table's column or of an array, one a row, undecoded: what scikit-learn calls X.

    Args:
        clips: a list, array, Series or one-column table of clips, or numbers in two dimensions, one waveform a row.

    Raises:
        UserError: anything else; says what was given.

    >>> rows_of(np.array([["a.wav"], ["b.wav"]])), len(rows_of(np.zeros((3, 16000))))
    (['a.wav', 'b.wav'], 3)
    """
    rows: Any = clips
    if hasattr(rows, "toarray"):
        raise UserError("X: a sparse matrix; a row of X is a path, a waveform or another clip")
    columns = columns_of(rows)
    if columns is not None and not hasattr(rows, "to_numpy"):  # of pyarrow or datasets
        if len(columns) != 1:
            kind = type(rows).__name__
            raise UserError(f"X: a {kind} of {len(columns)} columns ({', '.join(columns)}); give the one of clips")
        rows = rows[columns[0]]
    elif columns is not None:
        rows = rows[rows.columns[0]] if len(columns) == 1 else rows.to_numpy()
    if is_arrow(rows):
        return list(arrow_values(rows))
    lists = [row for row in cast("list[Any]", rows) if isinstance(row, list)] if isinstance(rows, list) else []
    # Lists of other lengths are no array; what is wrong with them is told one by one.
    nested = (
        len({len(row) for row in lists}) == 1 and len(lists) == len(rows) and _is_number(next(iter(lists[0]), None))
    )
    if isinstance(rows, Tensor):
        rows = _array(rows)
    elif nested or (hasattr(rows, "__array__") and not hasattr(rows, "items")):  # a Series is iterated over
        rows = np.asarray(rows)
    if isinstance(rows, np.ndarray):
        return _rows_of_array(rows)
    if is_single(rows):
        raise UserError("X: one clip; give a list of clips, [clip] for this one")
    return list(each(rows))


def _rows_of_array(array: np.ndarray) -> Sequence[object]:
    numbers = array.dtype.kind not in "OSU"
    if not numbers and array.ndim == 2 and array.shape[1] != 1:
        try:
            array, numbers = array.astype(np.float64), True
        except (TypeError, ValueError) as error:
            raise UserError(
                f"X: {array.shape[1]} columns that are no samples; choose the one of clips ({error})"
            ) from None
    if not numbers and array.ndim in (1, 2):
        return array.ravel().tolist()
    if array.dtype.kind == "c":
        raise UserError("X: Complex data not supported; a row is a path, a waveform or another clip")
    if array.ndim != 2:
        raise UserError(
            f"X: numbers of shape {array.shape}; need one waveform a row, (clips, samples). "
            "Reshape your data, or give [samples] for one clip"
        )
    if array.shape[1] == 0:
        raise UserError(f"X: 0 feature(s) (shape={array.shape}) while a minimum of 1 is required; a row is a waveform")
    return list(array)


def content_digest(clip: object) -> str | None:
    """A digest of what is in a clip, found without decoding it: for a cache's key.

    A path stands for the bytes of its file: a hit then costs no decoding, which is slower than hashing by two orders of
    magnitude; the price is that one sound in two containers counts as two. Samples stand for themselves, with their
    type and rate.

    Returns:
        64 hexadecimal digits; None for what has to be decoded first (an open file), or is no clip.

    >>> content_digest(np.zeros(400)) == content_digest((np.zeros(400), 16000.0))
    True
    """
    if isinstance(clip, str | PathLike):
        path = Path(cast("str | PathLike[str]", clip))
        try:
            if not path.is_file():  # a pipe would be waited for
                return None
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except (OSError, ValueError):  # decoding tells why
            return None
    try:
        clip = unwrapped(clip, name="clip")
    except AudioError:  # decoding tells why
        return None
    samples, rate = clip if isinstance(clip, tuple) and len(clip) == 2 else (clip, SAMPLE_RATE)
    array = _array(samples)
    if array is None or array.dtype.hasobject or not _is_number(rate):
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
    array = _array(samples)
    if array is None:
        raise AudioError(name, _what(samples))
    if not _is_number(rate):
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


def _array(samples: object) -> Shaped[np.ndarray, "..."] | None:
    """An array as it is, a tensor as an array; None for anything else."""
    if isinstance(samples, Tensor):
        samples = samples.detach().cpu()
        return (samples.float() if samples.dtype == torch.bfloat16 else samples).numpy()
    return samples if isinstance(samples, np.ndarray) else None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _is_rate(value: object) -> bool:
    """Whether the second of two is meant for a rate, whatever its type: a number, as text too, or an array of one."""
    if isinstance(value, str):
        return value.strip().replace(".", "", 1).isdecimal()
    return _is_number(value) or (isinstance(value, np.ndarray | Tensor) and value.ndim == 0)


def _what(clip: object) -> str:
    """What was given instead of a clip, and the way out."""
    if isinstance(clip, bytes | bytearray | memoryview):
        return "bytes; give the path, or io.BytesIO(bytes) for the bytes of a file"
    if isinstance(clip, list | tuple | range):
        first = next(iter(cast("list[object]", clip)), None)
        if _is_number(first):
            return f"a {type(clip).__name__} of numbers; make samples an array: numpy.array(samples, numpy.float32)"
    if _is_number(clip):
        return "a number; if the list is samples, make it an array: numpy.array(samples, numpy.float32)"
    return f"got {_kind(clip)}; {_ALLOWED}"


def _kind(value: object) -> str:
    return "None" if value is None else f"an object of type {type(value).__name__}"
