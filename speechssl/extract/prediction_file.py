"""Predictions on disk: the rows that a run keeps, and the output it makes of them.

OUT               a table, JSON lines or CSV (see `prediction_rows`)
OUT.run.parquet   the settings of the run, a hash of OUT, and every prediction with the key of its clip
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechssl.config import UserError
from speechssl.extract.decode import Failed
from speechssl.extract.finished import tables_of
from speechssl.extract.parts import METADATA_KEY, FailedClip
from speechssl.extract.plan import Item
from speechssl.extract.prediction_rows import Format, RowWriter
from speechssl.extract.resume import Results
from speechssl.files import naming
from speechssl.inference.predictor import Prediction

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class PredictedRow:
    """A clip, its length in seconds, and the prediction."""

    item: Item
    seconds: float
    prediction: Prediction


@dataclass(frozen=True)
class PredictedPart:
    """A part of a run, as `parts.Part` has it."""

    rows: Sequence[PredictedRow]
    failed: Sequence[Failed]
    done: Sequence[bool]
    frames: None = None

    def in_order(self) -> Iterator[PredictedRow | Failed]:
        """Rows and failures in the order of the plan."""
        rows, failed = iter(self.rows), iter(self.failed)
        for done in self.done:
            yield next(rows) if done else next(failed)


class PredictionRows:
    """The layout of the rows that a run keeps: the prediction is JSON."""

    def schema(self) -> "pa.Schema":
        """Of the rows of a part."""
        import pyarrow as pa

        numbers = [(name, pa.float64()) for name in ("offset", "duration")]
        return pa.schema([("path", pa.string()), *numbers, ("prediction", pa.string()), ("key", pa.string())])

    def table(self, part: PredictedPart) -> "pa.Table":
        """The rows of a part."""
        import pyarrow as pa

        columns: dict[str, Sequence[str | float]] = {
            "path": [row.item.path for row in part.rows],
            "offset": [row.item.offset for row in part.rows],
            "duration": [row.seconds for row in part.rows],
            "prediction": [json.dumps(asdict(row.prediction)) for row in part.rows],
            "key": [row.item.key.hex() for row in part.rows],
        }
        return pa.Table.from_pydict(columns, schema=self.schema())


class PredictionFile:
    """The output of a run, as `resume.Run` needs it.

    Args:
        path: its name.
        layout: of its rows.
        classes: of the model; None of one that writes.
        under_way: whether a run has begun to write there: `OUT.run.parquet` may be newer than `OUT`.
    """

    errors = None

    def __init__(self, path: Path, layout: Format, classes: Sequence[str] | None, *, under_way: bool):
        self.path, self.rows = path, path.with_name(f"{path.name}.run.parquet")
        self._layout: Format = layout
        self._classes, self._under_way = classes, under_way

    def settings(self) -> dict[str, Any] | None:
        """The settings of a finished output; None where there is none.

        Raises:
            UserError: something else has this name, or the output was changed.
        """
        import pyarrow.parquet as pq

        if not self.path.exists():
            return None
        if not self.rows.exists():
            raise UserError(
                f"{self.path}: is there, and {self.rows.name}, which `predict` writes beside its outputs, is not; "
                "remove it or give another name"
            )
        try:
            found: dict[str, Any] = json.loads(pq.read_schema(self.rows).metadata[METADATA_KEY])
        except (OSError, ValueError, KeyError, TypeError) as error:
            words = " ".join(str(error).split())
            raise UserError(f"{self.rows}: damaged ({words}); remove it and {self.path.name}") from None
        if found.get("output") == _digest(self.path):
            return found
        if self._under_way:
            return None
        raise UserError(f"{self.path}: was changed after `predict` wrote it; remove it or give another name")

    def write(self, results: Results[PredictionRows], settings: dict[str, Any], scratch: Path) -> None:
        """Write the output and the rows beside it."""
        partial, rows = scratch / ".finished", scratch / ".finished.parquet"
        with partial.open("w", encoding="utf-8", newline="") as file:
            writer = RowWriter(file, self._layout, self._classes)
            writer.header()
            for row in results.rows():
                if isinstance(row, FailedClip):
                    writer.failed(row.path, row.offset, row.reason)
                else:
                    writer.row(row["path"], row["offset"], row["duration"], json.loads(row["prediction"]))
            file.flush()
            os.fsync(file.fileno())
        settings["output"] = _digest(partial)
        with naming(self.rows):
            _write_rows(rows, results, settings)
            rows.replace(self.rows)
        partial.replace(self.path)


def _write_rows(path: Path, results: Results[PredictionRows], settings: dict[str, Any]) -> None:
    import pyarrow.parquet as pq

    schema = results.parts.layout.schema().with_metadata({METADATA_KEY: json.dumps(settings)})
    with path.open("wb") as file:
        with pq.ParquetWriter(file, schema, compression="zstd") as writer:
            for _, table in tables_of(results.parts, results.places):
                writer.write_table(table.replace_schema_metadata(schema.metadata))
        file.flush()
        os.fsync(file.fileno())


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
