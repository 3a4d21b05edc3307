"""The training loop: one ``fit`` for every objective that is written as sums over targets.

The interface is :class:`speechssl.objectives.base.Trainable`: sums and statistics of a micro-batch, metrics from their
totals. The loop decides when to validate, to write a checkpoint and to end; ``trainer.py`` does it, ``update.py`` makes
an update, ``timeline.py`` holds the length of a run.
"""

from dataclasses import dataclass, field
from pathlib import Path

from speechssl.distributed import Process, any_rank
from speechssl.objectives.base import Metrics, Trainable
from speechssl.train.health import HealthMonitor
from speechssl.train.optim import AdamWConfig
from speechssl.train.prefetch import prefetch
from speechssl.train.run_log import RunLog
from speechssl.train.signals import stop_signals
from speechssl.train.trainer import Batches, Counters, LoopConfig, Trainer, Training
from speechssl.train.update import Batch, staged


@dataclass(frozen=True)
class FitResult:
    """Result of a run: ``finished`` is False after SIGTERM or Ctrl-C, when a checkpoint was written."""

    finished: bool
    counters: Counters
    validation: Metrics = field(default_factory=dict[str, float | list[float]])


def fit(
    objective: Trainable,
    training: Training,
    batches: Batches,
    *,
    config: LoopConfig,
    optim: AdamWConfig,
    monitor: HealthMonitor,
    process: Process,
    out: Path,
    seed: int,
    show: bool = True,
) -> FitResult:
    """Train to the end of the run, from the last checkpoint in ``out`` when there is one.

    A run with ``optim.schedule="wsd"`` whose settings give it more steps or a larger budget than it had is prolonged:
    it continues from its last state before the cooldown.

    Args:
        objective: the model and its loss.
        training: rates, names and how the model is saved.
        batches: training and validation batches.
        config: settings of the run.
        optim: optimiser and schedule.
        monitor: alarms.
        process: rank, world size, device.
        out: the run folder, for logs and checkpoints.
        seed: seed of dropout; the objective has its own seed for everything else.
        show: whether to show progress on stderr and write TensorBoard files.

    Raises:
        HealthError: the run has failed in one of the known ways; the last good checkpoint is kept.
        UserError: a checkpoint of another model, or a run that is longer already.
    """
    objective.to(process.device).train()  # a loaded encoder is in evaluation mode
    run = Trainer(objective, training, batches, config, optim, monitor, process, out, seed)
    run.resume()
    counters = run.counters
    log = RunLog(
        out,
        name=training.name,
        summary=objective.summary,
        step=counters.step,
        seconds_seen=counters.seconds_seen,
        every=config.log_every,
        active=process.is_main,
        show=show,
    )

    def prepared(number: int) -> Batch:
        return staged(batches.train(number), process.device)

    run.validate(2)  # a broken metric or validation set fails now, not after the first hours
    finished = True
    with stop_signals() as stop, log, prefetch(prepared, counters.step, run.last_step) as numbered:
        for step, batch in numbered:
            if run.over:
                break
            run.update(step, batch)
            last, stopping = run.ends, any_rank(stop.requested, process.device)
            validating = batches.valid is not None and (run.validation_due or last)
            saving = run.checkpoint_due or last or stopping
            if validating or saving or step == 0 or (step + 1) % config.log_every == 0:
                for update, metrics in run.read():
                    ends = last and update.step == counters.step
                    log.train(
                        update, metrics, steps=run.steps, waited=numbered.waited, last=ends, left=run.seconds_left
                    )
                    with log.alarm():
                        monitor.observe(update.step, metrics, progress=update.progress)
            improved = False
            if validating:
                improved = run.score()
                log.validation(run.validation)
            counters.done = last or run.stops_early
            if improved or saving or counters.done:
                run.checkpoint(best=improved, forced=counters.done or stopping)
            if stopping and not last:
                finished = False
                break
    return FitResult(finished=finished, counters=counters, validation=run.validation)
