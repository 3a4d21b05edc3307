"""Export of models: a Hugging Face folder, a torchaudio state dict, or an ONNX file, each whole or not at all.

Existing files at the target are replaced only where an earlier export wrote them.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from speechssl import __version__
from speechssl.config import UserError
from speechssl.files import replacing_path, write_atomic
from speechssl.interop.export_card import notes
from speechssl.interop.export_huggingface import write_folder
from speechssl.interop.export_torchaudio import write_torchaudio
from speechssl.interop.onnx import EXTRA, export_onnx
from speechssl.interop.stored import Kind, StoredModel, read_stored
from speechssl.models.files import is_json_with, read_json

Target = Literal["huggingface", "torchaudio", "onnx"]

MARKER = "speechssl.json"  # marks a folder written by an export, with its list of files
_KEY = "speechssl"  # in metadata: marks a file written by an export
_SUFFIXES = {"torchaudio": ".pt", "onnx": ".onnx"}


@dataclass(frozen=True)
class ExportReport:
    """Result of an export.

    Attributes:
        path: the written folder or file.
        to: format.
        kind: kind of the model.
        files: names of all files.
        size: bytes of all files.
        max_error: largest difference from torch; measured for ONNX files only.
        notes: notes for users of the model.
    """

    path: Path
    to: Target
    kind: Kind
    files: tuple[str, ...]
    size: int
    max_error: float | None
    notes: tuple[str, ...]


def export_model(
    model: Path, out: Path, *, to: Target, encoder_only: bool = False, hidden_states: bool = False
) -> ExportReport:
    """Write a model for another program.

    Args:
        model: a model folder, or a run folder with one in it.
        out: a folder for ``huggingface``, a ``.pt`` file for ``torchaudio`` (a ``.json`` file of the same name is
            written beside it), an ``.onnx`` file.
        to: format.
        encoder_only: leave out a head, or the objective of pretraining.
        hidden_states: whether an ONNX file also outputs all layers.

    Raises:
        UserError: no such model, a model that the format does not support, a target with another suffix, or one with
            files that no export wrote.

    Example:
        >>> import tempfile
        >>> from speechssl.models.encoder import PRESETS, SpeechEncoder
        >>> from speechssl.models.storage import save_model
        >>> from speechssl.nn.conv import ConvConfig
        >>> with tempfile.TemporaryDirectory() as place:
        ...     conv = ConvConfig(layers=((8, 10, 5), (8, 8, 8), (8, 8, 8)))
        ...     config = PRESETS["tiny"].model_copy(update={"conv": conv})
        ...     save_model(Path(place, "model"), SpeechEncoder(config))
        ...     report = export_model(Path(place, "model"), Path(place, "hf"), to="huggingface")
        >>> report.files
        ('README.md', 'config.json', 'model.safetensors', 'preprocessor_config.json', 'speechssl.json')
    """
    suffix = _SUFFIXES.get(to)
    if suffix is not None and out.suffix != suffix:
        raise UserError(f"{out}: the file for {to} must end in {suffix}")
    if hidden_states and to != "onnx":
        raise UserError(f"hidden_states is a setting of ONNX files; {to} gives all layers without it")
    stored = read_stored(model, encoder_only=encoder_only)
    about = {_KEY: {"version": __version__, "model": stored.digest, "kind": stored.kind}}
    out.parent.mkdir(parents=True, exist_ok=True)
    files, error, said = [out], None, notes(stored)
    if to == "huggingface":
        files = _huggingface(out, stored, about=about)
    elif to == "torchaudio":
        beside = out.with_suffix(".json")
        written = is_json_with(beside, _KEY)
        _check_file(out, written=written)
        _check_file(beside, written=written)
        write_torchaudio(out, stored, about=about)
        files = [out, beside]
    else:
        _check_file(out, written=_onnx_has_key(out))
        metadata = {_KEY: __version__, "model": stored.digest, "dim": str(stored.encoder.config.dim)}
        subject = stored.encoder if stored.head is None else stored.head
        error = export_onnx(subject, out, hidden_states=hidden_states, metadata=metadata).max_error
        said = []  # padding changes nothing there, and it holds no tokenizer
    kind = stored.kind
    if kind == "pretraining" and to != "huggingface":
        kind = "encoder"
        said.append("The objective of pretraining is left out: the format does not support it.")
    return ExportReport(
        path=out,
        to=to,
        kind=kind,
        files=tuple(sorted(file.name for file in files)),
        size=sum(file.stat().st_size for file in files),
        max_error=error,
        notes=tuple(said),
    )


def _huggingface(out: Path, stored: StoredModel, *, about: Mapping[str, Any]) -> list[Path]:
    """Write to a temporary folder beside the target, then replace the target."""
    _check_folder(out)
    with replacing_path(out, partial=out.with_name(f".{out.name}.partial-{os.getpid()}")) as partial:
        write_folder(partial, stored, facts={"speechssl model": f"`{stored.digest}`, written by {__version__}"})
        names = sorted([*(file.name for file in partial.iterdir()), MARKER])
        write_atomic(partial / MARKER, (json.dumps({**about, "files": names}, indent=2) + "\n").encode())
    return [out / name for name in names]


def _check_folder(folder: Path) -> None:
    """Raise `UserError` where a folder holds files that no export wrote."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"{folder}: a file; the target for huggingface is a folder")
    there = {each.name for each in folder.iterdir()}
    listed: object = read_json(folder / MARKER).get("files") if is_json_with(folder / MARKER, "files") else None
    known = set(filter(lambda name: isinstance(name, str), listed)) if isinstance(listed, list) else set[str]()
    foreign = sorted(there - known)
    if foreign:
        raise UserError(f"{folder}: holds {foreign[0]}, which no export wrote; name another folder, or move it away")


def _check_file(path: Path, *, written: bool) -> None:
    if path.is_dir():
        raise UserError(f"{path}: a folder; the target is a file")
    if path.exists() and not written:
        raise UserError(f"{path}: exists and was not written by an export; name another file, or move it away")


def _onnx_has_key(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError:
        raise UserError(EXTRA) from None
    try:
        found = onnx.load(str(path), load_external_data=False)
    except DecodeError:
        return False
    return any(each.key == _KEY for each in found.metadata_props)
