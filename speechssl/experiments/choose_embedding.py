"""Choice of the layer and pooling that a model uses where none is named, by few-shot probes on labelled corpora.

Candidates are every layer and the mean of all, each pooled as mean and as mean and standard deviation. All have the
same shots and the same speaker-disjoint test utterances (`metrics.probe_splits`). The score is the UAR of the logistic
probe, the mean over draws and then over corpora. The corpora are part of the model from then on: results on them are no
test.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from speechssl.config import UserError
from speechssl.data.training_audio import read_training_audio, refuse_trained
from speechssl.data.waveforms import WaveformStore
from speechssl.embed.embedder import EmbeddingModel, load
from speechssl.experiments.evaluate import chunks_by_length, probe_task
from speechssl.experiments.evaluation_console import EvaluationConsole
from speechssl.files import write_atomic
from speechssl.inference.chosen import Choice
from speechssl.inference.layers import ALL_LAYERS, Layer
from speechssl.inference.pooling import POOLINGS
from speechssl.metrics.probe import probe_scores
from speechssl.metrics.probe_splits import ProbeTask
from speechssl.models.bundled import MANIFEST
from speechssl.models.storage import EMBEDDING, read_model_config

_TEST_LIMIT = 1000  # approximate number of test utterances per draw


@dataclass(frozen=True)
class Scored:
    """A candidate with its UAR, the mean over corpora."""

    choice: Choice
    uar: float


def choose_embedding(
    model_folder: Path,
    corpora: Sequence[Path],
    *,
    task: str = "label",
    shots: int = 10,
    seeds: int = 5,
    device: str = "auto",
) -> list[Scored]:
    """Score every layer and pooling, and write the best into the model's `config.json`, with what it was chosen on.

    Args:
        model_folder: a model folder with an encoder.
        corpora: prepared corpora with the labels of the task and speakers; no result may be reported on them.
        task: `label`, `speaker` or `text`.
        shots: labelled utterances per class.
        seeds: draws of the shots.
        device: as in `embedder.load`.

    Returns:
        All candidates, the best one first.

    Raises:
        UserError: no model, no corpus, the same corpus twice, one without targets, or the model of an installation.
    """
    if (model_folder / MANIFEST).exists():
        raise UserError(f"{model_folder}: a bundled model is not changed; choose for the model that it was made of")
    stores = [WaveformStore(corpus) for corpus in corpora]
    contents = [store.content_hash() for store in stores]
    if not stores or len(set(contents)) < len(contents):
        raise UserError("choosing a layer needs one or more corpora, each named once")
    tasks = [probe_task(store, task, shots=[shots], seeds=seeds, test_limit=_TEST_LIMIT) for store in stores]
    audio = read_training_audio(model_folder)
    for store, each in zip(stores, tasks, strict=True):
        refuse_trained(audio, store, each.utterances().tolist(), model=model_folder)
    model = load(model_folder, device=device)
    with EvaluationConsole() as console:
        by_corpus = [_scores(store, each, model, console) for store, each in zip(stores, tasks, strict=True)]
    scored = [Scored(choice, float(np.mean([scores[choice] for scores in by_corpus]))) for choice in by_corpus[0]]
    scored.sort(key=lambda each: -each.uar)  # stable: of equals the first candidate
    best = scored[0]
    evidence = [
        {"corpus": store.folder.name, "content": content, "uar": round(scores[best.choice], 4)}
        for store, content, scores in zip(stores, contents, by_corpus, strict=True)
    ]
    table = {
        "layer": best.choice.layer,
        "pooling": best.choice.pooling,
        "chosen_on": {"task": task, "shots": shots, "draws": seeds, "corpora": evidence},
    }
    config = {**read_model_config(model_folder), EMBEDDING: table}
    write_atomic(model_folder / "config.json", json.dumps(config, indent=2) + "\n")
    return scored


def _scores(
    store: WaveformStore, task: ProbeTask, model: EmbeddingModel, console: EvaluationConsole
) -> dict[Choice, float]:
    """UAR of every candidate on one corpus."""
    layers: list[Layer] = [-1, ALL_LAYERS, *range(model.layers)]  # where scores are equal, the first is chosen
    used = task.utterances()
    features = np.zeros((len(layers), len(store), 2 * model.dim), dtype=np.float32)
    with console.progress(f"features: {store.folder.name}", total=len(used)) as advance:
        for chunk in chunks_by_length(store, used):
            waveforms = [store.waveform(index) for index in chunk]
            features[:, chunk] = model.embed_layers(waveforms, pooling="mean+std", layers=layers)
            advance(len(chunk))
    found: dict[Choice, float] = {}
    with console.progress(f"probes: {store.folder.name}", total=len(layers) * len(POOLINGS)) as advance:
        for pooling in POOLINGS:
            for layer, matrix in zip(layers, features, strict=True):
                part = matrix if pooling == "mean+std" else matrix[:, : model.dim]
                scores = probe_scores(task, part, contender="", probes=("logistic",))
                [uar] = [score.interval.value for score in scores if score.metric == "UAR"]
                found[Choice(layer, pooling)] = uar
                advance(1)
    return found
