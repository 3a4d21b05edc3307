"""Checkpoints: one file with the full state of a run; a resumed run equals an uninterrupted one.

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
    """Write under a temporary name, flush, rename: after a kill the file is the whole old or the whole new one.

    Raises:
        OSError: the file cannot be written; has the name of the file.
    """
    with replacing(path) as file:
        output = _Output(file)
        try:
            torch.save(state, cast(BinaryIO, output))  # torch calls only write and flush
        except RuntimeError:  # torch's message for a full disk gives positions in the archive
            if output.error is not None:
                raise output.error from None
            raise


class _Output:
    """File for ``torch.save`` that keeps the error of the operating system, which torch replaces by its own."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self.error: OSError | None = None

    def write(self, data: bytes | memoryview) -> int:
        """Write to the file."""
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        """Flush the file."""
        self._file.flush()


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """Read a checkpoint onto the CPU, or None when there is none. Only tensors and plain values are unpickled.

    Raises:
        UserError: the file exists and is not a checkpoint.
    """
    if not path.exists():
        return None
    try:
        with zipfile.ZipFile(path) as archive:  # torch itself reads damaged tensors without an error
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
        raise UserError(f"{path}: not a readable checkpoint ({reason}); remove it to start again") from None
