"""Schemas of the files of a run folder; each file is checked before it is used.

Only keys that the report shows are listed here; other keys are ignored. A file that does not fit raises a `UserError`
of one line with the file, the key, what was given and what is allowed.
"""

import json
import tomllib
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar
from zipfile import BadZipFile

import numpy as np
import pydantic
from jaxtyping import Float
from pydantic import Field, FiniteFloat

from speechssl.config import UserError, parse_reason

Count = Annotated[int, Field(ge=0, le=2**53)]
R = TypeVar("R", bound="Record")
_NO_METRIC = ("step", "valid", "alarm", "evidence", "advice")  # keys of a row of the log; the last three of an alarm


class Record(pydantic.BaseModel):
    """Base of the schemas: strict types, unknown keys are ignored."""

    model_config = pydantic.ConfigDict(extra="ignore", frozen=True, strict=True)


class Conv(Record):
    """The convolutions of an encoder."""

    layers: list[Any] = []
    front: str | None = None
    init: str | None = None
    norm: str | None = None


class Transformer(Record):
    """The Transformer of an encoder."""

    layers: Count | None = None
    dim: Count | None = None


class Encoder(Record):
    """An encoder."""

    conv: Conv | None = None
    transformer: Transformer | None = None


class Objective(Record):
    """The pretraining objective."""

    name: str = ""


class Provenance(Record):
    """Where a model comes from."""

    speechssl: str | None = None
    torch: str | None = None
    command: str | None = None
    corpora: list[str] = []
    hours: FiniteFloat | None = None
    synthetic: bool = False


class ModelFacts(Record):
    """`config.json`."""

    encoder: Encoder | None = None
    objective: Objective | None = None
    provenance: Provenance = Provenance()


class Crops(Record):
    """Settings of the batches."""

    seconds: FiniteFloat | None = None
    batch_seconds: FiniteFloat | None = None


class Optim(Record):
    """Settings of the optimiser."""

    max_lr: FiniteFloat | None = None
    lr: FiniteFloat | None = None


class Recipe(Record):
    """`recipe.toml`."""

    crops: Crops = Crops()
    optim: Optim = Optim()
    seed: int | None = None


class LogRow(Record):
    """A line of `log.jsonl`.

    Attributes:
        values: every metric of the row that was measured, by its name; NaN is possible.
    """

    step: Count
    valid: bool = False
    seconds_per_second: FiniteFloat = 0.0
    seconds_seen: FiniteFloat = 0.0
    values: dict[str, float | list[float]] = {}

    @pydantic.model_validator(mode="before")
    @classmethod
    def _with_values(cls, row: Any) -> Any:
        if not isinstance(row, Mapping):
            return row
        values = {name: value for name, value in row.items() if name not in _NO_METRIC and value is not None}
        for name, value in values.items():
            numbers = value if isinstance(value, list) else [value]
            if not all(isinstance(each, int | float) and not isinstance(each, bool) for each in numbers):
                raise ValueError(f"key {name!r}: given {_short(value)}, allowed: a number, a list of numbers, or null")
        return {**row, "values": values}


class CurveRecord(Record):
    """How a metric is drawn; see `objectives.base.Curve`."""

    metric: str
    title: str
    label: str = ""
    caption: str = ""
    chance: str | None = None
    bound: FiniteFloat | None = None
    alarm: FiniteFloat | None = None
    limits: Annotated[list[FiniteFloat | None], Field(min_length=2, max_length=2)] | None = None
    headline: bool = False

    def lines(self, rows: "Sequence[LogRow]") -> int:
        """Number of lines of the metric: 1 for a number, the length of a list, 0 without a row."""
        found = (row.values.get(self.metric) for row in rows)
        return max((len(each) if isinstance(each, list) else 1 for each in found if each is not None), default=0)


class Metrics(Record):
    """`metrics.json`."""

    settings: str = ""
    curves: list[CurveRecord] = []


class ConfusionCell(Record):
    """How often a class (row) was predicted as another (column) by one contender."""

    contender: str
    labels: Count
    matrix: list[list[Count]]


class Judged(Record):
    """`judge.json`: the tasks that `judge` left out, each with the reason."""

    left_out: dict[str, str] = {}


class Confusion(Record):
    """`confusion.json`."""

    classes: list[str] = []
    cells: list[ConfusionCell] = []

    @pydantic.model_validator(mode="after")
    def _square(self) -> "Confusion":
        side = len(self.classes)
        for cell in self.cells:
            if len(cell.matrix) != side or any(len(row) != side for row in cell.matrix):
                raise ValueError(f"the matrix of {cell.contender!r} is not one of {side} classes")
        return self


class ErrorKinds(Record):
    """Number of errors of each kind of one recogniser."""

    contender: str
    probe: str
    substitutions: Count
    deletions: Count
    insertions: Count
    words: Count


class WorstUtterance(Record):
    """An utterance with many errors; offset and duration in seconds."""

    audio: str
    said: str
    written: str
    errors: Count
    offset: Annotated[FiniteFloat, Field(ge=0)] = 0.0
    duration: Annotated[FiniteFloat, Field(ge=0)]


class Worst(Record):
    """`worst.json`."""

    contender: str
    probe: str
    kinds: list[ErrorKinds]
    utterances: list[WorstUtterance]


def read_json(path: Path, kind: type[R]) -> R | None:
    """A JSON file, or None when there is none.

    Raises:
        UserError: the file cannot be read, or does not fit.
    """
    text = read_text(path)
    return None if text is None else checked(parsed(text, str(path)), kind, str(path))


def read_toml(path: Path, kind: type[R]) -> R | None:
    """A TOML file, or None when there is none.

    Raises:
        UserError: the file cannot be read, or does not fit.
    """
    text = read_text(path)
    if text is None:
        return None
    try:
        content = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not TOML ({parse_reason(error)})") from None
    return checked(content, kind, str(path))


def read_text(path: Path) -> str | None:
    """The text of a file, or None when there is none.

    Raises:
        UserError: the file cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error})") from None


def parsed(text: str, where: str) -> object:
    """Parse a JSON text.

    Raises:
        UserError: not JSON.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON ({parse_reason(error)})") from None


def checked(content: object, kind: type[R], where: str) -> R:
    """Validate the content of a record.

    Args:
        content: the keys and values that were read.
        kind: type of the record.
        where: the file, for the error.

    Raises:
        UserError: the content does not fit; names the first key that does not.
    """
    if not isinstance(content, Mapping):
        raise UserError(f"{where}: holds a {type(content).__name__}, not an object with keys")
    try:
        return kind.model_validate(content)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        given = "" if first["type"] in ("missing", "value_error") else f", given {_short(first['input'])}"
        message = first["msg"].removeprefix("Value error, ")
        raise UserError(f"{where}: {f'key {key!r}: ' if key else ''}{message}{given}") from None


def _short(value: object) -> str:
    words = repr(value)
    return words if len(words) <= 60 else f"{words[:50]} …"


def read_map(path: Path) -> "tuple[Float[np.ndarray, 'clips 2'], dict[str, Sequence[str]]] | None":
    """The points of `map.npz`, and its texts by name; None when there is no such file.

    Raises:
        UserError: not a map of embeddings.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            points = np.asarray(file["points"], dtype=np.float64)
            texts: dict[str, Sequence[str]] = {
                name: [str(each) for each in np.atleast_1d(file[name])] for name in ("label", "speaker", "method")
            }
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, OSError, EOFError, MemoryError, BadZipFile, zlib.error) as error:
        raise UserError(f"{path}: not a map of embeddings ({' '.join(str(error).split())})") from None
    if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
        raise UserError(f"{path}: not a map of embeddings (points of shape {points.shape}, or not finite)")
    if not len(texts["label"]) == len(texts["speaker"]) == len(points):
        raise UserError(f"{path}: not a map of embeddings (a label and a speaker for each point are needed)")
    return points, texts
