"""The `speechssl` command: verbs, each a short function that imports what it needs.

Words and progress go to stderr; what a program may read goes to a file or, with `--json`, to stdout. A user's mistake
is one line and exit code 2, a run stopped for its health is exit code 3, bad files under `--strict` are 4, Ctrl-C is
130; anything else keeps its traceback.
"""

import os
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from speechssl import __version__
from speechssl.cli import corpora, exchange, experiments, results, training, use
from speechssl.cli.common import INTERRUPTED, USER_ERROR, spoken
from speechssl.terminal import audio_warnings, flush, put, say, say_warnings

COMMANDS: tuple[Callable[..., None], ...] = (
    corpora.prepare,
    training.pretrain,
    training.finetune,
    training.correct,
    use.predict,
    use.extract,
    exchange.import_,
    exchange.export,
    experiments.evaluate,
    experiments.choose,
    experiments.emotion,
    experiments.judge,
    experiments.compare_objectives,
    experiments.compare,
    experiments.asr,
    results.report,
    results.info,
)
"""The commands in the order of `--help`."""

app = typer.Typer(
    name="speechssl",
    help="Learn speech representations from raw audio, probe them, and use them.",
    no_args_is_help=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _put_version(asked: bool) -> bool:
    if asked:
        put(f"speechssl {__version__}")
        raise typer.Exit
    return asked


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_put_version, is_eager=True)
    ] = False,
) -> None:
    """Options before the command name."""


for _each in COMMANDS:
    app.command(_each.__name__.removesuffix("_").replace("_", "-"))(_each)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the words after the program's name; None takes the process's own.

    Returns:
        The exit code: 0, 2 for a user's mistake, 3 for an unhealthy run, 130 after Ctrl-C.
    """
    from typer.exceptions import TyperException

    from speechssl.config import UserError

    words = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    spoken.set(shlex.join(["speechssl", *words]))
    say_warnings()
    command = typer.main.get_command(app)
    try:
        with audio_warnings():
            code = command.main(words, "speechssl", standalone_mode=False) or 0
        flush()
        return code
    except TyperException as error:
        return _say_error(error.format_message())
    except UserError as error:
        return _say_error(str(error))
    except OSError as error:  # no such folder, no permission, a file in the way, a full disk, …
        if error.strerror is None:
            raise
        return _say_error(_refused(error, words))
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        return _say_error(f"out of memory ({(str(error) or 'no details').splitlines()[0]})")
    except KeyboardInterrupt:
        return INTERRUPTED


def _refused(error: OSError, words: Sequence[str]) -> str:
    """Message of an error of the operating system, with the file; the command's output where the error names none."""
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    if not names:
        outs = [place for place, word in enumerate(words[:-1]) if word in ("--out", "-o")]
        names = [words[place + 1] for place in outs[:1]]
        names += [word.removeprefix("--out=") for word in words if word.startswith("--out=")][:1]
    return f"{' to '.join(names)}: {error.strerror}" if names else str(error.strerror)


def _out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python, numpy or torch says that the machine or its GPU is out of memory."""
    torch_says = type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)
    return isinstance(error, MemoryError) or torch_says


def _say_error(message: str) -> int:
    # pydantic, inside typer, begins its messages with "Value error, ".
    say(f"speechssl: {' '.join(message.replace('Value error, ', '').split())}")
    return USER_ERROR
