"""The bundled model is made of a pretrained one: weights in half the bytes, a card, digests; nothing of one machine."""

import json
import math
import os
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from speechssl.config import UserError
from speechssl.data.training_audio import AudioRecord, TrainingAudio, read_training_audio, write_training_audio
from speechssl.data.waveforms import WaveformStore
from speechssl.experiments import bundle as module
from speechssl.experiments.bundle import bundle
from speechssl.metrics.results import ResultRow, write_results
from speechssl.models.bundled import VARIABLE, bundled_model
from speechssl.models.storage import load_encoder, model_hash, read_model_config
from tests.bundles import CHOICE, DATA, pretrained
from tests.toys import toy_corpus

ROW = ResultRow("label", "model (mean of layers)", "logistic", 10, "UAR", 0.6, 0.5, 0.7, 100, 5, corpus="runs/digits")
ON = {"task": "label", "shots": 10}
CHOSEN = {**CHOICE, "chosen_on": {**ON, "corpora": [{"corpus": "words", "uar": 0.791}]}}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = pretrained(tmp_path / "run", embedding=CHOSEN)
    record = AudioRecord(ids=frozenset({"ab", "cd"}), stretches={"x": [(0.0, 1.0)]}, speakers=frozenset({"anna"}))
    write_training_audio(folder, TrainingAudio(pretraining=record))
    return folder


def made(run: Path, **changes: object) -> module.Made:
    return bundle(run, run.parent / "assets" / "bundled", **{"name": "toy", "version": "1", "data": DATA, **changes})


def test_files_and_card(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = made(run, limits="- It knows tones alone.")
    monkeypatch.setenv(VARIABLE, str(done.folder))
    assert bundled_model().name == done.name == "toy-1"
    names = {"README.md", "bundle.json", "config.json", "model.safetensors", "training_audio.json"}
    assert {path.name for path in done.folder.iterdir()} == names
    assert [path.name for path in done.folder.parent.iterdir()] == ["bundled"]
    tensors = load_file(done.folder / "model.safetensors")
    assert {each.dtype for each in tensors.values()} == {torch.float16}
    assert [name for name in tensors if not name.startswith("encoder.")] == ["objective.mask_embedding"]
    for name, value in load_encoder(run).state_dict().items():
        torch.testing.assert_close(tensors[f"encoder.{name}"].float(), value, atol=1e-4, rtol=1e-3)
    config = read_model_config(done.folder)
    assert config["embedding"] == CHOSEN
    assert (config["provenance"]["corpora"], config["provenance"]["seconds_seen"]) == (["tones"], 7200.0)
    assert "/data" not in (done.folder / "config.json").read_text() + (done.folder / "README.md").read_text()
    record = read_training_audio(done.folder).pretraining
    assert (record.known, record.ids, record.stretches, record.speakers) == (True, {"ab", "cd"}, {}, frozenset())
    card = (done.folder / "README.md").read_text()
    for line in (
        "# toy-1",
        "| updates | 2,000 |",
        "| audio seen | 2 h |",
        "| corpora | tones |",
        "| where none is named | layer mean, pooling mean+std; chosen on words (UAR .79), 10 shots of label |",
        f"| hash | `{model_hash(done.folder)}` |",
        "| tones | CC0 1.0 | made by a test |",
        "None were measured for this card.",
        "- It knows tones alone.",
    ):
        assert line in card.splitlines(), line


def test_results_of_these_weights(run: Path, tmp_path: Path) -> None:
    digest = made(run).digest
    results = tmp_path / "digits.json"
    write_results(
        [replace(ROW, model_hash=digest, pretraining_audio="0 of 9"), replace(ROW, contender="MFCC")], results
    )
    card = (made(run, results=[results]).folder / "README.md").read_text()
    assert "### digits" in card
    assert "| model (mean of layers) | **.60** (.50–.70) |" in card
    assert "In the audio of pretraining: 0 of 9." in card
    write_results([replace(ROW, model_hash=model_hash(run))], results)  # of the float32 weights
    with pytest.raises(UserError, match=r"digits\.json: not results of these weights"):
        made(run, results=[results])
    write_results([replace(ROW, model_hash=digest, corpus="elsewhere/words")], results)
    with pytest.raises(UserError, match="on elsewhere/words, on which the layer was chosen; report results on other"):
        made(run, results=[results])
    corpus = toy_corpus(tmp_path / "words", utterances=4)  # another one of the same name, then one of another name
    corpus = corpus.rename(tmp_path / "words" / "words")
    write_results([replace(ROW, model_hash=digest, corpus=str(corpus))], results)
    assert made(run, results=[results]).digest == digest
    content = {"corpus": "letters", "content": WaveformStore(corpus).content_hash(), "uar": 0.5}
    again = pretrained(tmp_path / "again", embedding={**CHOICE, "chosen_on": {**ON, "corpora": [content]}})
    with pytest.raises(UserError, match=r"words/words, on which the layer was chosen"):
        made(again, results=[results])
    assert "### digits" in (run.parent / "assets" / "bundled" / "README.md").read_text()  # the last that was whole


def test_refused(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="the card needs the data of pretraining, with licences"):
        made(run, data=" \n")
    with pytest.raises(UserError, match="each file needs a name of its own"):
        made(run, results=[tmp_path / "a" / "results.json", tmp_path / "b" / "results.json"])
    with pytest.raises(UserError, match="a pretrained encoder is bundled, without a head"):
        made(pretrained(tmp_path / "head", head={"kind": "ctc"}))
    with pytest.raises(UserError, match=r"name '\.\./up' or version '1': as in tiny"):
        made(run, name="../up")
    monkeypatch.setattr(module, "MOST_BYTES", 1000)
    with pytest.raises(UserError, match="MB of weights are too many to ship"):
        made(run)
    assert not (run.parent / "assets" / "bundled").exists()


def test_weights_beyond_float16(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MIN_COSINE", math.nextafter(1.0, 2.0))
    with pytest.raises(UserError, match="in float16 its embeddings differ"):
        made(run)
    encoder = load_encoder(run)
    name, value = next(iter(encoder.state_dict().items()))
    value.view(-1)[0] = 1e6
    module.save_model(run, encoder)
    with pytest.raises(UserError, match=f"{name} is beyond the range of float16"):
        made(run)


def test_the_command(run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data.md").write_text(DATA)
    out = tmp_path / "made"
    words = [str(run), "--name", "toy", "--version", "1.2", "--data", str(tmp_path / "data.md"), "--out", str(out)]
    with pytest.raises(SystemExit, match=r"^0$"):
        module.app(words)
    assert capfd.readouterr().err.startswith(f"{out}: toy-1.2, hash {model_hash(out)}, ")
    assert json.loads((out / "bundle.json").read_text())["version"] == "1.2"
    with pytest.raises(SystemExit, match=r"^2$"):
        module.app([str(tmp_path), *words[1:]])
    assert capfd.readouterr().err.startswith(f"bundle: {tmp_path}: not a model folder")


def test_make_says_the_same(run: Path, tmp_path: Path) -> None:
    (tmp_path / "data.md").write_text(DATA)
    given = [f"MODEL={run}", "NAME=toy", "VERSION=3", f"DATA={tmp_path}/data.md", f"LIMITS={tmp_path}/data.md"]
    words = ["make", "-n", "--no-print-directory", "READY=", *given, "RESULTS=a.json b.json", "bundle"]
    clean = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    repository = Path(__file__).parent.parent.parent
    done = subprocess.run(words, cwd=repository, env=clean, capture_output=True, text=True, check=True, timeout=60)
    said = done.stdout.replace("\\\n", " ")
    asked = shlex.split(said.partition(" -m speechssl.experiments.bundle ")[2])
    assert asked[asked.index("--results") :][:4] == ["--results", "a.json", "--results", "b.json"]
    without = [word for word in asked if word not in ("--results", "a.json", "b.json")]
    with pytest.raises(SystemExit, match=r"^0$"):
        module.app([*without, "--out", str(tmp_path / "made")])
    assert json.loads((tmp_path / "made" / "bundle.json").read_text())["version"] == "3"
