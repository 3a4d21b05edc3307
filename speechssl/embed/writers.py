"""Vectors on disk: one Parquet file, one row a clip, written under a temporary name and renamed when whole.

Columns: `path`, `offset` (s), `duration` (s), `vector` (fixed-size list of float32), then whatever the manifest knew:
`speaker`, `text`, `label`, `language`, `split`, and the extras by their own names. Parquet is what pandas, polars,
DuckDB, Hugging Face datasets and Spark read without help. To get a matrix back:

    table = pyarrow.parquet.read_table("vectors.parquet")
    vectors = numpy.stack(table["vector"].to_numpy())

The file's metadata holds, under the key `speechssl`, one JSON object: version, model, model hash, pooling, layer.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32

from speechssl.data.manifest import Utterance

if TYPE_CHECKING:
    import pyarrow as pa

METADATA_KEY = b"speechssl"
_KNOWN = ("speaker", "text", "label", "language", "split")
_OWN = ("path", "offset", "duration", "vector")


class VectorWriter:
    """Writes rows as they come; the file appears under its name only when the block ends without an exception.

    >>> import tempfile, pyarrow.parquet
    >>> clips = [Utterance(audio="a.wav", duration=1.0, label="sad"), Utterance(audio="b.wav", duration=2.0)]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     out = Path(folder) / "v.parquet"
    ...     with VectorWriter(out, clips, dim=2, settings={"pooling": "mean"}) as writer:
    ...         writer.write(["a.wav", "b.wav"], clips, vectors=np.eye(2, dtype=np.float32))
    ...     table = pyarrow.parquet.read_table(out)
    >>> table.column_names, table["vector"].to_pylist()
    (['path', 'offset', 'duration', 'vector', 'label'], [[1.0, 0.0], [0.0, 1.0]])
    """

    def __init__(self, out: Path, utterances: Sequence[Utterance], *, dim: int, settings: Mapping[str, object]):
        """Decide the columns.

        Args:
            out: the file to write; its folder is made when missing, an older file is replaced at the end.
            utterances: every utterance that may be written: a column exists when one of them has a value for it.
            dim: length of the vectors.
            settings: JSON values for the file's metadata.
        """
        import pyarrow as pa

        self.out, self.dim = out, dim
        self._partial = out.with_name(f".{out.name}.partial")
        self._columns = {
            **{name: (name, False) for name in _KNOWN if any(getattr(item, name) is not None for item in utterances)},
            **_extra_columns(utterances),
        }
        fields = [
            pa.field("path", pa.string()),
            pa.field("offset", pa.float64()),
            pa.field("duration", pa.float64()),
            pa.field("vector", pa.list_(pa.float32(), dim)),
            *(
                pa.field(column, _type_of(utterances, name) if is_extra else pa.string())
                for column, (name, is_extra) in self._columns.items()
            ),
        ]
        metadata = {METADATA_KEY: json.dumps(dict(settings)).encode()}
        self._schema: pa.Schema = pa.schema(fields, metadata=metadata)

    def __enter__(self) -> "VectorWriter":
        import pyarrow.parquet as pq

        self.out.parent.mkdir(parents=True, exist_ok=True)
        self._partial.touch()  # where that fails the error names the file; pyarrow's does not
        self._writer = pq.ParquetWriter(self._partial, self._schema, compression="zstd")
        return self

    def write(
        self, paths: Sequence[str], utterances: Sequence[Utterance], *, vectors: Float32[np.ndarray, "clips dim"]
    ) -> None:
        """Add rows; they become one row group.

        Raises:
            ValueError: the three differ in length, or the vectors are not `dim` long.
        """
        import pyarrow as pa

        if vectors.shape != (len(paths), self.dim) or len(paths) != len(utterances):
            raise ValueError(f"{len(paths)} paths and {len(utterances)} utterances for vectors {vectors.shape}")
        flat = pa.array(np.ascontiguousarray(vectors).reshape(-1), type=pa.float32())
        arrays = [
            pa.array(paths, pa.string()),
            pa.array([item.offset for item in utterances], pa.float64()),
            pa.array([item.duration for item in utterances], pa.float64()),
            pa.FixedSizeListArray.from_arrays(flat, self.dim),
        ]
        for column, (name, is_extra) in self._columns.items():
            kind = self._schema.field(column).type
            values = [item.extras.get(name) if is_extra else getattr(item, name) for item in utterances]
            if is_extra and kind == pa.string():
                values = [None if value is None else str(value) for value in values]
            arrays.append(pa.array(values, kind))
        self._writer.write_table(pa.Table.from_arrays(arrays, schema=self._schema))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()
        if kind is None:
            self._partial.replace(self.out)
        else:
            self._partial.unlink(missing_ok=True)


def _extra_columns(utterances: Sequence[Utterance]) -> dict[str, tuple[str, bool]]:
    """Extras by column name, in order of first appearance; one that would hide a column is called `extra_NAME`."""
    names = dict.fromkeys(name for item in utterances for name, value in item.extras.items() if value is not None)
    taken = {*_OWN, *_KNOWN}
    return {(f"extra_{name}" if name in taken else name): (name, True) for name in names}


def _type_of(utterances: Sequence[Utterance], name: str) -> "pa.DataType":
    """The narrowest of bool, int64, float64 and string that holds every value of an extra."""
    import pyarrow as pa

    kinds: set[type[Any]] = {type(item.extras[name]) for item in utterances if item.extras.get(name) is not None}
    if kinds == {bool}:
        return pa.bool_()
    if kinds == {int}:
        return pa.int64()
    return pa.float64() if kinds <= {int, float} else pa.string()
