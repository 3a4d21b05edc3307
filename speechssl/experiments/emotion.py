"""Label efficiency of utterance classification: six contenders on exactly the same shots and test utterances.

Folds are speaker-disjoint (`metrics.folds`), draws and levels are those of `metrics.shots`, the contenders those of
`experiments.contenders`. Training uses the shots alone: no validation labels, no early stopping. Published folds can be
given as lists instead (`experiments.listed_folds`).

The run folder holds `cells/` (one file per contender, level and draw; a killed run resumes after the last of them),
`results.json`, `results.items.json.gz` (answers item by item, for `speechssl compare`) and `confusion.json`.
"""

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from jaxtyping import Int

from speechssl.config import UserError, digest
from speechssl.data.copies import copies, copies_note
from speechssl.data.names import is_synthetic, sessions_of, utterance_ids
from speechssl.data.training_audio import pretraining_overlap, read_training_audio, refuse_trained
from speechssl.data.waveforms import WaveformStore
from speechssl.experiments.cells import Cell, read_cell, write_cell
from speechssl.experiments.contenders import (
    CNN,
    DEFAULT,
    FINE_TUNED,
    FROZEN_RANDOM,
    LAYERS,
    RECIPES,
    SELF_TRAINED,
    TRAINED,
    WITH_MODEL,
    contender_names,
    settings_of,
)
from speechssl.experiments.frozen_answers import answer_frozen
from speechssl.experiments.frozen_features import FeatureBank
from speechssl.experiments.known_speakers import Standardise, collapsed, refuse_other_protocol, speakers_known
from speechssl.experiments.listed_folds import listed_folds
from speechssl.experiments.saved_probe import save_probe
from speechssl.experiments.scores import (
    Origin,
    answers_of,
    confusion_path,
    result_rows,
    show_table,
    write_confusion,
)
from speechssl.experiments.training import FineTuner, Trainer, TrainingJob
from speechssl.files import hold_folder
from speechssl.metrics.classification import METRICS, uar
from speechssl.metrics.items import items_path, write_items
from speechssl.metrics.results import ResultRow, plain, write_results
from speechssl.metrics.shots import ALL, Draw, FewLabels, few_labels
from speechssl.models.storage import load_encoder, model_hash
from speechssl.terminal import say

_VERSION = 1  # part of a cell's key; raised when the code gives other answers for equal settings


@dataclass(frozen=True)
class _Place:
    """Position of a cell."""

    contender: str
    shots: int
    draw: Draw

    def __str__(self) -> str:
        amount = "all shots" if self.shots == ALL else f"{self.shots} shots"
        return f"{self.contender}, {amount}, draw {self.draw.number}"


def label_efficiency(
    corpus: Path,
    encoder: Path,
    out: Path,
    *,
    shots: Sequence[int] = (5, 10, 25, 50, 100, ALL),
    draws: int = 5,
    folds: int = 5,
    contenders: Sequence[str] = DEFAULT,
    sets: Sequence[str] = (),
    test_limit: int = 1000,
    standardise: Standardise = "shots",
    fold_lists: Path | None = None,
    save_model: Path | None = None,
    command: str = "",
    trainer: Trainer | None = None,
) -> list[ResultRow]:
    """Run every contender at every number of shots in every draw, write the results, show the table on stderr.

    Args:
        corpus: a prepared corpus with labels and speakers; where it has sessions (`extras.session`), one is left out at
            a time.
        encoder: a model folder.
        out: the run folder; cells of an earlier call are reused where their inputs have not changed.
        shots: labelled utterances per class; 0 for every one of the training speakers.
        draws: number of draws; five with five folds test every speaker once.
        folds: see `metrics.folds.make_folds`.
        contenders: words of `CONTENDERS`.
        sets: changes to the settings of training, `a.b=c`.
        test_limit: approximate number of test utterances per draw.
        standardise: `shots`, the usual protocol, or `speaker`: see `speakers_known`.
        fold_lists: a folder with one list per fold, see `listed_folds`; all training utterances are used, and `shots`,
            `draws`, `folds` and `test_limit` have no effect.
        save_model: a model folder for the frozen probe, fitted on all labelled utterances after the experiment; see
            `save_probe`.
        command: the command line, kept in every row.
        trainer: trains the networks; None for speechssl's own.

    Returns:
        The rows.

    Raises:
        UserError: no corpus, no model, unknown contender, a corpus that cannot give such draws, a contender that
            trains a network where speakers are known, results of the other protocol in ``out``, or another process
            that writes there.
        KeyboardInterrupt: stopped by a signal; the same call resumes.
    """
    store = WaveformStore(corpus)
    names = contender_names(contenders)
    if save_model is not None and save_model.resolve() in (encoder.resolve(), out.resolve()):
        raise UserError(f"--save-model {save_model}: is the folder of the encoder or of the experiment; give another")
    load_encoder(encoder)  # an unreadable encoder fails before anything is computed
    if fold_lists is not None:
        task = listed_folds(store, fold_lists)
    else:
        task = few_label_task(store, shots=shots, draws=draws, folds=folds, test_limit=test_limit)
    if standardise == "speaker":
        task = speakers_known(task, names)
    refuse_other_protocol(out / "results.json", task)
    audio = read_training_audio(encoder)
    tested = sorted({i for draw in task.draws for i in draw.test.tolist()})
    refuse_trained(audio, store, tested, model=encoder)
    overlap = pretraining_overlap(audio, store, tested)
    for note in (*task.notes, f"in the audio of pretraining: {overlap}"):
        say(note)
    run = _Run(
        store=store,
        task=task,
        encoder=encoder,
        encoder_hash=model_hash(encoder),
        folder=out / "cells",
        trainer=trainer or FineTuner(),
        sets=tuple(sets),
        command=command,
        standardise=standardise,
    )
    with hold_folder(out):
        cells = run.all_cells(names)
        found = [answers_of(task, cells, contender=name, shots=level) for name in names for level in task.levels]
        origin = Origin(
            command=command,
            corpus=str(corpus),
            synthetic=is_synthetic(store),
            model_hash=run.encoder_hash,
            pretraining_audio=overlap,
        )
        rows = result_rows(task, found, origin=origin, with_model=WITH_MODEL)
        results = out / "results.json"
        write_confusion(confusion_path(results), task.classes, found)
        write_items(items_path(results), found)
        write_results(rows, results)
    for metric in METRICS if fold_lists is not None else METRICS[:1]:  # published tables have all three
        show_table(rows, metric=metric)
    if standardise == "speaker":
        for line in collapsed(found):
            say(line)
    if save_model is not None:
        save_probe(store, task, encoder, save_model, by_speaker=standardise == "speaker", command=command)
    return rows


def few_label_task(
    store: WaveformStore, *, shots: Sequence[int], draws: int = 5, folds: int = 5, test_limit: int = 1000
) -> FewLabels:
    """The draws of a corpus, without utterances that repeat the audio of another one.

    Args:
        store: a corpus with labels and speakers.
        shots: see `few_labels`, as the other arguments.
        draws: number of draws.
        folds: number of folds.
        test_limit: approximate number of test utterances per draw.

    Raises:
        UserError: the corpus cannot give such draws; says why.
    """
    ids = utterance_ids(store.utterances)
    again = copies(store, names=ids)
    try:
        task = few_labels(
            [None if i in again else item.label for i, item in enumerate(store.utterances)],
            store.speakers,
            ids=ids,
            shots=shots,
            draws=draws,
            folds=folds,
            sessions=sessions_of(store),
            test_limit=test_limit,
        )
    except ValueError as error:
        raise UserError(f"{store.folder}: {error}") from None
    tested = {store.speakers[i] for draw in task.draws for i in draw.test.tolist()}
    if len(tested) < 2:
        raise UserError(f"{store.folder}: {draws} draws test one speaker, an interval needs two; raise --draws")
    return replace(task, notes=(*task.notes, copies_note(store, again))) if again else task


@dataclass
class _Run:
    store: WaveformStore
    task: FewLabels
    encoder: Path
    encoder_hash: str
    folder: Path
    trainer: Trainer
    sets: Sequence[str]
    command: str
    standardise: Standardise = "shots"
    seconds: dict[str, list[float]] = field(default_factory=dict[str, list[float]])

    def all_cells(self, names: Sequence[str]) -> list[Cell]:
        """Every cell, stored or computed: contenders without training first, then few shots before many."""
        order = sorted(names, key=lambda name: name in TRAINED)
        bank = FeatureBank(
            self.store,
            self.encoder,
            self._used(names),
            every_layer=LAYERS in names,
            by_speaker=self.standardise == "speaker",
        )
        places = [
            _Place(name, level, draw)
            for part in ([n for n in order if n not in TRAINED], [n for n in order if n in TRAINED])
            for level in self.task.levels
            for draw in self.task.draws
            for name in part
        ]
        cells: list[Cell] = []
        todo: list[_Place] = []
        stale = 0
        for place in places:
            kept = read_cell(self.folder, place.contender, shots=place.shots, draw=place.draw.number)
            if kept is not None and kept.key == self._key(place):
                cells.append(kept)
                self._note(kept)
            else:
                todo.append(place)
                stale += kept is not None
        if cells:
            say(f"{len(cells)} of {len(places)} cells are computed already")
        if stale:
            say(f"{stale} cells in {self.folder} have other settings, another model or corpus; computed again")
        for number, place in enumerate(todo):
            cell = self._compute(place, bank)
            write_cell(self.folder, cell)
            cells.append(cell)
            self._note(cell)
            left = self._left(todo[number + 1 :])
            score = plain(uar(self._truth(place), cell.predicted))
            say(f"{len(cells)}/{len(places)} {place}: UAR {score} ({cell.seconds:.0f} s){left}")
        for leftover in self.folder.glob("training-*"):  # of interrupted trainings that this run does not need
            shutil.rmtree(leftover)
        return cells

    def _compute(self, place: _Place, bank: FeatureBank) -> Cell:
        train, test = place.draw.train(place.shots), place.draw.test
        targets = [str(self.task.targets[i]) for i in train.tolist()]
        if place.contender in RECIPES:
            blocks = bank.blocks(RECIPES[place.contender].sources)
            began = time.monotonic()
            answers = answer_frozen(
                place.contender,
                blocks,
                train=train,
                targets=targets,
                test=test,
                speakers=self.task.speakers,
                seed=place.draw.number,
                pool=self._pool(place),
            )
        else:
            began = time.monotonic()
            job = self._job(place, folder=self.folder / f"training-{self._key(place)}")
            answers = self.trainer.answers(job)
            shutil.rmtree(job.folder, ignore_errors=True)
        return Cell(
            contender=place.contender,
            shots=place.shots,
            draw=place.draw.number,
            key=self._key(place),
            test=[self.task.ids[i] for i in test.tolist()],
            predicted=answers,
            seconds=time.monotonic() - began,
        )

    def _job(self, place: _Place, *, folder: Path) -> TrainingJob:
        """The folder's name has the key, so that an interrupted training resumes only if it is the same one."""
        train = place.draw.train(place.shots)
        return TrainingJob(
            store=self.store,
            folder=folder,
            network="logmel-cnn" if place.contender == CNN else "encoder",
            start=self.encoder if place.contender == FINE_TUNED else None,
            like=self.encoder,
            train=train,
            targets=[str(self.task.targets[i]) for i in train.tolist()],
            test=place.draw.test,
            shots=round(len(train) / len(self.task.classes)),
            seed=place.draw.number,
            sets=self.sets,
            command=self.command,
        )

    def _key(self, place: _Place) -> str:
        """Hash of everything that the answers depend on."""
        task, train = self.task, place.draw.train(place.shots)
        content: list[object] = [_VERSION, place.contender, self.store.content_hash(), place.draw.number]
        content += [[task.ids[i], task.targets[i]] for i in train.tolist()]
        content += [task.ids[i] for i in place.draw.test.tolist()]
        if place.contender in (*WITH_MODEL, FROZEN_RANDOM):  # from scratch, the architecture is a setting
            content.append(self.encoder_hash)
        if place.contender in RECIPES:
            content += settings_of(RECIPES[place.contender])
            content += [[task.ids[i] for i in self._pool(place).tolist()]] if place.contender == SELF_TRAINED else []
            content += [self.standardise] if self.standardise == "speaker" else []
        else:
            content.append(self.trainer.settings(self._job(place, folder=self.folder)))
        return digest(content)

    def _used(self, names: Sequence[str]) -> Int[np.ndarray, " used"]:
        """Utterances whose features are needed: for speakers that are known, all of the corpus."""
        if self.standardise == "speaker":
            return np.arange(len(self.store))
        pools = [draw.train(ALL) for draw in self.task.draws] if SELF_TRAINED in names else []
        return np.unique(np.concatenate([self.task.utterances(), *pools]))

    def _pool(self, place: _Place) -> Int[np.ndarray, " pool"]:
        """Recordings of the training side that are no shots; only self-training uses them, without their labels."""
        return np.setdiff1d(place.draw.train(ALL), place.draw.train(place.shots))

    def _truth(self, place: _Place) -> list[str]:
        return [str(self.task.targets[i]) for i in place.draw.test.tolist()]

    def _note(self, cell: Cell) -> None:
        self.seconds.setdefault(cell.contender, []).append(cell.seconds)

    def _left(self, todo: Sequence[_Place]) -> str:
        """Estimate of the time left from each contender's mean so far; empty before the first training."""
        means = {name: sum(values) / len(values) for name, values in self.seconds.items()}
        trained = any(place.contender in TRAINED for place in todo)
        if not todo or (trained and not means.keys() & set(TRAINED)):
            return ""
        unknown = max(means.values())
        seconds = sum(means.get(place.contender, unknown) for place in todo)
        words = (
            f"{seconds:.0f} s"
            if seconds < 100
            else f"{seconds / 60:.0f} min"
            if seconds < 6000
            else f"{seconds / 3600:.1f} h"
        )
        return f"; about {words} left"
