"""Recipe files: TOML with at most one `base`, dotted overrides, into frozen typed models.

A recipe holds differences only; a missing key has the default of the model it is read into. Every mistake is a
`UserError` of one line that names the key, what was given and what is allowed.

    # recipes/pretrain/small.toml
    base = "tiny.toml"
    [optim]
    lr = 5e-4
"""

import difflib
import hashlib
import json
import math
import sys
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin

import pydantic
from pydantic_core import ErrorDetails

from speechssl.terminal import printable

C = TypeVar("C", bound="Config")

LONGEST_MESSAGE = 1500  # characters: some lines on a terminal


class Config(pydantic.BaseModel):
    """Base of every typed setting: frozen; an unknown key is an error.

    >>> class Optim(Config):
    ...     lr: float = 1e-3
    >>> Optim(lr=0.5)
    Optim(lr=0.5)
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def upgraded(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Convert values of a recipe of an earlier version."""
        return values


class UserError(ValueError):
    """A user's mistake. The command line prints it as one line and exits with code 2.

    The message is made :func:`readable`, since parts of it often come from files.
    """

    def __init__(self, message: str):
        super().__init__(readable(message))


def readable(text: str, *, longest: int = LONGEST_MESSAGE) -> str:
    r"""A text for a terminal: no control characters, with the middle left out where it is too long.

    Args:
        text: anything.
        longest: characters to keep.

    Returns:
        The text, :func:`~speechssl.terminal.printable` line by line.

    >>> readable("x" * 50, longest=16)
    'xxxxxxxxxx … (34 more characters) … xxxxxx'
    >>> readable(chr(27) + "[2J" + chr(0x202E)) == r"\x1b[2J\u202e"
    True
    """
    if len(text) > longest:
        kept = longest - longest // 8 * 3, longest // 8 * 3
        cut = len(text) - sum(kept)
        text = f"{text[: kept[0]]} … ({cut} more characters) … {text[-kept[1] :]}"
    return "\n".join(map(printable, text.split("\n")))


def brief_value(value: object) -> str:
    """A value for a message: its `repr`, the middle left out after 80 characters.

    >>> brief_value([512] * 1000)
    '[512, 512, 512, 512, 512, 512, 512, 512, 512, 512, … (4920 more characters) …  512, 512, 512, 512, 512, 512]'
    """
    return readable(repr(value), longest=80)


def parse_reason(error: Exception) -> str:
    """Reason in one line why a text is not JSON or TOML, without Python's advice to programmers.

    >>> parse_reason(ValueError("Expecting value:  line 1"))
    'Expecting value: line 1'
    >>> import json
    >>> try:
    ...     json.loads("1" * 5000)
    ... except ValueError as error:
    ...     parse_reason(error)
    'a whole number of more than 4300 digits'
    """
    words = " ".join(str(error).split())
    if "set_int_max_str_digits" in words:
        return f"a whole number of more than {sys.get_int_max_str_digits()} digits"
    return words or type(error).__name__


def load_config(
    kind: type[C], path: Path | None = None, *, overrides: Sequence[str] = (), defaults: C | None = None
) -> C:
    """Read a recipe.

    Args:
        kind: the model to read into.
        path: a TOML file; its key `base` may name one other file, relative to it, that it changes. None: defaults only.
        overrides: `"a.b=c"` each, later ones win. The value is parsed as TOML (`true`, `1e-3`, `[1, 2]`); a bare word
            is a string, and a key that holds a string or a path takes the text as it stands.
        defaults: base of the recipe, for example a preset; None: the defaults of `kind`.

    Returns:
        The frozen model.

    Raises:
        UserError: no such file, not TOML, unknown key, wrong type or a value out of range.

    >>> class Optim(Config):
    ...     lr: float = 1e-3
    ...     name: str = "adamw"
    >>> class Recipe(Config):
    ...     steps: int = 100
    ...     optim: Optim = Optim()
    >>> load_config(Recipe, overrides=["optim.lr=0.01", "steps=5", "optim.name=sgd"])
    Recipe(steps=5, optim=Optim(lr=0.01, name='sgd'))
    >>> load_config(Recipe, overrides=["steps=5"], defaults=Recipe(optim=Optim(lr=0.5)))
    Recipe(steps=5, optim=Optim(lr=0.5, name='adamw'))
    >>> load_config(Recipe, overrides=["optim.lrr=0.01"])
    Traceback (most recent call last):
    speechssl.config.UserError: --set optim.lrr=0.01: unknown key 'optim.lrr'; did you mean 'lr'? allowed: lr, name
    """
    values = {} if defaults is None else _plain_values(defaults)
    if path is not None:
        values = merged(values, _read_with_base(path))
    given: dict[tuple[str, ...], str] = {}
    for override in overrides:
        key = _apply_override(values, override, kind=kind)
        given[key] = override
    values = kind.upgraded(values)
    try:
        # Through JSON, so that strict types hold (true is no number, "3" is no integer) while arrays still become
        # tuples and strings paths.
        return kind.model_validate_json(json.dumps(values), strict=True)
    except pydantic.ValidationError as error:
        raise UserError(_explain(error, kind=kind, path=path, given=given)) from None
    except TypeError:
        raise UserError(f"{path}: dates and times are not used in recipes") from None


def value_of(path: Path | None, overrides: Sequence[str], key: str) -> object | None:
    """Value of one key of a recipe, without validation of the rest; None where the key is missing.

    Args:
        path: as for `load_config`.
        overrides: as for `load_config`.
        key: `"a.b"`.

    Raises:
        UserError: no such file, not TOML.

    >>> value_of(None, ["optim.name=sgd"], "optim.name"), value_of(None, [], "optim.name")
    ('sgd', None)
    """
    value: object = {} if path is None else _read_with_base(path)
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    for override in overrides:
        name, mark, text = override.partition("=")
        if mark and name.strip() == key:
            value = text.strip().strip("\"'")
    return value


def digest(content: object) -> str:
    """Sixteen hexadecimal digits of any content, by its JSON; values outside JSON are hashed by their text.

    >>> digest(["a", 1]) == digest(("a", 1)), len(digest([]))
    (True, 16)
    """
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def dump_config(config: Config) -> str:
    """Write a resolved config as TOML that `load_config` reads back to the same values.

    Args:
        config: any model; keys whose value is None are left out, as TOML has no null.

    Returns:
        TOML text that ends in a newline, plain keys before tables.

    Raises:
        ValueError: a key is None and its default is not, so that leaving it out would change it.

    >>> class Optim(Config):
    ...     lr: float = 1e-3
    >>> class Recipe(Config):
    ...     steps: int = 100
    ...     optim: Optim = Optim()
    >>> print(dump_config(Recipe()), end="")
    steps = 100
    <BLANKLINE>
    [optim]
    lr = 0.001
    """
    return "\n".join(_toml_lines(config, prefix=())).strip("\n") + "\n"


# Reading


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such recipe file") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    except ValueError as error:  # also for bytes that are not text, and numbers that are too long
        raise UserError(f"{path}: not TOML: {parse_reason(error)}") from None


def _read_with_base(path: Path) -> dict[str, Any]:
    values = _read_toml(path)
    base = values.pop("base", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise UserError(f"{path}: key 'base': given {base!r}, allowed: the name of one TOML file")
    base_path = path.parent / base
    base_values = _read_toml(base_path)
    if "base" in base_values:
        raise UserError(f"{path}: its base {base_path} has a base of its own; at most one is allowed")
    return merged(base_values, values)


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of two sources; those above win, tables are merged key by key.

    >>> merged({"optim": {"lr": 1, "clip": 2}, "seed": 0}, {"optim": {"lr": 3}})
    {'optim': {'lr': 3, 'clip': 2}, 'seed': 0}
    """
    both = dict(below)
    for key, value in above.items():
        old = both.get(key)
        both[key] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return both


def _apply_override(values: dict[str, Any], override: str, *, kind: type[Config]) -> tuple[str, ...]:
    dotted, equals, text = override.partition("=")
    key = tuple(part.strip() for part in dotted.split("."))
    if not equals or not all(key):
        raise UserError(f"--set {override}: write it as key=value or group.key=value")
    table = values
    for depth, part in enumerate(key[:-1], start=1):
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise UserError(f"--set {override}: key '{'.'.join(key[:depth])}' holds a value, not a group of keys")
    table[key[-1]] = _parse_value(text.strip(), override=override, is_text=_is_text(kind, key))
    return key


def _parse_value(text: str, *, override: str, is_text: bool) -> object:
    quoted = text[:1] in ("'", '"')
    if is_text and not quoted:
        return text
    try:
        parsed = tomllib.loads(f"value = {text}")
    except ValueError as error:
        if quoted or text[:1] in ("[", "{"):
            raise UserError(f"--set {override}: the value is not TOML: {parse_reason(error)}") from None
        return text
    if len(parsed) != 1:
        raise UserError(f"--set {override!r}: one value only")
    return parsed["value"]


def _plain_values(config: pydantic.BaseModel) -> dict[str, Any]:
    """A model as JSON values; floats that are not finite stay floats."""

    def plain(value: object) -> object:
        match value:
            case pydantic.BaseModel():
                return {key: plain(each) for key, each in value}
            case Mapping():
                return {key: plain(each) for key, each in value.items()}
            case list() | tuple() | set() | frozenset():
                return [plain(each) for each in value]
            case Path():
                return str(value)
            case _:
                return value

    return {key: plain(each) for key, each in config}


# Walking the models


def _alternatives(annotation: Any) -> Iterator[Any]:
    """The types of a union (and of Annotated), one by one; a plain type is its own alternative."""
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        for each in get_args(annotation):
            yield from _alternatives(each)
    elif origin is typing.Annotated:
        yield from _alternatives(get_args(annotation)[0])
    else:
        yield annotation


def _models_at(kind: type[Config], key: Sequence[str | int]) -> list[type[pydantic.BaseModel]]:
    """The models that may stand at a key; parts of it that are no field (list places, union tags) are skipped."""
    models: list[type[pydantic.BaseModel]] = [kind]
    for part in key:
        fields = [model.model_fields[part] for model in models if part in model.model_fields]
        if not fields:
            continue
        kinds = [each for field in fields for each in _alternatives(field.annotation)]
        inner = [argument for each in kinds for argument in (each, *get_args(each))]
        models = [each for each in inner if isinstance(each, type) and issubclass(each, pydantic.BaseModel)]
    return models


def _is_text(kind: type[Config], key: Sequence[str]) -> bool:
    fields = [model.model_fields[key[-1]] for model in _models_at(kind, key[:-1]) if key[-1] in model.model_fields]
    wanted = {each for field in fields for each in _alternatives(field.annotation)} - {types.NoneType}
    return bool(wanted) and wanted <= {str, Path}


# Explaining


def _explain(
    error: pydantic.ValidationError, *, kind: type[Config], path: Path | None, given: Mapping[tuple[str, ...], str]
) -> str:
    details = error.errors(include_url=False)
    first = details[0]
    more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
    where = "" if path is None else f"{path}: "
    location = tuple(str(part) for part in first["loc"])
    for key, override in given.items():
        if location[: len(key)] == key or key[: len(location)] == location != ():
            where = f"--set {override}: "
    return f"{where}{_explain_one(first, kind=kind)}{more}"


def _explain_one(detail: ErrorDetails, *, kind: type[Config]) -> str:
    location = detail["loc"]
    name = ".".join(str(part) for part in location)
    if detail["type"] == "extra_forbidden":
        models = _models_at(kind, location[:-1])
        allowed = sorted({field for model in models for field in model.model_fields})
        close = difflib.get_close_matches(str(location[-1]), allowed, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        return f"unknown key {name!r}; {hint}allowed: {', '.join(allowed) or 'nothing'}"
    if detail["type"] == "missing":
        return f"key {name!r} is missing"
    wanted = detail["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    wanted = wanted.removeprefix("a valid ").replace("\n", " ")
    if not location:
        return wanted
    return f"key {name!r}: given {brief_value(detail['input'])}, allowed: {wanted}"


# Writing


def _toml_lines(config: pydantic.BaseModel | Mapping[str, Any], *, prefix: tuple[str, ...]) -> Iterator[str]:
    items = dict(config) if isinstance(config, pydantic.BaseModel) else dict(config.items())
    tables = {key: value for key, value in items.items() if isinstance(value, (pydantic.BaseModel, Mapping))}
    if prefix:
        yield f"\n[{'.'.join(_toml_key(part) for part in prefix)}]"
    for key, value in items.items():
        if value is None:
            if isinstance(config, pydantic.BaseModel) and _default(config, key) is not None:
                raise ValueError(f"key {'.'.join((*prefix, key))!r} is None, which TOML cannot express")
        elif key not in tables:
            yield f"{_toml_key(key)} = {_toml_value(value)}"
    for key, table in tables.items():
        yield from _toml_lines(table, prefix=(*prefix, key))


def _default(config: pydantic.BaseModel, key: str) -> object:
    return type(config).model_fields[key].get_default(call_default_factory=True, validated_data={})


def _toml_key(key: str) -> str:
    plain = key.isascii() and key.replace("_", "").replace("-", "").isalnum()
    return key if plain else _quoted(key)


def _quoted(text: str) -> str:
    # TOML's escapes are JSON's, but TOML wants DEL escaped and refuses halves of surrogate pairs, which JSON writes.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _toml_value(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(int(value))
        case float():
            if math.isfinite(value):
                return repr(float(value))
            return str(float(value))
        case str():
            return _quoted(value)
        case Path():
            return _toml_value(str(value))
        case list() | tuple() | set() | frozenset():
            return f"[{', '.join(_toml_value(each) for each in value)}]"
        case pydantic.BaseModel():
            return _inline_table(dict(value))
        case Mapping():
            return _inline_table(value)
        case _:
            raise ValueError(
                f"given {value!r} of type {type(value).__name__}; TOML holds text, numbers, lists and tables"
            )


def _inline_table(table: Mapping[str, Any]) -> str:
    pairs = (f"{_toml_key(key)} = {_toml_value(value)}" for key, value in table.items() if value is not None)
    return f"{{{', '.join(pairs)}}}"
