"""Facts for `speechssl info` about the installation, a model, a prepared corpus, a corpus or a sound file."""

import contextlib
import dataclasses
import math
import os
import platform
from importlib.metadata import version
from pathlib import Path

from speechssl import __version__
from speechssl.audio import probe
from speechssl.config import UserError
from speechssl.data.corpora import CORPORA, corpus_root, load_corpus
from speechssl.data.locations import location_of, read_location
from speechssl.data.manifest import read_manifest, statistics
from speechssl.data.store_index import has_index
from speechssl.data.waveforms import WaveformStore
from speechssl.models.bundled import bundled_name, model_path


def facts(target: str | None = None) -> dict[str, object]:
    """Facts about a target.

    Args:
        target: a model folder, a prepared corpus, a manifest, a sound file, or the name of a corpus; None: the
            installation.

    Returns:
        Facts by name, as JSON values.

    Raises:
        UserError: it is none of these.

    >>> facts("espeak")["synthetic"]
    True
    """
    if target is None:
        return _installation()
    path = Path(target)
    if target in CORPORA and not path.exists():
        return _corpus_facts(target)
    if (model_path(path) / "model.safetensors").is_file():
        return _model_facts(model_path(path))
    if has_index(location_of(path)):
        return _prepared_facts(path)
    if path.suffix == ".jsonl":
        return {"manifest": target, **dataclasses.asdict(statistics(read_manifest(path)))}
    if path.is_file():
        return dataclasses.asdict(probe(path))
    what = "neither a model folder nor a prepared corpus" if path.is_dir() else "no such file or folder"
    raise UserError(f"{target}: {what}; corpora: {', '.join(CORPORA)}")


def _installation() -> dict[str, object]:
    import torch

    cuda = torch.cuda.is_available()
    return {
        "speechssl": __version__,
        "python": platform.python_version(),
        "torch": version("torch"),
        "torchaudio": version("torchaudio"),
        "bundled_model": bundled_name(),
        "device": torch.cuda.get_device_name() if cuda else f"cpu, {os.cpu_count()} cores",
        "corpora": list(CORPORA),
        "corpora_lie_under": str(corpus_root(CORPORA[0]).parent),
    }


def _corpus_facts(name: str) -> dict[str, object]:
    module = load_corpus(name)
    return {
        **dataclasses.asdict(module.INFO),
        "lies_in": str(corpus_root(name)),
        "settings": module.Settings().model_dump(),
    }


def _model_facts(folder: Path) -> dict[str, object]:
    from speechssl.inference.chosen import read_choice
    from speechssl.models.files import read_header
    from speechssl.models.storage import EMBEDDING, model_hash, read_model_config

    config = read_model_config(folder)
    choice = {} if config["encoder"] is None else dataclasses.asdict(read_choice(folder))
    shapes = read_header(folder / "model.safetensors").shapes
    encoder = sum(math.prod(shape) for name, shape in shapes.items() if name.startswith("encoder."))
    return {
        "model": str(folder),
        "hash": model_hash(folder),
        "encoder_parameters": encoder,
        **config,
        **({EMBEDDING: {**config.get(EMBEDDING, {}), **choice}} if choice else {}),
    }


def _prepared_facts(folder: Path) -> dict[str, object]:
    store = WaveformStore(folder)
    rejected = 0
    with contextlib.suppress(FileNotFoundError):
        rejected = read_location(store.folder / "rejects.jsonl").count(b"\n")
    return {"corpus": str(store.folder), **dataclasses.asdict(statistics(store.utterances)), "rejected": rejected}
