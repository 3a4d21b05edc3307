"""How commands and experiments speak: words and progress on stderr, what was asked for on stdout."""

import contextlib
import os
import re
import sys
import time
from collections.abc import Callable, Generator
from typing import Protocol, runtime_checkable

from speechssl.files import naming

_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
PLAIN_EVERY = 15.0  # seconds between lines of progress where there is no terminal


@runtime_checkable
class Update(Protocol):
    """What moves a bar on: how much is done, of how much where that is known, and a remark."""

    def __call__(self, done: int, total: int | None, remark: str = "") -> None:
        """Move it."""


@contextlib.contextmanager
def bars() -> Generator[Callable[[str], Update]]:
    """Progress on stderr: `bar(what)` gives a function to call with how much is done, and of how much if that is known.

    A live bar on a terminal, a plain line now and then anywhere else.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), *times)
    last = time.monotonic()

    def bar(what: str) -> Update:
        task = progress.add_task(what, total=None)

        def update(done: int, total: int | None, remark: str = "") -> None:
            nonlocal last
            words = f"{what}, {remark}" if remark else what
            progress.update(task, completed=done, total=total, description=words)
            if progress.disable and time.monotonic() - last > PLAIN_EVERY:
                say(f"{words}: {done}" + (f" of {total}" if total else ""))
                last = time.monotonic()

        return update

    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield bar


def plain(value: object) -> str:
    """A value of any kind as a person reads it.

    >>> plain({"hours": 1.5, "labels": ["sad", "glad"], "text": None})
    'hours 1.5, labels sad, glad, text -'
    """
    if isinstance(value, dict):
        return ", ".join(f"{key} {plain(each)}" for key, each in value.items()) or "-"
    if isinstance(value, list | tuple):
        return ", ".join(plain(each) for each in value) or "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    return "-" if value in (None, "") else str(value)


def printable(text: str) -> str:
    r"""Text in which no character moves the cursor, ends the line or changes the direction of writing.

    Control characters, line and paragraph separators, marks of direction and lone surrogates (bytes of a file name that
    are no UTF-8) become escape sequences. Joiners stay: scripts need them.

    >>> print(printable("a\nb\x1b[2J\u202e\udcff \u200d"), end="")
    a\nb\x1b[2J\u202e\udcff ‍
    """
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def put(line: str) -> None:
    """A line of what was asked for, on stdout."""
    with _stdout():
        print(printable(line))  # noqa: T201 -- stdout is for what was asked for, and this is the one way to it


def flush() -> None:
    """Hand over what was put on stdout.

    Raises:
        OSError: stdout cannot take it, for example on a full disk.
    """
    with _stdout():
        sys.stdout.flush()


@contextlib.contextmanager
def _stdout() -> Generator[None]:
    """Errors of stdout carry a name, and come once: Python would flush again at its end."""
    try:
        with naming("standard output"):
            yield
    except OSError:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


def say(line: str) -> None:
    """A line on stderr, at once."""
    words = printable(line)
    print(words, file=sys.stderr, flush=True)  # noqa: T201 -- words go to stderr, and this is the one way to it


def say_once(line: str) -> None:
    """For what every process of a torchrun launch ends with."""
    if os.environ.get("RANK", "0") == "0":
        say(line)
