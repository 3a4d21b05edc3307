"""The shape of an output of vectors: its columns, and an encoded part as rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from speechssl.data.values import extra_text
from speechssl.extract.columns import ColumnType
from speechssl.extract.encode import Encoded
from speechssl.extract.parts import Part

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Layout:
    """The shape of an output's rows.

    Attributes:
        vectors: names of the vector columns, one a layer; empty at frame level.
        layers: how many layers.
        dim: numbers in a vector or frame.
        columns: metadata columns with their types.
    """

    vectors: tuple[str, ...]
    layers: int
    dim: int
    columns: Mapping[str, ColumnType]

    @property
    def frames(self) -> bool:
        """Whether every frame is kept."""
        return not self.vectors

    def schema(self, *, own: bool = True) -> "pa.Schema":
        """Of the rows of a part; without what only parts need when `own` is False."""
        import pyarrow as pa

        kinds = {"text": pa.string(), "integer": pa.int64(), "number": pa.float64(), "truth": pa.bool_()}
        fields = [("path", pa.string()), ("offset", pa.float64()), ("duration", pa.float64())]
        if self.frames:
            fields += [("num_frames", pa.int64())] + ([("first_frame", pa.int64())] if own else [])
        fields += [(name, pa.list_(pa.float32(), self.dim)) for name in self.vectors]
        fields += [(name, kinds[kind]) for name, kind in self.columns.items()]
        return pa.schema([pa.field(name, kind) for name, kind in (*fields, ("key", pa.string()))])

    def part(self, part: Encoded) -> Part:
        """The rows of an encoded part, with their vectors, and what failed."""
        import pyarrow as pa

        rows, schema = part.rows, self.schema()
        known = [dict(row.item.metadata) for row in rows]
        columns: dict[str, Any] = {
            "path": [row.item.path for row in rows],
            "offset": [row.item.offset for row in rows],
            "duration": [row.seconds for row in rows],
            "key": [row.item.key.hex() for row in rows],
        }
        if self.frames:
            columns["num_frames"] = [row.num_frames for row in rows]
            columns["first_frame"] = [row.first_frame for row in rows]
        arrays: list[pa.Array] = []
        for field in schema:
            if field.name in self.vectors:
                place = self.vectors.index(field.name)
                flat = np.ascontiguousarray(part.vectors[:, place]).reshape(-1)
                arrays.append(pa.FixedSizeListArray.from_arrays(pa.array(flat, pa.float32()), self.dim))
            elif field.name in columns:
                arrays.append(pa.array(columns[field.name], field.type))
            else:
                arrays.append(_metadata(known, field.name, field.type))
        return Part(pa.Table.from_arrays(arrays, schema=schema), part.failed, part.done, part.frames)


def _metadata(known: Sequence[Mapping[str, Any]], name: str, kind: "pa.DataType") -> "pa.Array":
    import pyarrow as pa

    values = [each.get(name) for each in known]
    if kind == pa.string():
        values = [None if value is None else extra_text(value) for value in values]
    elif kind == pa.float64():
        values = [None if value is None else float(value) for value in values]
    return pa.array(values, kind)
