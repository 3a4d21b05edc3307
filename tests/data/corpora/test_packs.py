"""Packs: whole or not there, unpacked once, read as they say."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from speechssl.config import UserError
from speechssl.data.corpora import packs as module
from speechssl.data.corpora.packs import find_pack, pack_utterances, unpack_pack

ROWS: list[dict[str, object]] = [
    {"audio": "01/a.wav", "speaker": "01", "label": "angry", "language": "de", "text": "ja", "age": 31},
    {"audio": "02/b.wav", "speaker": "02", "label": "sad", "split": "test"},
]


def test_a_pack_is_unpacked_once_and_read(write_pack: Callable, tmp_path: Path) -> None:
    packs = write_pack("toy", ROWS)
    folder = unpack_pack("toy", tmp_path / "root")
    assert folder == tmp_path / "root" / "toy.pack"
    first, second = pack_utterances(folder)
    assert first.audio == str(folder / "01" / "a.wav")
    assert first.duration == pytest.approx(0.25)
    assert (first.speaker, first.label, first.language, first.text) == ("01", "angry", "de", "ja")
    assert first.extras == {"age": 31}
    assert (second.speaker, second.split, second.text) == ("02", "test", None)
    assert (folder / "README.md").read_text() == "licence"
    shutil.rmtree(packs / "toy")
    assert unpack_pack("toy", tmp_path / "root") == folder


def test_no_pack(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SPEECHSSL_PACKS", raising=False)
    assert find_pack("toy") is None
    monkeypatch.setenv("SPEECHSSL_PACKS", str(tmp_path))
    assert unpack_pack("toy", tmp_path / "root") is None
    assert not (tmp_path / "root").exists()
    monkeypatch.setenv("SPEECHSSL_PACKS", str(tmp_path / "none"))
    with pytest.raises(UserError, match=r"SPEECHSSL_PACKS: given '.*none', allowed: a folder of packs"):
        find_pack("toy")


def test_a_broken_pack_leaves_nothing(write_pack: Callable, tmp_path: Path) -> None:
    packs = write_pack("toy", ROWS)
    broken = packs / "toy" / "audio-001.tar"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:700])
    with pytest.raises(UserError, match=r"audio-001.tar: not a whole tar archive"):
        unpack_pack("toy", tmp_path / "root")
    assert list((tmp_path / "root").iterdir()) == []
    broken.write_bytes(whole)
    assert unpack_pack("toy", tmp_path / "root") is not None


def test_a_killed_run_begins_again(write_pack: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pack("toy", ROWS)
    left = tmp_path / "root" / ".toy.pack.partial"
    left.mkdir(parents=True)
    (left / "old.wav").write_text("of a killed run")
    folder = unpack_pack("toy", tmp_path / "root")
    assert folder is not None
    assert not (folder / "old.wav").exists()
    assert not left.exists()


def test_a_pack_that_lies_unpacked_is_used_where_it_lies(
    write_pack: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packs = write_pack("toy", ROWS)
    for row in ROWS:
        (packs / "toy" / str(row["audio"])).parent.mkdir()
        shutil.copy(tmp_path / "audio" / "toy" / str(row["audio"]), packs / "toy" / str(row["audio"]))
    monkeypatch.setattr(module, "extract", None)
    assert unpack_pack("toy", tmp_path / "root") == packs / "toy"
    assert len(list(pack_utterances(packs / "toy"))) == 2
