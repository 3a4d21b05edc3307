"""Columns of an output: names, types, and checks against its format before the first clip is encoded."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from speechssl.config import UserError
from speechssl.data.columns import NAMED
from speechssl.data.values import Extra, extra_text, readable

ColumnType = Literal["text", "integer", "number", "truth"]

_TAKEN = ("path", "offset", "duration", "fingerprint", "key", "num_frames", "first_frame", "file", "speechssl")
_TYPES: dict[type, ColumnType] = {bool: "truth", int: "integer", float: "number"}
_INT64 = 1 << 63
_EXACT = 1 << 53  # whole numbers up to here are exact as float64
_LONGEST_NAME = 200  # bytes; a file name, which an array is in .zarr and .npz, has 255 with its suffix
_WIDEST = 1 << 28  # bytes of one text column in .npz and .zarr, where every row is as wide as the longest
_CHARACTER = 4  # bytes, as numpy stores text


class SeenColumns:
    """Content of the columns of a plan.

    Attributes:
        types: the narrowest type of every column with a value, in order of first appearance.
        rows: number of rows.
        longest: characters of the longest text of each text column.
        with_null: columns with a text that holds the character of code 0.
        inexact: columns with whole numbers that float64 cannot hold.
        partly: columns without a value in some rows; valid after the last row.
    """

    def __init__(self) -> None:
        self.types: dict[str, ColumnType] = {}
        self.rows = 0
        self.longest: dict[str, int] = {}
        self.with_null: set[str] = set()
        self.inexact: set[str] = set()
        self._filled: dict[str, int] = {}
        self._columns: dict[str, str] = {}

    def add(self, known: Mapping[str, str | None], extras: Mapping[str, Extra]) -> None:
        """Adds one row.

        Raises:
            UserError: two extras would have one column.
        """
        self.rows += 1
        for name, value in known.items():
            if value is not None:
                self._value(name, value)
        for name, value in extras.items():
            if value is not None:
                self._value(self._columns.get(name) or self._column(name), value)

    def _column(self, name: str) -> str:
        column = output_name(name)
        other = next((each for each, taken in self._columns.items() if taken == column), None)
        if other is not None:
            pair = f"{other!r} and {name!r}"
            raise UserError(f"columns {pair} would both be called {column!r} in the output; rename one of them")
        self._columns[name] = column
        return column

    def _value(self, column: str, value: Extra) -> None:
        self._filled[column] = self._filled.get(column, 0) + 1
        kind = _type_of(value)
        self.types[column] = _wider(self.types.get(column), kind)
        if kind == "text":
            text = extra_text(value)
            if len(text) > self.longest.get(column, 0):
                self.longest[column] = len(text)
            if "\0" in text:
                self.with_null.add(column)
        elif kind == "integer" and isinstance(value, int) and abs(value) > _EXACT:
            self.inexact.add(column)

    @property
    def partly(self) -> set[str]:
        """Columns without a value in some rows."""
        return {name for name, count in self._filled.items() if count < self.rows}

    def ordered(self) -> dict[str, ColumnType]:
        """Types by column, an utterance's own fields first; numbers that would lose digits in any format are text."""
        lossy = {name for name in self.inexact if self.types[name] == "number"}
        types: dict[str, ColumnType] = {name: "text" if name in lossy else each for name, each in self.types.items()}
        return dict(sorted(types.items(), key=lambda column: column[0] not in NAMED))  # stable


def output_name(name: str) -> str:
    """Column of an extra; `extra_NAME` where the output has a column of that name.

    >>> output_name("age"), output_name("path")
    ('age', 'extra_path')
    """
    own = name in _TAKEN or name in NAMED or name.startswith(("vector", "frames"))
    return f"extra_{readable(name)}" if own else readable(name)


def _type_of(value: Extra) -> ColumnType:
    if type(value) is int and not -_INT64 <= value < _INT64:
        return "text"  # no format holds it as a number with all its digits
    return _TYPES.get(type(value), "text")


def _wider(before: ColumnType | None, kind: ColumnType) -> ColumnType:
    if before is None or before == kind:
        return kind
    return "number" if {before, kind} == {"integer", "number"} else "text"


def check_columns(out: Path, seen: SeenColumns) -> None:
    """Refuses columns that an output cannot hold.

    Args:
        out: the output; its extension is the format.
        seen: all columns of the plan.

    Raises:
        UserError: names the first column that does not fit, and what to do.

    >>> seen = SeenColumns()
    >>> seen.add({}, {"a/b": 1})
    >>> check_columns(Path("v.parquet"), seen)
    >>> check_columns(Path("v.h5"), seen)
    Traceback (most recent call last):
    speechssl.config.UserError: v.h5: column 'a/b': a name with '/' ...
    """
    arrays = out.suffix in (".h5", ".zarr", ".npz")
    for name, kind in seen.types.items():
        fault = _fault_of_name(name, arrays=arrays)
        if fault is None and name in seen.with_null and arrays:
            fault = "a text with the character of code 0, which ends it there"
        if fault is None and kind == "integer" and name in seen.inexact & seen.partly and arrays:
            fault = "whole numbers above 2^53 beside missing ones would lose digits"
        width = seen.longest.get(name, 0) * _CHARACTER * seen.rows
        if fault is None and out.suffix in (".zarr", ".npz") and width > _WIDEST:
            fault = (
                f"a text of {seen.longest[name]:,} characters makes each of {seen.rows:,} rows as wide "
                f"({width / 2**30:.1f} GiB)"
            )
        if fault is not None:
            raise UserError(f"{out}: column {name!r}: {fault}; {_way(fault)}")


def _fault_of_name(name: str, *, arrays: bool) -> str | None:
    if not name:
        return "an empty name"
    if "\0" in name:
        return "a name with the character of code 0"
    if not arrays:
        return None
    if "/" in name:
        return "a name with '/' is a path in this format"
    if name.startswith("."):
        return "a name that begins with '.' is hidden in this format"
    if len(name.encode("utf-8", "backslashreplace")) > _LONGEST_NAME:
        return f"a name of more than {_LONGEST_NAME} bytes is too long for this format"
    return None


def _way(fault: str) -> str:
    return "rename it, or write .parquet" if "name" in fault else "write .parquet"
