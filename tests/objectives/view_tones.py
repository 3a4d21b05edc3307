"""Two views of recordings that differ in a low tone, and training on them: held-out tones, not one batch by heart."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from speechssl.data.batch import CropBatch
from speechssl.objectives.base import Metrics, Objective
from tests.toys import RATE, normalized_tones

ROWS = 16


def view_batch(rows: int = 6, seconds: float = 0.5, recording: Tensor | None = None) -> CropBatch:
    """Speech-like tones; the views share a speaker at most."""
    crops, near = torch.from_numpy(normalized_tones(2 * rows, seconds)).unflatten(0, (2, rows))
    recording = torch.arange(rows) if recording is None else recording
    return CropBatch(crops, np.arange(rows), rows, near=near, recording=recording)


def recordings(seed: int, *, related: bool = True) -> CropBatch:
    """Each recording has its own low tone; a high one and noise differ between its two views.

    Without `related` the second view is of another recording.
    """
    rng, samples = np.random.default_rng(seed), RATE // 2
    low = np.repeat(rng.permutation(np.geomspace(150, 1200, ROWS))[None], 2, axis=0)
    if not related:
        low[1] = np.roll(low[0], 3)
    time, high = np.arange(samples) / RATE, rng.uniform(1500, 6000, (2, ROWS))
    phase = rng.uniform(0, 2 * np.pi, (2, ROWS, 1))
    made = np.sin(2 * np.pi * low[..., None] * time + phase) + 0.7 * np.sin(2 * np.pi * high[..., None] * time)
    made += 0.1 * rng.standard_normal(made.shape)
    crops, near = torch.from_numpy(made.astype(np.float32))
    return CropBatch(crops, np.arange(ROWS), ROWS, near=near, recording=torch.arange(ROWS))


def measured(objective: Objective, *, related: bool = True) -> dict[str, float]:
    """Metrics on recordings that are not trained on, what validations probe among them."""
    objective.eval()
    batch = recordings(1000, related=related)
    with torch.no_grad():
        output = objective(batch, step=1000, progress=1.0)
        found: Metrics = objective.metrics(output.terms, output.stats) | objective.probe(batch)
    objective.train()
    return numbers(found)


def train(objective: Objective, *, steps: int, rate: float = 3e-3) -> None:
    """Updates as a run makes them, on new recordings in each."""
    optimizer = torch.optim.AdamW([each for each in objective.parameters() if each.requires_grad], lr=rate)
    for step in range(steps):
        output = objective(recordings(step), step=step, progress=step / steps)
        optimizer.zero_grad()
        (output.total / output.stats["count"]).backward()
        optimizer.step()
        objective.after_update(step=step, progress=(step + 1) / steps)


def present(objective: Objective, metrics: Mapping[str, float]) -> list[str]:
    """Names of the symptoms that are seen."""
    return [each.state for each in objective.symptoms(metrics, {}) if each.present]


def numbers(metrics: Mapping[str, float | list[float]]) -> dict[str, float]:
    """The metrics that are one number."""
    return {name: value for name, value in metrics.items() if isinstance(value, float)}
