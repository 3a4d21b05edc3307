"""Vectors of recordings in tars, Parquet and Arrow: the same as of the files, with texts and labels."""

import shlex
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from speechssl import cli
from speechssl.config import UserError
from speechssl.data.tables import json_object
from speechssl.embed.clips import to_waveform
from speechssl.extract.plan import read_plan
from speechssl.extract.run import extract
from tests.data.corpora.test_huggingface import save, table, write
from tests.data.test_members import wav, write_tar

pytestmark = pytest.mark.usefixtures("two_threads_throughout")

PITCHES = [200, 300, 400]


@pytest.fixture(scope="module")
def vectors(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """Of the same recordings as plain files."""
    folder = tmp_path_factory.mktemp("plain")
    for number, pitch in enumerate(PITCHES):
        (folder / f"{number}.wav").write_bytes(wav(pitch))
    extract(model_folder, folder, folder / "v.parquet")
    return vectors_of(folder / "v.parquet")


def vectors_of(path: Path) -> np.ndarray:
    return np.stack(pq.read_table(path)["vector"].to_numpy())


def source(kind: str, folder: Path) -> str:
    content = table(PITCHES, emotion=[0, 1, 0], text=["x", "y", "z"])
    if kind == "tar":
        files = {
            f"{number}.{end}": data
            for number, pitch in enumerate(PITCHES)
            for end, data in (("wav", wav(pitch)), ("txt", b"xyz"[number : number + 1]))
        }
        write_tar(folder / "s-0.tar", files)
        return str(folder / "s-0.tar")
    if kind in ("shards", "glob", "folder"):
        for number, pitch in enumerate(PITCHES):
            write_tar(folder / "x" / f"s-{number}.tar", {"a.wav": wav(pitch), "a.txt": b"xyz"[number : number + 1]})
        return {"shards": f"{folder}/x/s-{{0..2}}.tar", "glob": f"{folder}/x/*.tar", "folder": str(folder)}[kind]
    if kind == "saved":
        save(folder / "set", content)
        return str(folder / "set")
    return str(write(folder / f"t.{kind}", content))


@pytest.mark.parametrize("kind", ["tar", "shards", "glob", "folder", "parquet", "arrow", "saved"])
def test_vectors_are_those_of_the_files(kind: str, model_folder: Path, vectors: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    out = tmp_path / "v.parquet"
    report = extract(model_folder, source(kind, tmp_path / "in"), out)
    assert (report.written, report.failed) == (3, 0)
    np.testing.assert_allclose(vectors_of(out), vectors, atol=1e-6)
    found = pq.read_table(out)
    assert found["text"].to_pylist() == ["x", "y", "z"]
    assert all("::" in name for name in found["path"].to_pylist())
    assert extract(model_folder, source(kind, tmp_path / "in"), tmp_path / "w.parquet").written == 3


def test_a_member_that_cannot_be_used_is_named(model_folder: Path, tmp_path: Path) -> None:
    tar = write_tar(
        tmp_path / "a.tar", {"good.wav": wav(), "bad.wav": b"nothing", "m.m4a": b"\0\0\0\x20ftypM4A " + b"\0" * 40}
    )
    report = extract(model_folder, tar, tmp_path / "v.parquet")
    assert (report.written, report.failed) == (1, 2)
    assert report.errors is not None
    lines = [json_object(line, "") for line in report.errors.read_text().splitlines()]
    assert [line["path"] for line in lines] == ["a.tar::bad.wav", "a.tar::m.m4a"]


def test_a_container_that_changed_is_encoded_anew(model_folder: Path, tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", {"a.wav": wav(200)})
    extract(model_folder, tar, tmp_path / "v.parquet")
    before = vectors_of(tmp_path / "v.parquet")
    assert extract(model_folder, tar, tmp_path / "v.parquet").finished_before
    write_tar(tar, {"a.wav": wav(400), "b.wav": wav(300)})
    assert extract(model_folder, tar, tmp_path / "v.parquet").written == 2
    assert not np.allclose(vectors_of(tmp_path / "v.parquet")[0], before[0])


def test_a_place_of_a_manifest_is_a_clip(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", {"a.wav": wav()})
    (tmp_path / "a.wav").write_bytes(wav())
    found = [to_waveform(place, name="clip") for place in (f"{tar}::a.wav", tmp_path / "a.wav")]
    np.testing.assert_array_equal(*found)


def test_what_is_no_audio_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"nothing" * 500)
    with pytest.raises(UserError, match=r"a\.tar: not a tar"):
        read_plan(tmp_path / "a.tar")
    with pytest.raises(UserError, match="no such file or folder"):
        read_plan(tmp_path / "gone.parquet")


def test_the_commands_of_the_page_run(model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "demo").mkdir(parents=True)
    (tmp_path / "runs" / "demo" / "pretrain").symlink_to(model_folder)
    for number in range(2):
        write_tar(tmp_path / "shards" / f"train-{number:06}.tar", {"a.wav": wav()})
    write(tmp_path / "train.parquet", table([200]))
    page = (Path(__file__).parents[2] / "docs" / "formats.md").read_text(encoding="utf-8")
    commands = [shlex.split(line)[1:] for line in page.splitlines() if line.startswith("speechssl extract ")]
    assert len(commands) == 2
    assert [cli.main(words) for words in commands] == [0, 0]
    assert [len(pq.read_table(f"{name}.parquet")) for name in ("tars", "rows")] == [2, 1]


def test_what_is_beside_the_tars_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_tar(tmp_path / "in" / "x.tar", {"joy/a.wav": wav(200), "sad/b.wav": wav(300)})
    words = ["prepare", "webdataset", "--root", str(tmp_path / "in"), "--workers", "1", "--out"]
    (tmp_path / "in" / "more.tar.gz").write_bytes(b"")
    (tmp_path / "in" / "more.parquet").write_bytes(b"")
    (tmp_path / "in" / "loose.wav").write_bytes(wav(400))
    assert cli.main([*words, str(tmp_path / "out")]) == 0
    said = capfd.readouterr().err
    assert "beside the tars, these are not read: loose.wav, more.parquet, more.tar.gz\n" in said
    assert "no label: no sample has a .cls file, nor a 'label' in its .json; folders in a tar are no labels: " in said


@pytest.mark.parametrize("kind", ["manifest", "file", "parquet"])
def test_extract_says_why_there_is_no_label(
    kind: str, model_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.wav").write_bytes(wav(200))
    (tmp_path / "m.jsonl").write_text('{"audio": "a.wav", "duration": 0.25}\n')
    write(tmp_path / "t.parquet", table([200]))
    name, reason = {
        "manifest": ("m.jsonl", "no line of the manifest has a 'label'"),
        "file": ("a.wav", "names of files say none; a table or a manifest can"),
        "parquet": ("t.parquet", "no column called 'label', 'class', 'emotion' or 'category' has a value"),
    }[kind]
    assert cli.main(["extract", str(model_folder), str(tmp_path / name), "-o", str(tmp_path / "v.parquet")]) == 0
    assert f"\nno label: {reason}\n" in capfd.readouterr().err
