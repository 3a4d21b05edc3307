"""The ledger of a run: finished parts as Parquet files in `OUT.parts`, by which a killed run goes on.

    OUT.parts/part-00000.parquet    finished clips and their vectors; any Parquet reader opens them at any time
    OUT.parts/part-00000.f32        at frame level: the frames of these rows, raw float32 (frames, layers, dim)
    OUT.parts/_run.json             settings that every part has in common
    OUT.parts/.lock                 held by the run that writes; the system lets go of it when the run ends or is killed

A part appears under its name when it is whole: temporary name, flushed to disk, renamed. What failed in a part is kept
in its metadata, so that one file says all about its clips. Whichever format was asked for is made of the parts at the
end, and appears under its name when it is whole (see `writers`): what lies at OUT is always a finished run.
"""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from speechssl.config import UserError
from speechssl.data.values import json_number
from speechssl.extract.decode import Failed
from speechssl.files import naming, write_atomic

if TYPE_CHECKING:
    import pyarrow as pa

METADATA_KEY = b"speechssl"
FAILED_KEY = b"speechssl.failed"
# What has to agree for rows to be in one output, with the words for it.
PINNED = ("format", "model_hash", "source", "pooling", "layer", "dtype", "window_seconds", "compile", "decoder")


@dataclass(frozen=True)
class Part:
    """Some clips of a run, done: what is kept of them.

    Attributes:
        table: their rows; `path`, `duration` and `key` are among the columns.
        failed: clips that could not be used.
        done: of each clip of the part in order, whether it is a row.
        frames: a file of frames to keep beside the rows.
    """

    table: "pa.Table"
    failed: Sequence[Failed]
    done: Sequence[bool]
    frames: Path | None = None


@dataclass(frozen=True)
class FailedClip:
    """A clip that could not be used, as the error file tells it."""

    key: str
    path: str
    reason: str
    offset: float
    duration: float = 0.0

    def line(self) -> str:
        """One line of JSON."""
        told: dict[str, object] = {"path": self.path, "reason": self.reason}
        if self.offset:
            told["offset"] = json_number(self.offset)
        if self.duration:
            told["duration"] = json_number(self.duration)
        return json.dumps(told, ensure_ascii=False) + "\n"


@contextmanager
def locked(folder: Path) -> Generator[None]:
    """Make the folder of parts and hold its lock.

    Raises:
        UserError: another run holds it, or the folder cannot be made.
    """
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{folder}: cannot be made ({error.strerror})") from error
        try:
            handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:  # a run that has just ended took the folder away
            continue
        except OSError as error:
            raise UserError(f"{folder}: cannot be written ({error.strerror})") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            raise UserError(f"{folder}: another run is writing there; wait for it, or give another name") from error
        # The file that was locked is the one that a next run would lock, unless the folder was removed meanwhile.
        with contextlib.suppress(FileNotFoundError):
            if os.fstat(handle).st_ino == (folder / ".lock").stat().st_ino:
                break
        os.close(handle)
    try:
        yield
    finally:
        if folder.is_dir() and {each.name for each in folder.iterdir()} <= {".lock"}:
            shutil.rmtree(folder)  # nothing was begun
        os.close(handle)


class Parts:
    """The parts of one run; the lock is held by the caller.

    Args:
        folder: `OUT.parts`.
        schema: of the rows to come; parts of an earlier run may have other metadata columns.
    """

    def __init__(self, folder: Path, schema: "pa.Schema"):
        self.folder, self.schema = folder, schema
        for path in [*folder.glob(".*.partial"), *folder.glob(".*.f32")]:
            path.unlink()  # what a killed run was writing
        self.count = 0
        self.failed: dict[str, FailedClip] = {}
        self._keys = np.zeros(0, dtype=np.uint64)
        self._places = np.zeros(0, dtype=np.uint64)
        self._read()

    def path(self, number: int) -> Path:
        """The file of a part's rows."""
        return self.folder / f"part-{number:05d}.parquet"

    def frames_path(self, number: int) -> Path:
        """The file of a part's frames."""
        return self.folder / f"part-{number:05d}.f32"

    def place(self, key: bytes) -> int | None:
        """Where the row of a clip lies that an earlier run finished: part << 32 | row; None when it did not."""
        number = np.uint64(int.from_bytes(key, "big"))
        at = int(np.searchsorted(self._keys, number))
        return int(self._places[at]) if at < len(self._keys) and self._keys[at] == number else None

    def commit(self, part: Part, settings: Mapping[str, Any]) -> list[FailedClip]:
        """Write a part; returns what failed in it."""
        failed = [
            FailedClip(f.item.key.hex(), f.item.path, f.reason, f.item.offset, f.item.duration) for f in part.failed
        ]
        metadata = {METADATA_KEY: json.dumps(dict(settings)), FAILED_KEY: json.dumps([vars(each) for each in failed])}
        if part.frames is not None:
            with part.frames.open("rb+") as file:
                os.fsync(file.fileno())
            part.frames.replace(self.frames_path(self.count))
        write_table(part.table.replace_schema_metadata(metadata), self.path(self.count))
        self.count += 1
        return failed

    def adopt(self, finished: Path) -> None:
        """Take the rows of a finished Parquet file for the first part of what goes on from it."""
        target = self.path(0)
        try:
            os.link(finished, target)
        except OSError:
            partial = self.folder / ".adopted.partial"
            shutil.copyfile(finished, partial)
            partial.replace(target)
        self.count = 0
        self._read()

    def _read(self) -> None:
        """Learn what is there."""
        import pyarrow.parquet as pq

        keys: list[int] = []
        places: list[int] = []
        while self.path(self.count).exists():
            try:
                with pq.ParquetFile(self.path(self.count)) as file:
                    found = file.read(columns=["key"])["key"].to_pylist()
                    told = json.loads((file.schema_arrow.metadata or {}).get(FAILED_KEY, b"[]"))
            except (OSError, ValueError, KeyError) as error:
                words = " ".join(str(error).split())
                raise UserError(f"{self.path(self.count)}: damaged ({words}); remove it and all after it") from None
            keys += [int(key, 16) for key in found]
            places += [self.count << 32 | row for row in range(len(found))]
            self.failed |= {each["key"]: FailedClip(**each) for each in told}
            self.count += 1
        order = np.argsort(np.array(keys, dtype=np.uint64), kind="stable")
        self._keys = np.array(keys, dtype=np.uint64)[order]
        self._places = np.array(places, dtype=np.uint64)[order]


def keys_of(finished: Path) -> set[str]:
    """Keys of the rows of a finished Parquet file."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(finished) as file:
        return set(file.read(columns=["key"])["key"].to_pylist())


def write_table(table: "pa.Table", path: Path) -> None:
    """A Parquet file of one row group, whole or not at all."""
    import pyarrow.parquet as pq

    partial = path.with_name(f".{path.name}.partial")
    with naming(path), partial.open("wb") as file:
        pq.write_table(table, file, compression="zstd", row_group_size=max(1, table.num_rows))
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def pinned(folder: Path) -> dict[str, Any] | None:
    """The settings of the run whose parts lie in a folder; None when none was begun."""
    path = folder / "_run.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UserError(f"{path}: not the settings of a run ({error}); remove {folder} to begin anew") from error


def pin(folder: Path, settings: Mapping[str, Any]) -> None:
    """Keep the settings of a run that begins."""
    with naming(folder / "_run.json"):
        write_atomic(folder / "_run.json", (json.dumps(dict(settings), indent=2) + "\n").encode())


def check_same(where: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Refuses to mix: names the first setting that differs.

    Raises:
        UserError: one does.

    >>> check_same(Path("v.parquet"), {"pooling": "mean", "dtype": "float32"}, {"pooling": "mean+std", "dtype": "auto"})
    Traceback (most recent call last):
    speechssl.config.UserError: v.parquet: made with pooling mean, now mean+std; go on with the old one, ...
    """
    for name in PINNED:
        if name == "dtype" and new.get(name) == "auto":
            continue  # the first run has settled it
        if old.get(name) != new.get(name):
            words = "model" if name == "model_hash" else name.replace("_", " ")
            raise UserError(
                f"{where}: made with {words} {old.get(name)}, now {new.get(name)}; "
                "go on with the old one, or give another name"
            )
