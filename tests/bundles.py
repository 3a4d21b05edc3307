"""A small bundled model, as `speechssl/assets/bundled` holds one, and the variable that names it."""

from pathlib import Path

import pytest
import torch

from speechssl.experiments.bundle import bundle
from speechssl.models.bundled import VARIABLE
from speechssl.models.encoder import SpeechEncoder
from speechssl.models.storage import save_model
from tests.toys import MICRO_ENCODER

DATA = "| corpus | licence | attribution |\n|---|---|---|\n| tones | CC0 1.0 | made by a test |"
CHOICE = {"layer": "mean", "pooling": "mean+std", "chosen_on": {"task": "label", "shots": 10, "corpora": []}}
PROVENANCE = {"corpora": ["/data/tones"], "hours": 1.5, "steps": 2000, "seconds_seen": 7200.0, "command": "pretrain"}


def pretrained(folder: Path, *, seed: int = 0, **extra: object) -> Path:
    """A model folder as pretraining writes it, with a choice of layer and pooling."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = SpeechEncoder(MICRO_ENCODER)
    tensors = {"objective.mask_embedding": torch.rand(32), "objective.quantizer.codes": torch.rand(4, 4)}
    config = {"embedding": CHOICE, "objective": {"name": "wav2vec2"}, "provenance": PROVENANCE}
    save_model(folder, encoder, extra={**config, **extra}, tensors=tensors)
    return folder


def toy_bundle(folder: Path, *, model: Path | None = None, version: str = "1") -> Path:
    """A bundled model called toy, of a micro encoder or of another model folder."""
    made = bundle(model or pretrained(folder / "run"), folder / "bundled", name="toy", version=version, data=DATA)
    return made.folder


@pytest.fixture
def bundled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a bundled model that is used while the test runs."""
    folder = toy_bundle(tmp_path / "toy")
    monkeypatch.setenv(VARIABLE, str(folder))
    return folder


@pytest.fixture
def no_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in an installation without a bundled model."""
    monkeypatch.setenv(VARIABLE, str(tmp_path / "nothing"))
