"""Any folder of audio: metadata in all its shapes, packs, sub-folder labels, and what people leave lying about."""

import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from speechssl.config import UserError
from speechssl.data.corpora.download import extract
from speechssl.data.corpora.folder import Settings, prepare
from speechssl.data.corpora.folder_metadata import read_metadata
from speechssl.data.manifest import Utterance
from speechssl.data.waveforms import pack


def _write_jsonl(path: Path, *rows: dict[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _by_name(root: Path, **settings: object) -> dict[str, Utterance]:
    utterances = prepare(root, Settings.model_validate(settings))
    return {Path(each.audio).relative_to(root.resolve()).as_posix(): each for each in utterances}


def test_jsonl_with_everything(tmp_path: Path, write_tone: Callable) -> None:
    write_tone(tmp_path / "clips" / "a.wav", seconds=1.0)
    _write_jsonl(
        tmp_path / "metadata.jsonl",
        {
            "audio": "clips/a.wav",
            "speaker": "Zoë",
            "text": "good day",
            "label": 3,
            "language": "en",
            "split": "train",
            "age": 31,
            "native": True,
            "note": None,
            "weight": float("nan"),
            "intent": {"order": ["tea", "milk"]},
        },
    )
    (utterance,) = prepare(tmp_path)
    assert utterance == Utterance(
        audio=str(tmp_path / "clips" / "a.wav"),
        duration=1.0,
        speaker="Zoë",
        text="good day",
        label="3",
        language="en",
        split="train",
        extras={"age": 31, "native": True, "note": None, "weight": None, "intent": '{"order": ["tea", "milk"]}'},
    )


def test_csv(tmp_path: Path, write_tone: Callable) -> None:
    write_tone(tmp_path / "a, b.flac")
    (tmp_path / "metadata.csv").write_text('\ufefffile_name,label,text,room\r\n"a, b.flac",dog,,"k ""1"""\r\n', "utf-8")
    (utterance,) = prepare(tmp_path)
    assert (utterance.label, utterance.text, utterance.extras) == ("dog", None, {"room": 'k "1"'})
    assert utterance.duration == 0.25


def test_stretches_of_one_file(tmp_path: Path, write_tone: Callable) -> None:
    write_tone(tmp_path / "long.wav", seconds=3.0)
    rows = [
        {"audio": "long.wav", "offset": 0.5, "duration": 1.0},
        {"audio": "long.wav", "offset": 2.0},
        {"audio": "long.wav", "duration": 1.5},
        {"audio": "long.wav", "duration": 3.004},  # rounded up
        {"audio": "long.wav", "duration": 9.0},
        {"audio": "long.wav", "offset": 2.5, "duration": 2.0},
        {"audio": "long.wav", "offset": 4.0},
    ]
    _write_jsonl(tmp_path / "metadata.jsonl", *rows)
    utterances = list(prepare(tmp_path))
    assert [(each.offset, each.duration) for each in utterances] == [
        (0.5, 1.0),
        (2.0, 1.0),
        (0.0, 1.5),
        (0.0, 3.004),
        (0.0, 9.0),
        (2.5, 2.0),
        (4.0, 0.0),
    ]
    report = pack(utterances, tmp_path / "packed", workers=1)
    assert (report.accepted, report.rejected, report.seconds) == (4, 3, 1.0 + 1.0 + 1.5 + 3.0)
    reasons = [json.loads(line) for line in (tmp_path / "packed" / "rejects.jsonl").read_text().splitlines()]
    assert [each.get("duration") for each in reasons] == [9.0, 2.0, None]
    assert all("beyond the end at 3.000 s" in each["reason"] for each in reasons)


def test_missing_and_broken_files_become_rejects_and_unnamed_ones_are_counted(
    tmp_path: Path, write_tone: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    write_tone(tmp_path / "good.wav")
    for name in ("left.wav", "out.OGG", "phone.m4a"):
        write_tone(tmp_path / "good.wav").with_name(name).write_bytes(b"whatever")
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    _write_jsonl(tmp_path / "metadata.jsonl", *({"audio": name} for name in ("good.wav", "gone.wav", "broken.wav")))
    with caplog.at_level(logging.WARNING):
        utterances = _by_name(tmp_path)
    assert {name: each.duration for name, each in utterances.items()} == {
        "good.wav": 0.25,
        "gone.wav": 0.0,
        "broken.wav": 0.0,
    }
    assert "3 audio files are not named in the metadata" in caplog.text
    report = pack(utterances.values(), tmp_path / "packed", workers=1)
    assert (report.accepted, report.rejected) == (1, 2)


def test_packs_keep_their_speakers_apart(tmp_path: Path, write_tone: Callable) -> None:
    for corpus in ("north", "south"):
        write_tone(tmp_path / corpus / "01" / "a.opus")
        _write_jsonl(tmp_path / corpus / "metadata.jsonl", {"audio": "01/a.opus", "speaker": "01"})
        (tmp_path / corpus / "README.md").write_text("about")
    both = _by_name(tmp_path)
    assert {name: (each.speaker, each.extras) for name, each in both.items()} == {
        "north/01/a.opus": ("north/01", {"corpus": "north"}),
        "south/01/a.opus": ("south/01", {"corpus": "south"}),
    }
    assert [each.speaker for each in _by_name(tmp_path, only=["south"]).values()] == ["01"]
    assert [each.speaker for each in _by_name(tmp_path / "south").values()] == ["01"]
    assert [each.speaker for each in _by_name(tmp_path, prefix_speakers="never").values()] == ["01", "01"]
    assert [each.speaker for each in _by_name(tmp_path / "south", prefix_speakers="always").values()] == ["south/01"]
    with pytest.raises(UserError, match="no sub-folder 'east', named in 'only'"):
        _by_name(tmp_path, only=["east"])


def test_rows_beside_packs_name_their_corpus_too(tmp_path: Path, write_tone: Callable) -> None:
    for folder in ("", "north", "south"):
        write_tone(tmp_path / "all" / folder / "a.wav")
        _write_jsonl(tmp_path / "all" / folder / "metadata.jsonl", {"audio": "a.wav", "speaker": "01"})
    found = _by_name(tmp_path / "all")
    assert {name: (each.speaker, each.extras["corpus"]) for name, each in found.items()} == {
        "a.wav": ("01", "all"),
        "north/a.wav": ("north/01", "north"),
        "south/a.wav": ("south/01", "south"),
    }


def test_splits_are_no_packs(tmp_path: Path, write_tone: Callable) -> None:
    for split in ("train", "test"):
        write_tone(tmp_path / split / "a.wav")
        (tmp_path / split / "metadata.csv").write_text("file_name,speaker\na.wav,ann\n")
    assert [(each.speaker, each.split, each.extras) for each in prepare(tmp_path)] == [
        ("ann", "test", {}),
        ("ann", "train", {}),
    ]


def test_labels_from_sub_folders(tmp_path: Path, write_tone: Callable) -> None:
    for name in ("dog/b.wav", "dog/a.WAV", "cat/a.wav"):
        write_tone(tmp_path / name.replace("WAV", "wav")).rename(tmp_path / name)
    (tmp_path / "cat" / "notes.txt").write_text("not audio")
    assert {name: each.label for name, each in _by_name(tmp_path).items()} == {
        "cat/a.wav": "cat",
        "dog/a.WAV": "dog",
        "dog/b.wav": "dog",
    }
    assert all(each.speaker is None for each in prepare(tmp_path))


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["a.wav", "b.wav"], [None, None]),
        (["wavs/a.wav", "wavs/b.wav"], [None, None]),
        (["a.wav", "dog/b.wav"], [None, None]),
        (["x/dog/a.wav", "cat/b.wav"], [None, None]),
        (["train/cat/a.wav", "test/dog/b.wav"], ["dog", "cat"]),
        (["train/a.wav", "test/b.wav"], [None, None]),
    ],
    ids=["flat", "one folder", "root and folder", "two depths", "splits with labels", "splits"],
)
def test_when_sub_folders_are_labels(
    tmp_path: Path, write_tone: Callable, names: list[str], labels: list[str | None]
) -> None:
    for name in names:
        write_tone(tmp_path / name)
    utterances = list(prepare(tmp_path))
    assert [each.label for each in utterances] == labels
    in_splits = all(name.startswith(("train", "test")) for name in names)
    assert [each.split for each in utterances] == (["test", "train"] if in_splits else [None, None])


def test_foreign_and_broken_files_are_yielded_and_hidden_ones_are_not(tmp_path: Path, write_tone: Callable) -> None:
    write_tone(tmp_path / "a.wav")
    (tmp_path / "b.m4a").write_bytes(b"\0\0\0\x20ftypM4A ")
    (tmp_path / "c.mp3").write_bytes(b"")
    (tmp_path / "d.wav").symlink_to(tmp_path / "nowhere.wav")
    write_tone(tmp_path / ".hidden" / "e.wav")
    write_tone(tmp_path / "f.wav").rename(tmp_path / "._f.wav")
    (tmp_path / "g.wav").mkdir()
    utterances = _by_name(tmp_path)
    assert {name: each.duration for name, each in utterances.items()} == {
        "a.wav": 0.25,
        "b.m4a": 0.0,
        "c.mp3": 0.0,
        "d.wav": 0.0,
    }
    report = pack(utterances.values(), tmp_path / "packed", workers=1)
    assert (report.accepted, report.rejected) == (1, 3)


def test_loops_of_links_and_doors_to_the_same_room(tmp_path: Path, write_tone: Callable) -> None:
    write_tone(tmp_path / "one" / "a.wav")
    (tmp_path / "one" / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "two").symlink_to(tmp_path / "one", target_is_directory=True)
    outside = tmp_path.with_name(f"{tmp_path.name}-outside")
    write_tone(outside / "b.wav")
    (tmp_path / "three").symlink_to(outside, target_is_directory=True)
    assert sorted(_by_name(tmp_path)) == ["one/a.wav", "three/b.wav"]


def test_a_folder_that_cannot_be_read_is_skipped(
    tmp_path: Path, write_tone: Callable, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tone(tmp_path / "a.wav")
    write_tone(tmp_path / "shut" / "b.wav")
    scan = os.scandir

    def refuse(path: str) -> object:  # root reads everything, so taking the rights away proves nothing
        if str(path).endswith("shut"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert list(_by_name(tmp_path)) == ["a.wav"]
    assert "shut: Permission denied; skipped" in caplog.text


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file or folder; "):
        list(prepare(tmp_path / "nowhere"))
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(UserError, match=r"a.txt: a text; a list of files is read from standard input"):
        list(prepare(tmp_path / "a.txt"))
    (tmp_path.parent / "more.odd").touch()
    with pytest.raises(UserError, match=r"more.odd: not a folder$"):
        list(prepare(tmp_path.parent / "more.odd"))
    with pytest.raises(UserError, match=r"no audio files in it \(1 other files\)"):
        list(prepare(tmp_path))
    _write_jsonl(tmp_path / "metadata.jsonl", {"audio": "x.wav"}, {"audio": "y.wav"})
    with pytest.raises(
        UserError, match=r"none of the 2 files that it names is there; the first is looked for as .*x.wav; "
    ):
        list(prepare(tmp_path))
    (tmp_path / "metadata.csv").write_text("file_name\na.wav\n")
    with pytest.raises(UserError, match=r"both metadata.csv and metadata.jsonl; keep one"):
        list(prepare(tmp_path))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metadata.jsonl", b'{"audio": "a.wav"}\n\n{"audio": \n', r"jsonl:3: not JSON"),
        ("metadata.jsonl", b"[1]\n", r"jsonl:1: given list, allowed: a JSON object"),
        ("metadata.jsonl", b'{"path": ""}\n', r"jsonl:1: path: is empty, allowed: the path of a file"),
        ("metadata.jsonl", b'{"audio": {"path": "a"}}\n', r"jsonl:1: audio: given \{'path': 'a'\}, allowed: the path"),
        ("metadata.jsonl", b'{"audio": "a.wav", "offset": -1}\n', r"jsonl:1: offset: given -1, allowed: seconds"),
        ("metadata.jsonl", b'{"audio": "a.wav", "duration": "2 s"}\n', r"jsonl:1: duration: given '2 s', allowed"),
        ("metadata.jsonl", b'{"audio": "\xff"}\n', r"jsonl:1: not UTF-8 text .byte 0xff in place 12.; save"),
        ("metadata.csv", b"file_name,label\na.wav\n", r"csv:2: not as many values .1. as the header has columns .2."),
        ("metadata.csv", b"file_name\na.wav,dog\n", r"csv:2: not as many values .2. as the header has columns .1."),
        (
            "metadata.csv",
            b"name\na.wav\n",
            r"csv: no column names the file .'file_name', 'audio', 'path' ….; there are: name",
        ),
        ("metadata.csv", b'file_name\n"a.wav\n', r"csv:2: a quotation mark opens here that does not close its cell"),
    ],
)
def test_broken_metadata_names_file_and_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_metadata(path)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.packs
def test_packs_of_real_speech(packs: Path, tmp_path: Path) -> None:
    metadata = sorted(packs.glob("*/metadata.jsonl"), key=lambda path: path.stat().st_size)
    assert len(metadata) >= 2
    small = tuple(path.parent.name for path in metadata[:2])
    for name in small:
        shutil.copytree(packs / name, tmp_path / name, ignore=shutil.ignore_patterns("*.tar"))
        for archive in (packs / name).glob("*.tar"):
            extract(archive, tmp_path / name)
    utterances = list(prepare(tmp_path, Settings(only=small)))
    assert {each.extras["corpus"] for each in utterances} == set(small)
    report = pack(utterances, tmp_path / "packed")
    assert (report.accepted, report.rejected) == (len(utterances), 0)
