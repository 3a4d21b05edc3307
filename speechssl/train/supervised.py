"""What the loop trains in fine-tuning: a model with a head, and the loss of its labels."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from speechssl.data.labelled import LabelledBatch
from speechssl.models.classifier import LogMelClassifier
from speechssl.models.heads import Head
from speechssl.objectives.base import Metrics, StepOutput, Trainable
from speechssl.train.criteria import CTC, Criterion
from speechssl.train.finetune_config import FinetuneConfig

_HIDE = 41  # part of the seed, so that this random stream differs from others


class Supervised(Trainable):
    """A model with a head and the loss of its labels.

    Args:
        model: the trained model.
        criterion: its loss.
        config: what is masked and how long the encoder is frozen.
    """

    criterion = "error"

    def __init__(self, model: Head, loss: Criterion, config: FinetuneConfig):
        super().__init__()
        self.model, self.loss, self.config = model, loss, config
        self.terms = loss.terms if isinstance(loss, CTC) else None

    def forward(
        self,
        batch: LabelledBatch,
        *,
        step: int,  # noqa: ARG002 -- the loop passes it; draws follow the batch
        progress: float,
        shared: Mapping[str, Tensor] | None = None,  # noqa: ARG002 -- the loop passes it
    ) -> StepOutput:
        """See `Trainable.forward`."""
        output = self.model(batch.waveforms, batch.num_samples, **self._hidden(batch, progress))
        return self.loss.loss(output, batch.examples.tolist(), progress=progress)

    def after_update(self, *, step: int, progress: float) -> None:  # noqa: ARG002 -- the loop passes them
        """Update the running mean of a label prior."""
        if self.terms is not None:
            self.terms.after_update()

    def _hidden(self, batch: LabelledBatch, progress: float) -> dict[str, Any]:
        if isinstance(self.model, LogMelClassifier):
            return {}
        frozen = {"frozen": progress < self.config.frozen}
        if not self.training:
            return frozen
        rngs = [np.random.default_rng((self.config.seed, _HIDE, batch.number, row)) for row in batch.rows.tolist()]
        return frozen | {"hidden": self.model.trunk.draw(batch.num_samples, self.config.hide, rngs=rngs)}

    def metrics(self, terms: dict[str, Tensor], stats: dict[str, Tensor]) -> Metrics:
        """Metrics of the criterion."""
        return self.loss.metrics(terms, stats)

    def summary(self, metrics: Mapping[str, Any]) -> str:
        """Summary of the criterion."""
        return self.loss.summary(metrics)
