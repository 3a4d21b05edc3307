"""Contenders that are trained: fine-tuned from an encoder, from scratch with its architecture, and a log-mel CNN.

One job is one training and its answers for the test side. Schedules have a fixed length: no label beyond the shots is
used, so there is no early stopping. The model folder is removed when the test side is predicted.
"""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from speechssl.audio import SAMPLE_RATE
from speechssl.config import UserError, dump_config, load_config
from speechssl.data.labelled import Example
from speechssl.data.waveforms import WaveformStore
from speechssl.device import device_of
from speechssl.inference.heads import classify
from speechssl.models.ctc import CTCModel
from speechssl.models.heads import load_head
from speechssl.models.storage import encoder_dim, read_encoder_config
from speechssl.train.finetune import finetune
from speechssl.train.finetune_config import FinetuneConfig, finetune_settings

Network = Literal["encoder", "logmel-cnn"]
_CHUNK_SECONDS = 240.0  # s of audio in memory at once


@dataclass(frozen=True)
class TrainingJob:
    """One training: model, training utterances and test utterances.

    Attributes:
        store: the corpus.
        folder: for the model while it is needed.
        network: an encoder with a head, or the log-mel CNN.
        start: model folder whose encoder is fine-tuned; None to train from scratch.
        like: model folder that gives the architecture of an encoder trained from scratch.
        train: training utterances.
        targets: their classes.
        test: test utterances.
        shots: training utterances per class, on average.
        seed: seed of the initialisation and the order of the batches.
        sets: changes to the settings, `a.b=c`.
        command: the command line.
    """

    store: WaveformStore
    folder: Path
    network: Network
    start: Path | None
    like: Path
    train: Int[np.ndarray, " trains"]
    targets: Sequence[str]
    test: Int[np.ndarray, " tests"]
    shots: int
    seed: int
    sets: Sequence[str] = ()
    command: str = ""


@runtime_checkable
class Trainer(Protocol):
    """Runs jobs; the tests use a fast one."""

    def settings(self, job: TrainingJob) -> str:
        """Everything about the training that is not in the data, as text; a change invalidates stored answers."""
        ...

    def answers(self, job: TrainingJob) -> list[str]:
        """Train, and return the class of each test utterance."""
        ...


class FineTuner:
    """Speechssl's own trainer: `train.finetune` with its settings for the number of shots."""

    def settings(self, job: TrainingJob) -> str:
        """The resolved configuration of the training.

        Raises:
            UserError: an unknown setting, or a value that is not allowed.
        """
        return dump_config(self._config(job))

    def answers(self, job: TrainingJob) -> list[str]:
        """Train, and return the class of each test utterance.

        Raises:
            KeyboardInterrupt: the training was stopped by a signal.
        """
        examples = [Example(index=i, target=name) for i, name in zip(job.train.tolist(), job.targets, strict=True)]
        result = finetune(
            job.store,
            job.folder,
            config=self._config(job),
            start=job.start,
            train=examples,
            command=job.command,
            show=False,
        )
        if not result.finished:
            raise KeyboardInterrupt
        answers = predict_classes(job.folder, job.store, job.test)
        shutil.rmtree(job.folder)
        return answers

    def _config(self, job: TrainingJob) -> FinetuneConfig:
        preset = finetune_settings(
            "label", shots=job.shots, scratch=job.start is None, network=job.network, dim=encoder_dim(job.like)
        )
        changes: dict[str, object] = {"seed": job.seed}
        if job.start is None and job.network == "encoder":
            changes["encoder"] = read_encoder_config(job.like)
        return load_config(FinetuneConfig, overrides=job.sets, defaults=preset.model_copy(update=changes))


def predict_classes(folder: Path, store: WaveformStore, indices: Int[np.ndarray, " clips"]) -> list[str]:
    """Class predicted by a fine-tuned model for each utterance, in the order of `indices`.

    Raises:
        UserError: not a model folder, or one without a classifier.
    """
    model = load_head(folder)
    if isinstance(model, CTCModel):
        raise UserError(f"{folder}: not a classifier but a recogniser")
    model.to(device_of("auto"))
    answers = [""] * len(indices)
    for part in _parts(store, indices):
        probabilities = classify(model, [store.waveform(int(indices[i])) for i in part])
        for place, best in zip(part, probabilities.argmax(axis=1).tolist(), strict=True):
            answers[place] = model.classes[best]
    return answers


def _parts(store: WaveformStore, indices: Int[np.ndarray, " clips"]) -> Iterator[list[int]]:
    """Positions in `indices` in chunks of ascending length; the seconds per chunk are bounded."""
    part: list[int] = []
    samples = 0
    for place in np.argsort(store.lengths[indices], kind="stable").tolist():
        length = int(store.lengths[indices[place]])
        if part and samples + length > _CHUNK_SECONDS * SAMPLE_RATE:
            yield part
            part, samples = [], 0
        part.append(place)
        samples += length
    if part:
        yield part
