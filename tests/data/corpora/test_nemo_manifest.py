"""Manifests of NVIDIA NeMo, plain and tarred."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from speechssl.config import UserError
from speechssl.data.corpora import nemo
from speechssl.data.corpora.nemo_manifest import Settings, is_manifest, prepare
from speechssl.data.waveforms import pack
from tests.data.test_members import wav, write_tar


def write_lines(path: Path, *entries: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(each) + "\n" for each in entries), encoding="utf-8")
    return path


def test_a_manifest_with_everything(tmp_path: Path, write_tone: Callable) -> None:
    long = write_tone(tmp_path / "wav" / "long.wav", seconds=3.0)
    manifest = write_lines(
        tmp_path / "train_manifest.json",
        {
            "audio_filepath": "wav/long.wav",
            "text": "cafe\u0301",
            "duration": 1.0,
            "offset": 0.5,
            "speaker": 3,
            "lang": "fr",
        },
        {"audio_filepath": str(long), "text": "all of it", "duration": 3.0},
        {"audio_filepath": str(long), "text": None, "duration": float("nan"), "offset": 2.5, "quality": 0.5},
    )
    source = prepare(manifest)
    found = list(source)
    assert source.findings.unused == ["quality"]
    assert [(each.offset, each.duration, each.text) for each in found] == [
        (0.5, 1.0, "café"),
        (0.0, 3.0, "all of it"),
        (2.5, 0.5, None),
    ]
    assert (found[0].speaker, found[0].language, found[0].split) == ("3", "fr", "train")
    assert found[2].extras["quality"] == 0.5
    assert [each.audio for each in found] == [str(long)] * 3
    assert pack(found, tmp_path / "out").rejected == 0


def test_audio_that_no_entry_covers_is_told(tmp_path: Path, write_tone: Callable) -> None:
    write_tone(tmp_path / "a.wav", seconds=2.0)
    source = prepare(write_lines(tmp_path / "m.json", {"audio_filepath": "a.wav", "duration": 1.0, "text": "x"}))
    assert [each.duration for each in source] == [1.0]
    assert "1 file has more audio than its stretches cover, 1 s in all: a.wav has 2 s" in source.findings.notes[0]


def test_a_stretch_of_no_length_is_left_out_alone(tmp_path: Path, write_tone: Callable) -> None:
    one = str(write_tone(tmp_path / "one.wav", seconds=1.0))
    entries = [{"audio_filepath": one, "offset": 0.5, "duration": each, "text": "x"} for each in (0.5, 0)]
    source = prepare(write_lines(tmp_path / "m.json", *entries))
    assert [(each.offset, each.duration) for each in source] == [(0.5, 0.5)]
    assert source.findings.notes == [f"{tmp_path}/m.json: 1 row left out, for its stretch has no length: line 2"]


def test_commands_are_labels(tmp_path: Path, write_tone: Callable) -> None:
    write_tone(tmp_path / "a.wav")
    manifest = write_lines(tmp_path / "m.jsonl", {"audio_filepath": "a.wav", "duration": 0.25, "command": "yes"})
    assert [each.label for each in prepare(manifest)] == ["yes"]


def test_a_folder_of_manifests(tmp_path: Path, write_tone: Callable) -> None:
    write_tone(tmp_path / "a.wav")
    for name in ("train", "test"):
        write_lines(tmp_path / f"{name}_manifest.json", {"audio_filepath": "a.wav", "duration": 0.25, "text": name})
    write_lines(tmp_path / "other.json", {"layers": 3})
    assert [(each.split, each.text) for each in prepare(tmp_path)] == [("test", "test"), ("train", "train")]
    chosen = prepare(tmp_path, Settings(files=("test_manifest.json",)))
    assert [each.text for each in chosen] == ["test"]


def test_a_tarred_data_set(tmp_path: Path) -> None:
    write_tar(tmp_path / "audio_0.tar", {"a.wav": wav(200)})
    write_tar(tmp_path / "audio_1.tar", {"b.wav": wav(300)})
    manifest = write_lines(
        tmp_path / "tarred_audio_manifest.json",
        {"audio_filepath": "a.wav", "duration": 0.25, "text": "one", "shard_id": 0},
        {"audio_filepath": "b.wav", "duration": 0.25, "text": "two", "shard_id": 1},
        {"audio_filepath": "c.wav", "duration": 0.25, "text": "three", "shard_id": 1},
    )
    report = pack(prepare(manifest), tmp_path / "out")
    assert (report.accepted, report.rejected) == (2, 1)
    assert "audio_1.tar::c.wav" in (tmp_path / "out" / "rejects.jsonl").read_text()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "no 'audio_filepath'; there are: no lines"),
        ('{"path": "a"}', "no 'audio_filepath'; there are: path"),
        ("[1]", r"m\.json:1: given list, allowed: a JSON object"),
        ('{"audio_filepath": "a.wav"', r"m\.json:1: not JSON"),
        ('{"audio_filepath": "a.wav", "duration": -1}', r"m\.json:1: duration: given -1, allowed: seconds"),
        ('{"audio_filepath": "a.wav", "duration": "long"}', r"m\.json:1: duration: given 'long'"),
    ],
)
def test_what_is_no_manifest_is_one_line(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "m.json"
    path.write_text(content)
    with pytest.raises(UserError, match=words):
        list(prepare(path))
    with pytest.raises(UserError, match=r"no manifest of NeMo: looked for"):
        list(prepare(tmp_path / "nothing"))
    assert not is_manifest(tmp_path)


def test_the_polish_corpus_of_the_same_name_says_so(tmp_path: Path) -> None:
    manifest = write_lines(tmp_path / "m.json", {"audio_filepath": "a.wav", "duration": 1.0})
    for root in (manifest, tmp_path):
        with pytest.raises(UserError, match=r"speechssl prepare nemo_manifest --root"):
            list(nemo.prepare(root))


def test_the_split_is_in_the_name_of_the_manifest_or_in_a_relative_path(tmp_path: Path, write_tone: Callable) -> None:
    entries = [{"audio_filepath": f"{name}/a.wav"} for name in ("audio/train", "audio", str(tmp_path / "test"))]
    for name in ("audio/train", "audio", "test"):
        write_tone(tmp_path / name / "a.wav")
    assert [each.split for each in prepare(write_lines(tmp_path / "all.json", *entries))] == ["train", None, None]
    assert [each.split for each in prepare(write_lines(tmp_path / "dev.json", *entries))] == ["dev"] * 3


def test_the_column_of_a_field_is_named(tmp_path: Path, write_tone: Callable) -> None:
    entry = {"audio_filepath": str(write_tone(tmp_path / "a.wav")), "command": "yes", "transcript": "x", "lang": "en"}
    source = prepare(write_lines(tmp_path / "m.json", entry))
    assert [(each.label, each.text, each.language) for each in source] == [("yes", "x", "en")]
    assert source.findings.columns == {"label": "command", "text": "transcript", "language": "lang"}
