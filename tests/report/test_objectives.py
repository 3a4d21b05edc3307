"""Tables and page of the comparison of objectives, from files of results."""

from pathlib import Path

import numpy as np
import pytest

from speechssl.config import UserError
from speechssl.metrics.objective_results import (
    BASELINES,
    Corpus,
    ObjectiveResult,
    Probed,
    Trained,
    Verified,
    read_results,
    result_path,
    seeds_and_draws,
    summaries,
    write_result,
)
from speechssl.report.objectives import objective_tables, write_tables

EMOTION = Corpus(name="emotion", content="e" * 16, hours=1.0)
PLACE = {"processor": "P", "torch": "2", "speechssl": "0"}


def made(name: str, level: float, *, seed: int | None = 0, failed: str = "", note: str = "", **run: object):
    """A result with UAR near a level, and an equal error rate of one minus it."""
    draws = [level + 0.001 * each for each in range(5)]
    layers = ("layer 0", "mean of layers") if name != "MFCC" else ("statistics",)
    row = {"corpus": EMOTION, "task": "label", "shots": 10, "classes": 4, "uar": level, "draws": draws}
    probes = [Probed(**row, layer=layer, classifier=kind) for layer in layers for kind in ("linear", "k-NN")]
    rate = {"corpus": EMOTION, "trials": 10, "speakers": 4, "eer": 1 - level, "low": 0.98 - level, "high": 1.02 - level}
    verified = [Verified(**rate, layer=layer) for layer in layers]
    own = {"budget": "time", "amount": 40.0, "preset": "tiny", "updates": 5000, "hours_seen": 40.0, **run}
    recipe = {"seed": seed, "loop": {"steps": 5000 + (seed or 0)}}
    trained = Trained(
        objective=name,
        seed=seed or 0,
        rate=1e-3,
        changed={},
        recipe=recipe,
        corpora=(EMOTION,),
        core_seconds=2400,
        **own,
    )
    return ObjectiveResult(
        **PLACE,
        name=name,
        note=note,
        failed=failed,
        trained=None if seed is None else trained,
        probes=() if failed else tuple(probes),
        verification=() if failed else tuple(verified),
    )


def test_seeds_are_one_row_and_the_clear_winner_is_bold() -> None:
    results = [
        *(made("hubert", level, seed=seed) for seed, level in enumerate((0.70, 0.71, 0.72))),
        made("apc", 0.5),
        made("apc", 0.5, seed=1, failed="collapse at update 7"),
        made("MFCC", 0.4, seed=None),
        made("bundled tiny-1", 0.9, seed=None, note="saw far more audio"),
    ]
    lines = objective_tables(summaries(results)).splitlines()
    assert lines[0] == "Equal core-minutes: 40, encoder tiny"
    assert lines[2].count("|") == 9
    assert lines[4].startswith("| hubert | 3 | 5,000 | 40.0 | 40.0 | **.712 (.7")
    assert lines[4].endswith("| **.290 (.270–.310)** |")
    assert lines[5].startswith("| apc | 1 (1 failed) | 5,000 | 40.0 | 40.0 | .502 (.50")
    assert lines[6].startswith("| MFCC |  |  |  |  | .402 (")
    assert lines[7].startswith("| bundled tiny-1 (saw far more audio) |")
    assert "**" not in "".join(lines[5:])


def test_nothing_is_bold_where_intervals_overlap() -> None:
    rows = summaries([made("hubert", 0.5), made("apc", 0.501), made("MFCC", 0.4, seed=None)])
    assert "**" not in objective_tables(rows)


def test_baselines_may_be_best() -> None:
    rows = summaries([made("hubert", 0.5), made("MFCC", 0.6, seed=None)])
    assert "**" not in objective_tables(rows)


@pytest.mark.parametrize(
    "other",
    [{"budget": "audio", "amount": 10.0}, {"amount": 20.0}, {"preset": "small"}],
    ids=["kind", "amount", "size"],
)
def test_other_budgets_are_never_averaged(other: dict[str, object]) -> None:
    text = objective_tables(summaries([made("apc", 0.5), made("apc", 0.6, seed=1, **other)]))
    assert text.count("Equal ") == 2
    assert text.count("| apc | 1 |") == 2


def test_other_settings_are_never_averaged() -> None:
    first, second = made("apc", 0.5), made("apc", 0.6, seed=1)
    assert second.trained is not None
    changed = second.trained.model_copy(update={"recipe": {"seed": 1, "optim": {"clip": 1.0}}})
    rows = summaries([first, second.model_copy(update={"trained": changed})])
    assert [row.seeds for row in rows] == [1, 1]


def test_the_interval_is_wider_with_seeds_that_differ() -> None:
    equal, differing = np.full((3, 5), 0.5), np.repeat([[0.4], [0.5], [0.6]], 5, axis=1)
    assert seeds_and_draws(equal).high == 0.5
    found = seeds_and_draws(differing)
    assert (found.low, found.value, found.high) == (pytest.approx(0.4), pytest.approx(0.5), pytest.approx(0.6))


def test_files_give_the_tables(tmp_path: Path) -> None:
    write_tables(tmp_path / "results", tmp_path / "report.html")
    assert (tmp_path / "results" / "table.md").read_text() == "No results yet.\n"
    for seed in range(2):
        path = result_path(tmp_path / "results", kind="time", name="apc", seed=seed)
        write_result(path, made("apc", 0.5 + 0.1 * seed, seed=seed))
    mfcc = made("MFCC", 0.4, seed=None)
    write_result(result_path(tmp_path / "results", kind=BASELINES, name="MFCC"), mfcc)
    assert read_results(tmp_path / "results")[-1] == mfcc
    write_tables(tmp_path / "results", tmp_path / "report.html")
    assert "| apc | 2 | 5,000 |" in (tmp_path / "results" / "table.md").read_text()
    page = (tmp_path / "report.html").read_text()
    assert "Equal core-minutes: 40, encoder tiny" in page
    assert "apc, 40 core-minutes</text>" in page
    assert "<th>layer 0</th>" in page
    alone = made("cpc", 0.5).model_copy(update={"probes": ()})
    write_result(result_path(tmp_path / "results", kind="time", name="cpc", seed=0), alone)
    write_tables(tmp_path / "results", tmp_path / "report.html")
    assert "cpc, 40 core-minutes</text>" not in (tmp_path / "report.html").read_text()  # no score on every corpus


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    path = result_path(tmp_path, kind="time", name="apc", seed=0)
    path.parent.mkdir()
    path.write_text('{"name": "apc"}')
    with pytest.raises(UserError, match=r"time/apc-0\.json: not a result of compare-objectives \(processor: Field req"):
        read_results(tmp_path)
    path.write_text("{")
    with pytest.raises(UserError, match=r"time/apc-0\.json: not a result of compare-objectives"):
        read_results(tmp_path)
