"""Readers of models stored by Hugging Face's hub and ``save_pretrained``: a folder, or a name on the hub.

Needed are ``config.json`` and the weights: ``model.safetensors`` or ``pytorch_model.bin`` (read with
``weights_only=True``), whole or in shards with an index. Whether waveforms are normalised is in
``preprocessor_config.json`` or, from transformers 5 on, in ``processor_config.json``; without both it is the default of
``Wav2Vec2FeatureExtractor``: True.
"""

import re
from pathlib import Path

from torch import Tensor

from speechssl.answers import answer, status_of
from speechssl.audio import SAMPLE_RATE
from speechssl.config import UserError, brief_value
from speechssl.interop import huggingface
from speechssl.interop.naming import rename
from speechssl.interop.pickled import load_state_dict
from speechssl.interop.reading import Checkpoint, Peer, checked_objective, read_checkpoint
from speechssl.models.files import brief, is_json_with, read_json, read_tensors

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
    return is_json_with(folder / "config.json", "model_type")


def read_folder(folder: Path) -> Checkpoint:
    """Encoder, and objective where there is one, of a folder.

    Raises:
        UserError: no such files, another kind of model, a setting that is not supported, or tensors that do not fit the
            settings; names file and key.
    """
    path = folder / "config.json"
    config = read_json(path)
    kind = config.get("model_type")
    try:
        encoder = huggingface.import_config(config, normalize=_normalizes(folder))
    except ValueError as error:
        raise error if isinstance(error, UserError) else UserError(f"{path}: {error}") from None
    except (TypeError, AttributeError, KeyError) as error:  # null or a word instead of a list
        raise UserError(f"{path}: a setting is missing or of another kind ({brief(error)})") from None
    try:
        objective = checked_objective(huggingface.import_objective(config)) if kind == "wav2vec2" else None
    except (ValueError, TypeError, KeyError):
        objective = None  # an objective that is not supported is left out, and listed
    weights = _read_weights(folder)
    peer = Peer(to_ours=huggingface.our_name, to_theirs=_their_name, is_head=lambda name: name.startswith(_HEADS))
    return read_checkpoint(folder, weights, encoder, kind=f"transformers {kind}", peer=peer, objective=objective)


def download(name: str) -> Path:
    """Download a model of the hub, ``hf:org/name`` or ``hf:org/name@revision``, and return its folder.

    Only needed files are downloaded. Files in Hugging Face's cache are found offline, too.

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
        raise UserError(f"{name}: the model needs a login: hf auth login") from None
    except errors.RevisionNotFoundError:
        raise UserError(f"{name}: the model has no revision {revision!r}") from None
    except errors.RepositoryNotFoundError:
        raise UserError(f"{name}: huggingface.co has no such model, or it is private (hf auth login)") from None
    except Exception as error:  # noqa: BLE001 -- the HTTP client has its own errors, which change by version
        status = status_of(error)
        if status is not None:
            login = " (hf auth login)" if status in (401, 403) else ""
            raise UserError(f"{name}: not downloaded: {answer(status)}{login}") from None
        if isinstance(error, errors.LocalEntryNotFoundError):
            raise UserError(
                f"{name}: huggingface.co cannot be reached and the model is not in the cache; a folder that was "
                "downloaded elsewhere can be given by its path"
            ) from None
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"{name}: not downloaded: {reason[0]}") from None


def _normalizes(folder: Path) -> bool:
    """Whether the model's feature extractor normalises waveforms; their default where the folder has none."""
    for name in _SETTINGS[1:]:
        path = folder / name
        if not path.exists():
            continue
        settings = read_json(path)
        settings = settings.get("feature_extractor", settings)
        if not isinstance(settings, dict):
            raise UserError(f"{path}: feature_extractor must be a table, is a {type(settings).__name__}")
        kind = settings.get("feature_extractor_type", "Wav2Vec2FeatureExtractor")
        if kind != "Wav2Vec2FeatureExtractor":
            raise UserError(
                f"{path}: feature_extractor_type={brief_value(kind)}; only Wav2Vec2FeatureExtractor is supported"
            )
        rate = settings.get("sampling_rate", SAMPLE_RATE)
        if rate != SAMPLE_RATE:
            raise UserError(f"{path}: sampling_rate={rate}; only {SAMPLE_RATE} is read")
        if not isinstance(settings.get("do_normalize", True), bool):
            raise UserError(f"{path}: do_normalize={brief_value(settings['do_normalize'])}; allowed: true and false")
        if "do_normalize" in settings:
            return settings["do_normalize"]
    return True


def _read_weights(folder: Path) -> dict[str, Tensor]:
    """Read every tensor from the one of the four formats that exists."""
    for name, read in ((SAFETENSORS, _read_safetensors), (PICKLED, load_state_dict)):
        index = folder / f"{name}.index.json"
        if (folder / name).is_file():
            return read(folder / name)
        if index.is_file():
            return {key: value for shard in _shards(index) for key, value in read(_inside(index, shard)).items()}
    raise UserError(f"{folder}: no weights ({SAFETENSORS} or {PICKLED}, whole or with .index.json and shards)")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    return read_tensors(path, prefix="")


def _shards(index: Path) -> list[str]:
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(place, str) for place in places.values()):
        raise UserError(f"{index}: weight_map must be a table with the name of a file for each tensor")
    return sorted(set(places.values()))


def _inside(index: Path, shard: str) -> Path:
    path = index.parent / shard
    # No file system has longer names than 255 bytes, and the error of one would show the name in full.
    if Path(shard).name != shard or len(shard.encode()) > 255 or not path.is_file():
        raise UserError(f"{index}: names the shard {brief_value(shard)}, which is not beside it")
    return path


def _their_name(ours: str) -> str | None:
    """For errors; without the prefix that a model with a head has."""
    return rename(ours, huggingface.BASE_NAMES, back=True) or rename(ours, huggingface.OBJECTIVE_NAMES, back=True)
