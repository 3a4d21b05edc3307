"""Recordings to predictions, from the same sources as `extract`.

    predict_to(Predictor(Path("runs/tone")), ["recordings"], Path("tones.csv"), layout="csv")

A run that writes to a file works like `extract` (see `resume`): finished predictions are kept in `OUT.parts`, so that a
killed run resumes; the output appears under its name when it is complete; a second process is refused.
`OUT.run.parquet` keeps the settings and every prediction, so that the same command predicts only new and changed
files.
"""

import io
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from speechssl import __version__
from speechssl.config import UserError
from speechssl.data.corpora.folder_walk import is_audio
from speechssl.data.coverage import Coverage
from speechssl.data.findings import closing_lines
from speechssl.data.places import is_address, local_path
from speechssl.data.values import readable
from speechssl.extract.decode import Failed
from speechssl.extract.machine.progress import ExtractionProgress, shown_on
from speechssl.extract.plan import Item, Plan, each_once, read_plan
from speechssl.extract.predict.parts import predict_each, schema_of_rows
from speechssl.extract.predict.rows import Format, PredictionFile, RowWriter, TextStream
from speechssl.extract.resume import Run, pinned
from speechssl.extract.shards import FailedClip, locked
from speechssl.files import naming
from speechssl.inference.predictor import Predictor
from speechssl.terminal import bars, say, standard_output

_TABLES = frozenset((".json", ".jsonl", ".csv", ".tsv", ".parquet", ".arrow", ".tar"))
_SUFFIXES: dict[str, Format] = {".csv": "csv", ".jsonl": "jsonl"}


@dataclass(frozen=True)
class PredictReport:
    """Counts of a prediction run.

    Attributes:
        written: clips with a prediction.
        failed: clips that could not be used.
        seconds: of audio, s.
        resumed: of the clips written, those that an earlier run had predicted.
        finished_before: whether the output was there before, with these settings; nothing was predicted.
        understood: lines about the sources: what was read of them, and what was not.
    """

    written: int
    failed: int
    seconds: float
    resumed: int
    finished_before: bool
    understood: tuple[str, ...] = ()


def read_sources(sources: Sequence[str], *, allow_remote: bool = False) -> Plan:
    """The clips of several sources, one after the other; a clip that a second source names again is a duplicate.

    A file is read as audio for any suffix but those of tables; everything else is as in `plan.read_plan`. Names of
    clips in a folder begin with the folder.

    Args:
        sources: files, folders, manifests, globs, addresses.
        allow_remote: whether manifests and tables may name addresses (see `plan.read_plan`).

    Raises:
        UserError: a folder, manifest, glob or address with nothing in it.
    """
    plans = [_plan(source, allow_remote=allow_remote) for source in sources]
    if len(plans) == 1:
        return plans[0]

    def items() -> Iterator[Item]:
        for plan in plans:
            yield from plan.items()

    files = [plan.files for plan in plans]
    seconds = [plan.seconds for plan in plans]
    return Plan(
        shlex.join(plan.source for plan in plans),
        lambda: each_once(items()),
        None if None in files else sum(each for each in files if each is not None),
        None if None in seconds else sum(each for each in seconds if each is not None),
        {},
        parts=tuple(plans),
    )


def understood(plan: Plan, coverage: Coverage) -> tuple[str, ...]:
    """The closing lines of `extract`, of each source that says more than names of files.

    Args:
        plan: as `read_sources` gives it, read to its end.
        coverage: of the decoded clips.
    """
    lines: list[str] = []
    for part in plan.parts or (plan,):
        front = f"{part.source}: " if plan.parts else ""
        lines += [front + line for line in closing_lines(part.known, part.findings) if _says_something(part)]
    covered = coverage.note()
    return tuple(lines + ([covered] if covered else []))


def _says_something(part: Plan) -> bool:
    """Whether the source has more than audio, or anything that was not understood."""
    known, found = part.known, part.findings
    read = known.label or known.text or known.speakers or known.splits or known.notes()
    unread = found.unused or found.not_read or found.archives or found.sounds or found.missing
    return bool(read or unread or any("no label:" not in note for note in found.notes))


def _plan(source: str, *, allow_remote: bool) -> Plan:
    source = local_path(source)
    if Path(source).is_dir():
        plan = read_plan(source, allow_remote=allow_remote)

        def items() -> Iterator[Item]:
            for item in plan.items():
                yield item if is_address(item.path) else replace(item, path=str(Path(readable(source)) / item.path))

        return replace(plan, items=items)
    is_file = source != "-" and not is_address(source) and Path(source).suffix.lower() not in _TABLES
    is_file = is_file and (Path(source).exists() or is_audio(source))
    if is_file and (Path(source).exists() or not set("*?[") & set(source)):
        return replace(read_plan([source]), source=source)
    return read_plan(source, allow_remote=allow_remote)


def predict_to(
    predictor: Predictor,
    sources: Sequence[str],
    out: Path,
    *,
    layout: Format = "jsonl",
    allow_remote: bool = False,
    progress: Callable[[ExtractionProgress], None] | None = None,
    failed: Callable[[FailedClip], None] = lambda _: None,
) -> PredictReport:
    """Predicts every clip of some sources, and writes one file.

    Args:
        predictor: the model.
        sources: see `read_sources`.
        out: the file.
        layout: of its rows (see `predictions`).
        allow_remote: as `read_sources` takes it.
        progress: called after each part.
        failed: called with each clip that could not be used.

    Raises:
        UserError: no such source; an output of another model or of other settings, or not of this command; a run that
            is writing there.
    """
    if out.is_dir():
        raise UserError(f"{out}: is a folder; give the name of a file")
    plan = read_sources(sources, allow_remote=allow_remote)
    settings: dict[str, Any] = {
        "format": layout,
        "version": __version__,
        "model": str(predictor.folder),
        "source": plan.source,
        "dtype": "float32",
        **predictor.settings(),
    }
    folder = out.with_name(f"{out.name}.parts")
    coverage = Coverage()
    with locked(folder):
        output = PredictionFile(out, layout, predictor.classes, under_way=pinned(folder) is not None)
        run = Run(output, folder, plan=plan, schema=schema_of_rows(), settings=settings, progress=progress)
        finished = run.begin()
        before = finished is not None
        if finished is None:
            run.settle("float32", None)
            parts = predict_each(predictor, run.remaining(), spool=folder, count=run.counts.add, coverage=coverage)
            with closing(parts):
                for part in parts:
                    for each in run.commit(part.part()):
                        failed(each)
            finished = run.finish()
        shutil.rmtree(folder)
    resumed = finished["written"] if before else run.resumed
    lines = understood(plan, coverage)
    return PredictReport(finished["written"], finished["failed"], finished["seconds"], resumed, before, lines)


def predict_to_file(
    predictor: Predictor, sources: Sequence[str], out: Path, *, layout: Format | None = None, allow_remote: bool = False
) -> PredictReport:
    """Writes predictions to a file; shows a bar meanwhile, a line for each file that fails, and a summary.

    Args:
        predictor: the model.
        sources: as `read_sources` takes them.
        out: the file; a pipe or a device gets the rows as they come.
        layout: of the rows; None: by the suffix of `out`, else a table.
        allow_remote: as `read_sources` takes it.
    """
    layout = layout or _SUFFIXES.get(out.suffix.lower(), "table")
    if out.exists() and not out.is_file() and not out.is_dir():
        with out.open("w", encoding="utf-8", newline="") as file:
            return predict_to_stream(predictor, sources, file, layout=layout, allow_remote=allow_remote)
    with bars() as bar:
        report = predict_to(
            predictor,
            sources,
            out,
            layout=layout,
            allow_remote=allow_remote,
            progress=shown_on(bar("predicting")),
            failed=lambda each: say(f"{each.path}: {each.reason}"),
        )
    say(f"{out}: {report.written} predictions, {report.seconds / 3600:.2f} h of audio")
    if report.finished_before:
        say("all of it was there already; nothing was done")
    elif report.resumed:
        say(f"{report.resumed} of the predictions were there already")
    for line in report.understood:
        say(line)
    return report


def predict_to_stream(
    predictor: Predictor, sources: Sequence[str], file: TextStream, *, layout: Format, allow_remote: bool = False
) -> PredictReport:
    """Writes rows to a stream as they come; reasons of failed clips and the closing lines go to standard error.

    Raises:
        OSError: the stream cannot take them; carries its name.
    """
    plan = read_sources(sources, allow_remote=allow_remote)
    if isinstance(file, io.TextIOWrapper):  # a locale may not encode all characters
        file.reconfigure(errors="backslashreplace")
    writer = RowWriter(file, layout, predictor.classes)
    with _writing(file):
        writer.header()
    written, failed, seconds, coverage = 0, 0, 0.0, Coverage()
    with (
        tempfile.TemporaryDirectory(prefix="speechssl-") as spool,
        closing(predict_each(predictor, plan.items(), spool=Path(spool), coverage=coverage)) as parts,
    ):
        for part in parts:
            for row in part.in_order():
                if isinstance(row, Failed):
                    with _writing(file):
                        writer.failed(row.item.path, row.item.offset, row.reason)
                    say(f"{row.item.path}: {row.reason}")
                    failed += 1
                else:
                    with _writing(file):
                        writer.row(row.item.path, row.item.offset, row.seconds, asdict(row.prediction))
                    written, seconds = written + 1, seconds + row.seconds
            with _writing(file):
                file.flush()
    lines = understood(plan, coverage)
    for line in lines:
        say(line)
    return PredictReport(written, failed, seconds, 0, finished_before=False, understood=lines)


def _writing(file: TextStream) -> AbstractContextManager[None]:
    """Errors of a write to the stream carry its name."""
    return standard_output() if file is sys.stdout else naming(str(getattr(file, "name", "the output")))
