"""Results of the comparison of pretraining objectives: one small JSON file per run, and what they add up to.

A folder of results has one file per run, `BUDGET/OBJECTIVE-SEED.json`, and one per baseline, `baselines/NAME.json`.
They are made on any machine at any time; the tables are computed from whatever files are there. Runs are averaged only
where all but the seed is equal.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from pydantic import ValidationError

from speechssl.config import Config, UserError, digest
from speechssl.files import write_atomic
from speechssl.metrics.classification import REPLICATES, Interval

MEAN_OF_LAYERS = "mean of layers"
"""The layer of the table: fixed in advance, since a layer that is chosen by its score is chosen on the test side."""
STATISTICS = "statistics"
"""What features without layers have in the place of one."""
BASELINES = "baselines"
PER_RUN = frozenset({"seed", "device", "loop.steps", "loop.validate_every"})
"""Settings that follow from the seed, the machine and the budget."""

Budget = Literal["time", "audio"]
BUDGETS: tuple[Budget, ...] = ("time", "audio")


class Corpus(Config):
    """A prepared corpus: name of its folder, digest of its samples, hours of audio."""

    name: str
    content: str
    hours: float


class Probed(Config):
    """Score of a few-shot probe on one layer.

    Attributes:
        corpus: where it was tested.
        task: `label`, `speaker` or `text`.
        layer: `layer N` (0: the input of the first block), or `MEAN_OF_LAYERS`.
        classifier: `linear` or `k-NN`.
        shots: labelled utterances per class.
        classes: number of classes.
        uar: mean over draws.
        draws: UAR of each draw; draw n has the same shots and test utterances for every encoder.
        pretraining_audio: how many test utterances are in the audio of pretraining, in words.
    """

    corpus: Corpus
    task: str
    layer: str
    classifier: Literal["linear", "k-NN"]
    shots: int
    classes: int
    uar: float
    draws: tuple[float, ...]
    pretraining_audio: str = ""


class Verified(Config):
    """Equal error rate of speaker verification on one layer, with its 95 % interval by speaker."""

    corpus: Corpus
    layer: str
    trials: int
    speakers: int
    eer: float
    low: float
    high: float


class Point(Config):
    """A validation of a run: update, hours of audio seen, and the metrics of its curves."""

    update: int
    hours: float
    metrics: dict[str, float | list[float]]


class Trained(Config):
    """How an encoder was pretrained.

    Attributes:
        objective: its name.
        preset: size of the encoder.
        seed: of the run.
        budget: what is equal for all objectives.
        amount: of it: core-minutes, or hours of audio.
        rate: peak learning rate.
        changed: settings that differ from the preset of the objective.
        recipe: every setting.
        corpora: of pretraining.
        updates: of the weights.
        hours_seen: of audio.
        core_seconds: processor time of the run, validations and checkpoints included.
        core_seconds_per_update: measured before the run, by which a budget of time is turned into updates; None where
            it was not measured.
    """

    objective: str
    preset: str
    seed: int
    budget: Budget
    amount: float
    rate: float
    changed: dict[str, Any]
    recipe: dict[str, Any]
    corpora: tuple[Corpus, ...]
    updates: int = 0
    hours_seen: float = 0.0
    core_seconds: float = 0.0
    core_seconds_per_update: float | None = None

    @property
    def key(self) -> tuple[str, ...]:
        """What runs of one row have in common: everything but the seed and the machine."""
        settings = {name: value for name, value in flat(self.recipe).items() if name not in PER_RUN}
        content = digest([settings, sorted(corpus.content for corpus in self.corpora)])
        return self.budget, f"{self.amount:g}", self.preset, self.objective, content


class ObjectiveResult(Config):
    """One file of results.

    Attributes:
        name: of the objective, or of a baseline.
        note: about a baseline, in words.
        trained: how it was pretrained; None for a baseline.
        failed: state and evidence of a run that its health monitor stopped; empty otherwise.
        processor: model of the processor.
        torch: its version.
        speechssl: its version.
        probes: one per corpus, task, layer and classifier.
        verification: one per corpus and layer.
        curve: validations, 100 at most.
    """

    name: str
    note: str = ""
    trained: Trained | None = None
    failed: str = ""
    processor: str
    torch: str
    speechssl: str
    probes: tuple[Probed, ...] = ()
    verification: tuple[Verified, ...] = ()
    curve: tuple[Point, ...] = ()


@dataclass(frozen=True)
class Column:
    """A score of the table.

    Attributes:
        corpus: name of the test corpus.
        content: digest of its samples.
        measure: `label, linear, 10 shots`, or `EER`.
        draws: number of draws; 0 for an equal error rate.
    """

    corpus: str
    content: str
    measure: str
    draws: int = 0

    @property
    def lower_is_better(self) -> bool:
        """Whether it is an error rate."""
        return self.measure == "EER"

    @property
    def title(self) -> str:
        """Its heading."""
        return f"{self.corpus}: {self.measure}"


@dataclass(frozen=True)
class Summary:
    """A row of the table: all runs that differ by their seed only, or a baseline.

    Attributes:
        name: objective or baseline.
        note: about a baseline.
        budget: None for a baseline.
        amount: core-minutes or hours of audio.
        preset: size of the encoder; empty for a baseline.
        seeds: number of runs that ended.
        failed: number of runs that their health monitor stopped.
        updates: mean over runs, as are the next two.
        hours: audio seen.
        core_minutes: processor time.
        scores: with 95 % intervals: of a probe over seeds and draws, of an equal error rate over speakers (its ends are
            means over seeds).
    """

    name: str
    note: str
    budget: Budget | None
    amount: float
    preset: str
    seeds: int
    failed: int
    updates: float
    hours: float
    core_minutes: float
    scores: Mapping[Column, Interval]


def flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by their dotted names.

    >>> flat({"optim": {"lr": 1}, "seed": 0})
    {'optim.lr': 1, 'seed': 0}
    """
    found: dict[str, Any] = {}
    for key, value in table.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return found


def result_path(folder: Path, *, kind: str, name: str, seed: int | None = None) -> Path:
    """Path of a file of results.

    Args:
        folder: of all results.
        kind: a budget, or `BASELINES`.
        name: objective or baseline.
        seed: of a run.

    >>> result_path(Path("r"), kind="time", name="hubert", seed=2).as_posix()
    'r/time/hubert-2.json'
    """
    return folder / kind / f"{name.replace(' ', '-')}{'' if seed is None else f'-{seed}'}.json"


def write_result(path: Path, result: Config) -> None:
    """Write a file of results, whole or not at all; one line per row, so that versions of it can be compared."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = result.model_dump(mode="json")
    write_atomic(path, "{\n" + ",\n".join(f" {_text(key)}: {_rows(each)}" for key, each in content.items()) + "\n}\n")


def _rows(value: Any) -> str:
    several = isinstance(value, list) and bool(value)
    return "[\n" + ",\n".join(f"  {_text(each)}" for each in value) + "\n ]" if several else _text(value)


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def read_result(path: Path) -> ObjectiveResult | None:
    """Read a file of results; None where there is none.

    Raises:
        UserError: not a file of results; names the file and the first key that does not fit.
    """
    try:
        return ObjectiveResult.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise UserError(f"{path}: not a result of compare-objectives ({key}: {first['msg']})") from None
    except ValueError:
        raise UserError(f"{path}: not a result of compare-objectives (not UTF-8 text)") from None


def read_results(folder: Path) -> list[ObjectiveResult]:
    """All results of a folder, runs before baselines, in the order of their names.

    Raises:
        UserError: a file that is no result.
    """
    paths = [path for kind in (*BUDGETS, BASELINES) for path in sorted((folder / kind).glob("*.json"))]
    return [found for found in map(read_result, paths) if found is not None]


def summaries(results: Iterable[ObjectiveResult]) -> list[Summary]:
    """Rows of the table, in the order of the results."""
    groups: dict[tuple[str, ...], list[ObjectiveResult]] = {}
    for result in results:
        key = (BASELINES, result.name) if result.trained is None else result.trained.key
        groups.setdefault(key, []).append(result)
    return [_summary(group) for group in groups.values()]


def seeds_and_draws(scores: Float[np.ndarray, "seeds draws"]) -> Interval:
    """Mean with a percentile interval that resamples seeds and draws independently.

    Source: Owen and Eckles, "Bootstrapping data arrays of arbitrary order" (2012, arXiv 1106.2125).

    >>> seeds_and_draws(np.array([[0.5, 0.5], [0.5, 0.5]]))
    Interval(value=0.5, low=0.5, high=0.5)
    """
    rng = np.random.default_rng(0)
    seeds, draws = (rng.multinomial(n, np.full(n, 1 / n), size=REPLICATES) / n for n in scores.shape)
    means = np.einsum("rs,sd,rd->r", seeds, scores, draws)
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(value=float(scores.mean()), low=float(low), high=float(high))


def _summary(group: Sequence[ObjectiveResult]) -> Summary:
    ended = [result for result in group if not result.failed]
    runs = [result.trained for result in ended if result.trained is not None]
    first = group[0].trained

    def mean(values: Iterable[float]) -> float:
        found = list(values)
        return math.fsum(found) / len(found) if found else math.nan

    return Summary(
        name=group[0].name,
        note=group[0].note,
        budget=None if first is None else first.budget,
        amount=math.nan if first is None else first.amount,
        preset="" if first is None else first.preset,
        seeds=len(runs),
        failed=len(group) - len(ended),
        updates=mean(run.updates for run in runs),
        hours=mean(run.hours_seen for run in runs),
        core_minutes=mean(run.core_seconds / 60 for run in runs),
        scores=_scores(ended),
    )


def _scores(group: Sequence[ObjectiveResult]) -> dict[Column, Interval]:
    draws: dict[Column, list[tuple[float, ...]]] = {}
    rates: dict[Column, list[Verified]] = {}
    for result in group:
        for probe in result.probes:
            if probe.layer in (MEAN_OF_LAYERS, STATISTICS):
                draws.setdefault(probe_column(probe), []).append(probe.draws)
        for each in result.verification:
            if each.layer in (MEAN_OF_LAYERS, STATISTICS):
                rates.setdefault(Column(each.corpus.name, each.corpus.content, "EER"), []).append(each)
    found = {column: seeds_and_draws(np.array(values)) for column, values in draws.items()}
    for column, each in rates.items():
        ends = np.array([[one.eer, one.low, one.high] for one in each]).mean(axis=0).tolist()
        found[column] = Interval(*ends)
    return found


def probe_column(probe: Probed) -> Column:
    """The column of a probe."""
    measure = f"{probe.task}, {probe.classifier}, {probe.shots} shots"
    return Column(probe.corpus.name, probe.corpus.content, measure, draws=len(probe.draws))
