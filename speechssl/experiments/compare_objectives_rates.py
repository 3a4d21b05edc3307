"""Choice of the learning rate of an objective by short runs, judged on a corpus that no result is reported on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from speechssl.config import Config, UserError
from speechssl.data.waveforms import WaveformStore
from speechssl.embed.embedder import load
from speechssl.experiments.compare_objectives_probes import Protocol, TestCorpus, encoder_layers, measured, open_corpora
from speechssl.experiments.compare_objectives_runs import (
    Length,
    changed_setting,
    core_seconds_per_update,
    peak_rate,
    train,
    trained_facts,
    with_length,
    with_rate,
)
from speechssl.metrics.objective_results import MEAN_OF_LAYERS, Corpus, Trained, write_result
from speechssl.terminal import say
from speechssl.train.pretrain_config import PretrainConfig


class SweptRate(Config):
    """A short run: factor on the preset's rate, peak rate, mean UAR of the linear probe (None if the run failed)."""

    factor: float
    rate: float
    updates: int
    uar: float | None = None
    draws: tuple[float, ...] = ()
    failed: str = ""


class SweepResult(Config):
    """`sweep/OBJECTIVE.json`: the short runs of an objective, and where they were judged."""

    trained: Trained
    corpus: Corpus
    task: str
    shots: int
    rates: tuple[SweptRate, ...] = ()


@dataclass(frozen=True)
class Sweep:
    """Short runs at several rates.

    Attributes:
        factors: on the peak rate of the preset.
        minutes: core-minutes of each run.
        protocol: the probe that judges them: one task on one corpus.
    """

    factors: Sequence[float]
    minutes: float
    protocol: Protocol

    def corpus(self) -> TestCorpus:
        """The corpus with its splits."""
        [corpus] = open_corpora(self.protocol)
        return corpus


def refuse_tested(judge: TestCorpus, tested: Sequence[TestCorpus]) -> None:
    """Raise `UserError` where rates would be chosen on recordings that results are reported on."""
    own = set(judge.store.content_ids())
    for corpus in tested:
        shared = len(own & set(corpus.store.content_ids()))
        if shared:
            raise UserError(
                f"--sweep-on {judge.store.folder}: {shared} of its recordings are in {corpus.store.folder}, on which "
                "results are reported; choose the rates on another corpus"
            )


def best_rate(
    sweep: Sweep,
    judge: TestCorpus,
    config: PretrainConfig,
    stores: Sequence[WaveformStore],
    *,
    preset: str,
    out: Path,
    results: Path,
    command: str,
) -> float:
    """The peak rate with the highest UAR; runs that are stored already are not made again.

    Args:
        sweep: the rates and the length of the runs.
        judge: the corpus that judges them, with its task.
        config: settings of the objective, at the rate of its preset.
        stores: corpora of pretraining.
        preset: size of the encoder.
        out: folder of the runs.
        results: folder of the results.
        command: the command line.

    Raises:
        UserError: stored runs have other settings, or all of them failed.
    """
    name, path = config.objective.name, results / "sweep" / f"{config.objective.name}.json"
    length = Length("time", sweep.minutes)
    facts = trained_facts(config, stores, preset, length)
    [task] = judge.tasks
    wanted = SweepResult(trained=facts, corpus=judge.facts, task=task.name, shots=task.shots[0])
    found = _stored(path, wanted) or wanted
    for factor in sweep.factors:
        if factor in [row.factor for row in found.rates]:
            continue
        seconds = core_seconds_per_update(stores, config, out)
        run = with_length(with_rate(config, factor * peak_rate(config)), length, core_seconds_per_update=seconds)
        row = _swept(run, factor, judge, stores, folder=out / "sweep" / f"{name}-{factor:g}", command=command)
        say(f"{name}: {factor:g} times the rate of its preset: UAR {'failed' if row.uar is None else f'{row.uar:.3f}'}")
        found = found.model_copy(update={"rates": (*found.rates, row)})
        write_result(path, found)
    scored = {row.rate: row.uar for row in found.rates if row.factor in sweep.factors and row.uar is not None}
    if not scored:
        raise UserError(f"{path}: every run failed; give other factors with --rates")
    return max(scored, key=lambda rate: scored[rate])


def _swept(
    config: PretrainConfig,
    factor: float,
    judge: TestCorpus,
    stores: Sequence[WaveformStore],
    *,
    folder: Path,
    command: str,
) -> SweptRate:
    ended = train([Path(str(store.folder)) for store in stores], folder, config, command=command)
    row = SweptRate(factor=factor, rate=peak_rate(config), updates=config.loop.steps, failed=ended.failed)
    if ended.failed:
        return row
    layers = encoder_layers(judge, load(folder, device=config.device), words=folder.name)
    probed, _ = measured(judge, {MEAN_OF_LAYERS: layers[MEAN_OF_LAYERS]})
    [linear] = [each for each in probed if each.classifier == "linear"]
    return row.model_copy(update={"uar": linear.uar, "draws": linear.draws})


def _stored(path: Path, wanted: SweepResult) -> SweepResult | None:
    try:
        found = SweepResult.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise UserError(f"{path}: not a sweep of compare-objectives ({error.errors()[0]['msg']})") from None
    changed = changed_setting(found.trained, wanted.trained)
    judged = [(each.corpus.content, each.task, each.shots) for each in (found, wanted)]
    if changed is None and judged[0] != judged[1]:
        changed = f"--sweep-on: {found.corpus.name} there, {wanted.corpus.name} given"
    if changed is not None:
        raise UserError(f"{path}: holds a sweep with other settings ({changed}); use those, or another --results")
    return found
