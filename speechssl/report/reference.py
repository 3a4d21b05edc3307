"""Reference curves: validations of a run of the same objective and size, drawn in grey behind those of a run.

The package has one file per objective and size, `assets/curves/OBJECTIVE-PRESET.json`, which `speechssl
compare-objectives --write-curves` makes of its results. Batches may differ: a point is drawn at the update by which the
run had seen as much audio.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import FiniteFloat

from speechssl.report.records import Count, LogRow, Objective, Record, read_json

CURVES = Path(__file__).parent.parent / "assets" / "curves"


class ReferencePoint(Record):
    """A validation of the reference run."""

    update: Count
    hours: FiniteFloat
    metrics: dict[str, float | list[float]]


class ReferenceFile(Record):
    """`OBJECTIVE-PRESET.json`.

    Attributes:
        objective: its name.
        preset: size of the encoder.
        encoder: settings of the encoder; a run has this size where its own are equal.
        corpora: names of the corpora of pretraining.
        hours: of audio in them.
        updates: of the run.
        points: its validations.
    """

    objective: str
    preset: str
    encoder: dict[str, Any]
    corpora: list[str]
    hours: FiniteFloat
    updates: Count
    points: list[ReferencePoint]


@dataclass(frozen=True)
class Reference:
    """A reference run on the updates of another run.

    Attributes:
        rows: its validations, at the updates of the other run.
        caption: which run it is.
    """

    rows: Sequence[LogRow]
    caption: str


def reference_of(config: Path, training: Sequence[LogRow], *, curves: Path | None = None) -> Reference | None:
    """The reference of a run; None where the package has none for its objective and size, or the run is too short.

    Args:
        config: `config.json` of the run.
        training: its log rows of updates.
        curves: folder of reference curves [default: that of the package].

    Raises:
        UserError: a file that cannot be read; names it.
    """
    own = read_json(config, _Own)
    if own is None or own.objective is None or own.encoder is None or not training:
        return None
    name = own.objective.name
    for path in sorted((CURVES if curves is None else curves).glob("*.json")):
        found = read_json(path, ReferenceFile) if path.name.startswith(f"{name}-") else None
        if found is not None and found.objective == name and _agree(found.encoder, own.encoder):
            rows = _at_updates(found.points, training)
            return Reference(rows, _caption(found)) if rows else None
    return None


class _Own(Record):
    """The parts of `config.json` that say what a run is."""

    encoder: dict[str, Any] | None = None
    objective: Objective | None = None


def _agree(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two tables of settings are equal where both have a value: a newer version has more settings."""
    shared = one.keys() & other.keys()
    return bool(shared) and all(
        _agree(one[key], other[key])
        if isinstance(one[key], Mapping) and isinstance(other[key], Mapping)
        else one[key] == other[key]
        for key in shared
    )


def _at_updates(points: Sequence[ReferencePoint], training: Sequence[LogRow]) -> list[LogRow]:
    """Points as log rows at the update by which the run had seen as much audio; those beyond its end are left out."""
    seen = np.array([0.0, *(row.seconds_seen for row in training)])
    steps = np.array([0.0, *(float(row.step) for row in training)])
    return [
        LogRow.model_validate({"step": round(float(np.interp(point.hours * 3600, seen, steps))), **point.metrics})
        for point in points
        if point.hours * 3600 <= seen[-1]
    ]


def _caption(found: ReferenceFile) -> str:
    return (
        f"Grey: validations of a reference run of {found.objective} {found.preset}, {found.updates:,} updates on "
        f"{', '.join(found.corpora)} ({found.hours:g} h), at equal amounts of audio seen. Other data give other values."
    )
