"""A frozen encoder for a CPU: a copy with packed weights (see `nn.cpu.packed`)."""

import copy
from typing import Literal

import torch
from torch import nn

from speechssl.device import has_bfloat16
from speechssl.models.encoder import SpeechEncoder
from speechssl.nn.conv import ConvLayer
from speechssl.nn.cpu.packed import (
    DynamicLinear,
    FoldedConvLayer,
    PackedConvLayer,
    PackedLinear,
    PackedPositions,
    can_pack,
)
from speechssl.nn.positions import RelativeGate
from speechssl.nn.time_norm import TimeNorm
from speechssl.nn.transformer import PositionalConvolution, TransformerLayer

DType = Literal["float32", "bfloat16", "int8"]


def float_type(dtype: DType, device: torch.device) -> torch.dtype:
    """The type of the products that are not in int8; for `int8` the fastest one of the processor."""
    half = dtype == "bfloat16" or (dtype == "int8" and has_bfloat16(device))
    return torch.bfloat16 if half else torch.float32


def packed(encoder: SpeechEncoder, *, dtype: DType = "float32") -> SpeechEncoder:
    """A copy for inference on a CPU; weights that are not packed are shared with the encoder.

    Args:
        encoder: on a CPU, in evaluation mode.
        dtype: of the products. `int8`: of the linear layers; `float_type` gives that of the others.

    >>> from speechssl.models.encoder import PRESETS
    >>> encoder = SpeechEncoder(PRESETS["tiny"]).eval()
    >>> type(packed(encoder, dtype="int8").projection).__name__
    'DynamicLinear'
    """
    shared = {id(tensor): tensor for tensor in [*encoder.parameters(), *encoder.buffers()]}
    own = copy.deepcopy(encoder, shared)
    number = float_type(dtype, torch.device("cpu"))
    if can_pack(number):
        for parent in list(own.modules()):
            for name, child in list(parent.named_children()):
                twin = _twin(child, number)
                if twin is not None:
                    setattr(parent, name, twin)
    if dtype == "int8" or can_pack(number):
        for parent in list(own.modules()):
            for name, child in list(parent.named_children()):
                # A gate's inputs are as wide as a head: too small for packing to matter.
                if type(child) is nn.Linear and not isinstance(parent, RelativeGate):
                    eight = dtype == "int8"
                    twin = DynamicLinear(child, dtype=number) if eight else _linear(parent, name, child, number)
                    setattr(parent, name, twin)
    return own


def _twin(module: nn.Module, dtype: torch.dtype) -> nn.Module | None:
    if isinstance(module, PositionalConvolution):
        return PackedPositions(module, dtype=dtype)
    if isinstance(module, ConvLayer):
        folded = isinstance(module.norm, TimeNorm)
        return FoldedConvLayer(module, dtype=dtype) if folded else PackedConvLayer(module, dtype=dtype)
    return None


def _linear(parent: nn.Module, name: str, linear: nn.Linear, dtype: torch.dtype) -> PackedLinear:
    """A packed layer; includes the GELU that follows, which is then removed from the block."""
    gelu = isinstance(parent, TransformerLayer) and name == "expand"
    if gelu:
        parent.activation = nn.Identity()
    return PackedLinear(linear, dtype=dtype, gelu=gelu)
