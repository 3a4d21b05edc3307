"""LibriSpeech and Libri-Light's subsets: miniatures of the official layouts, read as torchaudio reads them."""

import hashlib
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from speechssl.config import UserError, load_config
from speechssl.data.corpora import librispeech
from speechssl.data.corpora.librispeech import Archive, Settings, prepare
from speechssl.data.manifest import Utterance

SPEAKERS = """;ID  |SEX| SUBSET           |MINUTES| NAME
14   | F | train-clean-360  | 25.03 | A. Name
84   | M | dev-clean        | 25.19 | B. | Name
"""
CHAPTERS = {"84-121123": ["GO DO YOU HEAR", "BUT IN LESS"], "84-9": ["ONE"], "1272-128104": ["MISTER QUILTER IS"]}


def _write_chapters(folder: Path, chapters: dict[str, list[str]], write_tone: Callable) -> None:
    for chapter, texts in chapters.items():
        speaker, number = chapter.split("-")
        place = folder / speaker / number
        for index, text in enumerate(texts):
            write_tone(place / f"{chapter}-{index:04d}.flac", seconds=0.2 + 0.1 * index)
            with (place / f"{chapter}.trans.txt").open("a") as file:
                file.write(f"{chapter}-{index:04d} {text}\n")


def _tar(folder: Path, archive: Path) -> str:
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, arcname=folder.name)
    return f"sha256:{hashlib.sha256(archive.read_bytes()).hexdigest()}"


@pytest.fixture
def served(tmp_path: Path, serve: Callable, write_tone: Callable, monkeypatch: pytest.MonkeyPatch) -> Callable:
    """`served(**server)`: dev-clean and the Libri-Light subsets, with checksums to match."""

    def build(**options: object) -> object:
        server = serve(**options)
        made = tmp_path / "made"
        _write_chapters(made / "LibriSpeech" / "dev-clean", CHAPTERS, write_tone)
        (made / "LibriSpeech" / "SPEAKERS.TXT").write_text(SPEAKERS)
        checksum = _tar(made / "LibriSpeech", server.folder / "dev-clean.tar.gz")
        monkeypatch.setattr(librispeech, "ARCHIVES", {"dev-clean": Archive(checksum, 4)})
        limited = made / "librispeech_finetuning"
        for part in range(6):
            _write_chapters(limited / "1h" / str(part) / "clean", {f"{part + 1}-5": ["A", "B"]}, write_tone)
            _write_chapters(limited / "1h" / str(part) / "other", {f"{part + 11}-5": ["C"]}, write_tone)
        _write_chapters(limited / "9h" / "clean", {"14-208": ["D"]}, write_tone)
        _write_chapters(limited / "9h" / "other", {"15-208": ["E"]}, write_tone)
        monkeypatch.setattr(
            librispeech, "LIMITED_CHECKSUM", _tar(limited, server.folder / "librispeech_finetuning.tgz")
        )
        monkeypatch.setenv("SPEECHSSL_MIRROR_LIBRISPEECH", server.address)
        monkeypatch.setenv("SPEECHSSL_MIRROR_LIBRILIGHT", server.address)
        return server

    return build


def _settings(*subsets: str) -> Settings:
    return Settings.model_validate({"subsets": subsets})


def _row(utterance: Utterance) -> tuple[str, str | None, str | None]:
    return Path(utterance.audio).stem, utterance.speaker, utterance.text


def test_a_subset(served: Callable, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    server = served(cut_after=500, cuts=1)
    root = tmp_path / "root"
    utterances = list(prepare(root, _settings("dev-clean")))
    assert [_row(each) for each in utterances] == [
        ("1272-128104-0000", "1272", "MISTER QUILTER IS"),
        ("84-121123-0000", "84", "GO DO YOU HEAR"),
        ("84-121123-0001", "84", "BUT IN LESS"),
        ("84-9-0000", "84", "ONE"),
    ]
    assert [each.extras.get("sex") for each in utterances] == [None, "male", "male", "male"]
    assert {(each.split, each.language, each.extras["subset"]) for each in utterances} == {("dev", "en", "dev-clean")}
    assert utterances[2].duration == pytest.approx(0.3, abs=1e-3)
    assert server.requests == [("/dev-clean.tar.gz", None), ("/dev-clean.tar.gz", 500)]
    assert [path.name for path in root.iterdir()] == ["LibriSpeech"]
    assert list(prepare(root, _settings("dev-clean"))) == utterances
    assert len(server.requests) == 2
    assert caplog.text.count("looked for LibriSpeech/dev-clean and did not find it; fetching") == 1
    assert caplog.text.count("\n") == 1


@pytest.mark.parametrize(("subset", "count"), [("10min", 3), ("1h", 18), ("10h", 20)])
def test_libri_light(served: Callable, tmp_path: Path, subset: str, count: int) -> None:
    served()
    utterances = list(prepare(tmp_path / "root", _settings(subset)))
    assert len(utterances) == count
    assert all(each.text and each.split == "train" and each.extras["subset"] == subset for each in utterances)


def test_as_torchaudio_reads_them(served: Callable, tmp_path: Path) -> None:
    from torchaudio.datasets import LIBRISPEECH, LibriLightLimited
    from torchaudio.datasets.librispeech import _get_librispeech_metadata

    served()
    root = tmp_path / "root"
    for subset in ("dev-clean", "10min", "1h", "10h"):
        ours = {_row(each) for each in prepare(root, _settings(subset))}
        if subset == "dev-clean":
            whole = LIBRISPEECH(root, subset)
            rows = [whole.get_metadata(index) for index in range(len(whole))]
        else:
            # Its own __getitem__ decodes with torchcodec, which is not needed for the names and texts.
            limited = LibriLightLimited(root, subset)
            rows = [
                _get_librispeech_metadata(name, limited._path, folder, ".flac", ".trans.txt")
                for folder, name in limited._fileids_paths
            ]
        assert {(Path(row[0]).stem, str(row[3]), row[2]) for row in rows} == ours


def test_a_wrong_checksum(served: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served()
    monkeypatch.setattr(librispeech, "ARCHIVES", {"dev-clean": Archive("sha256:" + "0" * 64, 4)})
    with pytest.raises(UserError, match=r"dev-clean.tar.gz: wrong sha256 checksum"):
        list(prepare(tmp_path / "root", _settings("dev-clean")))
    assert not (tmp_path / "root").exists()


def test_what_is_incomplete_is_said(
    served: Callable, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    served()
    root = tmp_path / "root"
    list(prepare(root, _settings("dev-clean")))
    chapter = root / "LibriSpeech" / "dev-clean" / "84" / "121123"
    (chapter / "84-121123-0001.flac").unlink()
    (chapter / "84-121123.trans.txt").unlink()
    utterances = list(prepare(root, _settings("dev-clean")))
    assert [each.text for each in utterances] == ["MISTER QUILTER IS", None, "ONE"]
    assert "3 utterances, expected 4" in caplog.text


def test_unknown_subset() -> None:
    with pytest.raises(UserError, match=r"subsets.*given 'train-clean'"):
        load_config(Settings, overrides=['subsets=["train-clean"]'])


def test_checksums_are_torchaudios() -> None:
    from torchaudio.datasets.librilight_limited import _CHECKSUM
    from torchaudio.datasets.librispeech import _CHECKSUMS

    theirs = {url.rpartition("/")[2]: f"sha256:{checksum}" for url, checksum in _CHECKSUMS.items()}
    ours = {f"{name}.tar.gz": each.checksum for name, each in librispeech.ARCHIVES.items()}
    assert ours == theirs
    assert f"sha256:{_CHECKSUM}" == librispeech.LIMITED_CHECKSUM
