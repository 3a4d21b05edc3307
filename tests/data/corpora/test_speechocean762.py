"""speechocean762, from a miniature in the official layout, a download, and a pack."""

import logging
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from speechssl.config import UserError
from speechssl.data.corpora.speechocean762 import prepare


@pytest.fixture(autouse=True)
def _no_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPEECHSSL_PACKS", raising=False)


def _write(folder: Path, write_tone: Callable) -> Path:
    for split, speaker, name, text in (
        ("train", "0001", "000010011", "WE CALL IT BEAR"),
        ("test", "0003", "000030012", "MARK IS GOING"),
    ):
        path = f"WAVE/SPEAKER{speaker}/{name}.WAV"
        write_tone(folder / path)
        (folder / split).mkdir()
        tables = {
            "wav.scp": f"{name}\t{path}\n",
            "text": f"{name}\t{text}\n",
            "utt2spk": f"{name} {speaker}\n",
            "spk2age": f"{speaker}\t6\n",
            "spk2gender": f"{speaker}\tm\n",
        }
        for table, content in tables.items():
            (folder / split / table).write_text(content)
    write_tone(folder / "WAVE" / "SPEAKER0001" / "000010099.WAV")  # in no list
    return folder


def test_the_official_layout(tmp_path: Path, write_tone: Callable, caplog: pytest.LogCaptureFixture) -> None:
    folder = _write(tmp_path / "speechocean762", write_tone)
    with caplog.at_level(logging.WARNING):
        train, test = prepare(tmp_path)
    assert "2 utterances in its lists, expected 5000" in caplog.text
    assert train.audio == str(folder / "WAVE" / "SPEAKER0001" / "000010011.WAV")
    assert (train.speaker, train.split, train.text) == ("0001", "train", "we call it bear")
    assert train.extras == {"sex": "male", "age": 6}
    assert (test.speaker, test.split) == ("0003", "test")
    assert test.duration == pytest.approx(0.25)


def test_a_list_that_is_missing(tmp_path: Path, write_tone: Callable) -> None:
    folder = _write(tmp_path, write_tone)
    (folder / "train" / "spk2age").unlink()
    assert [each.extras for each in prepare(tmp_path)] == [{"sex": "male"}, {"sex": "male", "age": 6}]
    (folder / "train" / "text").unlink()
    with pytest.raises(UserError, match=r"train/text: No such file .* delete the corpus's folder to fetch it again"):
        list(prepare(tmp_path))


def test_download(serve: Callable, tmp_path: Path, write_tone: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve()
    top = _write(tmp_path / "speechocean762", write_tone)
    with tarfile.open(server.folder / "speechocean762.tar.gz", "w:gz") as tar:
        tar.add(top, arcname=top.name)
    monkeypatch.setenv("SPEECHSSL_MIRROR_SPEECHOCEAN762", server.address)
    root = tmp_path / "root"
    assert len(list(prepare(root))) == 2
    assert [path.name for path in root.iterdir()] == ["speechocean762"]


def test_a_pack(write_pack: Callable, tmp_path: Path) -> None:
    write_pack("speechocean762", [{"audio": "test/0003/000030012.wav", "speaker": "0003", "split": "test"}])
    (only,) = prepare(tmp_path / "root")
    assert (only.speaker, only.split) == ("0003", "test")
