"""`metrics.json` of a run folder: the metrics of `log.jsonl` that the report draws, with their captions.

The report needs neither torch nor the objective: lines and limits that follow from settings are numbers here.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import reduce
from pathlib import Path
from typing import Any

from speechssl.files import write_atomic
from speechssl.objectives.base import Curve, ObjectiveConfig


def write_curves(out: Path, curves: Sequence[Curve], config: ObjectiveConfig | None = None) -> None:
    """Write `metrics.json`.

    Args:
        out: the run folder.
        curves: metrics that are drawn.
        config: settings of the objective; None for a run without one.
    """
    write_atomic(out / "metrics.json", json.dumps(metrics(curves, config), ensure_ascii=False).encode())


def metrics(curves: Sequence[Curve], config: ObjectiveConfig | None = None) -> dict[str, Any]:
    """Content of `metrics.json`.

    Args:
        curves: metrics that are drawn; `bound` and `alarm` name settings of `config`.
        config: settings of the objective; None for a run without one.

    >>> from speechssl.objectives.wav2vec2 import CURVES, Config
    >>> content = metrics(CURVES[2:3], Config())
    >>> content["settings"], content["curves"][0]["bound"]
    ('2 × 320 codes, 100 negatives, mask 0.65 in spans of 10 frames', 320.0)
    """
    rows = [
        asdict(curve) | {"bound": _value(config, curve.bound), "alarm": _value(config, curve.alarm)} for curve in curves
    ]
    return {"settings": "" if config is None else config.in_words(), "curves": rows}


def _value(config: ObjectiveConfig | None, setting: str | None) -> float | None:
    return None if setting is None else float(reduce(getattr, setting.split("."), config))
