"""What docs/data.md says works: its tables and manifests are read, and mean what it says."""

import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechssl import cli
from speechssl.data.column_names import COLUMNS, find_fields
from speechssl.data.manifest import read_manifest
from speechssl.data.utterance import Utterance

TEXT = (Path(__file__).parent.parent / "docs" / "data.md").read_text(encoding="utf-8")
KINDS = {"csv": "metadata.csv", "tsv": "metadata.tsv", "jsonl": "metadata.jsonl"}
TABLES = re.findall(r"^```(csv|tsv|jsonl)\n(.*?)^```$", TEXT, flags=re.DOTALL | re.MULTILINE)
SAID = [
    "label 2 of 2 · text 2 of 2 · speakers 2 · splits: train 1, test 1\n",
    "label 2 of 2 · text 0 of 2 · speakers 2 · columns not used: age\n",
    "label 0 of 2 · text 2 of 2 · speakers 0\n",
    "label 2 of 2 (column 'event_label') · text 0 of 2 · speakers 0\n",
]


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    root = tmp_path / "recordings"
    (root / "clips").mkdir(parents=True)
    for name, seconds in (("clips/a.wav", 1), ("clips/b.wav", 1), ("long.wav", 3)):
        soundfile.write(root / name, 0.1 * np.sin(np.arange(16000 * seconds)), 16000)
    return root


@pytest.mark.parametrize(("table", "said"), list(zip(TABLES, SAID, strict=True)))
def test_tables(table: tuple[str, str], said: str, recordings: Path, capfd: pytest.CaptureFixture[str]) -> None:
    kind, content = table
    (recordings / KINDS[kind]).write_text(content, encoding="utf-8")
    out = recordings.parent / "out"
    assert cli.main(["prepare", "folder", "--root", str(recordings), "--out", str(out), "--workers", "1"]) == 0
    assert said in capfd.readouterr().err
    found = read_manifest(out / "manifest.jsonl")
    stretches = [(0.0, 1.5), (1.5, 1.5)] if "long.wav" in content else [(0.0, 1.0)] * 2
    assert [(each.offset, each.duration) for each in found] == stretches


def test_the_folder_without_a_table(recordings: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shown = re.search(r"^    (joy/0.wav .*)$", TEXT, flags=re.MULTILINE)
    assert shown is not None
    root = recordings.parent / "classes"
    for name in shown[1].split():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes((recordings / "clips" / "a.wav").read_bytes())
    assert cli.main(["prepare", "folder", "--root", str(root), "--out", str(root.parent / "out")]) == 0
    assert "label 3 of 4 " in capfd.readouterr().err


def test_the_manifest(recordings: Path) -> None:
    [content] = re.findall(r"^```manifest\n(.*?)^```$", TEXT, flags=re.DOTALL | re.MULTILINE)
    (recordings / "m.jsonl").write_text(content, encoding="utf-8")
    one, other = read_manifest(recordings / "m.jsonl")
    assert (one.offset, one.duration, one.extras) == (0.5, 1.5, {"age": 31, "room": "kitchen"})
    assert other == Utterance(audio=str(recordings / "clips" / "a.wav"), duration=0.0)
    fields = re.findall(r"^\| `(\w+)`", TEXT, flags=re.MULTILINE)
    assert sorted(fields) == sorted(Utterance.model_fields)


def test_every_name_of_a_column_is_listed_and_understood() -> None:
    rows = re.findall(r"^\| (\w+) \| ([^|]+) \| ([^|]*)\|$", TEXT, flags=re.MULTILINE)
    rows = [row for row in rows if row[0] != "field"]
    assert [field for field, *_ in rows] == list(COLUMNS)
    for field, strong, weak in rows:
        names = [
            [each.strip() for each in part.partition(";")[0].split(",") if each.strip()] for part in (strong, weak)
        ]
        listed = [{name.replace("_", "") for name in part} for part in names]
        assert listed == [set(part) for part in COLUMNS[field]]
        for name in (*names[0], *names[1]):
            columns = (name,) if field == "file" else ("file_name", name)
            assert field in find_fields(columns, "t.csv")[0]
