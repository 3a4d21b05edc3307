"""The protocol "speakers known": each speaker's mean and deviation are taken out with that speaker's unlabelled audio.

It is transductive, since the unlabelled recordings of the test speakers are used, and its rows say so: they have a task
and a table of their own, a folder of their own, and are never compared with those of the usual protocol. It assumes
that a speaker's recordings hold more than one class: where they do not, the class is removed together with the speaker.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from speechssl.config import UserError
from speechssl.experiments.contenders import CONTENDERS, TRAINED
from speechssl.experiments.scores import TASK, task_name
from speechssl.metrics.items import Answers
from speechssl.metrics.results import read_results
from speechssl.metrics.shots import FewLabels

Standardise = Literal["shots", "speaker"]
PROTOCOL = "speakers known (transductive)"
_COLLAPSE_FROM = 10  # answers of a speaker; fewer may well be of one class


def speakers_known(task: FewLabels, names: Sequence[str]) -> FewLabels:
    """The draws under the protocol, with notes on speakers whose labelled recordings have fewer than two classes.

    Args:
        task: the draws.
        names: the contenders.

    Raises:
        UserError: a contender that trains a network: its input is audio, not features.
    """
    trained = [word for word, name in CONTENDERS.items() if name in TRAINED and name in names]
    if trained:
        raise UserError(
            f"--standardise speaker: contender {trained[0]!r} trains a network on audio and cannot have it; "
            "give --contenders without fine-tuned, logmel-cnn and scratch"
        )
    note = one_class_note(task.targets, task.speakers)
    protocol = f"{task.protocol}, {PROTOCOL}" if task.protocol else PROTOCOL
    return replace(task, protocol=protocol, notes=(*task.notes, note) if note else task.notes)


def one_class_note(targets: Sequence[str | None], speakers: Sequence[str | None]) -> str:
    """One line on the speakers whose labelled recordings have fewer than two classes; empty where there is none.

    >>> one_class_note(["a", "a", "a", "b", None], ["s", "s", "t", "t", "u"])
    'the labelled recordings of 1 of 2 speakers have one class (s): taking out the speaker removes the class there'
    """
    classes: dict[str, set[str]] = {}
    for target, speaker in zip(targets, speakers, strict=True):
        if target is not None and speaker is not None:
            classes.setdefault(speaker, set()).add(target)
    poor = sorted(speaker for speaker, found in classes.items() if len(found) < 2)
    if not poor:
        return ""
    shown = ", ".join(poor[:3]) + (", …" if len(poor) > 3 else "")
    words = f"the labelled recordings of {len(poor)} of {len(classes)} speakers have one class ({shown})"
    return f"{words}: taking out the speaker removes the class there"


def collapsed(found: Iterable[Answers]) -> list[str]:
    """One line per contender and number of shots where all answers for some speaker are one class.

    Speakers with fewer than ten answers, and those whose recordings truly have one class, are not counted.
    """
    lines: list[str] = []
    for each in found:
        groups, predicted = np.array(each.groups), np.array(each.predicted)
        truth = np.array(each.truth)
        speakers = sorted(set(each.groups), key=str)
        collapsing = [
            str(speaker)
            for speaker in speakers
            if (groups == speaker).sum() >= _COLLAPSE_FROM
            and len(set(predicted[groups == speaker].tolist())) == 1
            and len(set(truth[groups == speaker].tolist())) > 1
        ]
        if collapsing:
            names = ", ".join(collapsing[:3]) + (", …" if len(collapsing) > 3 else "")
            amount = f"{each.labels} shots" if each.labels else "all shots"
            lines.append(
                f"{each.contender}, {amount}: every answer for {len(collapsing)} of {len(speakers)} speakers is one "
                f"class ({names})"
            )
    return lines


def refuse_other_protocol(results: Path, task: FewLabels) -> None:
    """Refuse a run folder whose results are of another protocol.

    Raises:
        UserError: names the folder and the protocol of its results.
    """
    if not results.exists():
        return
    tasks = {row.task for row in read_results(results) if row.task.startswith(TASK)}
    if tasks and tasks != {task_name(task)}:
        raise UserError(
            f"{results.parent}: holds results of {', '.join(sorted(tasks))!r}, and this run is {task_name(task)!r}; "
            "give another --out"
        )
