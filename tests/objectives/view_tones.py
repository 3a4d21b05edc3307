"""Views of recordings that differ in several low tones, and training on them, measured on others: not by heart."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from speechssl.data.batch import CropBatch
from speechssl.objectives.base import Metrics, Objective
from tests.toys import RATE, normalized_tones

ROWS = 32
LOW = np.geomspace(200, 2000, 7)  # Hz


def view_batch(rows: int = 6, seconds: float = 0.5, recording: Tensor | None = None) -> CropBatch:
    """Speech-like tones; the views share a speaker at most."""
    crops, near = torch.from_numpy(normalized_tones(2 * rows, seconds)).unflatten(0, (2, rows))
    recording = torch.arange(rows) if recording is None else recording
    return CropBatch(crops, np.arange(rows), rows, near=near, recording=recording)


def recordings(seed: int, *, related: bool = True) -> CropBatch:
    """Each recording has its own levels of seven low tones; a high tone and noise differ between its two views.

    Without `related` the second view is of another recording.
    """
    rng, samples = np.random.default_rng(seed), RATE // 2
    levels = np.repeat(10 ** rng.uniform(-1.5, 0, (1, ROWS, len(LOW), 1)), 2, axis=0)
    if not related:
        levels[1] = np.roll(levels[0], 3, axis=0)
    time, high = np.arange(samples) / RATE, rng.uniform(3000, 7000, (2, ROWS, 1))
    phase = rng.uniform(0, 2 * np.pi, (2, ROWS, len(LOW) + 1, 1))
    made = (levels * np.sin(2 * np.pi * LOW[:, None] * time + phase[:, :, 1:])).sum(axis=2)
    made += np.sin(2 * np.pi * high * time + phase[:, :, 0]) + 0.1 * rng.standard_normal(made.shape)
    made /= made.std(axis=-1, keepdims=True)
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
