"""What stands before the output: a source, or a model and a source; and the settings that a model brings along."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from speechssl import cli
from speechssl.config import UserError
from speechssl.extract.arguments import Arguments, read_arguments
from speechssl.extract.run import extract
from tests.bundles import bundled, no_bundle, pretrained
from tests.micro import tone

__all__ = ["bundled", "no_bundle"]


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    (tmp_path / "audio").mkdir()
    for number in range(3):
        soundfile.write(tmp_path / "audio" / f"{number}.wav", tone(8000, pitch=200.0 + 50 * number), 16000)
    return tmp_path / "audio"


def settings(path: Path) -> dict[str, object]:
    return json.loads(pq.read_schema(path).metadata[b"speechssl"])


def test_a_source_alone_is_embedded_by_the_bundled_model(
    bundled: Path, audio: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "v.parquet"
    assert cli.main(["extract", str(audio), "-o", str(out)]) == 0
    said = capfd.readouterr()
    assert said.err.splitlines()[0] == "no model named: the bundled model toy-1 is used"
    assert f"{out}: 3 clips, 64 numbers each (layer mean, pooling mean+std)" in said.err
    found = settings(out)
    assert (found["model"], found["layer"], found["pooling"]) == ("toy-1", "mean", "mean+std")
    for words in (["bundled", str(audio)], ["--model", "toy-1", str(audio)], [str(bundled), str(audio)]):
        assert cli.main(["extract", *words, "-o", str(tmp_path / "w.parquet")]) == 0
        assert "no model named" not in capfd.readouterr().err
        assert pq.read_table(tmp_path / "w.parquet").equals(pq.read_table(out))


def test_the_counts_state_model_layer_and_pooling(
    bundled: Path, audio: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["extract", str(audio), "-o", str(tmp_path / "v.npz"), "--json", "--layer", "1"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert (found["model"], found["layer"], found["pooling"], found["dim"]) == ("toy-1", 1, "mean+std", 64)


def test_what_the_user_names_wins(bundled: Path, audio: Path, tmp_path: Path) -> None:
    extract(None, audio, tmp_path / "named.npz", layer=-1, pooling="mean")
    plain = pretrained(tmp_path / "plain")
    config = json.loads((plain / "config.json").read_text())
    del config["embedding"]
    (plain / "config.json").write_text(json.dumps(config))
    report = extract(plain, audio, tmp_path / "plain.npz")
    assert (report.layer, report.pooling) == (-1, "mean")
    with np.load(tmp_path / "named.npz") as ours, np.load(tmp_path / "plain.npz") as theirs:
        np.testing.assert_allclose(ours["vectors"], theirs["vectors"], atol=0.02)  # float16 weights
    report = extract(None, audio, tmp_path / "frames.h5", pooling="none")
    assert (report.layer, report.pooling, report.dim) == ("mean", "none", 32)


def test_resolved_settings_are_compared(audio: Path, tmp_path: Path) -> None:
    """An output of the old default is not continued with what the model names now."""
    model = pretrained(tmp_path / "model")
    text = (model / "config.json").read_text()
    (model / "config.json").write_text(text.replace('"embedding"', '"provenance_of_embedding"'))
    extract(model, audio, tmp_path / "v.parquet")
    (model / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"v\.parquet: made with pooling mean, now mean\+std; use the same settings"):
        extract(model, audio, tmp_path / "v.parquet")
    assert extract(model, audio, tmp_path / "v.parquet", layer=-1, pooling="mean").finished_before


def test_the_model_is_told_from_the_source(bundled: Path, audio: Path, tmp_path: Path) -> None:
    own = str(pretrained(tmp_path / "own"))
    assert read_arguments([str(audio)]) == Arguments(None, str(audio))
    assert read_arguments([own, str(audio)]) == Arguments(own, str(audio))
    assert read_arguments([own], model="bundled") == Arguments("bundled", own)
    for name in (own, str(bundled), "bundled", "toy-1", "torchaudio:HUBERT_BASE"):
        with pytest.raises(UserError, match=r"a model, and no source is named; .*speechssl extract .* SOURCE"):
            read_arguments([name])
    for names in (["a.wav", "b.wav"], ["a.FLAC", "b.wav", "c.wav"]):
        with pytest.raises(UserError, match=rf"^{names[0]}: a sound file where the model is expected; .*quoted glob"):
            read_arguments(names)
    with pytest.raises(UserError, match=r"^3 names, own a b …; extract takes one source, and before it a model"):
        read_arguments(["own", "a", "b"])
    with pytest.raises(UserError, match=r"^--model own, and 2 names: a b; extract takes one source"):
        read_arguments(["a", "b"], model="own")


@pytest.mark.usefixtures("no_bundle")
def test_without_a_bundled_model_it_is_one_line(audio: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["extract", str(audio), "-o", str(tmp_path / "v.parquet")]) == 2
    said = capfd.readouterr().err
    assert said.startswith("speechssl: no model is bundled with this installation")
    assert said.count("\n") == 1
    assert not (tmp_path / "v.parquet").exists()
