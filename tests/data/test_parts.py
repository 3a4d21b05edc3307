"""Corpora in shards: equal to one file, prepared by several processes, joined without copying, killed at any moment."""

import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechssl.config import UserError
from speechssl.data import joining
from speechssl.data.crops import CropBatches, CropConfig
from speechssl.data.joining import join
from speechssl.data.manifest import Utterance
from speechssl.data.parts import pack_part, pack_shards, prepare_corpus
from speechssl.data.shares import Share, part_of
from speechssl.data.store import WaveformStore
from speechssl.data.waveforms import pack
from tests.data.test_waveforms import RATE, content, speech, write_corpus

COUNT = 3
WHOLE = ["manifest.jsonl", "rejects.jsonl"]


@pytest.fixture
def corpus(tmp_path: Path) -> list[Utterance]:
    """Good and bad files, a stretch, a duplicate, a contradiction, float samples and stored shifts."""
    utterances = write_corpus(tmp_path / "audio", 16)
    loud = np.sin(np.arange(8000, dtype=np.float32)) * np.repeat(np.geomspace(1, 1e-4, 50), 160).astype(np.float32)
    for name, samples in (("float", loud + 3), ("shifts", np.tile(loud, 4))):
        soundfile.write(tmp_path / "audio" / f"{name}.wav", samples, RATE, subtype="FLOAT")
        utterances.insert(5, Utterance(audio=str(tmp_path / "audio" / f"{name}.wav"), duration=0.0))
    return [*utterances, utterances[0], utterances[2].model_copy(update={"speaker": "other"})]


@pytest.fixture
def whole(corpus: list[Utterance], tmp_path: Path) -> Path:
    pack(corpus, tmp_path / "whole")
    return tmp_path / "whole"


def check_equal(out: Path, whole: Path) -> None:
    """Every property of a corpus in shards is that of the same corpus in one file."""
    one, other = WaveformStore(whole), WaveformStore(out)
    for name in WHOLE:
        assert (out / name).read_bytes() == (whole / name).read_bytes()
    index, shards = (json.loads((folder / "waveforms.json").read_text()) for folder in (whole, out))
    assert len(shards.pop("shards")) > 0
    assert len(shards.pop("places")) == len(one)
    assert shards == index  # lengths, gains, forms, checksums, notes, counts, fingerprint
    assert one.content_hash() == other.content_hash()
    assert one.utterances == other.utterances
    for number in range(len(one)):
        np.testing.assert_array_equal(one.read(number), other.read(number))
        np.testing.assert_array_equal(one.waveform(number, 7, 611), other.waveform(number, 7, 611))
    for own, shared in zip(one.marks(range(len(one))), other.marks(range(len(one))), strict=True):
        np.testing.assert_array_equal(own, shared)
    other.verify()


@pytest.mark.parametrize("count", [1, 3, 40])
def test_shards_equal_one_file(count: int, corpus: list[Utterance], whole: Path, tmp_path: Path) -> None:
    told: list[int] = []
    report = pack_shards(corpus, tmp_path / "out", count, progress=lambda done, _: told.append(done))
    assert set(json.loads((whole / "waveforms.json").read_text())["forms"]) == {
        "int16",
        "int16+shifts",
        "float32",
    }
    assert report == pack(corpus, tmp_path / "again")
    assert told == list(range(1, len(corpus) + 1))
    check_equal(tmp_path / "out", whole)
    assert not (tmp_path / "out" / "waveforms.i16").exists()


def test_batches_equal_those_of_one_file(tmp_path: Path) -> None:
    items: list[Utterance] = []
    for number in range(12):
        soundfile.write(tmp_path / f"{number}.wav", speech(number, 0.5 + number % 3), RATE)
        items.append(Utterance(audio=str(tmp_path / f"{number}.wav"), duration=0.0, speaker=f"s{number % 2}"))
    pack(items, tmp_path / "whole")
    pack_shards(items, tmp_path / "out", COUNT)
    config = CropConfig(seconds=1.5, min_seconds=1.0, batch_seconds=6.0)
    one, other = (CropBatches([WaveformStore(tmp_path / name)], config, seed=5) for name in ("whole", "out"))
    for number, rank in itertools.product(range(5), range(2)):
        first, second = (each.batch(number, rank=rank, world_size=2) for each in (one, other))
        np.testing.assert_array_equal(first.waveforms.numpy(), second.waveforms.numpy())


def test_shards_are_parts_by_name(corpus: list[Utterance], tmp_path: Path) -> None:
    pack_shards(corpus, tmp_path / "out", COUNT)
    for number in range(1, COUNT + 1):
        own = WaveformStore(Share(number, COUNT).folder(tmp_path / "out")).utterances
        assert own
        assert {part_of(each.audio, COUNT) for each in own} == {number}
    assert part_of("/a/x/../b.wav", 1000) == part_of("/a/b.wav", 1000)


# Several processes


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2)])
def test_the_last_part_joins(order: tuple[int, ...], corpus: list[Utterance], whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for place, number in enumerate(order[:-1]):
        prepared = prepare_corpus(corpus, out, shard=f"{number}/3")
        assert prepared.left == [f"{each}/3" for each in (1, 2, 3) if each not in order[: place + 1]]
        assert prepared.folder == out / "shards" / f"{number}-of-3"
    with pytest.raises(UserError, match=f"parts {order[-1]}/3 are not prepared yet; run .* --shard {order[-1]}/3"):
        WaveformStore(out)
    with pytest.raises(UserError, match=f"parts {order[-1]}/3 are not prepared, or of another input"):
        join(out, 3)
    with pytest.raises(UserError, match="has parts of a corpus that are not joined; give --shards N"):
        prepare_corpus(corpus, out)
    prepared = prepare_corpus(corpus, out, shard=f"{order[-1]}/3")
    assert (prepared.left, prepared.folder) == ([], out)
    assert prepared.report.accepted == len(WaveformStore(out))
    check_equal(out, whole)


def test_a_finished_corpus_is_left_alone(corpus: list[Utterance], tmp_path: Path) -> None:
    out = tmp_path / "out"
    pack_shards(corpus, out, COUNT)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    for options in ({"shards": COUNT}, {"shard": "2/3"}, {}):
        report = prepare_corpus(corpus, out, **options).report
        assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == before
        assert report.accepted == len(WaveformStore(out))


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"shards": 3}, {}])
@pytest.mark.parametrize("change", ["label", "file", "more", "lost samples", "lost manifest", "lost marks"])
def test_changes(change: str, options: dict[str, int], corpus: list[Utterance], tmp_path: Path) -> None:
    out = tmp_path / "out"
    pack_shards(corpus, out, COUNT)
    changed = list(corpus)
    if change == "label":
        changed[1] = corpus[1].model_copy(update={"label": "new"})
    elif change == "file":
        soundfile.write(corpus[0].audio, speech(99, 0.5), RATE)
    elif change == "more":
        soundfile.write(tmp_path / "new.wav", speech(77, 0.5), RATE)
        changed.insert(3, Utterance(audio=str(tmp_path / "new.wav"), duration=0.0))
    elif change == "lost samples":
        os.truncate(out / "shards" / "1-of-3" / "waveforms.i16", 100)
    elif change == "lost manifest":
        (out / "manifest.jsonl").unlink()
    else:
        (out / "shards" / "1-of-3" / "marks.npz").unlink()
        (out / "marks.npz").unlink()
    prepare_corpus(changed, out, **options)
    pack(changed, tmp_path / "whole")
    check_equal(out, tmp_path / "whole")


def test_a_part_of_another_input_is_named(corpus: list[Utterance], tmp_path: Path) -> None:
    out = tmp_path / "out"
    pack_shards(corpus, out, COUNT)
    fewer = corpus[1:]
    assert prepare_corpus(fewer, out, shard="2/3").left == ["1/3", "3/3"]
    with pytest.raises(UserError):  # its shards are no longer those that were joined
        WaveformStore(out)
    assert prepare_corpus(fewer, out, shard="3/3").left == ["1/3"]
    assert prepare_corpus(fewer, out, shard="1/3").left == []
    pack(fewer, tmp_path / "whole")
    check_equal(out, tmp_path / "whole")


def test_one_file_becomes_shards_and_other_shards(corpus: list[Utterance], whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    pack(corpus, out)
    pack_part(corpus, out, Share(1, 2))
    assert content_of(out) == content_of(whole)  # as it was, until all parts are there
    pack_part(corpus, out, Share(2, 2))
    join(out, 2)
    check_equal(out, whole)
    pack_shards(corpus, out, 3)
    check_equal(out, whole)
    assert sorted(path.name for path in (out / "shards").iterdir()) == ["1-of-3", "2-of-3", "3-of-3"]
    pack(corpus[1:], out)
    pack(corpus[1:], tmp_path / "fewer")
    assert content(out) == content(tmp_path / "fewer")


def content_of(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}


def test_a_part_that_changes_while_it_is_joined(
    corpus: list[Utterance], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    pack_shards(corpus, out, COUNT)
    (out / "marks.npz").unlink()
    write = joining._write

    def meanwhile(*arguments: object) -> None:
        changed = [corpus[0].model_copy(update={"label": "new"}), *corpus[1:]]
        pack_part(changed, out, Share(part_of(corpus[0].audio, COUNT), COUNT))
        write(*arguments)  # type: ignore[arg-type] -- the arguments of any writer

    monkeypatch.setattr(joining, "_write", meanwhile)
    with pytest.raises(UserError, match="prepared again"):
        join(out, COUNT)
    with pytest.raises(UserError):
        WaveformStore(out)


# In a process of its own: one call per step, each in a fork that kills itself with SIGKILL at its nth operation on the
# disk. 0 kills nothing.
CHILD = """
import os, signal, sys
from pathlib import Path
from speechssl.data import manifest, parts

utterances = manifest.read_manifest(sys.argv[1])
folder, steps = Path(sys.argv[2]), [int(step) for step in sys.argv[3:]]
touched = 0

def counted(function, step):
    def call(*arguments, **options):
        global touched
        touched += 1
        if touched == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return call

def prepare(step):
    for name in ("replace", "unlink", "touch"):
        setattr(Path, name, counted(getattr(Path, name), step))
    os.fsync = counted(os.fsync, step)
    parts.prepare_corpus(utterances, folder / f"out{step}", shard="2/2", workers=1)
    (folder / "touched").write_text(str(touched))

for step in steps:
    process = os.fork()
    if not process:
        prepare(step)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
"""


def kill(manifest: Path, steps: list[int]) -> list[int]:
    command = [sys.executable, "-c", CHILD, str(manifest), str(manifest.parent), *map(str, steps)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stderr == ""
    return [int(line) for line in done.stdout.split()]


def test_parts_at_the_same_time(tmp_path: Path) -> None:
    """Processes that finish together: one of them joins, or several one after the other, and all end well."""
    corpus = write_corpus(tmp_path / "audio", 12)
    (tmp_path / "m.jsonl").write_text("\n".join(one.model_dump_json() for one in corpus))
    pack(corpus, tmp_path / "whole")
    program = """
import os, sys
from pathlib import Path
from speechssl.data import manifest, parts
utterances = manifest.read_manifest(sys.argv[1])
for trial in range(4):
    children = []
    for number in range(1, 5):
        child = os.fork()
        if not child:
            done = parts.prepare_corpus(utterances, Path(sys.argv[2] + str(trial)), shard=f"{number}/4", workers=1)
            os._exit(10 if done.left else 11)
        children.append(child)
    print(*(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""
    command = [sys.executable, "-c", program, str(tmp_path / "m.jsonl"), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stderr == ""
    for trial, line in enumerate(done.stdout.splitlines()):
        assert set(line.split()) <= {"10", "11"}
        assert "11" in line
        check_equal(tmp_path / f"out{trial}", tmp_path / "whole")
        assert not list((tmp_path / f"out{trial}").rglob("*.lock"))


@pytest.mark.slow
def test_killed_at_every_step(tmp_path: Path) -> None:
    """The last of two parts changes a shard of an older corpus and joins; the next call repairs what is left."""
    corpus = write_corpus(tmp_path / "audio", 8)
    number = next(each for each, item in enumerate(corpus) if part_of(item.audio, 2) == 2)
    older = [*corpus[:number], corpus[number].model_copy(update={"label": "old"}), *corpus[number + 1 :]]
    (tmp_path / "m.jsonl").write_text("\n".join(one.model_dump_json() for one in corpus))
    pack(corpus, tmp_path / "whole")
    pack(older, tmp_path / "older")

    def begin(step: int) -> None:
        pack_shards(older, tmp_path / f"out{step}", 2)
        pack_part(corpus, tmp_path / f"out{step}", Share(1, 2))

    begin(0)
    assert kill(tmp_path / "m.jsonl", [0]) == [0]
    check_equal(tmp_path / "out0", tmp_path / "whole")
    steps = list(range(1, 1 + int((tmp_path / "touched").read_text())))
    assert len(steps) >= 12
    for step in steps:
        begin(step)
    assert kill(tmp_path / "m.jsonl", steps) == [-signal.SIGKILL] * len(steps)
    for step in steps:
        out = tmp_path / f"out{step}"
        if (out / "waveforms.json").exists():  # the new corpus; the old one ended when the first part was listed anew
            check_equal(out, tmp_path / "whole")
        prepare_corpus(corpus, out, shard="2/2", workers=1)
        check_equal(out, tmp_path / "whole")


def test_refusals(corpus: list[Utterance], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="s3://bucket/corpus: a corpus is prepared on a disk"):
        prepare_corpus(corpus, Path("s3://bucket/corpus"))
    with pytest.raises(UserError, match="--shards and --shard: give one of them"):
        prepare_corpus(corpus, tmp_path / "out", shards=2, shard="1/2")
    for words in ("0/3", "4/3", "2", "a/b", "1/", "-1/3"):
        with pytest.raises(UserError, match=f"--shard {words}: a part of all parts, for example 2/4"):
            prepare_corpus(corpus, tmp_path / "out", shard=words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("damage", ["places", "shards", "column"])
def test_damaged_index(damage: str, corpus: list[Utterance], tmp_path: Path) -> None:
    out = tmp_path / "out"
    pack_shards(corpus, out, COUNT)
    index = json.loads((out / "waveforms.json").read_text())
    if damage == "places":
        index["places"][0] = COUNT
    elif damage == "column":
        del index["places"][0]
    else:
        index["shards"][0] = "../whole/waveforms.i16"
    (out / "waveforms.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"waveforms\.json: (its lengths do not add up|not the index of a prepared)"):
        WaveformStore(out)


def test_damaged_samples_are_prepared_again(corpus: list[Utterance], whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    pack_shards(corpus, out, COUNT)
    path = out / "shards" / "2-of-3" / "waveforms.i16"
    samples = bytearray(path.read_bytes())
    samples[1000] ^= 1
    path.write_bytes(samples)
    with pytest.raises(UserError, match=r"2-of-3/waveforms.i16: .* remove shards/2-of-3/waveforms.json and prepare"):
        WaveformStore(out).verify()
    (out / "shards" / "2-of-3" / "waveforms.json").unlink()
    prepare_corpus(corpus, out)
    check_equal(out, whole)


def test_marks_of_other_samples_are_not_used(corpus: list[Utterance], tmp_path: Path) -> None:
    pack_shards(corpus, tmp_path / "out", COUNT)
    pack_shards(corpus[2:], tmp_path / "other", COUNT)
    (tmp_path / "out" / "marks.npz").write_bytes((tmp_path / "other" / "marks.npz").read_bytes())
    pack(corpus, tmp_path / "whole")
    check_equal(tmp_path / "out", tmp_path / "whole")
    (tmp_path / "out" / "marks.npz").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"marks\.npz: damaged"):
        WaveformStore(tmp_path / "out").marks([0])
