"""Readers of torchaudio's models: bundles by name, and state dicts saved from its models.

    torchaudio:WAV2VEC2_BASE          downloaded by torchaudio into torch's cache, or found there
    model.pt                          torch.save(model.state_dict(), "model.pt"), any of the published architectures

Heads of bundles for speech recognition (``aux``) are left out.
"""

import re
import urllib.error
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from speechssl.answers import answer
from speechssl.config import UserError
from speechssl.interop import huggingface
from speechssl.interop.naming import rename
from speechssl.interop.pickled import is_state_dict as is_tensors
from speechssl.interop.published import recognised
from speechssl.interop.reading import Checkpoint, Peer, read_checkpoint
from speechssl.interop.torchaudio import RENAMES, import_config, replace_prefix

SCHEME = "torchaudio:"
_WRAPPED = "model."  # of a bundle's model that normalises waveforms itself
_IN_PROJ = re.compile(r"(.*\.attention)\.attention\.in_proj_(weight|bias)")
_OUT_PROJ = ".attention.attention.out_proj."


def read_bundle(name: str) -> Checkpoint:
    """Read the encoder of ``torchaudio:BUNDLE``.

    Raises:
        UserError: no such bundle (the known ones are listed), or no connection.
    """
    known = _bundles()
    bundle = known.get(name.removeprefix(SCHEME))
    if bundle is None:
        raise UserError(f"{name}: no such bundle; torchaudio has {', '.join(known)}")
    try:
        tensors = bundle._get_state_dict({"map_location": "cpu", "weights_only": True})
    except urllib.error.HTTPError as error:
        raise UserError(f"{name}: {error.url}: {answer(error.code)}") from None
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise UserError(
            f"{name}: download.pytorch.org cannot be reached and the model is not in torch's cache: {reason}"
        ) from None
    config = import_config(bundle._params, normalize=bool(bundle._normalize_waveform))
    return read_checkpoint(Path(name), _unwrapped(tensors), config, kind=f"torchaudio {bundle._model_type}", peer=_PEER)


def is_state_dict(content: Any) -> bool:
    """Whether the content of a ``.pt`` file is the state dict of one of torchaudio's models."""
    return isinstance(content, dict) and any(
        isinstance(name, str) and name.removeprefix(_WRAPPED).startswith("encoder.transformer.") for name in content
    )


def read_content(path: Path, content: Mapping[str, Any]) -> Checkpoint:
    """Read the encoder of a state dict, with settings recognised by its shapes.

    Args:
        path: the file, for errors.
        content: content for which :func:`is_state_dict` is true.

    Raises:
        UserError: its shapes are not those of a published architecture, or it holds more than tensors.
    """
    if not is_tensors(content):
        raise UserError(f"{path}: not a state dict: it holds more than tensors by name")
    tensors = _unwrapped(content)
    shapes = {_our_name(name): value.shape for name, value in tensors.items()}
    config = recognised({name: shape for name, shape in shapes.items() if name is not None})
    if config is None:
        raise UserError(
            f"{path}: a state dict has no settings, and these tensors are those of no published architecture; strides, "
            "heads and the order of the norms cannot be known"
        )
    return read_checkpoint(path, tensors, config, kind="torchaudio state dict", peer=_PEER)


def _bundles() -> dict[str, Any]:
    """Bundles of wav2vec 2.0, HuBERT and WavLM, by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchaudio 2.11 warns about its own deprecation on import
        from torchaudio import pipelines
    found = {name: getattr(pipelines, name) for name in pipelines.__all__}
    return {name: bundle for name, bundle in found.items() if hasattr(bundle, "_normalize_waveform")}


def _unwrapped(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors without a wrapper's prefix, and with WavLM's queries, keys and values as three layers."""
    flat: dict[str, Tensor] = {}
    for name, value in tensors.items():
        name = name.removeprefix(_WRAPPED).replace(_OUT_PROJ, ".attention.out_proj.")
        match = _IN_PROJ.fullmatch(name)
        if match is None:
            flat[name] = value
        else:
            for part, third in zip("qkv", value.chunk(3), strict=False):
                flat[f"{match[1]}.{part}_proj.{match[2]}"] = third
    return flat


def _our_name(name: str) -> str | None:
    return huggingface.our_name(replace_prefix(name, RENAMES))


def _their_name(ours: str) -> str | None:
    shared = rename(ours, huggingface.BASE_NAMES, back=True)
    return None if shared is None else replace_prefix(shared, tuple((new, old) for old, new in RENAMES))


_PEER = Peer(to_ours=_our_name, to_theirs=_their_name, is_head=lambda name: name.startswith("aux."))
