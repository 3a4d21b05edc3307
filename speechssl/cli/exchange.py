"""Commands that exchange models with other programs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from speechssl.cli.common import named, put_json
from speechssl.files import hold_file
from speechssl.terminal import say

if TYPE_CHECKING:
    pass


def import_(
    name: Annotated[str, typer.Argument(help="hf:org/name, a Hugging Face folder, a fairseq .pt, torchaudio:BUNDLE.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Model folder to write.")],
    replace: Annotated[bool, typer.Option("--replace", help="Replace a model in OUT.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a summary as one JSON object on stdout.")] = False,
) -> None:
    """Convert a checkpoint of another project to a model folder."""
    from speechssl.interop.sources import import_model

    with hold_file(out):
        found = import_model(name, out, replace=replace)
    objective = "with its pretraining objective" if found.objective else "encoder only"
    say(f"{found.folder}: {found.kind}, {objective}")
    if found.left_out:
        say(f"left out: {', '.join(found.left_out)}")
    if as_json:
        put_json(found)


def export(
    model: Annotated[Path, typer.Argument(help="Model folder.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for huggingface, .pt for torchaudio, .onnx.")],
    to: Annotated[
        Literal["huggingface", "transformers", "torchaudio", "onnx"],
        typer.Option(help="Format; huggingface and transformers are the same."),
    ] = "huggingface",
    encoder_only: Annotated[bool, typer.Option("--encoder-only", help="Leave out the head or the objective.")] = False,
    hidden_states: Annotated[bool, typer.Option("--hidden-states", help="ONNX: also output all layers.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a summary as one JSON object on stdout.")] = False,
) -> None:
    """Write a model for transformers, torchaudio or ONNX runtimes."""
    from speechssl.interop.export import export_model

    with hold_file(out):
        target = "huggingface" if to == "transformers" else to
        report = export_model(named(model), out, to=target, encoder_only=encoder_only, hidden_states=hidden_states)
    checked = "" if report.max_error is None else f", at most {report.max_error:.1e} from the model here"
    say(f"{report.path}: {report.kind} for {report.to}, {report.size / 2**20:.1f} MiB{checked}")
    for note in report.notes:
        say(note)
    if as_json:
        put_json(report)
