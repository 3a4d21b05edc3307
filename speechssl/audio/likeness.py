"""Whether bytes behind the end of a recording are samples like those before it.

Behind the end that a header counts are samples if the header was not updated, and other data if these were appended.
The bytes show which, for any coding of the samples: the most significant byte of a sample is near that of the sample
before, unlike the bytes of text, compressed files and pictures.
"""

from typing import BinaryIO

import numpy as np
from jaxtyping import Float, UInt8

from speechssl.audio.formats import other_kind

SAMPLES, UNKNOWN = "samples", ""
_WINDOW = 4096  # frames of samples that are compared, at up to this number of places
_PLACES = 16
_SMOOTH = 0.7  # step from byte to byte, as a part of that between bytes in any order: to 0.6 for speech, 1 for text
_NARROW, _NEAR = 0.95, 8  # of pauses, which are noise: concentration of their bytes, and distance to those before


def likeness(file: BinaryIO, start: int, end: int, *, first: int, stop: int, frame: int) -> str:
    """Kind of the bytes from `first` to `stop`.

    Args:
        file: open for reading.
        start: of the samples, bytes.
        end: of the samples that are counted, bytes.
        first: of the bytes in question.
        stop: behind the last of them.
        frame: bytes of one sample of all channels; 0 where not known, or coded in blocks.

    Returns:
        SAMPLES, the name of another kind ("plain text"), or UNKNOWN.
    """
    file.seek(first)
    name = other_kind(file.read(min(4096, stop - first)))
    before = _windows(file, start, end, frame) if frame else []
    if before and _continue(np.concatenate(before), _windows(file, first + (start - first) % frame, stop, frame)):
        return SAMPLES
    return name or UNKNOWN


def _windows(file: BinaryIO, start: int, stop: int, frame: int) -> list[UInt8[np.ndarray, "frames frame"]]:
    """Bytes at places spread evenly over a stretch, one row per sample of all channels."""
    total = (stop - start) // frame
    count = min(_PLACES, -(-total // _WINDOW))
    found: list[UInt8[np.ndarray, "frames frame"]] = []
    for place in range(count):
        first = (total - _WINDOW) * place // (count - 1) if count > 1 else 0
        file.seek(start + max(0, first) * frame)
        content = file.read(min(_WINDOW, total) * frame)
        found.append(np.frombuffer(content, np.uint8)[: len(content) // frame * frame].reshape(-1, frame))
    return found


def _continue(before: UInt8[np.ndarray, "frames frame"], windows: list[UInt8[np.ndarray, "_ frame"]]) -> bool:
    """Whether every window is like the samples before, in the byte of a frame that is the most significant there."""
    steps = _steps(before)
    means = [_mean(column) for column in before.T]
    lane = int(np.argmin(steps)) if steps.min() < _SMOOTH else int(np.argmax(np.abs(means)))
    alike = 0
    for window in windows:
        if len(window) < 16 or (window == window[0]).all():
            continue
        mean = _mean(window[:, lane])
        away = abs(np.angle(mean / means[lane])) / (2 * np.pi) * 256 if means[lane] else np.inf
        if _steps(window)[lane] >= _SMOOTH and (abs(mean) < _NARROW or away > _NEAR):
            return False
        alike += 1
    return alike > 0


def _steps(frames: UInt8[np.ndarray, "frames frame"]) -> Float[np.ndarray, " frame"]:
    """Mean difference of each byte to that of the frame before, as a fraction of the difference between any two."""
    order = np.random.default_rng(0).permutation(len(frames))
    near, far = _differences(frames), _differences(frames[order])
    return np.divide(near, far, out=np.ones(frames.shape[1]), where=far > 0)


def _differences(frames: UInt8[np.ndarray, "frames frame"]) -> Float[np.ndarray, " frame"]:
    steps = np.diff(frames, axis=0).view(np.int8)  # modulo 256: a sign changes all bits
    return np.abs(steps.astype(np.int16)).mean(axis=0)


def _mean(values: UInt8[np.ndarray, " frames"]) -> complex:
    """Mean of bytes on a circle: its magnitude is 1 where all are equal, and 0 where they are uniform."""
    return complex(np.exp(2j * np.pi / 256 * values).mean())
