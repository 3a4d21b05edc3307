"""Vectors that were computed once: what is kept, for how long, and that damage and company do no harm."""

import os
import subprocess
import sys
import warnings

import numpy as np
import pytest

from speechssl.config import UserError
from speechssl.embed.cache import CacheWarning, DiskCache, MemoryCache, entry_key

VECTORS = np.arange(12, dtype=np.float32).reshape(3, 4)
KEYS = [entry_key(str(number), "model", pooling="mean", dtype="float32") for number in range(40)]


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_what_was_put_comes_back_in_another_process_too(tmp_path):
    cache = DiskCache(tmp_path / "deep" / "cache")
    assert cache.get(KEYS[0]) is None
    cache.put(KEYS[0], VECTORS)
    found = DiskCache(tmp_path / "deep" / "cache").get(KEYS[0])
    np.testing.assert_array_equal(found, VECTORS)
    assert found.dtype == np.float32
    assert len(files(tmp_path)) == 1  # nothing temporary is left


def test_every_part_of_a_key_counts():
    keys = {
        entry_key(audio, model, pooling=pooling, dtype=dtype)
        for audio in "ab"
        for model in "cd"
        for pooling in ("mean", "mean+std")
        for dtype in ("float32", "bfloat16")
    }
    assert len(keys) == 16


@pytest.mark.parametrize(
    "damage", [lambda c: c[:-1], lambda c: c[:10], lambda c: b"", lambda c: c[:60] + b"!" + c[61:]]
)
def test_a_damaged_entry_is_warned_of_and_forgotten(tmp_path, damage):
    cache = DiskCache(tmp_path)
    cache.put(KEYS[0], VECTORS)
    (path,) = files(tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.warns(CacheWarning, match="damaged; its vectors are computed again"):
        assert cache.get(KEYS[0]) is None
    assert cache.get(KEYS[0]) is None  # it is gone, no second warning
    cache.put(KEYS[0], VECTORS)
    np.testing.assert_array_equal(cache.get(KEYS[0]), VECTORS)


def test_an_entry_that_cannot_be_read_or_written_stops_nothing(tmp_path):
    cache = DiskCache(tmp_path)
    cache.put(KEYS[0], VECTORS)
    (path,) = files(tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.warns(CacheWarning, match=r"cannot be read \(Is a directory\)"):
        assert cache.get(KEYS[0]) is None
    with pytest.warns(CacheWarning, match=r"cannot be written \(Is a directory\); nothing more is put"):
        cache.put(KEYS[0], VECTORS)
    cache.put(KEYS[1], VECTORS)  # once said is enough
    assert files(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_the_users_mistake(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file: cannot hold a cache"):
        DiskCache(tmp_path / "file")
    with pytest.raises(UserError, match="must be above 0 bytes, got 0"):
        DiskCache(tmp_path, max_bytes=0)


def test_the_least_recently_used_go_first(tmp_path):
    DiskCache(tmp_path).put(KEYS[0], VECTORS)
    size = files(tmp_path)[0].stat().st_size
    cache = DiskCache(tmp_path, max_bytes=10 * size)
    for age, key in enumerate(KEYS[:9]):
        cache.put(key, VECTORS)
        path = cache._path(key)
        os.utime(path, (1000 + age, 1000 + age))
    assert cache.get(KEYS[0]) is not None  # which makes it young again
    cache.put(KEYS[9], VECTORS)
    assert len(files(tmp_path)) == 10
    cache.put(KEYS[10], VECTORS)
    kept = [key for key in KEYS[:11] if cache._path(key).is_file()]
    assert kept == [KEYS[0], *KEYS[3:11]]  # nine of ten: some room is made at once
    for key in KEYS[11:]:
        cache.put(key, VECTORS)
        assert sum(path.stat().st_size for path in files(tmp_path)) <= 10 * size


def test_what_a_killed_process_left_is_removed_in_time(tmp_path):
    cache = DiskCache(tmp_path, max_bytes=1 << 20)
    cache.put(KEYS[0], VECTORS)
    old, young = cache._path(KEYS[0]).with_name(".old"), cache._path(KEYS[0]).with_name(".young")
    for path in (old, young):
        path.touch()
    os.utime(old, (1000, 1000))
    DiskCache(tmp_path, max_bytes=1 << 20).put(KEYS[1], VECTORS)  # a new process counts first
    assert (old.exists(), young.exists()) == (False, True)


WORKER = """
import sys, warnings
import numpy as np
from pathlib import Path
from speechssl.embed.cache import DiskCache, entry_key
warnings.simplefilter("error")
rng = np.random.default_rng(int(sys.argv[2]))
cache = DiskCache(Path(sys.argv[1]), max_bytes=20000)
for number in rng.integers(60, size=400):
    key = entry_key(str(number), "model", pooling="mean", dtype="float32")
    expected = np.full((4, 50), number, dtype=np.float32)
    found = cache.get(key)
    if found is None:
        cache.put(key, expected)
    else:
        assert (found == expected).all()
"""


def test_several_processes_share_a_folder(tmp_path):
    """They write, read and remove the same forty entries at once: no crash, no wrong vector, no bound forgotten."""
    workers = [subprocess.Popen([sys.executable, "-c", WORKER, str(tmp_path), str(seed)]) for seed in range(3)]
    assert [worker.wait(timeout=60) for worker in workers] == [0, 0, 0]
    left = files(tmp_path)
    assert all(path.suffix == ".vectors" for path in left)
    assert 10000 < sum(path.stat().st_size for path in left) <= 20000 * 1.15
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cache = DiskCache(tmp_path)
        assert all(cache.get(path.stem) is not None for path in left)


def test_memory_is_bounded_and_the_last_used_stay():
    cache = MemoryCache()
    for key in KEYS[:3]:
        cache.put(key, VECTORS, max_bytes=3 * VECTORS.nbytes)
    assert cache.get(KEYS[0]) is not None
    cache.put(KEYS[3], VECTORS, max_bytes=3 * VECTORS.nbytes)
    assert [cache.get(key) is not None for key in KEYS[:4]] == [True, False, True, True]
    cache.put(KEYS[3], VECTORS, max_bytes=3 * VECTORS.nbytes)  # once more is no more
    assert [cache.get(key) is not None for key in KEYS[:4]] == [True, False, True, True]
    cache.put(KEYS[5], VECTORS, max_bytes=0)
    assert all(cache.get(key) is None for key in KEYS)


def test_what_memory_holds_is_its_own():
    cache, block = MemoryCache(), VECTORS.copy()
    cache.put(KEYS[0], block[:2], max_bytes=1000)
    block[:] = 0
    np.testing.assert_array_equal(cache.get(KEYS[0]), VECTORS[:2])
    assert cache.get(KEYS[0]).base is None
    with pytest.raises(ValueError, match="read-only"):
        cache.get(KEYS[0])[0] = 1
    cache.clear()
    assert cache.get(KEYS[0]) is None
