"""Renaming of weights by a table, in both directions, and two conversions of layout.

Queries, keys and values are three layers in most projects and one here. The positional convolution is
weight-normalised, for which torch has had two namings.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

Table = tuple[tuple[str, str], ...]
"""(theirs, ours): ``#`` stands for the number of a layer; a pattern that ends in a dot matches all names with that
prefix."""

WEIGHT_NORM = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}
_QKV = re.compile(r"(.*\.attention\.)(q|k|v)(\..*)")


def rename(name: str, table: Table, *, back: bool = False) -> str | None:
    """The other side's name; None where the table has none.

    >>> rename("fc.2.bias", (("fc.#.", "layers.#.expand."),))
    'layers.2.expand.bias'
    """
    for theirs, ours in table:
        pattern, target = (ours, theirs) if back else (theirs, ours)
        match = re.match(re.escape(pattern).replace(r"\#", r"(\d+)"), name)
        if match and (pattern.endswith(".") or match.end() == len(name)):
            return target.replace("#", match[1] if match.groups() else "") + name[match.end() :]
    return None


def fuse_qkv(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One ``attention.qkv.`` for each ``attention.q.``, ``attention.k.`` and ``attention.v.``."""
    fused: dict[str, Tensor] = {}
    for name, value in weights.items():
        match = _QKV.fullmatch(name)
        if match is None:
            fused[name] = value
        elif match[2] == "q":
            fused[f"{match[1]}qkv{match[3]}"] = torch.cat([weights[match[1] + part + match[3]] for part in "qkv"])
    return fused


def split_qkv(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of :func:`fuse_qkv`."""
    split: dict[str, Tensor] = {}
    for name, value in weights.items():
        if ".attention.qkv." in name:
            # Clones: tensors that share memory could not be written to safetensors.
            for part, third in zip("qkv", value.chunk(3), strict=True):
                split[name.replace(".qkv.", f".{part}.")] = third.clone()
        else:
            split[name] = value
    return split


def modern_weight_norm(name: str) -> str:
    """Convert the older weight-norm naming of published files to torch's naming from 2.0 on; other names are unchanged.

    >>> modern_weight_norm("encoder.pos_conv.0.weight_g")
    'encoder.pos_conv.0.parametrizations.weight.original0'
    """
    stem, _, last = name.rpartition(".")
    return f"{stem}.{WEIGHT_NORM[last]}" if last in WEIGHT_NORM else name


def old_weight_norm(name: str) -> str:
    """The inverse of :func:`modern_weight_norm`."""
    for old, modern in WEIGHT_NORM.items():
        name = name.replace(modern, old)
    return name
