"""What commands share: options, exit codes, and the model that is meant."""

import contextlib
import contextvars
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from speechssl.terminal import put, say_once

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

USER_ERROR, HEALTH_ERROR, BAD_FILES, INTERRUPTED = 2, 3, 4, 130

# The command line of this call, recorded in models and results.
spoken: contextvars.ContextVar[str] = contextvars.ContextVar("spoken")

Encoder = Annotated[
    Path | None,
    typer.Option(metavar="MODEL", help="Pretrained model folder [default: the bundled model].", show_default=False),
]
Sets = Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="Change one setting; may be repeated.")]


def bundled(*, otherwise: str = "") -> Path:
    """Folder of the bundled model, where no model is named; prints which it is."""
    from speechssl.models.bundled import bundled_model

    found = bundled_model(otherwise=otherwise)
    say_once(f"no model named: the bundled model {found.name} is used")
    return found.folder


def named(model: Path | None) -> Path:
    """The model folder of an option; the bundled one where it is not given."""
    from speechssl.models.bundled import model_path

    return bundled() if model is None else model_path(model)


def whole_numbers(text: str) -> list[int]:
    """Parse `5,10,25`."""
    from speechssl.config import UserError

    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UserError(f"--shots {text}: must be whole numbers separated by commas, for example 5,10,25")
    return [int(part) for part in parts]


def put_json(found: "DataclassInstance") -> None:
    """Write a dataclass to stdout."""
    import json
    from dataclasses import asdict

    put(json.dumps(asdict(found), default=str))


@contextlib.contextmanager
def health_errors() -> Generator[None]:
    """Print the advice of a `HealthError` in one line and exit."""
    from speechssl.train.health import HealthError

    try:
        yield
    except HealthError as error:
        say_once(f"speechssl: {error}")
        raise typer.Exit(HEALTH_ERROR) from None


def end_if_stopped(*, finished: bool, steps: int) -> None:
    """End the command where its run was stopped by a signal."""
    if not finished:
        say_once(f"stopped at step {steps}; run the same command again to resume")
        raise typer.Exit(INTERRUPTED)
