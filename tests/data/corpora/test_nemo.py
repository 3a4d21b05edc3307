"""nEMO, from a miniature in the official layout, a download, and the pack."""

import logging
import tarfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest

from speechssl.config import UserError
from speechssl.data.corpora.folder_metadata import read_metadata
from speechssl.data.corpora.nemo import COMMIT, INFO, prepare
from speechssl.data.waveforms import pack

# Blanks before the speaker and quotation marks in the text, as in the published table.
TABLE = (
    "file_id\temotion\traw_text\tnormalized_text\tspeaker_id\tgender\tage\n"
    'WR0_surprised_64.wav\tsurprised\t„Ród" smoka.\tród smoka\t        WR0\tmale\t23\n'
    "EB0_neutral_13.wav\tneutral\tInteresuje mnie.\tinteresuje mnie\t        EB0\tfemale\t27\n"
)


def _write(folder: Path, write_tone: Callable) -> Path:
    for name in ("WR0_surprised_64.wav", "EB0_neutral_13.wav"):
        write_tone(folder / "samples" / name, rate=24000)
    (folder / "data.tsv").write_text(TABLE, encoding="utf-8")
    return folder


def test_the_official_layout(tmp_path: Path, write_tone: Callable, caplog: pytest.LogCaptureFixture) -> None:
    _write(tmp_path, write_tone)
    with caplog.at_level(logging.WARNING):
        first, second = prepare(tmp_path)
    assert "2 rows, expected 4481" in caplog.text
    assert (first.speaker, first.label, first.text, first.language) == ("EB0", "neutral", "Interesuje mnie.", "pl")
    assert first.extras == {"sex": "female", "age": 27, "sentence": "13", "text_normalized": "interesuje mnie"}
    assert (second.speaker, second.text) == ("WR0", '„Ród" smoka.')
    assert second.duration == pytest.approx(0.25)


def test_a_table_that_is_not_as_published(tmp_path: Path) -> None:
    (tmp_path / "data.tsv").write_text(TABLE, encoding="utf-8")
    with pytest.raises(UserError, match=r"samples: none of the files that data.tsv names is there"):
        list(prepare(tmp_path))
    (tmp_path / "data.tsv").write_text("file\tlabel\na\tb\n")
    with pytest.raises(UserError, match=r"data.tsv: columns file, label; wanted: file_id, emotion"):
        list(prepare(tmp_path))


def test_download(serve: Callable, tmp_path: Path, write_tone: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPEECHSSL_PACKS", raising=False)
    server = serve()
    top = _write(tmp_path / f"nEMO-{COMMIT}", write_tone)
    with tarfile.open(server.folder / f"{COMMIT}.tar.gz", "w:gz") as tar:
        tar.add(top, arcname=top.name)
    monkeypatch.setenv("SPEECHSSL_MIRROR_NEMO", server.address)
    root = tmp_path / "root"
    assert len(list(prepare(root))) == 2
    assert [path.name for path in root.iterdir()] == ["nEMO"]


@pytest.mark.slow
@pytest.mark.packs
def test_the_real_pack(packs: Path, tmp_path: Path) -> None:
    few = list(islice(prepare(tmp_path), 5))
    rows = read_metadata(tmp_path / "nemo.pack" / "metadata.jsonl")
    assert len(rows) == INFO.utterances
    assert len({row.known["speaker"] for row in rows}) == INFO.speakers
    report = pack(few, tmp_path / "packed")
    assert (report.accepted, report.rejected) == (5, 0)
