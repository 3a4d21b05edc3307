"""The training loop: one readable ``fit`` for every objective that is written as sums over targets.

The seam is :class:`speechssl.objectives.base.Trainable`: sums and statistics of a micro-batch, metrics from their
totals. Everything a method need not know is here: precision, accumulation, data parallelism, clipping, schedules,
validation, early stopping, health, logs and checkpoints.

Gradients are of summed losses; after the last micro-batch they are divided by the number of targets of the whole
effective batch, counted over micro-batches and ranks. So accumulation, data parallelism and one big batch give the same
update.
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
from speechssl.train.progress import Display, TensorBoard

_DROPOUT = 21  # what a random stream is for; part of its seed


class LoopConfig(Config):
    """The run; a step is one update of the weights."""

    steps: PositiveInt = 400_000
    accumulation: PositiveInt = 1  # micro-batches a rank and step
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    compile: bool = False
    log_every: PositiveInt = 10  # steps
    validate_every: PositiveInt = 250
    validate_batches: PositiveInt = 8
    patience: NonNegativeInt = 0  # validations without a better one before the run ends; 0: it never ends early
    checkpoint_every: PositiveInt = 250


B = TypeVar("B", bound="Batch")


@runtime_checkable
class Batch(Protocol):
    """One rank's share of a global batch."""

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
    """How a model is trained and kept.

    Attributes:
        name: what the progress display calls the run.
        peak_rate: the highest learning rate.
        rate: factor on the learning rate of a parameter, by its name.
        save: writes the model folder; called with the step and the seconds of audio seen.
        keep_best: write the model folder when a validation was the best so far, not at every checkpoint.
        find_unused: whether parameters may get no gradient (layer drop, frozen steps); data parallelism needs to know.
    """

    name: str
    peak_rate: float
    rate: Callable[[str], float]
    save: Callable[[int, float], None]
    keep_best: bool = False
    find_unused: bool = False


@dataclass
class Progress:
    """Counters that a checkpoint carries."""

    step: int = 0
    seconds_seen: float = 0.0
    wall_seconds: float = 0.0
    best: float = math.inf
    stale: int = 0  # validations since the best one


@dataclass(frozen=True)
class FitResult:
    """How a run ended: ``finished`` is False after SIGTERM or Ctrl-C, when a checkpoint was written."""

    finished: bool
    progress: Progress
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
        training: rates, names and how the model is written.
        train: this rank's share of training batch ``n``; a pure function.
        valid: this rank's share of validation batch ``n``; None where nothing is held out.
        probed: the batch that :meth:`Trainable.probe` measures, whole on every rank.
        config: the run.
        optim: optimiser and schedule.
        monitor: alarms.
        process: rank, world size, device.
        out: where logs and checkpoints go.
        seed: of dropout; the objective has its own for everything else.
        show: progress on stderr and TensorBoard.

    Raises:
        HealthError: the run has failed in one of the known ways; the last good checkpoint stays.
        UserError: a checkpoint that is not one of this model.
    """
    objective.to(process.device).train()  # a loaded encoder comes in evaluation mode
    optimizer = build_optimizer(objective, optim, rate=training.rate)
    progress = _restore(out / "last.pt", objective, optimizer, monitor)
    model = _parallel(objective, process, find_unused=training.find_unused)
    log = _Log(out, process, progress, config=config, name=training.name, summary=objective.summary, show=show)
    autocast = torch.autocast(process.device.type, torch.bfloat16, enabled=use_bf16(config.precision, process.device))

    def validate(batches: int) -> Metrics:
        return {} if valid is None else _validate(objective, valid, batches, process=process, autocast=autocast)

    def checkpoint(*, best: bool = False, forced: bool = False) -> None:
        if process.is_main and (forced or not monitor.suspicious):  # the last good state stays while a sign is up
            state = {
                "model": objective.state_dict(),
                "optimizer": optimizer.state_dict(),
                "health": monitor.state_dict(),
                "progress": vars(progress).copy(),
            }
            if best:
                save_checkpoint(out / "best.pt", state)
            none_yet = forced and math.isinf(progress.best)  # a run that ends always leaves a model
            if best or none_yet or valid is None or not training.keep_best or objective.criterion is None:
                training.save(progress.step, progress.seconds_seen)
            # Last, because a run goes on behind it: whatever a kill prevents above is written again by the resumed run.
            save_checkpoint(out / "last.pt", state)

    validation = validate(2)  # a broken metric or validation set fails now, not after the first hours
    finished = True
    with _stop_signals() as stop, log, _prefetch(train, progress.step, config.steps) as batches:
        for step, batch in batches:
            if _worn_out(progress, config):
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
            progress.step, last = step + 1, step + 1 == config.steps
            progress.seconds_seen += batch.global_seconds
            progress.wall_seconds += time.monotonic() - begin
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
                    improved = score < progress.best and not monitor.suspicious
                    progress.best = score if improved else progress.best
                    progress.stale = 0 if improved else progress.stale + 1
                log.validation(validation)
            ending = last or stopping or _worn_out(progress, config)
            if improved or (step + 1) % config.checkpoint_every == 0 or ending:
                checkpoint(best=improved, forced=ending)
            if stopping and not last:
                finished = False
                break
    return FitResult(finished=finished, progress=progress, validation=validation)


def _worn_out(progress: Progress, config: LoopConfig) -> bool:
    """Whether validation has not got better for long enough to stop."""
    return 0 < config.patience <= progress.stale


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
            model.require_backward_grad_sync = index == len(micro) - 1  # what no_sync() sets; only the last one talks
        with autocast:
            if index == 0:
                shared = _shared(objective, micro, step=step, process=process)
            loss: StepOutput = model(part, step=step, progress=step / config.steps, shared=shared)
        loss.total.backward()
        _add(terms, loss.terms)
        _add(stats, loss.stats)
    return _Totals(sum_over_ranks(terms), sum_over_ranks(stats))


def _shared(objective: Trainable, parts: Sequence[Any], *, step: int, process: Process) -> Mapping[str, Tensor] | None:
    """What the loss of each part needs of the whole batch; None where there is one part, or nothing is needed."""
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
    """Whether to run matrix products in bf16: where the processor has instructions for it, or as told."""
    if precision != "auto":
        return precision == "bf16"
    return has_bfloat16(device)


def _restore(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, monitor: HealthMonitor) -> Progress:
    state = load_checkpoint(path)
    if state is None:
        return Progress()
    try:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        monitor.load_state_dict(state["health"])
        return Progress(**state["progress"])
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
    """Batches in order, the next one made by a thread while this one is used."""
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
    """SIGTERM and Ctrl-C ask for a stop after the current step; a second Ctrl-C stops at once."""
    stop = _Stop()

    def ask(number: int, _frame: FrameType | None) -> None:
        if stop.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.requested = True

    numbers = (signal.SIGTERM, signal.SIGINT)
    try:
        before = [signal.signal(number, ask) for number in numbers]
    except ValueError:  # not the main thread: whoever runs it there handles signals
        yield stop
        return
    try:
        yield stop
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


class _Log:
    """``log.jsonl``, TensorBoard when installed, and the progress display; silent on all ranks but the main one."""

    def __init__(
        self,
        out: Path,
        process: Process,
        progress: Progress,
        *,
        config: LoopConfig,
        name: str,
        summary: Callable[[Mapping[str, Any]], str],
        show: bool,
    ):
        self.path, self.process, self.progress, self.config = out / "log.jsonl", process, progress, config
        self.name, self.summary, self.show = name, summary, show
        self._open = False
        self._ends = ExitStack()
        self._begin = (time.monotonic(), progress.seconds_seen)
        self._display: Display | None = None
        self._board: TensorBoard | None = None

    def __enter__(self) -> "_Log":
        if self.process.is_main:
            truncate_log(self.path, self.progress.step)
            self._file = self._ends.enter_context(self.path.open("a", encoding="utf-8"))
            self._open = True
            if self.show:
                self._board = TensorBoard(self.path.parent, self.progress.step)
                self._ends.callback(self._board.close)
                self._display = Display(self.name, self.summary, steps=self.config.steps, start=self.progress.step)
                self._ends.callback(self._display.stop)
                self._display.start()
        return self

    def __exit__(self, *_: object) -> None:
        with naming(self.path):  # what a full disk had no room for is tried once more
            self._ends.close()

    def train(self, metrics: Metrics, *, last: bool) -> None:
        """One update; every ``log_every``-th is written down."""
        if not self._open:
            return
        elapsed = time.monotonic() - self._begin[0]
        speed = (self.progress.seconds_seen - self._begin[1]) / max(elapsed, 1e-9)
        if self._display is not None:
            self._display.update(self.progress.step, metrics, speed)
        if self.progress.step % self.config.log_every == 0 or last or self.progress.step == 1:
            self._write(metrics | {"seconds_per_second": round(speed, 2)})

    @contextmanager
    def alarm(self) -> Generator[None, None, None]:
        """Write down why a run was stopped for its health."""
        try:
            yield
        except HealthError as error:
            if self._open:
                self._write({"alarm": error.state, "evidence": error.evidence, "advice": error.advice})
            raise

    def validation(self, metrics: Metrics) -> None:
        """One validation."""
        if self._display is not None:
            self._display.validation(self.progress.step, metrics)
        if self._open:
            self._write({"valid": True} | metrics)

    def _write(self, metrics: dict[str, Any]) -> None:
        row = {"step": self.progress.step} | metrics | {"seconds_seen": round(self.progress.seconds_seen, 3)}
        with naming(self.path):
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
        if self._board is not None:
            self._board.write(row)


def truncate_log(path: Path, step: int) -> None:
    """Drop rows that a killed run wrote after its last checkpoint: they are about to be written again."""
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
