"""Small things to train on: synthetic speech-like tones, a packed corpus of them, and a model that trains in a second.

The tones are harmonic sounds of a few speakers (pitch, length of the vocal tract). Every 60 to 160 ms the formants jump
to those of another "phone", so that there is something to predict from context. They are no speech, and no result on
them is one.
"""

import resource
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from speechssl.audio import normalize
from speechssl.config import merged
from speechssl.data.crops import CropConfig
from speechssl.data.manifest import Utterance
from speechssl.data.waveforms import pack
from speechssl.models.encoder import EncoderConfig
from speechssl.nn.conv import ConvConfig
from speechssl.nn.quantizer import QuantizerConfig
from speechssl.nn.transformer import TransformerConfig
from speechssl.objectives import load_objective
from speechssl.objectives.wav2vec2 import Wav2Vec2Config
from speechssl.train.optim import OptimConfig
from speechssl.train.pretrain_config import config_of, runs
from speechssl.train.trainer import LoopConfig

RATE = 16000
FORMANTS = np.array([[700, 1200, 2500], [300, 2300, 3000], [350, 800, 2200], [500, 1800, 2500], [450, 1000, 2600]])


def tones(seconds: float, *, speaker: int = 0, seed: int = 0) -> np.ndarray:
    """Speech-like tones, float32 samples with a peak of 0.5."""
    rng = np.random.default_rng((speaker, seed))
    samples = round(seconds * RATE)
    lengths = rng.integers(round(0.06 * RATE), round(0.16 * RATE), 2 + samples // round(0.06 * RATE))
    phone = np.repeat(rng.integers(len(FORMANTS), size=len(lengths)), lengths)[:samples]
    pitch = (100 + 40 * speaker) * 2 ** (0.2 * np.sin(2 * np.pi * (0.7 * np.arange(samples) / RATE + rng.random())))
    phase = np.cumsum(2 * np.pi * pitch / RATE)
    waveform = 0.02 * rng.standard_normal(samples)
    for harmonic in range(1, 26):
        gains = _formant_gain(harmonic * float(pitch.mean()), FORMANTS * (1 + 0.06 * speaker))
        waveform += gains[phone] * np.sin(harmonic * phase)
    return (0.5 * waveform / np.abs(waveform).max()).astype(np.float32)


def normalized_tones(rows: int, seconds: float) -> np.ndarray:
    """A batch of tones by four speakers, zero mean and unit variance each."""
    return np.stack([normalize(tones(seconds, speaker=row % 4, seed=row)) for row in range(rows)])


def _formant_gain(frequency: float, formants: np.ndarray) -> np.ndarray:
    return (1 / (1 + ((frequency - formants) / 120) ** 2)).sum(axis=1) / (1 + frequency / 1000)


class ToyStore:
    """A packed corpus in memory: what batching needs and nothing else."""

    def __init__(self, waveforms: Sequence[np.ndarray], speakers: Sequence[str | None] | None = None):
        self.waveforms = list(waveforms)
        self.lengths = np.array([len(waveform) for waveform in waveforms], dtype=np.int64)
        self.utterances = [
            Utterance(audio=f"folder/{index}.wav", duration=length / RATE, speaker=speaker)
            for index, (length, speaker) in enumerate(
                zip(self.lengths.tolist(), speakers or [None] * len(waveforms), strict=True)
            )
        ]

    def read(self, index: int, start: int = 0, stop: int | None = None) -> np.ndarray:
        """As the packed store does it: a range beyond the utterance is an error."""
        length = len(self.waveforms[index])
        stop = length if stop is None else stop
        if not 0 <= start <= stop <= length:
            raise ValueError(f"{start} to {stop} of {length}")
        return self.waveforms[index][start:stop]

    def gain(self, index: int) -> float:
        """Every utterance is stored as int16 of full scale."""
        assert self.waveforms[index].dtype == np.int16
        return 1 / 32768

    def waveform(self, index: int, start: int = 0, stop: int | None = None) -> np.ndarray:
        """The same samples as parts of full scale."""
        return self.read(index, start, stop).astype(np.float32) / 32768


def toy_corpus(folder: Path, *, utterances: int = 24, seconds: float = 1.6) -> Path:
    """A prepared corpus of tones by four speakers, made from wav files by the real packer."""
    audio = folder / "audio"
    audio.mkdir(parents=True)
    made: list[Utterance] = []
    for index in range(utterances):
        path = audio / f"{index:03}.wav"
        soundfile.write(path, tones(seconds, speaker=index % 4, seed=index), RATE)
        made.append(Utterance(audio=str(path), duration=seconds, speaker=f"s{index % 4}"))
    pack(made, folder / "corpus", workers=1)
    return folder / "corpus"


MICRO_ENCODER = EncoderConfig(
    conv=ConvConfig(layers=((24, 160, 40), (32, 4, 4), (32, 2, 2)), front="gabor", init="tap-average"),  # 20 ms hop
    transformer=TransformerConfig(
        dim=32,
        layers=2,
        heads=2,
        feedforward=64,
        pre_norm=True,
        position_kernel=16,
        position_groups=4,
        dropout=0.1,
        attention_dropout=0.1,
        layer_drop=0.0,
    ),
)
MICRO_OBJECTIVE = Wav2Vec2Config(
    quantizer=QuantizerConfig(codes=24, dim=16, logit_std=5.0, normalize_input=True),
    dim=24,
    negatives=20,
    feature_penalty=0.1,
    feature_gradient=0.5,
)
MICRO_RUN = config_of("wav2vec2")(
    encoder=MICRO_ENCODER,
    objective=MICRO_OBJECTIVE,
    crops=CropConfig(seconds=1.0, min_seconds=0.8, batch_seconds=4.0),
    optim=OptimConfig(reference_lr=2e-3, reference_seconds=4.0, max_lr=2e-3, warmup=0.1),
    loop=LoopConfig(steps=12, precision="fp32", log_every=1, validate_every=4, validate_batches=2, checkpoint_every=3),
    seed=3,
    device="cpu",
)
NO_DROPOUT = {"transformer__dropout": 0.0, "transformer__attention_dropout": 0.0}


def micro_run(objective: str) -> Any:
    """A dozen updates of a micro encoder with an objective; what its runs change in the encoder and in crops holds."""
    if objective == MICRO_RUN.objective.name:
        return MICRO_RUN
    changes = load_objective(objective).RUNS["tiny"]
    parts = {name: getattr(MICRO_RUN, name).model_dump() for name in ("encoder", "crops", "optim", "loop", "health")}
    normalize = {"normalize": changes.get("crops", {}).get("normalize", True)}
    own = {"encoder": changes.get("encoder", {}), "crops": normalize}
    settings = merged({**parts, "objective": runs(objective)["tiny"].objective}, own)
    return config_of(objective).model_validate({**settings, "seed": MICRO_RUN.seed, "device": "cpu"})


def changed(config: Any, **changes: Any) -> Any:
    """A config with other values at dotted places: ``changed(MICRO_RUN, loop__steps=5)``."""
    for name, value in changes.items():
        first, _, rest = name.partition("__")
        value = changed(getattr(config, first), **{rest: value}) if rest else value
        config = type(config).model_validate({**dict(config), first: value})
    return config


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """No file may grow beyond so many bytes: to whoever writes it, that is a full disk.

    Around as little as possible: the limit holds for what pytest writes, too.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
