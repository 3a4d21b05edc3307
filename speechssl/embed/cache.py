"""Caches of vectors: in memory within a process, on disk between runs.

An entry holds the pooled vectors of *all* layers of a clip, since one pass of the encoder gives them all: a search over
layers encodes every clip once. Its key is made of the clip's content, the model's hash, the pooling, the dtype and the
version of this package, and not of names and times of files.

On disk an entry is one small file with a checksum. It is written under a temporary name and renamed, so that any number
of processes can share a folder; a damaged one is computed again with a warning.
"""

import contextlib
import hashlib
import io
import os
import threading
import time
import uuid
import warnings
from collections import OrderedDict
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from speechssl import __version__
from speechssl.config import UserError
from speechssl.files import replacing_path

Vectors = Float32[np.ndarray, "layers dim"]
"""One row per hidden state, then the average of all."""

_MAGIC = b"speechssl vectors 1\n"
_DIGEST = 16  # bytes of checksum
_SUFFIX = ".vectors"
_AFTER_SHRINK = 0.9  # of the limit: size after old entries are removed, so that this is done rarely
_SLACK = 0.05  # of the limit: bytes that a process writes before it counts the files of all processes again
_STALE = 3600.0  # s; a temporary file older than this belongs to a process that was killed


class CacheWarning(UserWarning):
    """A cache that cannot be read or written; the vectors are correct all the same."""


def entry_key(audio: str, model: str, *, pooling: str, dtype: str) -> str:
    """The name of an entry.

    Args:
        audio: digest of the clip's content.
        model: the model's hash.
        pooling: how frames became a vector.
        dtype: the precision they were computed in.

    >>> entry_key("a", "m", pooling="mean", dtype="float32") == entry_key("a", "m", pooling="mean", dtype="bfloat16")
    False
    """
    parts = "\n".join([__version__, audio, model, pooling, dtype])
    return hashlib.sha256(parts.encode()).hexdigest()


class MemoryCache:
    """The last used entries, up to a number of bytes; safe for several threads.

    >>> cache = MemoryCache()
    >>> for key in "ab":
    ...     cache.put(key, np.zeros((3, 100), np.float32), max_bytes=2000)
    >>> cache.get("a") is None, cache.get("b").shape
    (True, (3, 100))
    """

    def __init__(self) -> None:
        self._entries: OrderedDict[str, Vectors] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: str) -> Vectors | None:
        """The entry, read-only, if it is still in the cache."""
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
            return self._entries.get(key)

    def put(self, key: str, vectors: Vectors, *, max_bytes: int) -> None:
        """Adds an entry; removes the least recently used ones while all together exceed `max_bytes`."""
        vectors = vectors.copy()  # a row of a large block would keep the block
        vectors.flags.writeable = False
        with self._lock:
            old = self._entries.pop(key, None)
            self._entries[key] = vectors
            self._bytes += vectors.nbytes - (0 if old is None else old.nbytes)
            while self._bytes > max_bytes and self._entries:
                self._bytes -= self._entries.popitem(last=False)[1].nbytes

    def clear(self) -> None:
        """Removes all entries."""
        with self._lock:
            self._entries.clear()
            self._bytes = 0


class DiskCache:
    """Entries as files in a folder that several processes may share.

    Args:
        folder: made when missing.
        max_bytes: of all files; None: no limit. The least recently used files are removed first. Every process counts
            the folder again after it has added a twentieth of the limit, so that N processes may exceed the limit by N
            twentieths for a while.

    Raises:
        UserError: the folder cannot be made, or a limit that is not above 0.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     cache = DiskCache(Path(folder))
    ...     key = entry_key("a", "m", pooling="mean", dtype="float32")
    ...     cache.put(key, np.eye(2, dtype=np.float32))
    ...     cache.get(key), cache.get("0" * 64)
    (array([[1., 0.], [0., 1.]], dtype=float32), None)
    """

    def __init__(self, folder: Path, *, max_bytes: int | None = None):
        if max_bytes is not None and max_bytes <= 0:
            raise UserError(f"a cache's limit must be above 0 bytes, got {max_bytes}")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{folder}: cannot hold a cache ({error.strerror or error})") from None
        self.folder, self.max_bytes = folder, max_bytes
        self._added = float("inf")  # bytes since the folder was counted; not counted yet
        self._writable = True

    def get(self, key: str) -> Vectors | None:
        """The entry, if it is there and its checksum is right."""
        path = self._path(key)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            _warn(f"{path}: cannot be read ({error.strerror or error}); its vectors are computed again")
            return None
        vectors = _unpack(content)
        if vectors is None:
            _warn(f"{path}: damaged; its vectors are computed again")
            with contextlib.suppress(OSError):
                path.unlink()
        elif self.max_bytes is not None:
            with contextlib.suppress(OSError):  # another process may have removed it, or it is read-only
                os.utime(path)  # times of access are off on many machines
        return vectors

    def put(self, key: str, vectors: Vectors) -> None:
        """Writes an entry completely or not at all. A failed write gives one warning and no error."""
        if not self._writable:
            return
        path, content = self._path(key), _pack(vectors)
        try:
            _write(path, content)
            if self.max_bytes is not None:
                self._added += len(content)
                if self._added > _SLACK * self.max_bytes:
                    self._shrink(self.max_bytes)
        except OSError as error:
            self._writable = False
            _warn(f"{path}: cannot be written ({error.strerror or error}); nothing more is put into this cache")

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}{_SUFFIX}"  # 256 folders: large ones are slow to list

    def _shrink(self, max_bytes: int) -> None:
        """Removes the least recently used entries, and unfinished files of killed processes."""
        found: list[tuple[float, int, Path]] = []
        for path in self.folder.glob("??/*"):
            with contextlib.suppress(FileNotFoundError):  # another process removes files too
                status = path.stat()
                if path.suffix == _SUFFIX:
                    found.append((status.st_mtime, status.st_size, path))
                elif path.name.startswith(".") and status.st_mtime < time.time() - _STALE:
                    path.unlink()
        total = sum(size for _, size, _ in found)
        if total > max_bytes:
            for _, size, path in sorted(found):
                if total <= _AFTER_SHRINK * max_bytes:
                    break
                path.unlink(missing_ok=True)
                total -= size
        self._added = max(0.0, total - (1 - _SLACK) * max_bytes)  # near the limit the next count comes sooner


def _write(path: Path, content: bytes) -> None:
    """Writes a file completely or not at all; without fsync, since the checksum shows a file that is incomplete."""
    path.parent.mkdir(exist_ok=True)
    unique = path.with_name(f".{uuid.uuid4().hex}")  # a file that another user left cannot be overwritten
    with replacing_path(path, partial=unique, flush=False) as partial:
        partial.write_bytes(content)


def _pack(vectors: Vectors) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, vectors, allow_pickle=False)
    body = buffer.getvalue()
    return _MAGIC + hashlib.blake2b(body, digest_size=_DIGEST).digest() + body


def _unpack(content: bytes) -> Vectors | None:
    start = len(_MAGIC) + _DIGEST
    body = content[start:]
    checksum = hashlib.blake2b(body, digest_size=_DIGEST).digest()
    if not content.startswith(_MAGIC) or content[len(_MAGIC) : start] != checksum:
        return None
    return np.load(io.BytesIO(body), allow_pickle=False)


def _warn(words: str) -> None:
    warnings.warn(words, CacheWarning, stacklevel=3)
