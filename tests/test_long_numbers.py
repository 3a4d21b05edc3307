"""Whole numbers that Python refuses to read end in our own words, wherever a file may hold them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from speechssl.config import Config, UserError, load_config
from speechssl.data.corpora import fairseq, huggingface
from speechssl.data.manifest import read_manifest
from speechssl.data.tables import json_object, open_table
from speechssl.data.utterance import Utterance
from speechssl.data.waveforms import pack
from speechssl.metrics.items import read_items
from speechssl.models.files import read_json
from speechssl.report.records import Record, parsed, read_toml

LONG = "7" * 6000


class _Settings(Config):
    steps: int = 1


class _Record(Record):
    steps: int = 1


def _saved(folder: Path) -> object:
    return list(huggingface.prepare(folder))


READERS: dict[str, tuple[str, str, Callable[[Path], Any]]] = {
    "manifest": ("m.jsonl", '{"audio": "a.wav", "duration": 1, "extras": {"id": LONG}}', read_manifest),
    "table": ("t.jsonl", '{"file": "a.wav", "id": LONG}', open_table),
    "settings of a model": ("config.json", '{"format": LONG}', read_json),
    "recipe": ("r.toml", "steps = LONG", lambda path: load_config(_Settings, path)),
    "toml of a run": ("r.toml", "steps = LONG", lambda path: read_toml(path, _Record)),
    "json of a run": ("r.json", "[LONG]", lambda path: parsed(path.read_text(), str(path))),
    "saved data set": ("state.json", '{"_split": LONG}', lambda path: _saved(path.parent)),
}


@pytest.mark.parametrize("name", READERS)
def test_a_number_of_6000_digits(name: str, tmp_path: Path) -> None:
    file, content, read = READERS[name]
    path = tmp_path / file
    path.write_text(content.replace("LONG", LONG))
    (tmp_path / "dataset_info.json").write_text("{}")
    with pytest.raises(UserError) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "a whole number of more than 4300 digits" in message
    assert "set_int_max_str_digits" not in message


def test_in_a_setting_given_by_hand() -> None:
    with pytest.raises(UserError, match=r"key 'steps': given '7+ … .* more characters.*, allowed: "):
        load_config(_Settings, overrides=[f"steps={LONG}"])


def test_answers(tmp_path: Path) -> None:
    import gzip

    (tmp_path / "answers.json.gz").write_bytes(gzip.compress(f"[{LONG}]".encode()))
    with pytest.raises(UserError, match=r"not a file of answers \(a whole number of more than 4300 digits\)"):
        read_items(tmp_path / "answers.json.gz")


def test_places_and_sizes(tmp_path: Path) -> None:
    """A row, a byte or a number of samples has few digits, so more of them are a fault of that line alone."""
    for suffix, member in (("ark", LONG), ("parquet", f"audio/{LONG}")):
        container = tmp_path / f"x.{suffix}"
        container.touch()
        report = pack([Utterance(audio=f"{container}::{member}", duration=0.0)], tmp_path / suffix)
        assert (report.accepted, report.rejected) == (0, 1)
    (tmp_path / "train.tsv").write_text(f"{tmp_path}\na.wav\t{LONG}\n")
    with pytest.raises(UserError, match=r"train\.tsv:2: given 'a\.wav.*, allowed: a path, a tab, a number of samples"):
        list(fairseq.prepare(tmp_path))


def test_a_line_by_itself() -> None:
    with pytest.raises(UserError, match=r"^m:1: not JSON: a whole number of more than 4300 digits$"):
        json_object(f'{{"a": {LONG}}}', "m:1")
