"""Shards of an output: finished parts of the plan, as Parquet files in `OUT.parts`. A killed run resumes from them.

    OUT.parts/part-00000.parquet    finished clips and their vectors; any Parquet reader opens them at any time
    OUT.parts/part-00000.f32        at frame level: the frames of these rows, raw float32 (frames, layers, dim)
    OUT.parts/_run.json             settings that every shard has in common (see `resume`)
    OUT.parts/.lock                 locked by the run that writes; the system unlocks it when that process ends

A shard appears under its name when it is complete: temporary name, flushed to disk, renamed. The clips that failed are
in its metadata, so that one file has everything about its clips. Each output format is made of the shards at the end
(see `writers`), so that a file at OUT is always a finished run.
"""

import contextlib
import fcntl
import functools
import json
import os
import shutil
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from speechssl.config import UserError
from speechssl.data.values import json_number
from speechssl.extract.decode import Failed
from speechssl.files import move, replacing, replacing_path

if TYPE_CHECKING:
    import pyarrow as pa

METADATA_KEY = b"speechssl"
FAILED_KEY = b"speechssl.failed"


@dataclass(frozen=True)
class Part:
    """Finished clips of a run, as one shard keeps them.

    Attributes:
        table: their rows; `path`, `duration` and `key` are among the columns.
        failed: clips that could not be used.
        done: for each clip of the part in order, whether it has a row.
        frames: a file of frames to keep beside the rows.
    """

    table: "pa.Table"
    failed: Sequence[Failed]
    done: Sequence[bool]
    frames: Path | None = None


@dataclass(frozen=True)
class FailedClip:
    """A clip that could not be used, as in the error file."""

    key: str
    path: str
    reason: str
    offset: float
    duration: float = 0.0

    def line(self) -> str:
        """One line of JSON."""
        content: dict[str, object] = {"path": self.path, "reason": self.reason}
        if self.offset:
            content["offset"] = json_number(self.offset)
        if self.duration:
            content["duration"] = json_number(self.duration)
        return json.dumps(content, ensure_ascii=False) + "\n"


@contextmanager
def locked(folder: Path) -> Generator[None]:
    """Makes the folder of shards and holds its lock.

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
        except FileNotFoundError:  # a run that has just ended removed the folder
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


class Shards:
    """The shards of one run; the caller holds the lock.

    A row is addressed by its place: shard << 32 | row.

    Args:
        folder: `OUT.parts`.
        schema: of the rows to come; shards of an earlier run may have other metadata columns.

    Attributes:
        count: shards so far.
        failed: the clips that failed in an earlier run, by key.

    Raises:
        UserError: a shard is damaged.
    """

    def __init__(self, folder: Path, schema: "pa.Schema"):
        self.folder, self.schema = folder, schema
        for path in [*folder.glob(".*.partial"), *folder.glob(".*.f32")]:
            path.unlink()  # unfinished files of a killed run
        self._read()

    def path(self, number: int) -> Path:
        """The file of a shard's rows."""
        return self.folder / f"part-{number:05d}.parquet"

    def frames_path(self, number: int) -> Path:
        """The file of a shard's frames."""
        return self.folder / f"part-{number:05d}.f32"

    def place(self, key: bytes) -> int | None:
        """Place of the row of a clip that an earlier run finished; None for any other clip."""
        number = np.uint64(int.from_bytes(key, "big"))
        at = int(np.searchsorted(self._keys, number))
        return int(self._places[at]) if at < len(self._keys) and self._keys[at] == number else None

    def commit(self, part: Part, settings: Mapping[str, Any]) -> list[FailedClip]:
        """Writes a part as a shard of one row group, completely or not at all; returns the clips that failed in it."""
        import pyarrow.parquet as pq

        failed = [
            FailedClip(f.item.key.hex(), f.item.path, f.reason, f.item.offset, f.item.duration) for f in part.failed
        ]
        metadata = {METADATA_KEY: json.dumps(dict(settings)), FAILED_KEY: json.dumps([vars(each) for each in failed])}
        if part.frames is not None:
            move(part.frames, self.frames_path(self.count), flush=True)
        rows = part.table.num_rows
        with replacing(self.path(self.count)) as file:
            table = part.table.replace_schema_metadata(metadata)
            pq.write_table(table, file, compression="zstd", row_group_size=max(1, rows))
        self._groups.append([rows])
        self.count += 1
        return failed

    def adopt(self, finished: Path) -> None:
        """Takes the rows of a finished Parquet file as the first shard."""
        target = self.path(0)
        try:
            os.link(finished, target)
        except OSError:
            with replacing_path(target) as partial:
                shutil.copyfile(finished, partial)
        self._read()

    def tables(self, places: Sequence[int]) -> "Iterator[tuple[int, pa.Table]]":
        """Rows in a given order: tables of neighbouring rows, each with the number of its shard.

        At most two row groups are in memory: new files may come between old ones, and their shards then alternate.
        """
        read = functools.lru_cache(maxsize=2)(self._row_group)
        start = 0
        while start < len(places):
            stop = start + 1
            while stop < len(places) and places[stop] == places[stop - 1] + 1:
                stop += 1
            shard, first = places[start] >> 32, places[start] & 0xFFFFFFFF
            before = 0  # rows of the groups so far
            for group, size in enumerate(self._groups[shard]):
                low, high = max(first, before), min(first + stop - start, before + size)
                if low < high:
                    yield shard, read(shard, group).slice(low - before, high - low)
                before += size
            start = stop

    def _row_group(self, shard: int, group: int) -> "pa.Table":
        """Rows with the columns of `schema`: a column that an earlier run did not have is null, others become wider."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        with pq.ParquetFile(self.path(shard)) as file:
            table = file.read_row_group(group)
        columns: list[Any] = []
        for field in self.schema:
            if field.name in table.column_names:
                column = table[field.name]
                columns.append(column if column.type == field.type else column.cast(field.type))
            else:
                columns.append(pa.nulls(table.num_rows, field.type))
        return pa.Table.from_arrays(columns, schema=self.schema)

    def _read(self) -> None:
        """Reads keys, row groups and failed clips of all shards in the folder."""
        import pyarrow.parquet as pq

        self.count = 0
        self.failed: dict[str, FailedClip] = {}
        self._groups: list[list[int]] = []  # rows of each row group of each shard
        keys: list[int] = []
        places: list[int] = []
        while self.path(self.count).exists():
            try:
                with pq.ParquetFile(self.path(self.count)) as file:
                    found = file.read(columns=["key"])["key"].to_pylist()
                    failed = json.loads((file.schema_arrow.metadata or {}).get(FAILED_KEY, b"[]"))
                    groups = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            except (OSError, ValueError, KeyError) as error:
                words = " ".join(str(error).split())
                raise UserError(f"{self.path(self.count)}: damaged ({words}); remove it and all after it") from None
            keys += [int(key, 16) for key in found]
            places += [self.count << 32 | row for row in range(len(found))]
            self.failed |= {each["key"]: FailedClip(**each) for each in failed}
            self._groups.append(groups)
            self.count += 1
        order = np.argsort(np.array(keys, dtype=np.uint64), kind="stable")
        self._keys = np.array(keys, dtype=np.uint64)[order]
        self._places = np.array(places, dtype=np.uint64)[order]
