"""Checkpoints: one file with everything a run needs to go on as if it had never stopped.

Random draws are functions of (seed, step), so a checkpoint holds no random state: parameters, optimiser, step, health
and counters are enough.
"""

import pickle
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch

from speechssl.config import UserError
from speechssl.files import replacing


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes under a temporary name, flushes, renames: a kill at any moment leaves the old or the new file whole.

    Raises:
        OSError: the file cannot be written; carries the name of the file.
    """
    with replacing(path) as file:
        output = _Output(file)
        try:
            torch.save(state, cast(BinaryIO, output))  # torch asks for no more than write and flush
        except RuntimeError:  # torch's words for a full disk tell of positions in the archive
            if output.error is not None:
                raise output.error from None
            raise


class _Output:
    """What ``torch.save`` writes to; keeps the error of the operating system, which torch replaces by its own."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self.error: OSError | None = None

    def write(self, data: bytes | memoryview) -> int:
        """Writes to the file."""
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        """Flushes the file."""
        self._file.flush()


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
