"""Reference curves of the package, made from results of the comparison of objectives."""

import json
from pathlib import Path

from speechssl.config import UserError
from speechssl.files import write_atomic
from speechssl.metrics.objective_results import Point, Trained, read_results

_POINTS = 50  # of a reference curve, at most


def write_reference_curves(results: Path, folder: Path) -> list[Path]:
    """Write `OBJECTIVE-PRESET.json` for every objective and size with results; of several runs, the one of most audio.

    Args:
        results: folder of the results.
        folder: `speechssl/assets/curves` of the package.

    Returns:
        The files.

    Raises:
        UserError: no run with a curve among the results.
    """
    longest: dict[tuple[str, str], tuple[Trained, tuple[Point, ...]]] = {}
    for result in read_results(results):
        run = result.trained
        if run is None or result.failed or not result.curve:
            continue
        place = run.objective, run.preset
        if place not in longest or run.hours_seen > longest[place][0].hours_seen:
            longest[place] = run, result.curve
    if not longest:
        raise UserError(f"{results}: no run with a curve in it")
    folder.mkdir(parents=True, exist_ok=True)
    return [_write(folder, *found) for found in longest.values()]


def _write(folder: Path, run: Trained, curve: tuple[Point, ...]) -> Path:
    path = folder / f"{run.objective}-{run.preset}.json"
    every = -(-len(curve) // _POINTS)
    points = [*reversed(curve[::-1][::every])]  # the last one is kept
    content = {
        "objective": run.objective,
        "preset": run.preset,
        "encoder": run.recipe["encoder"],
        "corpora": [corpus.name for corpus in run.corpora],
        "hours": round(sum(corpus.hours for corpus in run.corpora), 1),
        "updates": run.updates,
        "points": [point.model_dump(mode="json") for point in points],
    }
    write_atomic(path, json.dumps(content, ensure_ascii=False, indent=1) + "\n")
    return path
