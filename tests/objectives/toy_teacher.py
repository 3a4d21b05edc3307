"""An objective that uses every optional feature of the interface.

A causal encoder, views, labels of frames, near and far crops, and a moving teacher, which the model folder keeps.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from speechssl.data.augment import AugmentConfig
from speechssl.data.batch import BatchSpec, CropBatch, FrameGrid, Pairs
from speechssl.models.encoder import SpeechEncoder
from speechssl.nn.ema import EMA, DecayConfig
from speechssl.nn.losses import code_cross_entropy
from speechssl.objectives.base import Context, Curve, Metrics, Objective, ObjectiveConfig, StepOutput

CLASSES = 5


class Config(ObjectiveConfig):
    name: Literal["teacher"] = "teacher"
    decay: DecayConfig = DecayConfig(start=0.9, end=0.99)
    most: float = 1.0


class Teacher(Objective):
    criterion = None

    def __init__(self, encoder: SpeechEncoder, config: Config, *, seed: int):
        super().__init__(encoder, seed=seed)
        self.config = config
        self.teacher = EMA(encoder)
        self.classes = nn.Linear(encoder.config.dim, CLASSES)

    @property
    def batch_spec(self) -> BatchSpec:
        conv = self.encoder.config.conv
        return BatchSpec(
            views=2,
            augment=AugmentConfig(speed=0.0, pitch=0.0, noise=1.0),
            labels="toy",
            grid=FrameGrid(conv.hop, conv.receptive_field, conv.padding),
            hop=conv.hop,
            pairs=Pairs(near_seconds=0.1, far_seconds=0.2),
        )

    @property
    def released(self) -> SpeechEncoder:
        assert isinstance(self.teacher.module, SpeechEncoder)
        return self.teacher.module

    def context(self, batch: CropBatch, *, step: int) -> Context:
        return Context(self.encoder(batch.waveforms).frames, causal=True)

    def forward(
        self, batch: CropBatch, *, step: int, progress: float, shared: Mapping[str, Tensor] | None = None
    ) -> StepOutput:
        assert batch.views is not None
        assert batch.labels is not None
        assert batch.near is not None
        assert batch.far is not None
        frames = self.encoder(batch.waveforms).frames
        codes = code_cross_entropy(self.classes(frames), batch.labels)
        with torch.no_grad():
            target = self.released(batch.waveforms).frames
        views = torch.stack([self.encoder(view).frames for view in batch.views])
        apart = (views - target).square().mean(dim=-1).sum()
        pooled = [self.encoder(each).frames.mean(dim=1) for each in (batch.near, batch.far)]
        distance = [(frames.mean(dim=1) - each).square().sum(dim=-1) for each in pooled]
        near = (distance[0] - distance[1] + 1).relu().sum()
        terms = {"codes": codes.total, "views": apart, "near": near}
        stats = {"count": codes.count, "rows": torch.tensor(float(len(frames)))}
        return StepOutput(
            torch.stack(list(terms.values())).sum(), {name: each.detach() for name, each in terms.items()}, stats
        )

    def after_update(self, *, step: int, progress: float) -> None:
        self.teacher.update(self.encoder, self.config.decay.at(progress))

    def metrics(self, terms: dict[str, Tensor], stats: dict[str, Tensor]) -> Metrics:
        loss = float(torch.stack(list(terms.values())).sum() / stats["count"])
        return {"loss": loss, "codes": float(terms["codes"] / stats["count"])}


PRESETS = {"tiny": Config()}
RUNS = {
    "tiny": {
        "encoder": {"transformer": {"causal": True}, "normalize": False},
        "crops": {"seconds": 1.0, "min_seconds": 0.5, "normalize": False},
    }
}
CURVES = (Curve("loss", "Loss"), Curve("codes", "Cross-entropy of the labels", bound="most"))


def build(encoder: SpeechEncoder, config: Config, *, seed: int) -> Teacher:
    return Teacher(encoder, config, seed=seed)
