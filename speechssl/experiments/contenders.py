"""The contenders of a few-label experiment, and those of them that train no network.

- `frozen probe`: logistic regression on mean and standard deviation over frames of the mean of the encoder's layers.
- `frozen random encoder`: the same on the same network with random weights: the part of the architecture alone.
- `MFCC + SVM`: statistics of 20 MFCC and their deltas, standardised, into a support vector machine (Cortes and Vapnik,
  "Support-Vector Networks", 1995), the classic of the field (Schuller, Steidl and Batliner, 2009). Kernel, C and gamma
  are chosen on the shots alone, by balanced accuracy under folds that are grouped by speaker where possible.
- `MFCC + SVM, level removed`: the same after every utterance was scaled to unit variance, as for an encoder. The
  difference is the information in the loudness, which recordings with one gain keep.
"""

from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Float32, Int

from speechssl.config import UserError
from speechssl.data.waveforms import WaveformStore
from speechssl.embed.embedder import EmbeddingModel, load
from speechssl.experiments.evaluate import encoder_features, random_encoder
from speechssl.experiments.evaluation_console import EvaluationConsole
from speechssl.metrics.baselines import MFCC_DIM, mfcc_statistics
from speechssl.metrics.probe_classifiers import predict_logistic, shot_folds

FINE_TUNED, FROZEN, FROZEN_RANDOM = "fine-tuned", "frozen probe", "frozen random encoder"
SVM, SVM_NO_LEVEL = "MFCC + SVM", "MFCC + SVM, level removed"
CNN, SCRATCH, CHANCE = "log-mel CNN", "from scratch", "chance"
CONTENDERS = {
    "fine-tuned": FINE_TUNED,
    "frozen-probe": FROZEN,
    "random-encoder": FROZEN_RANDOM,
    "mfcc-svm": SVM,
    "logmel-cnn": CNN,
    "scratch": SCRATCH,
    "mfcc-svm-level": SVM_NO_LEVEL,
}
"""Contenders by their name on the command line. Chance always runs."""
DEFAULT = ("fine-tuned", "frozen-probe", "random-encoder", "mfcc-svm", "logmel-cnn", "scratch")
WITH_GAINS = (FINE_TUNED, FROZEN)  # contenders whose gains over the others are reported
TRAINED = (FINE_TUNED, CNN, SCRATCH)

Source = Literal["model", "random encoder", "MFCC", "MFCC without level"]
SOURCES: dict[str, Source] = {
    FROZEN: "model",
    FROZEN_RANDOM: "random encoder",
    SVM: "MFCC",
    SVM_NO_LEVEL: "MFCC without level",
}
Features = Float32[np.ndarray, "utterances dim"]

SVM_GRID: list[dict[str, list[Any]]] = [
    {"kernel": ["rbf"], "C": [0.1, 1.0, 10.0, 100.0], "gamma": [0.1 / MFCC_DIM, 0.3 / MFCC_DIM, 1 / MFCC_DIM]},
    {"kernel": ["linear"], "C": [0.001, 0.01, 0.1, 1.0], "gamma": ["scale"]},
]
SVM_FIXED: dict[str, Any] = {"kernel": "rbf", "C": 10.0, "gamma": 0.3 / MFCC_DIM}  # shots too few to choose on


def contender_names(words: Sequence[str]) -> list[str]:
    """The names of the contenders in the table, in the table's order.

    Raises:
        UserError: an unknown name, or none.

    >>> contender_names(["mfcc-svm", "fine-tuned"])
    ['fine-tuned', 'MFCC + SVM']
    """
    unknown = [word for word in words if word not in CONTENDERS]
    if unknown or not words:
        given = unknown[0] if unknown else ""
        raise UserError(f"contender {given!r}: allowed are {', '.join(CONTENDERS)}")
    return [name for word, name in CONTENDERS.items() if word in words]


@dataclass
class FeatureBank:
    """Features of the frozen contenders, computed on first use."""

    store: WaveformStore
    encoder: Path
    used: Int[np.ndarray, " used"]
    device: str = "auto"

    def __post_init__(self) -> None:
        self._known: dict[Source, Features] = {}

    def get(self, source: Source) -> Features:
        """One row per utterance; rows of unused utterances are zero."""
        if source not in self._known:
            with EvaluationConsole() as console:
                self._known[source] = self._compute(source, console)
        return self._known[source]

    def _compute(self, source: Source, console: EvaluationConsole) -> Features:
        if source in ("model", "random encoder"):
            model: EmbeddingModel = load(self.encoder, device=self.device)
            model = model if source == "model" else random_encoder(model)
            return encoder_features(self.store, model, self.used, family=source, console=console)[
                f"{source} (mean of layers)"
            ]
        scale = source != "MFCC"
        return mfcc_features(self.store, self.used, remove_level=scale, console=console)


def mfcc_features(
    store: WaveformStore, used: Int[np.ndarray, " used"], *, remove_level: bool, console: EvaluationConsole
) -> Features:
    """MFCC statistics of the utterances that are used.

    Args:
        store: the corpus.
        used: the utterances that need features.
        remove_level: scale every utterance to unit variance first.
        console: shows a progress bar.
    """
    from threadpoolctl import threadpool_limits

    def row(index: int) -> Float32[np.ndarray, " dim"]:
        waveform = store.waveform(index)
        spread = float(waveform.std())
        return mfcc_statistics(waveform / spread if remove_level and spread > 0 else waveform)

    features = np.zeros((len(store), MFCC_DIM), dtype=np.float32)
    row(int(used[0]))  # librosa compiles before the threads start
    words = "features: MFCC without level" if remove_level else "features: MFCC"
    with (
        console.progress(words, total=len(used)) as advance,
        threadpool_limits(limits=1),  # clips are computed in parallel
        ThreadPoolExecutor() as pool,
    ):
        for index, values in zip(used.tolist(), pool.map(row, used.tolist()), strict=True):
            features[index] = values
            advance(1)
    return features


Classify = Callable[
    [Float[np.ndarray, "trains dim"], Int[np.ndarray, " trains"], Float[np.ndarray, "tests dim"]],
    Int[np.ndarray, " tests"],
]


def answer_frozen(
    contender: str,
    features: Features,
    *,
    train: Int[np.ndarray, " trains"],
    targets: Sequence[str],
    test: Int[np.ndarray, " tests"],
    speakers: Sequence[str | None],
    seed: int,
) -> list[str]:
    """Fit a probe or an SVM on the training utterances and name the class of each test utterance.

    Args:
        contender: `frozen probe`, `frozen random encoder`, `MFCC + SVM` or the last with its level removed.
        features: one row per utterance of the corpus.
        train: training utterances.
        targets: their classes.
        test: test utterances.
        speakers: speaker of every utterance of the corpus.
        seed: seed of the folds that settings are chosen on.
    """
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    classes = sorted(set(targets))
    numbers = np.array([classes.index(name) for name in targets])
    groups: list[Hashable] = [speakers[i] for i in train.tolist()]
    with threadpool_limits(limits=1):
        scaler = StandardScaler().fit(features[train].astype(np.float64))
        fitted = np.asarray(scaler.transform(features[train].astype(np.float64)))
        held = np.asarray(scaler.transform(features[test].astype(np.float64)))
        if contender in (FROZEN, FROZEN_RANDOM):
            answers = predict_logistic(fitted, numbers, held, groups=groups, seed=seed)
        else:
            answers = predict_svm(fitted, numbers, held, groups=groups, seed=seed)
    return [classes[number] for number in answers.tolist()]


def predict_svm(
    train: Float[np.ndarray, "trains dim"],
    targets: Int[np.ndarray, " trains"],
    test: Float[np.ndarray, "tests dim"],
    *,
    groups: Sequence[Hashable],
    seed: int,
) -> Int[np.ndarray, " tests"]:
    """Answers of the support vector machine for `test`; its settings are chosen on `train` alone.

    Args:
        train: standardised features.
        targets: numbers of classes.
        test: features standardised as `train` was.
        groups: the speaker of each training row.
        seed: seed of the folds.
    """
    import warnings

    from sklearn.model_selection import GridSearchCV
    from sklearn.svm import SVC

    folds = shot_folds(targets, groups, seed=seed)
    if not folds:
        return np.asarray(SVC(class_weight="balanced", **SVM_FIXED).fit(train, targets).predict(test))
    search = GridSearchCV(SVC(class_weight="balanced"), SVM_GRID, scoring="balanced_accuracy", cv=folds)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="y_pred contains classes not in y_true")  # a small fold may lack one
        return np.asarray(search.fit(train, targets).predict(test))
