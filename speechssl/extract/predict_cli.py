"""What the command `predict` shows: rows on a stream as they come, or a bar and a summary beside a file."""

import contextlib
import io
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path

from speechssl.data.coverage import Coverage
from speechssl.extract.decode import Failed
from speechssl.extract.predict import PredictReport, predict_each, predict_to, read_sources, understood
from speechssl.extract.predictions import Format, RowWriter, TextStream
from speechssl.extract.progress import told_by
from speechssl.files import naming
from speechssl.inference.predictor import Predictor
from speechssl.terminal import bars, say, standard_output

_SUFFIXES: dict[str, Format] = {".csv": "csv", ".jsonl": "jsonl"}


def predict_to_file(
    predictor: Predictor, sources: Sequence[str], out: Path, *, layout: Format | None = None, allow_remote: bool = False
) -> PredictReport:
    """Write predictions to a file, with a bar while it runs, a line for each file that fails, and a summary.

    Args:
        predictor: the model.
        sources: as `predict.read_sources` takes them.
        out: the file; a pipe or a device gets the rows as they come.
        layout: of the rows; None: by the suffix of `out`, else a table.
        allow_remote: as `predict.read_sources` takes it.
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
            progress=told_by(bar("predicting")),
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
    """Write rows to a stream as they come; what fails, and what was understood of the sources, to standard error.

    Raises:
        OSError: the stream cannot take them; carries its name.
    """
    plan = read_sources(sources, allow_remote=allow_remote)
    if isinstance(file, io.TextIOWrapper):  # whatever the locale can encode
        file.reconfigure(errors="backslashreplace")
    writer = RowWriter(file, layout, predictor.classes)
    with _writing(file):
        writer.header()
    written, failed, seconds, coverage = 0, 0, 0.0, Coverage()
    with (
        tempfile.TemporaryDirectory(prefix="speechssl-") as spool,
        contextlib.closing(predict_each(predictor, plan.items(), spool=Path(spool), coverage=coverage)) as parts,
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
