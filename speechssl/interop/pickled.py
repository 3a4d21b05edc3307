"""Reading what ``torch.save`` wrote, objects of other projects included, without running anything.

Checkpoints of fairseq hold, besides tensors, settings as ``argparse.Namespace``, as omegaconf's objects or as fairseq's
own, and a dictionary of symbols. Torch's restricted unpickler (``weights_only=True``) creates nothing but tensors and
plain values. Here it may also create *stand-ins*: each name of a known project becomes an empty class of our own that
keeps what it was made from and does nothing. No class of that project is imported, let alone called, and a file that
names anything else is refused.
"""

import pickle
import pickletools
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from speechssl.config import UserError

_PROJECTS = ("argparse.", "omegaconf.", "fairseq.", "fairseq_cli.", "examples.", "hydra.", "typing.", "enum.", "numpy.")
_SINGLE = {  # of the standard library: how types and enumerations are written
    "_operator.getitem",
    "operator.getitem",
    "_codecs.encode",
    "collections.defaultdict",
    "pathlib.Path",
    "pathlib.PosixPath",
    *(
        f"builtins.{name}"
        for name in ("bool", "bytes", "dict", "float", "int", "list", "object", "set", "str", "tuple")
    ),
}
_DEPTH = 64  # of settings inside settings


class StandIn:
    """An object of a class that is not here: what it was called with, and its state."""

    origin = ""
    args: tuple[Any, ...] = ()  # here, because an object may be made without being initialised
    state: Any = None

    def __init__(self, *args: object):
        self.args = args

    def __setstate__(self, state: object) -> None:
        self.state = state


def load_pickled(path: Path) -> Any:
    """The content of a file, with :class:`StandIn` for every object that is neither a tensor nor plain.

    Raises:
        UserError: not such a file, or one that names code of other projects than those known; nothing of it has run.
    """
    try:
        names = [name for name in sorted(_names(path)) if _is_known(name)]
        stand_ins: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
            (_stand_in(name), name) for name in names
        ]
        with warnings.catch_warnings(), torch.serialization.safe_globals(stand_ins):
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            # Mapped where possible: what is left out, the state of an optimiser above all, is then never read.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (
        OSError,
        EOFError,
        RuntimeError,
        ValueError,
        TypeError,
        AttributeError,
        IndexError,
        KeyError,
        AssertionError,
        pickle.UnpicklingError,
        struct.error,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:  # each can be had from damaged bytes
        raise UserError(f"{path}: {_reason(error)}") from None


def plain(value: Any, *, depth: int = 0) -> Any:
    """Settings without stand-ins: dictionaries, lists and values; None for what is no setting.

    Raises:
        ValueError: nested without an end.
    """
    if depth > _DEPTH:
        raise ValueError(f"settings are nested more than {_DEPTH} deep")
    if isinstance(value, StandIn):
        state = value.state if isinstance(value.state, dict) else {}
        for key in ("_content", "_val"):  # omegaconf's containers and its leaves
            if key in state:
                return plain(state[key], depth=depth + 1)
        if value.origin == "argparse.Namespace":
            return plain(state, depth=depth + 1)
        return plain(value.args[0], depth=depth + 1) if len(value.args) == 1 else None  # a member of an enumeration
    if isinstance(value, dict):
        return {str(key): plain(each, depth=depth + 1) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each, depth=depth + 1) for each in value]
    return value if isinstance(value, str | int | float | bool) else None


def _stand_in(name: str) -> Callable[..., Any]:
    if name == "collections.defaultdict":  # is filled as it is read, which an empty class cannot be
        return _table
    return type(name.rpartition(".")[2], (StandIn,), {"origin": name})


def _table(*_: object) -> dict[object, object]:
    return {}


def _is_known(name: str) -> bool:
    return name.startswith(_PROJECTS) or name in _SINGLE


def _names(path: Path) -> set[str]:
    """Every global that the file names, by walking over its pickles without executing them."""
    names: set[str] = set()
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for entry in archive.namelist():
                if entry.endswith("/data.pkl"):
                    with archive.open(entry) as stream:
                        names.update(_globals(stream))
        return names
    with path.open("rb") as stream:  # before torch 1.6: a magic number, the format, the machine, the content
        for _ in range(4):
            names.update(_globals(stream))
    return names


def _globals(stream: Any) -> Iterator[str]:
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name == "GLOBAL":
            yield str(argument).replace(" ", ".").replace("__builtin__.", "builtins.")


def _reason(error: Exception) -> str:
    """One line on why a file cannot be read."""
    text = str(error)
    refused = re.search(r"GLOBAL (\S+)", text)
    if refused:
        return f"names {refused[1].rstrip('.')}, which is no part of a checkpoint; refused, nothing of it was run"
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [type(error).__name__]
    return f"not readable as a checkpoint of torch: {lines[0]}"
