"""Few-label probe of an encoder while it is pretrained: what is learnt is drawn beside the loss.

Loss and accuracy of a pretraining task do not say what the encoder is good for, and are not comparable between tasks.
The probe is one cell of `evaluate`: logistic regression on mean and standard deviation over frames of the mean of all
hidden states, a few labelled utterances per class, speakers disjoint, the same draws throughout the run. It selects
nothing. It is small: the curve is noisy, and results are those of `evaluate`.
"""

from pathlib import Path

import numpy as np
import torch

from speechssl.config import digest
from speechssl.data.waveforms import WaveformStore
from speechssl.embed.embedder import EmbeddingModel
from speechssl.experiments.evaluate import chunks_by_length, probe_task
from speechssl.inference.layers import ALL_LAYERS
from speechssl.metrics.probe import probe_scores
from speechssl.models.encoder import SpeechEncoder
from speechssl.objectives.base import Curve, Metrics
from speechssl.terminal import say_once
from speechssl.train.pretrain import EncoderProbe

DRAWS, TESTS = 3, 200  # of the shots; test utterances per draw, about


def few_label_probe(corpus: Path, *, shots: int) -> EncoderProbe:
    """Draw the shots and test utterances of a corpus.

    Args:
        corpus: a prepared corpus with labels and speakers.
        shots: labelled utterances per class.

    Returns:
        A probe that logs `probe_uar`, and `probe_chance`, one over the number of classes.

    Raises:
        UserError: no prepared corpus, or too few labels or speakers in it; says what is missing.
    """
    store = WaveformStore(corpus)
    task = probe_task(store, "label", shots=[shots], seeds=DRAWS, test_limit=TESTS)
    for note in task.notes:
        say_once(f"{corpus}: {note}")
    used = task.utterances()

    def measure(encoder: SpeechEncoder) -> Metrics:
        model = _frozen_copy(encoder)
        features = np.zeros((len(store), 2 * model.dim), dtype=np.float32)
        for chunk in chunks_by_length(store, used):
            waveforms = [store.waveform(index) for index in chunk]
            features[chunk] = model.embed_layers(waveforms, pooling="mean+std", layers=[ALL_LAYERS])[0]
        scores = probe_scores(task, features, contender="model", probes=["logistic"])
        uar = next(score.interval.value for score in scores if score.metric == "UAR")
        return {"probe_uar": uar, "probe_chance": 1 / len(task.classes)}

    curve = Curve(
        "probe_uar",
        "Few-label probe (UAR)",
        caption=f"Logistic regression on the frozen encoder that would be saved, with {shots} labelled utterances per "
        "class, tested on other speakers: unweighted average recall.",
        chance="probe_chance",
        limits=(0.0, 1.0),
        training=False,
        headline=True,
    )
    return EncoderProbe(measure, (curve,), digest([store.content_hash(), task.classes, shots, DRAWS, TESTS]))


def _frozen_copy(encoder: SpeechEncoder) -> EmbeddingModel:
    """A copy for embedding, on the same device; the global random state does not change."""
    with torch.random.fork_rng(devices=[]):
        copy = SpeechEncoder(encoder.config)
    copy.load_state_dict(encoder.state_dict())
    return EmbeddingModel(copy, device=str(next(encoder.parameters()).device))
