"""The layer and pooling of a model are chosen by probes, written into its folder, and used from then on."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import speechssl
from speechssl import cli
from speechssl.config import UserError
from speechssl.data.waveforms import WaveformStore
from speechssl.embed.embedder import EmbeddingModel
from speechssl.experiments.choose_embedding import choose_embedding
from speechssl.inference.chosen import Choice, read_choice
from tests.bundles import toy_bundle

from .asr_toys import micro_model, spoken_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return spoken_corpus(tmp_path_factory.mktemp("spoken"))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    micro_model(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.slow
def test_what_tells_the_classes_apart_is_chosen(corpus: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted features: the deviations of layer 1 know the label, and nothing else knows anything."""
    store = WaveformStore(corpus)
    labels = {store.waveform(i).tobytes(): each.label == "high" for i, each in enumerate(store.utterances)}
    rng = np.random.default_rng(0)

    def planted(self: EmbeddingModel, waveforms: Any, *, pooling: Any = "mean", layers: Any = (-1,)) -> np.ndarray:
        assert pooling == "mean+std"
        found = rng.standard_normal((len(layers), len(waveforms), 2 * self.dim)).astype(np.float32)
        known = np.array([labels[waveform.tobytes()] for waveform in waveforms])
        found[list(layers).index(1), :, self.dim :] += 20 * known[:, None]
        return found

    monkeypatch.setattr(EmbeddingModel, "embed_layers", planted)
    scored = choose_embedding(model, [corpus], shots=3, seeds=2)
    assert len({each.choice for each in scored}) == 2 * (2 + 2)  # two poolings; two blocks, the input, the mean
    assert (scored[0].choice, scored[0].uar) == (Choice(1, "mean+std"), 1.0)
    assert scored[1].uar < 0.8
    assert read_choice(model) == Choice(1, "mean+std")
    chosen = json.loads((model / "config.json").read_text())["embedding"]["chosen_on"]
    assert (chosen["task"], chosen["shots"], chosen["draws"]) == ("label", 3, 2)
    assert chosen["corpora"] == [{"corpus": "prepared", "content": store.content_hash(), "uar": 1.0}]


def test_the_command(corpus: Path, model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = speechssl.load(model, device="cpu")
    assert cli.main(["choose", str(model), str(corpus), "--shots", "3", "--seeds", "1"]) == 0
    said = capfd.readouterr()
    lines = said.out.splitlines()
    assert len(lines) == 8
    after = speechssl.load(model, device="cpu")
    assert after.digest == before.digest
    assert lines[0].endswith(f"layer {after.choice.layer}, pooling {after.choice.pooling}")
    assert said.err.endswith(
        f"{model}: layer {after.choice.layer} and pooling {after.choice.pooling} where none is named\n"
    )


def test_refused(corpus: Path, model: Path, tmp_path: Path) -> None:
    shutil.copytree(corpus, tmp_path / "copy")
    with pytest.raises(UserError, match="one or more corpora, each named once"):
        choose_embedding(model, [corpus, tmp_path / "copy"])
    with pytest.raises(UserError, match="a bundled model is not changed"):
        choose_embedding(toy_bundle(tmp_path), [corpus])
    with pytest.raises(UserError, match="needs at least 2 classes with 100 utterances"):
        choose_embedding(model, [corpus], shots=50)
    assert read_choice(model) == Choice()
