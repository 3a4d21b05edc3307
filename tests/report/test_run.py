"""Reading a run folder: everything optional, nothing half-read in silence."""

import json
import math

import numpy as np
import pytest

from speechssl.config import UserError
from speechssl.report.records import LogRow
from speechssl.report.run import read_run, series


def test_a_whole_run_is_read(run_folder):
    run = read_run(run_folder)
    assert (len(run.training), len(run.validation)) == (121, 6)
    assert run.name == "demo"
    assert run.settings == "2 × 160 codes, 100 negatives, mask 0.65 in spans of 10 frames"
    assert [(curve.metric, curve.bound) for curve in run.curves if curve.bound] == [("code_perplexity", 160.0)]
    assert run.synthetic
    assert run.map is not None
    assert run.map.points.shape == (600, 2)
    assert run.wall_seconds == pytest.approx(1200 * 32 / 140, rel=1e-6)


def test_the_wall_time_of_a_run_that_slowed_down_lies_between(run_folder):
    rows = [
        {"step": 1, "seconds_seen": 100.0, "seconds_per_second": 100.0},
        {"step": 2, "seconds_seen": 200.0, "seconds_per_second": 50.0},
    ]
    (run_folder / "log.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert read_run(run_folder).wall_seconds == pytest.approx(1 + 2)


def test_the_line_a_killed_run_was_writing_is_passed_over(run_folder):
    with (run_folder / "log.jsonl").open("a") as file:
        file.write('{"step": 1210, "contrast')
    assert len(read_run(run_folder).training) == 121


def test_a_broken_line_in_the_middle_is_named(run_folder):
    (run_folder / "log.jsonl").write_text('{"step": 1}\n{"step"\n{"step": 2}\n')
    with pytest.raises(UserError, match=r"log\.jsonl line 2: not JSON"):
        read_run(run_folder)


@pytest.mark.parametrize("name", ["config.json", "results.json", "recipe.toml", "map.npz"])
def test_a_broken_file_is_named(run_folder, name):
    (run_folder / name).write_text("{broken")
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        read_run(run_folder)


def test_a_pickle_is_not_loaded(run_folder):
    np.savez(run_folder / "map.npz", points=np.array([{}], dtype=object))
    with pytest.raises(UserError, match=r"map\.npz"):
        read_run(run_folder)


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        read_run(tmp_path / "nowhere")
    with pytest.raises(UserError, match="nothing to report"):
        read_run(tmp_path)


def test_series_pass_over_rows_without_the_number():
    rows = [LogRow(step=step, accuracy=value) for step, value in ((1, 0.5), (3, None), (4, math.nan))]
    steps, values = series([*rows[:1], LogRow(step=2), *rows[1:]], "accuracy")
    assert steps == [1, 4]
    assert values[0] == 0.5
    assert math.isnan(values[1])


def test_series_of_a_metric_with_several_numbers():
    rows = [LogRow(step=1, codes=[3.0, 4.0]), LogRow(step=2, codes=[5.0]), LogRow(step=3, codes=None, valid=True)]
    assert series(rows, "codes", line=1) == ([1], [4.0])
    assert series(rows, "codes") == ([1, 2], [3.0, 5.0])


def test_a_log_of_any_method_is_read(run_folder):
    (run_folder / "metrics.json").write_text('{"curves": [{"metric": "cosine", "title": "Cosine"}]}')
    (run_folder / "log.jsonl").write_text('{"step": 1, "cosine": -0.5, "unknown": null}\n')
    run = read_run(run_folder)
    assert run.training[0].values == {"cosine": -0.5}
    (run_folder / "log.jsonl").write_text('{"step": 1, "cosine": "-0.5"}\n')
    with pytest.raises(UserError, match=r"log.jsonl line 1: key 'cosine': given '-0.5', allowed: a number, a list"):
        read_run(run_folder)
    (run_folder / "log.jsonl").unlink()
    (run_folder / "metrics.json").unlink()
    assert [curve.metric for curve in read_run(run_folder).curves] == ["loss"]
