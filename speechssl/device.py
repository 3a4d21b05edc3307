"""Devices by name, and the arithmetic that they have: the one rule for both."""

import platform
from pathlib import Path

import torch

from speechssl.config import UserError


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


def processor_name() -> str:
    """Model of the processor, as the kernel names it; the name of its architecture where it has none."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def has_bfloat16(device: torch.device) -> bool:
    """Whether the processor multiplies bfloat16 natively; elsewhere it is slower than float32.

    A GPU does from compute capability 8 (Ampere) on; of CPUs, those with instructions for it, on x86 and Arm, where
    oneDNN uses them: `ONEDNN_MAX_CPU_ISA=AVX2` makes a processor one of the older kind.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    if device.type != "cpu":
        return False
    has = torch.cpu.get_capabilities()
    return any(has.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16")) and _onednn_multiplies_bfloat16()


def _onednn_multiplies_bfloat16() -> bool:
    """What oneDNN says of the instruction sets that it may use; torch has no public question for it."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # pyright: ignore[reportPrivateUsage]
