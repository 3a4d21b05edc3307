"""Fields of Lhotse's records, standard and custom ones, read by the rules of tables.

A custom field of a cut or a recording belongs to its supervisions, too. A text there is that of the whole stretch, so
it is an extra (`cut_text`) of supervisions that are a part of it.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from speechssl.config import UserError
from speechssl.data.columns import LOOKED_AT
from speechssl.data.corpora.rows import Describer, Description, comparable, named_field
from speechssl.data.findings import Findings, some
from speechssl.data.values import shown

_STRUCTURE = frozenset(
    {"id", "recording_id", "start", "duration", "channel", "supervisions", "recording", "features", "type", "custom"}
    | {"alignment", "sources", "sampling_rate", "num_samples", "channel_ids", "transforms"}
)


class Line(NamedTuple):
    """A line of a manifest, for messages."""

    path: Path
    number: int

    def __str__(self) -> str:
        """FILE:NUMBER."""
        return f"{self.path}:{self.number}"


def fields_of(record: Mapping[str, Any], where: Line) -> dict[str, Any]:
    """All fields of a record except audio and times, including custom ones.

    Raises:
        UserError: a custom field contradicts the record's own field of the same name.

    >>> fields_of({"id": "a", "text": "hi", "custom": {"emotion": "sad", "text": "hi"}}, Line(Path("cuts.jsonl"), 1))
    {'text': 'hi', 'emotion': 'sad'}
    """
    own = {name: value for name, value in record.items() if name not in _STRUCTURE}
    custom = record.get("custom")
    words = ("the record", "its custom fields")
    return _merged(own, custom if isinstance(custom, dict) else {}, words, where)


def of_part(part: Mapping[str, Any], outer: Mapping[str, Any], where: Line, *, whole: bool) -> dict[str, Any]:
    """The fields of a supervision with those of its cut or recording.

    Args:
        part: of the supervision.
        outer: of the cut or recording.
        where: named in errors.
        whole: whether the supervision is all of the cut or recording, so that a text of that is its own.

    Raises:
        UserError: both have a field and differ.
    """
    given = {
        f"cut_{name}" if not whole and named_field(name) == "text" else name: value for name, value in outer.items()
    }
    return _merged(part, given, ("the supervision", "its cut or recording"), where)


def _merged(one: Mapping[str, Any], other: Mapping[str, Any], words: tuple[str, str], where: Line) -> dict[str, Any]:
    """Fields of both; where extras differ, the second is called `cut_NAME`."""
    found = dict(one)
    for name, value in other.items():
        before, after = comparable(found.get(name)), comparable(value)
        if before is None or after is None or before == after:
            found[name] = value if before is None else found[name]
            continue
        if named_field(name) is not None:
            raise UserError(
                f"{where}: {name!r} is {shown(found[name])} in {words[0]} and {shown(value)} in {words[1]}; correct "
                "one of them, or rename it if it is something else"
            )
        found[f"cut_{name}"] = value
    return found


class Fields:
    """Understands the fields of a manifest as columns of one table.

    Args:
        path: the file that the rows are from, named in errors.
        rows: the fields of all utterances; iterated once.
        findings: gets unused fields.

    Raises:
        UserError: a field has nearly the name of a missing one.
    """

    def __init__(self, path: Path, rows: Iterable[Mapping[str, Any]], findings: Findings):
        names: dict[str, None] = {}
        first: list[dict[str, Any]] = []
        without_value: dict[str, None] = {}
        for row in rows:
            plain = {name: value for name, value in row.items() if not isinstance(value, list | dict)}
            names |= dict.fromkeys(plain)
            without_value |= dict.fromkeys(row.keys() - plain.keys())
            if len(first) < LOOKED_AT:
                first.append(plain)
        self._describer = Describer(path, names, findings, first=first)
        if without_value:
            kept = some(sorted(without_value))
            findings.notes.append(f"{path}: fields left out, as they hold no plain values: {kept}")

    def describe(self, row: Mapping[str, Any], line: Line) -> Description:
        """Meaning of the fields of one utterance.

        Raises:
            UserError: fields that contradict each other, or a value that cannot be a name.
        """
        plain = {name: value for name, value in row.items() if not isinstance(value, list | dict)}
        return self._describer.describe(plain, line.number)
