"""Hidden files, such as those that a Mac writes beside each file on a foreign disk, change no corpus."""

import importlib
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from speechssl.data.remote import list_address
from tests.data.test_members import wav, write_tar

APPLE_DOUBLE = b"\0\5\x16\7\0\2\0\0Mac OS X" + bytes([0xB0, 0xFF]) * 40


def _librispeech(root: Path, tone: Callable[..., Path]) -> None:
    chapter = root / "LibriSpeech" / "dev-clean" / "84" / "121123"
    tone(chapter / "84-121123-0000.flac")
    (chapter / "84-121123.trans.txt").write_text("84-121123-0000 GO\n")


def _cmu_arctic(root: Path, tone: Callable[..., Path]) -> None:
    folder = root / "cmu_us_slt_arctic"
    tone(folder / "wav" / "arctic_a0001.wav")
    (folder / "etc").mkdir()
    (folder / "etc" / "txt.done.data").write_text('( arctic_a0001 "Author." )\n')


def _commonvoice(root: Path, tone: Callable[..., Path]) -> None:
    tone(root / "clips" / "a.mp3", rate=32000)
    (root / "train.tsv").write_text("client_id\tpath\tsentence\nab\ta.mp3\thi\n")


def _lhotse(root: Path, tone: Callable[..., Path]) -> None:
    source = {"type": "file", "channels": [0], "source": str(tone(root / "a.wav"))}
    about = {"id": "a", "sources": [source], "sampling_rate": 16000, "num_samples": 4000, "duration": 0.25}
    (root / "recordings.jsonl").write_text(json.dumps(about) + "\n")


def _huggingface(root: Path, tone: Callable[..., Path]) -> None:
    audio = pa.array([{"bytes": wav(200), "path": "a.wav"}], pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    root.mkdir()
    pq.write_table(pa.table({"audio": audio, "text": ["hi"]}), root / "train.parquet")


def _nemo_manifest(root: Path, tone: Callable[..., Path]) -> None:
    tone(root / "a.wav")
    (root / "train.json").write_text('{"audio_filepath": "a.wav", "duration": 0.25, "text": "hi"}\n')


def _fairseq(root: Path, tone: Callable[..., Path]) -> None:
    tone(root / "a.wav")
    (root / "train.tsv").write_text(f"{root}\na.wav\t4000\n")


def _kaldi(root: Path, tone: Callable[..., Path]) -> None:
    (root / "train").mkdir(parents=True)
    (root / "train" / "wav.scp").write_text(f"a {tone(root / 'a.wav')}\n")
    (root / "train" / "text").write_text("a hi\n")


def _webdataset(root: Path, tone: Callable[..., Path]) -> None:
    root.mkdir()
    write_tar(root / "a.tar", {"a.wav": wav(200), "a.txt": b"hi"})


def _folder(root: Path, tone: Callable[..., Path]) -> None:
    tone(root / "joy" / "a.wav")
    tone(root / "sad" / "b.wav")


BUILDERS = (
    _librispeech,
    _cmu_arctic,
    _commonvoice,
    _lhotse,
    _huggingface,
    _nemo_manifest,
    _fairseq,
    _kaldi,
    _webdataset,
    _folder,
)


@pytest.mark.parametrize("build", BUILDERS, ids=lambda build: build.__name__[1:])
def test_companions_change_nothing(
    build: Callable, tmp_path: Path, write_tone: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SPEECHSSL_PACKS", raising=False)
    name, root = build.__name__[1:], tmp_path / "root"
    corpus = importlib.import_module(f"speechssl.data.corpora.{name}")
    settings = {"librispeech": {"subsets": ("dev-clean",)}, "cmu_arctic": {"speakers": ("slt",)}}.get(name, {})
    build(root, write_tone)
    before = corpus.prepare(root, corpus.Settings(**settings))
    utterances = list(before)
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        path.with_name(f"._{path.name}").write_bytes(APPLE_DOUBLE)
    after = corpus.prepare(root, corpus.Settings(**settings))
    assert utterances
    assert list(after) == utterances
    assert getattr(after, "findings", None) == getattr(before, "findings", None)


def test_companions_behind_an_address(tmp_path: Path) -> None:
    for name in ("a.wav", "._a.wav"):
        (tmp_path / name).touch()
    for address in (f"file://{tmp_path}", f"file://{tmp_path}/*.wav"):
        assert [each.path for each in list_address(address)] == ["a.wav"]
