"""Checkpoints: one file with everything a run needs to go on as if it had never stopped.

Random draws are functions of (seed, step), so a checkpoint holds no random state: parameters, optimiser, step, health
and counters are enough.
"""

import os
import pickle
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch

from speechssl.config import UserError


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write under a temporary name, flush, rename: a kill at any moment leaves the old or the new file whole."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """Read a checkpoint onto the CPU, or None when there is none. Only tensors and plain values are unpickled.

    Raises:
        UserError: the file is there and is no checkpoint.
    """
    if not path.exists():
        return None
    try:
        with zipfile.ZipFile(path) as archive:  # torch itself reads damaged tensors without a word
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"damaged: {damaged}")
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise ValueError(f"holds a {type(state).__name__}")
        return state
    except (
        OSError,
        EOFError,
        RuntimeError,
        pickle.UnpicklingError,
        ValueError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        reason = str(error).splitlines()[0] if str(error) else "empty"
        raise UserError(f"{path}: not a readable checkpoint ({reason}); remove it to start anew") from None
