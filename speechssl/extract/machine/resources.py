"""Devices, memory and threads of an extraction."""

import os
import re
import resource
import sys
from dataclasses import dataclass

import torch

from speechssl.audio import SAMPLE_RATE
from speechssl.config import UserError
from speechssl.device import device_of
from speechssl.inference.batches import CPU_BATCH_SECONDS, GPU_BATCH_SECONDS
from speechssl.inference.engine import ENCODER_WINDOW_SECONDS
from speechssl.models.encoder import EncoderConfig
from speechssl.nn.transformer import LONG_SEQUENCE

PART_SECONDS = 480.0  # of audio in a part, approximately
DEFAULT_MEMORY = 2 << 30  # bytes of host memory on top of the program and the weights
MIN_WINDOW_SECONDS = 10.0
_AUDIO_SHARE = 0.25  # of the memory, at most; the remainder is for a batch
_AHEAD_PARTS = 1  # per device, decoded and waiting: more would only take longer to fill
_SECOND = 64000  # bytes of a second of audio at 16 kHz


@dataclass(frozen=True)
class Resources:
    """Limits of memory and threads.

    Attributes:
        audio_bytes: of decoded audio that may wait.
        batch_seconds: of padded audio in a batch.
        window_seconds: longer clips are encoded in windows.
        threads: decoding threads.
    """

    audio_bytes: int
    batch_seconds: float
    window_seconds: float
    threads: int


def devices_of(device: str) -> list[torch.device]:
    """Devices by name: `auto` is all GPUs of the machine or else the CPU; several by commas.

    Raises:
        UserError: no such device.

    >>> devices_of("cpu,cpu")
    [device(type='cpu'), device(type='cpu')]
    """
    if device == "auto" and torch.cuda.device_count() > 1:
        return [torch.device("cuda", number) for number in range(torch.cuda.device_count())]
    return [device_of(each.strip()) for each in device.split(",")]


def read_bytes(words: str) -> int:
    """Parses a number of bytes: `500MB`, `2GB`, `1.5 GiB`; M and G are powers of 1024 either way.

    Raises:
        UserError: not such a number.

    >>> read_bytes("2GB") == DEFAULT_MEMORY, read_bytes("0.5 MiB")
    (True, 524288)
    """
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kmg])i?b?\s*", words, re.IGNORECASE)
    if match is None:
        raise UserError(f"memory {words!r}: a number with a unit, for example 500MB or 2GB")
    return int(float(match[1]) * 1024 ** ("kmg".index(match[2].lower()) + 1))


def divide(memory: int, config: EncoderConfig, devices: list[torch.device], *, threads: int | None = None) -> Resources:
    """Sizes of batches and windows that fit into a memory.

    On a GPU the batch is in the GPU's own memory, and all of the host memory is for audio.

    Args:
        memory: bytes of host memory.
        config: of the encoder.
        devices: encoding devices.
        threads: decoding threads; None: one per core, 16 at most.

    Raises:
        UserError: too little for a window of ten seconds, or for the parts that are decoded at once.
    """
    on_cpu = all(device.type == "cpu" for device in devices)
    parts = round((2 * len(devices) + 1) * PART_SECONDS * _SECOND)
    wanted = parts + round(_AHEAD_PARTS * len(devices) * PART_SECONDS * _SECOND)
    audio = min(int(memory * (_AUDIO_SHARE if on_cpu else 1.0)), wanted)
    least = round(parts / (_AUDIO_SHARE if on_cpu else 1.0))
    left = (memory - audio) / len(devices) / bytes_of_second(config)
    if on_cpu:
        least = max(least, round(MIN_WINDOW_SECONDS * bytes_of_second(config) * len(devices) / (1 - _AUDIO_SHARE)))
    if memory < least:
        raise UserError(f"memory of {memory >> 20} MiB is too little here; at least {(least >> 20) + 1} MiB are needed")
    # Waiting audio is counted in addition to the parts that are being encoded, hence the subtraction.
    free, count = audio - parts // 2, threads or min(16, os.cpu_count() or 1)
    if not on_cpu:
        return Resources(free, GPU_BATCH_SECONDS, ENCODER_WINDOW_SECONDS, count)
    return Resources(free, min(CPU_BATCH_SECONDS, left), float(min(ENCODER_WINDOW_SECONDS, int(left))), count)


def bytes_of_second(config: EncoderConfig) -> int:
    """Approximate memory per second of audio in a forward pass on a CPU.

    It is for hidden states, and a copy of those that are read; for activations inside a block; and for three times the
    scores of all pairs of frames, up to the length from which they are computed in pieces. The convolutions take little
    (see `inference.tiles`).

    >>> from speechssl.models.encoder import PRESETS
    >>> bytes_of_second(PRESETS["base"])
    19968000
    """
    shape = config.transformer
    states, inside = 2 * (shape.layers + 1) * shape.dim, 4 * shape.dim + shape.feedforward
    return 4 * (states + inside + 3 * shape.heads * LONG_SEQUENCE) * SAMPLE_RATE // config.conv.hop


def peak_memory() -> int:
    """Largest memory of this process so far, bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
