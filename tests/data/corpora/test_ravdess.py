"""RAVDESS, from a miniature in the official layout, a download, and the pack."""

import hashlib
import logging
import zipfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest

from speechssl.config import UserError
from speechssl.data.corpora import ravdess
from speechssl.data.corpora.ravdess import INFO, prepare
from speechssl.data.waveforms import pack


def test_the_official_layout(tmp_path: Path, write_tone: Callable, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("Actor_12/03-01-06-01-02-01-12.wav", "Actor_07/03-01-08-02-01-02-07.wav"):
        write_tone(tmp_path / name)
    write_tone(tmp_path / "Actor_07" / "03-02-01-01-01-01-07.wav")  # a song
    write_tone(tmp_path / "Actor_07" / "03-01-09-01-01-01-07.wav")  # no such emotion
    with caplog.at_level(logging.WARNING):
        utterances = list(prepare(tmp_path))
    assert "3 recordings, expected 1440" in caplog.text
    assert "not a name of the corpus; skipped" in caplog.text
    first, second = utterances
    assert (first.speaker, first.label, first.text) == ("07", "surprised", "kids are talking by the door")
    assert first.extras == {"sex": "male", "intensity": "strong", "sentence": "01", "repetition": 2}
    assert (second.speaker, second.label, second.text) == ("12", "fearful", "dogs are sitting by the door")
    assert second.extras == {"sex": "female", "intensity": "normal", "sentence": "02", "repetition": 1}
    assert second.duration == pytest.approx(0.25)


def test_the_folder_of_the_archive_and_an_empty_one(tmp_path: Path, write_tone: Callable) -> None:
    write_tone(tmp_path / "a" / "Audio_Speech_Actors_01-24" / "Actor_01" / "03-01-01-01-01-01-01.wav")
    assert [each.label for each in prepare(tmp_path / "a")] == ["neutral"]
    (tmp_path / "b" / "Actor_01").mkdir(parents=True)
    with pytest.raises(UserError, match=r"no Actor_NN/03-01-\*.wav in it"):
        list(prepare(tmp_path / "b"))


def test_download(serve: Callable, tmp_path: Path, write_tone: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPEECHSSL_PACKS", raising=False)
    server = serve()
    archive = server.folder / "Audio_Speech_Actors_01-24.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.write(write_tone(tmp_path / "a.wav"), "Actor_01/03-01-05-01-01-01-01.wav")
    monkeypatch.setenv("SPEECHSSL_MIRROR_RAVDESS", server.address)
    with pytest.raises(UserError, match="wrong md5 checksum"):
        prepare(tmp_path / "root")
    monkeypatch.setattr(ravdess, "CHECKSUM", f"md5:{hashlib.md5(archive.read_bytes()).hexdigest()}")
    assert [each.label for each in prepare(tmp_path / "root")] == ["angry"]
    assert [path.name for path in (tmp_path / "root").iterdir()] == ["Audio_Speech_Actors_01-24"]


@pytest.mark.slow
@pytest.mark.packs
def test_the_real_pack(packs: Path, tmp_path: Path) -> None:
    utterances = list(prepare(tmp_path))
    assert len(utterances) == INFO.utterances
    assert len({each.speaker for each in utterances}) == INFO.speakers
    assert INFO.hours == pytest.approx(sum(each.duration for each in utterances) / 3600, abs=0.01)
    report = pack(list(islice(utterances, 5)), tmp_path / "packed")
    assert (report.accepted, report.rejected) == (5, 0)
