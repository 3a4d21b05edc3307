"""The commands of docs/formats.md run, each on a folder of its format."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from speechssl import cli
from speechssl.data.manifest import read_manifest
from tests.data.corpora.test_foreign import make
from tests.data.corpora.test_huggingface import Hub, table, write
from tests.data.test_members import wav, write_tar

PAGE = Path(__file__).parents[3] / "docs" / "formats.md"
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
COMMANDS = [shlex.split(line)[1:] for block in BLOCKS for line in block.splitlines()]
PREPARED = [words for words in COMMANDS if words[0] == "prepare"]


@pytest.fixture
def here(tmp_path: Path, write_tone: Callable, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with what the page names."""
    monkeypatch.chdir(tmp_path)
    tone = write_tone(tmp_path / "tone.wav")
    for kind, name in (("kaldi", "data"), ("lhotse", "manifests"), ("fairseq", "fairseq-data")):
        make(kind, tmp_path / name, tone)
    (tmp_path / "cv-corpus").mkdir()
    make("commonvoice", tmp_path / "cv-corpus" / "br", tone)
    make("nemo_manifest", tmp_path / "nemo", tone)
    (tmp_path / "nemo" / "a.wav").rename("a.wav")
    (tmp_path / "nemo" / "manifest.json").rename("train_manifest.json")
    write(Path("train.parquet"), table([200], text=["hello"]))
    for number in range(2):
        write_tar(tmp_path / "shards" / f"train-{number:06}.tar", {"a.wav": wav(), "a.txt": b"hello"})
    name = "br/test-00000-of-00001.parquet"
    write(tmp_path / "hub" / name, table([200], text=["hello"]))
    hub = Hub(tmp_path / "hub", {None: [name]})
    monkeypatch.setattr("huggingface_hub.list_repo_files", hub.list_repo_files)
    monkeypatch.setattr("huggingface_hub.snapshot_download", hub.snapshot_download)
    return tmp_path


def test_every_command_is_run() -> None:
    assert {words[0] for words in COMMANDS} == {"prepare", "extract"}
    known = {"kaldi", "lhotse", "nemo_manifest", "fairseq", "commonvoice", "huggingface", "webdataset"}
    assert {words[1] for words in PREPARED} == known


@pytest.mark.parametrize("words", PREPARED, ids=" ".join)
def test_prepare(words: list[str], here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = here / words[words.index("--out") + 1]
    assert cli.main([word.replace("hf:org/name", "hf:org/set") for word in words]) == 0
    assert {each.text for each in read_manifest(out / "manifest.jsonl")} == {"hello"}
    assert (out / "rejects.jsonl").read_text() == ""
