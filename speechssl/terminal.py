"""Output of commands and experiments: messages and progress on stderr, results on stdout."""

import contextlib
import logging
import os
import sys
import time
import unicodedata
import warnings
from collections.abc import Callable, Generator, Sequence
from typing import Any, Protocol, runtime_checkable

from speechssl.files import naming

PLAIN_EVERY = 15.0  # seconds between lines of progress where there is no terminal


@runtime_checkable
class Update(Protocol):
    """Function that updates a bar: number done, total where known, and a remark."""

    def __call__(self, done: int, total: int | None, remark: str = "") -> None:
        """Update the bar."""


@contextlib.contextmanager
def bars() -> Generator[Callable[[str], Update]]:
    """Progress on stderr: `bar(what)` gives a function to call with the number done and, where known, the total.

    A live bar on a terminal, otherwise a plain line every `PLAIN_EVERY` seconds.
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


@contextlib.contextmanager
def audio_warnings() -> Generator[None]:
    """Print warnings about a file as one line each, without the place in the program."""
    show = warnings.showwarning

    def say_or_show(message: Warning | str, category: type[Warning], *place: Any, **options: Any) -> None:
        if category.__name__ == "AudioWarning":  # importing it would cost every command the import of soundfile
            say(str(message))
        else:
            show(message, category, *place, **options)

    warnings.showwarning = say_or_show
    try:
        yield
    finally:
        warnings.showwarning = show


def doubts(notes: Sequence[str], *, shown: int = 3, listed: str = "") -> list[str]:
    """Lines about files that are used with changes: their number, and the first of them.

    Args:
        notes: one line per file.
        shown: number of files that are shown.
        listed: file with all of them; empty to show all.

    >>> doubts(["a.wav: a click", "b.wav: a click"], shown=1, listed="out/waveforms.json")
    ['2 files are doubtful:', '  a.wav: a click', '  … and 1 more; each one is in out/waveforms.json']
    """
    if not notes:
        return []
    lines = ["1 file is doubtful:" if len(notes) == 1 else f"{len(notes)} files are doubtful:"]
    shown = shown if listed else len(notes)
    lines += [f"  {note}" for note in notes[:shown]]
    return lines + ([f"  … and {len(notes) - shown} more; each one is in {listed}"] if len(notes) > shown else [])


def plain(value: object) -> str:
    """A readable form of any value.

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
    r"""A text for a terminal: everything but letters, signs and spaces is escaped.

    Names of files may contain sequences that move the cursor, change colours or the direction of writing, and bytes
    that are not UTF-8. Joiners are kept: some scripts need them.

    >>> print(printable("a\nb\x1b[2J\u202e\udcff \u200d"), end="")
    a\nb\x1b[2J\u202e\udcff ‍
    """
    if text.isprintable():
        return text
    return "".join(c if _is_shown(c) else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def _is_shown(character: str) -> bool:
    """Joiners (U+200C, U+200D) are parts of words in Persian and in scripts of India."""
    return character.isprintable() or character in "\u200c\u200d" or unicodedata.category(character) == "Zs"


def put(line: str) -> None:
    """Print a line of results on stdout, made `printable`."""
    with standard_output():
        print(printable(line))  # noqa: T201 -- the only function that prints results


def flush() -> None:
    """Flush stdout.

    Raises:
        OSError: stdout cannot be written, for example on a full disk.
    """
    with standard_output():
        sys.stdout.flush()


@contextlib.contextmanager
def standard_output() -> Generator[None]:
    """Write to stdout such that an error has a file name and is raised once: Python would flush again at exit.

    Raises:
        OSError: stdout cannot be written.
    """
    try:
        with naming("standard output"):
            yield
    except OSError:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


def say(line: str) -> None:
    """A line on stderr, at once; what is no letter, sign or space is spelled out."""
    print(printable(line), file=sys.stderr, flush=True)  # noqa: T201 -- words go to stderr, and this is the one way to it


def say_once(line: str) -> None:
    """For what every process of a torchrun launch ends with."""
    if os.environ.get("RANK", "0") == "0":
        say(line)


def say_warnings() -> None:
    """Warnings that the package logs are said like everything else: names of files in them move no cursor."""
    logger = logging.getLogger("speechssl")
    if not any(isinstance(handler, _Saying) for handler in logger.handlers):
        logger.addHandler(_Saying(logging.WARNING))


class _Saying(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage())
