"""Packing and reading: bits, order, resuming after SIGKILL at any moment, and every refusal of the store."""

import itertools
import json
import math
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from speechssl.config import UserError
from speechssl.data import waveforms
from speechssl.data.manifest import Utterance, read_manifest
from speechssl.data.waveforms import PackReport, WaveformStore, pack
from tests.toys import tones

from ..toys import files_of_at_most

RATE = 16000
FILES = ["manifest.jsonl", "rejects.jsonl", "waveforms.i16", "waveforms.json"]


def speech(seed: int, seconds: float = 0.3) -> np.ndarray:
    """16-bit noise."""
    return np.random.default_rng(seed).integers(-20000, 20000, int(seconds * RATE)).astype(np.int16)


def write_corpus(folder: Path, count: int = 12) -> list[Utterance]:
    """Files of different lengths; every fifth is missing, one has 8 kHz, one is read in two stretches."""
    folder.mkdir(parents=True)
    utterances: list[Utterance] = []
    for index in range(count):
        path = folder / f"{index:02}.wav"
        if index % 5 != 4:
            soundfile.write(path, speech(index, 0.1 + index % 3 / 10), 8000 if index == 3 else RATE)
        utterances.append(Utterance(audio=str(path), duration=0.0, speaker=f"s{index % 2}"))
    utterances.append(Utterance(audio=str(folder / "02.wav"), offset=0.15, duration=0.1, label="a"))
    return utterances


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def corpus(tmp_path: Path) -> list[Utterance]:
    return write_corpus(tmp_path / "audio")


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files decoded from now on."""
    names: list[str] = []
    encode = waveforms.encode

    def watch(path: str, offset: float, **options: Any) -> object:
        names.append(path)
        return encode(path, offset, **options)

    monkeypatch.setattr(waveforms, "encode", watch)
    return names


# What is stored


def test_sixteen_bit_files_are_kept_bit_for_bit(tmp_path: Path) -> None:
    originals = [speech(seed) for seed in range(3)]
    originals[0][:4] = [-32768, 32767, -32767, 0]
    for index, (samples, suffix) in enumerate(zip(originals, ["wav", "flac", "aiff"], strict=True)):
        soundfile.write(tmp_path / f"{index}.{suffix}", samples, RATE)
    files = sorted(tmp_path.glob("?.*"))
    report = pack([Utterance(audio=str(path), duration=0.3) for path in files], tmp_path / "out")
    assert report == PackReport(accepted=3, rejected=0, seconds=0.9, resumed=0, upsampled=0)
    store = WaveformStore(tmp_path / "out")
    for index, samples in enumerate(originals):
        np.testing.assert_array_equal(store.read(index), samples)
    store.verify()
    assert (tmp_path / "out" / "waveforms.i16").read_bytes() == np.concatenate(originals).astype("<i2").tobytes()


@pytest.mark.parametrize("peak", [1e-4, 0.01, 0.5, 0.75, 1.0, 1.5, 2.0, 1e6])
def test_other_files_keep_sixteen_bits_of_their_own_level(peak: float, tmp_path: Path) -> None:
    samples = np.sin(np.arange(8001, dtype=np.float32)) * np.repeat(np.geomspace(1, 1e-4, 54), 160)[:8001]
    samples *= np.float32(peak) / np.abs(samples).max()
    soundfile.write(tmp_path / "a.wav", samples, RATE, subtype="FLOAT")
    pack([Utterance(audio=str(tmp_path / "a.wav"), duration=0.0)], tmp_path / "out")
    store = WaveformStore(tmp_path / "out")
    stored, [gain] = store.read(0), store.gains
    assert 0.5 <= gain / peak <= 2
    assert math.log2(gain) == round(math.log2(gain))
    found = store.waveform(0)
    for start in range(0, 8001, 160):
        part = slice(start, start + 160)
        assert 16000 < np.abs(stored[part].astype(int)).max() <= 32767
        level = np.abs(samples[part]).max()
        assert np.abs(found[part].astype(np.float64) - samples[part].astype(np.float32)).max() <= level / 32767
    for start, stop in [(0, 160), (1, 2), (159, 161), (160, 320), (100, 8001), (4000, 8001), (17, 17)]:
        np.testing.assert_array_equal(store.waveform(0, start, stop), found[start:stop])
    store.verify()


def test_manifest_has_the_true_durations_and_all_fields(corpus: list[Utterance], tmp_path: Path) -> None:
    report = pack(corpus, tmp_path / "out", workers=2)
    store = WaveformStore(tmp_path / "out")
    assert [one.audio for one in store.utterances] == [one.audio for one in corpus if Path(one.audio).exists()]
    assert [one.duration for one in store.utterances] == [length / RATE for length in store.lengths]
    assert store.lengths.dtype == np.int64
    assert store.utterances[3].duration == pytest.approx(0.2)  # 0.1 s written at 8 kHz
    assert store.utterances[-1] == corpus[-1]
    np.testing.assert_array_equal(store.read(len(store) - 1), store.read(2)[2400:4000])
    assert report.accepted == len(store) == 11
    assert report.rejected == 2
    assert report.upsampled == 1
    assert report.seconds == pytest.approx(store.lengths.sum() / RATE)
    rejects = [json.loads(line) for line in (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()]
    assert rejects == [{"audio": corpus[index].audio, "reason": "no such file"} for index in (4, 9)]
    assert sorted(content(tmp_path / "out")) == FILES


def test_reject_of_a_stretch_says_where(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", speech(0), RATE)
    pack([Utterance(audio=str(tmp_path / "a.wav"), offset=2.5, duration=1.0)], tmp_path / "out")
    [line] = (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()
    assert json.loads(line)["offset"] == 2.5


def test_order_does_not_depend_on_the_workers(corpus: list[Utterance], tmp_path: Path) -> None:
    pack(corpus, tmp_path / "one", workers=1)
    pack(corpus, tmp_path / "many", workers=7)
    assert content(tmp_path / "one") == content(tmp_path / "many")


def test_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    soundfile.write(tmp_path / "a.wav", speech(0), RATE)
    monkeypatch.chdir(tmp_path)
    pack([Utterance(audio="a.wav", duration=0.0)], Path("out"))
    assert read_manifest(tmp_path / "out" / "manifest.jsonl")[0].audio == str(tmp_path / "a.wav")


def test_nothing_good_is_an_empty_corpus(tmp_path: Path) -> None:
    report = pack([Utterance(audio="/missing.wav", duration=1.0)], tmp_path / "out")
    assert report == PackReport(accepted=0, rejected=1, seconds=0.0, resumed=0, upsampled=0)
    assert len(WaveformStore(tmp_path / "out")) == 0
    assert pack([], tmp_path / "none").accepted == 0


def test_progress_is_told_in_order(corpus: list[Utterance], tmp_path: Path) -> None:
    told: list[tuple[int, float]] = []
    report = pack(corpus, tmp_path / "out", progress=lambda count, seconds: told.append((count, seconds)))
    assert [count for count, _ in told] == list(range(1, len(corpus) + 1))
    assert told[-1][1] == pytest.approx(report.seconds)
    assert told == sorted(told)


def test_few_decoded_utterances_wait_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = itertools.count(1)
    lock = threading.Lock()
    begun = 0
    encode = waveforms.encode

    def watch(path: str, offset: float, **options: Any) -> object:
        nonlocal begun
        with lock:
            begun = next(started)
        return encode(path, offset, **options)

    monkeypatch.setattr(waveforms, "encode", watch)
    ahead: list[int] = []

    def slow(count: int, seconds: float) -> None:
        time.sleep(0.002)  # long enough for the threads to run ahead if they could
        ahead.append(begun - count)

    utterances = [one for one in write_corpus(tmp_path / "audio", 60) if Path(one.audio).exists()]
    pack(utterances, tmp_path / "out", workers=3, progress=slow)
    assert 0 < max(ahead) <= 2 * 3 + 1


# Doing nothing, doing it again


def test_a_finished_corpus_is_left_alone(corpus: list[Utterance], tmp_path: Path, decoded: list[str]) -> None:
    first = pack(corpus, tmp_path / "out")
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    count = len(decoded)
    second = pack(iter(corpus), tmp_path / "out")
    assert len(decoded) == count
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before
    assert (second.accepted, second.rejected, second.seconds, second.upsampled) == (
        first.accepted,
        first.rejected,
        first.seconds,
        first.upsampled,
    )
    assert second.resumed == len(corpus)


@pytest.mark.parametrize(
    "change", ["file", "time", "label", "fewer", "order", "offset", "missing file", "lost samples", "lost manifest"]
)
def test_a_changed_corpus_is_packed_again(change: str, corpus: list[Utterance], tmp_path: Path) -> None:
    out = tmp_path / "out"
    pack(corpus, out)
    changed = list(corpus)
    if change == "file":
        soundfile.write(corpus[0].audio, speech(99, 0.5), RATE)
    elif change == "time":
        os.utime(corpus[0].audio, ns=(1, 1))
    elif change == "label":
        changed[1] = corpus[1].model_copy(update={"label": "new"})
    elif change == "fewer":
        del changed[1]
    elif change == "order":
        changed.reverse()
    elif change == "offset":
        changed[0] = corpus[0].model_copy(update={"offset": 0.05})
    elif change == "missing file":
        Path(corpus[0].audio).unlink()
    elif change == "lost samples":
        os.truncate(out / "waveforms.i16", 1000)
    elif change == "lost manifest":
        (out / "manifest.jsonl").unlink()
    report = pack(changed, out)
    assert report.resumed == 0
    pack(changed, tmp_path / "fresh")
    assert content(out) == content(tmp_path / "fresh")
    WaveformStore(out).verify()


def exchange(first: Path, second: Path) -> None:
    """Two files change places; each place keeps the size and the time it had."""
    third = first.with_name("third")
    first.rename(third)
    second.rename(first)
    third.rename(second)


def test_recordings_that_change_places_are_packed_again(tmp_path: Path) -> None:
    paths = [tmp_path / "a.wav", tmp_path / "b.wav"]
    for seed, path in enumerate(paths):
        soundfile.write(path, speech(seed, 0.5), RATE)
        os.utime(path, ns=(1, 1))
    corpus = [Utterance(audio=str(path), duration=0.0) for path in paths]
    pack(corpus, tmp_path / "out")
    before = [WaveformStore(tmp_path / "out").waveform(index) for index in (0, 1)]
    exchange(*paths)
    pack(corpus, tmp_path / "out")
    store = WaveformStore(tmp_path / "out")
    np.testing.assert_array_equal(store.waveform(0), before[1])
    np.testing.assert_array_equal(store.waveform(1), before[0])


# Resuming


def half_done(corpus: list[Utterance], out: Path, count: int) -> None:
    """A call that is interrupted after so many utterances."""

    def interrupt(done: int, seconds: float) -> None:
        if done == count:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(corpus, out, workers=2, progress=interrupt)


def test_interrupted_call_goes_on(corpus: list[Utterance], tmp_path: Path, decoded: list[str]) -> None:
    pack(corpus, tmp_path / "whole")
    half_done(corpus, tmp_path / "out", 6)
    with pytest.raises(UserError, match="not a prepared corpus"):
        WaveformStore(tmp_path / "out")
    decoded.clear()
    report = pack(corpus, tmp_path / "out")
    assert report.resumed == 6
    assert sorted(decoded) == sorted(one.audio for one in corpus[6:])
    assert report.upsampled == 1  # dealt with in the first call
    assert content(tmp_path / "out") == content(tmp_path / "whole")


@pytest.mark.parametrize("damage", ["torn line", "text behind", "flipped sample", "lost samples", "lost journal"])
def test_damaged_remains_are_not_trusted(damage: str, corpus: list[Utterance], tmp_path: Path) -> None:
    pack(corpus, tmp_path / "whole")
    out = tmp_path / "out"
    half_done(corpus, out, 8)
    journal, partial = out / "journal.jsonl", out / "waveforms.i16.partial"
    if damage == "torn line":
        os.truncate(journal, journal.stat().st_size - 5)
    elif damage == "text behind":
        journal.write_bytes(journal.read_bytes() + b"\x00\x00\x00\n{}\n")
    elif damage == "flipped sample":
        samples = bytearray(partial.read_bytes())
        samples[5000] ^= 1
        partial.write_bytes(samples)
    elif damage == "lost samples":
        os.truncate(partial, partial.stat().st_size - 3)
    else:
        journal.unlink()
    expected = {"torn line": 7, "text behind": 8, "flipped sample": 1, "lost samples": 7, "lost journal": 0}[damage]
    assert pack(corpus, out).resumed == expected
    assert content(out) == content(tmp_path / "whole")


def test_changed_input_keeps_what_lies_before_the_change(corpus: list[Utterance], tmp_path: Path) -> None:
    half_done(corpus, tmp_path / "out", 8)
    changed = [*corpus[:5], *corpus[6:]]
    assert pack(changed, tmp_path / "out").resumed == 5
    pack(changed, tmp_path / "fresh")
    assert content(tmp_path / "out") == content(tmp_path / "fresh")


def test_remains_longer_than_the_new_input(corpus: list[Utterance], tmp_path: Path) -> None:
    half_done(corpus, tmp_path / "out", 8)
    assert pack(corpus[:3], tmp_path / "out").resumed == 3
    pack(corpus[:3], tmp_path / "fresh")
    assert content(tmp_path / "out") == content(tmp_path / "fresh")


def test_interrupted_twice_around_damage(corpus: list[Utterance], tmp_path: Path) -> None:
    half_done(corpus, tmp_path / "out", 8)
    partial = tmp_path / "out" / "waveforms.i16.partial"
    os.truncate(partial, partial.stat().st_size - 3)
    half_done(corpus, tmp_path / "out", 10)
    assert pack(corpus, tmp_path / "out").resumed == 10


@pytest.mark.parametrize(
    ("size", "seconds", "name"), [(1000, 0.3, "waveforms.i16.partial"), (100_000, 61, ".decoding-")]
)
def test_a_full_disk_names_the_file_that_is_written(tmp_path: Path, size: int, seconds: float, name: str) -> None:
    soundfile.write(tmp_path / "a.wav", speech(0, seconds), RATE)
    item = Utterance(audio=str(tmp_path / "a.wav"), duration=0.0)
    with pytest.raises(OSError, match="File too large") as caught, files_of_at_most(size):
        pack([item], tmp_path / "out", workers=1)
    assert str(caught.value.filename).startswith(f"{tmp_path / 'out' / name}")
    assert pack([item], tmp_path / "out").accepted == 1


def test_a_full_disk_names_the_journal(tmp_path: Path) -> None:
    item = Utterance(audio=str(tmp_path / "missing.wav"), duration=0.0)
    with pytest.raises(OSError, match="File too large") as caught, files_of_at_most(10):
        pack([item], tmp_path / "out", workers=1)
    assert caught.value.filename == str(tmp_path / "out" / "journal.jsonl")


# In a process of its own: packs once for each step asked for, each time in a fork that kills itself with SIGKILL
# before or after its nth renaming, removal or flush ("disk") or at its nth decoded file ("decode"). 0 kills nothing.
CHILD = """
import os, signal, sys
from pathlib import Path
from speechssl.data import manifest, waveforms

utterances = manifest.read_manifest(sys.argv[1])
folder, kind, steps = Path(sys.argv[2]), sys.argv[3], [int(step) for step in sys.argv[4:]]
touched = 0

def count(step):
    global touched
    touched += 1
    if touched == step:
        os.kill(os.getpid(), signal.SIGKILL)

def counted(function, step):
    def call(*arguments, **options):
        count(step)
        result = function(*arguments, **options)
        count(step)
        return result
    return call

def pack(step):
    if kind == "disk":
        for name in ("replace", "unlink", "touch"):
            setattr(Path, name, counted(getattr(Path, name), step))
        os.fsync = counted(os.fsync, step)
    else:
        waveforms.encode = counted(waveforms.encode, 2 * step)
    waveforms.pack(utterances, folder / f"out{step}", workers=2)
    (folder / "touched").write_text(str(touched))

for step in steps:
    process = os.fork()
    if not process:
        pack(step)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
"""


def kill(manifest: Path, kind: str, steps: list[int]) -> list[int]:
    """The exit codes of packing into `out<step>` beside the manifest."""
    command = [sys.executable, "-c", CHILD, str(manifest), str(manifest.parent), kind, *map(str, steps)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stderr == ""
    return [int(line) for line in done.stdout.split()]


def utterances_of_whole_corpus(out: Path) -> int:
    """The number of utterances in a prepared corpus that must be in order; 0 when there is none."""
    if not (out / "waveforms.json").exists():
        with pytest.raises(UserError, match="not a prepared corpus"):
            WaveformStore(out)
        return 0
    store = WaveformStore(out)
    store.verify()
    assert [one.duration for one in store.utterances] == [length / RATE for length in store.lengths]
    return len(store)


@pytest.mark.slow
def test_killed_at_every_step_on_the_disk(corpus: list[Utterance], tmp_path: Path) -> None:
    """A repack over an older corpus, which has most to go wrong; then one call that must repair whatever is left."""
    (tmp_path / "m.jsonl").write_text("\n".join(one.model_dump_json() for one in corpus))
    pack(corpus, tmp_path / "whole")
    whole = content(tmp_path / "whole")
    older = [corpus[0].model_copy(update={"label": "old"}), *corpus[1:3]]
    pack(older, tmp_path / "out0")
    assert kill(tmp_path / "m.jsonl", "disk", [0]) == [0]
    assert content(tmp_path / "out0") == whole
    steps = list(range(1, 1 + int((tmp_path / "touched").read_text())))
    assert len(steps) >= 20
    for step in steps:
        pack(older, tmp_path / f"out{step}")
    assert kill(tmp_path / "m.jsonl", "disk", steps) == [-signal.SIGKILL] * len(steps)
    found = [utterances_of_whole_corpus(tmp_path / f"out{step}") for step in steps]
    assert found == sorted(found, key=[3, 0, 11].index)  # the old one, then none, then the new one: never a mixture
    assert set(found) == {3, 0, 11}
    for step in steps:
        journal = tmp_path / f"out{step}" / "journal.jsonl"
        kept = journal.read_bytes().count(b"\n") if journal.exists() else 0
        report = pack(corpus, tmp_path / f"out{step}")
        assert report.accepted == 11
        assert report.resumed >= kept
        assert content(tmp_path / f"out{step}") == whole


def test_killed_while_decoding(corpus: list[Utterance], tmp_path: Path, decoded: list[str]) -> None:
    (tmp_path / "m.jsonl").write_text("\n".join(one.model_dump_json() for one in corpus))
    pack(corpus, tmp_path / "whole")
    steps = [1, 2, 5, 9, 11]
    assert kill(tmp_path / "m.jsonl", "decode", steps) == [-signal.SIGKILL] * len(steps)
    for step in steps:
        out = tmp_path / f"out{step}"
        kept = (out / "journal.jsonl").read_bytes().count(b"\n")
        decoded.clear()
        report = pack(corpus, out)
        assert report.resumed == kept >= step - 6  # what was being decoded or waited in the window is lost
        assert sorted(decoded) == sorted(one.audio for one in corpus[kept:])
        assert content(out) == content(tmp_path / "whole")


def test_killed_from_outside(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "audio", 150)
    (tmp_path / "m.jsonl").write_text("\n".join(one.model_dump_json() for one in corpus))
    program = "import sys\nfrom pathlib import Path\nfrom speechssl.data import manifest, waveforms\n"
    program += "waveforms.pack(manifest.read_manifest(sys.argv[1]), Path(sys.argv[2]))"
    journal = tmp_path / "out" / "journal.jsonl"
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "m.jsonl"), str(tmp_path / "out")]) as child:
        while child.poll() is None and not (journal.exists() and journal.read_bytes().count(b"\n") >= 50):
            time.sleep(0.0005)
        child.kill()
    assert child.returncode in {-signal.SIGKILL, 0}  # 0: it was faster than this loop
    assert pack(corpus, tmp_path / "out").resumed >= 50
    pack(corpus, tmp_path / "whole")
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_two_at_once_are_refused(corpus: list[Utterance], tmp_path: Path) -> None:
    def second(done: int, seconds: float) -> None:
        if done == 3:
            with pytest.raises(UserError, match="another process is preparing this corpus"):
                pack(corpus, tmp_path / "out")

    assert pack(corpus, tmp_path / "out", progress=second).accepted == 11


def test_pack_refuses(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="a prepared corpus is a folder, this is a file"):
        pack([], tmp_path / "file")
    with pytest.raises(ValueError, match="workers must be at least 0, got -1"):
        pack([], tmp_path / "out", workers=-1)


# Reading


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> WaveformStore:
    folder = tmp_path_factory.mktemp("store")
    files = []
    for index in range(4):
        soundfile.write(folder / f"{index}.wav", speech(index, 0.05 * (index + 1)), RATE)
        files.append(Utterance(audio=str(folder / f"{index}.wav"), duration=0.0))
    pack(files, folder / "out")
    return WaveformStore(folder / "out")


@given(data=st.data())
def test_any_stretch(store: WaveformStore, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(store) - 1))
    length = int(store.lengths[index])
    start = data.draw(st.integers(0, length))
    stop = data.draw(st.none() | st.integers(start, length))
    np.testing.assert_array_equal(store.read(index, start, stop), speech(index, 0.05 * (index + 1))[start:stop])


def test_stretch_is_a_view_that_cannot_be_written(store: WaveformStore) -> None:
    view = store.read(2, 10, 20)
    assert not view.flags.owndata
    assert np.shares_memory(view, store.read(2))
    with pytest.raises(ValueError, match="read-only"):
        view[0] = 1


@pytest.mark.parametrize(("start", "stop"), [(-1, 5), (5, 4), (0, 801), (801, None), (0, -1)])
def test_stretch_outside_is_refused(store: WaveformStore, start: int, stop: int | None) -> None:
    with pytest.raises(ValueError, match="of utterance 0, which has 800"):
        store.read(0, start, stop)


@pytest.mark.parametrize("index", [-1, 4])
def test_utterance_outside_is_refused(store: WaveformStore, index: int) -> None:
    with pytest.raises(IndexError, match=f"utterance {index} of a corpus with 4"):
        store.read(index)


def test_store_travels_to_other_processes_without_its_samples(store: WaveformStore) -> None:
    packed = pickle.dumps(store)
    assert len(packed) < 1000
    again = pickle.loads(packed)
    np.testing.assert_array_equal(again.read(3), store.read(3))


def damage(out: Path, kind: str) -> None:
    index = json.loads((out / "waveforms.json").read_text())
    if kind == "no samples":
        (out / "waveforms.i16").unlink()
    elif kind == "cut":
        os.truncate(out / "waveforms.i16", 100)
    elif kind == "longer manifest":
        with (out / "manifest.jsonl").open("a") as file:
            file.write('{"audio": "x.wav", "duration": 1.0}\n')
    elif kind == "no manifest":
        (out / "manifest.jsonl").unlink()
    elif kind == "old version":
        for name in ("gains", "forms", "digests", "notes"):
            del index[name]
        (out / "waveforms.json").write_text(json.dumps({**index, "version": 1}))
    elif kind == "no index at all":
        (out / "waveforms.json").write_text("[1, 2")
    elif kind == "other lengths":
        index["lengths"][0] += 1
        (out / "waveforms.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("no samples", r"waveforms.i16: missing; prepare the corpus again"),
        ("cut", r"waveforms.i16: 100 bytes, waveforms.json says \d+; prepare the corpus again"),
        ("longer manifest", r"manifest.jsonl: 12 utterances, waveforms.json counts 11"),
        ("no manifest", r"manifest.jsonl: the manifest cannot be read"),
        ("old version", r"waveforms.json: version 1 at 16000 Hz; this program reads version 2 at 16000 Hz"),
        ("no index at all", r"waveforms.json: not the index of a prepared corpus"),
        ("other lengths", r"waveforms.json: its lengths do not add up"),
    ],
)
def test_damaged_corpus_is_refused_and_can_be_prepared_again(
    kind: str, message: str, corpus: list[Utterance], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    pack(corpus, out)
    whole = content(out)
    damage(out, kind)
    with pytest.raises(UserError, match=message):
        WaveformStore(out)
    pack(corpus, out)
    if kind != "longer manifest":  # its size is in no index; only opening counts the lines
        assert content(out) == whole


@pytest.mark.parametrize("name", ["missing", "manifest.jsonl"])
def test_no_corpus_is_refused(name: str, corpus: list[Utterance], tmp_path: Path) -> None:
    pack(corpus, tmp_path / "out")
    with pytest.raises(UserError, match=r"not a prepared corpus \(no waveforms.json\); run `speechssl prepare`"):
        WaveformStore(tmp_path / "out" / name)


def test_verify_finds_a_flipped_bit(corpus: list[Utterance], tmp_path: Path) -> None:
    pack(corpus, tmp_path / "out")
    path = tmp_path / "out" / "waveforms.i16"
    samples = bytearray(path.read_bytes())
    samples[-1] ^= 0x80
    path.write_bytes(samples)
    store = WaveformStore(tmp_path / "out")
    with pytest.raises(UserError, match=r"the samples of utterance 10 \(.*02.wav\) are damaged"):
        store.verify()


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ((0.5, 0.6, 0.7), r"manifest\.jsonl:1: 0\.6 s, but the waveform in its place has 0\.5 s: the lines must stay"),
        ((0.5, 0.5, 0.5), r"manifest\.jsonl: its lines are in another order than the waveforms, or of other files"),
    ],
)
def test_a_manifest_in_another_order_is_refused(lengths: tuple[float, ...], message: str, tmp_path: Path) -> None:
    made: list[Utterance] = []
    for number, seconds in enumerate(lengths):
        soundfile.write(tmp_path / f"{number}.wav", tones(seconds, seed=number), 16000)
        made.append(Utterance(audio=str(tmp_path / f"{number}.wav"), duration=0.0))
    pack(made, tmp_path / "corpus", workers=1)
    path = tmp_path / "corpus" / "manifest.jsonl"
    first, second, third = path.read_text().splitlines(keepends=True)
    path.write_text(second + first + third)
    with pytest.raises(UserError, match=message):
        WaveformStore(tmp_path / "corpus")
    path.write_text(first.replace("}", ', "label": "glad"}') + second + third)  # labels may be edited
    assert WaveformStore(tmp_path / "corpus").utterances[0].label == "glad"
