"""The training loop: one ``fit`` for every objective that is written as sums over targets.

The interface is :class:`speechssl.objectives.base.Trainable`: sums and statistics of a micro-batch, metrics from their
totals. The loop handles precision, accumulation, data parallelism, clipping, schedules, validation, early stopping,
health, logs and checkpoints.

Gradients are of summed losses; after the last micro-batch they are divided by the number of targets of the whole
effective batch, counted over micro-batches and ranks. So accumulation, data parallelism and one large batch give the
same update.
"""

import json
import math
import signal
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from speechssl.config import Config, UserError
from speechssl.device import has_bfloat16
from speechssl.distributed import Process, any_rank, sum_over_ranks
from speechssl.files import naming, write_atomic
from speechssl.objectives.base import Metrics, StepOutput, Trainable
from speechssl.train.checkpoint import load_checkpoint, save_checkpoint
from speechssl.train.health import HealthError, HealthMonitor
from speechssl.train.optim import AdamWConfig, build_optimizer, schedule, set_learning_rate
from speechssl.train.progress import ProgressBar, TensorBoard

_DROPOUT = 21  # part of the seed, so that this random stream differs from others


class LoopConfig(Config):
    """The run; a step is one update of the weights."""

    steps: PositiveInt = 400_000
    accumulation: PositiveInt = 1  # micro-batches per rank and step
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    compile: bool = False
    log_every: PositiveInt = 10  # steps
    validate_every: PositiveInt = 250
    validate_batches: PositiveInt = 8
    patience: NonNegativeInt = 0  # early stopping: validations without improvement before the end; 0: no early stopping
    checkpoint_every: PositiveInt = 250


B = TypeVar("B", bound="Batch")


@runtime_checkable
class Batch(Protocol):
    """Part of a global batch on one rank."""

    @property
    def global_seconds(self) -> float:
        """Seconds of audio in the global batch."""
        ...

    def micro_batches(self: B, count: int) -> list[B]:
        """Split into ``count`` parts, fewer where there are fewer examples."""
        ...

    def to(self: B, device: torch.device) -> B:
        """The same batch with its tensors on a device."""
        ...


@dataclass(frozen=True)
class Training:
    """How a model is trained and saved.

    Attributes:
        name: label of the progress bar.
        peak_rate: the highest learning rate.
        rate: factor on the learning rate of a parameter, by its name.
        save: writes the model folder; called with the step and the seconds of audio seen.
        keep_best: write the model folder when a validation is the best so far, not at every checkpoint.
        find_unused: whether parameters may have no gradient (layer drop, frozen steps); an option of data parallelism.
    """

    name: str
    peak_rate: float
    rate: Callable[[str], float]
    save: Callable[[int, float], None]
    keep_best: bool = False
    find_unused: bool = False


@dataclass
class Counters:
    """Counters stored in a checkpoint."""

    step: int = 0
    seconds_seen: float = 0.0
    wall_seconds: float = 0.0
    best: float = math.inf
    stale: int = 0  # validations since the best one


@dataclass(frozen=True)
class FitResult:
    """Result of a run: ``finished`` is False after SIGTERM or Ctrl-C, when a checkpoint was written."""

    finished: bool
    counters: Counters
    validation: Metrics = field(default_factory=dict[str, float | list[float]])


def fit(
    objective: Trainable,
    training: Training,
    train: Callable[[int], B],
    valid: Callable[[int], B] | None,
    *,
    probed: Callable[[], B] | None = None,
    config: LoopConfig,
    optim: AdamWConfig,
    monitor: HealthMonitor,
    process: Process,
    out: Path,
    seed: int,
    show: bool = True,
) -> FitResult:
    """Train until ``config.steps``, from the last checkpoint in ``out`` when there is one.

    Args:
        objective: the model and its loss.
        training: rates, names and how the model is saved.
        train: this rank's part of training batch ``n``; a pure function.
        valid: this rank's part of validation batch ``n``; None where nothing is held out.
        probed: the batch that :meth:`Trainable.probe` measures, whole on every rank.
        config: settings of the run.
        optim: optimiser and schedule.
        monitor: alarms.
        process: rank, world size, device.
        out: the run folder, for logs and checkpoints.
        seed: seed of dropout; the objective has its own seed for everything else.
        show: whether to show progress on stderr and write TensorBoard files.

    Raises:
        HealthError: the run has failed in one of the known ways; the last good checkpoint is kept.
        UserError: a checkpoint of another model.
    """
    objective.to(process.device).train()  # a loaded encoder is in evaluation mode
    optimizer = build_optimizer(objective, optim, rate=training.rate)
    counters = _restore(out / "last.pt", objective, optimizer, monitor)
    model = _parallel(objective, process, find_unused=training.find_unused)
    log = _Log(out, process, counters, config=config, name=training.name, summary=objective.summary, show=show)
    autocast = torch.autocast(process.device.type, torch.bfloat16, enabled=use_bf16(config.precision, process.device))

    def validate(batches: int) -> Metrics:
        return {} if valid is None else _validate(objective, valid, batches, process=process, autocast=autocast)

    def checkpoint(*, best: bool = False, forced: bool = False) -> None:
        if process.is_main and (forced or not monitor.suspicious):  # with a symptom, the last good state is kept
            state = {
                "model": objective.state_dict(),
                "optimizer": optimizer.state_dict(),
                "health": monitor.state_dict(),
                "progress": vars(counters).copy(),
            }
            if best:
                save_checkpoint(out / "best.pt", state)
            none_yet = forced and math.isinf(counters.best)  # a run that ends always saves a model
            if best or none_yet or valid is None or not training.keep_best or objective.criterion is None:
                training.save(counters.step, counters.seconds_seen)
            # Last, because a run resumes from it: files that a kill prevents above are written by the resumed run.
            save_checkpoint(out / "last.pt", state)

    validation = validate(2)  # a broken metric or validation set fails now, not after the first hours
    finished = True
    with _stop_signals() as stop, log, _prefetch(train, counters.step, config.steps) as batches:
        for step, batch in batches:
            if _stops_early(counters, config):
                break
            begin = time.monotonic()
            rate = training.peak_rate * schedule((step + 1) / config.steps, optim)
            set_learning_rate(optimizer, rate)
            _seed_dropout(seed, step, process.rank)
            totals = _accumulate(objective, model, batch, config, step=step, process=process, autocast=autocast)
            grad_norm = _update(objective, optimizer, totals.count, process=process, clip=optim.clip)
            objective.after_update(step=step, progress=(step + 1) / config.steps)
            metrics = objective.metrics(totals.terms, totals.stats)
            metrics |= {"grad_norm": grad_norm, "lr": rate}
            counters.step, last = step + 1, step + 1 == config.steps
            counters.seconds_seen += batch.global_seconds
            counters.wall_seconds += time.monotonic() - begin
            log.train(metrics, last=last)
            with log.alarm():
                monitor.observe(step + 1, metrics, grad_norm=grad_norm)
            stopping = any_rank(stop.requested, process.device)
            improved = False
            if valid is not None and ((step + 1) % config.validate_every == 0 or last):
                monitor.probed = _probe(objective, probed, process.device)
                validation = validate(config.validate_batches) | monitor.probed
                if objective.criterion is not None:
                    score = float(validation[objective.criterion])  # pyright: ignore[reportArgumentType]
                    improved = score < counters.best and not monitor.suspicious
                    counters.best = score if improved else counters.best
                    counters.stale = 0 if improved else counters.stale + 1
                log.validation(validation)
            ending = last or stopping or _stops_early(counters, config)
            if improved or (step + 1) % config.checkpoint_every == 0 or ending:
                checkpoint(best=improved, forced=ending)
            if stopping and not last:
                finished = False
                break
    return FitResult(finished=finished, counters=counters, validation=validation)


def _stops_early(counters: Counters, config: LoopConfig) -> bool:
    """Whether early stopping ends the run: ``patience`` validations without improvement."""
    return 0 < config.patience <= counters.stale


@dataclass
class _Totals:
    terms: dict[str, Tensor]
    stats: dict[str, Tensor]

    @property
    def count(self) -> Tensor:
        return self.stats["count"]


def _accumulate(
    objective: Trainable,
    model: nn.Module,
    batch: Batch,
    config: LoopConfig,
    *,
    step: int,
    process: Process,
    autocast: torch.autocast,
) -> _Totals:
    """Backward through every micro-batch of this rank; terms and stats summed over micro-batches and ranks."""
    micro = [part.to(process.device) for part in batch.micro_batches(config.accumulation)]
    shared: Mapping[str, Tensor] | None = None
    terms: dict[str, Tensor] = {}
    stats: dict[str, Tensor] = {}
    for index, part in enumerate(micro):
        if isinstance(model, DistributedDataParallel):
            model.require_backward_grad_sync = index == len(micro) - 1  # what no_sync() sets
        with autocast:
            if index == 0:
                shared = _shared(objective, micro, step=step, process=process)
            loss: StepOutput = model(part, step=step, progress=step / config.steps, shared=shared)
        loss.total.backward()
        _add(terms, loss.terms)
        _add(stats, loss.stats)
    return _Totals(sum_over_ranks(terms), sum_over_ranks(stats))


def _shared(objective: Trainable, parts: Sequence[Any], *, step: int, process: Process) -> Mapping[str, Tensor] | None:
    """Sums over the whole batch for the loss of each part; None where there is one part, or no such sum."""
    if len(parts) == 1 and process.world_size == 1:
        return None
    own = objective.gather(parts, step=step)
    return sum_over_ranks(own) if own else None


def _add(totals: dict[str, Tensor], part: Mapping[str, Tensor]) -> None:
    for name, value in part.items():
        totals[name] = totals[name] + value if name in totals else value


@torch.no_grad()
def _probe(objective: Trainable, batch: Callable[[], Batch] | None, device: torch.device) -> Metrics:
    if batch is None:
        return {}
    objective.eval()
    measured = objective.probe(batch().to(device))
    objective.train()
    return measured


def _update(
    model: nn.Module, optimizer: torch.optim.Optimizer, count: Tensor, *, process: Process, clip: float
) -> float:
    """Divide gradients by the number of targets, clip, step; skip non-finite ones. Returns the norm before clipping."""
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    scale = process.world_size / float(count)  # DDP has averaged over ranks
    for gradient in gradients:
        gradient.mul_(scale)
    norm = float(nn.utils.clip_grad_norm_(model.parameters(), clip, foreach=True))
    if math.isfinite(norm):
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm


@torch.no_grad()
def _validate(
    objective: Trainable, valid: Callable[[int], Batch], batches: int, *, process: Process, autocast: torch.autocast
) -> Metrics:
    """Metrics over the first validation batches: no dropout, no noise, masks fixed by the batch's number."""
    objective.eval()
    terms: dict[str, Tensor] = {}
    stats: dict[str, Tensor] = {}
    for number in range(batches):
        batch = valid(number).to(process.device)
        with autocast:
            shared = _shared(objective, [batch], step=number, process=process)
            loss: StepOutput = objective(batch, step=number, progress=1.0, shared=shared)
        _add(terms, loss.terms)
        _add(stats, loss.stats)
    objective.train()
    return objective.metrics(sum_over_ranks(terms), sum_over_ranks(stats))


def use_bf16(precision: str, device: torch.device) -> bool:
    """Whether to run matrix products in bf16: where the processor has instructions for it, or as configured."""
    if precision != "auto":
        return precision == "bf16"
    return has_bfloat16(device)


def _restore(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, monitor: HealthMonitor) -> Counters:
    state = load_checkpoint(path)
    if state is None:
        return Counters()
    try:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        monitor.load_state_dict(state["health"])
        return Counters(**state["progress"])
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: a checkpoint of another model ({str(error).splitlines()[0]})") from None


def _parallel(objective: nn.Module, process: Process, *, find_unused: bool) -> nn.Module:
    if process.world_size == 1:
        return objective
    devices = [process.device.index] if process.device.type == "cuda" else None
    return DistributedDataParallel(objective, device_ids=devices, find_unused_parameters=find_unused)


def _seed_dropout(seed: int, step: int, rank: int) -> None:
    state = np.random.SeedSequence((seed, _DROPOUT, step, rank)).generate_state(1, np.uint64)
    torch.manual_seed(int(state[0] >> 1))


@contextmanager
def _prefetch(batches: Callable[[int], B], start: int, stop: int) -> Generator[Iterator[tuple[int, B]], None, None]:
    """Batches in order; a thread prepares the next one while the current one is used."""
    with ThreadPoolExecutor(1) as pool:

        def numbered() -> Iterator[tuple[int, B]]:
            ahead = pool.submit(batches, start) if start < stop else None
            for number in range(start, stop):
                assert ahead is not None
                batch = ahead.result()
                ahead = pool.submit(batches, number + 1) if number + 1 < stop else None
                yield number, batch

        yield numbered()


@dataclass
class _Stop:
    requested: bool = False


@contextmanager
def _stop_signals() -> Generator[_Stop, None, None]:
    """SIGTERM and Ctrl-C stop the run after the current step; a second Ctrl-C stops at once."""
    stop = _Stop()

    def request(number: int, _frame: FrameType | None) -> None:
        if stop.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.requested = True

    numbers = (signal.SIGTERM, signal.SIGINT)
    try:
        before = [signal.signal(number, request) for number in numbers]
    except ValueError:  # not the main thread: the caller handles signals
        yield stop
        return
    try:
        yield stop
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


class _Log:
    """``log.jsonl``, TensorBoard when installed, and the progress bar; inactive on all ranks but the main one."""

    def __init__(
        self,
        out: Path,
        process: Process,
        counters: Counters,
        *,
        config: LoopConfig,
        name: str,
        summary: Callable[[Mapping[str, Any]], str],
        show: bool,
    ):
        self.path, self.process, self.counters, self.config = out / "log.jsonl", process, counters, config
        self.name, self.summary, self.show = name, summary, show
        self._open = False
        self._ends = ExitStack()
        self._begin = (time.monotonic(), counters.seconds_seen)
        self._bar: ProgressBar | None = None
        self._board: TensorBoard | None = None

    def __enter__(self) -> "_Log":
        if self.process.is_main:
            truncate_log(self.path, self.counters.step)
            self._file = self._ends.enter_context(self.path.open("a", encoding="utf-8"))
            self._open = True
            if self.show:
                self._board = TensorBoard(self.path.parent, self.counters.step)
                self._ends.callback(self._board.close)
                self._bar = ProgressBar(self.name, self.summary, steps=self.config.steps, start=self.counters.step)
                self._ends.callback(self._bar.stop)
                self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        with naming(self.path):  # rows that a full disk rejected are written once more
            self._ends.close()

    def train(self, metrics: Metrics, *, last: bool) -> None:
        """Log an update; every ``log_every``-th is written to the file."""
        if not self._open:
            return
        elapsed = time.monotonic() - self._begin[0]
        speed = (self.counters.seconds_seen - self._begin[1]) / max(elapsed, 1e-9)
        if self._bar is not None:
            self._bar.update(self.counters.step, metrics, speed)
        if self.counters.step % self.config.log_every == 0 or last or self.counters.step == 1:
            self._write(metrics | {"seconds_per_second": round(speed, 2)})

    @contextmanager
    def alarm(self) -> Generator[None, None, None]:
        """Log the alarm that stops a run."""
        try:
            yield
        except HealthError as error:
            if self._open:
                self._write({"alarm": error.state, "evidence": error.evidence, "advice": error.advice})
            raise

    def validation(self, metrics: Metrics) -> None:
        """Log a validation."""
        if self._bar is not None:
            self._bar.validation(self.counters.step, metrics)
        if self._open:
            self._write({"valid": True} | metrics)

    def _write(self, metrics: dict[str, Any]) -> None:
        row = {"step": self.counters.step} | metrics | {"seconds_seen": round(self.counters.seconds_seen, 3)}
        with naming(self.path):
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
        if self._board is not None:
            self._board.write(row)


def truncate_log(path: Path, step: int) -> None:
    """Drop rows that a killed run wrote after its last checkpoint: the resumed run writes them again."""
    if not path.exists():
        return
    kept: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:  # the line that was being written when the run was killed
            continue
        if row["step"] <= step:
            kept.append(line + "\n")
    write_atomic(path, "".join(kept).encode())
