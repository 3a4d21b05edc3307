"""Settings of fine-tuning, by the amount of labels and the size of the encoder.

For encoders of BASE size they follow fairseq's fine-tuning recipes (``base_10m`` ... ``base_100h``) in fractions of the
run. For the small encoders that are pretrained here they were searched, on corpora that no result is reported on; the
comments beside the numbers give the measurements.
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
from speechssl.train.ctc_terms import CTCTermsConfig
from speechssl.train.optim import AdamWConfig, Factor, Rate
from speechssl.train.trainer import LoopConfig

Kind = Literal["classifier", "ctc"]
Network = Literal["encoder", "logmel-cnn"]


class FinetuneOptim(AdamWConfig):
    """Optimiser of fine-tuning: fairseq's three stages."""

    schedule: Literal["linear", "tri-stage", "wsd"] = "tri-stage"
    warmup: float = Field(default=0.1, ge=0, lt=1)
    lr: Factor = 1e-3  # of the head, at the peak
    encoder_scale: Rate = 1.0  # rate of the encoder relative to the head
    layer_decay: float = Field(default=1.0, gt=0, le=1)  # factor from each block to the one below it
    clip: PositiveFloat = 1.0


class FinetuneConfig(Config):
    """A fine-tuning run; ``recipe.toml`` in a run folder is one of these in full."""

    kind: Kind = "classifier"
    network: Network = "encoder"
    encoder: EncoderConfig = PRESETS["tiny"]  # where no start is given
    classifier: ClassifierConfig = ClassifierConfig()
    ctc: CTCConfig = CTCConfig()
    ctc_terms: CTCTermsConfig = CTCTermsConfig()
    logmel_cnn: LogMelCNNConfig = LogMelCNNConfig()
    head_start: Literal["probe", "random"] = "probe"
    train_conv: bool = False
    reset_blocks: NonNegativeInt = 0  # of the Transformer, from the top, that start from random weights (2107.04734)
    frozen: float = Field(default=0.0, ge=0, le=1)  # fraction of the run during which the encoder is frozen
    class_weights: bool = True
    keep_start: float = Field(default=0.0, ge=0, lt=1)  # WiSE-FT: weight of the initial weights in the saved model
    batches: LabelledConfig = LabelledConfig()
    augment: AugmentConfig = AugmentConfig()
    hide: HideConfig = HideConfig()
    optim: FinetuneOptim = FinetuneOptim()
    loop: LoopConfig = LoopConfig(steps=1000, validate_every=100, checkpoint_every=500)
    seed: NonNegativeInt = 0
    device: str = "auto"


LARGE_DIM = 512  # from this dimension on fairseq's settings for BASE (768), below those searched for small encoders


def finetune_settings(
    learn: Literal["label", "text"],
    *,
    shots: int = 0,
    minutes: float = 0.0,
    scratch: bool = False,
    network: Network = "encoder",
    dim: int = PRESETS["tiny"].dim,
) -> FinetuneConfig:
    """Settings by the amount of labels and the size of the encoder.

    Args:
        learn: ``label`` for a classifier, ``text`` for CTC.
        shots: labelled utterances per class; 0: all.
        minutes: minutes of labelled speech.
        scratch: whether there is no pretrained encoder.
        network: network of a classifier.
        dim: dimension of the encoder's frames.

    >>> [finetune_settings("text", minutes=minutes, dim=768).frozen for minutes in (10.0, 60.0, 600.0, 6000.0)]
    [0.77, 0.77, 0.5, 0.0]
    """
    if learn == "text":
        return _large_ctc(minutes) if dim >= LARGE_DIM and not scratch else _small_ctc(minutes)
    return _classifier(shots, scratch=scratch, network=network, large=dim >= LARGE_DIM)


def _large_ctc(minutes: float) -> FinetuneConfig:
    """The nearest of ``base_10m``, ``base_1h``, ``base_10h`` and ``base_100h`` of fairseq."""
    some, many = minutes > 190, minutes > 1900  # halfway, by ratio, between 1 h, 10 h and 100 h
    return FinetuneConfig(
        kind="ctc",
        frozen=0.0 if many else 0.5 if some else 0.77,  # 10k of 13k updates, 10k of 20k, none
        hide=HideConfig(frames=0.5 if many else 0.65, channels=0.5 if some else 0.25),
        optim=FinetuneOptim(lr=3e-5 if many else 5e-5, encoder_scale=1.0, clip=10.0),
        batches=LabelledConfig(batch_seconds=200.0, max_seconds=20.0),
        loop=LoopConfig(steps=80_000 if many else 20_000 if some else 13_000, validate_every=500, checkpoint_every=500),
    )


# Searched on one speaker of American English (the Kathleen voice, 10 minutes of labels, the bundled tiny encoder); the
# measurements are in recipes/asr/LAB.md. With batches of 8 s the phase of blanks ends after some 300 updates, a
# quarter of the audio of batches of 32 s. Under convolutions over time all weights are trained at the same rate from
# the first update: an encoder that is frozen for half of the run and then learns at a fifth of the rate ends behind one
# that was not pretrained. Speeds from .75 to 1.2 move pitch and formants as far as those of other voices.
_VOICES = AugmentConfig(speed=0.8, speed_factors=(0.75, 1.2), pitch=0.0)


def _small_ctc(minutes: float) -> FinetuneConfig:
    steps = 40_000 if minutes > 190 else 4000
    return FinetuneConfig(
        kind="ctc",
        ctc=CTCConfig(conv_layers=3),
        train_conv=True,
        augment=_VOICES,
        hide=HideConfig(frames=0.3, channels=0.1),
        optim=FinetuneOptim(lr=1e-3, encoder_scale=1.0, average=0.995),
        batches=LabelledConfig(batch_seconds=8.0, max_seconds=20.0),
        loop=LoopConfig(steps=steps, validate_every=1000, patience=8, checkpoint_every=1000),
    )


# Searched on digits (FSDD, 10 shots) and words (three of Speech Commands, 25 shots) from a tiny encoder, UAR over three
# draws; the frozen probe has .735 and .891. Rates of 1e-4 and 3e-4 give .730 and .722 on digits, .907 and .926 on
# words: the more shots, the higher the best rate. Saving the mean of the weights before and after gives .737 and .909
# with 1e-4, .733 and .921 with 3e-4: hardly less where fine-tuning helps, and no loss where it does not. Masking frames
# and channels has no gain there (.722 and .926 with, .722 and .923 without), and it shifts the mean and deviation over
# frames that the head uses: on EmoDB at five shots it cost .04. Batches are counted in utterances: 12 s of audio are a
# dozen words or four sentences. From scratch 3e-4 (.588, .869). The log-mel CNN: 1e-3 (.515, .775), 3e-3 is unstable
# (.537, .572).
_FEW, _SOME = 17, 50  # shots; about halfway, by ratio, between 10, 25 and 100


def _classifier(shots: int, *, scratch: bool, network: Network, large: bool) -> FinetuneConfig:
    few, some = 0 < shots <= _FEW, 0 < shots <= _SOME
    cnn = network == "logmel-cnn"
    tuned = FinetuneOptim(lr=1e-4, encoder_scale=0.1) if large else FinetuneOptim(lr=1e-4 if few else 3e-4)
    short, long = (150, 250) if cnn else (120, 200) if scratch else (80, 120)
    return FinetuneConfig(
        kind="classifier",
        network=network,
        head_start="random" if scratch else "probe",
        train_conv=scratch,
        keep_start=0.0 if scratch else 0.5,
        hide=HideConfig(frames=0.2, channels=0.1) if scratch and not cnn else HideConfig(frames=0.0, channels=0.0),
        optim=FinetuneOptim(lr=1e-3 if cnn else 3e-4) if scratch else tuned,
        batches=LabelledConfig(batch_utterances=8, max_seconds=2.0),
        loop=LoopConfig(steps=short if some else long, validate_every=50, patience=5, checkpoint_every=1000),
    )
