"""Folders of other toolkits given to `prepare folder` and `extract`: one line that names the command, and it works."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from speechssl import cli
from speechssl.config import UserError
from speechssl.data.corpora.folder import prepare
from speechssl.data.corpora.foreign import find_foreign
from speechssl.extract.plan import read_plan
from tests.data.corpora import test_commonvoice, test_huggingface, test_lhotse
from tests.data.test_members import wav, write_tar


def make(kind: str, root: Path, tone: Path) -> Path:
    """A folder of a kind beside a recording in it."""
    root.mkdir()
    audio = root / "clips" / "a.wav" if kind == "commonvoice" else root / "a.wav"
    audio.parent.mkdir(exist_ok=True)
    audio.write_bytes(tone.read_bytes())
    if kind == "kaldi":
        (root / "wav.scp").write_text(f"a {audio}\n")
        (root / "text").write_text("a hello\n")
    elif kind == "commonvoice":
        test_commonvoice.write_table(root / "validated.tsv", test_commonvoice.row("s", "a.wav", "hello"))
    elif kind == "lhotse":
        test_lhotse.write_lines(
            root / "cuts.jsonl.gz",
            test_lhotse.cut(
                test_lhotse.recording(audio, seconds=0.25), 0, 0.25, test_lhotse.supervision("s", 0, 0.25, text="hello")
            ),
        )
    elif kind == "fairseq":
        (root / "train.tsv").write_text(f"{root}\na.wav\t4000\n")
        (root / "train.wrd").write_text("hello\n")
    elif kind == "nemo_manifest":
        entry = {"audio_filepath": "a.wav", "duration": 0.25, "text": "hello"}
        (root / "manifest.json").write_text(json.dumps(entry) + "\n")
    elif kind == "huggingface":
        audio.unlink()
        test_huggingface.write(root / "train.parquet", test_huggingface.table([200], text=["hello"]))
    elif kind == "webdataset":
        audio.unlink()
        write_tar(root / "x" / "0.tar", {"a.wav": wav(), "a.txt": b"hello"})
    return root


NO_LABEL = {
    "kaldi": "there is no utt2label, utt2emotion, utt2emo or utt2class with labels in it\n",
    "commonvoice": "the tables of Common Voice hold none\n",
    "lhotse": "no supervision has a 'label'",
    "fairseq": "the tables of fairseq hold none\n",
    "nemo_manifest": "no line has a 'label', ",
    "huggingface": "no column called 'label', ",
    "webdataset": "no sample has a .cls file, nor a 'label' in its .json\n",
}
KINDS = ("kaldi", "commonvoice", "lhotse", "fairseq", "nemo_manifest", "huggingface", "webdataset")


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_names_the_command_that_reads_it(
    kind: str, tmp_path: Path, write_tone: Callable, capfd: pytest.CaptureFixture[str]
) -> None:
    root = make(kind, tmp_path / "their folder", write_tone(tmp_path / "tone.wav"))
    command = f"speechssl prepare {kind} --root {shlex.quote(str(root))} --out OUT"
    with pytest.raises(UserError) as error:
        list(prepare(root))
    assert command in str(error.value)
    assert "\n" not in str(error.value)
    if kind not in ("huggingface", "webdataset"):  # these are taken as they are
        with pytest.raises(UserError, match="speechssl prepare"):
            read_plan(root)
    out = tmp_path / "out"
    assert cli.main([*shlex.split(command)[1:-1], str(out)]) == 0
    (line,) = (out / "manifest.jsonl").read_text().splitlines()
    assert json.loads(line)["text"] == "hello"
    said = capfd.readouterr().err
    assert "label 0 of 1 · text 1 of 1" in said
    assert said.count("no label: ") == 1
    assert f"\nno label: {NO_LABEL[kind]}" in said


@pytest.mark.parametrize("kind", ["lhotse", "nemo_manifest", "fairseq", "commonvoice", "kaldi"])
def test_a_file_names_the_command_that_reads_it(kind: str, tmp_path: Path, write_tone: Callable) -> None:
    root = make(kind, tmp_path / "data", write_tone(tmp_path / "tone.wav"))
    names = {"lhotse": "cuts.jsonl.gz", "nemo_manifest": "manifest.json", "fairseq": "train.tsv"}
    path = root / {**names, "commonvoice": "validated.tsv", "kaldi": "wav.scp"}[kind]
    with pytest.raises(UserError, match=f"it is read by: speechssl prepare {kind} --root {root}") as error:
        read_plan(path)
    command = str(error.value).partition("it is read by: speechssl ")[2].removesuffix("OUT")
    assert cli.main([*shlex.split(command), str(tmp_path / "out")]) == 0


def test_plain_folders_and_their_own_tables_are_left_alone(tmp_path: Path, write_tone: Callable) -> None:
    write_tone(tmp_path / "a.wav")
    (tmp_path / "notes.json").write_text('{"audio": 3}')
    (tmp_path / "list.tsv").write_text("file_name\tlabel\na.wav\tx\n")
    (tmp_path / "vectors.parquet").write_bytes(b"")
    (tmp_path / "old.tar").write_bytes(b"")
    assert len(list(prepare(tmp_path))) == 1
    assert read_plan(tmp_path).files == 1
    (tmp_path / "wav.scp").write_text("a a.wav\n")
    with pytest.raises(UserError, match="a Kaldi data folder"):
        list(prepare(tmp_path))
    (tmp_path / "metadata.csv").write_text("file_name,label\na.wav,x\n")
    assert [each.label for each in prepare(tmp_path)] == ["x"]
    assert find_foreign(tmp_path / "list.tsv") is None


def test_a_manifest_of_speechssl_is_no_foreign_one(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text('{"audio": "a.wav", "duration": 1.0, "extras": {"sources": "x", "recording_id": "y"}}\n')
    assert find_foreign(path) is None
    assert read_plan(path).files == 1
