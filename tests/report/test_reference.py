"""Reference curves behind those of a run: the same objective and size, at equal amounts of audio."""

import json
from pathlib import Path

import pytest

from speechssl.config import UserError
from speechssl.report import reference
from speechssl.report.html import write_report
from speechssl.report.run import read_run

from .conftest import config


@pytest.fixture
def curves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the package's curves, with one of wav2vec2 on twice the batch of the toy run."""
    folder = tmp_path / "curves"
    folder.mkdir()
    hour = 3600 / 64  # updates of 64 s
    points = [
        {"update": step, "hours": step / hour, "metrics": {"contrastive_loss": 4.0, "code_perplexity": [50.0, 60.0]}}
        for step in (50, 300, 600, 900)
    ]
    content = {"objective": "wav2vec2", "preset": "tiny", "encoder": config()["encoder"], "corpora": ["librispeech"]}
    content |= {"hours": 10.0, "updates": 900, "points": points}
    (folder / "wav2vec2-tiny.json").write_text(json.dumps(content))
    monkeypatch.setattr(reference, "CURVES", folder)
    return folder


def test_points_are_at_equal_audio(run_folder: Path, curves: Path) -> None:
    """1,200 updates of 32 s have seen what 600 of 64 s have; the reference goes on, the run does not."""
    found = read_run(run_folder).reference
    assert found is not None
    assert [row.step for row in found.rows] == [100, 600, 1200]
    assert "wav2vec2 tiny, 900 updates on librispeech (10 h)" in found.caption


@pytest.mark.slow
def test_they_are_drawn(run_folder: Path, curves: Path, tmp_path: Path) -> None:
    def page() -> str:
        write_report(run_folder, tmp_path / "report.html")
        return (tmp_path / "report.html").read_text()

    shown = page()
    assert shown.count("Grey: validations of a reference run") == 1
    assert shown.count(">reference</text>") == 2  # the panels of the loss and of the codes
    (curves / "wav2vec2-tiny.json").unlink()
    assert "reference" not in page()


@pytest.mark.parametrize("change", ["objective", "size", "short"])
def test_there_is_none_for_another_run(change: str, run_folder: Path, curves: Path) -> None:
    own = config()
    if change == "objective":
        own["objective"]["name"] = "hubert"
    if change == "size":
        own["encoder"]["transformer"]["layers"] = 5
    if change == "short":
        (run_folder / "log.jsonl").write_text('{"step": 1, "loss": 4.7, "seconds_seen": 32.0}\n')
    (run_folder / "config.json").write_text(json.dumps(own))
    assert read_run(run_folder).reference is None


def test_settings_that_are_newer_than_the_reference_do_not_matter(run_folder: Path, curves: Path) -> None:
    own = config()
    own["encoder"]["transformer"]["newer"] = 1
    (run_folder / "config.json").write_text(json.dumps(own))
    assert read_run(run_folder).reference is not None


def test_a_broken_file_is_named(run_folder: Path, curves: Path) -> None:
    (curves / "wav2vec2-tiny.json").write_text("{}")
    with pytest.raises(UserError, match=r"wav2vec2-tiny\.json: key 'objective': Field required"):
        read_run(run_folder)


def test_the_row_of_an_alarm_is_read(run_folder: Path) -> None:
    with (run_folder / "log.jsonl").open("a") as file:
        file.write('{"step": 1201, "alarm": "collapse", "evidence": "e", "advice": "a", "seconds_seen": 38432.0}\n')
    assert read_run(run_folder).training[-1].step == 1201
