"""Result tables as Markdown."""

from pathlib import Path

import pytest

from speechssl.cli import main
from speechssl.config import UserError
from speechssl.metrics.results import ResultRow, write_results
from speechssl.report.markdown import markdown_tables, write_markdown


def row(contender: str, labels: int, value: float, *, metric: str = "WER", probe: str = "greedy", **more) -> ResultRow:
    return ResultRow("asr", contender, probe, labels, metric, value, value - 0.05, value + 0.05, 9, 1, **more)


def test_the_best_is_the_lowest_error_and_what_is_level_with_it_is_marked() -> None:
    ours = row("fine-tuned", 10, 0.30, unit="minutes", gains={"a": [0.1, 0.02, 0.2], "b": [0.1, -0.02, 0.2]})
    rows = [ours, row("a", 10, 0.40, unit="minutes"), row("b", 10, 0.41, unit="minutes")]
    lines = markdown_tables(rows).splitlines()
    assert lines[0].startswith("| WER | 10 min")
    assert lines[2] == "| fine-tuned | **.30** (.25–.35) |"
    assert lines[3] == "| a | .40 (.35–.45) |"
    assert lines[4] == "| b | .41† (.36–.46) |"


def test_columns_are_ordered_and_everything_is_last() -> None:
    rows = [row("x", labels, 0.5, metric="UAR", probe="") for labels in (0, 25, 5)]
    rows += [ResultRow("emotion", "chance", "none", 5, "UAR", 0.25, 0.25, 0.25, 9, 1)]
    head, _, ours, chance = markdown_tables(rows).splitlines()
    assert [each.strip() for each in head.split("|")[2:-1]] == ["5 shots", "25 shots", "all"]
    assert ours.count("**.50**") == 3
    assert chance == "| chance | .25 |  |  |"


def test_the_command(tmp_path: Path) -> None:
    write_results([row("x", 10, 0.5)], tmp_path / "results.json")
    assert main(["report", str(tmp_path), "--out", str(tmp_path / "table.md")]) == 0
    assert "| x | **.50** (.45–.55) |" in (tmp_path / "table.md").read_text()
    with pytest.raises(UserError, match=r"no results\.json in it"):
        write_markdown(tmp_path / "none", tmp_path / "table.md")
