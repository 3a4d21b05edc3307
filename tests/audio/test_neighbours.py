"""A reason for a file that is not there has the recording beside it that was probably meant."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechssl.audio import neighbours
from speechssl.audio.neighbours import no_file
from speechssl.cli import main

RATE = 16000


@pytest.mark.parametrize(
    ("there", "wanted", "found"),
    [
        (["a01.wav"], "a01.mp3", "a01.wav"),
        (["a01.wav"], "A01.WAV", "a01.wav"),
        (["a01.WAV"], "a01", "a01.WAV"),
        (["a01.wav"], "a01.wav.mp3", "a01.wav"),
        (["a.flac", "A.wav"], "a.wav", "A.wav"),
        (["a.1.wav", "a.2.wav"], "a.2", "a.2.wav"),
        (["u\u0308.wav"], "\u00fc.flac", "u\u0308.wav"),
        (["a01.txt", "a01.json", "a02.wav"], "a01.wav", None),
        ([], "a01.wav", None),
    ],
)
def test_the_neighbour(tmp_path: Path, there: list[str], wanted: str, found: str | None) -> None:
    for name in there:
        (tmp_path / name).touch()
    assert no_file(tmp_path / wanted) == ("no such file" if found is None else f"no such file; there is {found}")
    assert no_file(tmp_path / "none" / wanted) == "no such file"


def test_a_folder_is_listed_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed: list[str] = []
    listdir = os.listdir

    def counted(folder: str) -> list[str]:
        listed.append(folder)
        return listdir(folder)

    monkeypatch.setattr(neighbours.os, "listdir", counted)
    (tmp_path / "7.wav").touch()
    reasons = [no_file(tmp_path / f"{number}.mp3") for number in range(100)]
    assert [number for number, reason in enumerate(reasons) if reason != "no such file"] == [7]
    assert listed == [str(tmp_path)]
    (tmp_path / "8.wav").touch()
    os.utime(tmp_path, ns=(1, 1))
    assert no_file(tmp_path / "8.mp3") == "no such file; there is 8.wav"
    assert len(listed) == 2


def test_prepare_names_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    for name in ("a.wav", "b.wav", "c.wav"):
        soundfile.write(tmp_path / name, 0.1 * rng.standard_normal(RATE), RATE)
    (tmp_path / "metadata.csv").write_text("file,label\na.wav,x\nb.mp3,y\nC.WAV,x\nd.wav,y\n")
    assert main(["prepare", "folder", "--root", str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().err
    assert "3 x no such file, for example: there is b.wav\n" in said
    rejects = [json.loads(line) for line in (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()]
    reasons = ["no such file; there is b.wav", "no such file; there is c.wav", "no such file"]
    assert [each["reason"] for each in rejects] == reasons
