"""Predictions on disk: the output of a run, and its rows in three formats.

    OUT               a table, JSON lines or CSV
    OUT.run.parquet   the settings of the run, a hash of OUT, and every prediction with the key of its clip

    table   path, stretch, then label and probability, or text and word times, between tabs; control characters of
            names are spelled out
    jsonl   one object per line: `path`, `offset`, `duration` (s), and the prediction or `error`
    csv     `path`, `offset`, `duration`; `label`, `probability` and `p_CLASS` of each class, or `text`, `confidence`
            and `words_error`; `error`

Spreadsheets read a cell that begins with =, +, -, @, a tab or a carriage return as a formula, and names of files and
classes may come from others. In csv such a path begins with `./`, which is the same file, and any other such cell with
an apostrophe. Numbers are unchanged, and so is everything in jsonl.
"""

import csv
import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from speechssl.config import UserError
from speechssl.data.values import json_number
from speechssl.extract.resume import Results
from speechssl.extract.shards import METADATA_KEY, FailedClip
from speechssl.files import replacing_path
from speechssl.terminal import printable

Format = Literal["table", "jsonl", "csv"]
_FORMULA = re.compile(r"[=+\-@\t\r]")
_NUMBER = re.compile(r"[-+]?[\d.,]*")  # not a formula; also a sign alone
_TABLE_DECIMALS = 2


class PredictionFile:
    """The output of a run, as `resume.Run` needs it.

    Args:
        path: its name.
        layout: of its rows.
        classes: of the model; None for a speech recogniser.
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

    def write(self, results: Results, settings: dict[str, Any], scratch: Path) -> None:
        """Writes the output and `OUT.run.parquet`."""
        with replacing_path(self.path, partial=scratch / ".finished") as partial:
            with partial.open("w", encoding="utf-8", newline="") as file:
                writer = RowWriter(file, self._layout, self._classes)
                writer.header()
                for row in results.rows():
                    if isinstance(row, FailedClip):
                        writer.failed(row.path, row.offset, row.reason)
                    else:
                        writer.row(row["path"], row["offset"], row["duration"], json.loads(row["prediction"]))
            settings["output"] = _digest(partial)
            with replacing_path(self.rows, partial=scratch / ".finished.parquet") as rows:
                _write_rows(rows, results, settings)


def _write_rows(path: Path, results: Results, settings: dict[str, Any]) -> None:
    import pyarrow.parquet as pq

    schema = results.shards.schema.with_metadata({METADATA_KEY: json.dumps(settings)})
    with path.open("wb") as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for _, table in results.shards.tables(results.places):
            writer.write_table(table.replace_schema_metadata(schema.metadata))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@runtime_checkable
class TextStream(Protocol):
    """A stream for rows: a file, standard output, a string in memory."""

    def write(self, text: str, /) -> int:
        """Writes a text."""
        ...

    def flush(self) -> None:
        """Flushes written text."""
        ...

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        ...


class RowWriter:
    """Writes rows to an open file as they come.

    Args:
        file: open for text.
        layout: of the rows.
        classes: of the model; None for a speech recogniser.
    """

    def __init__(self, file: TextStream, layout: Format, classes: Sequence[str] | None):
        self.file, self.layout = file, layout
        self._classes = classes
        self._at_terminal = file.isatty()

    def header(self) -> None:
        """Writes the header, where the layout has one."""
        if self.layout != "csv":
            return
        words = ["text", "confidence", "words_error"]
        found = words if self._classes is None else ["label", "probability", *(f"p_{name}" for name in self._classes)]
        self._write_cells(["path", "offset", "duration", *found, "error"])

    def row(self, path: str, offset: float, duration: float, prediction: Mapping[str, Any]) -> None:
        """Writes a clip with its prediction, a `ClassPrediction` or a `Transcript` as a dictionary."""
        if self.layout == "jsonl":
            self._write_json({"path": path, "offset": offset, "duration": duration, **prediction})
        elif self.layout == "csv":
            cells = _transcript_cells(prediction) if self._classes is None else _class_cells(prediction)
            self._write_cells([_path_cell(path), _number(offset), _number(duration), *map(harmless, cells), ""])
        else:
            stretch = f"{offset:.{_TABLE_DECIMALS}f}-{offset + duration:.{_TABLE_DECIMALS}f}"
            self._write_words([path, stretch, *_words(prediction)])

    def failed(self, path: str, offset: float, reason: str) -> None:
        """Writes a clip that could not be used, and the reason."""
        if self.layout == "jsonl":
            self._write_json({"path": path, "offset": json_number(offset), "error": reason})
        elif self.layout == "csv":
            middle = [""] * (3 if self._classes is None else 2 + len(self._classes))
            self._write_cells([_path_cell(path), _number(offset), "", *middle, harmless(reason)])
        else:
            self._write_words([path, f"{offset:.{_TABLE_DECIMALS}f}-", f"error: {reason}"])

    def _write_json(self, content: Mapping[str, Any]) -> None:
        line = json.dumps(content, ensure_ascii=False)
        self.file.write("".join(c if c.isprintable() else _json_escape(c) for c in line) + "\n")

    def _write_cells(self, cells: Sequence[str]) -> None:
        line = io.StringIO(newline="")
        # The csv module quotes what is in its line terminator: a lone carriage return ends a row for most readers.
        csv.writer(line, lineterminator="\r\n").writerow(map(printable, cells) if self._at_terminal else cells)
        self.file.write(line.getvalue().removesuffix("\r\n") + "\n")

    def _write_words(self, cells: Sequence[str]) -> None:
        self.file.write("\t".join(map(printable, cells)) + "\n")


def harmless(cell: str) -> str:
    """A cell that no spreadsheet reads as a formula.

    >>> [harmless(cell) for cell in ("=1+1", "-anger", "-1", "+", "calm")]
    ["'=1+1", "'-anger", '-1', '+', 'calm']
    """
    return f"'{cell}" if _FORMULA.match(cell) and not _NUMBER.fullmatch(cell) else cell


def _path_cell(path: str) -> str:
    return f"./{path}" if harmless(path) != path else path


def _json_escape(character: str) -> str:
    """As JSON escapes it: `json.dumps` leaves some control characters as they are."""
    return json.dumps(character)[1:-1]


def _number(value: float) -> str:
    return f"{value:.10g}"


def _class_cells(prediction: Mapping[str, Any]) -> list[str]:
    values = [f"{value:.4f}" for value in prediction["probabilities"].values()]
    return [prediction["label"], f"{prediction['probability']:.4f}", *values]


def _transcript_cells(prediction: Mapping[str, Any]) -> list[str]:
    return [prediction["text"], f"{prediction['confidence']:.4f}", prediction["words_error"]]


def _words(prediction: Mapping[str, Any]) -> list[str]:
    if "label" in prediction:
        return [prediction["label"], f"{prediction['probability']:.2f}"]
    times = " ".join(f"{each['word']}@{each['start']:.2f}-{each['end']:.2f}" for each in prediction["words"])
    return [prediction["text"], f"(no word times: {prediction['words_error']})" if prediction["words_error"] else times]
