"""Verbs that start from an encoder take the bundled one where none is named, and say so; scratch is named."""

import json
from pathlib import Path

import pytest

from speechssl import cli
from speechssl.experiments import asr, emotion
from speechssl.models.storage import model_hash
from tests.bundles import bundled, no_bundle, pretrained

from .asr_toys import spoken_corpus

__all__ = ["bundled", "no_bundle"]
SAID = "no model named: the bundled model toy-1 is used"
SETS = ("loop.steps=1", "loop.precision=fp32", "batches.batch_seconds=2", "device=cpu")
QUICK = ["--shots", "3", "--split", "train", *(f"--set={each}" for each in SETS)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(spoken_corpus(tmp_path_factory.mktemp("spoken")))


def finetune(corpus: str, out: Path, *words: str) -> dict[str, object]:
    assert cli.main(["finetune", corpus, "--out", str(out), *QUICK, *words]) == 0
    return json.loads((out / "config.json").read_text())["provenance"]


def test_fine_tuning(bundled: Path, corpus: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert finetune(corpus, tmp_path / "default")["start"] == "toy-1"
    assert capfd.readouterr().err.startswith(f"{SAID}\n")
    assert finetune(corpus, tmp_path / "named", "--from", "bundled")["start"] == "toy-1"
    small = ["--set", "encoder.transformer.layers=1"]
    assert finetune(corpus, tmp_path / "scratch", "--from", "scratch", *small)["start"] is None
    assert finetune(corpus, tmp_path / "cnn", "--set", "network=logmel-cnn")["start"] is None  # has no encoder at all
    said = capfd.readouterr().err
    assert SAID not in said
    assert model_hash(tmp_path / "default") == model_hash(tmp_path / "named")
    config = json.loads((tmp_path / "default" / "config.json").read_text())
    assert "embedding" not in config  # the layer that served the bundled model best is not that of another
    for start in ([], ["--from", str(bundled)]):
        assert cli.main(["finetune", corpus, "--out", str(tmp_path / "no"), *start, *small]) == 2
        assert (
            "settings of the encoder are for --from scratch; a model to start from has its own"
            in capfd.readouterr().err
        )


def test_a_run_from_scratch_does_not_resume_from_a_model(
    bundled: Path, corpus: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    finetune(corpus, tmp_path / "run", "--from", "scratch")
    before = (tmp_path / "run" / "model.safetensors").read_bytes()
    assert cli.main(["finetune", corpus, "--out", str(tmp_path / "run"), *QUICK]) == 2
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == before


def test_a_model_folder_called_scratch(
    bundled: Path, corpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("scratch").mkdir()
    assert finetune(corpus, tmp_path / "a", "--from", "scratch")["start"] is None  # a folder, but no model
    pretrained(Path("scratch"))
    assert cli.main(["finetune", corpus, "--out", "b", "--from", "scratch"]) == 2
    assert "for the folder: ./scratch" in capfd.readouterr().err
    assert finetune(corpus, tmp_path / "c", "--from", "./scratch")["start"] == "scratch"


@pytest.mark.parametrize("verb", ["emotion", "asr"])
def test_experiments(
    verb: str,
    bundled: Path,
    corpus: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    used: list[Path] = []
    module, name = (asr, "recognise") if verb == "asr" else (emotion, "label_efficiency")
    monkeypatch.setattr(module, name, lambda corpus, encoder, out, **_: used.append(encoder))
    words = [verb, corpus, "--out", str(tmp_path / "out"), *(["--minutes", "0.1"] if verb == "asr" else [])]
    assert cli.main(words) == 0
    assert capfd.readouterr().err.startswith(f"{SAID}\n")
    assert cli.main([*words, "--encoder", "bundled"]) == 0
    assert SAID not in capfd.readouterr().err
    assert cli.main([*words, "--encoder", str(pretrained(tmp_path / "own"))]) == 0
    assert used == [bundled, bundled, tmp_path / "own"]


@pytest.mark.usefixtures("no_bundle")
@pytest.mark.parametrize("verb", ["finetune", "emotion", "asr"])
def test_without_a_bundled_model(verb: str, corpus: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main([verb, corpus, "--out", str(tmp_path / "out")]) == 2
    said = capfd.readouterr().err
    assert said.startswith("speechssl: no model is bundled with this installation of speechssl")
    assert said.endswith("--from MODEL, or --from scratch\n" if verb == "finetune" else "torchaudio:BUNDLE\n")
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_other_verbs_take_its_name(
    bundled: Path, corpus: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("bundled", "toy-1"):
        assert cli.main(["info", name, "--json"]) == 0
        assert json.loads(capfd.readouterr().out)["hash"] == model_hash(bundled)
    words = ["--shots", "2", "--seeds", "1", "--no-baselines", "--out", str(tmp_path / "results.json")]
    assert cli.main(["evaluate", "bundled", corpus, *words]) == 0
    rows = json.loads((tmp_path / "results.json").read_text())
    assert {row["model_hash"] for row in rows if row["contender"].startswith("model")} == {model_hash(bundled)}
    short = ["loop.steps=1", "crops.batch_seconds=2", "crops.seconds=1", "crops.min_seconds=0.5"]
    sets = [word for each in (*short, "objective.units.classes=8") for word in ("--set", each)]
    assert cli.main(["pretrain", corpus, "--from", "bundled", "--out", str(tmp_path / "run"), *sets]) == 0
    assert "its encoder is trained further with a new objective, hubert, instead of none" in capfd.readouterr().err
    assert cli.main(["info", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["bundled_model"] == "toy-1"
