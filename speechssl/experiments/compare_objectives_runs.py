"""Pretraining runs of the comparison of objectives: settings, budget of processor time, and the record of a run.

Equal processor time is made by numbers of updates: the time of an update is measured before the runs, which then have a
fixed length and resume. It is the time of all threads of this process, with one thread of torch.
"""

import json
import math
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError

from speechssl.config import UserError, digest, load_config
from speechssl.data.waveforms import WaveformStore
from speechssl.device import device_of, processor_name
from speechssl.distributed import Process
from speechssl.experiments.compare_objectives_probes import corpus_facts
from speechssl.files import write_atomic
from speechssl.metrics.objective_results import PER_RUN, Budget, Point, Trained, flat
from speechssl.models.encoder import SpeechEncoder
from speechssl.nn.memory import keep_freed_memory
from speechssl.objectives import load_objective
from speechssl.report.run import read_run
from speechssl.train.checkpoint import load_checkpoint
from speechssl.train.health import HealthError
from speechssl.train.optim import build_optimizer, peak_learning_rate, set_learning_rate
from speechssl.train.pretrain import pretrain, split
from speechssl.train.pretrain_config import PretrainConfig, config_of, runs
from speechssl.train.trainer import use_bf16
from speechssl.train.units import labels_of
from speechssl.train.update import accumulate, staged, update_weights

_THROWN_AWAY, _MEASURED = 5, 15  # updates
_VALIDATIONS = 25  # of a run, at most
_APART = 100  # updates between them, at least: of a short run they would take most of the time
_POINTS = 100  # of a stored curve, at most
_OWN = {
    "seed": "--seeds",
    "loop.steps": "--minutes or --hours",
    "loop.budget": "--minutes or --hours",
    "loop.validate_every": "the length of the run",
    "optim.reference_lr": "--rate",
    "optim.max_lr": "--rate",
}
_SPENT = "core_seconds.json"  # in a run folder: [updates, processor seconds] of every process that worked on it


@dataclass(frozen=True)
class Length:
    """Length of a run: core-minutes or hours of audio."""

    budget: Budget
    amount: float


def settings_of(objective: str, preset: str, sets: Sequence[str]) -> PretrainConfig:
    """Settings of an objective before seed, rate and length.

    Raises:
        UserError: a setting that does not fit, or that the comparison sets itself.
    """
    for each in sets:
        name = each.partition("=")[0].strip()
        if name in _OWN:
            raise UserError(f"--set {each}: set by {_OWN[name]}")
    return load_config(config_of(objective), overrides=sets, defaults=runs(objective)[preset])


def peak_rate(config: PretrainConfig) -> float:
    """Peak learning rate of a run."""
    return peak_learning_rate(config.optim, config.crops.batch_seconds)


def with_rate(config: PretrainConfig, rate: float) -> PretrainConfig:
    """The settings with another peak learning rate."""
    factor = rate / peak_rate(config)
    rates = {name: getattr(config.optim, name) * factor for name in ("reference_lr", "max_lr")}
    return config if factor == 1 else config.model_copy(update={"optim": config.optim.model_copy(update=rates)})


def with_seed(config: PretrainConfig, seed: int) -> PretrainConfig:
    """The settings with another seed."""
    return config.model_copy(update={"seed": seed})


def check_processor(settings: Iterable[PretrainConfig]) -> None:
    """Raise `UserError` where runs are on a GPU, whose time is not that of the processor."""
    if any(device_of(config.device).type != "cpu" for config in settings):
        raise UserError("core-minutes are processor time: give --set device=cpu, or --budget-by audio without --rates")


def with_length(config: PretrainConfig, length: Length, *, core_seconds_per_update: float | None) -> PretrainConfig:
    """The settings with the number of updates of a budget, and some validations spread over them."""
    if length.budget == "time":
        assert core_seconds_per_update is not None
        steps = length.amount * 60 / core_seconds_per_update
    else:
        steps = length.amount * 3600 / config.crops.batch_seconds
    if steps < 1:
        raise UserError(f"{config.objective.name}: the budget is less than one update")
    changed = {"steps": round(steps), "validate_every": max(_APART, math.ceil(steps / _VALIDATIONS))}
    return config.model_copy(update={"loop": config.loop.model_copy(update=changed)})


def trained_facts(config: PretrainConfig, stores: Sequence[WaveformStore], preset: str, length: Length) -> Trained:
    """The settings of a run as they are stored."""
    recipe = config.model_dump(mode="json")
    preset_settings = flat(runs(config.objective.name)[preset].model_dump(mode="json"))
    return Trained(
        objective=config.objective.name,
        preset=preset,
        seed=config.seed,
        budget=length.budget,
        amount=length.amount,
        rate=peak_rate(config),
        changed={name: value for name, value in flat(recipe).items() if preset_settings.get(name) != value},
        recipe=recipe,
        corpora=tuple(corpus_facts(store) for store in stores),
    )


def changed_setting(stored: Trained, wanted: Trained) -> str | None:
    """The first setting of a stored run that is not the wanted one, in words; None where all are equal.

    Settings that are newer than the stored run have their defaults there.
    """
    kind = config_of(wanted.objective)
    try:
        recipe = kind.model_validate(kind.upgraded(stored.recipe)).model_dump(mode="json")
    except ValidationError:
        recipe = stored.recipe  # of another version
    pairs = {
        "corpora": ([each.content for each in stored.corpora], [each.content for each in wanted.corpora]),
        **{name: (getattr(stored, name), getattr(wanted, name)) for name in ("preset", "budget", "amount")},
    }
    old, new = flat(recipe), flat(wanted.recipe)
    pairs |= {name: (old.get(name), new.get(name)) for name in [*new, *old] if name not in PER_RUN}
    return next(
        (f"{name}: {before} there, {now} given" for name, (before, now) in pairs.items() if before != now), None
    )


def core_seconds_per_update(stores: Sequence[WaveformStore], config: PretrainConfig, out: Path) -> float:
    """Processor seconds of an update of an objective, measured once for these settings, data and processor.

    Args:
        stores: prepared corpora.
        config: settings of the run.
        out: folder of the runs; the measurement is kept in `calibration/OBJECTIVE.json`.
    """
    path = out / "calibration" / f"{config.objective.name}.json"
    key = digest([config.model_dump(mode="json"), [store.content_hash() for store in stores], processor_name()])
    if path.exists() and (kept := json.loads(path.read_text(encoding="utf-8")))["key"] == key:
        return float(kept["core_seconds_per_update"])
    found = _measured_update(stores, config)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps({"key": key, "core_seconds_per_update": found}) + "\n")
    return found


def _measured_update(stores: Sequence[WaveformStore], config: PretrainConfig) -> float:
    """Mean processor seconds of some updates, batches included, after a few that are thrown away."""
    process = Process(rank=0, world_size=1, device=torch.device("cpu"))
    with one_thread(), torch.random.fork_rng(devices=[]):
        keep_freed_memory()
        torch.manual_seed(config.seed)
        method = load_objective(config.objective.name)
        objective = method.build(SpeechEncoder(config.encoder), config.objective, seed=config.seed).train()
        spec = objective.batch_spec
        labels = [] if spec.labels is None else labels_of(stores, spec.labels, seed=config.seed, process=process)
        train, _ = split(stores, config, spec=spec, labels=labels)
        optimizer = build_optimizer(objective, config.optim)
        set_learning_rate(optimizer, 0.01 * peak_rate(config))
        autocast = torch.autocast("cpu", torch.bfloat16, enabled=use_bf16(config.loop.precision, process.device))
        begin = time.process_time()
        for step in range(_THROWN_AWAY + _MEASURED):
            if step == _THROWN_AWAY:
                begin = time.process_time()
            totals = accumulate(
                objective,
                objective,
                staged(train.stored(step), process.device),
                parts=config.loop.accumulation,
                step=step,
                progress=0.5,
                device=process.device,
                autocast=autocast,
            )
            update_weights(objective, optimizer, totals.count, process=process, clip=config.optim.clip)
            objective.after_update(step=step, progress=0.5)
        return (time.process_time() - begin) / _MEASURED


@contextmanager
def one_thread() -> Generator[None]:
    """One thread of torch until the block ends, so that processor time does not depend on the number of cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class Ended:
    """A run that has ended: updates, audio and processor time, and the reason where its health monitor stopped it."""

    updates: int
    hours_seen: float
    core_seconds: float
    failed: str = ""


def train(corpora: Sequence[Path], folder: Path, config: PretrainConfig, *, command: str) -> Ended:
    """Pretrain to the end of a run, from its last checkpoint.

    Raises:
        KeyboardInterrupt: stopped by a signal; the same call resumes.
        UserError: the folder holds another run, or another process writes there.
    """
    before, begin, failed, finished = _updates(folder), time.process_time(), "", True
    with one_thread():
        try:
            result = pretrain(corpora, folder, config=config, command=command)
            finished, updates = result.finished, result.steps
        except HealthError as error:
            failed, updates = f"{error.state} at update {error.step} ({error.evidence})", error.step
    seconds = _spend(folder, updates - before, time.process_time() - begin, updates=updates)
    if not finished:
        raise KeyboardInterrupt
    hours = read_run(folder).training[-1].seconds_seen / 3600
    return Ended(updates, round(hours, 5), round(seconds, 1), failed)


def _updates(folder: Path) -> int:
    """Updates of the last checkpoint of a run folder; 0 without one."""
    state = load_checkpoint(folder / "last.pt")
    return 0 if state is None else int(state["progress"]["step"])


def _spend(folder: Path, done: int, seconds: float, *, updates: int) -> float:
    """Add a process to the record of a run folder, and give the processor seconds of the whole run.

    Args:
        folder: of the run.
        done: updates that this process made.
        seconds: its processor time.
        updates: of the whole run.

    Returns:
        Seconds. The time of a killed process is not known: its updates count as those of the other processes do.
    """
    path = folder / _SPENT
    spent: list[tuple[int, float]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    if done > 0:
        spent = [*spent, (done, round(seconds, 2))]
        write_atomic(path, json.dumps(spent) + "\n")
    known = sum(each for each, _ in spent)
    return sum(each for _, each in spent) * updates / known if known else math.nan


def curve_of(folder: Path) -> tuple[Point, ...]:
    """The validations of a run: loss and the metrics that its objective draws, 100 points at most."""
    run = read_run(folder)
    names = {"loss"} | {name for curve in run.curves for name in (curve.metric, curve.chance) if name is not None}
    rows = run.validation
    chosen = sorted({round(place * (len(rows) - 1) / (_POINTS - 1)) for place in range(_POINTS)}) if rows else []
    return tuple(
        Point(
            update=rows[number].step,
            hours=round(rows[number].seconds_seen / 3600, 5),
            metrics=_finite({name: value for name, value in rows[number].values.items() if name in names}),
        )
        for number in chosen
    )


def _finite(metrics: Mapping[str, float | list[float]]) -> dict[str, float | list[float]]:
    """Metrics to five digits, without those that are not finite."""

    def short(value: float) -> float:
        return float(f"{value:.5g}")

    return {
        name: [short(each) for each in value] if isinstance(value, list) else short(value)
        for name, value in metrics.items()
        if all(map(math.isfinite, value if isinstance(value, list) else [value]))
    }
