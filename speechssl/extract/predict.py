"""Recordings to predictions: what `speechssl predict` does with the sources that `extract` takes.

    predict_to(Predictor(Path("runs/tone")), ["recordings"], Path("tones.csv"), layout="csv")

Written to a file, a run works like `extract` (see `resume`): finished predictions are kept in `OUT.parts`, so that a
run that was killed resumes; the output appears under its name when it is whole; a second process is refused. Beside
it, `OUT.run.parquet` keeps the settings and every prediction, so that the same command does nothing where nothing has
changed, and predicts only new and changed files where something has.
"""

import logging
import os
import shlex
import shutil
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from speechssl import __version__
from speechssl.audio import AudioError
from speechssl.config import UserError
from speechssl.data.corpora.folder_walk import is_audio
from speechssl.data.coverage import Coverage
from speechssl.data.findings import closing_lines
from speechssl.data.places import local_path
from speechssl.extract.decode import Clip, Decoded, Failed, Streamed, decoding
from speechssl.extract.encode import parts_of
from speechssl.extract.parts import FailedClip, locked, pinned
from speechssl.extract.plan import Item, Plan, each_once, read_plan
from speechssl.extract.predictions import Format, PredictedPart, PredictedRow, PredictionFile, schema_of_rows
from speechssl.extract.progress import Progress, Tally
from speechssl.extract.remote import is_address
from speechssl.extract.resume import Run
from speechssl.inference.predictor import Prediction, Predictor

PART_SECONDS, PART_CLIPS = 120.0, 256  # predicted together, and kept together
LONG_SECONDS = 120.0  # a longer clip is read window by window
_AUDIO_BYTES = 1 << 26  # of decoded audio that may wait
_log = logging.getLogger(__name__)
_TABLES = frozenset((".json", ".jsonl", ".csv", ".tsv", ".parquet", ".arrow", ".tar"))


@dataclass(frozen=True)
class PredictReport:
    """What was predicted.

    Attributes:
        written: clips with a prediction.
        failed: clips that could not be used.
        seconds: of audio, s.
        resumed: of the clips written, those that an earlier run had done.
        finished_before: the output was there and is what was asked for; nothing was done.
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

    A file is taken as it is named, whatever its suffix; everything else is what `plan.read_plan` takes. Clips of a
    folder are named with the folder in front.

    Args:
        sources: what to predict.
        allow_remote: manifests and tables may name addresses (see `plan.read_plan`).

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
    """The lines that `extract` ends with, of each source that says more than names of files.

    Args:
        plan: as `read_sources` gives it, read to its end.
        coverage: of the clips that were decoded.
    """
    lines: list[str] = []
    for part in plan.parts or (plan,):
        front = f"{part.source}: " if plan.parts else ""
        lines += [front + line for line in closing_lines(part.known, part.findings) if _says_something(part)]
    covered = coverage.note()
    return tuple(lines + ([covered] if covered else []))


def _says_something(part: Plan) -> bool:
    """Whether anything is known of the clips beside their audio, or anything beside them was not understood."""
    known, found = part.known, part.findings
    read = known.label or known.text or known.speakers or known.splits or known.notes()
    unread = found.unused or found.not_read or found.archives or found.sounds or found.missing
    return bool(read or unread or any("no label:" not in note for note in found.notes))


def _plan(source: str, *, allow_remote: bool) -> Plan:
    source = local_path(source)
    if Path(source).is_dir():
        plan = read_plan(source, allow_remote=allow_remote)
        front = source.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        return replace(plan, items=lambda: (_in_folder(front, item) for item in plan.items()))
    is_file = source != "-" and not is_address(source) and Path(source).suffix.lower() not in _TABLES
    is_file = is_file and (Path(source).exists() or is_audio(source))
    if is_file and (Path(source).exists() or not set("*?[") & set(source)):
        return replace(read_plan([source]), source=source)
    return read_plan(source, allow_remote=allow_remote)


def _in_folder(folder: str, item: Item) -> Item:
    return item if is_address(item.path) else replace(item, path=str(Path(folder) / item.path))


def predict_each(
    predictor: Predictor,
    items: Iterator[Item],
    *,
    spool: Path,
    tell: Callable[[int, float, int], None] = lambda *_: None,
    coverage: Coverage | None = None,
) -> Generator[PredictedPart]:
    """Predict clips in order, part by part; decoding runs ahead in threads.

    Args:
        predictor: the model.
        items: the clips.
        spool: a folder for local copies of what is behind addresses.
        tell: called with clips, seconds of audio and failures that are newly done.
        coverage: learns how far the clips reach in their files.
    """
    threads, long_samples = min(4, os.cpu_count() or 1), round(LONG_SECONDS * 16000)
    with decoding(items, threads=threads, budget=_AUDIO_BYTES, long_samples=long_samples, spool=spool) as clips:
        for part in parts_of(clips, most_seconds=PART_SECONDS, most_clips=PART_CLIPS):
            found = _predict_part(predictor, part, release=clips.release)
            if coverage is not None:
                _cover(coverage, part)
            tell(len(part), sum(row.seconds for row in found.rows), len(found.failed))
            yield found


def _predict_part(predictor: Predictor, part: Sequence[Clip], *, release: Callable[[Clip], None]) -> PredictedPart:
    whole = [clip for clip in part if isinstance(clip, Decoded)]
    outcomes = iter(predictor.outcomes([clip.waveform for clip in whole]))
    rows: list[PredictedRow] = []
    failed: list[Failed] = []
    done: list[bool] = []
    for clip in part:
        if isinstance(clip, Failed):
            failed.append(clip)
            done.append(False)
            continue
        for note in clip.notes:
            _log.warning("%s: %s", clip.item.location, note)
        outcome = next(outcomes) if isinstance(clip, Decoded) else _predict_long(predictor, clip)
        release(clip)
        done.append(not isinstance(outcome, str))
        if isinstance(outcome, str):
            failed.append(Failed(clip.item, outcome))
        else:
            rows.append(PredictedRow(clip.item, clip.seconds, outcome))
    return PredictedPart(rows, failed, done)


def _cover(coverage: Coverage, part: Sequence[Clip]) -> None:
    """How far the clips of a part reach in their files."""
    for clip in part:
        if not isinstance(clip, Failed):
            end = clip.item.offset + clip.item.duration if clip.item.duration else None
            coverage.add(clip.item.path, end=end, whole=clip.file_seconds)


def _predict_long(predictor: Predictor, clip: Streamed) -> Prediction | str:
    try:
        return predictor.outcomes([clip.clip])[0]
    except AudioError as error:
        return error.reason


def predict_to(
    predictor: Predictor,
    sources: Sequence[str],
    out: Path,
    *,
    layout: Format = "jsonl",
    allow_remote: bool = False,
    progress: Callable[[Progress], None] | None = None,
    failed: Callable[[FailedClip], None] = lambda _: None,
) -> PredictReport:
    """Predict every clip of some sources, and write one file.

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
        tally = Tally(plan, progress)
        run = Run(output, folder, plan=plan, schema=schema_of_rows(), settings=settings, tally=tally)
        told = run.finished_before()
        before = told is not None
        if told is None:
            run.begin()
            run.settle("float32", None)
            parts = predict_each(predictor, run.remaining(), spool=folder, tell=tally.tell, coverage=coverage)
            with closing(parts):
                for part in parts:
                    for each in run.commit(part.part()):
                        failed(each)
            told = run.finish()
        shutil.rmtree(folder)
    resumed = told["written"] if before else run.resumed
    return PredictReport(told["written"], told["failed"], told["seconds"], resumed, before, understood(plan, coverage))
