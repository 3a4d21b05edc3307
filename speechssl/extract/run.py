"""Recordings to one output of vectors: a folder, a manifest, a list, a bucket; decoded, encoded and written at once.

    extract("runs/demo/pretrain", "recordings", Path("vectors.parquet"))

Threads decode ahead of the encoder, which takes batches by duration; memory is bounded for any number and any length of
files. A run that is killed resumes when it is started again, and its output equals that of an uninterrupted run. Each
clip that cannot be used gets a line in OUT.errors.jsonl and does not end the run. A finished output is left as it is
when the same command is run again; where files were added, changed or removed since, or an address could not be read, a
Parquet output is brought up to date, and only those files are encoded. Another model, or other settings, are refused.
"""

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from speechssl import __version__
from speechssl.config import UserError
from speechssl.data.coverage import Coverage
from speechssl.data.findings import Findings, Known, closing_lines
from speechssl.extract.encode import Encoded, Job, run_local
from speechssl.extract.formats.columns import check_columns
from speechssl.extract.formats.rows import Layout
from speechssl.extract.machine.progress import ExtractionProgress
from speechssl.extract.machine.resources import DEFAULT_MEMORY, devices_of, divide, peak_memory
from speechssl.extract.plan import read_plan
from speechssl.extract.resume import Run
from speechssl.extract.shards import locked
from speechssl.extract.writers import VectorFile, check_out
from speechssl.inference.chosen import read_choice
from speechssl.inference.layers import Layer, layer_weights, learned_mix
from speechssl.inference.pooling import Pooling
from speechssl.inference.precision import Precision, check_precision
from speechssl.interop.sources import Source, open_source
from speechssl.nn.memory import give_back_freed_memory
from speechssl.terminal import doubts

Engine = Literal["local", "ray"]
LEVELS = ("mean", "mean+std", "none")


@dataclass(frozen=True)
class ExtractReport:
    """Counts, speed and memory of an extraction.

    Attributes:
        written: clips in the output.
        failed: clips left out; each has a line in `errors`.
        seconds: audio in the output, s.
        model: name of the model; of the bundled model, such as `tiny-1`.
        pooling: of the rows, as named or as the model's config says.
        layer: of the rows, likewise.
        dim: numbers in a vector, or in a frame.
        errors: the file with the reasons; None when no clip failed.
        resumed: of the clips written, those that an earlier run had encoded.
        finished_before: whether the output was there before, with these settings; nothing was encoded.
        wall_seconds: duration of the run.
        times_real_time: seconds of audio encoded per second, start and end included; 0 when nothing was encoded.
        peak_memory: largest memory of the process so far, bytes.
        dtype: of the arithmetic: float32, bfloat16 or int8.
        cosine: the smallest with float32 on the first batch, where there was a check.
        known: numbers of clips of the source with a label, a text and a speaker.
        findings: what was read from the source, and what was not.
        notes: doubts about the audio of a clip that this run encoded, "LOCATION: note".
    """

    written: int
    failed: int
    seconds: float
    model: str
    pooling: str
    layer: int | str
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
    model: str | Path | None,
    source: str | Path | Sequence[str | Path],
    out: Path,
    *,
    pooling: Pooling | Literal["none"] | None = None,
    layer: Layer | Literal["all"] | None = None,
    device: str = "auto",
    dtype: Precision = "float32",
    memory: int = DEFAULT_MEMORY,
    threads: int | None = None,
    compile: bool = False,  # noqa: A002 -- what torch calls it
    engine: Engine = "local",
    workers: int | None = None,
    allow_remote: bool = False,
    progress: Callable[[ExtractionProgress], None] | None = None,
) -> ExtractReport:
    """Embeds every clip of a source.

    Args:
        model: as in `speechssl.load`; None: the bundled model.
        source: a folder, a manifest (`.jsonl`), a file, a glob, `-`, an address, or a list (see `plan.read_plan`).
        out: the output; its extension is the format (see `writers`).
        pooling: `mean`, `mean+std`, or `none`: every frame is kept. None: what the model's config names, else `mean`.
        layer: a hidden state (0: the input to the first block, -1: the final output), `mean`: the average of all,
            `mix`: the mix that a fine-tuned head has learnt, `all`: each of them. None: what the model's config names,
            else -1.
        device: `auto` (all GPUs, or else the CPU), a torch device, or several separated by commas; each has its own
            encoder, and all take parts from one queue.
        dtype: `float32`, `bfloat16`, `int8` or `auto` (see `inference.precision`).
        memory: bytes of host memory on top of the program and the weights.
        threads: decoding threads; None: one per core, 16 at most.
        compile: whether to compile the encoder; batches are then padded to a few lengths.
        engine: `local`, or `ray`: workers of a Ray cluster, which all need the same files.
        workers: Ray workers; None: as many as the cluster can hold.
        allow_remote: whether a manifest may name addresses (see `plan.read_plan`).
        progress: called after each batch.

    Returns:
        Counts, speed, memory.

    Raises:
        UserError: no such model (None: none is bundled) or source, unknown settings, a column that the output cannot
            hold, an output of another model or of other settings, or a run that is writing there.
    """
    started = time.monotonic()
    check_out(out)
    if pooling is not None and pooling not in LEVELS:
        raise UserError(f"pooling must be one of {', '.join(LEVELS)}, got {pooling!r}")
    devices = devices_of(device)
    for each in devices:
        check_precision(dtype, each)
    opened = open_source(model)
    choice = read_choice(opened.folder)
    pooling, layer = choice.pooling if pooling is None else pooling, choice.layer if layer is None else layer
    job = _job(opened, pooling=pooling, layer=layer, dtype=dtype, compiled=compile)
    plan = read_plan(source, allow_remote=allow_remote)
    check_columns(out, plan.seen)
    resources = divide(memory, opened.encoder.config, devices, threads=threads)
    layout = Layout.of(job, plan.columns)
    settings: dict[str, Any] = {
        "format": out.suffix.removeprefix(".") or "npy",
        "version": __version__,
        "model": opened.name,
        "model_hash": opened.digest,
        "source": plan.source,
        "pooling": pooling,
        "layer": layer,
        "dim": layout.dim,
        "dtype": dtype,
        "window_seconds": resources.window_seconds,
        "compile": compile,
    }
    folder = out.with_name(f"{out.name}.parts")
    with locked(folder):
        output = VectorFile(out, layout)
        run = Run(output, folder, plan=plan, schema=layout.schema(), settings=settings, progress=progress)
        finished, notes = run.begin(), list[str]()
        before = finished is not None
        if finished is None:
            if engine == "ray":
                from speechssl.extract.cluster import run_on_ray

                name = opened.folder or opened.name
                parts = run_on_ray(run.remaining(), name, job, run, workers=workers, resources=resources)
            else:
                parts = run_local(run.remaining(), opened.encoder, job, run, devices=devices, resources=resources)
            del opened  # the workers have copies with packed weights
            with closing(parts):  # threads end with the run, also after an error
                notes = _write(parts, run, layout)
            finished = run.finish()
        shutil.rmtree(folder)
    wall = time.monotonic() - started
    return ExtractReport(
        written=finished["written"],
        failed=finished["failed"],
        seconds=finished["seconds"],
        model=settings["model"],
        pooling=pooling,
        layer=layer,
        dim=finished["dim"],
        errors=output.errors if finished["failed"] else None,
        resumed=finished["written"] if before else run.resumed,
        finished_before=before,
        wall_seconds=wall,
        times_real_time=run.counts.seconds / wall,
        peak_memory=peak_memory(),
        dtype=finished["dtype"],
        cosine=finished.get("cosine"),
        known=plan.known,
        findings=plan.findings,
        notes=tuple(notes),
    )


def _job(opened: Source, *, pooling: str, layer: Any, dtype: Precision, compiled: bool) -> Job:
    """Settings of the encoders; refuses unknown layers."""
    mix = None if opened.folder is None else learned_mix(opened.folder)
    encoder = opened.encoder
    layers = list(range(encoder.config.transformer.layers + 1)) if layer == "all" else [layer]
    for each in layers:
        layer_weights(each, blocks=encoder.config.transformer.layers, mix=mix)
    kept: Pooling | None = "mean" if pooling == "mean" else "mean+std" if pooling == "mean+std" else None
    return Job(kept, tuple(layers), encoder.config.dim, mix, dtype, compiled)


def _write(parts: Iterator[Encoded], run: Run, layout: Layout) -> list[str]:
    """Writes encoded parts as shards; returns the notes of their clips, and notes files with more audio in the plan."""
    coverage, notes = Coverage(), list[str]()
    for part in parts:
        for row in part.rows:
            end = row.item.offset + row.item.duration if row.item.duration else None
            coverage.add(row.item.path, end=end, whole=row.file_seconds)
        notes += part.notes
        run.commit(layout.part(part))
        give_back_freed_memory()
    covered = coverage.note()
    run.plan.findings.notes += [covered] if covered else []
    return notes


def summary(report: ExtractReport, out: Path) -> list[str]:
    """Lines that the command shows at the end."""
    hours = f"{report.seconds / 3600:.2f} h of audio"
    of = f"layer {report.layer}, pooling {report.pooling}"
    lines = [f"{out}: {report.written} clips, {report.dim} numbers each ({of}), {hours}"]
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
