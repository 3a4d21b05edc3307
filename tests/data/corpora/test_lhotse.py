"""Lhotse's manifests: cuts, recordings with supervisions, and what only Lhotse can compute."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile

from speechssl.config import UserError
from speechssl.data.corpora.lhotse import Settings, prepare
from speechssl.data.waveforms import pack


def write_lines(path: Path, *entries: dict[str, Any]) -> Path:
    text = "".join(json.dumps(each) + "\n" for each in entries).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def recording(path: Path | str, *, name: str = "rec", seconds: float = 3.0, **other: Any) -> dict[str, Any]:
    source = {"type": "file", "channels": [0], "source": str(path)}
    return {"id": name, "sources": [source], "sampling_rate": 16000, "num_samples": 48000, "duration": seconds, **other}


def supervision(name: str, start: float, duration: float, **other: Any) -> dict[str, Any]:
    return {"id": name, "recording_id": "rec", "start": start, "duration": duration, "channel": 0, **other}


def cut(rec: Any, start: float, duration: float, *supervisions: dict[str, Any], **other: Any) -> dict[str, Any]:
    found = {"id": "cut", "start": start, "duration": duration, "channel": 0, "supervisions": list(supervisions)}
    return {**found, "recording": rec, "type": "MonoCut", **other}


@pytest.fixture
def long(tmp_path: Path, write_tone: Callable) -> Path:
    return write_tone(tmp_path / "long.wav", seconds=3.0)


def test_recordings_with_supervisions(tmp_path: Path, long: Path) -> None:
    write_lines(tmp_path / "x_recordings_train.jsonl.gz", recording(long))
    write_lines(
        tmp_path / "x_supervisions_train.jsonl.gz",
        supervision(
            "a",
            0.5,
            1.0,
            text="cafe\u0301",
            speaker="s1",
            language="fr",
            gender="F",
            custom={"snr": 3.5, "label": "sad"},
        ),
        supervision("b", 1.5, 1.5, text="", speaker="s2"),
        {**supervision("c", 0, 1), "recording_id": "gone"},
    )
    source = prepare(tmp_path)
    first, second = source
    assert (first.audio, first.offset, first.duration, first.split) == (str(long), 0.5, 1.0, "train")
    assert (first.text, first.speaker, first.language, first.label) == ("café", "s1", "fr", "sad")
    assert first.extras == {"supervision": "a", "gender": "F", "snr": 3.5}
    assert (second.text, second.speaker) == (None, "s2")
    assert source.findings.notes == [
        f"{tmp_path}/x_recordings_train.jsonl.gz: left out: 1 (c): their recording is not in the manifest of recordings"
    ]
    assert pack([first, second], tmp_path / "out").seconds == 2.5
    (tmp_path / "x_supervisions_train.jsonl.gz").unlink()
    source = prepare(tmp_path)
    assert [(each.duration, each.extras) for each in source] == [(3.0, {"recording": "rec"})]
    assert "no x_supervisions_train.jsonl.gz beside it: no texts, speakers or labels" in source.findings.notes[0]


def test_cuts(tmp_path: Path, long: Path) -> None:
    rec = recording(long)
    write_lines(
        tmp_path / "cuts.jsonl",
        cut(rec, 0.5, 1.0, supervision("a", 0.0, 1.0, text="whole"), id="one"),
        cut(rec, 0.5, 2.0, supervision("b", 0.0, 0.5, text="x"), supervision("c", 0.5, 1.5, text="y"), id="two"),
        cut(rec, 0.0, 3.0, id="three", custom={"snr": 1}),
        cut(rec, 1.0, 1.0, supervision("d", -0.5, 2.0, text="cut off"), id="four"),
    )
    source = prepare(tmp_path / "cuts.jsonl")
    found = list(source)
    assert [(each.extras["cut"], each.text, each.offset, each.duration) for each in found] == [
        ("one", "whole", 0.5, 1.0),
        ("two", "x", 0.5, 0.5),
        ("two", "y", 1.0, 1.5),
        ("three", None, 0.0, 3.0),
    ]
    assert [each.extras.get("snr") for each in found] == [None, None, None, 1]
    assert "left out: 1 (four): the supervision reaches beyond its cut" in source.findings.notes[0]


def test_a_stretch_of_no_length_is_not_the_whole_file(tmp_path: Path, long: Path) -> None:
    write_lines(tmp_path / "x_recordings.jsonl", recording(long))
    write_lines(tmp_path / "x_supervisions.jsonl", supervision("a", 1, 0, text="x"), supervision("b", 0, 1, text="y"))
    source = prepare(tmp_path / "x_recordings.jsonl")
    assert [(each.offset, each.duration, each.text) for each in source] == [(0.0, 1.0, "y")]
    [note] = source.findings.notes
    assert note.endswith("x_recordings.jsonl: left out: 1 (a): the stretch has no length")
    rec = recording(long)
    cuts = [
        cut(rec, 1.0, 2.0, supervision("a", 0, 0), supervision("b", 2.0, 0.005), supervision("c", 0.5, 1)),
        cut(rec, 1.0, 0.0),
    ]
    source = prepare(write_lines(tmp_path / "cuts.jsonl", *cuts))
    assert [(each.offset, each.duration) for each in source] == [(1.5, 1.0)]
    assert source.findings.notes == [f"{tmp_path}/cuts.jsonl: left out: 3 (cut, …): the stretch has no length"]


def test_relative_paths(tmp_path: Path, long: Path) -> None:
    (tmp_path / "data" / "manifests").mkdir(parents=True)
    path = write_lines(tmp_path / "data" / "manifests" / "cuts.jsonl", cut(recording("long.wav"), 0, 3))
    assert [each.audio for each in prepare(path)] == [str(long)]
    write_lines(path, cut(recording("elsewhere/long.wav"), 0, 3))
    with pytest.raises(UserError, match=r"elsewhere/long\.wav is in none of .* --set base=FOLDER"):
        list(prepare(path))
    (tmp_path / "other" / "elsewhere").mkdir(parents=True)
    long.rename(tmp_path / "other" / "elsewhere" / "long.wav")
    assert len(list(prepare(path, Settings(base=str(tmp_path / "other"))))) == 1


def test_channels(tmp_path: Path, write_tone: Callable, long: Path) -> None:
    samples, rate = soundfile.read(long)
    stereo = tmp_path / "stereo.wav"
    soundfile.write(stereo, [[each, -each / 2] for each in samples], rate)
    two = {**recording(stereo), "sources": [{"type": "file", "channels": [0, 1], "source": str(stereo)}]}
    split = {
        **recording(long),
        "sources": [{"type": "file", "channels": [n], "source": str(path)} for n, path in ((0, long), (1, stereo))],
    }
    write_lines(
        tmp_path / "cuts.jsonl",
        cut(two, 0, 1, id="one of two"),
        cut(two, 0, 1, id="both", channel=[0, 1], type="MultiCut"),
        cut(split, 0, 1, id="the second file", channel=1),
    )
    source = prepare(tmp_path)
    assert [(each.extras["cut"], Path(each.audio).name) for each in source] == [
        ("both", "stereo.wav"),
        ("the second file", "stereo.wav"),
    ]
    assert "left out: 1 (one of two): one channel of a file with several cannot be read" in source.findings.notes[0]


def test_what_only_lhotse_computes_is_left_out_and_counted(tmp_path: Path, long: Path) -> None:
    def other(kind: str, source: str) -> dict[str, Any]:
        return {**recording(long), "sources": [{"type": kind, "channels": [0], "source": source}]}

    write_lines(
        tmp_path / "cuts.jsonl",
        cut(recording(long, transforms=[{"name": "Speed", "kwargs": {"factor": 0.9}}]), 0, 1, id="fast"),
        cut(recording(long), 0, 1, id="mixed", type="MixedCut"),
        cut(None, 0, 1, id="features"),
        cut(other("url", "https://x/a.wav"), 0, 1, id="url"),
        cut(other("command", f"sox {long} -t wav - |"), 0, 1, id="sox"),
        cut(other("command", f"sph2pipe -f wav {long} |"), 0, 1, id="decoded"),
    )
    source = prepare(tmp_path)
    assert [(each.extras["cut"], each.audio) for each in source] == [("decoded", str(long))]
    said = "\n".join(source.findings.notes)
    for words in (
        "(fast): changed by Lhotse",
        "(mixed): a MixedCut",
        "(features): features without",
        "(url): audio of the type 'url'",
    ):
        assert words in said
    right = "write its output to files and name these in the recording's source, with the type 'file'"
    assert f"(sox): commands are not run: 'sox … |'; {right}" in said
    assert "wav.scp" not in said


def test_a_recording_that_is_longer_than_its_manifest_says_is_told(tmp_path: Path, long: Path) -> None:
    write_lines(tmp_path / "cuts.jsonl", cut(recording(long, seconds=2.0), 0, 2.0))
    source = prepare(tmp_path)
    assert [each.duration for each in source] == [2.0]
    assert "has 3 s, its last stretch ends at 2 s" in source.findings.notes[0]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "an empty manifest"),
        (b"[]\n", r"cuts\.jsonl:1: given list, allowed: a JSON object"),
        (b'{"id": "a"}\n', "features without a recording"),
        (b'{"id": "a", "recording": {"id": 3}}\n', r"cuts\.jsonl:1: id: given 3, allowed: a text"),
        (
            b'{"id": "a", "recording": {"id": "r", "duration": 1, "sources": []}}\n',
            r"cuts\.jsonl:1: sources: given \[\]",
        ),
        (b"\xff\n", r"cuts\.jsonl:1: not UTF-8 text"),
        (b"x" * (1 << 24), r"cuts\.jsonl:1: a line of more than 16 MiB"),
    ],
)
def test_what_is_no_manifest_is_one_line(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "cuts.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=words) as error:
        list(prepare(tmp_path))
    assert len(str(error.value)) < 500
    (tmp_path / "cuts.jsonl.gz").write_bytes(gzip.compress(content)[:-9])
    with pytest.raises(UserError):
        list(prepare(tmp_path / "cuts.jsonl.gz"))
    with pytest.raises(UserError, match="no manifest of Lhotse: looked for"):
        list(prepare(tmp_path / "nothing"))


def test_what_lhotse_writes(tmp_path: Path, long: Path) -> None:
    lhotse = pytest.importorskip("lhotse", reason="lhotse is not installed")
    rec = lhotse.Recording.from_file(long)
    segments = [
        lhotse.SupervisionSegment(
            id=f"s{n}", recording_id=rec.id, start=n, duration=0.75, text=f"text {n}", speaker="p"
        )
        for n in range(3)
    ]
    cuts = lhotse.CutSet.from_manifests(
        lhotse.RecordingSet.from_recordings([rec]), lhotse.SupervisionSet.from_segments(segments)
    )
    cuts.to_file(tmp_path / "cuts_dev.jsonl.gz")
    cuts.perturb_speed(0.9).to_file(tmp_path / "fast_cuts.jsonl.gz")
    found = list(prepare(tmp_path / "cuts_dev.jsonl.gz"))
    trimmed = cuts.trim_to_supervisions(keep_overlapping=False)
    assert [(each.offset, each.duration, each.text, each.speaker, each.split) for each in found] == [
        (each.start, each.duration, each.supervisions[0].text, each.supervisions[0].speaker, "dev") for each in trimmed
    ]
    with pytest.raises(UserError, match="changed by Lhotse as it is loaded"):
        list(prepare(tmp_path / "fast_cuts.jsonl.gz"))


def test_custom_fields_are_columns(tmp_path: Path, long: Path) -> None:
    rec = recording(long)
    cuts = write_lines(
        tmp_path / "cuts.jsonl",
        cut(rec, 0, 1, id="bare", custom={"Split": "dev", "emotion": "sad", "spk_id": 7, "sentence": "hi", "snr": 1}),
        cut(
            rec,
            1,
            1,
            supervision("a", 0, 1, custom={"emotion": "glad", "split": "test", "speaker": "s1", "text": "own"}),
            id="one",
        ),
        cut(rec, 2, 1, supervision("b", 0, 0.5), supervision("c", 0.5, 0.5, speaker="s2"), custom={"text": "whole"}),
        cut(rec, 2, 1, supervision("d", 0, 1, text="t", snr=2), custom={"text": "t", "emotion": "sad", "snr": 3}),
        cut(rec, 0.5, 1, custom={"emotion": "nan", "vector": {"array": 1}, "sentence": "NaN"}),
    )
    source = prepare(cuts)
    found = list(source)
    assert [(each.label, each.split, each.speaker, each.text) for each in found] == [
        ("sad", "dev", "7", "hi"),
        ("glad", "test", "s1", "own"),
        (None, None, None, None),
        (None, None, "s2", None),
        ("sad", None, None, "t"),
        (None, None, None, None),
    ]
    assert [each.extras.get("cut_text") for each in found] == [None, None, "whole", "whole", None, None]
    assert [found[place].extras.get("snr") for place in (0, 4)] == [1, 2]
    assert found[4].extras["cut_snr"] == 3
    assert source.findings.missing == {"nan": 1, "NaN": 1}
    assert source.findings.unused == ["snr", "cut_text", "cut_snr"]
    assert source.findings.columns["label"] == "emotion"
    assert f"{cuts}: fields left out, as they hold no plain values: vector" in source.findings.notes


@pytest.mark.parametrize(
    ("own", "custom", "of_the_cut", "words"),
    [
        (
            {"speaker": "a"},
            {"speaker": "b"},
            {},
            "jsonl:1: 'speaker' is 'a' in the record and 'b' in its custom",
        ),
        (
            {"speaker": "a"},
            {},
            {"speaker": "b"},
            "jsonl:1: 'speaker' is 'a' in the supervision and 'b' in its",
        ),
        (
            {"text": "a"},
            {},
            {"sentence": "b"},
            "jsonl:1: columns 'text' and 'sentence' both mean the text and differ .'a', 'b'",
        ),
        ({"label": "a"}, {"emotion": "b"}, {}, "columns 'label' and 'emotion' both mean the label and differ"),
        ({}, {"speeker": "b"}, {}, "column 'speeker' is not used and looks like 'speaker'"),
    ],
)
def test_custom_fields_that_contradict_are_errors(
    tmp_path: Path, long: Path, own: dict[str, Any], custom: dict[str, Any], of_the_cut: dict[str, Any], words: str
) -> None:
    one = supervision("a", 0, 3, custom=custom, **own)
    path = write_lines(tmp_path / "cuts.jsonl", cut(recording(long), 0, 3, one, custom=of_the_cut))
    with pytest.raises(UserError, match=words):
        list(prepare(path))
