"""Reading a model as Hugging Face's hub and ``save_pretrained`` store it: a folder, or the name of one on the hub.

Needed are ``config.json`` and the weights: ``model.safetensors`` or ``pytorch_model.bin`` (read with
``weights_only=True``), whole or in shards with an index. Whether waveforms are to be normalised is in
``preprocessor_config.json`` or, from transformers 5 on, in ``processor_config.json``; without both it is the default of
``Wav2Vec2FeatureExtractor``: they are.
"""

import json
import pickle
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from speechssl.audio import SAMPLE_RATE
from speechssl.config import UserError
from speechssl.interop import huggingface
from speechssl.interop.naming import rename
from speechssl.interop.reading import Checkpoint, Peer, read_checkpoint

SAFETENSORS, PICKLED = "model.safetensors", "pytorch_model.bin"
_SETTINGS = ("config.json", "preprocessor_config.json", "processor_config.json")
_HEADS = (  # of the models for CTC, classes of clips and frames, speakers
    "lm_head.",
    "projector.",
    "classifier.",
    "layer_weights",
    "tdnn.",
    "feature_extractor.weight",
    "feature_extractor.bias",
    "objective.",
)
_HUB_NAME = re.compile(r"hf:(\w[\w.-]*/\w[\w.-]*)(?:@([\w./-]+))?")


def is_folder(folder: Path) -> bool:
    """Whether a folder holds a model of transformers, of any kind."""
    try:
        return "model_type" in json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def read_folder(folder: Path) -> Checkpoint:
    """Encoder, and objective where there is one, of a folder.

    Raises:
        UserError: no such files, another kind of model, a setting that our encoder cannot follow, or tensors that do
            not fit the settings; names file and key.
    """
    path = folder / "config.json"
    config = _read_json(path)
    kind = config.get("model_type")
    try:
        encoder = huggingface.import_config(config, normalize=_normalizes(folder))
    except ValueError as error:
        raise error if isinstance(error, UserError) else UserError(f"{path}: {error}") from None
    except (TypeError, AttributeError, KeyError) as error:  # null or a word where a list is due
        raise UserError(f"{path}: a setting is missing or of another kind ({error})") from None
    try:
        objective = huggingface.import_objective(config) if kind == "wav2vec2" else None
    except (ValueError, TypeError, KeyError):
        objective = None  # an objective that cannot be followed is left out, and named
    weights = _read_weights(folder)
    peer = Peer(ours=huggingface.our_name, theirs=_their_name, is_head=lambda name: name.startswith(_HEADS))
    return read_checkpoint(folder, weights, encoder, kind=f"transformers {kind}", peer=peer, objective=objective)


def download(name: str) -> Path:
    """The folder of a model of the hub, ``hf:org/name`` or ``hf:org/name@revision``; only what is read is downloaded.

    What is in Hugging Face's cache is found offline, too.

    Raises:
        UserError: not such a name, no such model, or no connection.
    """
    match = _HUB_NAME.fullmatch(name)
    if match is None:
        raise UserError(f"{name}: write a model of the hub as hf:organisation/name or hf:organisation/name@revision")
    repository, revision = match.groups()
    # Safetensors first: a repository may have both, and each is large.
    folder = _snapshot(name, repository, revision, [*_SETTINGS, "model*.safetensors", f"{SAFETENSORS}.index.json"])
    if not any(folder.glob("*.safetensors")):
        folder = _snapshot(name, repository, revision, [*_SETTINGS, "pytorch_model*.bin", f"{PICKLED}.index.json"])
    return folder


def _snapshot(name: str, repository: str, revision: str | None, patterns: list[str]) -> Path:
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError:
        raise UserError(f"{name}: needs huggingface_hub; pip install 'speechssl[remote]'") from None
    try:
        return Path(huggingface_hub.snapshot_download(repository, revision=revision, allow_patterns=patterns))
    except errors.GatedRepoError:
        raise UserError(f"{name}: its owner asks for a login first: hf auth login") from None
    except errors.RevisionNotFoundError:
        raise UserError(f"{name}: the model has no revision {revision!r}") from None
    except errors.RepositoryNotFoundError:
        raise UserError(f"{name}: huggingface.co has no such model, or it is private (hf auth login)") from None
    except errors.LocalEntryNotFoundError:
        raise UserError(
            f"{name}: huggingface.co cannot be reached and the model is not in the cache; a folder that was downloaded "
            "elsewhere can be given by its path"
        ) from None
    except Exception as error:  # noqa: BLE001 -- the HTTP client below has errors of its own, which change by version
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"{name}: not downloaded: {reason[0]}") from None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable as JSON: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds no settings but a {type(content).__name__}")
    return content


def _normalizes(folder: Path) -> bool:
    """Whether the model's feature extractor normalises waveforms; their default where the folder has none."""
    for name in _SETTINGS[1:]:
        path = folder / name
        if not path.exists():
            continue
        settings = _read_json(path)
        settings = settings.get("feature_extractor", settings)
        kind = settings.get("feature_extractor_type", "Wav2Vec2FeatureExtractor")
        if kind != "Wav2Vec2FeatureExtractor":
            raise UserError(f"{path}: feature_extractor_type={kind!r}; only Wav2Vec2FeatureExtractor takes waveforms")
        rate = settings.get("sampling_rate", SAMPLE_RATE)
        if rate != SAMPLE_RATE:
            raise UserError(f"{path}: sampling_rate={rate}; only {SAMPLE_RATE} is read")
        if "do_normalize" in settings:
            return bool(settings["do_normalize"])
    return True


def _read_weights(folder: Path) -> dict[str, Tensor]:
    """Every tensor, from whichever of the four forms is there."""
    for name, read in ((SAFETENSORS, _read_safetensors), (PICKLED, read_pickled)):
        index = folder / f"{name}.index.json"
        if (folder / name).is_file():
            return read(folder / name)
        if index.is_file():
            shards = sorted(set(_read_json(index).get("weight_map", {}).values()))
            return {key: value for shard in shards for key, value in read(_inside(index, shard)).items()}
    raise UserError(f"{folder}: no weights ({SAFETENSORS} or {PICKLED}, whole or with .index.json and shards)")


def _inside(index: Path, shard: str) -> Path:
    path = index.parent / shard
    if Path(shard).name != shard or not path.is_file():
        raise UserError(f"{index}: names the shard {shard!r}, which is not beside it")
    return path


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- the file is no mapping
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: not a readable safetensors file: {error}") from None


def read_pickled(path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict that ``torch.save`` wrote; nothing else is unpickled.

    Raises:
        UserError: not such a file.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        raise UserError(f"{path}: not readable as a state dict of tensors: {_reason(error)}") from None
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError(f"{path}: not a state dict: it holds more than tensors by name")
    return content


def _reason(error: Exception) -> str:
    """The line of torch's message that says what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return next((line for line in lines if "Unsupported" in line), lines[0])


def _their_name(ours: str) -> str | None:
    """For errors; without the prefix that a model with a head has."""
    return rename(ours, huggingface.BASE_NAMES, back=True) or rename(ours, huggingface.OBJECTIVE_NAMES, back=True)
