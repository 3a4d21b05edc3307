"""Content of a run folder: configuration, log, results and map, each of them optional."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from speechssl.config import UserError
from speechssl.metrics.results import ResultRow, read_results
from speechssl.report.records import (
    Confusion,
    CurveRecord,
    Judged,
    LogRow,
    Metrics,
    ModelFacts,
    Provenance,
    Recipe,
    Worst,
    checked,
    parsed,
    read_json,
    read_map,
    read_text,
    read_toml,
)
from speechssl.report.reference import Reference, reference_of

_LOSS_ALONE = (CurveRecord(metric="loss", title="Loss"),)  # of a run without metrics.json


@dataclass(frozen=True)
class EmbeddingMap:
    """Points in two dimensions with label and speaker of each; empty strings where unknown."""

    points: Float[np.ndarray, "clips 2"]
    label: Sequence[str]
    speaker: Sequence[str]
    method: str


@dataclass(frozen=True)
class Run:
    """A run folder, read.

    Attributes:
        name: name of the folder.
        config: `config.json`; empty when missing.
        recipe: `recipe.toml`; empty when missing.
        training: log rows of updates.
        validation: log rows of validations.
        results: rows of `results.json`.
        map: `map.npz`; None when missing.
        confusion: `confusion.json`; empty when missing.
        worst: `worst.json` of speech recognition; None when missing.
        judged: `judge.json`: what `judge` left out; None when missing.
        settings: settings of the objective, in words; empty when missing.
        curves: metrics of the log that are drawn.
        reference: validations of a run of the same objective and size; None where the package has none.
    """

    name: str
    config: ModelFacts
    recipe: Recipe
    training: Sequence[LogRow]
    validation: Sequence[LogRow]
    results: Sequence[ResultRow]
    map: EmbeddingMap | None
    confusion: Confusion
    worst: Worst | None = None
    judged: Judged | None = None
    settings: str = ""
    curves: Sequence[CurveRecord] = _LOSS_ALONE
    reference: Reference | None = None

    @property
    def probes(self) -> Sequence[ResultRow]:
        """Rows of probes on frozen features."""
        return [row for row in self.results if row.is_probe]

    @property
    def experiments(self) -> Sequence[ResultRow]:
        """Rows of whole experiments with few labels."""
        return [row for row in self.results if not (row.is_probe or row.is_abx or row.is_verification)]

    @property
    def phones(self) -> Sequence[ResultRow]:
        """Rows of frames against a phone alignment."""
        return [row for row in self.results if row.is_abx]

    @property
    def verification(self) -> Sequence[ResultRow]:
        """Rows of speaker verification."""
        return [row for row in self.results if row.is_verification]

    @property
    def provenance(self) -> Provenance:
        """Versions, command, corpora and hours, as stored by training."""
        return self.config.provenance

    @property
    def synthetic(self) -> bool:
        """Whether (some of) the training or test speech is synthesised."""
        return self.provenance.synthetic or any(row.synthetic for row in self.results)

    @property
    def wall_seconds(self) -> float:
        """Seconds of training, from the log's speeds: each row covers the audio since the row before it.

        A row's speed is the mean since its process started, so the time of a resumed run is slightly off.
        """
        total, before = 0.0, 0.0
        for row in self.training:
            if row.seconds_per_second > 0:
                total += max(0.0, row.seconds_seen - before) / row.seconds_per_second
            before = row.seconds_seen
        return total


def read_run(folder: Path) -> Run:
    """Read a run folder.

    Raises:
        UserError: no such folder, nothing of a run in it, or a file that cannot be read; names the file.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    known = ("log.jsonl", "results.json", "config.json")
    if not any((folder / name).exists() for name in known):
        raise UserError(f"{folder}: nothing to report; a run has at least one of {', '.join(known)}")
    rows = _read_log(folder / "log.jsonl")
    results = folder / "results.json"
    metrics = read_json(folder / "metrics.json", Metrics)
    training = [row for row in rows if not row.valid]
    return Run(
        name=folder.resolve().name,
        config=read_json(folder / "config.json", ModelFacts) or ModelFacts(),
        recipe=read_toml(folder / "recipe.toml", Recipe) or Recipe(),
        training=training,
        validation=[row for row in rows if row.valid],
        results=read_results(results) if results.exists() else [],
        map=_map(folder / "map.npz"),
        confusion=read_json(folder / "confusion.json", Confusion) or Confusion(),
        worst=read_json(folder / "worst.json", Worst),
        judged=read_json(folder / "judge.json", Judged),
        settings="" if metrics is None else metrics.settings,
        curves=_LOSS_ALONE if metrics is None else metrics.curves,
        reference=reference_of(folder / "config.json", training),
    )


def series(rows: Sequence[LogRow], metric: str, *, line: int = 0) -> tuple[list[int], list[float]]:
    """Steps and values of one number over the rows that have it (values may be NaN; JSON's null is skipped).

    Args:
        rows: of the log.
        metric: its key.
        line: index of the number, where the metric is a list.
    """
    steps: list[int] = []
    values: list[float] = []
    for row in rows:
        found = row.values.get(metric)
        numbers = [found] if isinstance(found, int | float) else found or []
        if line < len(numbers):
            steps.append(row.step)
            values.append(float(numbers[line]))
    return steps, values


def _read_log(path: Path) -> list[LogRow]:
    lines = (read_text(path) or "").splitlines()
    rows: list[LogRow] = []
    for number, line in enumerate(lines, start=1):
        where = f"{path} line {number}"
        try:
            content = parsed(line, where)
        except UserError:
            if number == len(lines):  # a run that was killed, or is still writing
                break
            raise
        rows.append(checked(content, LogRow, where))
    return rows


def _map(path: Path) -> EmbeddingMap | None:
    found = read_map(path)
    if found is None:
        return None
    points, texts = found
    return EmbeddingMap(points=points, label=texts["label"], speaker=texts["speaker"], method=" ".join(texts["method"]))
