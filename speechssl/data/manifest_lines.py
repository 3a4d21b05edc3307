"""Reading of manifests: one utterance per line; errors are one sentence with the line."""

import difflib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from speechssl.config import UserError
from speechssl.data.columns import NAMED
from speechssl.data.places import is_address, local_path
from speechssl.data.tables import json_object, table_lines
from speechssl.data.utterance import Utterance
from speechssl.data.values import count_missing, is_missing, shown

_FIELDS = tuple(Utterance.model_fields)
_TIMES = ("offset", "duration")


def read_lines(path: str | Path, *, missing: dict[str, int] | None = None) -> Iterator[Utterance]:
    """The utterances of a manifest one after another, with absolute audio paths (or addresses).

    Args:
        path: a JSONL file; empty lines are skipped.
        missing: as in `parse_lines`.

    Raises:
        UserError: no such file, or a line that is no utterance (named by its number).
    """
    folder = Path(path).absolute().parent
    lines = table_lines(Path(path), "the manifest cannot be read")
    return parse_lines(lines, str(path), lambda audio: str(folder / audio), missing=missing)


def parse_lines(
    lines: Iterable[tuple[int, str]],
    name: str,
    join: Callable[[str], str],
    *,
    missing: dict[str, int] | None = None,
) -> Iterator[Utterance]:
    """The utterances of the lines of a manifest.

    Args:
        lines: with their numbers.
        name: of the manifest, for messages.
        join: makes a path or address of a relative one.
        missing: gets the counts of the words for a missing value, such as `nan`.

    Raises:
        UserError: a line that is no utterance (named by its number).
    """
    if missing is not None:
        missing.clear()  # of an earlier reading
    for number, line in lines:
        if line.strip():
            where = f"{name} line {number}"
            values = json_object(line, where)
            if missing is not None:
                for field in NAMED:
                    count_missing(values.get(field), missing)
            utterance = parse_utterance(values, where)
            if (path := local_path(utterance.audio)) != utterance.audio:
                utterance = utterance.model_copy(update={"audio": path})
            if not (is_address(utterance.audio) or os.path.isabs(utterance.audio)):  # noqa: PTH117 -- a million times
                utterance = utterance.model_copy(update={"audio": join(utterance.audio)})
            yield utterance


def parse_utterance(values: dict[str, Any], where: str) -> Utterance:
    """An utterance from the fields of one line of a manifest.

    Args:
        values: the fields; a time that is null or NaN counts as 0.
        where: file and line, for messages.

    Raises:
        UserError: the fault, in one sentence.

    >>> parse_utterance({"audio": "a.wav", "duration": 1, "speeker": "x"}, "m.jsonl line 1")
    Traceback (most recent call last):
    speechssl.config.UserError: m.jsonl line 1: 'speeker' is no field of a manifest; did you mean 'speaker'? ...
    """
    for name in _TIMES:
        if name in values and is_missing(values[name]):
            values[name] = 0.0
        if isinstance(values.get(name), bool):
            raise UserError(f"{where}: {name}: given {values[name]}, allowed: seconds")
    try:
        return Utterance.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{where}: {_sentence(error.errors(include_url=False)[0], values)}") from error


def _sentence(problem: ErrorDetails, values: dict[str, Any]) -> str:
    where = ".".join(str(part) for part in problem["loc"][:2])
    kind = problem["type"]
    if kind == "extra_forbidden":
        return _unknown(where)
    if kind == "missing":
        if where == "duration":
            return "'duration' (seconds) is missing; write 0 where it is not known"
        near = [name for name in values if name not in _FIELDS]
        found = f"; there is {', '.join(map(repr, near))}" if near else ""
        return f"{where!r} is missing: the path of the file{found}"
    given = shown(problem.get("input"))
    if kind == "value_error":
        return f"{where}: {problem['msg'].removeprefix('Value error, ')}"
    if where in _TIMES:
        return f"{where}: given {given}, allowed: seconds"
    if problem["loc"][0] == "extras":
        return f"{where}: given {given}, allowed: a text, a number, true, false or null"
    return f"{where}: given {given}, allowed: a text"


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name.lower(), _FIELDS, n=1, cutoff=0.7)
    guess = f"; did you mean {near[0]!r}?" if near else ";"
    fields = ", ".join(_FIELDS)
    return f"{name!r} is no field of a manifest{guess} fields are {fields}; put what else is known into 'extras'"
