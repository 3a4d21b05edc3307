"""Rows of an output of vectors: their columns, an encoded part as rows, and all rows of a finished run."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32, Shaped

from speechssl.data.values import extra_text
from speechssl.extract.encode import Encoded, Job
from speechssl.extract.formats.columns import ColumnType
from speechssl.extract.shards import Part, Shards

if TYPE_CHECKING:
    import pyarrow as pa

CHUNK_ROWS = 1024  # rows that a writer of arrays writes at once


@dataclass(frozen=True)
class Layout:
    """The columns of an output's rows.

    Attributes:
        vectors: names of the vector columns, one per layer; empty at frame level.
        layers: number of layers.
        dim: numbers in a vector or frame.
        columns: metadata columns with their types.
    """

    vectors: tuple[str, ...]
    layers: int
    dim: int
    columns: Mapping[str, ColumnType]

    @classmethod
    def of(cls, job: Job, columns: Mapping[str, ColumnType]) -> "Layout":
        """The columns for the settings of the encoders."""
        layers = len(job.layers)
        names = ("vector",) if layers == 1 else tuple(f"vector_{number}" for number in range(layers))
        width = 2 * job.dim if job.pooling == "mean+std" else job.dim
        return cls(() if job.pooling is None else names, layers, width, columns)

    @property
    def frames(self) -> bool:
        """Whether every frame is kept."""
        return not self.vectors

    @property
    def inner(self) -> tuple[int, ...]:
        """Shape of a vector or frame: (dim,), or (layers, dim)."""
        return (self.dim,) if self.layers == 1 else (self.layers, self.dim)

    def schema(self, *, own: bool = True) -> "pa.Schema":
        """Schema of the rows of a shard; of those of an output, which has no `first_frame`, when `own` is False."""
        import pyarrow as pa

        kinds = {"text": pa.string(), "integer": pa.int64(), "number": pa.float64(), "truth": pa.bool_()}
        fields = [("path", pa.string()), ("offset", pa.float64()), ("duration", pa.float64())]
        if self.frames:
            fields += [("num_frames", pa.int64())] + ([("first_frame", pa.int64())] if own else [])
        fields += [(name, pa.list_(pa.float32(), self.dim)) for name in self.vectors]
        fields += [(name, kinds[kind]) for name, kind in self.columns.items()]
        return pa.schema([pa.field(name, kind) for name, kind in (*fields, ("key", pa.string()))])

    def part(self, encoded: Encoded) -> Part:
        """An encoded part as rows with their vectors, and the clips that failed."""
        import pyarrow as pa

        rows, schema = encoded.rows, self.schema()
        known = [dict(row.item.metadata) for row in rows]
        columns: dict[str, list[Any]] = {
            "path": [row.item.path for row in rows],
            "offset": [row.item.offset for row in rows],
            "duration": [row.seconds for row in rows],
            "num_frames": [row.num_frames for row in rows],
            "first_frame": [row.first_frame for row in rows],
            "key": [row.item.key.hex() for row in rows],
        }
        arrays: list[pa.Array] = []
        for field in schema:
            if field.name in self.vectors:
                place = self.vectors.index(field.name)
                flat = np.ascontiguousarray(encoded.vectors[:, place]).reshape(-1)
                arrays.append(pa.FixedSizeListArray.from_arrays(pa.array(flat, pa.float32()), self.dim))
            elif field.name in columns:
                arrays.append(pa.array(columns[field.name], field.type))
            else:
                values = [each.get(field.name) for each in known]
                convert = {pa.string(): extra_text, pa.float64(): float}.get(field.type)
                if convert is not None:
                    values = [None if value is None else convert(value) for value in values]
                arrays.append(pa.array(values, field.type))
        return Part(pa.Table.from_arrays(arrays, schema=schema), encoded.failed, encoded.done, encoded.frames)


@dataclass(frozen=True)
class Finished:
    """All rows of a run in the order of its plan, read from its shards in bounded memory, and the settings.

    Attributes:
        layout: of the rows.
        shards: the rows.
        places: places of the rows in order (see `Shards`).
        settings: JSON values that the output keeps.
    """

    layout: Layout
    shards: Shards
    places: Sequence[int]
    settings: Mapping[str, Any]

    def column(self, name: str) -> list[Any]:
        """One column of all rows."""
        return [value for _, table in self.shards.tables(self.places) for value in table[name].to_pylist()]

    def vectors(self) -> Iterator[Float32[np.ndarray, "rows layers dim"]]:
        """Vectors of all rows, one run of neighbouring rows at a time; those of one layer are not copied."""
        layout = self.layout
        for _, table in self.shards.tables(self.places):
            layers = [
                [chunk.flatten().to_numpy().reshape(-1, layout.dim) for chunk in table[name].chunks]
                for name in layout.vectors
            ]
            for chunks in zip(*layers, strict=True):
                yield chunks[0][:, None] if layout.layers == 1 else np.stack(chunks, axis=1)

    def frames(self) -> Iterator[Float32[np.ndarray, "frames layers dim"]]:
        """Frames of each row, mapped from the file of its shard."""
        for shard, table in self.shards.tables(self.places):
            path = self.shards.frames_path(shard)
            for first, count in zip(table["first_frame"].to_pylist(), table["num_frames"].to_pylist(), strict=True):
                shape = (count, self.layout.layers, self.layout.dim)
                yield np.memmap(path, np.float32, "r", offset=first * shape[1] * shape[2] * 4, shape=shape)

    def blocks(self) -> Iterator[Float32[np.ndarray, "rows ..."]]:
        """Vectors or frames of all rows in blocks of at most `CHUNK_ROWS`; without the axis of layers for one layer."""
        for block in self.frames() if self.layout.frames else self.vectors():
            for start in range(0, len(block), CHUNK_ROWS):
                piece = block[start : start + CHUNK_ROWS]
                yield piece[:, 0] if self.layout.layers == 1 else piece

    def columns(self) -> Iterator[tuple[str, Shaped[np.ndarray, " rows"]]]:
        """Every column but the vectors as an array, by name.

        A missing text is empty, and a missing number is NaN. A truth is 1, 0, or -1 where it is missing. `first_frame`
        counts over all clips.
        """
        count: Shaped[np.ndarray, " rows"] | None = None
        for field in self.layout.schema():
            if field.name in self.layout.vectors:
                continue
            values = self.column(field.name)
            kind = self.layout.columns.get(field.name)
            if kind == "truth":
                yield field.name, np.array([-1 if value is None else int(value) for value in values], dtype=np.int8)
            elif kind == "text" or field.name in ("path", "key"):
                yield field.name, np.array(["" if value is None else value for value in values], dtype=np.str_)
            elif field.name == "first_frame":
                assert count is not None  # `num_frames` comes before
                yield field.name, np.cumsum(count) - count
            elif field.name == "num_frames" or (kind == "integer" and None not in values):
                count = np.array(values, dtype=np.int64)
                yield field.name, count
            else:
                yield field.name, np.array([np.nan if value is None else value for value in values], dtype=np.float64)

    def body(self) -> tuple[str, tuple[int, ...]]:
        """Name and shape of the array of all vectors, or of all frames."""
        rows = sum(self.column("num_frames")) if self.layout.frames else len(self.places)
        return "frames" if self.layout.frames else "vectors", (rows, *self.layout.inner)

    def described(self) -> str:
        """The settings as JSON."""
        return json.dumps(dict(self.settings))
