"""Results computed from cells: result rows, answers per item, confusion matrices, and a table."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from speechssl.experiments.cells import Cell
from speechssl.experiments.contenders import CHANCE, WITH_GAINS
from speechssl.files import write_atomic
from speechssl.metrics.classification import (
    METRICS,
    GroupCounts,
    Interval,
    Metric,
    bootstrap_difference,
    bootstrap_interval,
    confusion,
)
from speechssl.metrics.items import Answers
from speechssl.metrics.results import ResultRow, amounts, outcome, plain
from speechssl.metrics.shots import FewLabels

TASK = "emotion"


def task_name(task: FewLabels) -> str:
    """The name of the task in rows and answers; that of another protocol differs, so that the two are never mixed."""
    return f"{TASK}, {task.protocol}" if task.protocol else TASK


@dataclass(frozen=True)
class Origin:
    """Fields of a run's rows that the caller gives."""

    command: str
    corpus: str
    synthetic: bool
    model_hash: str
    pretraining_audio: str = ""


def answers_of(task: FewLabels, cells: Sequence[Cell], *, contender: str, shots: int) -> Answers:
    """The cells of one contender at one number of shots, pooled: the draws of a partition are one repetition."""
    mine = sorted((cell for cell in cells if (cell.contender, cell.shots) == (contender, shots)), key=lambda c: c.draw)
    place = {name: number for number, name in enumerate(task.ids)}
    indices = [place[name] for cell in mine for name in cell.test]
    return Answers(
        task=task_name(task),
        contender=contender,
        probe="",
        labels=shots,
        unit="shots",
        split_hash=task.split_hash(shots),
        ids=[task.ids[i] for i in indices],
        groups=[str(task.speakers[i]) for i in indices],
        repetitions=[task.draws[cell.draw].partition for cell in mine for _ in cell.test],
        truth=[str(task.targets[i]) for i in indices],
        predicted=[name for cell in mine for name in cell.predicted],
    )


def result_rows(
    task: FewLabels, found: Sequence[Answers], *, origin: Origin, with_model: Iterable[str]
) -> list[ResultRow]:
    """Rows of every metric and contender with the interval by speaker and gains over the others, and rows of chance.

    Args:
        task: the draws.
        found: the answers of each contender at each number of shots.
        origin: goes into every row.
        with_model: contenders whose rows carry the encoder's hash.
    """
    classes = task.classes
    counts = {(each.contender, each.labels): each.counts(classes) for each in found}
    rows: list[ResultRow] = []
    for each in found:
        mine = counts[each.contender, each.labels]
        for metric in METRICS:
            gains = _gains(each, counts, metric) if each.contender in WITH_GAINS else {}
            row = _row(task, each, metric, bootstrap_interval(mine, metric))
            if each.contender in with_model:
                row = replace(row, model_hash=origin.model_hash, pretraining_audio=origin.pretraining_audio)
            rows.append(replace(row, gains=gains))
    for shots in task.levels:
        first = next(each for each in found if each.labels == shots)
        for metric, value in chance_values(first.truth).items():
            chance = replace(first, contender=CHANCE)
            rows.append(_row(task, chance, metric, Interval(value=value, low=value, high=value)))
    return [replace(row, command=origin.command, corpus=origin.corpus, synthetic=origin.synthetic) for row in rows]


def chance_values(truth: Sequence[str]) -> dict[Metric, float]:
    """Scores without the audio: UAR and macro F1 of a uniform guess, WA of always predicting the most frequent class.

    >>> chance_values(["a", "a", "a", "b"])
    {'UAR': 0.5, 'WA': 0.75, 'macro F1': 0.4666666666666667}
    """
    classes = sorted(set(truth))
    shares = [truth.count(name) / len(truth) for name in classes]
    guess = 1 / len(classes)
    f1 = sum(2 * share * guess / (share + guess) for share in shares) / len(classes)
    return {"UAR": guess, "WA": max(shares), "macro F1": f1}


def confusion_path(results: Path) -> Path:
    """Path of the confusion matrices of a result file; the report reads those of `results.json`.

    >>> confusion_path(Path("a/results.json")).as_posix(), confusion_path(Path("a/test.json")).as_posix()
    ('a/confusion.json', 'a/test.confusion.json')
    """
    return results.with_name("confusion.json" if results.stem == "results" else f"{results.stem}.confusion.json")


def write_confusion(path: Path, classes: Sequence[str], found: Iterable[Answers]) -> None:
    """Write `confusion.json`: how often a class (row) was predicted as another (column), by contender and shots."""
    cells = [
        {
            "contender": each.contender,
            "labels": each.labels,
            "unit": each.unit,
            "matrix": confusion(each.truth, each.predicted, classes=classes).tolist(),
        }
        for each in found
    ]
    write_atomic(path, (json.dumps({"classes": list(classes), "cells": cells}, ensure_ascii=False) + "\n").encode())


def show_table(rows: Sequence[ResultRow], *, metric: str = "UAR") -> None:
    """Print a table on stderr: contenders by amount of labels, and the gains of WITH_GAINS over the others."""
    from rich.console import Console
    from rich.table import Table

    console = Console(stderr=True, soft_wrap=True, width=160)
    mine = [row for row in rows if row.metric == metric]
    amounts = list(dict.fromkeys(row.amount for row in mine))
    first = mine[0]
    table = Table(
        title=f"{metric}, {first.task}: {first.classes} classes, {first.split}, {first.seeds} draws, 95 % by speaker"
    )
    table.add_column("contender", no_wrap=True)
    for amount in amounts:
        table.add_column(amount, justify="right", no_wrap=True)
    for contender in dict.fromkeys(row.contender for row in mine):
        cells = {row.amount: row for row in mine if row.contender == contender}
        table.add_row(contender, *(_cell(cells.get(amount)) for amount in amounts))
    console.print(table)
    for line in gain_lines(mine):
        console.print(line, markup=False, highlight=False)


def gain_lines(rows: Sequence[ResultRow]) -> list[str]:
    """Outcome of each contender with gains against each other one over the amounts of labels, one line per pair.

    >>> row = ResultRow("emotion", "fine-tuned", "", 5, "UAR", .5, .4, .6, 9, 5, gains={"MFCC + SVM": [.1, .02, .2]})
    >>> gain_lines([row])
    ['fine-tuned against MFCC + SVM: better at 5 shots']
    """
    words = {"beats": "better", "loses to": "worse", "is level with": "undecided"}
    pairs: dict[tuple[str, str], dict[str, list[ResultRow]]] = {}
    for row in rows:
        for name, gain in row.gains.items():
            pairs.setdefault((row.contender, name), {}).setdefault(words[outcome(gain)], []).append(row)
    return [
        f"{contender} against {other}: " + "; ".join(f"{word} at {amounts(at)}" for word, at in found.items())
        for (contender, other), found in pairs.items()
    ]


def _gains(each: Answers, counts: Mapping[tuple[str, int], GroupCounts], metric: Metric) -> dict[str, list[float]]:
    """Paired gains over every other contender at this number of shots; within WITH_GAINS, over later ones only."""
    gains: dict[str, list[float]] = {}
    later = WITH_GAINS[WITH_GAINS.index(each.contender) + 1 :]
    for (other, shots), theirs in counts.items():
        if shots == each.labels and other != each.contender and (other not in WITH_GAINS or other in later):
            gain = bootstrap_difference(counts[each.contender, shots], theirs, metric=metric)
            gains[other] = [gain.value, gain.low, gain.high]
    return gains


def _row(task: FewLabels, answers: Answers, metric: Metric, interval: Interval) -> ResultRow:
    return ResultRow(
        task=task_name(task),
        contender=answers.contender,
        probe="",
        labels=answers.labels,
        metric=metric,
        value=interval.value,
        low=interval.low,
        high=interval.high,
        n=len(answers.ids),
        seeds=len(task.draws),
        split=task.rule,
        classes=len(task.classes),
        unit="shots",
        split_hash=answers.split_hash,
    )


def _cell(row: ResultRow | None) -> str:
    if row is None:
        return ""
    return plain(row.value) + (f" [dim]{plain(row.low)}–{plain(row.high)}[/dim]" if row.low < row.high else "")
