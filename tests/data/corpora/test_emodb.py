"""EmoDB, from a miniature in the official layout, a pack, and a download."""

import logging
import zipfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest

from speechssl.config import UserError
from speechssl.data.corpora.emodb import INFO, Settings, prepare
from speechssl.data.waveforms import pack

NAMES = ["03a01Fa.wav", "03a01Wa.wav", "08b02Nb.wav", "16a05Ta.wav", "10a04Ld.wav", "11b09Ac.wav", "12b10Ea.wav"]


@pytest.fixture(autouse=True)
def _no_packs(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if "packs" not in request.fixturenames:
        monkeypatch.delenv("SPEECHSSL_PACKS", raising=False)


def test_the_official_layout(tmp_path: Path, write_tone: Callable, caplog: pytest.LogCaptureFixture) -> None:
    for name in [*NAMES, "notes.wav"]:
        write_tone(tmp_path / "wav" / name)
    with caplog.at_level(logging.WARNING):
        four = list(prepare(tmp_path))
    assert "4 recordings, expected 339" in caplog.text
    assert [(Path(each.audio).name, each.speaker, each.label) for each in four] == [
        ("03a01Fa.wav", "03", "happy"),
        ("03a01Wa.wav", "03", "angry"),
        ("08b02Nb.wav", "08", "neutral"),
        ("16a05Ta.wav", "16", "sad"),
    ]
    assert four[2].extras == {"sex": "female", "age": 34, "sentence": "b02"}
    assert {each.language for each in four} == {"de"}
    everything = list(prepare(tmp_path, Settings(classes="all")))
    labels = {Path(each.audio).name[:2]: each.label for each in everything}
    assert len(everything) == 7
    assert (labels["10"], labels["11"], labels["12"]) == ("bored", "fearful", "disgust")


def test_download(
    serve: Callable,
    tmp_path: Path,
    write_tone: Callable,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = serve()
    with zipfile.ZipFile(server.folder / "download.zip", "w") as file:
        file.write(write_tone(tmp_path / "a.wav"), "wav/03a01Fa.wav")
        file.writestr("erkennung.txt", "about")
    monkeypatch.setenv("SPEECHSSL_MIRROR_EMODB", server.address)
    root = tmp_path / "root"
    (only,) = prepare(root)
    assert f"{root}: looked for wav or emodb/wav and did not find it; fetching the corpus" in caplog.text
    assert only.audio == str(root / "emodb" / "wav" / "03a01Fa.wav")
    assert [path.name for path in root.iterdir()] == ["emodb"]
    assert list(prepare(root)) == [only]
    assert len(server.requests) == 1


def test_a_wrong_archive(serve: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve()
    with zipfile.ZipFile(server.folder / "download.zip", "w") as file:
        file.writestr("erkennung.txt", "about")
    monkeypatch.setenv("SPEECHSSL_MIRROR_EMODB", server.address)
    with pytest.raises(UserError, match=r"download.zip: no 'wav' in it"):
        prepare(tmp_path / "root")
    (tmp_path / "wav").mkdir()
    with pytest.raises(UserError, match="no SPEAKER SENTENCE EMOTION"):
        list(prepare(tmp_path))


def test_a_pack_serves_for_four_classes(write_pack: Callable, serve: Callable, tmp_path: Path) -> None:
    write_pack("emodb4", [{"audio": "03/03a01Fa.wav", "label": "happy"}, {"audio": "03/03a01Wa.wav", "label": "angry"}])
    assert [each.label for each in prepare(tmp_path / "root")] == ["happy", "angry"]


def test_all_classes_are_not_in_the_pack(
    write_pack: Callable, serve: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pack("emodb4", [{"audio": "03/03a01Fa.wav"}])
    monkeypatch.setenv("SPEECHSSL_MIRROR_EMODB", serve().address)
    with pytest.raises(UserError, match="404"):
        prepare(tmp_path / "root", Settings(classes="all"))


@pytest.mark.packs
def test_the_real_pack(packs: Path, tmp_path: Path) -> None:
    utterances = list(prepare(tmp_path))
    assert len(utterances) == INFO.utterances
    assert len({each.speaker for each in utterances}) == INFO.speakers
    assert {each.label for each in utterances} == {"angry", "happy", "neutral", "sad"}
    assert INFO.hours == pytest.approx(sum(each.duration for each in utterances) / 3600, abs=0.01)
    report = pack(list(islice(utterances, 5)), tmp_path / "packed")
    assert (report.accepted, report.rejected) == (5, 0)
