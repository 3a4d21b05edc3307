"""What tests of the objectives that predict later frames have in common."""

import numpy as np
import torch

from speechssl.config import merged
from speechssl.data.batch import CropBatch
from speechssl.models.causal import CAUSAL
from speechssl.models.encoder import EncoderConfig, SpeechEncoder
from speechssl.objectives.base import Metrics
from tests.toys import MICRO_ENCODER, tones


def causal_encoder(**transformer: object) -> SpeechEncoder:
    """The micro encoder, causal and without dropout, with other settings of its Transformer."""
    still = {"transformer": {"dropout": 0.0, "attention_dropout": 0.0, **transformer}}
    return SpeechEncoder(EncoderConfig.model_validate(merged(merged(MICRO_ENCODER.model_dump(), CAUSAL), still)))


def tone_batch(rows: int, seconds: float = 1.0) -> CropBatch:
    """Tones at about the level of speech, by one speaker after another."""
    crops = np.stack([0.2 * tones(seconds, speaker=row % 4, seed=row) for row in range(rows)])
    return CropBatch(torch.from_numpy(crops), np.arange(rows), rows)


def numbers(metrics: Metrics) -> dict[str, float]:
    """The metrics that are one number each."""
    return {name: float(each) for name, each in metrics.items() if isinstance(each, int | float)}
