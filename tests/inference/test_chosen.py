"""Layer and pooling that a model's config names."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

import speechssl
from speechssl import cli, hear
from speechssl.config import UserError
from speechssl.inference.chosen import Choice, read_choice
from speechssl.inference.layers import Layer
from speechssl.inference.pooling import Pooling
from speechssl.models.storage import model_hash
from tests.bundles import pretrained
from tests.micro import tone

CLIP = tone(9000)


def naming(folder: Path, table: object) -> Path:
    pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config["embedding"] = table
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("table", "layer", "pooling"),
    [
        ({"layer": 1, "pooling": "mean+std"}, 1, "mean+std"),
        ({"layer": "mean"}, "mean", "mean"),
        ({"pooling": "mean+std", "chosen_on": {}}, -1, "mean+std"),
        ({}, -1, "mean"),
    ],
)
def test_it_is_the_default(table: dict[str, object], layer: Layer, pooling: Pooling, tmp_path: Path) -> None:
    model = speechssl.load(naming(tmp_path, table), device="cpu")
    assert model.choice == Choice(layer, pooling)
    expected = model.embed(CLIP, layer=layer, pooling=pooling)
    np.testing.assert_array_equal(model.embed(CLIP), expected)
    np.testing.assert_array_equal(model.frames(CLIP), model.frames(CLIP, layer=layer))
    np.testing.assert_array_equal(model.embed(CLIP, layer=0), model.embed(CLIP, layer=0, pooling=pooling))
    embedder = speechssl.Embedder(tmp_path, device="cpu").fit([CLIP])
    np.testing.assert_allclose(embedder.transform([CLIP])[0], expected, atol=1e-6)
    assert len(embedder.get_feature_names_out()) == len(expected)
    assert embedder.get_params()["layer"] is None
    ours = hear.load_model(str(tmp_path))
    assert (ours.layer, ours.pooling) == (layer, pooling)
    assert hear.load_model(str(tmp_path), layer=0, pooling="mean").layer == 0


def test_a_fitted_embedder_keeps_it(tmp_path: Path) -> None:
    """The same weights: the hash does not change, and the columns of what was fitted after it must not either."""
    embedder = speechssl.Embedder(naming(tmp_path, {"layer": 1, "pooling": "mean"}), device="cpu").fit([CLIP])
    before, digest, stored = embedder.transform([CLIP]), model_hash(tmp_path), pickle.dumps(embedder)
    naming(tmp_path, {"layer": 0, "pooling": "mean+std"})
    assert model_hash(tmp_path) == digest
    for kept in (embedder, pickle.loads(stored)):
        np.testing.assert_array_equal(kept.transform([CLIP]), before)
    assert embedder.fit([CLIP]).transform([CLIP]).shape == (1, 64)


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ({"layer": 9}, r"embedding\.layer: layer must be 'mean', 'mix' or from -3 to 2"),
        ({"layer": "mix"}, r"embedding\.layer: layer 'mix' is the mix of a fine-tuned head"),
        ({"layer": True}, r"embedding\.layer must be a number, mean or mix, is True"),
        ({"layer": 1.5}, r"embedding\.layer must be a number, mean or mix, is 1\.5"),
        ({"pooling": "max"}, r"embedding\.pooling must be one of mean, mean\+std, is 'max'"),
        ({"pooling": ["mean"]}, r"embedding\.pooling must be one of"),
        ([], r"embedding must be a table, is a list"),
    ],
)
def test_what_the_model_cannot_give_is_refused(table: object, reason: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"config\.json: {reason}"):
        read_choice(naming(tmp_path, table))


def test_info_states_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    naming(tmp_path / "a", {"layer": 1, "pooling": "mean+std"})
    assert cli.main(["info", str(tmp_path / "a"), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["embedding"] == {"layer": 1, "pooling": "mean+std"}
    naming(tmp_path / "b", {})
    assert cli.main(["info", str(tmp_path / "b"), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["embedding"] == {"layer": -1, "pooling": "mean"}
