"""Tables that describe single channels of one file are refused: the mean of all channels would get the text of one."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechssl.config import UserError
from speechssl.data.corpora import folder, nemo_manifest
from speechssl.extract.plan import read_plan

WORDS = "'channel' is 2 and was 1 before for the same file.* write each channel to a file of its own"


def test_a_table_of_channels(tmp_path: Path) -> None:
    (tmp_path / "a.wav").touch()
    table = tmp_path / "metadata.csv"
    table.write_text("file_name,channel,start,end,text\na.wav,L,0,1,hi\na.wav,R,0.5,1.5,yes\n")
    words = "metadata.csv:3: column 'channel' is 'R' and was 'L' before for the same file"
    with pytest.raises(UserError, match=words):
        list(folder.prepare(tmp_path, probe=None))
    for source in (tmp_path, table):
        with pytest.raises(UserError, match=words):
            read_plan(source)


def test_a_manifest_of_nemo(tmp_path: Path) -> None:
    (tmp_path / "a.wav").touch()
    row = {"audio_filepath": "a.wav", "duration": 0.1}
    rows = [{**row, "offset": 0.1 * number, "channel": number} for number in (1, 2)]
    path = tmp_path / "train.json"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match=f"train.json:2: column {WORDS}"):
        list(nemo_manifest.prepare(path))


@pytest.mark.parametrize(
    ("selector", "taken"),
    [(0, ["mono"]), ("1", ["mono"]), ([0, 1], ["mono"]), ("average", ["two", "mono"]), (None, ["two", "mono"])],
)
def test_one_channel_of_two_in_a_manifest_of_nemo(tmp_path: Path, selector: object, taken: list[str]) -> None:
    for name, shape in (("two", (1600, 2)), ("mono", 1600)):
        soundfile.write(tmp_path / f"{name}.wav", np.full(shape, 0.1), 16000)
    path = tmp_path / "train.json"
    rows = [{"audio_filepath": f"{name}.wav", "channel_selector": selector, "text": "x"} for name in ("two", "mono")]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = nemo_manifest.prepare(path)
    assert [Path(each.audio).stem for each in source] == taken
    told = (
        f"{path}: left out: two.wav: one channel is named, and the file has 2; write each channel to a file of its own"
    )
    assert (told in source.findings.notes) == (len(taken) == 1)


@pytest.mark.parametrize("value", ["0", "B", "left", "ch-1"])
def test_one_channel_of_two_in_a_table(tmp_path: Path, value: str) -> None:
    for name, shape in (("two", (1600, 2)), ("mono", 1600)):
        soundfile.write(tmp_path / f"{name}.wav", np.full(shape, 0.1), 16000)
    (tmp_path / "metadata.csv").write_text(f"file_name,channel\nmono.wav,{value}\ntwo.wav,BBC\n")
    assert len(list(folder.prepare(tmp_path))) == 2
    (tmp_path / "metadata.csv").write_text(f"file_name,channel\nmono.wav,{value}\ntwo.wav,{value}\n")
    words = f"metadata.csv:3: column 'channel' is '{value}', and the file has 2 channels, of which the mean of all"
    with pytest.raises(UserError, match=words):
        list(folder.prepare(tmp_path))
    with pytest.raises(UserError, match=words):
        read_plan(tmp_path)


@pytest.mark.parametrize("column", ["channel_id", "Channel", "audio channel", "other_channel", "chapter"])
def test_a_channel_per_file_and_other_columns_are_extras(tmp_path: Path, column: str) -> None:
    for name in "ab":
        (tmp_path / f"{name}.wav").touch()
    second = "b" if "other" not in column and column != "chapter" else "a"
    (tmp_path / "metadata.csv").write_text(f"file_name,start,{column}\na.wav,0,1\n{second}.wav,0.5,2\na.wav,0.7,1\n")
    assert [each.extras[column] for each in folder.prepare(tmp_path, probe=None)] == ["1", "2", "1"]
