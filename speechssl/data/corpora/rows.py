"""Rows of a data set of another program with known audio; `data.columns` gives the meaning of their columns."""

import functools
import gzip
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechssl.config import UserError
from speechssl.data.columns import NAMED, understand
from speechssl.data.corpora.folder_names import is_split
from speechssl.data.findings import Findings
from speechssl.data.tables import Row, Table, json_object
from speechssl.data.utterance import Utterance
from speechssl.data.values import Extra, extra_of, name_of

_FILE = "file"
_LONGEST_LINE = 1 << 24  # bytes; limits the memory of a damaged or hostile file
_OF_THE_FILE = frozenset({"file", "offset", "end", "duration"})


@dataclass(frozen=True)
class Description:
    """Content of a row: fields, and all other columns."""

    known: Mapping[str, str]
    extras: Mapping[str, Extra]

    def utterance(self, audio: str, *, offset: float = 0.0, duration: float = 0.0, split: str | None) -> Utterance:
        """The utterance of this description; `split` is its split where the row has none."""
        known = self.known
        return Utterance(
            audio=audio,
            offset=offset,
            duration=duration,
            speaker=known.get("speaker"),
            text=known.get("text"),
            label=known.get("label"),
            language=known.get("language"),
            split=known.get("split", split),
            extras=dict(self.extras),
        )


class Describer:
    """Understands rows with the same columns.

    A row is one utterance and its audio is known, so columns that mean a file or a time are extras here: they state
    the source of the recording.
    """

    def __init__(
        self,
        source: str | Path,
        columns: Iterable[str],
        findings: Findings | None = None,
        *,
        first: Iterable[Mapping[str, Any]] = (),
    ):
        """Finds the meaning of the columns.

        Args:
            source: named in errors.
            columns: their names.
            findings: gets the names of columns that are not used, and of those that are read for a field.
            first: the first rows, by column, by which identifiers of sentences are distinguished from sentences.

        Raises:
            UserError: a column has nearly the name of a missing one.
        """
        self._source = Path(source)
        names = list(dict.fromkeys(columns))
        self._apart = [name for name in names if _is_of_the_file(name)]
        self._names = [name for name in names if name not in self._apart]
        table = Table(self._source, (_FILE, *(name.strip() for name in self._names)), "")
        rows = (Row(number, self._cells(values)) for number, values in enumerate(first, start=1))
        self._meaning = understand(table, with_times=False, first=rows)
        if findings is not None:
            self._meaning.missing = findings.missing
            read = {field: name for field in NAMED if (name := self.column(field)) and name != field}
            findings.columns |= read
            unused = [*self._meaning.unused, *(name for name in self._apart if name.strip())]
            findings.unused += [name for name in unused if name not in findings.unused]
            findings.notes += [hint for hint in self._meaning.hints if hint not in findings.notes]

    @property
    def times(self) -> list[str]:
        """Columns that mean where a stretch starts or ends; `duration` alone is that of the file."""
        return [name for name in self._apart if name.strip() and _is_start_or_end(name)]

    def column(self, field: str) -> str | None:
        """The column that a field is read from; None where there is none."""
        return self._meaning.column(field)

    def describe(self, values: Mapping[str, Any], row: int) -> Description:
        """Content of a row.

        Args:
            values: by column.
            row: its number, named in errors.

        Raises:
            UserError: columns that contradict each other, or a value that cannot be a name.

        >>> rows = Describer("a.jsonl", ["sentence", "Speaker ID", "start", "room"])
        >>> found = rows.describe({"sentence": "hi ", "Speaker ID": 3.0, "start": 1.5, "room": None}, 1)
        >>> found.known, found.extras
        ({'speaker': '3', 'text': 'hi'}, {'start': 1.5})
        """
        entry = self._meaning.entry(Row(row, self._cells(values)))
        apart = {name: extra_of(values.get(name)) for name in self._apart}
        extras = {name: value for name, value in {**entry.extras, **apart}.items() if value is not None}
        return Description(entry.known, extras)

    def _cells(self, values: Mapping[str, Any]) -> tuple[Any, ...]:
        return (_FILE, *(values.get(name) for name in self._names))


@functools.cache  # names of columns, few
def _is_of_the_file(name: str) -> bool:
    """Whether a column means a file or a time."""
    plain = re.sub(r"[\W_]+", "", name.casefold())
    if not plain or plain == _FILE:
        return True
    fields = understand(Table(Path(name), (_FILE, name), ""), with_times=False).fields
    return any(1 in fields.get(field, ()) for field in _OF_THE_FILE)


def _is_start_or_end(name: str) -> bool:
    fields = understand(Table(Path(name), (_FILE, name), ""), with_times=False).fields
    return "offset" in fields or "end" in fields


def named_field(name: str) -> str | None:
    """The field that a name means: speaker, text, label, language or split.

    >>> named_field("Speaker"), named_field("npy")
    ('speaker', None)
    """
    if _is_of_the_file(name):
        return None
    fields = understand(Table(Path(name), (_FILE, name), ""), with_times=False).fields
    return next((field for field in NAMED if field in fields), None)


def comparable(value: object) -> str | None:
    """A value as text, so that the number 3 and the text "3" are equal; None where it is missing.

    >>> comparable(3.0), comparable(" 3 "), comparable("nan")
    ('3', '3', None)
    """
    found = extra_of(value)
    try:
        return None if found is None else name_of(found)
    except ValueError:  # the error of a spreadsheet, which is reported where the value is read
        return str(found)


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a file of JSON lines with their line numbers; a name that ends in .gz is uncompressed on the way.

    Raises:
        UserError: the file cannot be read, a line of it is no object, or has more than 16 MiB.
    """
    number = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            while raw := file.readline(_LONGEST_LINE):
                number += 1
                if len(raw) == _LONGEST_LINE:
                    raise UserError(f"{path}:{number}: a line of more than {_LONGEST_LINE >> 20} MiB")
                text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
                if text.strip():
                    yield number, json_object(text, f"{path}:{number}")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}:{number}: not UTF-8 text at byte {error.start + 1} of the line") from None
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None


def split_of(name: str) -> str | None:
    """Split by the name of a file: the one word in it that names a split.

    >>> split_of("train-00000-of-00002"), split_of("cuts_dev-clean"), split_of("shard-01"), split_of("train_test")
    ('train', 'dev', None, None)
    """
    words = set(filter(is_split, re.split(r"[^a-z]+", name.lower())))
    return words.pop() if len(words) == 1 else None
