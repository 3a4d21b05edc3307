"""IEMOCAP, from a miniature in the official layout."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from speechssl.config import UserError
from speechssl.data.corpora.iemocap import prepare

EVALUATION = """% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]

[6.2901 - 8.2357]\tSes02F_impro01_F000\tneu\t[2.5000, 2.5000, 2.5000]
C-E2:\tNeutral;\t()
A-E3:\tval 3; act 2; dom  2;\t()

[10.0100 - 11.3925]\tSes02F_impro01_M001\texc\t[2.5000, 2.5000, 2.5000]
[14.8872 - 18.0175]\tSes02F_impro01_F002\tfru\t[2.5000, 2.5000, 2.5000]
"""


def test_the_official_layout(tmp_path: Path, write_tone: Callable, caplog: pytest.LogCaptureFixture) -> None:
    session = tmp_path / "IEMOCAP_full_release" / "Session2"
    evaluations, transcriptions = session / "dialog" / "EmoEvaluation", session / "dialog" / "transcriptions"
    for folder in (evaluations / "Categorical", transcriptions):
        folder.mkdir(parents=True)
    (evaluations / "Ses02F_impro01.txt").write_text(EVALUATION)
    (evaluations / "._Ses02F_impro01.txt").write_bytes(b"\xb0")
    scripted = "[1.0 - 2.0]\tSes02M_script01_1_F003\tang\t[2.5, 2.5, 2.5]\n"
    (evaluations / "Ses02M_script01_1.txt").write_text(scripted)
    (evaluations / "Categorical" / "Ses02F_impro01_e1_cat.txt").write_text("[1 - 2]\tSes02F_impro01_F009\tsad\t[]\n")
    (transcriptions / "Ses02F_impro01.txt").write_bytes(
        b"Ses02F_impro01_F000 [006.2901-008.2357]: Excuse me.\nSes02F_impro01_M001 [010.01-011.39]: Caf\xe9.\n"
    )
    for name in ("Ses02F_impro01/Ses02F_impro01_F000", "Ses02F_impro01/Ses02F_impro01_M001"):
        write_tone(session / "sentences" / "wav" / f"{name}.wav")
    with caplog.at_level(logging.WARNING):
        neutral, excited, angry = prepare(tmp_path)
    assert "3 utterances of the four classes, expected 5531" in caplog.text
    assert (neutral.speaker, neutral.label, neutral.text) == ("Ses02F", "neutral", "Excuse me.")
    assert neutral.extras == {
        "session": 2,
        "dialog": "Ses02F_impro01",
        "sex": "female",
        "emotion": "neu",
        "improvised": True,
    }
    assert (excited.speaker, excited.label, excited.extras["emotion"]) == ("Ses02M", "happy", "exc")
    # Who speaks is the letter of the last part, not of the first; and a missing file is left to packing.
    assert (angry.speaker, angry.label, angry.duration) == ("Ses02F", "angry", 0.0)
    assert angry.extras["improvised"] is False


def test_what_to_place_where(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"IEMOCAP is given on request .* so that .*IEMOCAP_full_release/Session1 is"):
        prepare(tmp_path)
    (tmp_path / "Session1").mkdir()
    with pytest.raises(UserError, match=r"no utterance in Session\*/dialog/EmoEvaluation"):
        list(prepare(tmp_path))
