"""Reading `metadata.csv` and `metadata.jsonl`: what a folder of audio says about its files.

The audiofolder convention (Hugging Face datasets): one line a clip, the clip named by `file_name` (or `audio`) relative
to the metadata's own folder. Known columns are typed here, all others are kept as extras.
"""

import csv
import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from speechssl.config import UserError

METADATA_NAMES = ("metadata.csv", "metadata.jsonl")
_FILE_COLUMNS = ("file_name", "audio")
_TEXT_COLUMNS = ("speaker", "text", "label", "language", "split")

Extra = str | int | float | bool | None


@dataclasses.dataclass(frozen=True)
class MetadataRow:
    """One line of metadata.

    Attributes:
        path: the audio file, resolved against the metadata's folder; it need not exist.
        folder: the metadata's folder.
        known: speaker, text, label, language, split, as far as given and not empty.
        offset: s, or None.
        duration: s, or None.
        extras: all other columns; nested values as JSON text.
    """

    path: Path
    folder: Path
    known: Mapping[str, str]
    offset: float | None
    duration: float | None
    extras: Mapping[str, Extra]


def read_metadata(path: Path) -> list[MetadataRow]:
    r"""Read one metadata file.

    Args:
        path: a `metadata.csv` (comma-separated, a header line, UTF-8) or a `metadata.jsonl` (an object a line).

    Returns:
        Its rows in order.

    Raises:
        UserError: the file cannot be read, or a line of it cannot be; the message names file and line.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "metadata.csv")
    ...     _ = path.write_text("file_name,label,room\na.wav,dog,kitchen\n")
    ...     (row,) = read_metadata(path)
    >>> row.path.name, dict(row.known), dict(row.extras)
    ('a.wav', {'label': 'dog'}, {'room': 'kitchen'})
    """
    try:
        lines = _csv_lines(path) if path.suffix == ".csv" else _jsonl_lines(path)
        return [_row(path, number, values) for number, values in lines]
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text: {error.reason} at byte {error.start}") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None


def _csv_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            for values in reader:
                if None in values or None in values.values():
                    raise UserError(f"{path}:{reader.line_num}: not as many values as the header has columns")
                yield reader.line_num, values
        except csv.Error as error:
            raise UserError(f"{path}:{reader.line_num}: not CSV: {error}") from None


def _jsonl_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                values = json.loads(line)
            except (json.JSONDecodeError, RecursionError) as error:
                raise UserError(f"{path}:{number}: not JSON: {error}") from None
            if not isinstance(values, dict):
                raise UserError(f"{path}:{number}: given {type(values).__name__}, allowed: a JSON object")
            yield number, values


def _row(path: Path, number: int, values: Mapping[str, Any]) -> MetadataRow:
    where = f"{path}:{number}"
    column = next((name for name in _FILE_COLUMNS if name in values), None)
    if column is None:
        columns = ", ".join(str(name) for name in values) or "none"
        raise UserError(f"{where}: no column 'file_name' or 'audio'; there are: {columns}")
    name = values[column]
    if not isinstance(name, str) or not name or "\0" in name:
        raise UserError(f"{where}: {column}: given {name!r}, allowed: the path of a file")
    used = {column, "offset", "duration", *_TEXT_COLUMNS}
    known = {key: _text(values.get(key)) for key in _TEXT_COLUMNS}
    return MetadataRow(
        path=path.parent / name,
        folder=path.parent,
        known={key: value for key, value in known.items() if value},
        offset=_seconds(values.get("offset"), f"{where}: offset"),
        duration=_seconds(values.get("duration"), f"{where}: duration"),
        extras={key: _extra(value) for key, value in values.items() if key not in used},
    )


def _text(value: object) -> str:
    """A label may be a number in JSON; here it is always text. Nothing is the empty text."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value.strip()
    return json.dumps(value, ensure_ascii=False)


def _seconds(value: object, where: str) -> float | None:
    if value is None or value == "":
        return None
    try:
        seconds = float(value) if isinstance(value, (str, int, float)) else math.nan
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds) or seconds < 0:
        raise UserError(f"{where}: given {value!r}, allowed: seconds, 0 or more")
    return seconds


def _extra(value: object) -> Extra:
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON has no word for it
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    return json.dumps(value, ensure_ascii=False)
