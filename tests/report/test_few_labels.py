"""The page about an experiment with few labels: curves, verdicts by paired intervals, the confusion of the best."""

import json
from dataclasses import replace

import pytest

from speechssl.config import UserError
from speechssl.experiments.contenders import CONTENDERS
from speechssl.metrics.results import ResultRow, write_results
from speechssl.report.few_labels import amount_table, few_label_sections, few_label_summary
from speechssl.report.label_efficiency import efficiency_curves, levels_of, look_of
from speechssl.report.markup import render
from speechssl.report.records import Confusion

from .test_html import Page, report

VALUES = {
    "fine-tuned": 0.60,
    "frozen probe": 0.58,
    "frozen random encoder": 0.50,
    "MFCC + SVM": 0.55,
    "log-mel CNN": 0.42,
    "from scratch": 0.36,
}
LEVELS = (5, 10, 25, 50, 100, 0)
CLASSES = ["anger", "happiness", "neutral", "sadness"]


def rows_of(*, unit="shots", task="emotion", metrics=("UAR", "WA", "macro F1"), levels=LEVELS):
    rows = []
    for number, level in enumerate(levels):
        for metric in metrics:
            for contender, base in VALUES.items():
                value = base + 0.05 * number
                gains = {}
                if contender == "fine-tuned":
                    gains = {"MFCC + SVM": [0.05, 0.01, 0.09], "from scratch": [0.2, -0.01, 0.4]}
                    gains = {name: [x + 0.01 * number for x in gain] for name, gain in gains.items()}
                rows.append(
                    ResultRow(
                        task, contender, "", level, metric, value, value - 0.06, value + 0.05, 1200, 5,
                        split="5 speaker-disjoint folds", classes=4, corpus="runs/emotion/nemo/corpus", gains=gains,
                        command="speechssl emotion", unit=unit, split_hash="0" * 16,
                    )
                )  # fmt: skip
            rows.append(ResultRow(task, "chance", "", level, metric, 0.25, 0.25, 0.25, 1200, 5, unit=unit))
    return rows


CONFUSION = {
    "classes": CLASSES,
    "cells": [
        {"contender": "fine-tuned", "labels": 0, "unit": "shots", "matrix": [[250, 20, 20, 10], [90, 150, 50, 10],
         [10, 20, 230, 40], [0, 10, 60, 1230]]},
        {"contender": "MFCC + SVM", "labels": 0, "unit": "shots", "matrix": [[7, 7, 7, 7]] * 4},
    ],
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    write_results(rows_of(), tmp_path / "results.json")
    (tmp_path / "confusion.json").write_text(json.dumps(CONFUSION))
    return tmp_path


def test_the_page_of_an_experiment_has_every_section_and_no_note(folder):
    page = report(folder)
    for words in (*VALUES, "chance", *CLASSES, "emotion on nemo", "1,200 test utterances", "5 speaker-disjoint folds"):
        assert words in page.text
    assert "Confusion matrix: fine-tuned, all" in page.text
    assert "1,230" in page.text
    assert "No training log" not in page.text
    assert "No probe" not in page.text
    assert "No map" not in page.text
    assert len(page.ids) == len(set(page.ids))
    assert {reference[1:] for reference in page.references} <= set(page.ids)


def test_verdicts_follow_the_paired_intervals():
    text = Page(render(*few_label_summary(rows_of()))).text
    assert "fine-tuned against MFCC + SVM: better at 5, 10, 25, 50, 100 shots, all" in text
    assert "fine-tuned against from scratch: undecided at 5, 10 shots; better at 25, 50" in text
    assert text.count("against") == 2  # of the metric that counts, not of all three


def test_fewer_errors_are_better():
    rows = rows_of(unit="minutes", task="asr", metrics=("WER", "CER"), levels=(10, 60))
    text = Page(render(*few_label_summary(rows))).text
    assert "against MFCC + SVM: better at 10 min, 1 h" in text  # gains are errors saved
    table = render(*amount_table([row for row in rows if row.metric == "WER"]))
    assert "<td>from scratch</td><td><b>.36</b>" in table
    page = Page(render(*few_label_sections(rows, Confusion())))
    assert "reduction of WER" in page.text
    assert "transcribed speech" in page.text
    assert "Confusion matrix" not in page.text


def test_all_labels_stand_last_and_one_level_is_enough():
    rows = [row for row in rows_of() if row.metric == "UAR"]
    assert levels_of(rows) == [5, 10, 25, 50, 100, 0]
    svg = render(efficiency_curves(rows))
    assert svg.startswith("<svg")
    assert all(f">{label}<" in svg for label in ("5", "10", "25", "50", "100", "all"))
    for level in (0, 5):
        assert efficiency_curves([row for row in rows if row.labels == level]).name == "svg"


@pytest.mark.slow
def test_experiments_stand_beside_probes(run_folder):
    from speechssl.metrics.results import read_results

    rows = read_results(run_folder / "results.json")
    write_results([*rows, *rows_of()], run_folder / "results.json")
    page = report(run_folder)
    assert "A probe is trained on a few" in page.text
    assert "fine-tuned against MFCC + SVM" in page.text
    assert "the model beats random encoder" in page.text


def test_names_from_outside_are_escaped():
    rows = [
        replace(row, contender="<b>x", gains={"<i>y": [0.1, 0.0, 0.2]}, corpus="<u>z", split="<s>") for row in rows_of()
    ]
    confusion = Confusion.model_validate({**CONFUSION, "classes": ["<em>"] * 4})
    page = render(*few_label_summary(rows), *few_label_sections(rows, confusion))
    assert not any(tag in page for tag in ("<b>x", "<i>y", "<u>z", "<s>", "<em>"))


def test_a_broken_confusion_file_is_named(folder):
    (folder / "confusion.json").write_text("{")
    with pytest.raises(UserError, match=r"confusion\.json"):
        report(folder)


def test_no_two_contenders_look_the_same() -> None:
    names = list(CONTENDERS.values())
    assert len({look_of(name, number) for number, name in enumerate(names)}) == len(names)
