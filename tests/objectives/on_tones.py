"""A few updates on tones, and what is learnt on other tones: more than one batch by heart."""

import numpy as np
import torch

from speechssl.data.batch import CropBatch
from speechssl.models.encoder import EncoderConfig
from speechssl.objectives.base import Metrics, Objective
from tests.toys import MICRO_ENCODER, normalized_tones

ROWS, SECONDS = 8, 1.0


def still_encoder() -> EncoderConfig:
    """The micro encoder without dropout."""
    still = MICRO_ENCODER.transformer.model_copy(update={"dropout": 0.0, "attention_dropout": 0.0})
    return MICRO_ENCODER.model_copy(update={"transformer": still})


def noise_batch(rows: int = 3, seconds: float = 1.0) -> CropBatch:
    """Noise; the same at each call."""
    generator = torch.Generator().manual_seed(1)
    return CropBatch(torch.randn(rows, int(16000 * seconds), generator=generator), np.arange(rows), rows)


def learnt(objective: Objective, *, steps: int, rate: float = 3e-3) -> tuple[Metrics, Metrics]:
    """Metrics on held-out tones before and after so many updates on others."""
    torch.manual_seed(0)
    waveforms = torch.from_numpy(normalized_tones(5 * ROWS, SECONDS))
    *train, held_out = (CropBatch(part, np.arange(ROWS), ROWS) for part in waveforms.split(ROWS))

    def measured() -> Metrics:
        objective.eval()
        with torch.no_grad():
            output = objective(held_out, step=1000, progress=1.0)
        objective.train()
        return objective.metrics(output.terms, output.stats)

    before = measured()
    optimizer = torch.optim.AdamW([each for each in objective.parameters() if each.requires_grad], lr=rate)
    for step in range(steps):
        output = objective(train[step % len(train)], step=step, progress=step / steps)
        optimizer.zero_grad()
        (output.total / output.stats["count"]).backward()
        optimizer.step()
        objective.after_update(step=step, progress=(step + 1) / steps)
    return before, measured()
