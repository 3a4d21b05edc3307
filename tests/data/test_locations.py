"""Prepared corpora behind addresses: equal to those on a disk, read by ranges, a bounded cache, one line per fault."""

import json
import pickle
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from speechssl.config import UserError
from speechssl.data.crops import CropBatches, CropConfig
from speechssl.data.locations import Address, location_of
from speechssl.data.manifest import Utterance
from speechssl.data.parts import pack_shards
from speechssl.data.samples import PAGE, PageCache
from speechssl.data.store import WaveformStore
from speechssl.data.training_audio import AudioRecord
from speechssl.data.units import read_units
from speechssl.data.waveforms import pack
from speechssl.info import facts
from tests.data.test_parts import corpus  # noqa: F401 -- a fixture
from tests.data.test_waveforms import RATE, speech

fsspec: Any = pytest.importorskip("fsspec")
ADDRESS = "memory://bucket/corpus"


@pytest.fixture
def memory() -> Iterator[Any]:
    """An empty file system in memory."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    system.pseudo_dirs[:] = [""]
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch, memory: Any) -> Counter[str]:
    """The bytes that were read of each file from now on, by its last names."""
    found: Counter[str] = Counter()
    cat = type(memory).cat_file

    def counted(self: Any, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        content = cat(self, path, start=start, end=end, **options)
        found[path.removeprefix("/bucket/corpus/")] += len(content)
        return content

    monkeypatch.setattr(type(memory), "cat_file", counted)
    return found


def upload(memory: Any, folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            memory.pipe(f"/bucket/corpus/{path.relative_to(folder)}", path.read_bytes())


def samples_of(read: Counter[str]) -> int:
    return sum(count for name, count in read.items() if name.endswith("waveforms.i16"))


@pytest.fixture
def long_corpus(tmp_path: Path, memory: Any) -> Path:
    """A corpus in three shards on the disk and behind the address; 24 utterances of 4 s."""
    items: list[Utterance] = []
    for number in range(24):
        soundfile.write(tmp_path / f"{number}.wav", speech(number, 4), RATE)
        items.append(Utterance(audio=str(tmp_path / f"{number}.wav"), duration=0.0, speaker=f"s{number % 4}"))
    pack_shards(items, tmp_path / "out", 3)
    upload(memory, tmp_path / "out")
    return tmp_path / "out"


@pytest.mark.parametrize("place", [ADDRESS, Path(ADDRESS), Address(ADDRESS), "file"])
@pytest.mark.parametrize("shards", [None, 3])
def test_equal_to_the_folder(
    place: Any,
    shards: int | None,
    corpus: list[Utterance],  # noqa: F811 -- the fixture that is imported above
    tmp_path: Path,
    memory: Any,
) -> None:
    out = tmp_path / "out"
    if shards is None:
        pack(corpus, out)
    else:
        pack_shards(corpus, out, shards)
    upload(memory, out)
    one, other = WaveformStore(out), WaveformStore(f"file://{out}" if place == "file" else place)
    assert str(other.folder) == (str(out) if place == "file" else ADDRESS)
    assert other.folder.name == ("out" if place == "file" else "corpus")
    assert one.utterances == other.utterances
    assert (one.content_hash(), one.content_ids(), one.speakers) == (
        other.content_hash(),
        other.content_ids(),
        other.speakers,
    )
    for number in range(len(one)):
        np.testing.assert_array_equal(one.read(number), other.read(number))
        assert not other.read(number).flags.writeable
        for start, stop in ((0, None), (1, 2), (39, 41), (7, 1003), (800, 800), (41, 799)):
            np.testing.assert_array_equal(one.waveform(number, start, stop), other.waveform(number, start, stop))
    for own, shared in zip(one.marks(range(len(one))), other.marks(range(len(one))), strict=True):
        np.testing.assert_array_equal(own, shared)
    other.verify()


def test_each_rank_reads_its_own(long_corpus: Path, read: Counter[str]) -> None:
    config = CropConfig(seconds=2.0, min_seconds=1.0, batch_seconds=16.0)
    local = CropBatches([WaveformStore(long_corpus)], config, seed=1)
    crops = local.batch_size * local.batches_per_epoch
    counts: list[int] = []
    for rank in range(2):
        read.clear()
        store = WaveformStore(ADDRESS)
        assert samples_of(read) == 0  # the index and the manifest alone
        AudioRecord.of(store)
        assert samples_of(read) == 0  # marks are read from their file
        batches = CropBatches([store], config, seed=1)
        for number in range(batches.batches_per_epoch):
            own, other = (each.batch(number, rank=rank, world_size=2) for each in (local, batches))
            np.testing.assert_array_equal(own.waveforms.numpy(), other.waveforms.numpy())
        counts.append(samples_of(read))
    used = 2 * 2 * RATE  # bytes of a crop
    for count in counts:
        assert crops / 2 * used * 0.9 <= count <= crops / 2 * (used + 2 * PAGE)
    assert sum(counts) < 24 * 4 * 2 * RATE  # less than the whole corpus


def test_a_crop_of_a_long_utterance_reads_its_pages(long_corpus: Path, read: Counter[str]) -> None:
    store = WaveformStore(ADDRESS)
    read.clear()
    store.waveform(3, 20000, 20001)
    assert samples_of(read) == PAGE
    store.waveform(3, 19990, 20010)
    assert samples_of(read) <= 2 * PAGE  # cached


def test_crops_are_read_at_once(long_corpus: Path, memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two requests wait for each other: one after the other, the barrier would break."""
    config = CropConfig(seconds=2.0, min_seconds=1.0, batch_seconds=8.0)
    batches, local = (CropBatches([WaveformStore(each)], config, seed=1) for each in (ADDRESS, long_corpus))
    barrier, cat = threading.Barrier(2, timeout=20), type(memory).cat_file

    def waiting(*given: Any, **options: Any) -> bytes:
        barrier.wait()
        return cat(*given, **options)

    monkeypatch.setattr(type(memory), "cat_file", waiting)
    np.testing.assert_array_equal(batches.batch(0).waveforms.numpy(), local.batch(0).waveforms.numpy())


def test_the_cache_is_bounded(long_corpus: Path, read: Counter[str]) -> None:
    small, large = WaveformStore(ADDRESS, cache_bytes=4 * PAGE), WaveformStore(ADDRESS)
    for store, times in ((small, 2), (large, 1)):
        read.clear()
        for _ in range(2):
            for number in range(len(store)):
                store.waveform(number)
        total = 24 * 4 * 2 * RATE
        assert times * total <= samples_of(read) <= times * total + times * 48 * PAGE
    cache = PageCache(10)
    for number in range(5):
        cache.put("a", number, b"1234")
        cache.put("a", 0, b"1234")
    assert cache.bytes <= 10
    assert [cache.get("a", number) for number in range(5)] == [b"1234", None, None, None, b"1234"]


def test_store_travels(long_corpus: Path, read: Counter[str]) -> None:
    store = WaveformStore(ADDRESS, cache_bytes=PAGE)
    content = pickle.dumps(store)
    assert len(content) < 1000
    other = pickle.loads(content)
    assert (other.folder, other._cache_bytes) == (store.folder, PAGE)


@pytest.mark.parametrize("damage", ["no index", "no manifest", "no samples", "cut", "short answer", "protocol"])
def test_one_line(damage: str, long_corpus: Path, memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    address, shard = ADDRESS, "/bucket/corpus/shards/2-of-3/waveforms.i16"
    expected = {
        "no index": rf"{ADDRESS}: not a prepared corpus \(no waveforms.json\)",
        "no manifest": rf"{ADDRESS}/manifest.jsonl: missing; copy the whole folder",
        "no samples": rf"{ADDRESS}/shards/2-of-3/waveforms.i16: missing",
        "cut": rf"{ADDRESS}/shards/2-of-3/waveforms.i16: 100 bytes, waveforms.json says \d+",
        "short answer": r"waveforms.i16: 3 bytes instead of bytes \d+ to \d+; the file has changed, or its server",
        "protocol": r"nosuch://bucket/corpus/waveforms.json: cannot be opened \(Protocol not known: nosuch",
    }
    if damage == "no index":
        memory.rm("/bucket/corpus/waveforms.json")
    elif damage == "no manifest":
        memory.rm("/bucket/corpus/manifest.jsonl")
    elif damage == "no samples":
        memory.rm(shard)
    elif damage == "cut":
        memory.pipe(shard, memory.cat_file(shard)[:100])
    elif damage == "protocol":
        address = "nosuch://bucket/corpus"
    with pytest.raises(UserError, match=expected[damage]):  # noqa: PT012 -- opening fails, or reading
        store = WaveformStore(address)
        cat = type(memory).cat_file
        monkeypatch.setattr(type(memory), "cat_file", lambda *given, **options: cat(*given, **options)[:3])
        store.waveform(0)


def test_addresses_and_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert location_of(Path("gs://b/c")) == Address("gs://b/c")
    assert location_of(Path("s3:/b")) == Address("s3://b")
    Path("s3:/b").mkdir(parents=True)
    assert location_of(Path("s3:/b")) == Path("s3:/b")
    assert location_of("s3:/b") == Path("s3:/b")
    assert location_of(Path("file:///a/b")) == Path("/a/b")


def test_other_commands(long_corpus: Path, memory: Any) -> None:
    found = facts(ADDRESS)
    assert (found["corpus"], found["utterances"], found["rejected"]) == (ADDRESS, 24, 0)
    with pytest.raises(UserError, match=f"{ADDRESS}: labels of frames need a corpus on a disk"):
        read_units(WaveformStore(ADDRESS), "mfcc")
    index = json.loads(memory.cat_file("/bucket/corpus/waveforms.json"))
    assert index["shards"] == [f"shards/{number}-of-3/waveforms.i16" for number in (1, 2, 3)]
