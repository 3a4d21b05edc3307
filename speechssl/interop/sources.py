"""Sources of encoders, each given by a name.

    runs/mine                      a run folder or a model folder of speechssl
    bundled                        the model that comes with the package; also by its own name, such as tiny-1
    downloads/wav2vec2-base        a folder of Hugging Face's transformers
    hf:facebook/wav2vec2-base      the same from the hub, hf:org/name@revision for one state of it
    wav2vec_small.pt               a checkpoint of fairseq, of WavLM, or a state dict of torchaudio
    torchaudio:HUBERT_BASE         a bundle of torchaudio

A path that exists wins over the bundled model of the same name. Nothing else is read, and no code of a file is run.
"""

from dataclasses import dataclass
from pathlib import Path

import torch

from speechssl import __version__
from speechssl.config import UserError
from speechssl.interop import fairseq, huggingface_folder, torchaudio_read
from speechssl.interop.pickled import load_pickled
from speechssl.interop.reading import Checkpoint, assemble
from speechssl.models.bundled import BUNDLED, bundled_model, bundled_name
from speechssl.models.encoder import SpeechEncoder
from speechssl.models.files import brief, is_json_with, read_json, read_tensors
from speechssl.models.storage import (
    PREFIX,
    encoder_hash,
    model_hash,
    read_encoder_config,
    save_model,
)

_CONFIG, _WEIGHTS = "config.json", "model.safetensors"


@dataclass(frozen=True)
class Source:
    """An encoder in evaluation mode, on the CPU, in float32.

    ``name`` is the requested name, or that of the bundled model; ``folder`` the speechssl model folder it was read
    from, which has its head if there is one, and None for models of other projects; ``digest`` sixteen hexadecimal
    digits of settings and weights, :func:`speechssl.models.storage.model_hash` of the folder that
    :func:`import_model` would write.
    """

    encoder: SpeechEncoder
    name: str
    folder: Path | None
    digest: str


@dataclass(frozen=True)
class Imported:
    """Result of :func:`import_model`: folder, kind, whether the objective is included, and names left out."""

    folder: Path
    kind: str
    digest: str
    objective: bool
    left_out: tuple[str, ...]


def open_source(name: str | Path | None = None) -> Source:
    """Find and read an encoder.

    Args:
        name: one of the kinds above; None: the bundled model.

    Raises:
        UserError: nothing of that name, no bundled model, or a model that cannot be read; one line that names file and
            key.

    Example:
        >>> import tempfile
        >>> from speechssl.models.encoder import PRESETS
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_model(Path(folder), SpeechEncoder(PRESETS["tiny"]))
        ...     source = open_source(folder)
        >>> source.encoder.config.dim, source.encoder.training, len(source.digest)
        (192, False, 16)
    """
    if name is None or _names_bundled(str(name)):
        own = bundled_model()
        return Source(encoder=_open_own(own.folder), name=own.name, folder=own.folder, digest=model_hash(own.folder))
    found = _find(str(name))
    if isinstance(found, Path):
        return Source(encoder=_open_own(found), name=str(name), folder=found, digest=model_hash(found))
    encoder = found.encoder()
    return Source(encoder=encoder, name=str(name), folder=None, digest=encoder_hash(encoder))


def import_model(name: str | Path, out: Path, *, replace: bool = False) -> Imported:
    """Write a foreign model as a speechssl model folder, with its objective where the source has one.

    Args:
        name: as in :func:`open_source`, but not a model of speechssl.
        out: the folder to write, created when missing.
        replace: whether an older speechssl model in ``out`` may be replaced.

    Raises:
        UserError: as :func:`open_source`; or the source is a speechssl model already; or ``out`` holds a model.
    """
    found = _find(str(name))
    if isinstance(found, Path):
        raise UserError(f"{found}: is a speechssl model folder already; nothing to import")
    if (out / _CONFIG).exists() and not (replace and _is_own(out)):
        also = "; replace it, or name another folder" if _is_own(out) else "; name another folder"
        raise UserError(f"{out}: holds a model already{also}")
    extra: dict[str, object] = {
        "provenance": {
            "speechssl": __version__,
            "imported_from": str(name),
            "kind": found.kind,
            "left_out": list(found.left_out),
        }
    }
    if found.objective is not None:
        extra["objective"] = {"name": "wav2vec2", **found.objective}
    save_model(out, found.encoder(), extra=extra, tensors=found.tensors)
    return Imported(
        folder=out,
        kind=found.kind,
        digest=model_hash(out),
        objective=found.objective is not None,
        left_out=found.left_out,
    )


def is_model(name: str) -> bool:
    """Whether a name can only be that of a model, where recordings are expected; nothing is loaded.

    Args:
        name: a model folder, a run of several stages, a file of weights, `torchaudio:BUNDLE` or the bundled model.

    >>> is_model("torchaudio:HUBERT_BASE"), is_model("recordings"), is_model("hf:org/name")
    (True, False, False)
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return _is_own(path) or huggingface_folder.is_folder(path) or _is_own(path / "pretrain")
    weights = path.suffix in (".pt", ".pth", ".safetensors", ".bin") and path.is_file()
    return weights or name.startswith(torchaudio_read.SCHEME) or _names_bundled(name)


# Finding


def _names_bundled(name: str) -> bool:
    return name in (BUNDLED, bundled_name()) and not Path(name).exists()


def _find(name: str) -> Path | Checkpoint:
    """A speechssl model folder, or the checkpoint of another project."""
    if name.startswith("hf:"):
        return huggingface_folder.read_folder(huggingface_folder.download(name))
    if name.startswith(torchaudio_read.SCHEME):
        return torchaudio_read.read_bundle(name)
    path = Path(name).expanduser()
    if path.is_dir():
        return _in_folder(path)
    if path.is_file():
        return _in_file(path)
    if _names_bundled(name):
        return bundled_model().folder
    if "://" in name:
        raise UserError(f"{name}: models are not read from addresses; download it first, or write hf:org/name")
    raise UserError(
        f"{name}: no such model; allowed: a run or model folder, a folder of transformers, hf:org/name, a .pt file of "
        f"fairseq or torchaudio, torchaudio:BUNDLE, or {BUNDLED} (here {bundled_name() or 'none'})"
    )


def _in_folder(folder: Path) -> Path | Checkpoint:
    if _is_own(folder):
        return folder
    if huggingface_folder.is_folder(folder):
        return huggingface_folder.read_folder(folder)
    # A run of several stages, such as `make demo`, has its model in a subfolder.
    within = sorted(path.parent for path in folder.glob(f"*/{_CONFIG}") if _is_own(path.parent))
    if folder / "pretrain" in within or len(within) == 1:
        return folder / "pretrain" if folder / "pretrain" in within else within[0]
    if within:
        raise UserError(f"{folder}: holds several models, name one: {', '.join(path.name for path in within)}")
    if (folder / _CONFIG).is_file():
        read_json(folder / _CONFIG)  # raises an error with the reason
    if (folder / "last.pt").exists():
        raise UserError(f"{folder}: a run that has not saved its model yet")
    raise UserError(
        f"{folder}: no model in it; a folder of speechssl has {_CONFIG} and {_WEIGHTS}, one of transformers has "
        f"{_CONFIG} with a key 'model_type'"
    )


def _in_file(path: Path) -> Checkpoint:
    if path.name in (_CONFIG, _WEIGHTS, huggingface_folder.PICKLED) or path.suffix == ".safetensors":
        raise UserError(f"{path}: name its folder instead")
    content = load_pickled(path)
    if fairseq.is_checkpoint(content):
        return fairseq.read_content(path, content)
    if torchaudio_read.is_state_dict(content):
        return torchaudio_read.read_content(path, content)
    raise UserError(f"{path}: neither a checkpoint of fairseq (with 'model') nor a state dict of torchaudio")


def _is_own(folder: Path) -> bool:
    """Whether a folder holds a speechssl model, complete or not."""
    return is_json_with(folder / _CONFIG, "encoder", "format")


def _open_own(folder: Path) -> SpeechEncoder:
    """Like :func:`speechssl.models.storage.load_encoder`, without random initialisation."""
    config = read_encoder_config(folder)
    path = folder / _WEIGHTS
    weights = read_tensors(path, prefix=PREFIX)
    odd = sorted(name for name, value in weights.items() if not value.is_floating_point())
    if odd:
        raise UserError(f"{path}: {PREFIX}{odd[0]} holds {weights[odd[0]].dtype}, weights are floating-point numbers")
    try:
        # Copies: a training run replaces the file, which may be memory-mapped.
        return assemble(config, {name: value.to(torch.float32, copy=True) for name, value in weights.items()})
    except RuntimeError as error:
        raise UserError(f"{path}: weights do not fit the config: {brief(error)}") from None
    except ValueError as error:
        raise UserError(f"{folder / _CONFIG}: its settings give no valid encoder: {brief(error)}") from None
