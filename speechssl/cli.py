"""The `speechssl` command: verbs, each a short function that imports what it needs.

Words and progress go to stderr; what a program may read goes to a file or, with `--json`, to stdout. A user's mistake
is one line and exit code 2, a run stopped for its health is exit code 3, bad files under `--strict` are 4, Ctrl-C is
130; anything else keeps its traceback.
"""

import contextlib
import contextvars
import enum
import os
import shlex
import sys
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from speechssl import __version__
from speechssl.files import hold_file
from speechssl.terminal import audio_warnings, bars, doubts, flush, plain, put, say, say_once, say_warnings

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from speechssl.data.utterance import Utterance
    from speechssl.data.waveforms import PackReport
    from speechssl.train.finetune_config import FinetuneConfig

USER_ERROR, HEALTH_ERROR, BAD_FILES, INTERRUPTED = 2, 3, 4, 130


class TaskName(enum.StrEnum):
    """Targets of probes."""

    LABEL = "label"
    SPEAKER = "speaker"
    TEXT = "text"


class EvaluationName(enum.StrEnum):
    """Tasks of `evaluate` (typer does not support a list of literals)."""

    LABEL = "label"
    SPEAKER = "speaker"
    TEXT = "text"
    ABX = "abx"


# The command line of this call, recorded in models and results.
_spoken: contextvars.ContextVar[str] = contextvars.ContextVar("spoken")

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


Encoder = Annotated[
    Path | None,
    typer.Option(metavar="MODEL", help="Pretrained model folder [default: the bundled model].", show_default=False),
]
Sets = Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="Change one setting; may be repeated.")]


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
    _spoken.set(shlex.join(["speechssl", *words]))
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


@app.command()
def prepare(
    corpus: Annotated[str, typer.Argument(help="Name of a corpus; `speechssl info` lists them.")],
    out: Annotated[Path, typer.Option(help="Folder of the prepared corpus.")],
    root: Annotated[
        Path | None, typer.Option(help="Folder of the corpus, or of its download [default: data/corpora/NAME].")
    ] = None,
    sets: Sets = [],  # noqa: B006 -- typer copies it
    workers: Annotated[int, typer.Option(min=0, help="Decoding threads; 0: one per core.")] = 0,
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after this many utterances.")] = None,
    shards: Annotated[
        int | None, typer.Option(min=1, help="Files to divide the samples into [default: one file, or as it is].")
    ] = None,
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="Prepare only part I of N; the last to finish joins them.")
    ] = None,
) -> None:
    """Decode a corpus once into packed waveforms."""
    from itertools import islice

    from speechssl.config import UserError, load_config
    from speechssl.data.corpora import check_root, corpus_root, load_corpus
    from speechssl.data.manifest import Utterance
    from speechssl.data.parts import check_layout, prepare_corpus

    check_layout(out, shards=shards, shard=shard)
    module = load_corpus(corpus)
    settings = load_config(module.Settings, overrides=sets)
    if root is not None:
        check_root(module.INFO, root)
    if module.INFO.synthetic:
        say(f"{corpus} is synthetic: no result on it is a result on speech.")
    utterances = module.prepare(root or corpus_root(corpus), settings)  # downloads here, with a bar of its own
    found: list[Utterance] = []
    with bars() as bar:
        update = bar(f"finding {corpus}")
        for utterance in islice(utterances, limit):
            found.append(utterance)
            update(len(found), limit)
        update = bar("decoding")
        total = len(found) if shard is None else None
        prepared = prepare_corpus(
            found, out, shards=shards, shard=shard, workers=workers, progress=lambda done, _: update(done, total)
        )
    _say_packed(prepared.report, prepared.folder)
    if prepared.left:
        say(f"{out}: not joined yet; parts that are left: {', '.join(prepared.left)} (--shard {prepared.left[0]} …)")
        return
    _say_understood(utterances, out)
    if not prepared.report.accepted:
        raise UserError(f"{out}: no utterance could be used")


@app.command()
def pretrain(
    corpora: Annotated[list[Path], typer.Argument(metavar="CORPUS_DIR...", help="Prepared corpora.")],
    out: Annotated[Path, typer.Option(help="Folder of the run; a model folder when done.")],
    preset: Annotated[Literal["tiny", "small", "base", "large"], typer.Option(help="Size of the encoder.")] = "tiny",
    objective: Annotated[
        str | None, typer.Option(metavar="NAME", help="Pretraining method [default: wav2vec2].", show_default=False)
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option("--from", metavar="MODEL", help="Continue from this model; PRESET then sets the batches."),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Wall time of the run, such as 20min or 3h, instead of loop.steps; a longer one prolongs a run.",
        ),
    ] = None,
    find_batch: Annotated[
        bool,
        typer.Option(
            "--find-batch", help="Measure into how many micro-batches to divide a batch: the fastest that fits."
        ),
    ] = False,
    probe_on: Annotated[
        Path | None,
        typer.Option(
            metavar="CORPUS_DIR", help="Labelled corpus: probe the encoder on it every probe.every updates (--set)."
        ),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Recipe: a TOML file of differences.")] = None,
    sets: Sets = [],  # noqa: B006 -- typer copies it
) -> None:
    """Pretrain an encoder without labels. A stopped run resumes with the same command."""
    from speechssl.config import load_config
    from speechssl.train.adapt import NEW, adaptation, objective_of
    from speechssl.train.pretrain import pretrain as run
    from speechssl.train.pretrain_config import config_of, objective_name, runs
    from speechssl.train.timeline import parse_time

    start = None if start is None else _named(start)
    before = None if start is None else objective_of(start)
    name = objective_name(objective, config, sets, start=None if start is None else before or NEW)
    defaults = runs(name)[preset] if start is None else adaptation(runs(name)[preset], start)
    if budget is not None:
        sets = [f"loop.budget={parse_time(budget)}", "optim.schedule=wsd", *sets]
    if start is not None and name != before:
        say_once(f"{start}: its encoder goes on with a new objective, {name}, instead of {before or 'none'}")
    recipe = load_config(config_of(name), config, overrides=sets, defaults=defaults)
    probe = None
    if probe_on is not None:
        from speechssl.experiments.training_probe import few_label_probe

        probe = few_label_probe(probe_on, shots=recipe.probe.shots)
    with _health_errors():
        result = run(
            corpora, out, config=recipe, start=start, command=_spoken.get(), find_batch=find_batch, probe=probe
        )
    _end_if_stopped(finished=result.finished, steps=result.steps)
    say_once(f"{out}: {result.steps} steps, {result.seconds_seen / 3600:.1f} h of audio seen")


@app.command()
def finetune(
    corpus: Annotated[Path, typer.Argument(metavar="CORPUS_DIR", help="Prepared corpus with labels or transcripts.")],
    out: Annotated[Path, typer.Option(help="Folder of the run; a model folder when done.")],
    origin: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="MODEL",
            help="Model folder to start from, or scratch: random weights [default: the bundled model].",
            show_default=False,
        ),
    ] = None,
    learn: Annotated[
        Literal["label", "text"], typer.Option(help="label: classification; text: speech recognition.")
    ] = "label",
    shots: Annotated[int | None, typer.Option(min=1, help="Labelled utterances per class [default: all].")] = None,
    minutes: Annotated[float | None, typer.Option(min=0.01, help="Minutes of labelled speech [default: all].")] = None,
    ids: Annotated[Path | None, typer.Option(help="Only the utterances in this list.")] = None,
    split: Annotated[str | None, typer.Option(help="Only utterances of this split of the corpus.")] = None,
    valid_share: Annotated[
        float,
        typer.Option(min=0, max=0.5, help="Fraction held out by speaker for early stopping, if all labels are used."),
    ] = 0.1,
    program: Annotated[
        Literal["transformers", "torchaudio"] | None,
        typer.Option("--for", help="Train a model that `export` can write for this program."),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Recipe: a TOML file of differences.")] = None,
    sets: Sets = [],  # noqa: B006 -- typer copies it
) -> None:
    """Fine-tune a pretrained encoder on labels or transcripts. A stopped run resumes with the same command."""
    from speechssl.config import UserError, load_config
    from speechssl.data.waveforms import WaveformStore
    from speechssl.models.storage import encoder_dim
    from speechssl.train.examples import choose
    from speechssl.train.exporting import export_notes, settings_for
    from speechssl.train.finetune import finetune as run
    from speechssl.train.finetune_config import FinetuneConfig, finetune_settings

    store = WaveformStore(corpus)
    given = load_config(FinetuneConfig, config, overrides=sets)  # the seed draws the labelled utterances too
    start = _origin(origin, given)
    found = choose(
        store, learn, split=split, ids=ids, shots=shots, minutes=minutes, valid_share=valid_share, seed=given.seed
    )
    total = sum(store.utterances[example.index].duration for example in found.train) / 60
    defaults = finetune_settings(learn, shots=shots or 0, minutes=total, scratch=start is None, dim=encoder_dim(start))
    recipe = load_config(FinetuneConfig, config, overrides=sets, defaults=settings_for(program, defaults))
    if recipe.kind != defaults.kind:
        raise UserError(f"kind={recipe.kind} does not go with --learn {learn}; leave the kind to --learn")
    for note in [*found.notes, *export_notes(program, recipe, start=start)]:
        say_once(note)
    with _health_errors():
        result = run(
            store, out, config=recipe, start=start, train=found.train, valid=found.valid, command=_spoken.get()
        )
    if result.left_out:
        say_once(f"{result.left_out} utterances left out: too long, or a transcript with more symbols than frames")
    _end_if_stopped(finished=result.finished, steps=result.steps)
    say_once(f"{out}: {result.steps} steps on {len(found.train)} utterances ({total:.1f} minutes)")


@app.command()
def correct(
    model: Annotated[Path, typer.Argument(help="Folder of a fine-tuned recogniser; it is not changed.")],
    corpus: Annotated[Path, typer.Argument(metavar="CORPUS_DIR", help="Prepared corpus with corrected transcripts.")],
    out: Annotated[Path, typer.Option(help="Folder of the new model.")],
    earlier: Annotated[
        Path | None,
        typer.Option("--with", metavar="CORPUS_DIR", help="Corpus with the earlier labels, against forgetting."),
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="List of the earlier labels [default: those in the model's record].")
    ] = None,
    test: Annotated[
        Path | None, typer.Option(help="List of the utterances to score [default: the split test, or a fifth].")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Recipe: a TOML file of differences.")] = None,
    sets: Sets = [],  # noqa: B006 -- typer copies it
) -> None:
    """Train a recogniser further on corrected transcripts, with WER and CER before and after.

    Vocabulary, head, n-gram and decoder stay those of the model. A stopped run resumes with the same command.
    """
    from speechssl.config import load_config
    from speechssl.experiments.correct import correct as run
    from speechssl.experiments.correct import correction_settings, plan_correction
    from speechssl.train.finetune_config import FinetuneConfig

    seed = load_config(FinetuneConfig, config, overrides=sets).seed  # of the drawn test side too
    plan = plan_correction(model, corpus, earlier=earlier, labels=labels, test=test, seed=seed)
    recipe = load_config(FinetuneConfig, config, overrides=sets, defaults=correction_settings(plan))
    with _health_errors():
        result, _ = run(plan, out, config=recipe, command=_spoken.get(), say=say)
    if result.left_out:
        say_once(f"{result.left_out} utterances left out: too long, or a transcript with more symbols than frames")
    _end_if_stopped(finished=result.finished, steps=result.steps)
    say(f"{out}: {result.steps} steps on {len(plan.train)} utterances; results.json has the error rates")


@app.command()
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


@app.command()
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
        _bundled()
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
        _put_json(report)
    if strict and report.failed:
        raise typer.Exit(BAD_FILES)


@app.command("import")
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
        _put_json(found)


@app.command()
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
        report = export_model(_named(model), out, to=target, encoder_only=encoder_only, hidden_states=hidden_states)
    checked = "" if report.max_error is None else f", at most {report.max_error:.1e} from the model here"
    say(f"{report.path}: {report.kind} for {report.to}, {report.size / 2**20:.1f} MiB{checked}")
    for note in report.notes:
        say(note)
    if as_json:
        _put_json(report)


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="Model folder.")],
    corpus: Annotated[Path, typer.Argument(metavar="CORPUS_DIR", help="Prepared corpus with the targets.")],
    out: Annotated[Path, typer.Option(help="JSON file of result rows.")],
    task: Annotated[
        list[EvaluationName],
        typer.Option(help="What to predict, or abx: phones told apart by frames; may be repeated."),
    ] = [EvaluationName.LABEL],  # noqa: B006 -- typer copies it
    shots: Annotated[str, typer.Option(help="Labelled utterances per class, separated by commas.")] = "5,10,25",
    seeds: Annotated[int, typer.Option(min=1, help="Number of draws of the shots.")] = 5,
    baselines: Annotated[bool, typer.Option(help="Also MFCC, log-mel and a random encoder.")] = True,
    alignments: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Phones for abx: a folder of .lab or .phn files, or an .item file."),
    ] = None,
    triples: Annotated[
        int | None, typer.Option(min=100, help="Of abx: most triples per table column.  [default: 10000]")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Of a fine-tuned model: only utterances of this split.")] = None,
    other_speakers: Annotated[
        bool, typer.Option("--other-speakers", help="Of a fine-tuned model: equal speaker names are other people.")
    ] = False,
    leave_out: Annotated[
        bool,
        typer.Option("--leave-out-trained", help="Of a fine-tuned model: without recordings and speakers of training."),
    ] = False,
) -> None:
    """Probe a frozen model with few labels, beside the baselines; or evaluate a fine-tuned model."""
    from speechssl.config import UserError
    from speechssl.models.storage import read_model_config

    counts = _counts(shots)
    model = _named(model)
    if "head" in read_model_config(model):
        if alignments is not None or EvaluationName.ABX in task:
            raise UserError(f"{model}: --task abx and --alignments are for models without a head")
        from speechssl.experiments.evaluate_head import evaluate_head

        with hold_file(out):
            evaluate_head(
                model,
                corpus,
                out,
                split=split,
                other_speakers=other_speakers,
                leave_out=leave_out,
                command=_spoken.get(),
            )
        return
    if split is not None or other_speakers or leave_out:
        raise UserError(
            f"{model}: --split, --other-speakers and --leave-out-trained are for fine-tuned models; this one has no "
            "head"
        )
    from speechssl.experiments.evaluate import evaluate as run

    with hold_file(out):
        run(
            model,
            corpus,
            out,
            tasks=[each.value for each in task],
            shots=counts,
            seeds=seeds,
            baselines=baselines,
            command=_spoken.get(),
            alignments=alignments,
            triples=triples,
        )


@app.command()
def choose(
    model: Annotated[Path, typer.Argument(help="Model folder; its config.json gets the layer and pooling.")],
    corpora: Annotated[
        list[Path], typer.Argument(metavar="CORPUS_DIR...", help="Prepared corpora that no result is reported on.")
    ],
    task: Annotated[TaskName, typer.Option(help="What to predict.")] = TaskName.LABEL,
    shots: Annotated[int, typer.Option(min=1, help="Labelled utterances per class.")] = 10,
    seeds: Annotated[int, typer.Option(min=1, help="Number of draws of the shots.")] = 5,
) -> None:
    """Choose the layer and pooling that a model uses where none is named, by probes on labelled corpora."""
    from speechssl.experiments.choose_embedding import choose_embedding

    found = choose_embedding(model, corpora, task=task.value, shots=shots, seeds=seeds)
    for each in found:
        put(f"{each.uar:.3f}  layer {each.choice.layer}, pooling {each.choice.pooling}")
    say(f"{model}: layer {found[0].choice.layer} and pooling {found[0].choice.pooling} where none is named")


@app.command()
def emotion(
    corpus: Annotated[Path, typer.Argument(metavar="CORPUS_DIR", help="Prepared corpus with labels and speakers.")],
    out: Annotated[Path, typer.Option(help="Folder of the experiment.")],
    encoder: Encoder = None,
    shots: Annotated[
        str | None,
        typer.Option(help="Labelled utterances per class, separated by commas; or all.  [default: 5,10,25,50,100,all]"),
    ] = None,
    draws: Annotated[
        int | None, typer.Option(min=1, help="Draws of the shots; five test every speaker once.  [default: 5]")
    ] = None,
    test_limit: Annotated[
        int | None, typer.Option(min=1, help="Approximate maximum of test utterances per draw.  [default: 1000]")
    ] = None,
    fold_lists: Annotated[
        Path | None,
        typer.Option(help="Folder with one list of test utterances per fold; all other listed utterances train."),
    ] = None,
    contenders: Annotated[str | None, typer.Option(help="Contenders, separated by commas.")] = None,
    standardise: Annotated[
        Literal["shots", "speaker"],
        typer.Option(help="speaker: take out each speaker's mean and deviation with unlabelled audio (transductive)."),
    ] = "shots",
    save_model: Annotated[
        Path | None, typer.Option(help="Model folder for predict: the frozen probe (LDA), fitted on all labels.")
    ] = None,
    sets: Sets = [],  # noqa: B006 -- typer copies it
) -> None:
    """Label-efficiency curves of an encoder, fine-tuned and frozen, beside the baselines; speakers are disjoint."""
    from speechssl.experiments.contenders import DEFAULT
    from speechssl.experiments.emotion import label_efficiency
    from speechssl.metrics.shots import read_shots

    if fold_lists is not None:
        _refuse_draws({"--shots": shots, "--draws": draws, "--test-limit": test_limit})
    chosen = DEFAULT if contenders is None else tuple(each.strip() for each in contenders.split(","))
    with _health_errors():
        label_efficiency(
            corpus,
            _named(encoder),
            out,
            shots=read_shots("5,10,25,50,100,all" if shots is None else shots),
            draws=draws or 5,
            contenders=chosen,
            sets=sets,
            test_limit=test_limit or 1000,
            fold_lists=fold_lists,
            standardise=standardise,
            save_model=save_model,
            command=_spoken.get(),
        )


@app.command()
def compare_objectives(
    corpora: Annotated[
        list[Path] | None, typer.Argument(metavar="[CORPUS_DIR...]", help="Prepared corpora of pretraining.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs/objectives"),
    results: Annotated[Path, typer.Option(help="Folder of the results, one JSON file per run.")] = Path(
        "recipes/objectives/results"
    ),
    objectives: Annotated[str | None, typer.Option(help="Objectives, separated by commas [default: all].")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs per objective.")] = 3,
    budget_by: Annotated[
        Literal["time", "audio"], typer.Option(help="What is equal: processor time, or seconds of audio seen.")
    ] = "time",
    minutes: Annotated[float | None, typer.Option(min=0.001, help="Core-minutes per run (time).")] = None,
    hours: Annotated[float | None, typer.Option(min=0.0001, help="Hours of audio per run (audio).")] = None,
    probe_on: Annotated[
        list[str], typer.Option(metavar="CORPUS_DIR[:TASK]", help="Prepared corpus of a probe; may be repeated.")
    ] = [],  # noqa: B006 -- typer copies it
    verify_on: Annotated[
        list[Path], typer.Option(metavar="CORPUS_DIR", help="Prepared corpus of speaker verification; may be repeated.")
    ] = [],  # noqa: B006 -- typer copies it
    shots: Annotated[int, typer.Option(min=1, help="Labelled utterances per class.")] = 10,
    draws: Annotated[int, typer.Option(min=1, help="Draws of the shots.")] = 5,
    preset: Annotated[Literal["tiny", "small", "base", "large"], typer.Option(help="Size of the encoder.")] = "tiny",
    rate: Annotated[
        list[str], typer.Option(metavar="NAME=LR", help="Peak learning rate of an objective; may be repeated.")
    ] = [],  # noqa: B006 -- typer copies it
    rates: Annotated[
        str | None, typer.Option(help="Choose the other rates among these multiples of the preset's, by short runs.")
    ] = None,
    sweep_minutes: Annotated[float, typer.Option(min=0.001, help="Core-minutes of such a run.")] = 1.5,
    sweep_on: Annotated[
        str | None, typer.Option(metavar="CORPUS_DIR[:TASK]", help="Corpus that judges them, none of the probes'.")
    ] = None,
    sets: Sets = [],  # noqa: B006 -- typer copies it
    table: Annotated[bool, typer.Option("--table", help="Only write tables and page from the results.")] = False,
    curves: Annotated[
        Path | None, typer.Option("--write-curves", metavar="DIR", help="Also write reference curves for the report.")
    ] = None,
) -> None:
    """Compare pretraining objectives under one budget by probes. A stopped comparison resumes with the same command."""
    from speechssl.experiments.compare_objectives import Comparison, write_comparison
    from speechssl.experiments.compare_objectives import compare_objectives as run
    from speechssl.experiments.compare_objectives_options import read_length, read_objectives, read_rates, read_sweep
    from speechssl.experiments.compare_objectives_probes import Protocol, read_probe

    if not table:
        protocol = Protocol([read_probe(each) for each in probe_on], verify_on, shots, draws)
        asked = Comparison(
            corpora=corpora or [],
            out=out,
            results=results,
            length=read_length(budget_by, minutes=minutes, hours=hours),
            protocol=protocol,
            objectives=read_objectives(objectives),
            seeds=seeds,
            preset=preset,
            rates=read_rates(rate),
            sweep=read_sweep(rates, minutes=sweep_minutes, judge=sweep_on, protocol=protocol),
            sets=sets,
            command=_spoken.get(),
        )
        run(asked)
    write_comparison(results, out, curves=curves)
    say(f"{results / 'table.md'}, {out / 'report.html'}")


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(metavar="A.json", help="Result rows.")],
    b: Annotated[Path, typer.Argument(metavar="B.json", help="Other rows, on the same test side.")],
    contender_a: Annotated[str | None, typer.Option(help="Contender of A.")] = None,
    contender_b: Annotated[str | None, typer.Option(help="Contender of B.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list on stdout.")] = False,
) -> None:
    """Compare two results: B minus A, with a paired bootstrap interval."""
    import json
    from dataclasses import asdict

    from speechssl.metrics.compare import compare as run

    found = run(a, b, contender_a=contender_a, contender_b=contender_b)
    if as_json:
        put(json.dumps([asdict(each) for each in found]))
        return
    for each in found:
        put(each.line())


@app.command()
def asr(
    corpus: Annotated[Path, typer.Argument(metavar="CORPUS_DIR", help="Prepared corpus with transcripts.")],
    out: Annotated[Path, typer.Option(help="Folder of the experiment.")],
    encoder: Encoder = None,
    labels: Annotated[Path | None, typer.Option(help="List of the labelled utterances; without it: MINUTES.")] = None,
    minutes: Annotated[float, typer.Option(min=0.01, help="Labelled speech to draw where no list is given.")] = 10.0,
    dev: Annotated[Path | None, typer.Option(help="List of utterances to tune the decoder on.")] = None,
    test: Annotated[Path | None, typer.Option(help="List of the test side [default: the split test].")] = None,
    same_speaker: Annotated[
        bool,
        typer.Option("--same-speaker", help="Train and test on the one speaker of TEST, with other sentences."),
    ] = False,
    lm_text: Annotated[
        Path | None, typer.Option(help="Text for the n-gram, one sentence per line [default: training transcripts].")
    ] = None,
    lm: Annotated[
        Literal["auto", "english", "transcripts", "wordfreq"],
        typer.Option(help="Mixed with that text: an English trigram or word frequencies; auto: by language."),
    ] = "auto",
    order: Annotated[int, typer.Option(min=2, max=5, help="Order of the word n-gram.")] = 3,
    beam: Annotated[int, typer.Option(min=1, help="Hypotheses kept by the beam search.")] = 100,
    rounds: Annotated[int, typer.Option(min=0, help="Rounds of self-training.")] = 1,
    keep: Annotated[float, typer.Option(min=0.01, max=1, help="Fraction of the pseudo-labels to keep.")] = 0.7,
    scratch: Annotated[bool, typer.Option(help="Also train a model without pretraining.")] = True,
    rivals: Annotated[
        str, typer.Option(help="Other recognisers: all, none, or some of hmm-mfcc,hmm-encoder,pocketsphinx.")
    ] = "all",
    sets: Sets = [],  # noqa: B006 -- typer copies it
) -> None:
    """Speech recognition with few labels: fine-tuned, self-trained and from scratch, greedy and with an n-gram."""
    from speechssl.config import load_config
    from speechssl.data.waveforms import WaveformStore
    from speechssl.experiments.asr import AsrConfig, recognise
    from speechssl.experiments.asr_rivals import rival_names
    from speechssl.experiments.asr_sides import divide
    from speechssl.models.storage import encoder_dim
    from speechssl.train.finetune_config import FinetuneConfig, finetune_settings

    config = AsrConfig(
        order=order, lm=lm, beam_size=beam, rounds=rounds, keep=keep, scratch=scratch, rivals=rival_names(rivals)
    )
    store, start = WaveformStore(corpus), _named(encoder)
    seed = load_config(FinetuneConfig, overrides=sets).seed  # also of draws without a list
    sides = divide(store, labels=labels, minutes=minutes, dev=dev, test=test, same_speaker=same_speaker, seed=seed)
    amount = sum(store.utterances[example.index].duration for example in sides.labelled) / 60
    pretrained, fresh = (
        load_config(
            FinetuneConfig,
            overrides=sets,
            defaults=finetune_settings("text", minutes=amount, scratch=without, dim=encoder_dim(start)),
        )
        for without in (False, True)
    )
    with _health_errors():
        recognise(
            corpus,
            start,
            out,
            sides=sides,
            config=config,
            pretrained=pretrained,
            scratch=fresh,
            lm_text=lm_text,
            command=_spoken.get(),
            say=say,
        )
    say(f"{out}: results.json, and model folders that `speechssl predict` takes")


@app.command()
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


@app.command()
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


def _bundled(*, otherwise: str = "") -> Path:
    """Folder of the bundled model, where no model is named; prints which it is."""
    from speechssl.models.bundled import bundled_model

    found = bundled_model(otherwise=otherwise)
    say_once(f"no model named: the bundled model {found.name} is used")
    return found.folder


def _named(model: Path | None) -> Path:
    """The model folder of an option; the bundled one where it is not given."""
    from speechssl.models.bundled import model_path

    return _bundled() if model is None else model_path(model)


def _origin(name: str | None, given: "FinetuneConfig") -> Path | None:
    """The model that fine-tuning starts from; None: from scratch.

    Raises:
        UserError: `scratch` where a model folder has that name, settings of an encoder for a model that has its own, or
            no bundled model.
    """
    from speechssl.config import UserError

    if name == "scratch" and Path(name, "config.json").exists():
        raise UserError("--from scratch: random weights, or the folder of that name here? for the folder: ./scratch")
    if name == "scratch" or (name is None and given.network == "logmel-cnn"):
        return None
    if given.encoder != type(given)().encoder:
        raise UserError("settings of the encoder are for --from scratch; a model to start from has its own")
    return _bundled(otherwise="--from MODEL, or --from scratch") if name is None else _named(Path(name))


def _layer(words: str) -> "int | Literal['mean', 'mix', 'all']":
    """Parse a layer's number or name."""
    from speechssl.config import UserError

    if words in ("mean", "mix", "all"):
        return words
    if words.removeprefix("-").isdecimal():
        return int(words)
    raise UserError(f"--layer {words}: a number, or mean, mix or all")


def _put_json(found: "DataclassInstance") -> None:
    import json
    from dataclasses import asdict

    put(json.dumps(asdict(found), default=str))


def _counts(text: str) -> list[int]:
    """Parse `5,10,25`."""
    from speechssl.config import UserError

    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UserError(f"--shots {text}: must be whole numbers separated by commas, for example 5,10,25")
    return [int(part) for part in parts]


def _calibrated(model: Path, speaker: str | None, recordings: str | None) -> str | None:
    """The speaker to predict for, after the calibration on a folder of recordings where one is given."""
    if recordings is None:
        return speaker
    from speechssl.extract.predict.calibrate import calibrate_on

    return calibrate_on(model, recordings, name=speaker or Path(recordings).resolve().name).name


def _refuse_draws(given: Mapping[str, object]) -> None:
    """Refuse settings of draws together with lists of folds."""
    from speechssl.config import UserError

    name = next((name for name, value in given.items() if value is not None), None)
    if name is not None:
        raise UserError(f"{name}: not together with --fold-lists, whose lists say what trains and what is tested")


@contextlib.contextmanager
def _health_errors() -> Generator[None]:
    """Print the advice of a `HealthError` in one line and exit."""
    from speechssl.train.health import HealthError

    try:
        yield
    except HealthError as error:
        say_once(f"speechssl: {error}")
        raise typer.Exit(HEALTH_ERROR) from None


def _end_if_stopped(*, finished: bool, steps: int) -> None:
    if not finished:
        say_once(f"stopped at step {steps}; run the same command again to resume")
        raise typer.Exit(INTERRUPTED)


def _say_packed(report: "PackReport", out: Path) -> None:
    """Print the counts of a prepared corpus, with the most frequent reasons of rejection."""
    from collections import Counter

    from speechssl.audio.neighbours import THERE
    from speechssl.data.manifest import Reject
    from speechssl.data.stretches import contradictions_note

    say(f"{out}: {report.accepted} utterances accepted, {report.rejected} rejected, {report.seconds / 3600:.2f} h")
    if report.upsampled:
        say(f"{report.upsampled} files are below 16 kHz and were resampled; they have nothing above half their rate.")
    for line in doubts(report.notes, listed=f"{out / 'waveforms.json'} (notes)"):
        say(line)
    if report.rejected:
        lines = (out / "rejects.jsonl").read_text(encoding="utf-8").splitlines()
        reasons = [Reject.model_validate_json(line).reason for line in lines]
        beside = [reason for reason in reasons if THERE in reason]
        for reason, count in Counter(reason.partition(THERE)[0] for reason in reasons).most_common(3):
            nearest = (
                f", for example: {beside[0].partition('; ')[2]}" if beside and beside[0].startswith(reason) else ""
            )
            say(f"  {count} x {reason}{nearest}")
        if note := contradictions_note(reasons):
            say(f"  {note}")
        say(f"  each one is in {out / 'rejects.jsonl'}")


def _say_understood(utterances: "Iterator[Utterance]", out: Path) -> None:
    """Print the findings of a prepared corpus, and the parts of its source that could not be read."""
    from speechssl.data.findings import Findings, Found, closing_lines, count_known
    from speechssl.data.store import WaveformStore
    from speechssl.data.stretches import copies_that_differ

    findings = utterances.findings if isinstance(utterances, Found) else Findings()
    store = WaveformStore(out)
    for line in closing_lines(count_known(store.utterances), findings):
        say(line)
    if note := copies_that_differ(store.utterances, store.content_ids()):
        say(note)


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
