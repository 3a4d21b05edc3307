"""Seconds and samples: the two rates of the package and one rounding function."""

import math

SAMPLE_RATE = 16000  # Hz; the rate of wav2vec 2.0 and of nearly every model after it
RECEPTIVE_FIELD = 400  # samples, 25 ms: input of one output frame of the convolutional feature encoder


def seconds_to_samples(seconds: float, rate: int = SAMPLE_RATE) -> int:
    """Seconds to the nearest whole sample; halves go up, so that shifting by whole samples never changes a count.

    Args:
        seconds: any finite time, s.
        rate: samples per second, Hz.

    Raises:
        ValueError: the time is not finite.

    >>> seconds_to_samples(0.025)
    400
    >>> seconds_to_samples(0.02, rate=11025)  # 220.5 samples
    221
    """
    if not math.isfinite(seconds):
        raise ValueError(f"seconds must be finite, got {seconds}")
    return math.floor(seconds * rate + 0.5)


def samples_to_seconds(samples: int, rate: int = SAMPLE_RATE) -> float:
    """Samples to seconds; `seconds_to_samples` gives the same count back.

    >>> samples_to_seconds(400)
    0.025
    """
    return samples / rate
