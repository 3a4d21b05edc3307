"""State of a training run: model, optimiser, counters, position on the timeline, and what is done with them.

One :class:`Trainer` makes the updates, validations and checkpoints of a run; the loop (``loop.py``) decides when.
"""

import copy
import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from speechssl.config import Config, UserError
from speechssl.device import has_bfloat16
from speechssl.distributed import Process, any_rank, main_values
from speechssl.nn.ema import EMA
from speechssl.objectives.base import Metrics, Trainable
from speechssl.train.checkpoint import load_checkpoint, save_checkpoint
from speechssl.train.health import HealthMonitor
from speechssl.train.optim import AdamWConfig, build_optimizer, schedule, set_learning_rate
from speechssl.train.sharding import divided, divided_optimizer, even_parts, shard, whole
from speechssl.train.timeline import Timeline
from speechssl.train.update import Batch, Totals, accumulate, probe, to_host, update_weights, validate

_DROPOUT = 21  # part of the seed, so that this random stream differs from others
_VALIDATIONS = 20  # of a run whose length is a time
_SAVED_EVERY = 300.0  # seconds; besides checkpoint_every, so that a slow run loses minutes at most


class LoopConfig(Config):
    """The run; a step is one update of the weights."""

    steps: PositiveInt = 400_000
    # Seconds of wall time instead of steps; validations are then twentieths of it.
    budget: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    accumulation: PositiveInt = 1  # micro-batches per rank and step
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    compile: bool = False
    recompute: bool = False  # blocks in the backward pass: less memory, about a third more time
    shard: bool = False  # weights, gradients and optimiser divided among the processes (FSDP2), where there are several
    log_every: PositiveInt = 10  # steps
    validate_every: PositiveInt = 250
    validate_batches: PositiveInt = 8
    patience: NonNegativeInt = 0  # early stopping: validations without improvement before the end; 0: no early stopping
    checkpoint_every: PositiveInt = 250

    def timeline(self, optim: AdamWConfig) -> Timeline:
        """Progress of a run with these settings from its start."""
        turn = 1.0 - optim.cooldown if optim.schedule == "wsd" else 1.0
        if self.budget is not None:
            return Timeline(self.budget, "seconds", turn)
        return Timeline(float(self.steps), "updates", turn)


@dataclass(frozen=True)
class Training:
    """How a model is trained and saved.

    Attributes:
        name: label of the progress bar.
        peak_rate: the highest learning rate.
        rate: factor on the learning rate of a parameter, by its name.
        save: writes the model folder; called with the objective, the step and the seconds of audio seen.
        keep_best: write the model folder when a validation is the best so far, not at every checkpoint.
        find_unused: whether parameters may have no gradient (layer drop, frozen steps); an option of data parallelism.
        probe: measures the model that would be saved, without a change to it; on the main process alone.
        probe_every: updates from one probe to the next, each at a validation; 0: none.
    """

    name: str
    peak_rate: float
    rate: Callable[[str], float]
    save: Callable[[Any, int, float], None]
    keep_best: bool = False
    find_unused: bool = False
    probe: Callable[[Any], Metrics] | None = None
    probe_every: int = 0


@dataclass
class Counters:
    """Counters stored in a checkpoint."""

    step: int = 0
    seconds_seen: float = 0.0
    wall_seconds: float = 0.0
    best: float = math.inf
    stale: int = 0  # validations since the best one
    probed: int = 0  # updates before the last probe
    progress: float = 0.0
    cooled: bool = False  # whether an update was made in the cooldown
    done: bool = False


@dataclass(frozen=True)
class Batches:
    """Batches of a run, each a pure function of its number.

    Attributes:
        train: this rank's part of training batch ``n``.
        valid: this rank's part of validation batch ``n``; None where nothing is held out.
        probed: the batch that :meth:`Trainable.probe` measures, whole on every rank.
    """

    train: Callable[[int], Batch]
    valid: Callable[[int], Batch] | None = None
    probed: Callable[[], Batch] | None = None


@dataclass(frozen=True)
class Update:
    """An update of the weights whose metrics are on the device.

    Attributes:
        step: its number, from 1.
        seconds_seen: seconds of audio seen after it.
        progress: of the run, after it.
        rate: learning rate.
        norm: gradient norm before clipping.
        totals: terms and stats.
    """

    step: int
    seconds_seen: float
    progress: float
    rate: float
    norm: Tensor
    totals: Totals


class Trainer:
    """State of a run: model, optimiser, counters, and its position on the timeline."""

    def __init__(
        self,
        objective: Trainable,
        training: Training,
        batches: Batches,
        config: LoopConfig,
        optim: AdamWConfig,
        monitor: HealthMonitor,
        process: Process,
        out: Path,
        seed: int,
    ):
        self.objective, self.training, self.batches = objective, training, batches
        self.config, self.optim, self.monitor = config, optim, monitor
        self.process, self.out, self.seed = process, out, seed
        self.sharded = config.shard and process.world_size > 1
        self.average = EMA(objective) if optim.average else None
        self.saved = objective  # what is saved: with shards, a copy that gets the whole weights
        if self.sharded:
            self._shard()
        self.optimizer = build_optimizer(objective, optim, rate=training.rate)
        self.counters, self.timeline = Counters(), config.timeline(optim)
        self.validation: Metrics = {}
        self._unread: list[Update] = []
        self.autocast = torch.autocast(
            process.device.type, torch.bfloat16, enabled=use_bf16(config.precision, process.device)
        )
        self.model: nn.Module = objective
        self.pace = 1.0  # length of an update in the unit of the timeline
        self._before = 0.0  # progress before the last update
        self._validated = 0  # twentieths of the run at the last validation
        self._closing = 0.0  # seconds that validation and checkpoint take
        self._clock = self._saved = time.monotonic()

    # Position

    @property
    def position(self) -> float:
        """Updates or seconds done."""
        return float(self.counters.step if self.timeline.unit == "updates" else self.counters.wall_seconds)

    def _read_clock(self) -> None:
        """Count the time since the last call; where it is the length of the run, all ranks take the main one's."""
        now = time.monotonic()
        self.counters.wall_seconds += now - self._clock
        self._clock = now
        if self.timeline.unit == "seconds":
            clock = main_values([self.counters.wall_seconds, self.pace, self._closing], self.process.device)
            self.counters.wall_seconds, self.pace, self._closing = clock

    @property
    def last_step(self) -> int | None:
        """Number of updates of the run; None where its length is a time."""
        return int(self.timeline.length) if self.timeline.unit == "updates" else None

    @property
    def steps(self) -> int:
        """Number of updates of the run; an estimate where its length is a time."""
        if self.last_step is not None:
            return self.last_step
        return self.counters.step + round((self.seconds_left or 0.0) / max(self.pace, 1e-9))

    @property
    def seconds_left(self) -> float | None:
        """Wall time to the end of the run; None where its length is a number of updates."""
        if self.timeline.unit == "updates":
            return None
        return max(0.0, self.timeline.length - self.counters.wall_seconds)

    @property
    def stops_early(self) -> bool:
        """Whether early stopping ends the run: ``patience`` validations without improvement."""
        return 0 < self.config.patience <= self.counters.stale

    @property
    def over(self) -> bool:
        """Whether a run that is resumed has ended before."""
        return self.counters.done or self.stops_early

    @property
    def ends(self) -> bool:
        """Whether the run ends with the update that was made; a budget includes the last validation."""
        closing = self._closing if self.timeline.unit == "seconds" else 0.0
        return self.position + closing >= self.timeline.length

    @property
    def validation_due(self) -> bool:
        """Whether to validate after the update that was made."""
        if self.timeline.unit == "seconds":
            return self._twentieths > self._validated
        return self.counters.step % self.config.validate_every == 0

    @property
    def _twentieths(self) -> int:
        """Parts of the length of the run that are over."""
        return int(_VALIDATIONS * self.position / self.timeline.length)

    @property
    def checkpoint_due(self) -> bool:
        """Whether to write a checkpoint after the update that was made."""
        late = time.monotonic() - self._saved >= _SAVED_EVERY
        if self.sharded:  # all gather the shards for it
            late = any_rank(late, self.process.device)
        return late or self.counters.step % self.config.checkpoint_every == 0

    # What a run does

    def update(self, step: int, batch: Batch) -> None:
        """One update of the weights; its metrics stay on the device until they are read."""
        counters, process = self.counters, self.process
        self._read_clock()
        begin = self.position
        self._before = max(counters.progress, self.timeline.progress(begin))
        after = max(self._before, self.timeline.progress(begin + self.pace))
        if after > self.timeline.turn and not counters.cooled:
            self._keep_before_cooldown()
        rate = self.training.peak_rate * schedule(after, self.optim)
        set_learning_rate(self.optimizer, rate)
        _seed_dropout(self.seed, step, process.rank)
        parts = self.config.accumulation
        if self.sharded and parts > 1:
            parts = even_parts(len(batch.micro_batches(parts)), process.device)
        totals = accumulate(
            self.objective,
            self.model,
            batch,
            parts=parts,
            step=step,
            progress=self._before,
            device=process.device,
            autocast=self.autocast,
        )
        norm = update_weights(self.objective, self.optimizer, totals.count, process=process, clip=self.optim.clip)
        self.objective.after_update(step=step, progress=after)
        if self.average is not None:  # a short average first: the initial weights are forgotten soon
            self.average.update(self.objective, min(self.optim.average, (1 + step) / (10 + step)))
        counters.step = step + 1
        counters.seconds_seen += batch.global_seconds
        self._read_clock()
        self._measure_pace(self.position - begin)
        counters.progress = max(self._before, self.timeline.progress(self.position))
        self._unread.append(Update(step + 1, counters.seconds_seen, counters.progress, rate, norm, totals))

    def read(self) -> list[tuple["Update", Metrics]]:
        """Updates since the last call with their metrics, in order; one transfer from the device."""
        updates, self._unread = self._unread, []
        numbers = to_host(
            [[update.norm, *update.totals.terms.values(), *update.totals.stats.values()] for update in updates]
        )
        found: list[tuple[Update, Metrics]] = []
        for update, (norm, *values) in zip(updates, numbers, strict=True):
            rest = iter(values)
            terms, stats = ({name: next(rest) for name in each} for each in (update.totals.terms, update.totals.stats))
            metrics = self.objective.metrics(terms, stats) | {"grad_norm": float(norm), "lr": update.rate}
            found.append((update, metrics))
        return found

    def validate(self, batches: int) -> None:
        """Measure the model that would be saved, on so many validation batches."""
        if self.batches.valid is None:
            return
        with self._averaged():
            self.validation = validate(
                self.objective, self.batches.valid, batches, device=self.process.device, autocast=self.autocast
            )

    def score(self) -> bool:
        """Validate in full; whether the model is the best so far."""
        counters, criterion, begin = self.counters, self.objective.criterion, time.monotonic()
        self._validated = self._twentieths
        with self._averaged():
            self.monitor.probed = probe(self.objective, self.batches.probed, self.process.device)
        self.validate(self.config.validate_batches)
        self.validation = self.validation | self.monitor.probed | self._probe()
        improved = False
        if criterion is not None:
            score = float(self.validation[criterion])  # pyright: ignore[reportArgumentType] -- one number
            improved = score < counters.best and not self.monitor.suspicious
            counters.best = score if improved else counters.best
            counters.stale = 0 if improved else counters.stale + 1
        self._closing = time.monotonic() - begin
        return improved

    def _probe(self) -> Metrics:
        """Measure the model that would be saved, where it is time; nothing on other processes than the main one."""
        probe, every = self.training.probe, self.training.probe_every
        if probe is None or not every or (self.counters.step - self.counters.probed < every and not self.ends):
            return {}
        self.counters.probed = self.counters.step
        with self._averaged():
            self._gather()
            return probe(self.saved) if self.process.is_main else {}

    def checkpoint(self, *, best: bool, forced: bool) -> None:
        """Write checkpoint and model; with a symptom only where forced, so that the last good state is kept."""
        self._saved = time.monotonic()  # on every rank, so that all read their metrics at the same updates
        if self.sharded:  # one decision, so that all gather
            kept, best = map(bool, main_values([self.monitor.suspicious, best], self.process.device))
        else:
            kept = self.monitor.suspicious
        if (kept and not forced) or not (self.process.is_main or self.sharded):
            return
        self.counters.wall_seconds += self._saved - self._clock
        self._clock = self._saved
        counters, state = self.counters, self._state()
        if best and self.process.is_main:
            save_checkpoint(self.out / "best.pt", state)
        none_yet = forced and math.isinf(counters.best)  # a run that ends always saves a model
        always = self.batches.valid is None or not self.training.keep_best or self.objective.criterion is None
        if best or none_yet or always:
            with self._averaged():
                self._save()
        # Last, because a run resumes from it: files that a kill prevents above are written by the resumed run.
        if self.process.is_main:
            save_checkpoint(self.out / "last.pt", state)

    def _save(self) -> None:
        """Write the model folder."""
        self._gather()
        if self.process.is_main:
            self.training.save(self.saved, self.counters.step, self.counters.seconds_seen)

    def _gather(self) -> None:
        """Give the copy that is saved the whole weights, where they are divided among the processes."""
        if self.sharded:
            weights = whole(self.objective.state_dict(), keep=self.process.is_main)
            if self.process.is_main:
                self.saved.load_state_dict(weights)

    def _keep_before_cooldown(self) -> None:
        """Write the state that a longer run continues from, before the first update with a lower rate."""
        state = self._state() if self.process.is_main or self.sharded else {}
        if self.process.is_main and not self.monitor.suspicious:
            save_checkpoint(self.out / "stable.pt", state)
        self.counters.cooled = True

    # Parts of it

    def _shard(self) -> None:
        """Divide model and average among the processes, with a whole copy of the model on the CPU of the main one."""
        given = {"optim.name=muon": self.optim.name == "muon", "loop.compile=true": self.config.compile}
        if any(given.values()):  # Muon needs whole matrices; compiled parts are not gathered
            which = next(name for name, there in given.items() if there)
            raise UserError(f"loop.shard=true with {which}: cannot be combined; leave one of them out")
        if self.process.is_main:
            self.saved = copy.deepcopy(self.objective).cpu()
        shard(self.objective, self.process)
        if self.average is not None:
            shard(self.average.module, self.process)

    def _measure_pace(self, length: float) -> None:
        """Length of an update in the unit of the timeline, a mean over recent ones."""
        if self.timeline.unit == "seconds":
            self.pace = length if self.pace == 0.0 else 0.9 * self.pace + 0.1 * length

    def resume(self) -> None:
        """Restore the last checkpoint, if any, and wrap the model for data parallelism."""
        point = resume_point(self.out, self.timeline)
        if point is not None:
            self._restore(point.state, point.path)
            self.timeline = point.timeline
            if point.prolonged:
                self.counters.progress = min(self.counters.progress, self.timeline.turn)
                self.counters.done, self.counters.stale = False, 0
        if not self.sharded:
            self.model = _parallel(self.objective, self.process, find_unused=self.training.find_unused)
        self.pace = 1.0 if self.timeline.unit == "updates" else 0.0
        self._clock = self._saved = time.monotonic()
        self._validated = self._twentieths

    def _restore(self, state: Mapping[str, Any], path: Path) -> None:
        try:
            self.objective.load_state_dict(divided(state["model"], self.objective.state_dict()))
            self.optimizer.load_state_dict(divided_optimizer(state["optimizer"], self.optimizer))
            self.monitor.load_state_dict(state["health"])
            if self.average is not None:
                self.average.load_state_dict(divided(state["average"], self.average.state_dict()))
            for name, value in state["progress"].items():
                setattr(self.counters, name, value)
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: a checkpoint of another model ({str(error).splitlines()[0]})") from None

    def _state(self) -> dict[str, Any]:
        tensors: dict[str, Any] = {"model": self.objective.state_dict(), "optimizer": self.optimizer.state_dict()}
        if self.average is not None:
            tensors["average"] = self.average.state_dict()
        if self.sharded:
            tensors = whole(tensors, keep=self.process.is_main)
        return tensors | {
            "health": self.monitor.state_dict(),
            "progress": vars(self.counters).copy(),
            "timeline": asdict(self.timeline),
        }

    def _averaged(self) -> AbstractContextManager[None]:
        """The averaged weights in the model until the block ends, where there is an average."""
        if self.average is None:
            return nullcontext()
        return self.average.applied_to(self.objective, in_place=self.sharded)


@dataclass(frozen=True)
class ResumePoint:
    """State that a run continues from.

    Attributes:
        path: its file.
        state: its content.
        timeline: of the run.
        prolonged: whether the run gets another length.
        again: updates that were made after the state and are made again.
    """

    path: Path
    state: dict[str, Any]
    timeline: Timeline
    prolonged: bool = False
    again: int = 0


def resume_point(out: Path, wanted: Timeline) -> ResumePoint | None:
    """State that a run in a folder continues from; None where it has none.

    Args:
        out: the run folder.
        wanted: timeline of the settings; where its length is another one, the run is prolonged, from before its
            cooldown if it has begun.

    Raises:
        UserError: the run is longer already, or the state before its cooldown cannot be read.
    """
    path = out / "last.pt"
    state = load_checkpoint(path)
    if state is None:
        return None
    saved = Timeline(**state["timeline"]) if "timeline" in state else wanted
    if (saved.length, saved.unit) == (wanted.length, wanted.unit):
        return ResumePoint(path, state, saved)

    def position(state: Mapping[str, Any]) -> float:
        return float(state["progress"]["step" if wanted.unit == "updates" else "wall_seconds"])

    ended = state["progress"]["done"] or state["progress"]["cooled"]
    if position(state) >= wanted.length or (ended and saved.unit == wanted.unit and wanted.length < saved.length):
        done, given = (f"{value:.0f} {wanted.unit}" for value in (position(state), wanted.length))
        raise UserError(
            f"{out}: the run has {done} behind it; given {given}, allowed: more, and no less than its length"
        )
    last = int(state["progress"]["step"])
    if state["progress"]["cooled"]:
        path = out / "stable.pt"
        old = f"{saved.length:.0f} {saved.unit}"
        try:
            state = load_checkpoint(path)
        except UserError as error:
            raise UserError(f"{error}: with its length of {old} the run can be resumed, not prolonged") from None
        if state is None:
            raise UserError(
                f"{path}: missing: without the state before the cooldown the run can be resumed with its length of "
                f"{old}, not prolonged"
            )
    timeline = saved.prolonged(wanted, position(state), float(state["progress"]["progress"]))
    return ResumePoint(path, state, timeline, prolonged=True, again=last - int(state["progress"]["step"]))


def use_bf16(precision: str, device: torch.device) -> bool:
    """Whether to run matrix products in bf16: where the processor has instructions for it, or as configured."""
    if precision != "auto":
        return precision == "bf16"
    return has_bfloat16(device)


def _parallel(objective: nn.Module, process: Process, *, find_unused: bool) -> nn.Module:
    if process.world_size == 1:
        return objective
    devices = [process.device.index] if process.device.type == "cuda" else None
    return DistributedDataParallel(objective, device_ids=devices, find_unused_parameters=find_unused)


def _seed_dropout(seed: int, step: int, rank: int) -> None:
    state = np.random.SeedSequence((seed, _DROPOUT, step, rank)).generate_state(1, np.uint64)
    torch.manual_seed(int(state[0] >> 1))
