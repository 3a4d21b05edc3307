"""Settings of pretraining, one preset a size of encoder."""

from pydantic import Field, NonNegativeInt

from speechssl.config import Config
from speechssl.data.batching import CropConfig
from speechssl.models.encoder import PRESETS, EncoderConfig
from speechssl.objectives import wav2vec2
from speechssl.objectives.wav2vec2 import Wav2Vec2Config
from speechssl.train.health import HealthConfig
from speechssl.train.loop import LoopConfig
from speechssl.train.optim import OptimConfig


class PretrainConfig(Config):
    """A pretraining run; ``recipe.toml`` in a run folder is one of these in full."""

    encoder: EncoderConfig = PRESETS["base"]
    objective: Wav2Vec2Config = Wav2Vec2Config()
    crops: CropConfig = CropConfig()
    optim: OptimConfig = OptimConfig()
    loop: LoopConfig = LoopConfig()
    health: HealthConfig = HealthConfig()
    seed: NonNegativeInt = 0
    device: str = "auto"
    valid_share: float = Field(default=0.02, ge=0, le=0.5)  # of the audio, two batches or more, for validation


_SMALL_OPTIM = OptimConfig(reference_lr=1e-3, reference_seconds=32.0, max_lr=1e-3, conv_lr_scale=0.1)

RUNS: dict[str, PretrainConfig] = {
    "tiny": PretrainConfig(
        encoder=PRESETS["tiny"],
        objective=wav2vec2.PRESETS["tiny"],
        crops=CropConfig(seconds=2.0, min_seconds=1.5, batch_seconds=32.0),
        optim=_SMALL_OPTIM,
        loop=LoopConfig(steps=1200, validate_every=200, checkpoint_every=200),
    ),
    "small": PretrainConfig(
        encoder=PRESETS["small"],
        objective=wav2vec2.PRESETS["small"],
        crops=CropConfig(seconds=4.0, min_seconds=2.0, batch_seconds=64.0),
        optim=_SMALL_OPTIM.model_copy(update={"max_lr": 5e-4}),
        loop=LoopConfig(steps=20_000, validate_every=250, checkpoint_every=250),
    ),
    "base": PretrainConfig(crops=CropConfig(normalize=False)),
    "large": PretrainConfig(
        encoder=PRESETS["large"],
        objective=wav2vec2.PRESETS["large"],
        crops=CropConfig(seconds=20.0, batch_seconds=75.0),
        optim=OptimConfig(max_lr=3e-4),
    ),
}
