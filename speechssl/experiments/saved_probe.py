"""The frozen probe of an experiment as a model folder, for `predict`: LDA on the mean of the encoder's layers.

It is the contender `frozen probe, LDA` (`experiments.contenders`), fitted on all labelled utterances of the corpus,
test sides included: the experiment's rows estimate it, and none of its own answers on this corpus is a test. Its linear
function becomes the head of a `Classifier`. Where speakers are known (`--standardise speaker`), the head is of pooled
vectors without each speaker's mean and deviation, and `predict` calibrates it on a speaker.
"""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from speechssl import __version__
from speechssl.config import UserError
from speechssl.data.names import is_synthetic
from speechssl.data.training_audio import AudioRecord, TrainingAudio, read_training_audio, write_training_audio
from speechssl.data.waveforms import WaveformStore
from speechssl.experiments.frozen_features import FeatureBank
from speechssl.metrics.shots import FewLabels
from speechssl.models.bundled import origin_of
from speechssl.models.classifier import Classifier, ClassifierConfig
from speechssl.models.heads import save_head
from speechssl.models.storage import load_encoder
from speechssl.terminal import say


def save_probe(
    store: WaveformStore, task: FewLabels, encoder: Path, folder: Path, *, by_speaker: bool, command: str = ""
) -> None:
    """Fit the probe on every labelled utterance that takes part, and write the model folder with its record.

    Args:
        store: the corpus.
        task: names the classes and the utterances that take part.
        encoder: the model folder of the encoder.
        folder: the new model folder.
        by_speaker: take out each speaker's mean and deviation, over all of that speaker's recordings.
        command: the command line, kept in the provenance.

    Raises:
        UserError: a class has fewer than two utterances.
    """
    chosen = np.array([i for i, target in enumerate(task.targets) if target is not None])
    numbers = np.array([task.classes.index(str(task.targets[i])) for i in chosen.tolist()])
    fewest = int(np.bincount(numbers, minlength=len(task.classes)).min())
    if fewest < 2:
        raise UserError(f"{store.folder}: a class with {fewest} labelled utterances; LDA needs two of each to be saved")
    used = np.arange(len(store)) if by_speaker else chosen
    block = FeatureBank(store, encoder, used, by_speaker=by_speaker).get("model")[0][chosen].astype(np.float64)
    centre, spread = block.mean(axis=0), block.std(axis=0)
    spread = np.where(spread > 1e-6 * (1 + np.abs(centre)), spread, 1.0)
    weight, bias = lda_layer((block - centre) / spread, numbers)
    model = Classifier(load_encoder(encoder), task.classes, ClassifierConfig(pooling="mean+std"), by_speaker=by_speaker)
    if by_speaker:  # centre and spread are the speaker's: the training side's go into the linear layer
        weight, bias = weight / spread, bias - (weight / spread) @ centre
    with torch.no_grad():
        model.output.weight.copy_(torch.from_numpy(weight))
        model.output.bias.copy_(torch.from_numpy(bias))
        if not by_speaker:
            model.centre.copy_(torch.from_numpy(centre))
            model.spread.copy_(torch.from_numpy(spread))
    _write(model, store, chosen.tolist(), folder=folder, encoder=encoder, command=command)
    way = "; give predict --speaker-folder, a folder of the speaker's recordings" if by_speaker else ""
    say(f"{folder}: frozen probe, LDA, fitted on {len(chosen)} utterances, for `speechssl predict`{way}")


def lda_layer(
    features: Float[np.ndarray, "rows dim"], numbers: np.ndarray
) -> tuple[Float[np.ndarray, "classes dim"], Float[np.ndarray, " classes"]]:
    """Weights and bias of the linear function whose softmax is the posterior of the probe's LDA."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    classes = len(np.unique(numbers))
    priors = np.full(classes, 1 / classes)
    fitted = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto", priors=priors).fit(features, numbers)
    weight, bias = np.asarray(fitted.coef_), np.asarray(fitted.intercept_)
    if len(weight) == 1:  # for two classes scikit-learn keeps the difference
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return weight, bias


def _write(
    model: Classifier, store: WaveformStore, chosen: list[int], *, folder: Path, encoder: Path, command: str
) -> None:
    items = [store.utterances[i] for i in chosen]
    training = {
        "corpus": str(store.folder),
        "content_hash": store.content_hash(),
        "utterances": len(items),
        "minutes": round(sum(item.duration for item in items) / 60, 2),
        "speakers": sorted({item.speaker for item in items if item.speaker is not None}),
    }
    provenance = {
        "speechssl": __version__,
        "torch": torch.__version__,
        "command": command,
        "start": origin_of(encoder),
        "synthetic": is_synthetic(store),
        "method": "frozen probe, LDA",
    }
    record = read_training_audio(encoder) | TrainingAudio(fine_tuning=AudioRecord.of(store, chosen))
    write_training_audio(folder, record)  # before the model: never a model without its record
    save_head(folder, model, extra={"training": training, "provenance": provenance})
