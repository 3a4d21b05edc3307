"""Encoders whose frames depend on no later frame, for objectives that predict what comes next.

Such an encoder has no statistic over a whole utterance: no norm over time in its convolutions, and waveforms as
recorded, not of zero mean and unit variance (:class:`~speechssl.models.encoder.EncoderConfig`). Where the first layer
was made for waveforms of unit variance, :func:`expect_level` initialises it for the level of recordings.
"""

from collections.abc import Mapping
from typing import Any

import torch

from speechssl.models.encoder import EncoderConfig, SpeechEncoder

SPEECH_LEVEL = 0.05  # root mean square in full scale: -26 dB, the nominal level of speech in ITU-T P.830

CAUSAL: Mapping[str, Any] = {"transformer": {"causal": True}, "normalize": False}
"""Changes that make an encoder causal, for `RUNS` of an objective; its crops need ``normalize=False``, too."""

CAUSAL_FROM_GROUP_NORM: Mapping[str, Any] = {**CAUSAL, "conv": {"norm": "layer"}}
"""The same where the convolutions of the preset have a norm over time (`base`)."""

_RATES = {"reference_lr": 1e-3, "reference_seconds": 32.0, "max_lr": 1e-3, "conv_lr_scale": 0.1}

CAUSAL_RUNS: Mapping[str, Mapping[str, Mapping[str, object]]] = {
    "tiny": {
        "encoder": CAUSAL,
        "crops": {"seconds": 2.0, "min_seconds": 1.5, "batch_seconds": 32.0, "normalize": False},
        "optim": _RATES,
        "loop": {"steps": 1200, "validate_every": 200, "checkpoint_every": 200},
    },
    "small": {
        "encoder": CAUSAL,
        "crops": {"seconds": 4.0, "min_seconds": 2.0, "batch_seconds": 64.0, "normalize": False},
        "optim": _RATES | {"max_lr": 5e-4},
        "loop": {"steps": 20_000, "validate_every": 250, "checkpoint_every": 250},
    },
    "base": {"encoder": CAUSAL_FROM_GROUP_NORM, "crops": {"normalize": False}},
    "large": {
        "encoder": CAUSAL,
        "crops": {"seconds": 20.0, "batch_seconds": 75.0, "normalize": False},
        "optim": {"max_lr": 3e-4},
    },
}
"""`RUNS` of an objective that predicts what comes next: crops as recorded, the rates of HuBERT's small sizes."""


def check_causal(encoder: EncoderConfig, objective: str) -> None:
    """Compare an encoder with an objective that predicts later frames.

    Raises:
        ValueError: a frame of this encoder depends on later ones, which it would then have to copy only.
    """
    if not encoder.transformer.causal:
        raise ValueError(
            f"{objective} predicts later frames, which a frame must not see: set encoder.transformer.causal=true, "
            "encoder.normalize=false, encoder.conv.norm=layer and crops.normalize=false"
        )


@torch.no_grad()
def expect_level(encoder: SpeechEncoder, level: float) -> None:
    """Initialise the first layer of an untrained encoder for waveforms of a level, by a factor of its weights.

    The first layer of all presets was made for a root mean square of one. The Gabor front's logarithm of one plus the
    power is nearly linear in the power of quieter waveforms, which hides all bands but the strongest.

    Args:
        encoder: changed in place.
        level: expected root mean square of the waveforms.

    >>> from speechssl.models.encoder import PRESETS
    >>> encoder, x = SpeechEncoder(PRESETS["tiny"]), torch.randn(1, 16000)
    >>> before = encoder.features(x)
    >>> expect_level(encoder, 0.05)
    >>> bool((encoder.features(0.05 * x) - before).abs().max() < 1e-3)
    True
    """
    weight = encoder.features.get_parameter("layers.0.conv.weight")
    weight /= level
