"""Commands that measure models."""

import enum
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from speechssl.cli.common import (
    Encoder,
    Sets,
    health_errors,
    named,
    spoken,
    whole_numbers,
)
from speechssl.files import hold_file
from speechssl.terminal import put, say

if TYPE_CHECKING:
    pass


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


def evaluate(
    model: Annotated[Path, typer.Argument(help="Model folder.")],
    corpus: Annotated[Path, typer.Argument(metavar="CORPUS_DIR", help="Prepared corpus with the targets.")],
    out: Annotated[Path, typer.Option(help="JSON file of result rows.")],
    task: Annotated[
        list[EvaluationName],
        typer.Option(help="What to predict, or abx: discrimination of phones by frames; may be repeated."),
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

    counts = whole_numbers(shots)
    model = named(model)
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
                command=spoken.get(),
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
            command=spoken.get(),
            alignments=alignments,
            triples=triples,
        )


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
    with health_errors():
        label_efficiency(
            corpus,
            named(encoder),
            out,
            shots=read_shots("5,10,25,50,100,all" if shots is None else shots),
            draws=draws or 5,
            contenders=chosen,
            sets=sets,
            test_limit=test_limit or 1000,
            fold_lists=fold_lists,
            standardise=standardise,
            save_model=save_model,
            command=spoken.get(),
        )


def judge(
    corpus: Annotated[Path, typer.Argument(metavar="CORPUS_DIR", help="Prepared corpus with labels or speakers.")],
    out: Annotated[Path, typer.Option(help="Folder of the results and of the page.")],
    model: Annotated[
        Path | None, typer.Option(help="Model folder [default: the bundled model].", show_default=False)
    ] = None,
    shots: Annotated[str, typer.Option(help="Labelled utterances per class, separated by commas.")] = "5,10,25",
    seeds: Annotated[int, typer.Option(min=1, help="Number of draws of the shots.")] = 5,
    test_limit: Annotated[int, typer.Option(min=1, help="Approximate maximum of test utterances per draw.")] = 1000,
) -> None:
    """Measure a model on a labelled corpus beside its baselines, by all tasks that the corpus allows; one page."""
    from speechssl.experiments.judge import Settings
    from speechssl.experiments.judge import judge as run

    settings = Settings(shots=whole_numbers(shots), seeds=seeds, test_limit=test_limit)
    run(corpus, named(model), out, settings=settings, command=spoken.get())


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
            command=spoken.get(),
        )
        run(asked)
    write_comparison(results, out, curves=curves)
    say(f"{results / 'table.md'}, {out / 'report.html'}")


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
    store, start = WaveformStore(corpus), named(encoder)
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
    with health_errors():
        recognise(
            corpus,
            start,
            out,
            sides=sides,
            config=config,
            pretrained=pretrained,
            scratch=fresh,
            lm_text=lm_text,
            command=spoken.get(),
            say=say,
        )
    say(f"{out}: results.json, and model folders that `speechssl predict` takes")


def _refuse_draws(given: Mapping[str, object]) -> None:
    """Refuse settings of draws together with lists of folds."""
    from speechssl.config import UserError

    name = next((name for name, value in given.items() if value is not None), None)
    if name is not None:
        raise UserError(f"{name}: not together with --fold-lists, whose lists say what trains and what is tested")
