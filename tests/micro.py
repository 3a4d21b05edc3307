"""A small random encoder on disk and clips that are no noise."""

import numpy as np
import pytest
import torch

from speechssl.models.encoder import EncoderConfig, SpeechEncoder
from speechssl.models.storage import save_model
from speechssl.nn.conv import ConvConfig
from speechssl.nn.transformer import TransformerConfig

MICRO = EncoderConfig(
    conv=ConvConfig(layers=((16, 160, 10), *((16, 2, 2),) * 5), front="gabor", init="tap-average"),
    transformer=TransformerConfig(
        dim=24, layers=2, heads=2, feedforward=32, pre_norm=True, position_kernel=8, position_groups=4, dropout=0.1
    ),
)
MICRO_GROUP = EncoderConfig(
    conv=ConvConfig(layers=((16, 10, 5), *((16, 3, 2),) * 4, *((16, 2, 2),) * 2), norm="group", bias=False),
    transformer=TransformerConfig(
        dim=24, layers=2, heads=2, feedforward=32, pre_norm=False, position_kernel=8, position_groups=4
    ),
    normalize=False,
)


def tone(samples, pitch=220.0, seed=0):
    """A harmonic tone with a little noise, float32."""
    time = np.arange(samples) / 16000
    rng = np.random.default_rng(seed)
    wave = sum(np.sin(2 * np.pi * pitch * k * time) / k for k in (1, 2, 3, 4))
    return (0.1 * wave + 0.01 * rng.normal(size=samples)).astype(np.float32)


def micro_encoder(config=MICRO):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return SpeechEncoder(config)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    save_model(folder, micro_encoder())
    return folder
