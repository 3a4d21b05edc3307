"""What is to be done is read lazily, in a fixed order, and known again."""

import json
import os

import pytest
import soundfile

from speechssl.config import UserError
from speechssl.data.corpora import folder as audio_folder
from speechssl.data.corpora import lhotse, nemo_manifest
from speechssl.data.findings import closing_lines
from speechssl.data.remote import fetched, list_address
from speechssl.embed.clips import to_waveform
from speechssl.extract.plan import Item, read_plan
from tests.micro import tone


@pytest.fixture
def tree(tmp_path):
    for name in (
        "train/b/1.wav",
        "train/a/2.FLAC",
        "test/a/3.mp3",
        "test/a/notes.txt",
        "train/.hidden.wav",
        ".git/x.wav",
    ):
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path / "tree"


def test_a_folder_is_read_in_order_with_what_its_names_say(tree):
    plan = read_plan(tree)
    items = list(plan.items())
    assert [item.path for item in items] == ["test/a/3.mp3", "train/a/2.FLAC", "train/b/1.wav"]
    assert [dict(item.metadata) for item in items] == [
        {"label": "a", "split": "test"},
        {"label": "a", "split": "train"},
        {"label": "b", "split": "train"},
    ]
    assert plan.files == 3
    assert plan.columns == {"label": "text", "split": "text"}
    # The same as what the corpus `folder` says, which lists all of it at once.
    known = {each.audio: (each.label, each.split) for each in audio_folder.prepare(tree, probe=None)}
    assert {item.location: tuple(dict(item.metadata).values()) for item in items} == known


def test_no_audio_is_opened(tree, monkeypatch):
    monkeypatch.setattr(soundfile, "SoundFile", None)
    assert next(read_plan(tree).items()).fingerprint.startswith("12-")


def test_a_loop_of_links_ends(tree):
    (tree / "train" / "loop").symlink_to(tree)
    assert len(list(read_plan(tree).items())) == 3


def test_metadata_is_read_without_opening_files(tmp_path):
    (tmp_path / "metadata.csv").write_text("file_name,label,room,duration\nb.wav,dog,1,2.5\na.wav,cat,2,\n")
    (tmp_path / "a.wav").touch()
    plan = read_plan(tmp_path)
    assert [(item.path, item.duration) for item in plan.items()] == [("b.wav", 2.5), ("a.wav", 0.0)]
    assert [dict(item.metadata)["label"] for item in plan.items()] == ["dog", "cat"]
    assert plan.seconds is None


def test_a_clip_is_known_again_until_its_file_changes(tree):
    first = {item.path: item.key for item in read_plan(tree).items()}
    assert {item.path: item.key for item in read_plan(tree).items()} == first
    path = tree / "train" / "b" / "1.wav"
    os.utime(path, ns=(1, 1))
    second = {item.path: item.key for item in read_plan(tree).items()}
    assert {name for name in first if first[name] != second[name]} == {"train/b/1.wav"}
    one = Item("a", "/x/a", 0.0, 0.0)
    keys = {one.key, Item("a", "/x/a", 0.5, 0.0).key, Item("a", "/x/a", 0.0, 0.0, (("label", "b"),)).key}
    assert len(keys) == 3
    assert Item("a", "/moved/a", 0.0, 0.0).key == one.key


def test_clips_that_change_places_are_known_as_others(tmp_path):
    """With equal sizes and times, as after `rsync -t` or `cp -p` of exchanged recordings."""
    for name in ("a.wav", "b.wav"):
        (tmp_path / name).write_bytes(name.encode())
        os.utime(tmp_path / name, ns=(1, 1))
    first = [item.key for item in read_plan(tmp_path).items()]
    for old, new in (("a.wav", "c"), ("b.wav", "a.wav"), ("c", "b.wav")):
        (tmp_path / old).rename(tmp_path / new)
    second = [item.key for item in read_plan(tmp_path).items()]
    assert not set(first) & set(second)
    (tmp_path / "a.wav").write_bytes(b"c.wav")  # written over in place
    os.utime(tmp_path / "a.wav", ns=(1, 1))
    assert next(read_plan(tmp_path).items()).key != second[0]


def test_manifests_are_read_line_by_line(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"audio": "a.wav", "duration": 1.5}\n\n{"audio": "s3://b/c.wav", "duration": 2.0}\n')
    with pytest.raises(UserError, match=r"m\.jsonl: names s3://b/c\.wav, an address; --allow-remote"):
        read_plan(path)
    plan = read_plan(path, allow_remote=True)
    assert [(item.path, item.location) for item in plan.items()] == [
        ("a.wav", str(tmp_path / "a.wav")),
        ("s3://b/c.wav", "s3://b/c.wav"),
    ]
    assert (plan.files, plan.seconds) == (2, 3.5)
    path.write_text('{"audio": "a.wav"}\n')
    with pytest.raises(UserError, match=r"m\.jsonl line 1: 'duration' .seconds. is missing"):
        read_plan(path)


def test_words_that_count_as_missing_in_a_manifest_are_told(tmp_path):
    lines = [
        {"audio": "a.wav", "duration": 1, "text": "nan", "label": "x"},
        {"audio": "b.wav", "duration": 1, "label": " NaN"},
    ]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    for source in (tmp_path / "m.jsonl", f"file://{tmp_path}/m.jsonl"):
        plan = read_plan(source)
        assert len(list(plan.items())) == 2
        assert plan.findings.missing == {"nan": 1, "NaN": 1}
        assert "counted as missing: 'NaN' (1 x), 'nan' (1 x)" in closing_lines(plan.known, plan.findings)


def test_addresses_are_listed_and_fetched(tmp_path):
    pytest.importorskip("fsspec")
    (tmp_path / "in").mkdir()
    (tmp_path / "spool").mkdir()
    soundfile.write(tmp_path / "in" / "a.wav", tone(800), 16000)
    (tmp_path / "in" / "b.txt").touch()
    [found] = list_address(f"file://{tmp_path}/in")
    assert found.path == "a.wav"
    assert found.fingerprint.startswith("1644-")
    with fetched(found.address, tmp_path / "spool") as copy:
        assert copy.read_bytes() == (tmp_path / "in" / "a.wav").read_bytes()
        assert copy.suffix == ".wav"
    assert not list((tmp_path / "spool").iterdir())
    with pytest.raises(UserError, match="cannot be listed"):
        list_address("nosuchprotocol://x/y")


def test_a_stretch_behind_an_address_with_and_without_its_end(tmp_path):
    fsspec = pytest.importorskip("fsspec")
    soundfile.write(tmp_path / "a.wav", tone(8000), 16000)
    with fsspec.open("memory://repeats/a.wav", "wb") as file:
        file.write((tmp_path / "a.wav").read_bytes())
    lines = [f'{{"audio": "memory://repeats/a.wav", "duration": {duration}}}\n' for duration in (0, 0.5, 0.25)]
    (tmp_path / "m.jsonl").write_text("".join(lines))
    plan = read_plan(tmp_path / "m.jsonl", allow_remote=True)
    assert [item.fault.partition(":")[0] for item in plan.items()] == ["", "a duplicate", ""]


def test_addresses_of_this_machine_are_paths(tmp_path):
    audio = tmp_path / "a b.wav"
    soundfile.write(audio, tone(8000), 16000)
    address = f"file://{tmp_path}/a%20b.wav"
    (tmp_path / "m.jsonl").write_text(f'{{"audio": "{address}", "duration": 0}}\n')
    (tmp_path / "t.csv").write_text(f"file,label\n{address},x\n")
    for source in (address, [address], f"file://localhost{tmp_path}/m.jsonl", tmp_path / "m.jsonl", tmp_path / "t.csv"):
        assert [item.location for item in read_plan(source).items()] == [str(audio)]
    assert [each.audio for each in audio_folder.AudioFolder(tmp_path, tables=[tmp_path / "t.csv"]).utterances()] == [
        str(audio)
    ]
    assert len(to_waveform(address, name="x")) == 8000


def test_other_manifests_with_addresses_of_this_machine(tmp_path):
    audio = tmp_path / "a b.wav"
    soundfile.write(audio, tone(8000), 16000)
    address = f"file://{tmp_path}/a%20b.wav"
    (tmp_path / "nemo.json").write_text(f'{{"audio_filepath": "{address}", "text": "x"}}\n')
    [found] = nemo_manifest.prepare(tmp_path / "nemo.json")
    assert (found.audio, found.duration) == (str(audio), 0.5)
    recording = f'"recording": {{"id": "r", "duration": 0.5, "sources": [{{"type": "file", "source": "{address}"}}]}}'
    (tmp_path / "cuts.jsonl").write_text(f'{{"id": "c", "start": 0, "duration": 0.5, {recording}}}\n')
    [found] = lhotse.prepare(tmp_path / "cuts.jsonl")
    assert (found.audio, found.duration) == (str(audio), 0.5)
