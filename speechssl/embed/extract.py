"""Recordings to one output of vectors: a folder, a manifest, a list, a bucket; decoded, encoded and written at once.

    extract("runs/demo/pretrain", "recordings", Path("vectors.parquet"))

Threads decode ahead of the encoder, which takes batches by duration; memory is bounded whatever the number of files and
their length. A run that is killed goes on where it stopped when it is started again, and its output equals that of a
run that was not. What cannot be used gets a line in OUT.errors.jsonl and stops nothing. Asked for again, a finished
output is left as it is; where files were added, changed or taken away since, or an address could not be read, a Parquet
output is brought up to date, and only those files are encoded. Another model, or other settings, are refused.
"""

import hashlib
import math
import shutil
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from speechssl import __version__
from speechssl.config import UserError
from speechssl.embed.encoding import Layer, layer_weights, learned_mix
from speechssl.embed.finished import Finished
from speechssl.embed.inputs import Item, Plan, read_plan
from speechssl.embed.local import Engine, Job, run_local
from speechssl.embed.moments import Pooling
from speechssl.embed.parts import FailedClip, Layout, Parts, check_same, keys_of, locked, pin, pinned
from speechssl.embed.precision import Precision, check_precision
from speechssl.embed.progress import Progress, Tally
from speechssl.embed.remote import is_address
from speechssl.embed.resources import DEFAULT_MEMORY, devices_of, divide, peak_memory
from speechssl.embed.writers import check_out, settings_of, write
from speechssl.interop.sources import Source, open_source
from speechssl.nn.memory import give_back_freed_memory

LEVELS = ("mean", "mean+std", "none")
_NEW, _FAILED = 2**64 - 1, 2**64 - 2  # places of clips: not done before; cannot be used


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
    progress: Callable[[Progress], None] | None = None,
) -> ExtractReport:
    """Embed every clip of a source.

    Args:
        model: as in `speechssl.load`.
        source: a folder, a manifest (`.jsonl`), a file, a glob, `-`, an address, or a list (see `inputs.read_plan`).
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
        progress: called after each batch.

    Returns:
        Counts, speed, memory.

    Raises:
        UserError: no such model or source, unknown settings, an output of another model or of other settings, or a run
            that is writing there.
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
    plan = read_plan(source)
    resources = divide(memory, opened.encoder.config, devices, threads=threads)
    names = () if pooling == "none" else _vector_names(len(job.layers))
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
        run = _Run(out, folder, plan=plan, layout=layout, settings=settings, tally=Tally(plan, progress))
        before = run.finished_before()
        if before is not None:
            shutil.rmtree(folder)
            return _report(before, out, started=started, new=0.0, resumed=before["written"], before=True)
        run.begin()
        if engine == "ray":
            from speechssl.embed.cluster import run_on_ray

            parts = run_on_ray(run.remaining(), model, job, run, workers=workers, resources=resources)
        else:
            parts = run_local(run.remaining(), opened.encoder, job, run, devices=devices, resources=resources)
        del opened  # what works is a copy with the weights laid out anew
        with closing(parts):  # threads end with the run, however it ends
            for part in parts:
                run.commit(part)
                give_back_freed_memory()
        told = run.finish()
        shutil.rmtree(folder)
    report = _report(told, out, started=started, new=run.tally.seconds, resumed=run.resumed, before=False)
    return replace(report, notes=tuple(run.notes))


def _job(opened: Source, *, pooling: str, layer: Any, dtype: Precision, compiled: bool) -> Job:
    """What every encoder of the run does; unknown layers are refused here."""
    mix = None if opened.folder is None else learned_mix(opened.folder)
    encoder = opened.encoder
    layers = list(range(encoder.config.transformer.layers + 1)) if layer == "all" else [layer]
    for each in layers:
        layer_weights(each, blocks=encoder.config.transformer.layers, mix=mix)
    kept: Pooling | None = "mean" if pooling == "mean" else "mean+std" if pooling == "mean+std" else None
    return Job(kept, tuple(layers), encoder.config.dim, mix, dtype, compiled)


def _may_succeed(item: Item) -> bool:
    """Whether it is worth another try: what lies behind an address may have failed for the network's sake."""
    return is_address(item.location)


def _vector_names(layers: int) -> tuple[str, ...]:
    return ("vector",) if layers == 1 else tuple(f"vector_{number}" for number in range(layers))


class _Run:
    """One output under way: which clips are left, where the rows of the others lie, what failed."""

    def __init__(self, out: Path, folder: Path, *, plan: Plan, layout: Layout, settings: dict[str, Any], tally: Tally):
        self.out, self.folder, self.plan, self.settings, self.tally = out, folder, plan, settings, tally
        self.errors = out.with_name(f"{out.name}.errors.jsonl")
        old = pinned(folder)
        if old is not None:
            check_same(folder, old, settings)
            settings.update({name: old[name] for name in ("dtype", "cosine") if name in old})
        self.parts = Parts(folder, layout)
        self.resumed = 0
        self.notes: list[str] = []
        self._digest = hashlib.blake2b(digest_size=8)
        self._order = array("Q")  # of the plan: places, _NEW or _FAILED
        self._fresh = array("Q")  # of what was new: places or _FAILED
        self._known_failed: list[FailedClip] = []
        self._fresh_failed: list[FailedClip] = []

    def finished_before(self) -> dict[str, Any] | None:
        """The settings of a finished output that is all that was asked for; its rows are taken over where it is not.

        Raises:
            UserError: it was made with other settings, or cannot be added to.
        """
        old = settings_of(self.out)
        if old is None:
            return None
        check_same(self.out, old, self.settings)
        can_grow = self.settings["format"] == "parquet" and not self.parts.layout.frames
        done = keys_of(self.out) if can_grow and old["failed"] else None
        digest, again = hashlib.blake2b(digest_size=8), False
        for item in self.plan.items():
            digest.update(item.key)
            again = again or (done is not None and _may_succeed(item) and item.key.hex() not in done)
        if digest.hexdigest() == old.get("plan") and not again:
            return old
        if not can_grow:
            raise UserError(
                f"{self.out}: finished, and the files of {self.plan.source} have changed since; give another name "
                "(vectors in .parquet can be added to)"
            )
        if not self.parts.count:
            self.settings.update({name: old[name] for name in ("dtype", "cosine") if name in old})
            pin(self.folder, self.settings)
            self.parts.adopt(self.out)
        return None

    def begin(self) -> None:
        """The error file of what an earlier run has done."""
        self.out.parent.mkdir(parents=True, exist_ok=True)
        if not self.out.exists():  # those of a finished output are told until it is replaced
            self._write_errors(list(self.parts.failed.values()))

    def settle(self, dtype: str, cosine: float | None) -> None:
        """Keep the settings with the arithmetic that was chosen; from here on they are those of the output."""
        self.settings.update(dtype=dtype, cosine=cosine)
        pin(self.folder, self.settings)

    def remaining(self) -> Iterator[Item]:
        """The clips that are not done, in order."""
        for item in self.plan.items():
            key = item.key
            self._digest.update(key)
            place = self.parts.place(key)
            failed = self.parts.failed.get(key.hex()) if place is None and not _may_succeed(item) else None
            if place is not None:
                self._order.append(place)
            elif failed is not None:
                self._order.append(_FAILED)
                self._known_failed.append(failed)
            else:
                self._order.append(_NEW)
                yield item
                continue
            self.tally.known(failed=failed is not None)

    def commit(self, part: Any) -> None:
        """Write a part, and its errors."""
        number = self.parts.count
        failed = self.parts.commit(part, self.settings)
        row = 0
        for done in part.done:
            self._fresh.append(number << 32 | row if done else _FAILED)
            row += done
        self._fresh_failed += failed
        self.notes += part.notes
        if failed:
            with self.errors.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.writelines(each.line() for each in failed)

    def finish(self) -> dict[str, Any]:
        """Write the output of all parts, and the errors in order; returns what is kept beside it."""
        fresh, known, new = iter(self._fresh), iter(self._known_failed), iter(self._fresh_failed)
        places = array("Q")
        failed: list[FailedClip] = []
        for place in self._order:
            found = next(fresh) if place == _NEW else place
            if found == _FAILED:
                failed.append(next(new if place == _NEW else known))
            else:
                places.append(found)
                self.resumed += place != _NEW
        finished = Finished(self.parts, places, self.settings)
        self.settings.update(
            written=len(places),
            failed=len(failed),
            seconds=math.fsum(finished.column("duration")),
            plan=self._digest.hexdigest(),
        )
        self._write_errors(failed)
        write(self.out, finished, self.folder)
        return self.settings

    def _write_errors(self, failed: Sequence[FailedClip]) -> None:
        if not failed:
            self.errors.unlink(missing_ok=True)
            return
        partial = self.folder / ".errors.partial"
        partial.write_text("".join(each.line() for each in failed), encoding="utf-8", errors="backslashreplace")
        partial.replace(self.errors)


def _report(
    told: dict[str, Any], out: Path, *, started: float, new: float, resumed: int, before: bool
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
    )
