"""The bundled model: used where no model is named, checked at every use, replaced without another change."""

import json
import logging
import pickle
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.base import clone

import speechssl
from speechssl import hear
from speechssl.config import UserError
from speechssl.interop.sources import is_model, open_source
from speechssl.models.bundled import VARIABLE, bundled_model, bundled_name, model_path
from speechssl.models.storage import load_encoder, model_hash
from tests.bundles import bundled, no_bundle, pretrained, toy_bundle
from tests.micro import tone

__all__ = ["bundled", "no_bundle"]
CLIPS = [tone(8000), tone(12000, pitch=300.0)]


def test_it_is_used_where_no_model_is_named(bundled: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="speechssl"):
        model = speechssl.load(device="cpu")
    assert caplog.messages == ["no model named: the bundled model toy-1 is used"]
    assert (model.name, model.digest) == ("toy-1", model_hash(bundled))
    expected = speechssl.load(bundled, device="cpu").embed(CLIPS, layer="mean", pooling="mean+std")
    np.testing.assert_array_equal(model.embed(CLIPS), expected)
    embedder = clone(speechssl.Embedder(device="cpu")).fit(CLIPS)
    assert embedder.model_name_ == "toy-1"
    np.testing.assert_allclose(embedder.transform(CLIPS), expected, atol=1e-6)
    assert hear.load_model().scene_embedding_size == 64
    for name in ("bundled", "toy-1"):
        assert open_source(name).folder == bundled
        assert model_path(Path(name)) == bundled


def test_it_is_in_float32(bundled: Path) -> None:
    for encoder in (open_source().encoder, load_encoder(bundled)):
        assert {each.dtype for each in encoder.state_dict().values()} == {torch.float32}


def test_a_path_of_that_name_wins(bundled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("bundled", "toy-1"):
        pretrained(Path(name), seed=1)
        assert open_source(name).folder == Path(name)
        assert model_path(Path(name)) == Path(name)
    assert open_source().folder == bundled


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "README.md", "training_audio.json"])
def test_damage_is_found(bundled: Path, name: str) -> None:
    content = (bundled / name).read_bytes()
    (bundled / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(
        UserError, match=rf"{name}: the bundled model is damaged: its sha256 .* install speechssl again"
    ):
        speechssl.load()
    with pytest.raises(UserError, match="is damaged"):
        model_path(Path("bundled"))
    (bundled / name).unlink()
    with pytest.raises(UserError, match=rf"{name}: the bundled model is damaged: cannot be read"):
        speechssl.load()


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"name": "a"}', '{"name": "../a", "version": "1", "sha256": {}}', '{"sha256": {}}']
)
def test_a_manifest_that_is_none(bundled: Path, content: str) -> None:
    (bundled / "bundle.json").write_text(content)
    assert bundled_name() is None
    with pytest.raises(UserError, match=r"bundle\.json: the bundled model is damaged: not the manifest"):
        bundled_model()


def test_weights_without_a_digest_are_refused(bundled: Path) -> None:
    manifest = json.loads((bundled / "bundle.json").read_text())
    del manifest["sha256"]["model.safetensors"]
    (bundled / "bundle.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"has no sha256 of model\.safetensors"):
        bundled_model()


@pytest.mark.usefixtures("no_bundle")
def test_without_one_the_error_says_what_to_do() -> None:
    for call in (speechssl.load, partial(speechssl.Embedder(device="cpu").fit, CLIPS), hear.load_model):
        with pytest.raises(UserError, match=r"^no model is bundled .*; name a model: a run or model folder, hf:org/na"):
            call()
    with pytest.raises(UserError, match=r"^no model is bundled "):
        speechssl.load("bundled")
    with pytest.raises(UserError, match=r"^nothing: no such model; .* or bundled \(here none\)"):
        speechssl.load("nothing")


def test_other_weights_need_no_other_change(bundled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embedder = speechssl.Embedder(device="cpu").fit(CLIPS)
    stored = pickle.dumps(embedder)
    monkeypatch.setenv(
        VARIABLE, str(toy_bundle(tmp_path / "new", model=pretrained(tmp_path / "b", seed=1), version="2"))
    )
    assert speechssl.load(device="cpu").name == "toy-2"
    with pytest.raises(UserError, match="toy-2: the model has changed since this Embedder was fitted"):
        pickle.loads(stored).transform(CLIPS)  # other vectors than those that a classifier after it has learnt from
    assert embedder.fit(CLIPS).model_name_ == "toy-2"


def test_what_can_only_be_a_model(bundled: Path, tmp_path: Path) -> None:
    (tmp_path / "stage").mkdir()
    pretrained(tmp_path / "stage" / "pretrain")
    (tmp_path / "w.pt").touch()
    models = [str(bundled), str(tmp_path / "stage"), str(tmp_path / "w.pt"), "bundled", "toy-1", "torchaudio:X"]
    assert [name for name in models if not is_model(name)] == []
    assert [name for name in (str(tmp_path), "hf:org/name", "missing.pt", "-", "*.wav") if is_model(name)] == []
