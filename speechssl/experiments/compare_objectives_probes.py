"""Measurements of a frozen encoder in the comparison of objectives: few-shot probes and speaker verification.

Every layer and the mean of all, each as mean and standard deviation over frames for the probes (`metrics.probe`) and as
mean for verification. Shots, test utterances and trials depend on the corpus alone: all encoders have the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Int

from speechssl.audio import samples_to_seconds
from speechssl.config import UserError
from speechssl.data.copies import copies
from speechssl.data.names import utterance_ids
from speechssl.data.training_audio import TrainingAudio, pretraining_overlap
from speechssl.data.waveforms import WaveformStore
from speechssl.embed.embedder import EmbeddingModel
from speechssl.experiments.evaluate import probe_task
from speechssl.experiments.evaluation_console import EvaluationConsole
from speechssl.experiments.frozen_features import Features, layer_features, mfcc_features
from speechssl.inference.layers import ALL_LAYERS
from speechssl.metrics.classification import GroupCounts, metric_of
from speechssl.metrics.objective_results import MEAN_OF_LAYERS, STATISTICS, Corpus, ObjectiveResult, Probed, Verified
from speechssl.metrics.probe import PROBES, ProbeName, ProbeScore, probe_scores
from speechssl.metrics.probe_splits import PROBE_TASKS, ProbeTask
from speechssl.metrics.verification import Trials, cosine_scores, draw_trials, verification_interval
from speechssl.terminal import say

_TEST_LIMIT = 1000  # approximate number of test utterances per draw
_CLASSIFIERS: dict[ProbeName, Literal["linear", "k-NN"]] = {"logistic": "linear", "k-NN": "k-NN"}


@dataclass(frozen=True)
class ProbeOn:
    """A task on a prepared corpus."""

    folder: Path
    task: str = "label"


@dataclass(frozen=True)
class Protocol:
    """What is measured of every encoder.

    Attributes:
        probes: tasks of the few-shot probes.
        verify: corpora of speaker verification.
        shots: labelled utterances per class.
        draws: of the shots.
    """

    probes: Sequence[ProbeOn]
    verify: Sequence[Path] = ()
    shots: int = 10
    draws: int = 5


@dataclass(frozen=True)
class TestCorpus:
    """A corpus with what is measured on it; `trials` is None where verification is not."""

    store: WaveformStore
    tasks: tuple[ProbeTask, ...] = ()
    trials: Trials | None = None

    @property
    def facts(self) -> Corpus:
        """Its name, digest and hours."""
        return corpus_facts(self.store)

    def used(self) -> Int[np.ndarray, " used"]:
        """Utterances that need features."""
        parts = [task.utterances() for task in self.tasks]
        return np.unique(np.concatenate([*parts, *([] if self.trials is None else [self.trials.utterances()])]))

    def missing_in(self, result: ObjectiveResult) -> "TestCorpus | None":
        """What a result lacks of this corpus; None where it lacks nothing."""
        content = self.store.content_hash()
        probed = {(row.corpus.content, row.task, row.shots, len(row.draws)) for row in result.probes}
        tasks = tuple(
            task for task in self.tasks if (content, task.name, task.shots[0], len(task.splits)) not in probed
        )
        verified = content in {row.corpus.content for row in result.verification}
        trials = None if verified else self.trials
        return replace(self, tasks=tasks, trials=trials) if tasks or trials is not None else None


def read_probe(text: str) -> ProbeOn:
    """Parse `FOLDER` or `FOLDER:TASK`.

    >>> read_probe("runs/digits:speaker").task, read_probe("runs/a:b").task
    ('speaker', 'label')
    """
    folder, _, task = text.rpartition(":")
    return ProbeOn(Path(folder), task) if folder and task in PROBE_TASKS else ProbeOn(Path(text))


def corpus_facts(store: WaveformStore) -> Corpus:
    """Name, digest and hours of a prepared corpus."""
    hours = samples_to_seconds(int(store.lengths.sum())) / 3600
    return Corpus(name=store.folder.name, content=store.content_hash(), hours=round(hours, 3))


def open_corpora(protocol: Protocol) -> list[TestCorpus]:
    """The test corpora with their splits and trials, each corpus once.

    Raises:
        UserError: a corpus that is missing, or that lacks what a task needs; says what.
    """
    found: dict[str, TestCorpus] = {}

    def opened(folder: Path) -> TestCorpus:
        store = WaveformStore(folder)
        return found.setdefault(store.content_hash(), TestCorpus(store))

    for probe in protocol.probes:
        corpus = opened(probe.folder)
        if probe.task in [task.name for task in corpus.tasks]:
            raise UserError(f"--probe-on {probe.folder}:{probe.task}: this task is named twice for one corpus")
        task = probe_task(
            corpus.store, probe.task, shots=[protocol.shots], seeds=protocol.draws, test_limit=_TEST_LIMIT
        )
        for note in task.notes:
            say(f"{corpus.store.folder}: {note}")
        found[corpus.store.content_hash()] = replace(corpus, tasks=(*corpus.tasks, task))
    for folder in protocol.verify:
        corpus = opened(folder)
        found[corpus.store.content_hash()] = replace(corpus, trials=speaker_trials(corpus.store))
    return list(found.values())


def speaker_trials(store: WaveformStore) -> Trials:
    """Trials of a corpus, without recordings that repeat the audio of another one.

    Raises:
        UserError: fewer than two speakers with two recordings each.
    """
    again = copies(store, names=utterance_ids(store.utterances), one_speaker=True)
    try:
        return draw_trials([None if i in again else speaker for i, speaker in enumerate(store.speakers)])
    except ValueError as error:
        raise UserError(f"{store.folder}: {error}") from None


def encoder_layers(corpus: TestCorpus, model: EmbeddingModel, *, words: str) -> dict[str, Features]:
    """Mean and standard deviation over frames of every layer and of the mean of all, by the name of the layer."""
    with EvaluationConsole() as console:
        blocks = layer_features(
            corpus.store,
            model,
            corpus.used(),
            layers=[*range(model.layers + 1), ALL_LAYERS],
            words=f"{words} on {corpus.store.folder.name}",
            console=console,
        )
    names = [*(f"layer {number}" for number in range(model.layers + 1)), MEAN_OF_LAYERS]
    return dict(zip(names, blocks, strict=True))


def mfcc_layer(corpus: TestCorpus) -> dict[str, Features]:
    """MFCC statistics in the place of a layer."""
    with EvaluationConsole() as console:
        return {STATISTICS: mfcc_features(corpus.store, corpus.used(), remove_level=False, console=console)}


def measured(
    corpus: TestCorpus, layers: Mapping[str, Features], *, audio: TrainingAudio | None = None
) -> tuple[list[Probed], list[Verified]]:
    """Scores of the tasks and trials of a corpus on every layer.

    Args:
        corpus: with what to measure.
        layers: features by the name of the layer; their first half is a mean over frames.
        audio: training audio of the encoder; None where it has none.
    """
    probed: list[Probed] = []
    for task in corpus.tasks:
        tested = np.unique(np.concatenate([split.test for split in task.splits])).tolist()
        overlap = "" if audio is None else pretraining_overlap(audio, corpus.store, tested)
        for layer, features in layers.items():
            scores = probe_scores(task, features, contender=layer, probes=PROBES)
            probed += [_probed(corpus, score, overlap) for score in scores if score.metric == "UAR"]
    if corpus.trials is None:
        return probed, []
    return probed, [_verified(corpus, corpus.trials, layer, features) for layer, features in layers.items()]


def _probed(corpus: TestCorpus, score: ProbeScore, overlap: str) -> Probed:
    counts = score.counts
    assert counts is not None
    parts = (counts.correct, counts.truth, counts.predicted)
    draws = [metric_of(GroupCounts(*(part[draw : draw + 1] for part in parts)), "UAR") for draw in range(score.seeds)]
    return Probed(
        corpus=corpus.facts,
        task=score.task,
        layer=score.contender,
        classifier=_CLASSIFIERS[score.probe],
        shots=score.shots,
        classes=score.classes,
        uar=round(score.interval.value, 5),
        draws=tuple(round(value, 5) for value in draws),
        pretraining_audio=overlap,
    )


def _verified(corpus: TestCorpus, trials: Trials, layer: str, features: Features) -> Verified:
    means = features[:, : features.shape[1] // 2]
    found = verification_interval(cosine_scores(means, trials), trials, corpus.store.speakers)
    return Verified(
        corpus=corpus.facts,
        layer=layer,
        trials=len(trials.same),
        speakers=len({corpus.store.speakers[index] for index in trials.utterances().tolist()}),
        eer=round(found.value, 5),
        low=round(found.low, 5),
        high=round(found.high, 5),
    )
