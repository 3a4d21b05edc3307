r"""Tables: comma-, semicolon- or tab-separated text with a header line, or JSON lines, as rows with exact line numbers.

Artefacts of programs are removed here: a byte order mark, blanks around names, Excel's empty rows and columns, the
column without a name in which pandas and R keep row numbers. Nothing is converted: a cell is its text, and a JSON value
keeps its type. `columns` finds the meaning of the columns.

Comma- and semicolon-separated tables follow RFC 4180: a quoted cell may hold the separator and line breaks. In a
tab-separated table a row is a line, and a quotation mark is plain text unless it encloses the whole cell (as pandas
writes it, and as it is meant in Common Voice).
"""

import csv
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechssl.config import UserError, parse_reason
from speechssl.data.values import shown, stripped

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl")
"""Suffixes of tables that are read, in lower case."""

_SEPARATORS = {",": "comma", "\t": "tab", ";": "semicolon"}
_UNNAMED = re.compile(r"unnamed: \d+", re.IGNORECASE)  # pandas' name for a column without one
_CUT_CELL = (
    "; a cell in quotation marks seems to hold a tab or a line break, which ends a cell or a row in a tab-separated "
    "table: save it as .csv"
)
_ONE_A_LINE = "JSON lines have one whole object per line: write each into a line of its own, without [ ] around them"
_SUFFIX = re.compile(r"\.\w{2,5}$")


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        line: the line of the file that it starts in, from 1.
        values: one for each column of the table: text, or a JSON value; None where a JSON object lacks the key.
    """

    line: int
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Table:
    """A table with its columns; its rows are read from the file at each iteration.

    Attributes:
        path: the file.
        columns: names in order, stripped and in NFC, empty for a column without a name.
        separator: of the cells; empty for JSON lines.
    """

    path: Path
    columns: tuple[str, ...]
    separator: str

    def rows(self) -> Iterator[Row]:
        """The rows in order, empty ones left out.

        Raises:
            UserError: names the file and the line of the fault.
        """
        if not self.separator:
            for line, values in _objects(self.path):
                yield Row(line, tuple(values.get(name) for name in self.columns))
            return
        width, named = len(self.columns), [bool(name) for name in self.columns]
        header_seen = False
        for line, cells in _records(self.path, self.separator):
            if not any(map(str.strip, cells)):
                continue
            if not header_seen:
                header_seen = True
                continue
            where = f"{self.path}:{line}"
            if len(cells) < width or any(map(str.strip, cells[width:])):
                hint = _CUT_CELL if self.separator == "\t" and any(map(_is_half_quoted, cells)) else ""
                raise UserError(f"{where}: not as many values ({len(cells)}) as the header has columns ({width}){hint}")
            for place in range(1, width):
                if not named[place] and cells[place].strip():
                    raise UserError(f"{where}: {shown(cells[place])} is in column {place + 1}, which has no name")
            yield Row(line, tuple(cells[:width]))


def _is_half_quoted(cell: str) -> bool:
    """Whether a cell begins or ends with a quotation mark that encloses nothing in it."""
    cell = cell.strip().replace('""', "")
    return cell.count('"') == 1 and '"' in (cell[0], cell[-1])


def is_table(name: str) -> bool:
    """Whether a file name is that of a table that can be read.

    >>> is_table("list.TSV"), is_table("list.xlsx")
    (True, False)
    """
    return name.lower().endswith(TABLE_SUFFIXES)


def open_table(path: Path) -> Table:
    r"""Reads the columns of a table.

    Args:
        path: a file that ends in `.jsonl` (an object per line), or text with a header line. `.tsv` is tab-separated;
            otherwise the separator is the one of comma, tab and semicolon that occurs most often in the header.

    Raises:
        UserError: the file cannot be read, has no header, or two columns of one name; or JSON lines of which one is no
            object.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "list.csv")
    ...     _ = path.write_text("file_name, label ,,\na.wav,dog,,\n,,,\n")
    ...     table = open_table(path)
    ...     table.columns, list(table.rows())
    (('file_name', 'label'), [Row(line=2, values=('a.wav', 'dog'))])
    """
    if path.suffix.lower() == ".jsonl":
        keys: dict[str, None] = {}
        for _, values in _objects(path):
            keys.update(dict.fromkeys(values))
        return Table(path, tuple(keys), "")
    first = next((text for _, text in table_lines(path) if text.strip()), None)
    if first is None:
        raise UserError(f"{path}: an empty table; its first line must name the columns")
    separator = "\t" if path.suffix.lower() == ".tsv" else _separator(first)
    line, header = next((line, cells) for line, cells in _records(path, separator) if any(map(str.strip, cells)))
    names = [_name(cell) for cell in header]
    while names and not names[-1]:
        names.pop()
    for name in names:
        if name and names.count(name) > 1:
            raise UserError(f"{path}:{line}: two columns are called {name!r}; rename one of them")
    return Table(path, tuple(names), separator)


def _name(cell: str) -> str:
    name = stripped(cell)
    return "" if _UNNAMED.fullmatch(name) else name


def _separator(header: str) -> str:
    plain = re.sub(r'"[^"]*"', "", header)
    return max(_SEPARATORS, key=plain.count)  # the first of equals: the comma


def table_lines(path: Path, words: str = "") -> Iterator[tuple[int, str]]:
    """Lines of a text file with their numbers from 1, line break included; UTF-8, or UTF-16 with a byte order mark.

    Args:
        path: the file.
        words: beginning of the message when it cannot be read.

    Raises:
        UserError: it cannot be read, or is no text; the message names the line.
    """
    try:
        with path.open("rb") as file:
            head = file.read(2)
            if head in (b"\xff\xfe", b"\xfe\xff"):
                with path.open(encoding="utf-16", newline="\n") as text:
                    yield from enumerate(text, start=1)
                return
            file.seek(0)
            for number, raw in enumerate(file, start=1):
                if number == 1 and b"\r" in raw.rstrip(b"\r\n") and not raw.rstrip(b"\r").endswith(b"\n"):
                    raise UserError(
                        f"{path}: its lines end with a carriage return alone, as those of old Macs; save it with line "
                        "feeds (LF or CRLF)"
                    )
                try:
                    yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    at = f"byte 0x{raw[error.start]:02x} in place {error.start + 1}"
                    raise UserError(f"{path}:{number}: not UTF-8 text ({at}); save the file as UTF-8") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text, nor UTF-16 ({error.reason}); save it as UTF-8") from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"{path}: {words} ({reason})" if words else f"{path}: {reason}") from None


def _records(path: Path, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Cells of every record, the header's too, with the line that the record starts in."""
    if separator == "\t":
        for number, text in table_lines(path):
            yield number, [_unquoted(cell) for cell in text.rstrip("\r\n").split("\t")]
        return
    taken: list[str] = []
    number = 0

    def feed() -> Iterator[str]:
        nonlocal number
        for number, text in table_lines(path):  # noqa: B007 -- read below
            taken.append(text)
            yield text

    reader = csv.reader(feed(), delimiter=separator, strict=True, skipinitialspace=True)
    while True:
        taken.clear()
        start = number + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            opened = _quote_opened(taken, separator)
            at = start if opened is None else start + opened
            what = f"not CSV: {error}" if opened is None else "a quotation mark opens here that does not close its cell"
            raise UserError(f"{path}:{at}: {what}; write a mark inside a quoted cell twice") from None
        if cells is None:
            return
        if len(taken) > 1 and any(_looks_like_a_row(text, cells, separator) for text in taken[1:]):
            at = start + (_quote_opened(taken[:1], separator) or 0)
            raise UserError(f"{path}:{at}: a quotation mark opens here and closes in line {number}, over other rows")
        yield start, cells


def _unquoted(cell: str) -> str:
    """A cell of a tab-separated table without the quotation marks that enclose all of it."""
    if len(cell) >= 2 and cell[0] == cell[-1] == '"' and '"' not in (inner := cell[1:-1]).replace('""', ""):
        return inner.replace('""', '"')
    return cell


def _quote_opened(lines: Sequence[str], separator: str) -> int | None:
    """Line of a record, from 0, with the mark whose cell is not closed, or closed before its end."""
    text = "".join(lines)
    at, line, starts = 0, 0, True
    while at < len(text):
        sign = text[at]
        if sign == '"' and starts:
            opened = line
            at += 1
            while at < len(text) and (text[at] != '"' or text[at + 1 : at + 2] == '"'):
                line += text[at] == "\n"
                at += 2 if text[at] == '"' else 1
            after = text[at + 1 : at + 2]
            if at >= len(text) or after not in ("", separator, "\r", "\n"):
                return opened
            starts = False
        else:
            line += sign == "\n"
            starts = sign in (separator, "\n") or (starts and sign == " ")
        at += 1
    return None


def _looks_like_a_row(text: str, cells: Sequence[str], separator: str) -> bool:
    """Whether a line inside a quoted cell is a row itself: as many cells, one of them a file name like this row's."""
    inside = text.strip().split(separator)
    if len(inside) < len(cells):
        return False
    pairs = [
        (_SUFFIX.search(own.strip()), _SUFFIX.search(other.strip())) for own, other in zip(cells, inside, strict=False)
    ]
    return any(own and other and own[0].lower() == other[0].lower() for own, other in pairs)


def _objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, text in table_lines(path):
        if text.strip():
            yield number, json_object(text, f"{path}:{number}")


def json_object(text: str, where: str) -> dict[str, Any]:
    """The object in one line of JSON, names stripped and in NFC.

    Args:
        text: the line.
        where: file and line, for messages.

    Raises:
        UserError: not JSON, no object, or a name that occurs twice.

    >>> json_object('{"label ": 1}', "m.jsonl:1")
    {'label': 1}
    """
    try:
        values = json.loads(text, object_pairs_hook=_once)
    except _TwiceError as error:
        raise UserError(f"{where}: {error} is there twice") from None
    except (ValueError, RecursionError) as error:
        hint = f"; {_ONE_A_LINE}" if text.lstrip().startswith("[") or text.strip() == "{" else ""
        raise UserError(f"{where}: not JSON: {parse_reason(error)}{hint}") from None
    if not isinstance(values, dict):
        hint = f"; {_ONE_A_LINE}" if isinstance(values, list) and any(isinstance(each, dict) for each in values) else ""
        raise UserError(f"{where}: given {type(values).__name__}, allowed: a JSON object{hint}")
    if "\\ud" in text.lower():  # an escaped half of a character, which no UTF-8 file can hold
        try:
            json.dumps(values, ensure_ascii=False).encode("utf-8", "surrogateescape")
        except UnicodeEncodeError as error:
            raise UserError(f"{where}: half a character (\\u{ord(error.object[error.start]):04x})") from None
    return values


class _TwiceError(Exception):
    """A name that occurs twice in one object."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = {stripped(name): value for name, value in pairs}
    if len(found) < len(pairs):
        names = [stripped(name) for name, _ in pairs]
        raise _TwiceError(repr(next(name for name in names if names.count(name) > 1)))
    return found
