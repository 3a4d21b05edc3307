"""Initialisation of a head as the probe of the frozen encoder.

Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution" (arXiv
2202.10054): a linear probe first, then fine-tuning from it.
"""

from collections.abc import Sequence

import numpy as np
import torch

from speechssl.audio import normalize
from speechssl.data.labelled import Example
from speechssl.data.waveforms import WaveformStore
from speechssl.inference.batches import by_duration, pad
from speechssl.metrics.probe_classifiers import fit_logistic
from speechssl.models.classifier import Classifier


def start_as_probe(model: Classifier, store: WaveformStore, examples: Sequence[Example], *, seed: int) -> None:
    """Set the standardisation and the linear layer to the logistic probe on the frozen encoder.

    Args:
        model: its encoder is not changed.
        store: the prepared corpus.
        examples: training data of the probe; its strength is chosen on them alone, by speaker where there are enough.
        seed: seed of the folds on which the strength is chosen.
    """
    pooled = np.zeros((len(examples), len(model.centre)), dtype=np.float64)
    lengths = [int(store.lengths[example.index]) for example in examples]
    training = model.training
    model.eval()
    with torch.no_grad():
        for places in by_duration(lengths):
            waveforms = [store.waveform(examples[place].index) for place in places]
            padded, num_samples = pad([normalize(each) if model.normalized else each for each in waveforms])
            pooled[places] = model.pooled(padded, num_samples).double().numpy()
    model.train(training)
    centre, spread = pooled.mean(axis=0), pooled.std(axis=0)
    spread = np.where(spread > 1e-12 * (1 + np.abs(centre)), spread, 1.0)
    targets = np.array([model.classes.index(example.target) for example in examples])
    speakers = [store.speakers[example.index] for example in examples]
    probe = fit_logistic((pooled - centre) / spread, targets, groups=speakers, seed=seed)
    with torch.no_grad():
        model.centre.copy_(torch.from_numpy(centre))
        model.spread.copy_(torch.from_numpy(spread))
        model.output.weight.copy_(torch.from_numpy(probe.weights))
        model.output.bias.copy_(torch.from_numpy(probe.bias))
