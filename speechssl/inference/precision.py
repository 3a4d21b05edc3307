"""Faster arithmetic: bfloat16 and int8, compared with float32 before use.

`auto` is bfloat16 only on a processor that multiplies it natively, and only where the first batch's vectors have a
cosine above 0.999 with those of float32. int8 is dynamic quantisation (weights once, a scale for each output channel;
inputs at each pass) of the linear layers on a CPU, with all else in bfloat16 where the processor has it; it is used
on request, and the same cosine is reported. Its numbers depend on the kind of processor.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float32

from speechssl.config import UserError
from speechssl.device import has_bfloat16
from speechssl.inference.engine import Encoding
from speechssl.inference.layers import Layer
from speechssl.inference.packing import DType
from speechssl.inference.windows import Waveform
from speechssl.models.encoder import SpeechEncoder

Precision = Literal["float32", "bfloat16", "int8", "auto"]
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16", "int8", "auto")
MIN_COSINE = 0.999


@dataclass(frozen=True)
class Choice:
    """The chosen arithmetic.

    Attributes:
        dtype: `float32`, `bfloat16` or `int8`.
        cosine: the smallest between its vectors and those of float32 on the first batch; None where there was no check.
    """

    dtype: Precision
    cosine: float | None


def check_precision(dtype: str, device: torch.device) -> None:
    """Refuses a dtype that is unknown or not available on the device.

    Raises:
        UserError: an unknown name, or int8 elsewhere than on a CPU.
    """
    if dtype not in PRECISIONS:
        raise UserError(f"dtype must be one of {', '.join(PRECISIONS)}, got {dtype!r}")
    if dtype == "int8" and device.type != "cpu":
        raise UserError(f"dtype int8 runs on CPUs only, the device is {device}")


def choose(
    encoder: SpeechEncoder,
    waveforms: Sequence[Waveform],
    *,
    device: torch.device,
    dtype: Precision,
    layers: Sequence[Layer] = (-1,),
    mix: Sequence[float] | None = None,
) -> Choice:
    """Chooses a dtype for `auto`, and compares any dtype but float32 with float32 on a first batch.

    Args:
        encoder: of the run.
        waveforms: the first batch, checked; where it is empty, `auto` is float32.
        device: where the encoder will run.
        dtype: the requested one.
        layers: hidden states to compare.
        mix: as in `Encoding`.

    Raises:
        UserError: as in `check_precision`.
    """
    check_precision(dtype, device)
    native: DType = "bfloat16" if has_bfloat16(device) else "float32"
    wanted: DType = native if dtype == "auto" else dtype
    if wanted == "float32" or not waveforms:
        return Choice("float32" if dtype == "auto" else wanted, None)
    vectors: list[Float32[np.ndarray, "layers clips dim"]] = []
    for each in ("float32", wanted):
        trial = Encoding(encoder, device=device, dtype=each, mix=mix)
        vectors.append(trial.embed_layers(waveforms, layers=layers))
    cosine = min_cosine(vectors[0], vectors[1])
    refused = dtype == "auto" and not cosine > MIN_COSINE  # written so that NaN is refused
    return Choice("float32" if refused else wanted, cosine)


def min_cosine(one: Float[np.ndarray, "*clips dim"], other: Float[np.ndarray, "*clips dim"]) -> float:
    """The smallest cosine between vectors and their counterparts.

    >>> round(min_cosine(np.eye(2), np.array([[1.0, 0.0], [1.0, 1.0]])), 3)
    0.707
    """
    lengths = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
    return float(((one * other).sum(axis=-1) / lengths).min())
