"""Settings of fine-tuning, and what they are by the amount of labels.

Shares of the run follow fairseq's fine-tuning recipes (``base_10m`` ... ``base_100h``): with ten minutes or an hour of
labels the encoder rests for the first 10k of 13k updates, with ten hours for half of them, with a hundred hours
never; masks are denser the less there is. Rates and lengths are for the small encoders here and were searched on
corpora that no result is reported on; `recipes/asr/README.md` and `recipes/emotion/README.md` have the search.
"""

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveFloat

from speechssl.config import Config
from speechssl.data.augment import AugmentConfig
from speechssl.data.labelled import LabelledConfig
from speechssl.models.classifier import ClassifierConfig
from speechssl.models.ctc import CTCConfig
from speechssl.models.encoder import PRESETS, EncoderConfig
from speechssl.models.logmel_cnn import LogMelCNNConfig
from speechssl.nn.masking import HideConfig
from speechssl.train.loop import LoopConfig
from speechssl.train.optim import AdamWConfig

Kind = Literal["classifier", "ctc"]
Network = Literal["encoder", "logmel-cnn"]


class FinetuneOptim(AdamWConfig):
    """Optimiser of fine-tuning: fairseq's three stages."""

    schedule: Literal["linear", "tri-stage"] = "tri-stage"
    warmup: float = Field(default=0.1, ge=0, lt=1)
    lr: PositiveFloat = 1e-3  # of the head, at the peak
    encoder_scale: float = Field(default=0.3, ge=0)  # rate of the encoder relative to the head
    layer_decay: float = Field(default=1.0, gt=0, le=1)  # factor from each block to the one below it
    clip: PositiveFloat = 1.0


class FinetuneConfig(Config):
    """A fine-tuning run; ``recipe.toml`` in a run folder is one of these in full."""

    kind: Kind = "classifier"
    network: Network = "encoder"
    encoder: EncoderConfig = PRESETS["tiny"]  # where none is given to start from
    classifier: ClassifierConfig = ClassifierConfig()
    ctc: CTCConfig = CTCConfig()
    logmel_cnn: LogMelCNNConfig = LogMelCNNConfig()
    head_start: Literal["probe", "random"] = "probe"
    train_conv: bool = False
    frozen: float = Field(default=0.0, ge=0, le=1)  # share of the run in which the encoder rests
    class_weights: bool = True
    batches: LabelledConfig = LabelledConfig()
    augment: AugmentConfig = AugmentConfig()
    hide: HideConfig = HideConfig()
    optim: FinetuneOptim = FinetuneOptim()
    loop: LoopConfig = LoopConfig(steps=1000, validate_every=100, checkpoint_every=500)
    seed: NonNegativeInt = 0
    device: str = "auto"


def finetune_settings(
    learn: Literal["label", "text"],
    *,
    shots: int = 0,
    minutes: float = 0.0,
    scratch: bool = False,
    network: Network = "encoder",
) -> FinetuneConfig:
    """Settings by the amount of labels.

    Args:
        learn: ``label`` for a classifier, ``text`` for CTC.
        shots: labelled utterances a class; 0: all there are.
        minutes: of labelled speech.
        scratch: nothing is pretrained.
        network: of a classifier.

    >>> finetune_settings("text", minutes=10).frozen > finetune_settings("text", minutes=6000).frozen
    True
    """
    return _ctc(minutes, scratch=scratch) if learn == "text" else _classifier(shots, scratch=scratch, network=network)


def _ctc(minutes: float, *, scratch: bool) -> FinetuneConfig:
    hide = HideConfig(frames=0.3, channels=0.1)
    frozen = 0.1 if minutes < 3000 else 0.0
    return FinetuneConfig(
        kind="ctc",
        hide=hide,
        frozen=0.0 if scratch else frozen,
        optim=FinetuneOptim(lr=1e-3, encoder_scale=1.0 if scratch else 0.5),
        batches=LabelledConfig(batch_seconds=32.0, max_seconds=20.0),
        loop=LoopConfig(steps=2000, validate_every=200, patience=5, checkpoint_every=500),
    )


# Searched on digits (FSDD, 10 shots) and words (three of Speech Commands, 25 shots) from a tiny encoder, UAR over three
# draws: a rate of 1e-4 leaves the probe where it is at 10 shots (.736, probe .735) and 3e-4 costs (.722); at 25 shots
# 3e-4 gains (.923, probe .891), and a little more with spans hidden (.926). From scratch and for the log-mel CNN, 1e-3.
_FEW, _SOME = 17, 50  # shots; halfway, by ratio, between the amounts that were searched, 10, 25 and 100


def _classifier(shots: int, *, scratch: bool, network: Network) -> FinetuneConfig:
    few, some = 0 < shots <= _FEW, 0 < shots <= _SOME
    hidden = (
        HideConfig(frames=0.0, channels=0.0) if few or network == "logmel-cnn" else HideConfig(frames=0.2, channels=0.1)
    )
    steps = 150 if scratch or not some else 100 if not few else 80
    return FinetuneConfig(
        kind="classifier",
        network=network,
        head_start="random" if scratch else "probe",
        train_conv=scratch,
        hide=hidden,
        optim=FinetuneOptim(lr=1e-3 if scratch else 1e-4 if few else 3e-4, encoder_scale=1.0),
        batches=LabelledConfig(batch_seconds=12.0, max_seconds=4.0),
        loop=LoopConfig(steps=steps, validate_every=50, patience=5, checkpoint_every=1000),
    )
