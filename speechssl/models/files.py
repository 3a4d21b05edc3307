"""Readers of a model's settings and tensors, with bounds on time and memory.

A model folder may come from an untrusted source, and a file in it may be malformed: very deep lists, a header of 2^60
bytes, more numbers than the file holds. Each such fault is a `UserError` that names the file. Sizes that a file states
are not trusted for allocations: JSON is bounded by the size of its file, tensors by the actual content.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from speechssl.config import UserError, parse_reason, readable

JSON_BYTES = 1 << 28  # the list of all training recordings of a model is part of its settings
_BRACKETS = 200_000  # lists and tables of one JSON file: each takes fifty times its two characters in memory
_HEADER_BYTES = 1 << 24  # of a safetensors file: names and shapes, 100 kB for a thousand tensors
MOST_TENSORS = 20_000  # of one model; the largest published encoders have about a thousand


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file with an object at the top level.

    Raises:
        UserError: no such file, or it is too large, nested too deep, not JSON, or not an object.
    """
    try:
        if path.stat().st_size > JSON_BYTES:
            raise UserError(f"{path}: {path.stat().st_size} bytes are more than settings take ({JSON_BYTES})")
        text = path.read_text(encoding="utf-8")
        if text.count("[") + text.count("{") > _BRACKETS:
            raise UserError(f"{path}: holds more than {_BRACKETS} lists and tables")
        content = json.loads(text)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except RecursionError:
        raise UserError(f"{path}: nested too deep") from None
    except UserError:
        raise
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable as JSON: {brief(error)}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds no settings but a {type(content).__name__}")
    return content


def is_json_with(path: Path, *keys: str) -> bool:
    """Whether a file is a JSON object with these keys; False if it cannot be read."""
    try:
        return path.is_file() and set(keys) <= read_json(path).keys()
    except UserError:
        return False


@dataclass(frozen=True)
class TensorFile:
    """Header of a safetensors file: the shape of each tensor, by name."""

    path: Path
    shapes: Mapping[str, tuple[int, ...]]

    @property
    def numbers(self) -> int:
        """Total number of elements of all tensors."""
        return sum(math.prod(shape) for shape in self.shapes.values())


def read_header(path: Path) -> TensorFile:
    """Names and shapes of a safetensors file; no tensor is read.

    Raises:
        UserError: no such file, or not a whole safetensors file.
    """
    _check_header_size(path)
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            if len(names) > MOST_TENSORS:
                raise UserError(f"{path}: holds {len(names)} tensors; at most {MOST_TENSORS} are read")
            return TensorFile(path, {name: tuple(file.get_slice(name).get_shape()) for name in names})
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: not a readable safetensors file: {brief(error)}") from None


def read_tensors(path: Path, *, prefix: str) -> dict[str, Tensor]:
    """Tensors of a safetensors file whose name begins with ``prefix``, by the rest of their name.

    Raises:
        UserError: no such file, or not a whole safetensors file.
    """
    names = [name for name in read_header(path).shapes if name.startswith(prefix)]
    try:
        with safe_open(path, framework="pt") as file:
            return {name.removeprefix(prefix): file.get_tensor(name) for name in names}
    except (OSError, SafetensorError, RuntimeError) as error:
        raise UserError(f"{path}: not a readable safetensors file: {brief(error)}") from None


def _check_header_size(path: Path) -> None:
    """Check the header's length, which the first eight bytes give, before the header is read."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            header = int.from_bytes(file.read(8), "little")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    if size < 10 or header > size - 8:
        raise UserError(f"{path}: not a readable safetensors file: {size} bytes, and a header of {header}")
    if header > _HEADER_BYTES:
        raise UserError(f"{path}: not a readable safetensors file: a header of {header} bytes, at most {_HEADER_BYTES}")


def brief(error: Exception, *, longest: int = 300) -> str:
    """Message of an error, as the end of one line.

    >>> brief(ValueError("first,   second")), brief(KeyError())
    ('first, second', 'KeyError')
    """
    return readable(parse_reason(error), longest=longest)
