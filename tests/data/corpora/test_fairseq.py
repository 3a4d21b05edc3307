"""Data folders of fairseq: tsv with words, letters, phones; and what does not fit together."""

from collections.abc import Callable
from pathlib import Path

import pytest

from speechssl.config import UserError
from speechssl.data.corpora.fairseq import Settings, prepare


@pytest.fixture
def folder(tmp_path: Path, write_tone: Callable) -> Path:
    for name in ("a", "b"):
        write_tone(tmp_path / "audio" / "sub" / f"{name}.wav", rate=8000)
    data = tmp_path / "data"
    data.mkdir()
    (data / "train.tsv").write_text(f"{tmp_path}/audio\nsub/a.wav\t2000\nsub/b.wav\t1999\n")
    (data / "train.ltr").write_text("H I | Y O U |\nC A F E\u0301 |\n", encoding="utf-8")
    (data / "dict.ltr.txt").write_text("| 1\n")
    return data


def test_letters_words_and_phones(folder: Path, tmp_path: Path) -> None:
    source = prepare(folder)
    found = list(source)
    assert [(each.text, each.split, each.duration) for each in found] == [
        ("HI YOU", "train", 0.25),
        ("CAFÉ", "train", 0.25),
    ]
    assert found[0].audio == f"{tmp_path}/audio/sub/a.wav"
    assert source.findings.notes == [
        f"{folder}/train.tsv: 1 file does not have the number of samples that it states (sub/b.wav)"
    ]
    (folder / "train.phn").write_text("h ai\nk a f e\n")
    (folder / "train.wrd").write_text("HI  YOU\nCAFÉ\n", encoding="utf-8")
    found = list(prepare(folder / "train.tsv"))
    assert [(each.text, each.extras["phones"]) for each in found] == [("HI YOU", "h ai"), ("CAFÉ", "k a f e")]


def test_splits_and_moved_audio(folder: Path, tmp_path: Path) -> None:
    (folder / "valid.tsv").write_text("/gone\nsub/a.wav\t2000\n")
    with pytest.raises(
        UserError, match=r"/gone: no such folder, named in line 1 of .*valid\.tsv; .*--set audio=FOLDER"
    ):
        list(prepare(folder))
    assert [each.split for each in prepare(folder, Settings(splits=("train",)))] == ["train", "train"]
    moved = prepare(folder, Settings(splits=("valid",), audio=str(tmp_path / "audio")))
    assert [(each.text, each.duration) for each in moved] == [(None, 0.25)]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("train.ltr", "H I |\n", r"train\.ltr: 1 lines for 2 entries of train\.tsv"),
        ("train.wrd", "HI YOU\nTEA\n", r"train\.ltr:2: letters of 'CAFÉ', the words are 'TEA'"),
        ("train.tsv", "/tmp\na.wav 200\n", "no tsv of fairseq in it"),
        ("train.tsv", "/tmp\na.wav\t200\nb.wav\n", r"train\.tsv:3: given 'b\.wav', allowed: a path, a tab"),
    ],
)
def test_what_does_not_fit_together_is_one_line(folder: Path, name: str, content: str, words: str) -> None:
    (folder / name).write_text(content)
    with pytest.raises(UserError, match=words):
        list(prepare(folder))


def test_an_empty_text_of_the_last_entry_is_a_line(folder: Path) -> None:
    (folder / "train.ltr").unlink(missing_ok=True)
    (folder / "train.wrd").write_text("HI YOU\n\n")
    assert [each.text for each in prepare(folder) if each.split == "train"] == ["HI YOU", None]
    for content, count in (("HI YOU\n", 1), ("HI YOU\n\nTEA\n", 3), ("\n", 1)):
        (folder / "train.wrd").write_text(content)
        with pytest.raises(UserError, match=rf"train\.wrd: {count} lines for 2 entries"):
            list(prepare(folder))
