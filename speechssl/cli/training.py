"""Commands that train."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from speechssl.cli.common import Sets, bundled, end_if_stopped, health_errors, named, spoken
from speechssl.terminal import say, say_once

if TYPE_CHECKING:
    from speechssl.train.finetune_config import FinetuneConfig


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

    start = None if start is None else named(start)
    before = None if start is None else objective_of(start)
    name = objective_name(objective, config, sets, start=None if start is None else before or NEW)
    defaults = runs(name)[preset] if start is None else adaptation(runs(name)[preset], start)
    if budget is not None:
        sets = [f"loop.budget={parse_time(budget)}", "optim.schedule=wsd", *sets]
    if start is not None and name != before:
        say_once(f"{start}: its encoder is trained further with a new objective, {name}, instead of {before or 'none'}")
    recipe = load_config(config_of(name), config, overrides=sets, defaults=defaults)
    probe = None
    if probe_on is not None:
        from speechssl.experiments.training_probe import few_label_probe

        probe = few_label_probe(probe_on, shots=recipe.probe.shots)
    with health_errors():
        result = run(corpora, out, config=recipe, start=start, command=spoken.get(), find_batch=find_batch, probe=probe)
    end_if_stopped(finished=result.finished, steps=result.steps)
    say_once(f"{out}: {result.steps} steps, {result.seconds_seen / 3600:.1f} h of audio seen")


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
    with health_errors():
        result = run(store, out, config=recipe, start=start, train=found.train, valid=found.valid, command=spoken.get())
    if result.left_out:
        say_once(f"{result.left_out} utterances left out: too long, or a transcript with more symbols than frames")
    end_if_stopped(finished=result.finished, steps=result.steps)
    say_once(f"{out}: {result.steps} steps on {len(found.train)} utterances ({total:.1f} minutes)")


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
    with health_errors():
        result, _ = run(plan, out, config=recipe, command=spoken.get(), say=say)
    if result.left_out:
        say_once(f"{result.left_out} utterances left out: too long, or a transcript with more symbols than frames")
    end_if_stopped(finished=result.finished, steps=result.steps)
    say(f"{out}: {result.steps} steps on {len(plan.train)} utterances; results.json has the error rates")


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
    return bundled(otherwise="--from MODEL, or --from scratch") if name is None else named(Path(name))
