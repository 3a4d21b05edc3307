"""What an extraction says of itself: while it runs, and at its end."""

import time
from collections.abc import Callable
from pathlib import Path

from speechssl.data.findings import closing_lines
from speechssl.extract.progress import Progress
from speechssl.extract.run import ExtractReport
from speechssl.terminal import Update, doubts

_GIB = 2**30


def told_by(bar: Update) -> Callable[[Progress], None]:
    """A listener that shows files, hours and times real time on a bar.

    >>> listener = told_by(lambda done, total, remark="": print(done, total, remark.partition(",")[0]))
    >>> listener(Progress(files=3, failed=1, seconds=5400.0, total_files=9, total_seconds=None))
    3 9 1.50 h
    """
    began = time.monotonic()

    def listen(now: Progress) -> None:
        speed = now.seconds / max(1e-3, time.monotonic() - began)
        hours = f"{now.seconds / 3600:.2f}" + (f"/{now.total_seconds / 3600:.2f}" if now.total_seconds else "")
        failed = f", {now.failed} bad" if now.failed else ""
        bar(now.files, now.total_files, f"{hours} h, {speed:.0f}x real time{failed}")

    return listen


def summary(report: ExtractReport, out: Path) -> list[str]:
    """The lines at the end."""
    hours = f"{report.seconds / 3600:.2f} h of audio"
    lines = [f"{out}: {report.written} clips, {report.dim} numbers each, {hours}"]
    if report.finished_before:
        lines.append("all of it was there already; nothing was done")
    else:
        before = f"; {report.resumed} of the clips were there already" if report.resumed else ""
        cosine = "" if report.cosine is None else f", cosine {report.cosine:.5f} with float32 on the first batch"
        lines.append(
            f"{report.wall_seconds:.0f} s, {report.times_real_time:.0f} times real time, at most "
            f"{report.peak_memory / _GIB:.1f} GiB, {report.dtype}{cosine}{before}"
        )
    if report.errors:
        lines.append(f"{report.failed} clips could not be used; each one is in {report.errors}")
    return lines + doubts(report.notes) + closing_lines(report.known, report.findings)
