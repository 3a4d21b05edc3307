"""Commands that use a model on recordings."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from speechssl.cli.common import BAD_FILES, USER_ERROR, bundled, put_json
from speechssl.terminal import bars, say

if TYPE_CHECKING:
    pass


def predict(
    model: Annotated[Path, typer.Argument(help="Fine-tuned model folder.")],
    audio: Annotated[
        list[str],
        typer.Argument(metavar="AUDIO...", help="Sound files, folders, manifests, globs, addresses; - reads stdin."),
    ],
    layout: Annotated[
        Literal["table", "jsonl", "csv"] | None,
        typer.Option("--format", help="Row format [default: by the suffix of OUT, else table].", show_default=False),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File to write [default: standard output].")] = None,
    lm: Annotated[Path | None, typer.Option(help="N-gram (ARPA) for transcripts instead of the model's own.")] = None,
    greedy: Annotated[bool, typer.Option("--greedy", help="Greedy transcripts, without an n-gram.")] = False,
    speaker: Annotated[
        str | None, typer.Option(help="Speaker that the model was calibrated on [default: name of the speaker folder].")
    ] = None,
    speaker_folder: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Unlabelled recordings of the speaker to calibrate on.")
    ] = None,
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="A manifest may name addresses, of any scheme.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with code 4 if a file could not be used.")] = False,
) -> None:
    """Predict with a fine-tuned model: a class with probabilities, or a transcript with word times.

    With --out, a run that was killed resumes when the same command is run again. In csv, a path that a spreadsheet
    would take for a formula begins with ./, other such cells with an apostrophe; jsonl has them as they are.
    """
    from speechssl.config import UserError
    from speechssl.extract.predict.run import predict_to_file, predict_to_stream
    from speechssl.inference.predictor import Predictor

    if greedy and lm is not None:
        raise UserError("--greedy and --lm exclude each other")
    predictor = Predictor(model, lm=False if greedy else lm, speaker=_calibrated(model, speaker, speaker_folder))
    if out is None:
        report = predict_to_stream(predictor, audio, sys.stdout, layout=layout or "table", allow_remote=allow_remote)
    else:
        report = predict_to_file(predictor, audio, out, layout=layout, allow_remote=allow_remote)
    if predictor.note:
        say(predictor.note)
    total = report.written + report.failed
    if report.failed:
        say(f"{report.failed} of {total} files could not be used")
    if report.failed and strict:
        raise typer.Exit(BAD_FILES)
    if report.failed == total:
        raise typer.Exit(USER_ERROR)


def extract(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="[MODEL] SOURCE",
            help="SOURCE: folder, manifest, file, tar, Parquet, glob, address; - reads stdin. MODEL: a run or model "
            "folder, a file, hf:org/name, torchaudio:BUNDLE; without it: the bundled model.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help=".parquet, .npz, .h5, .zarr; without one a tree of .npy.")],
    named: Annotated[
        str | None, typer.Option("--model", metavar="MODEL", help="Model, instead of MODEL before SOURCE.")
    ] = None,
    pooling: Annotated[
        Literal["mean", "mean+std", "none"] | None,
        typer.Option(
            help="Pooling of frames to a vector; none: every frame [default: the model's, else mean].",
            show_default=False,
        ),
    ] = None,
    layer: Annotated[
        str | None,
        typer.Option(
            help="Hidden state: 0 the Transformer's input, -1 its output; mean, mix or all [default: the model's, "
            "else -1].",
            show_default=False,
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, or several, separated by commas.")] = "auto",
    dtype: Annotated[
        Literal["float32", "bfloat16", "int8", "auto"],
        typer.Option(help="Precision; auto: bfloat16 if supported and equal enough on the first batch."),
    ] = "float32",
    memory: Annotated[
        str, typer.Option(help="Memory limit for audio and batches, on top of program and weights: 500MB, 2GB …")
    ] = "2GB",
    threads: Annotated[int | None, typer.Option(min=1, help="Decoding threads [default: one per core].")] = None,
    compiled: Annotated[bool, typer.Option("--compile", help="Compile the encoder first; for long runs.")] = False,
    engine: Annotated[Literal["local", "ray"], typer.Option(help="ray: on all machines of a Ray cluster.")] = "local",
    workers: Annotated[int | None, typer.Option(min=1, help="Ray workers [default: as many as fit].")] = None,
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="A manifest may name addresses, of any scheme.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with code 4 if a clip could not be used.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The counts as one JSON object on stdout.")] = False,
) -> None:
    """Turn recordings into vectors. A killed run resumes with the same command; bad files are skipped and listed."""
    from speechssl.extract.arguments import read_arguments
    from speechssl.extract.machine.progress import shown_on
    from speechssl.extract.machine.resources import read_bytes
    from speechssl.extract.run import extract as run
    from speechssl.extract.run import summary

    asked = read_arguments(names, model=named)
    if asked.model is None:
        bundled()
    with bars() as bar:
        report = run(
            asked.model,
            asked.source,
            out,
            pooling=pooling,
            layer=None if layer is None else _layer(layer),
            device=device,
            dtype=dtype,
            memory=read_bytes(memory),
            threads=threads,
            compile=compiled,
            engine=engine,
            workers=workers,
            allow_remote=allow_remote,
            progress=shown_on(bar("embedding")),
        )
    for line in summary(report, out):
        say(line)
    if as_json:
        put_json(report)
    if strict and report.failed:
        raise typer.Exit(BAD_FILES)


def _layer(words: str) -> "int | Literal['mean', 'mix', 'all']":
    """Parse a layer's number or name."""
    from speechssl.config import UserError

    if words in ("mean", "mix", "all"):
        return words
    if words.removeprefix("-").isdecimal():
        return int(words)
    raise UserError(f"--layer {words}: a number, or mean, mix or all")


def _calibrated(model: Path, speaker: str | None, recordings: str | None) -> str | None:
    """The speaker to predict for, after the calibration on a folder of recordings where one is given."""
    if recordings is None:
        return speaker
    from speechssl.extract.predict.calibrate import calibrate_on

    return calibrate_on(model, recordings, name=speaker or Path(recordings).resolve().name).name
