"""A wheel, installed where nothing else of the package is: it embeds recordings without a model being named."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

import speechssl
from tests.bundles import toy_bundle
from tests.micro import tone

REPOSITORY = Path(__file__).parent.parent
BUILT = ["pyproject.toml", "README.md", "LICENSE", ".gitignore"]
RUN = "import sys, speechssl.cli; print(speechssl.__file__); sys.exit(speechssl.cli.main(sys.argv[1:]))"


def run(words: list[str], here: Path, **variables: str) -> str:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("SPEECHSSL_", "PYTHON"))}
    done = subprocess.run(
        [sys.executable, *words],
        cwd=here,
        env=clean | variables,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is built, with a toy in the place of the bundled model."""
    folder = tmp_path_factory.mktemp("tree")
    for name in BUILT:
        shutil.copy(REPOSITORY / name, folder / name)
    ignored = shutil.ignore_patterns("__pycache__", "bundled")
    shutil.copytree(REPOSITORY / "speechssl", folder / "speechssl", ignore=ignored)
    shutil.copytree(toy_bundle(tmp_path_factory.mktemp("toy")), folder / "speechssl" / "assets" / "bundled")
    run(["-m", "hatchling", "build", "-t", "wheel", "-t", "sdist", "-d", str(folder / "dist")], folder)
    return folder


@pytest.mark.slow
def test_the_wheel_embeds_without_a_model_being_named(tree: Path, tmp_path: Path) -> None:
    [wheel] = (tree / "dist").glob("*.whl")
    target = tmp_path / "target"
    run(["-m", "uv", "pip", "install", "--offline", "--no-deps", "--target", str(target), str(wheel)], tmp_path)
    (tmp_path / "recordings").mkdir()
    for number in range(2):
        soundfile.write(tmp_path / "recordings" / f"{number}.wav", tone(8000, seed=number), 16000)
    said = run(["-c", RUN, "extract", "recordings", "-o", "v.parquet"], tmp_path, PYTHONPATH=str(target))
    assert said.splitlines()[0] == str(target / "speechssl" / "__init__.py")
    assert "no model named: the bundled model toy-1 is used" in said
    found = pq.read_table(tmp_path / "v.parquet")
    settings = json.loads(found.schema.metadata[b"speechssl"])
    assert (settings["model"], settings["layer"], settings["pooling"]) == ("toy-1", "mean", "mean+std")
    expected = speechssl.load(tree / "speechssl" / "assets" / "bundled", device="cpu")
    vectors = np.array(found["vector"].to_pylist(), dtype=np.float32)
    np.testing.assert_allclose(vectors[0], expected.embed(tmp_path / "recordings" / "0.wav"), atol=1e-5)


@pytest.mark.slow
def test_the_source_distribution_has_the_model(tree: Path) -> None:
    [path] = (tree / "dist").glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for name in ("README.md", "bundle.json", "config.json", "model.safetensors", "training_audio.json"):
        assert f"speechssl/assets/bundled/{name}" in names
