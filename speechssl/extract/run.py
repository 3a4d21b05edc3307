"""Recordings to one output of vectors: a folder, a manifest, a list, a bucket; decoded, encoded and written at once.

    extract("runs/demo/pretrain", "recordings", Path("vectors.parquet"))

Threads decode ahead of the encoder, which takes batches by duration; memory is bounded whatever the number of files and
their length. A run that is killed goes on where it stopped when it is started again, and its output equals that of a
run that was not. What cannot be used gets a line in OUT.errors.jsonl and stops nothing. Asked for again, a finished
output is left as it is; where files were added, changed or taken away since, or an address could not be read, a Parquet
output is brought up to date, and only those files are encoded. Another model, or other settings, are refused.
"""

import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from speechssl import __version__
from speechssl.config import UserError
from speechssl.data.coverage import Coverage
from speechssl.data.findings import Findings, Known, closing_lines
from speechssl.extract.columns import check_columns
from speechssl.extract.encode import Job, Row
from speechssl.extract.finished import Finished
from speechssl.extract.layout import Layout
from speechssl.extract.local import Engine, run_local
from speechssl.extract.parts import locked
from speechssl.extract.plan import Plan, read_plan
from speechssl.extract.progress import Progress, Tally
from speechssl.extract.resources import DEFAULT_MEMORY, devices_of, divide, peak_memory
from speechssl.extract.resume import Results, Run
from speechssl.extract.writers import check_out, settings_of, write
from speechssl.inference.layers import Layer, layer_weights, learned_mix
from speechssl.inference.pooling import Pooling
from speechssl.inference.precision import Precision, check_precision
from speechssl.interop.sources import Source, open_source
from speechssl.nn.memory import give_back_freed_memory
from speechssl.terminal import doubts

LEVELS = ("mean", "mean+std", "none")


@dataclass(frozen=True)
class ExtractReport:
    """What `extract` did.

    Attributes:
        written: clips in the output.
        failed: clips left out; each has a line in `errors`.
        seconds: audio in the output, s.
        dim: numbers in a vector, or in a frame.
        errors: the file with the reasons; None when nothing failed.
        resumed: of the clips written, those that an earlier run had done.
        finished_before: the output was there and is what was asked for; nothing was done.
        wall_seconds: how long it took.
        times_real_time: seconds of audio encoded in a second, start and end included; 0 when nothing was.
        peak_memory: the most that the process has held, bytes.
        dtype: of the arithmetic: float32, bfloat16 or int8.
        cosine: the smallest with float32 on the first batch, where there was a check.
        known: of how many clips of the source label, text and speaker are known.
        findings: what was understood of the source, and what was not.
        notes: what is doubtful about a clip that this run encoded, "LOCATION: note".
    """

    written: int
    failed: int
    seconds: float
    dim: int
    errors: Path | None
    resumed: int
    finished_before: bool
    wall_seconds: float
    times_real_time: float
    peak_memory: int
    dtype: str
    cosine: float | None
    known: Known
    findings: Findings
    notes: tuple[str, ...] = ()


def extract(
    model: str | Path,
    source: str | Path | Sequence[str | Path],
    out: Path,
    *,
    pooling: Pooling | Literal["none"] = "mean",
    layer: Layer | Literal["all"] = -1,
    device: str = "auto",
    dtype: Precision = "float32",
    memory: int = DEFAULT_MEMORY,
    threads: int | None = None,
    compile: bool = False,  # noqa: A002 -- what torch calls it
    engine: Engine = "local",
    workers: int | None = None,
    allow_remote: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> ExtractReport:
    """Embed every clip of a source.

    Args:
        model: as in `speechssl.load`.
        source: a folder, a manifest (`.jsonl`), a file, a glob, `-`, an address, or a list (see `plan.read_plan`).
        out: the output; the extension says of which kind (see `writers`).
        pooling: `mean`, `mean+std`, or `none`: every frame is kept.
        layer: a hidden state (0: the input to the first block, -1: the final output), `mean`: the average of all,
            `mix`: the mix that a fine-tuned head has learnt, `all`: every one of them.
        device: `auto` (all GPUs, or else the CPU), a torch device, or several by commas; each has an encoder of its
            own, and all are fed from one queue.
        dtype: `float32`, `bfloat16`, `int8` or `auto` (see `precision`).
        memory: bytes of host memory beside the program and the weights.
        threads: that decode; None: one a core, 16 at most.
        compile: compile the encoder; batches are padded to a few lengths then.
        engine: `local`, or `ray`: workers of a Ray cluster, which all see the same files.
        workers: of Ray; None: as many as it has room for.
        allow_remote: a manifest may name addresses (see `plan.read_plan`).
        progress: called after each batch.

    Returns:
        Counts, speed, memory.

    Raises:
        UserError: no such model or source, unknown settings, a column that the output cannot hold, an output of another
            model or of other settings, or a run that is writing there.
    """
    started = time.monotonic()
    check_out(out)
    if pooling not in LEVELS:
        raise UserError(f"pooling must be one of {', '.join(LEVELS)}, got {pooling!r}")
    devices = devices_of(device)
    for each in devices:
        check_precision(dtype, each)
    opened = open_source(model)
    job = _job(opened, pooling=pooling, layer=layer, dtype=dtype, compiled=compile)
    plan = read_plan(source, allow_remote=allow_remote)
    check_columns(out, plan.seen)
    coverage = Coverage()
    resources = divide(memory, opened.encoder.config, devices, threads=threads)
    several = tuple(f"vector_{number}" for number in range(len(job.layers)))
    names = () if pooling == "none" else several if len(several) > 1 else ("vector",)
    width = job.dim * (2 if pooling == "mean+std" else 1)
    layout = Layout(names, len(job.layers), width, plan.columns)
    settings: dict[str, Any] = {
        "format": out.suffix.removeprefix(".") or "npy",
        "version": __version__,
        "model": str(model),
        "model_hash": opened.digest,
        "source": plan.source,
        "pooling": pooling,
        "layer": layer,
        "dim": width,
        "dtype": dtype,
        "window_seconds": resources.window_seconds,
        "compile": compile,
    }
    folder = out.with_name(f"{out.name}.parts")
    with locked(folder):
        output = _VectorFile(out, layout)
        run = Run(output, folder, plan=plan, schema=layout.schema(), settings=settings, tally=Tally(plan, progress))
        before = run.finished_before()
        if before is not None:
            shutil.rmtree(folder)
            return _report(before, out, plan, started=started, new=0.0, resumed=before["written"], before=True)
        run.begin()
        if engine == "ray":
            from speechssl.extract.cluster import run_on_ray

            parts = run_on_ray(run.remaining(), model, job, run, workers=workers, resources=resources)
        else:
            parts = run_local(run.remaining(), opened.encoder, job, run, devices=devices, resources=resources)
        del opened  # what works is a copy with the weights laid out anew
        notes: list[str] = []
        with closing(parts):  # threads end with the run, however it ends
            for part in parts:
                _cover(coverage, part.rows)
                notes += part.notes
                run.commit(layout.part(part))
                give_back_freed_memory()
        told = run.finish()
        shutil.rmtree(folder)
    covered = coverage.note()
    plan.findings.notes += [covered] if covered else []
    report = _report(told, out, plan, started=started, new=run.tally.seconds, resumed=run.resumed, before=False)
    return replace(report, notes=tuple(notes))


def _job(opened: Source, *, pooling: str, layer: Any, dtype: Precision, compiled: bool) -> Job:
    """What every encoder of the run does; unknown layers are refused here."""
    mix = None if opened.folder is None else learned_mix(opened.folder)
    encoder = opened.encoder
    layers = list(range(encoder.config.transformer.layers + 1)) if layer == "all" else [layer]
    for each in layers:
        layer_weights(each, blocks=encoder.config.transformer.layers, mix=mix)
    kept: Pooling | None = "mean" if pooling == "mean" else "mean+std" if pooling == "mean+std" else None
    return Job(kept, tuple(layers), encoder.config.dim, mix, dtype, compiled)


def _cover(coverage: Coverage, rows: Sequence[Row]) -> None:
    """How far the clips of a part reach in their files."""
    for row in rows:
        end = row.item.offset + row.item.duration if row.item.duration else None
        coverage.add(row.item.path, end=end, whole=row.file_seconds)


class _VectorFile:
    """Output of an extraction, as `resume.Run` needs it: a finished one holds its rows and settings itself."""

    def __init__(self, path: Path, layout: Layout):
        self._layout = layout
        self.path, self.errors = path, path.with_name(f"{path.name}.errors.jsonl")
        self.rows = path if path.suffix == ".parquet" and not layout.frames else None

    def settings(self) -> dict[str, Any] | None:
        return settings_of(self.path)

    def write(self, results: Results, settings: dict[str, Any], scratch: Path) -> None:
        write(self.path, Finished(self._layout, results.parts, results.places, settings), scratch)


def _report(
    told: dict[str, Any], out: Path, plan: Plan, *, started: float, new: float, resumed: int, before: bool
) -> ExtractReport:
    wall = time.monotonic() - started
    return ExtractReport(
        written=told["written"],
        failed=told["failed"],
        seconds=told["seconds"],
        dim=told["dim"],
        errors=out.with_name(f"{out.name}.errors.jsonl") if told["failed"] else None,
        resumed=resumed,
        finished_before=before,
        wall_seconds=wall,
        times_real_time=new / wall,
        peak_memory=peak_memory(),
        dtype=told["dtype"],
        cosine=told.get("cosine"),
        known=plan.known,
        findings=plan.findings,
    )


def summary(report: ExtractReport, out: Path) -> list[str]:
    """The lines that the command shows at the end."""
    hours = f"{report.seconds / 3600:.2f} h of audio"
    lines = [f"{out}: {report.written} clips, {report.dim} numbers each, {hours}"]
    if report.finished_before:
        lines.append("all of it was there already; nothing was done")
    else:
        before = f"; {report.resumed} of the clips were there already" if report.resumed else ""
        cosine = "" if report.cosine is None else f", cosine {report.cosine:.5f} with float32 on the first batch"
        lines.append(
            f"{report.wall_seconds:.0f} s, {report.times_real_time:.0f} times real time, at most "
            f"{report.peak_memory / 2**30:.1f} GiB, {report.dtype}{cosine}{before}"
        )
    if report.errors:
        lines.append(f"{report.failed} clips could not be used; each one is in {report.errors}")
    return lines + doubts(report.notes) + closing_lines(report.known, report.findings)
