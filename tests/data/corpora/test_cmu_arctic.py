"""CMU Arctic, from a miniature in the official layout, a download, and a pack."""

import hashlib
import logging
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType

import pytest

from speechssl.config import UserError
from speechssl.data.corpora import cmu_arctic
from speechssl.data.corpora.cmu_arctic import Settings, prepare

PROMPTS = '( arctic_a0001 "Author of the danger trail, Philip Steels, etc." )\n( arctic_a0002 "Say \\"no\\"." )\n'


@pytest.fixture(autouse=True)
def _no_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPEECHSSL_PACKS", raising=False)


def _write(root: Path, speaker: str, write_tone: Callable) -> Path:
    folder = root / f"cmu_us_{speaker}_arctic"
    for name in ("arctic_a0001", "arctic_a0002"):
        write_tone(folder / "wav" / f"{name}.wav")
    (folder / "etc").mkdir()
    (folder / "etc" / "txt.done.data").write_text(PROMPTS)
    return folder


def test_the_official_layout(tmp_path: Path, write_tone: Callable, caplog: pytest.LogCaptureFixture) -> None:
    _write(tmp_path, "slt", write_tone)
    _write(tmp_path / "ARCTIC", "bdl", write_tone)
    with caplog.at_level(logging.WARNING):
        utterances = list(prepare(tmp_path))
    assert "2 recordings, expected 1132" in caplog.text
    assert [(each.speaker, Path(each.audio).stem) for each in utterances] == [
        ("bdl", "arctic_a0001"),
        ("bdl", "arctic_a0002"),
        ("slt", "arctic_a0001"),
        ("slt", "arctic_a0002"),
    ]
    assert utterances[0].text == "Author of the danger trail, Philip Steels, etc."
    assert utterances[1].text == 'Say "no".'
    assert [each.extras["sex"] for each in utterances[1:3]] == ["male", "female"]
    assert [each.speaker for each in prepare(tmp_path, Settings(speakers=("slt",)))] == ["slt", "slt"]


def test_a_voice_without_recordings_or_prompts(tmp_path: Path, write_tone: Callable) -> None:
    settings = Settings(speakers=("slt",))
    folder = _write(tmp_path, "slt", write_tone)
    (folder / "etc" / "txt.done.data").unlink()
    with pytest.raises(UserError, match=r"txt.done.data: missing; delete .*cmu_us_slt_arctic to fetch it again"):
        list(prepare(tmp_path, settings))
    for path in (folder / "wav").iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"no wav/\*.wav in it"):
        list(prepare(tmp_path, settings))


def test_the_pack_and_a_download_together(
    write_pack: Callable, serve: Callable, tmp_path: Path, write_tone: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pack(
        "cmu_arctic",
        [{"audio": "bdl/arctic_a0001.wav", "speaker": "bdl"}, {"audio": "slt/arctic_a0001.wav", "speaker": "slt"}],
    )
    server = serve()
    top = _write(tmp_path, "rms", write_tone)
    archive = server.folder / "cmu_us_rms_arctic.tar.bz2"
    with tarfile.open(archive, "w:bz2") as tar:
        tar.add(top, arcname=top.name)
    monkeypatch.setenv("SPEECHSSL_MIRROR_CMU_ARCTIC", server.address)
    root, settings = tmp_path / "root", Settings(speakers=("rms", "slt"))
    with pytest.raises(UserError, match="wrong sha256 checksum"):
        prepare(root, settings)
    checksum = f"sha256:{hashlib.sha256(archive.read_bytes()).hexdigest()}"
    monkeypatch.setattr(cmu_arctic, "_CHECKSUMS", MappingProxyType({"rms": checksum}))
    assert [each.speaker for each in prepare(root, settings)] == ["rms", "rms", "slt"]
    assert (root / "cmu_us_rms_arctic" / "wav").is_dir()
