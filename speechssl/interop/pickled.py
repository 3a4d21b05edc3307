"""Readers of files of ``torch.save``, with objects of other projects, without running code.

Checkpoints of fairseq hold, besides tensors, settings as ``argparse.Namespace``, as omegaconf's objects or as fairseq's
own, and a dictionary of symbols. Torch's restricted unpickler (``weights_only=True``) creates only tensors and plain
values. Here it may also create *stand-ins*: each name of a known project becomes an empty class of ours that stores its
arguments and does nothing. No class of that project is imported or called, and a file with any other name is refused.
"""

import re
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from speechssl.config import UserError, readable
from speechssl.interop.pickle_scan import scan
from speechssl.models.files import MOST_TENSORS, brief

_PROJECTS = ("argparse.", "omegaconf.", "fairseq.", "fairseq_cli.", "examples.", "hydra.", "typing.", "enum.", "numpy.")
_SINGLE = {  # of the standard library: pickled types and enumerations
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
_VALUES = 20_000  # of all settings together
_SHARED = 2  # how many times a file's bytes may be used, where tensors share them


class StandIn:
    """Stand-in for an object of an unavailable class: its arguments and its state."""

    origin = ""
    args: tuple[Any, ...] = ()  # class attribute, because an object may be created without being initialised
    state: Any = None

    def __init__(self, *args: object):
        self.args = args

    def __setstate__(self, state: object) -> None:
        self.state = state


def load_pickled(path: Path) -> Any:
    """The content of a file, with :class:`StandIn` for every object that is neither a tensor nor plain.

    Raises:
        UserError: not such a file, or one that names code outside the known projects; none of it is run.
    """
    try:
        names = [name for name in sorted(scan(path)) if _is_known(name)]
    except Exception as error:  # noqa: BLE001 -- damaged bytes lead zipfile and pickletools to errors of every kind
        raise UserError(f"{path}: not readable as a checkpoint of torch: {brief(error)}") from None
    content = _load(path, [(_stand_in(name), name) for name in names])
    _check_tensors(path, content)
    return content


def load_state_dict(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a state dict written by ``torch.save``; nothing else is unpickled.

    Raises:
        UserError: not such a file.
    """
    try:
        scan(path)
    except Exception as error:  # noqa: BLE001 -- as above
        raise UserError(f"{path}: not readable as a state dict of tensors: {brief(error)}") from None
    content = _load(path, [])
    if not is_state_dict(content):
        raise UserError(f"{path}: not a state dict: it holds more than tensors by name")
    _check_tensors(path, content)
    return content


def is_state_dict(content: Any) -> bool:
    """Whether an object is a dictionary of tensors by name."""
    return isinstance(content, dict) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    )


def _load(path: Path, stand_ins: list[tuple[Callable[..., Any], str]]) -> Any:
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(list(stand_ins)):
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            # Memory-mapped where possible: unused parts, above all the state of an optimiser, are then not read, and a
            # storage that claims more bytes than the file has is truncated.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # noqa: BLE001 -- damaged bytes lead torch to errors of every kind
        raise UserError(f"{path}: {_reason(error)}") from None


def _check_tensors(path: Path, content: Any) -> None:
    """Refuse tensors that are not plain and in memory, and more numbers than the file holds.

    A tensor may have strides of zero, or share its storage with a thousand others: copies could be of any size.
    """
    outer = [content] if isinstance(content, dict) else []
    tables = outer + [value for table in outer for value in table.values() if isinstance(value, dict)]
    tensors = [value for table in tables for value in table.values() if isinstance(value, Tensor)]
    if len(tensors) > MOST_TENSORS:
        raise UserError(f"{path}: holds {len(tensors)} tensors; at most {MOST_TENSORS} are read")
    for each in tensors:
        if each.layout != torch.strided or each.device.type != "cpu" or each.is_quantized or each.is_nested:
            raise UserError(f"{path}: holds a tensor that is not a plain one in memory ({each.layout}, {each.device})")
    size, given = path.stat().st_size, sum(each.numel() * each.element_size() for each in tensors)
    if given > _SHARED * size:
        raise UserError(f"{path}: its tensors claim {given} bytes, and the file has {size}")


def plain(value: Any) -> Any:
    """Settings without stand-ins: dictionaries, lists and values; None for anything else.

    Raises:
        ValueError: nested too deep, or too many values (shared lists can be few bytes in a file and 2^50 values when
            expanded).
    """
    stack, count = [(value, 0)], 0
    while stack:  # counted before expansion, without recursion
        each, depth = stack.pop()
        each = _inside(each)
        count += 1
        if depth > _DEPTH:
            raise ValueError(f"settings are nested more than {_DEPTH} deep")
        if count > _VALUES:
            raise ValueError(f"settings hold more than {_VALUES} values")
        if isinstance(each, dict | list | tuple):
            stack += [(inner, depth + 1) for inner in (each.values() if isinstance(each, dict) else each)]
    return _written_out(value)


def _written_out(value: Any) -> Any:
    value = _inside(value)
    if isinstance(value, dict):
        return {str(key): _written_out(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_written_out(each) for each in value]
    return value if isinstance(value, str | int | float | bool) else None


def _inside(value: Any) -> Any:
    """The value of a stand-in; other values are unchanged."""
    for _ in range(_DEPTH):
        if not isinstance(value, StandIn):
            return value
        state = value.state if isinstance(value.state, dict) else {}
        content = next((key for key in ("_content", "_val") if key in state), None)  # omegaconf's containers and values
        if content is not None:
            value = state[content]
        elif value.origin == "argparse.Namespace":
            value = state
        else:  # a member of an enumeration was made from its value
            value = value.args[0] if len(value.args) == 1 else None
    raise ValueError(f"settings are nested more than {_DEPTH} deep")


def _stand_in(name: str) -> Callable[..., Any]:
    if name == "collections.defaultdict":  # it gets items while it is read, which an empty class does not support
        return _table
    return type(name.rpartition(".")[2], (StandIn,), {"origin": name})


def _table(*_: object) -> dict[object, object]:
    return {}


def _is_known(name: str) -> bool:
    return (name.startswith(_PROJECTS) and name.isprintable()) or name in _SINGLE


def _reason(error: Exception) -> str:
    """Reason in one line why a file cannot be read, without torch's advice to read it without any check."""
    text = str(error)
    refused = re.search(r"GLOBAL (\S+)", text)
    if refused:
        return f"names {refused[1].rstrip('.')[:200]}, which is not part of a checkpoint; refused, no code was run"
    if "eights_only" in text or "eights only" in text:
        found = re.search(r"WeightsUnpickler error: (.*)", text)
        return f"not readable as a checkpoint of torch: {found[1][:200] if found else 'it holds more than tensors'}"
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [type(error).__name__]
    return f"not readable as a checkpoint of torch: {readable(lines[0], longest=300)}"
