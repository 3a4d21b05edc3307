"""Words for a missing value, and errors of spreadsheets: in every format the same, and told."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from speechssl.config import UserError
from speechssl.data.corpora import commonvoice, fairseq, folder, huggingface, kaldi, lhotse, nemo_manifest, webdataset
from speechssl.data.findings import Found, closing_lines, count_known
from speechssl.data.manifest import read_manifest
from speechssl.data.splits import in_split
from speechssl.data.utterance import Utterance
from speechssl.data.values import is_doubtful, is_missing, is_sheet_error, name_of, text_of
from speechssl.extract.plan import read_plan
from tests.data.test_members import wav, write_tar

TOLD = [
    "counted as missing: 'nan' (1 x)",
    "kept as a word: text 'null' (1 x); leave it empty where nothing is known",
]


def common_voice(root: Path, write_tone: Callable, texts: list[str]) -> Found:
    rows = ["client_id\tpath\tsentence"]
    for number, text in enumerate(texts):
        write_tone(root / "clips" / f"{number}.mp3", rate=32000)
        rows.append(f"s\t{number}.mp3\t{text}")
    (root / "validated.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return commonvoice.prepare(root)


def kaldi_folder(root: Path, write_tone: Callable, texts: list[str]) -> Found:
    places = [write_tone(root / f"{number}.wav") for number in range(len(texts))]
    (root / "wav.scp").write_text("".join(f"u{number} {place}\n" for number, place in enumerate(places)))
    (root / "text").write_text("".join(f"u{number} {text}\n" for number, text in enumerate(texts)), encoding="utf-8")
    return kaldi.prepare(root)


def fairseq_folder(root: Path, write_tone: Callable, texts: list[str]) -> Found:
    rows = [str(root)]
    for number in range(len(texts)):
        write_tone(root / f"{number}.wav", seconds=1.0, rate=16000)
        rows.append(f"{number}.wav\t16000")
    (root / "train.tsv").write_text("\n".join(rows) + "\n")
    (root / "train.wrd").write_text("\n".join(texts) + "\n", encoding="utf-8")
    return fairseq.prepare(root)


def tar_of_samples(root: Path, _: Callable, texts: list[str]) -> Found:
    root.mkdir(exist_ok=True)
    files = {f"{number}.{kind}": b"" for number in range(len(texts)) for kind in ("wav", "json")}
    files |= {f"{number}.wav": wav(200 + number) for number in range(len(texts))}
    files |= {f"{number}.json": json.dumps({"text": text}).encode() for number, text in enumerate(texts)}
    write_tar(root / "a.tar", files)
    return webdataset.prepare(root)


def cuts_of_lhotse(root: Path, write_tone: Callable, texts: list[str]) -> Found:
    lines = []
    for number, text in enumerate(texts):
        place = str(write_tone(root / f"{number}.wav", seconds=1.0))
        recording = {"id": "r", "duration": 1.0, "sources": [{"type": "file", "channels": [0], "source": place}]}
        supervision = {"id": "s", "start": 0, "duration": 1.0, "text": text}
        lines.append({"id": "c", "start": 0, "duration": 1, "recording": recording, "supervisions": [supervision]})
    (root / "cuts.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    return lhotse.prepare(root)


def manifest_of_nemo(root: Path, write_tone: Callable, texts: list[str]) -> Found:
    lines = [
        {"audio_filepath": str(write_tone(root / f"{number}.wav")), "text": text} for number, text in enumerate(texts)
    ]
    (root / "train.json").write_text("".join(json.dumps(each) + "\n" for each in lines))
    return nemo_manifest.prepare(root)


def parquet(root: Path, _: Callable, texts: list[str]) -> Found:
    root.mkdir(exist_ok=True)
    pq.write_table(pa.table({"audio": [{"bytes": wav(200)}] * len(texts), "text": texts}), root / "a.parquet")
    return huggingface.prepare(root)


FORMATS = [
    *(common_voice, kaldi_folder, fairseq_folder, tar_of_samples, cuts_of_lhotse, manifest_of_nemo, parquet),
]


@pytest.mark.parametrize("make", FORMATS)
def test_every_format_tells_missing_and_doubtful_words(tmp_path: Path, write_tone: Callable, make: Callable) -> None:
    source = make(tmp_path / "corpus", write_tone, ["hi", "nan", "null"])
    found = list(source)
    assert [each.text for each in found] == ["hi", None, "null"]
    lines = closing_lines(count_known(found), source.findings)
    assert [line for line in lines if line.startswith(("counted", "kept"))] == TOLD


@pytest.mark.parametrize("make", FORMATS)
def test_every_format_refuses_the_error_of_a_spreadsheet(tmp_path: Path, write_tone: Callable, make: Callable) -> None:
    with pytest.raises(UserError, match=r"given '#REF!', an error of a spreadsheet") as caught:
        list(make(tmp_path / "corpus", write_tone, ["hi", "#REF!"]))
    assert "\n" not in str(caught.value)


def test_a_manifest_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text('{"audio": "a.wav", "duration": 1}\n{"audio": "b.wav", "duration": 1, "label": "#DIV/0!"}\n')
    with pytest.raises(UserError, match=r"m.jsonl line 2: label: given '#DIV/0!', an error of a spreadsheet"):
        read_manifest(path)


def test_a_split_called_by_an_error_is_not_there() -> None:
    with pytest.raises(UserError, match=r"corpus: no split '#REF!'; there are test$"):
        in_split([Utterance(audio="a.wav", duration=1.0, split="test")], "#REF!", where="corpus")


@pytest.mark.parametrize("word", ["#N/A", "#NV", "#N/D", "-nan", "-1.#IND", "NAN", " nan ", "\u200bNaT"])
def test_missing(word: str) -> None:
    assert is_missing(word)
    assert name_of(word) is None


@pytest.mark.parametrize(
    "word",
    [
        *("#REF!", "#NULL!", "#NUM!", "#DIV/0!", "#SPILL!", "#NAME?", "#VALUE!", "#CALC!", "Err:508"),
        *("#\u00a1REF!", "#\u00bfNOMBRE?", "#D\u011aLEN\u00cd_NULOU!", "#\u0418\u041c\u042f?", "#SAYI/0!"),
    ],
)
def test_errors(word: str) -> None:
    assert is_sheet_error(word)
    with pytest.raises(ValueError, match="an error of a spreadsheet"):
        text_of(word)


@pytest.mark.parametrize("word", ["\\N", "(null)", "nil", "none", "#NA", "-", "?", "#####", "N/A"])
def test_words_that_are_kept(word: str) -> None:
    assert is_doubtful(word)
    assert text_of(word) == word


@pytest.mark.parametrize("word", ["#hashtag!", "#1", "# REF!", "#", "C#!", "Err: 502", "no!", "nana", "Nilsson"])
def test_other_words_are_words(word: str) -> None:
    assert text_of(word) == word
    assert not is_sheet_error(word)
    assert not is_doubtful(word)


@pytest.mark.parametrize("field", ["label", "speaker", "language", "split"])
def test_control_characters_in_names_are_refused(tmp_path: Path, field: str) -> None:
    path = tmp_path / "m.jsonl"
    lines = [{"audio": "a.wav", "duration": 1, field: name} for name in ("joy", "joy\0\0", "jo\x07y")]
    path.write_text("".join(json.dumps(each) + "\n" for each in lines))
    words = rf"m.jsonl line 3: {field}: given 'jo\\x07y', with the control character U\+0007; remove it$"
    with pytest.raises(UserError, match=words):
        read_manifest(path)
    path.write_text("".join(json.dumps(each) + "\n" for each in lines[:2]))
    assert [getattr(each, field) for each in read_manifest(path)] == ["joy", "joy"]


@pytest.mark.parametrize(
    ("text", "name"),
    [("joy\0", "joy"), ("joy \0\0 \0", "joy"), ("fr\u00f6h\u200b\0", "fr\u00f6h"), ("\0\0", None), ("nan\0", None)],
)
def test_padding_of_fixed_widths_is_no_part_of_a_value(text: str, name: str | None) -> None:
    assert name_of(text) == text_of(text) == name
    assert is_missing(text) == (name is None)


@pytest.mark.parametrize("text", ["\0joy", "jo\0y", "joy\x07", "\x1bjoy", "joy\x7f", "joy\x92s"])
def test_control_characters(text: str) -> None:
    with pytest.raises(ValueError, match="control character"):
        name_of(text)


def test_a_table_names_the_line_of_a_control_character(tmp_path: Path, write_tone: Callable) -> None:
    for name in ("a.wav", "b.wav"):
        write_tone(tmp_path / name)
    table = tmp_path / "metadata.csv"
    table.write_text("file_name,label\na.wav\0\0,joy\0\0\nb.wav,joy\0\n")
    assert {each.label for each in folder.AudioFolder(tmp_path).utterances()} == {"joy"}
    table.write_text("file_name,label\na.wav,joy\nb.wav,joy\x07\n")
    with pytest.raises(UserError, match=r"metadata.csv:3: label: given 'joy\\x07', with the control character U\+0007"):
        list(folder.AudioFolder(tmp_path).utterances())


def test_names_of_folders_are_labels_in_the_form_of_tables(tmp_path: Path, write_tone: Callable) -> None:
    for name in ("1.0", "nan", "joy "):
        write_tone(tmp_path / "a" / name / "0.wav")
    assert [item.metadata for item in read_plan(tmp_path / "a").items()] == [(("label", "1"),), (("label", "joy"),), ()]
    assert [each.label for each in folder.AudioFolder(tmp_path / "a").utterances()] == ["1", "joy", None]
    for name in ("joy\x07", "sad"):
        write_tone(tmp_path / "b" / name / "0.wav")
    for read in (read_plan, folder.AudioFolder):
        with pytest.raises(UserError, match=r"'joy\\x07', with the control character U\+0007; remove it"):
            read(tmp_path / "b")
