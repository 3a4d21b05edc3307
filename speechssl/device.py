"""Devices by name, and the arithmetic that they have: the one rule for both."""

from pathlib import Path

import torch

from speechssl.config import UserError

_CPUINFO = Path("/proc/cpuinfo")
_NATIVE_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # x86; the last is Arm's


def device_of(device: str) -> torch.device:
    """A torch device by name; `auto` is a GPU when there is one, else the CPU.

    Raises:
        UserError: no such device.

    >>> device_of("cpu")
    device(type='cpu')
    """
    name = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    try:
        found = torch.device(name)
    except RuntimeError:
        raise UserError(f"unknown device {device!r}; 'auto', 'cpu', 'cuda', 'cuda:1' … are allowed") from None
    if found.type not in ("cpu", "cuda"):
        raise UserError(f"device {device!r}: only CPUs and CUDA's GPUs are known here")
    if found.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device {device!r}: torch sees no GPU on this machine")
    return found


def has_bfloat16(device: torch.device) -> bool:
    """Whether the processor multiplies bfloat16 natively; elsewhere it is slower than float32.

    A GPU does from compute capability 8 (Ampere) on. Of CPUs, those that say so in /proc/cpuinfo.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    if device.type != "cpu":
        return False
    try:
        lines = _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    flags = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    return bool(_NATIVE_FLAGS & set(flags.split()))
