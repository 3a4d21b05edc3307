"""Meaning of the columns of a table, and fields of its rows: file, stretch, text, label, speaker, language, split.

The names that are understood are in `column_names`. No guess is silent. Two columns of one field must agree in every
row; a column with nearly the name of a missing field is an error; and columns that are kept without being used are
reported (`Meaning.unused`).
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from speechssl.config import UserError
from speechssl.data.column_names import TIMES, WORDS, find_fields, hints, is_weak
from speechssl.data.tables import Row, Table
from speechssl.data.time_columns import TimeColumns
from speechssl.data.values import (
    Extra,
    count_missing,
    extra_of,
    is_missing,
    is_sheet_error,
    name_of,
    seconds_of,
    shown,
    text_of,
)

LOOKED_AT = 100
"""Number of first rows of a table by which identifiers of sentences are distinguished from sentences."""

NAMED = ("speaker", "text", "label", "language", "split")
"""Fields that hold a name or a text."""


class EmptyStretchError(UserError):
    """A row whose stretch has no length; the rest of its table can be used."""


@dataclass(slots=True)
class Entry:
    """One row of a table as fields.

    Attributes:
        line: the line of the table that it starts in.
        file: the file as the table names it.
        offset: where the stretch starts, s; None where the table does not state it.
        duration: its length, s; None: to the end of the file.
        known: speaker, text, label, language, split, as far as they are given.
        extras: all other columns.
    """

    line: int
    file: str
    offset: float | None
    duration: float | None
    known: dict[str, str]
    extras: dict[str, Extra]


@dataclass
class Meaning:
    """Meaning of the columns of one table.

    Attributes:
        table: the table.
        fields: the columns of each field that the table has, by their place; the first one is used, others must agree.
        units: seconds in one unit of a time column, by its place.
        unused: names of the columns that are kept as extras, or not at all.
        hints: messages about columns that may be meant for a field that the table lacks.
        missing: counts of the words for a missing value in the fields; filled by `entry`.
    """

    table: Table
    fields: Mapping[str, tuple[int, ...]]
    units: Mapping[int, float]
    unused: tuple[str, ...]
    hints: tuple[str, ...]
    missing: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        columns = self.table.columns
        used = {place for places in self.fields.values() for place in places}
        self._named = [name for name in NAMED if name in self.fields]
        self._rest = [place for place, name in enumerate(columns) if name and place not in used]
        self._weak = {place for name in self._named for place in self.fields[name] if is_weak(columns[place])}

    def column(self, name: str) -> str | None:
        """The column that a field is read from; None where the table lacks it."""
        return self.table.columns[self.fields[name][0]] if name in self.fields else None

    def entry(self, row: Row) -> Entry:
        """Reads the fields of a row.

        Raises:
            EmptyStretchError: the stretch has no length.
            UserError: no file, a wrong time, or columns that contradict each other; names file and line.
        """
        where = f"{self.table.path}:{row.line}"
        file = self._one("file", row, _file, where)
        if file is None:
            raise UserError(f"{where}: {self.column('file')}: is empty, allowed: the path of a file")
        known: dict[str, str] = {}
        for name in self._named:
            value = self._one(name, row, text_of if name == "text" else name_of, where)
            if value is None:
                self._count_missing(name, row)
            if value is not None:
                known[name] = value
        offset, duration = self._stretch(row, where)
        columns, values = self.table.columns, row.values
        extras = {columns[place]: extra_of(values[place]) for place in self._rest}
        for place in self._weak:
            if self._is_structure(place, row):
                extras[columns[place]] = extra_of(values[place])
        return Entry(row.line, file, offset, duration, known, extras)

    def _is_structure(self, place: int, row: Row) -> bool:
        """Whether a column that only may mean a field holds a list or an object, as `intent` and `words` can."""
        return place in self._weak and isinstance(row.values[place], list | dict)

    def _one(self, name: str, row: Row, read: Callable[[Any], Any], where: str) -> Any:
        """The value of a field; its columns have to agree."""
        places = self.fields.get(name, ())
        found: list[tuple[str, Any]] = []
        for place in places:
            if self._is_structure(place, row) or (row.values[place] is None and len(places) > 1):
                continue  # a key that a JSON object lacks contradicts nothing
            column = self.table.columns[place]
            try:
                found.append((column, read(row.values[place])))
            except ValueError as error:
                raise UserError(f"{where}: {column}: {error}") from None
        for column, value in found[1:]:
            if value != found[0][1] and not (name in TIMES and _near(value, found[0][1])):
                first = found[0]
                raise UserError(
                    f"{where}: columns {first[0]!r} and {column!r} both mean {WORDS[name]} and "
                    f"differ ({shown(first[1])}, {shown(value)}); rename the one that is not meant, for example "
                    f"{column!r} to 'other_{column}'"
                )
        return found[0][1] if found else None

    def _stretch(self, row: Row, where: str) -> tuple[float | None, float | None]:
        times: dict[str, float | None] = {}
        for name in TIMES:
            if name in self.fields:
                unit = self.units.get(self.fields[name][0], 1.0)
                times[name] = self._time(name, row, unit, where)
        offset, end, duration = (times.get(name) for name in TIMES)
        if end is None:
            self._refuse_zero(offset, duration, where)
            return offset, duration
        length = round(end - (offset or 0.0), 9)  # 3.1 - 1.9 is 1.2
        if length <= 0:
            error = EmptyStretchError if length == 0 else UserError
            raise error(f"{where}: {self.column('end')} {end:g} s is not after the start at {offset or 0.0:g} s")
        if duration is not None and not _near(duration, length, tolerance=0.011):
            raise UserError(
                f"{where}: columns {self.column('end')!r} and {self.column('duration')!r} differ: the stretch has "
                f"{length:g} s, or {duration:g} s; rename the one that is not meant"
            )
        return offset, length

    def _refuse_zero(self, offset: float | None, duration: float | None, where: str) -> None:
        """A duration; without a start, 0 may also mean an unknown length."""
        if duration == 0:
            error = UserError if offset is None else EmptyStretchError
            raise error(f"{where}: {self.column('duration')}: given 0, allowed: seconds above 0, or nothing")

    def _time(self, name: str, row: Row, unit: float, where: str) -> float | None:
        places = self.fields[name]
        if len({self.units.get(place, 1.0) for place in places}) == 1:
            return self._one(name, row, lambda value: seconds_of(value, unit=unit), where)
        in_seconds = list(row.values)  # columns in several units: compare them in seconds
        for place in places:
            try:
                in_seconds[place] = seconds_of(row.values[place], unit=self.units.get(place, 1.0))
            except ValueError as error:
                raise UserError(f"{where}: {self.table.columns[place]}: {error}") from None
        return self._one(name, Row(row.line, tuple(in_seconds)), seconds_of, where)

    def _count_missing(self, name: str, row: Row) -> None:
        for place in self.fields.get(name, ()):
            count_missing(row.values[place], self.missing)


def empty_note(lines: Sequence[int]) -> str:
    """Message about rows that are left out because their stretch has no length.

    >>> empty_note([7])
    '1 row left out, for its stretch has no length: line 7'
    """
    if len(lines) == 1:
        return f"1 row left out, for its stretch has no length: line {lines[0]}"
    return f"{len(lines)} rows left out, for their stretches have no length: the first in line {lines[0]}"


def understand(table: Table, *, with_times: bool = True, first: Iterable[Row] | None = None) -> Meaning:
    """Finds the meaning of the columns of a table.

    Args:
        table: the table; its rows are read where a name may be that of a time.
        with_times: rows are stretches of files; otherwise columns that look like times are like any other.
        first: the first rows of a table that is no file of its own; None: they are read from the file.

    Raises:
        UserError: no column names the file; or a column has nearly the name of a missing one, or looks like a
            time that is not understood (the message says which to rename).

    >>> from pathlib import Path
    >>> meaning = understand(Table(Path("t.csv"), ("File Name", "Start_ms", "onset", "Offset", "room"), ","))
    Traceback (most recent call last):
    speechssl.config.UserError: t.csv: columns 'Start_ms' and 'onset' both mean the start; ...
    >>> meaning = understand(Table(Path("t.csv"), ("File Name", "onset", "Offset", "class", "room"), ","))
    >>> {name: meaning.column(name) for name in meaning.fields}, meaning.unused
    ({'file': 'File Name', 'label': 'class', 'offset': 'onset', 'end': 'Offset'}, ('room',))
    """
    fields, units = find_fields(table.columns, str(table.path), with_times=with_times)
    if len(fields.get("text", ())) > 1:
        fields["text"] = _without_identifiers(table.rows() if first is None else first, fields["text"])
    taken = {place for places in fields.values() for place in places}
    rest = [place for place in range(len(table.columns)) if place not in taken]
    unused = tuple(table.columns[place] or f"number {place + 1} (it has no name)" for place in rest)
    found = hints(table.columns, rest, fields)
    if with_times:
        times = TimeColumns(table.columns, fields, table.rows)
        times.refuse(str(table.path))
        found += times.hints()
    return Meaning(table, fields, units, unused, found)


def _without_identifiers(rows: Iterable[Row], places: tuple[int, ...]) -> tuple[int, ...]:
    """Text columns without identifiers of sentences, by their first values.

    An identifier (`01`, `arctic_a0001`) has a digit and no space. Where no column holds texts, all are kept.
    """
    identifiers, texts = set[int](), set[int]()
    for row in islice(rows, LOOKED_AT):
        for place in places:
            if not is_missing(row.values[place]):
                is_identifier = re.fullmatch(r"\S*\d\S*", str(row.values[place]).strip()) is not None
                (identifiers if is_identifier else texts).add(place)
    return tuple(place for place in places if place in texts or place not in identifiers) if texts else places


def _near(one: float | None, other: float | None, *, tolerance: float = 0.0011) -> bool:
    """Whether two times are equal but for rounding; by default to milliseconds."""
    return one is not None and other is not None and abs(one - other) < tolerance


def _file(value: object) -> str | None:
    if is_missing(value):
        return None
    text = value.strip().rstrip("\0") if isinstance(value, str) else "\0"
    if not isinstance(value, str) or "\0" in text:
        raise ValueError(f"given {shown(value)}, allowed: the path of a file")
    if is_sheet_error(text):
        raise ValueError(f"given {shown(value)}, an error of a spreadsheet; write the path of the file into the cell")
    return text.strip()
