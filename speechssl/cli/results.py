"""Commands that show what there is."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from speechssl.terminal import plain, put, say

if TYPE_CHECKING:
    pass


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Folder of a run.")],
    out: Annotated[Path, typer.Option(help="HTML file, everything inside; or .md for the result tables alone.")],
) -> None:
    """Write one HTML page about a run: curves, table, map; or its result tables as Markdown."""
    if out.suffix == ".md":
        from speechssl.report.markdown import write_markdown

        write_markdown(run, out)
    else:
        from speechssl.report.html import write_report

        write_report(run, out)
    say(f"report: {out}")


def info(
    target: Annotated[
        str | None, typer.Argument(metavar="[MODEL|CORPUS_DIR|CORPUS_NAME|AUDIO]", help="Nothing: the installation.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Describe a model, a corpus, a sound file or the installation."""
    import json

    from speechssl.info import facts

    found = facts(target)
    if as_json:
        put(json.dumps(found, default=str))
        return
    width = max(len(name) for name in found) + 1
    for name, value in found.items():
        put(f"{name.replace('_', ' '):{width}} {plain(value)}")
