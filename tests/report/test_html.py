"""The page: complete, self-contained, well-formed, honest about what is missing and about synthetic speech."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from speechssl.metrics.results import write_results
from speechssl.report import html, plots
from speechssl.report.html import write_report
from speechssl.report.learning import learning_figures
from speechssl.report.markup import Element, render
from speechssl.report.run import EmbeddingMap, read_run

from .conftest import CONTENDERS, config, result_rows, write_map

VOID = {"meta", "br", "link", "img", "hr"}


class Page(HTMLParser):
    """Checks that every element is closed in order; collects text, ids and references."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.references, self.words = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.ids += [values["id"]] if "id" in values else []
        self.references += [value for key, value in attributes if key in ("href", "xlink:href", "src")]
        self.references += re.findall(r"url\((.*?)\)", " ".join(value or "" for _, value in attributes))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture
def no_plots(monkeypatch):
    """Pictures take most of the time; where they are not the point they are left out."""
    monkeypatch.setattr(html, "learning_figures", lambda _: [(Element("svg"), "")])
    for name in ("shots_curves", "embedding_map"):
        monkeypatch.setattr(plots, name, lambda *_, **__: Element("svg"))


def report(folder):
    write_report(folder, folder / "report.html")
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def test_the_page_holds_everything_and_fetches_nothing(run_folder):
    page = report(run_folder)
    once = (run_folder / "report.html").read_text(encoding="utf-8")
    assert not re.search("No training log|No probe|No map|were not run", page.text)
    assert page.text.count("Plain accuracy (WA)") == 2
    learning = ("alarm at 0.12", "160 at most", "Contrastive loss (nats per masked frame), validation (chance 4.62)")
    for words in (*CONTENDERS, *learning, "10.7 h", "4.6 min", "speechssl pretrain", "speechssl evaluate"):
        assert words in page.text
    assert "2 × 160 codes, 100 negatives" in page.text
    assert len(re.findall("<svg", once)) == 5
    # Figures must not share element names, or one would be drawn with the marks of another.
    assert len(page.ids) == len(set(page.ids))
    assert {reference[1:] for reference in page.references} <= set(page.ids)
    assert all(reference.startswith("#") for reference in page.references)
    assert "<script" not in once
    assert "@import" not in once
    # Names of XML vocabularies are addresses that nobody fetches.
    assert set(re.findall(r"https?://[^\"' <]+", once)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }


@pytest.mark.slow
def test_the_same_run_gives_the_same_page(run_folder):
    for name in ("results.json", "map.npz"):
        (run_folder / name).unlink()
    report(run_folder)
    once = (run_folder / "report.html").read_bytes()
    report(run_folder)
    assert (run_folder / "report.html").read_bytes() == once


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [
        ("log.jsonl", "This folder has no training log"),
        ("results.json", "No probe has been run yet"),
        ("map.npz", "No map has been made yet"),
    ],
)
def test_what_is_missing_is_left_out_with_a_sentence(run_folder, missing, sentence, no_plots):
    (run_folder / missing).unlink()
    assert sentence in report(run_folder).text


def test_a_log_alone_and_results_alone_are_enough(run_folder, no_plots):
    for keep in ("log.jsonl", "results.json"):
        alone = run_folder / keep.split(".")[0]
        alone.mkdir()
        (alone / keep).write_bytes((run_folder / keep).read_bytes())
        report(alone)


def test_synthetic_speech_is_called_so_and_real_speech_is_not(run_folder, no_plots):
    assert "The speech of this run is synthesised" in report(run_folder).text
    (run_folder / "config.json").write_text(json.dumps(config(synthetic=False)))
    assert "The speech of this run is synthesised" in report(run_folder).text  # the probes still ran on it
    write_results(result_rows(synthetic=False), run_folder / "results.json")
    assert "ynthetic" not in report(run_folder).text


def test_the_verdict_says_who_wins_by_the_paired_intervals(run_folder, no_plots):
    page = report(run_folder)
    assert "label : the model beats random encoder : wins 12 of 12 comparisons (" in page.text
    assert "label : the model beats MFCC : wins 12 of 12 comparisons (" in page.text
    assert "speaker : the model is level with random encoder : 12 comparisons, all undecided" in page.text
    assert "speaker : the model loses to MFCC : loses 12 of 12 comparisons (" in page.text


def test_a_mixed_outcome_is_told_with_its_counts(run_folder, no_plots):
    rows = result_rows()
    first = next(row for row in rows if row.gains and row.task == "label")
    first.gains["MFCC"] = [-0.1, -0.2, -0.05]
    write_results(rows, run_folder / "results.json")
    text = report(run_folder).text
    assert "beats MFCC : wins 11 and loses 1 of 12 comparisons" in text


def test_without_baselines_nothing_is_claimed(run_folder, no_plots):
    rows = [row for row in result_rows(gains=False) if row.contender.startswith(("model", "chance"))]
    write_results(rows, run_folder / "results.json")
    page = report(run_folder)
    assert "In short" not in page.text
    assert "The baselines were not run" in page.text


def test_only_a_clear_winner_is_bold(run_folder, no_plots):
    report(run_folder)
    text = (run_folder / "report.html").read_text()
    bold = re.findall(r"<td><b>(\.\d\d)</b>", text)
    assert len(bold) == 2 * 2 * 6  # two tasks, two metrics, six columns: model (mean of layers) in each
    rows = [row if row.contender != "MFCC" else _widened(row) for row in result_rows()]
    write_results(rows, run_folder / "results.json")
    report(run_folder)
    assert not re.findall(r"<td><b>(\.\d\d)</b>", (run_folder / "report.html").read_text())


def _widened(row):
    return replace(row, high=row.value + 0.3)


def test_names_from_outside_are_escaped(run_folder, no_plots):
    name = "<script>alert(1)</script>"
    rows = result_rows()
    rows = [type(row)(**{**vars(row), "corpus": name, "command": name}) for row in rows]
    write_results(rows, run_folder / "results.json")
    report(run_folder)
    assert "<script" not in (run_folder / "report.html").read_text()


def test_many_classes_and_a_single_speaker_are_drawn(tmp_path):
    write_map(tmp_path / "map.npz", clips=50, labels=40, speakers=1)
    (tmp_path / "results.json").write_text("[]")
    embedding = read_run(tmp_path).map
    assert embedding is not None
    assert "different, one colour each" in render(plots.embedding_map(embedding))


def test_a_map_without_names_is_drawn_once():
    nobody = EmbeddingMap(points=np.zeros((3, 2)), label=["", "", ""], speaker=["", "", ""], method="PCA")
    assert "no names known" in render(plots.embedding_map(nobody))


def test_numbers_that_are_not_finite_are_survived(run_folder):
    rows = (
        (run_folder / "log.jsonl").read_text().replace('"contrastive_loss": 4.6', '"contrastive_loss": NaN, "x": 4.6')
    )
    (run_folder / "log.jsonl").write_text(rows)
    assert [render(picture)[:4] for picture, _ in learning_figures(read_run(run_folder))] == ["<svg", "<svg"]
