"""A small encoder of each kind, and sounds of unequal length."""

import numpy as np
import pytest
import torch

from speechssl.audio import normalize
from speechssl.models.encoder import EncoderConfig, SpeechEncoder
from speechssl.nn.conv import ConvConfig
from tests.toys import MICRO_ENCODER, NO_DROPOUT, changed, tones

PAPER = changed(
    MICRO_ENCODER,
    conv=ConvConfig(layers=((16, 10, 5), (16, 8, 8), (24, 4, 4), (24, 2, 2)), norm="group", bias=False),
    normalize=False,
)
CONFIGS = {"layer norm": MICRO_ENCODER, "group norm": PAPER}
SECONDS = (1.0, 0.31, 0.6, 0.05)


@pytest.fixture(params=CONFIGS)
def config(request: pytest.FixtureRequest) -> EncoderConfig:
    """With layer norm, and with the group norm of public checkpoints."""
    return changed(CONFIGS[request.param], **NO_DROPOUT)


@pytest.fixture
def encoder(config: EncoderConfig) -> SpeechEncoder:
    torch.manual_seed(1)
    return SpeechEncoder(config)


@pytest.fixture(scope="session")
def waveforms() -> list[np.ndarray]:
    return [normalize(tones(seconds, speaker=number, seed=number)) for number, seconds in enumerate(SECONDS)]
