"""Speaker verification by a frozen model beside its baselines: the untrained encoder, MFCC and chance."""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from speechssl.data.names import is_synthetic
from speechssl.data.training_audio import pretraining_overlap, read_training_audio, refuse_trained
from speechssl.data.waveforms import WaveformStore
from speechssl.embed.embedder import load
from speechssl.experiments.evaluate import encoder_features, random_encoder
from speechssl.experiments.evaluation_console import EvaluationConsole
from speechssl.experiments.frozen_features import mfcc_features
from speechssl.metrics.results import CHANCE, EER, MFCC, MODEL, RANDOM, VERIFICATION, ResultRow
from speechssl.metrics.verification import Trials, cosine_scores, verification_gain, verification_interval

Scores = dict[str, Float[np.ndarray, " trials"]]


def verify_speakers(
    model_folder: Path, store: WaveformStore, trials: Trials, *, command: str = "", device: str = "auto"
) -> list[ResultRow]:
    """Equal error rates by the cosine of means over frames, with the model's paired gains.

    Args:
        model_folder: a model folder.
        store: the corpus.
        trials: from `speaker_trials`.
        command: the command line, kept in every row.
        device: as in `embedder.load`.

    Raises:
        UserError: the model cannot be read, or was fine-tuned on recordings of the trials.
    """
    used = trials.utterances()
    audio = read_training_audio(model_folder)
    refuse_trained(audio, store, used.tolist(), model=model_folder)
    overlap = pretraining_overlap(audio, store, used.tolist())
    model = load(model_folder, device=device)
    with EvaluationConsole() as console:
        console.say(f"{VERIFICATION}: in the audio of pretraining: {overlap}")
        features = encoder_features(store, model, used, family=MODEL, console=console)
        features |= encoder_features(store, random_encoder(model), used, family=RANDOM, console=console)
        features[MFCC] = mfcc_features(store, used, remove_level=False, console=console)
    scores = {name: cosine_scores(block[:, : block.shape[1] // 2], trials) for name, block in features.items()}
    speakers = len({store.speakers[index] for index in used.tolist()})
    rows: list[ResultRow] = []
    for name in (*scores, CHANCE):
        mine = name.startswith(f"{MODEL} (")
        value, low, high = (0.5, 0.5, 0.5) if name == CHANCE else _rate(scores[name], trials, store)
        rows.append(
            ResultRow(
                task=VERIFICATION,
                contender=name,
                probe="",
                labels=0,
                metric=EER,
                value=value,
                low=low,
                high=high,
                n=len(trials.same),
                seeds=1,
                classes=speakers,
                command=command,
                gains=_gains(name, scores, trials, store) if mine else {},
                corpus=str(store.folder),
                synthetic=is_synthetic(store),
                unit="",
                model_hash=model.digest if mine else "",
                pretraining_audio=overlap if mine else "",
            )
        )
    return rows


def _rate(scores: Float[np.ndarray, " trials"], trials: Trials, store: WaveformStore) -> tuple[float, float, float]:
    found = verification_interval(scores, trials, store.speakers)
    return found.value, found.low, found.high


def _gains(name: str, scores: Scores, trials: Trials, store: WaveformStore) -> dict[str, list[float]]:
    """Gains of a layer of the model over the same layer of the random encoder and over MFCC."""
    gains: dict[str, list[float]] = {}
    for other in (name.replace(MODEL, RANDOM, 1), MFCC):
        found = verification_gain(scores[name], scores[other], trials, store.speakers)
        gains[other] = [found.value, found.low, found.high]
    return gains
