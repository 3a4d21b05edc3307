"""Rows survive the file, winners are clear ones only, and the sentences say what the intervals say."""

import json

import pytest

from speechssl.config import UserError
from speechssl.metrics import results
from speechssl.metrics.results import ResultRow


def row(contender="model (last layer)", value=0.5, *, half=0.05, shots=5, gains=None, task="label", probe="k-NN"):
    low, high = value - half, value + half
    return ResultRow(task, contender, probe, shots, "UAR", value, low, high, 100, 5, gains=gains or {})


def test_rows_survive_the_file(tmp_path):
    rows = [row(gains={"MFCC": [0.1, 0.0, 0.2]}), row("MFCC", 0.4)]
    results.write_results(rows, tmp_path / "deep" / "results.json")
    assert results.read_results(tmp_path / "deep" / "results.json") == rows
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["results.json"]
    keys = {"task", "contender", "probe", "labels", "metric", "value", "low", "high", "n", "seeds", "command"}
    assert keys <= json.loads((tmp_path / "deep" / "results.json").read_text())[0].keys()


def test_keys_of_a_later_version_are_passed_over(tmp_path):
    path = tmp_path / "results.json"
    results.write_results([row()], path)
    content = json.loads(path.read_text())
    content[0]["colour"] = "blue"
    path.write_text(json.dumps(content))
    assert results.read_results(path) == [row()]


@pytest.mark.parametrize("content", ["{", "[1]", '[{"task": "label"}]', '{"a": 1}'])
def test_what_is_no_result_is_named(tmp_path, content):
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"results\.json"):
        results.read_results(path)


def test_only_a_clear_winner_is_one():
    model, other = row(value=0.6), row("model (mean of layers)", 0.59)
    weak, near = row("MFCC", 0.4), row("log-mel", 0.52)
    assert results.clear_winner([model, other, weak]) == "model (last layer)"
    assert results.clear_winner([model, other, weak, near]) is None
    assert results.clear_winner([model]) is None
    assert results.clear_winner([]) is None


def test_chance_stands_in_every_column():
    chance = ResultRow("label", "chance", "none", 5, "UAR", 0.25, 0.25, 0.25, 100, 5)
    columns = results.columns_of(
        [row(), row(probe="logistic"), row(shots=10), chance, row(task="speaker")], task="label"
    )
    assert list(columns) == [("k-NN", 5), ("k-NN", 10), ("logistic", 5)]
    assert [len(column) for column in columns.values()] == [2, 1, 2]


def test_a_summary_counts_decided_comparisons_only():
    series = [
        row(shots=25, gains={"MFCC": [0.2, 0.1, 0.3], "random encoder (last layer)": [0.01, -0.1, 0.1]}),
        row(shots=5, gains={"MFCC": [-0.1, -0.2, -0.05], "random encoder (last layer)": [-0.02, -0.1, 0.1]}),
        row(shots=10, gains={"MFCC": [0.1, 0.01, 0.2], "random encoder (last layer)": [0.0, -0.1, 0.1]}),
        row("model (mean of layers)", gains={"random encoder (mean of layers)": [0.3, -0.1, 0.5]}),
    ]
    mfcc, encoder = results.baseline_summaries(series)
    assert (mfcc.baseline, mfcc.wins, mfcc.losses, mfcc.total, mfcc.verdict) == ("MFCC", 2, 1, 3, "beats")
    assert mfcc.count == "wins 2 and loses 1 of 3 comparisons (−.10 to +.20)"
    assert (encoder.baseline, encoder.total, encoder.verdict) == ("random encoder", 4, "is level with")
    assert encoder.count == "4 comparisons, all undecided (−.02 to +.30)"


@pytest.mark.parametrize(
    ("wins", "losses", "verdict", "count"),
    [
        (3, 0, "beats", "wins 3 of 3 comparisons"),
        (0, 3, "loses to", "loses 3 of 3 comparisons"),
        (1, 1, "both beats and loses to", "wins 1 and loses 1 of 3 comparisons, 1 undecided"),
        (0, 1, "partly loses to", "loses 1 of 3 comparisons, 2 undecided"),
    ],
)
def test_a_verdict_follows_the_majority_of_what_is_decided(wins, losses, verdict, count):
    summary = results.BaselineSummary("label", "MFCC", wins=wins, losses=losses, total=3, lowest=-0.1, highest=0.1)
    assert summary.verdict == verdict
    assert summary.count == f"{count} (−.10 to +.10)"


@pytest.mark.parametrize(
    ("gain", "words"),
    [([0.1, 0.0, 0.2], "is level with"), ([0.1, 1e-6, 0.2], "beats"), ([-0.1, -0.2, -1e-6], "loses to")],
)
def test_an_interval_that_touches_zero_decides_nothing(gain, words):
    assert results.outcome(gain) == words
