"""All rows of a run, read from its parts in the order of the plan, in bounded memory."""

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32

from speechssl.extract.layout import Layout
from speechssl.extract.parts import Parts

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Finished:
    """All rows of a run in the order of its plan, and the settings to keep beside them.

    Attributes:
        layout: of the rows.
        parts: where the rows are.
        places: of the rows in order: part << 32 | row.
        settings: JSON values.
    """

    layout: Layout
    parts: Parts
    places: Sequence[int]
    settings: Mapping[str, Any]

    def tables(self) -> "Iterator[tuple[int, pa.Table]]":
        """Runs of rows that lie together, with the number of their part."""
        return tables_of(self.parts, self.places)

    def column(self, name: str) -> list[Any]:
        """One column of all rows."""
        return [value for _, table in self.tables() for value in table[name].to_pylist()]

    def vectors(self) -> Iterator[Float32[np.ndarray, "rows layers dim"]]:
        """Vectors of all rows, some at a time."""
        for _, table in self.tables():
            each = [_matrix(table[name], self.layout.dim) for name in self.layout.vectors]
            yield np.stack(each, axis=1)

    def frames(self) -> Iterator[Float32[np.ndarray, "frames layers dim"]]:
        """Frames of each row, as they lie on disk."""
        for part, table in self.tables():
            path = self.parts.frames_path(part)
            for first, count in zip(table["first_frame"].to_pylist(), table["num_frames"].to_pylist(), strict=True):
                shape = (count, self.layout.layers, self.layout.dim)
                yield np.memmap(path, np.float32, "r", offset=first * shape[1] * shape[2] * 4, shape=shape)

    def described(self) -> str:
        """The settings as JSON."""
        return json.dumps(dict(self.settings))


def tables_of(parts: Parts, places: Sequence[int]) -> "Iterator[tuple[int, pa.Table]]":
    """Rows of parts in a given order: runs that are together, with the number of their part.

    Args:
        parts: where the rows are.
        places: of the rows in order: part << 32 | row.
    """
    reader = _PartReader(parts)
    start = 0
    while start < len(places):
        stop = start + 1
        while stop < len(places) and places[stop] == places[stop - 1] + 1:
            stop += 1
        part, row = places[start] >> 32, places[start] & 0xFFFFFFFF
        for table in reader.rows(part, row, stop - start):
            yield part, table
        start = stop


class _PartReader:
    """Rows of parts, two row groups in memory: new files may lie between old ones, and their parts take turns."""

    def __init__(self, parts: Parts):
        self._group = functools.lru_cache(maxsize=2)(functools.partial(_row_group, parts))
        self._sizes = functools.lru_cache(maxsize=2)(functools.partial(_sizes, parts))

    def rows(self, part: int, first: int, count: int) -> "Iterator[pa.Table]":
        start = 0
        for group, size in enumerate(self._sizes(part)):
            low, high = max(first, start), min(first + count, start + size)
            if low < high:
                yield self._group(part, group).slice(low - start, high - low)
            start += size


def _sizes(parts: Parts, part: int) -> list[int]:
    """Rows of each row group."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(parts.path(part)) as file:
        return [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]


def _row_group(parts: Parts, part: int, group: int) -> "pa.Table":
    import pyarrow.parquet as pq

    with pq.ParquetFile(parts.path(part)) as file:
        return _conform(file.read_row_group(group), parts.schema)


def _conform(table: "pa.Table", schema: "pa.Schema") -> "pa.Table":
    """The rows with the columns of now: what an earlier run did not know is null, numbers and words become wider."""
    import pyarrow as pa

    columns: list[Any] = []
    for field in schema:
        if field.name in table.column_names:
            column = table[field.name]
            columns.append(column if column.type == field.type else column.cast(field.type))
        else:
            columns.append(pa.nulls(table.num_rows, field.type))
    return pa.Table.from_arrays(columns, schema=schema)


def _matrix(column: Any, dim: int) -> Float32[np.ndarray, "rows dim"]:
    chunks = [chunk.flatten().to_numpy().reshape(-1, dim) for chunk in column.chunks]
    return np.concatenate([np.zeros((0, dim), np.float32), *chunks])
