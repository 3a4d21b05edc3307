"""CREMA-D, from a miniature in the official layout."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechssl.config import UserError
from speechssl.data.corpora.crema_d import prepare
from speechssl.data.waveforms import pack


@pytest.fixture(autouse=True)
def _no_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPEECHSSL_PACKS", raising=False)


def test_the_official_layout(tmp_path: Path, write_tone: Callable, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "CREMA-D"
    for name in ("1001_DFA_ANG_XX.wav", "1002_IEO_HAP_HI.wav", "1002_IEO_ODD_HI.wav"):
        write_tone(folder / "AudioWAV" / name)
    (folder / "VideoDemographics.csv").write_text("ActorID,Age,Sex,Race,Ethnicity\n1001,51,Male,Caucasian,No\n")
    with caplog.at_level(logging.WARNING):
        first, second = prepare(tmp_path)
    assert "2 recordings, expected 7442" in caplog.text
    assert (first.speaker, first.label, first.text) == ("1001", "angry", "Don't forget a jacket")
    assert first.extras == {"sex": "male", "age": 51, "sentence": "DFA", "level": "unspecified"}
    assert (second.speaker, second.label) == ("1002", "happy")
    assert second.extras == {"sentence": "IEO", "level": "high"}


def test_the_silent_recording_is_rejected_by_packing(tmp_path: Path, write_tone: Callable) -> None:
    write_tone(tmp_path / "AudioWAV" / "1001_DFA_ANG_XX.wav")
    soundfile.write(tmp_path / "AudioWAV" / "1076_MTI_SAD_XX.wav", np.zeros(8000), 16000)
    report = pack(list(prepare(tmp_path)), tmp_path / "packed")
    assert (report.accepted, report.rejected) == (1, 1)
    assert "1076_MTI_SAD_XX" in (tmp_path / "packed" / "rejects.jsonl").read_text()


def test_what_to_do_where_it_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no AudioWAV in it; fetch CREMA-D with `git lfs install && git clone"):
        prepare(tmp_path)
    (tmp_path / "AudioWAV").mkdir()
    with pytest.raises(UserError, match=r"no ACTOR_SENTENCE_EMOTION_LEVEL.wav in it"):
        list(prepare(tmp_path))
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n"
    (tmp_path / "AudioWAV" / "1001_DFA_ANG_XX.wav").write_text(pointer)
    with pytest.raises(UserError, match="pointers of Git LFS; run `git lfs pull` in it"):
        list(prepare(tmp_path))
