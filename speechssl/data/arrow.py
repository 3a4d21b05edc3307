"""Audio in the columns of Parquet and Arrow files: the column that holds it, and the bytes of one row.

Hugging Face stores audio as a struct of `bytes` and `path`; plain binary columns and columns of paths are read too.
A Parquet file is read forwards in small batches, and the last ones are kept: rows that are requested nearly in order
are decoded once each. Besides these batches one data page is in memory: 100 rows as `datasets` writes them, 1,024 at
most as pyarrow does.
"""

import bisect
import functools
import itertools
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from speechssl.audio import file_state
from speechssl.data.members import Content

_BATCH = 16  # rows decoded at once
_KEPT = 6  # batches kept: decoding threads take rows a little out of order
_CACHED = 8  # files open at once


def read_audio(path: str, column: str, row: int) -> Content | str:
    """The audio of one row.

    Args:
        path: of a `.parquet` or `.arrow` file.
        column: of audio.
        row: from 0, over the whole file.

    Returns:
        The bytes with the file name stored beside them, or the path of an existing file where the row holds no bytes.

    Raises:
        OSError: no such file.
        LookupError: no such column or row, or no audio in it.
    """
    import pyarrow as pa

    status = os.stat(path)  # noqa: PTH116 -- once per clip
    try:
        data, name = _open(path, column, file_state(status)).get(row)
    except pa.ArrowException as error:
        raise LookupError(f"the table cannot be read ({' '.join(str(error).split())})") from error
    if data:
        return Content(data, name or "")
    if not name:
        raise LookupError(f"no audio in row {row}")
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise LookupError(f"row {row} holds no audio, and names a file outside the folder of the table: {name}")
    found = Path(path).parent / name
    if not found.is_file():
        raise LookupError(f"row {row} holds no audio, and the file that it names is not there: {found}")
    return str(found)


def open_arrow(path: str) -> Any:
    """An Arrow file as a table, mapped into memory: `datasets` writes the stream format, `pyarrow` both.

    Raises:
        OSError: no such file.
        pyarrow.ArrowException: no Arrow file.
    """
    import pyarrow as pa

    source = pa.memory_map(path)
    if source.read(6) == b"ARROW1":
        return pa.ipc.open_file(source).read_all()
    source.seek(0)
    return pa.ipc.open_stream(source).read_all()


@functools.lru_cache(maxsize=_CACHED)
def _open(path: str, column: str, state: str) -> "_ParquetRows | _ArrowRows":  # noqa: ARG001 -- part of the key
    return _ParquetRows(path, column) if path.lower().endswith(".parquet") else _ArrowRows(path, column)


class _ArrowRows:
    def __init__(self, path: str, column: str):
        table = open_arrow(path)
        if column not in table.column_names:
            raise LookupError(f"no column {column!r} in the table")
        self._column = table.column(column)

    def get(self, row: int) -> tuple[bytes | None, str | None]:
        if row >= len(self._column):
            raise LookupError(f"no row {row}; there are {len(self._column)}")
        return _value(self._column[row].as_py())


class _ParquetRows:
    def __init__(self, path: str, column: str):
        import pyarrow.parquet as pq

        # Pages are decoded as they are needed: a row group of many pages is never whole in memory.
        self._file = pq.ParquetFile(path, memory_map=True, pre_buffer=False, buffer_size=1 << 20)
        if column not in self._file.schema_arrow.names:
            raise LookupError(f"no column {column!r} in the table")
        self._column = column
        sizes = [self._file.metadata.row_group(group).num_rows for group in range(self._file.num_row_groups)]
        self._starts = list(itertools.accumulate(sizes, initial=0))
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, Any] = OrderedDict()  # by first row
        self._group, self._next, self._batches = -1, 0, iter(())

    def get(self, row: int) -> tuple[bytes | None, str | None]:
        if row >= self._starts[-1]:
            raise LookupError(f"no row {row}; there are {self._starts[-1]}")
        with self._lock:
            batch, first = self._batch(row)
            return _value(batch[row - first].as_py())

    def _batch(self, row: int) -> tuple[Any, int]:
        for first, batch in self._kept.items():
            if first <= row < first + len(batch):
                return batch, first
        group = bisect.bisect_right(self._starts, row) - 1
        if group != self._group or row < self._next:
            self._group, self._next, self._batches = group, self._starts[group], self._read(group)
        for batch in self._batches:
            first, self._next = self._next, self._next + len(batch)
            self._kept[first] = batch
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
            if row < self._next:
                return batch, first
        raise LookupError(f"row {row} cannot be read: the table is damaged before it")

    def _read(self, group: int) -> Iterator[Any]:
        for batch in self._file.iter_batches(_BATCH, row_groups=[group], columns=[self._column]):
            yield batch.column(0)


def _value(value: Any) -> tuple[bytes | None, str | None]:
    if isinstance(value, dict):
        return value.get("bytes"), value.get("path")
    if isinstance(value, bytes):
        return value, None
    if value is None or isinstance(value, str):
        return None, value
    raise LookupError(f"audio is bytes, a path, or a struct of both, got {type(value).__name__}")
