"""The smallest objective: each frame tells the loudness of its stretch of the waveform; a target is a frame."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from speechssl.data.batch import CropBatch
from speechssl.models.encoder import SpeechEncoder
from speechssl.objectives.base import Curve, Metrics, Objective, ObjectiveConfig, StepOutput


class Config(ObjectiveConfig):
    name: Literal["toy"] = "toy"
    weight: float = 1.0


class Loudness(Objective):
    def __init__(self, encoder: SpeechEncoder, config: Config, *, seed: int):
        super().__init__(encoder, seed=seed)
        self.config = config
        self.head = nn.Linear(encoder.config.dim, 1)

    def forward(
        self, batch: CropBatch, *, step: int, progress: float, shared: Mapping[str, Tensor] | None = None
    ) -> StepOutput:
        frames = self.encoder(batch.waveforms).frames
        samples = batch.waveforms.shape[1] // frames.shape[1]
        loudness = batch.waveforms.unfold(1, samples, samples)[:, : frames.shape[1]].square().mean(-1).log1p()
        predicted = self.head(frames).squeeze(-1)[:, : loudness.shape[1]]
        total = self.config.weight * (predicted.float() - loudness).square().sum()
        return StepOutput(total, {"loudness": total.detach()}, {"count": torch.tensor(float(loudness.numel()))})

    def metrics(self, terms: dict[str, Tensor], stats: dict[str, Tensor]) -> Metrics:
        return {"loss": float(terms["loudness"] / stats["count"])}


PRESETS = {"tiny": Config()}
RUNS = {"tiny": {"crops": {"seconds": 1.0, "min_seconds": 0.5}}}
CURVES = (Curve("loss", "Squared error of the loudness"),)


def build(encoder: SpeechEncoder, config: Config, *, seed: int) -> Loudness:
    return Loudness(encoder, config, seed=seed)
