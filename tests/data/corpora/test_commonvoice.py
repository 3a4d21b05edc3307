"""Common Voice as it is downloaded: which table, quotation marks, old releases, and clips that are missing."""

from collections.abc import Callable
from pathlib import Path

import pytest

from speechssl.config import UserError
from speechssl.data.corpora.commonvoice import Settings, prepare
from speechssl.data.waveforms import pack

COLUMNS = [
    "client_id",
    "path",
    "sentence_id",
    "sentence",
    "up_votes",
    "down_votes",
    "age",
    "gender",
    "accents",
    "locale",
]


def write_table(path: Path, *rows: tuple[str, ...], columns: list[str] = COLUMNS) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join("\t".join(row) for row in (columns, *rows)) + "\n", encoding="utf-8")


def row(speaker: str, clip: str, sentence: str) -> tuple[str, ...]:
    return (speaker, clip, "7f", sentence, "2", "0", "twenties", "female_feminine", "", "br")


@pytest.fixture
def release(tmp_path: Path, write_tone: Callable) -> Path:
    folder = tmp_path / "cv-corpus-17.0" / "br"
    for name in ("one", "two", "three"):
        write_tone(folder / "clips" / f"cv_{name}.mp3", seconds=1.0, rate=32000)
    write_table(
        folder / "train.tsv",
        row("ab", "cv_one.mp3", "Demat\u0303 deoc'h"),
        row("ab", "cv_two.mp3", '"He said ""yes""."'),
    )
    write_table(folder / "test.tsv", row("cd", "cv_three.mp3", 'say ""no""'))
    write_table(folder / "validated.tsv", *(row("ab", f"cv_{name}.mp3", "x") for name in ("one", "two", "three")))
    write_table(folder / "reported.tsv", ("a", "b"), columns=["sentence", "reason"])
    return folder


def test_the_official_parts_are_the_splits(release: Path, tmp_path: Path) -> None:
    source = prepare(release)
    found = list(source)
    assert source.findings.not_read == ["reported.tsv", "validated.tsv"]
    assert [(each.split, each.speaker, each.language) for each in found] == [
        ("train", "ab", "br"),
        ("train", "ab", "br"),
        ("test", "cd", "br"),
    ]
    assert [each.text for each in found] == ["Demat\u0303 deoc'h", 'He said "yes".', 'say "no"']
    assert found[0].extras == {
        "sentence_id": "7f",
        "age": "twenties",
        "gender": "female_feminine",
        "up_votes": 2,
        "down_votes": 0,
    }
    report = pack(found, tmp_path / "out")
    assert (report.accepted, report.rejected) == (3, 0)
    assert list(prepare(release.parent.parent)) == found


def test_tables_may_be_chosen(release: Path) -> None:
    found = list(prepare(release, Settings(tables=("validated",))))
    assert [(each.split, each.text) for each in found] == [(None, "x")] * 3
    with pytest.raises(UserError, match="validated holds train, dev and test already"):
        list(prepare(release, Settings(tables=("validated", "test"))))
    with pytest.raises(UserError, match=r"other\.tsv: "):
        list(prepare(release, Settings(tables=("other",))))
    for name in ("train", "test"):
        (release / f"{name}.tsv").unlink()
    assert len(list(prepare(release))) == 3


def test_old_releases_leave_suffix_and_language_out(tmp_path: Path, write_tone: Callable) -> None:
    write_tone(tmp_path / "clips" / "abc.mp3")
    write_table(tmp_path / "train.tsv", ("s", "abc", "hi"), columns=["client_id", "path", "sentence"])
    (found,) = prepare(tmp_path)
    assert (Path(found.audio).name, found.text, found.language) == ("abc.mp3", "hi", None)


def test_what_is_not_a_release_is_one_line(tmp_path: Path, release: Path) -> None:
    with pytest.raises(UserError, match="no folder of Common Voice: looked for clips/ with"):
        list(prepare(tmp_path / "nothing"))
    (tmp_path / "cv-corpus-17.0" / "cy" / "clips").mkdir(parents=True)
    write_table(tmp_path / "cv-corpus-17.0" / "cy" / "train.tsv", row("a", "gone.mp3", "x"))
    with pytest.raises(UserError, match=r"2 languages \(br, cy\); give the folder of one of them"):
        list(prepare(tmp_path))
    with pytest.raises(UserError, match="none of the clips that it names is in"):
        list(prepare(tmp_path / "cv-corpus-17.0" / "cy"))
    write_table(release / "train.tsv", ("a", "b"), columns=["client_id", "path"])
    with pytest.raises(UserError, match="no column 'sentence'; there are: client_id, path"):
        list(prepare(release))
    write_table(release / "train.tsv", row("ab", "cv_one.mp3", "x"), ("ab", "cv_two.mp3"))
    with pytest.raises(UserError, match=r"train\.tsv:3: not as many values"):
        list(prepare(release))
