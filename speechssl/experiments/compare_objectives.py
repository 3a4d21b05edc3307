"""Comparison of pretraining objectives on the same encoder, data, budget and probes.

A cell is one run: an objective, a seed and a budget. Its run folder is `OUT/BUDGET/OBJECTIVE-SEED`, an ordinary run of
`pretrain`; its result is one JSON file, `RESULTS/BUDGET/OBJECTIVE-SEED.json` (`metrics.objective_results`). Cells whose
file is there are skipped, so that results add up over days and machines. A corpus that is added to the probes is
measured with the models that are there.

Baselines in the same table: MFCC statistics, the encoder of the preset without training, and the bundled model, which
saw far more audio.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from speechssl import __version__
from speechssl.config import UserError
from speechssl.data.training_audio import TrainingAudio, read_training_audio
from speechssl.data.waveforms import WaveformStore
from speechssl.device import processor_name
from speechssl.embed.embedder import EmbeddingModel, load
from speechssl.experiments.compare_objectives_curves import write_reference_curves
from speechssl.experiments.compare_objectives_probes import (
    Protocol,
    TestCorpus,
    encoder_layers,
    measured,
    mfcc_layer,
    open_corpora,
)
from speechssl.experiments.compare_objectives_rates import Sweep, best_rate, refuse_tested
from speechssl.experiments.compare_objectives_runs import (
    Length,
    changed_setting,
    check_processor,
    core_seconds_per_update,
    curve_of,
    peak_rate,
    settings_of,
    train,
    trained_facts,
    with_length,
    with_rate,
    with_seed,
)
from speechssl.experiments.evaluate import RANDOM_SEED
from speechssl.experiments.frozen_features import Features
from speechssl.files import one_at_a_time
from speechssl.metrics.objective_results import (
    BASELINES,
    ObjectiveResult,
    read_result,
    result_path,
    write_result,
)
from speechssl.metrics.results import MFCC
from speechssl.models.bundled import bundled_model, bundled_name
from speechssl.models.encoder import PRESETS, SpeechEncoder
from speechssl.objectives import OBJECTIVES
from speechssl.report.objectives import write_tables
from speechssl.terminal import say
from speechssl.train.pretrain_config import PretrainConfig

UNTRAINED = "untrained encoder"


@dataclass(frozen=True)
class Comparison:
    """What is compared.

    Attributes:
        corpora: prepared corpora of pretraining.
        out: folder of the runs.
        results: folder of the results.
        length: budget of every run.
        protocol: what is measured.
        objectives: names of objectives.
        seeds: runs per objective, with seeds from 0 on.
        preset: size of the encoder.
        rates: peak learning rates by objective, instead of those of the preset.
        sweep: choice of the other rates by short runs; None: those of the preset.
        sets: settings that are changed for all objectives.
        command: the command line.
    """

    corpora: Sequence[Path]
    out: Path
    results: Path
    length: Length
    protocol: Protocol
    objectives: Sequence[str] = OBJECTIVES
    seeds: int = 3
    preset: str = "tiny"
    rates: Mapping[str, float] = field(default_factory=dict[str, float])
    sweep: Sweep | None = None
    sets: Sequence[str] = ()
    command: str = ""


def compare_objectives(asked: Comparison) -> None:
    """Measure the baselines and every cell that has no result yet; all settings are checked before the first run.

    Raises:
        UserError: a corpus, objective or setting that does not fit, or a result with other settings.
        KeyboardInterrupt: stopped by a signal; the same call resumes.
    """
    if not asked.corpora:
        raise UserError(
            "a comparison needs prepared corpora to pretrain on; --table alone writes the tables of stored results"
        )
    if not asked.protocol.probes:
        raise UserError("a comparison needs a corpus to probe: --probe-on CORPUS_DIR, or CORPUS_DIR:speaker")
    strangers = [name for name in asked.rates if name not in asked.objectives]
    if strangers:
        raise UserError(f"--rate {strangers[0]}: not one of the objectives {', '.join(asked.objectives)}")
    stores = [WaveformStore(corpus) for corpus in asked.corpora]
    settings = {name: settings_of(name, asked.preset, asked.sets) for name in asked.objectives}
    if asked.length.budget == "time" or asked.sweep is not None:
        check_processor(settings.values())
    tests = open_corpora(asked.protocol)
    rates = _rates(asked, settings, stores, tests)
    # One seed of all objectives before the next: a table of a part of the cells has all objectives.
    order = [(name, config, seed) for seed in range(asked.seeds) for name, config in settings.items()]
    cells = [_Cell(asked, with_seed(with_rate(config, rates[name]), seed), stores) for name, config, seed in order]
    todo = [cell for cell in cells if cell.is_unfinished(tests)]
    _baselines(asked, tests)
    say(f"{len(cells) - len(todo)} of {len(cells)} cells have a result")
    for number, cell in enumerate(todo, start=1):
        say(f"cell {number} of {len(todo)}: {cell.name}")
        cell.run(tests)
        write_tables(asked.results, asked.out / "report.html")


def write_comparison(results: Path, out: Path, *, curves: Path | None = None) -> None:
    """Write what the results add up to: `table.md` among them, the page `report.html` in `out`, and reference curves.

    Raises:
        UserError: a file of the folder is no result; or no curve for `curves`.
    """
    write_tables(results, out / "report.html")
    if curves is not None:
        for path in write_reference_curves(results, curves):
            say(f"reference curve: {path}")


def _rates(
    asked: Comparison,
    settings: Mapping[str, PretrainConfig],
    stores: Sequence[WaveformStore],
    tests: Sequence[TestCorpus],
) -> dict[str, float]:
    """Peak learning rate of every objective."""
    judge = None if asked.sweep is None else asked.sweep.corpus()
    if judge is not None:
        refuse_tested(judge, tests)
    found: dict[str, float] = {}
    for name, config in settings.items():
        if name in asked.rates:
            found[name] = asked.rates[name]
        elif asked.sweep is None or judge is None:
            found[name] = peak_rate(config)
        else:
            found[name] = best_rate(
                asked.sweep,
                judge,
                config,
                stores,
                preset=asked.preset,
                out=asked.out,
                results=asked.results,
                command=asked.command,
            )
    return found


@dataclass(frozen=True)
class _Cell:
    """One run of the comparison, with the file of its result; `config` has no length yet."""

    asked: Comparison
    config: PretrainConfig
    stores: Sequence[WaveformStore]

    @property
    def name(self) -> str:
        return f"{self.config.objective.name}, seed {self.config.seed}"

    @property
    def folder(self) -> Path:
        return self.asked.out / self.asked.length.budget / f"{self.config.objective.name}-{self.config.seed}"

    @property
    def path(self) -> Path:
        kind, name = self.asked.length.budget, self.config.objective.name
        return result_path(self.asked.results, kind=kind, name=name, seed=self.config.seed)

    def is_unfinished(self, tests: Sequence[TestCorpus]) -> bool:
        """Whether the result is missing, or lacks a measurement."""
        stored = read_result(self.path)
        if stored is None:
            return True
        wanted = trained_facts(self.config, self.stores, self.asked.preset, self.asked.length)
        changed = "a baseline" if stored.trained is None else changed_setting(stored.trained, wanted)
        if changed is not None:
            raise UserError(
                f"{self.path}: holds a result with other settings ({changed}); use those, or another --results"
            )
        lacking = not stored.failed and any(test.missing_in(stored) for test in tests)
        if lacking and not (self.folder / "model.safetensors").exists():
            raise UserError(
                f"{self.path}: lacks some of these measurements, and its model is not in {self.folder}; leave those "
                "corpora out, or remove the file to train again"
            )
        return lacking

    def run(self, tests: Sequence[TestCorpus]) -> None:
        """Train, where there is no result yet, and measure what is missing."""
        result = read_result(self.path) or self._train()
        if not result.failed:
            audio = read_training_audio(self.folder)
            model = load(self.folder, device=self.config.device)
            result = _complete(result, tests, lambda test: encoder_layers(test, model, words=self.name), audio)
        write_result(self.path, result)
        say(f"{self.name}: {result.failed or self.path}")

    def _train(self) -> ObjectiveResult:
        asked, seconds = self.asked, None
        if asked.length.budget == "time":
            base = with_seed(settings_of(self.config.objective.name, asked.preset, asked.sets), 0)
            seconds = core_seconds_per_update(self.stores, base, asked.out)
        config = with_length(self.config, asked.length, core_seconds_per_update=seconds)
        ended = train(asked.corpora, self.folder, config, command=asked.command)
        spent = {name: getattr(ended, name) for name in ("updates", "hours_seen", "core_seconds")}
        trained = trained_facts(config, self.stores, asked.preset, asked.length)
        found = {
            "trained": trained.model_copy(update={**spent, "core_seconds_per_update": seconds}),
            "failed": ended.failed,
            "curve": curve_of(self.folder),
        }
        return _result(trained.objective).model_copy(update=found)


def _baselines(asked: Comparison, tests: Sequence[TestCorpus]) -> None:
    """Measure the baselines that have no result, or lack a measurement."""
    untrained = f"{UNTRAINED} {asked.preset}"
    _baseline(asked, tests, MFCC, mfcc_layer, note="statistics without learning")
    _baseline(asked, tests, untrained, _untrained(asked.preset), note="random weights")
    if bundled_name() is not None:
        bundled = bundled_model()
        model = load(bundled.folder, device="cpu")
        _baseline(
            asked,
            tests,
            f"bundled {bundled.name}",
            lambda test: encoder_layers(test, model, words=bundled.name),
            note="saw far more audio",
            audio=read_training_audio(bundled.folder),
        )


def _untrained(preset: str) -> Callable[[TestCorpus], dict[str, Features]]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        model = EmbeddingModel(SpeechEncoder(PRESETS[preset]), device="cpu")
    return lambda test: encoder_layers(test, model, words=UNTRAINED)


def _baseline(
    asked: Comparison,
    tests: Sequence[TestCorpus],
    name: str,
    features: Callable[[TestCorpus], dict[str, Features]],
    *,
    note: str,
    audio: TrainingAudio | None = None,
) -> None:
    path = result_path(asked.results, kind=BASELINES, name=name)
    with one_at_a_time(path.with_suffix(".lock")):  # of comparisons that run side by side, one measures
        stored = read_result(path) or _result(name, note=note)
        found = _complete(stored, tests, features, audio)
        if found is not stored:
            write_result(path, found)


def _complete(
    result: ObjectiveResult,
    tests: Sequence[TestCorpus],
    features: Callable[[TestCorpus], dict[str, Features]],
    audio: TrainingAudio | None,
) -> ObjectiveResult:
    """The result with the measurements that it lacks; the same object where it lacks none."""
    for test in tests:
        missing = test.missing_in(result)
        if missing is not None:
            probed, verified = measured(missing, features(missing), audio=audio)
            result = result.model_copy(
                update={
                    "probes": (*result.probes, *probed),
                    "verification": (*result.verification, *verified),
                }
            )
    return result


def _result(name: str, *, note: str = "") -> ObjectiveResult:
    return ObjectiveResult(
        name=name, note=note, processor=processor_name(), torch=torch.__version__, speechssl=__version__
    )
