"""Sixteen short labelled utterances, and settings with which a tiny model learns them by heart in a second or two."""

from pathlib import Path

import numpy as np
import soundfile

from speechssl.data.augment import OFF
from speechssl.data.labelled import Example, LabelledConfig
from speechssl.data.manifest import Utterance
from speechssl.data.waveforms import WaveformStore, pack
from speechssl.models.ctc import CTCConfig
from speechssl.nn.masking import HideConfig
from speechssl.train.finetune_config import FinetuneConfig, FinetuneOptim
from speechssl.train.trainer import LoopConfig
from tests.toys import MICRO_ENCODER, NO_DROPOUT, RATE, changed, tones

TEXTS = ["a cab", "bad dad", "add a bed", "dead", "a bee", "bade", "fed a cab", "ace"]
CTC = FinetuneConfig(
    kind="ctc",
    encoder=changed(MICRO_ENCODER, **NO_DROPOUT),
    ctc=CTCConfig(dropout=0.0),
    train_conv=True,
    augment=OFF,
    hide=HideConfig(frames=0.0, channels=0.0),
    batches=LabelledConfig(batch_seconds=10.0),
    optim=FinetuneOptim(lr=1e-2, encoder_scale=1.0, clip=5.0),
    loop=LoopConfig(steps=100, precision="fp32", log_every=1),
    device="cpu",
)
CLASSIFIER = changed(CTC, kind="classifier", head_start="random", classifier__dropout=0.0, loop__steps=25)

# Everything that draws at random, stops and starts: short runs on it are compared bit for bit.
RESTLESS = {
    "frozen": 0.3,
    "hide": HideConfig(frames=0.4, frame_length=3, channels=0.2),
    "augment": {"speed": 0.5, "pitch": 0.0, "noise": 0.5, "gain": 0.5},
    "batches__batch_seconds": 2.0,
    "encoder__transformer__dropout": 0.1,
    "encoder__transformer__layer_drop": 0.2,
    "ctc__dropout": 0.1,
    "loop__steps": 10,
    "loop__validate_every": 3,
    "loop__checkpoint_every": 2,
}
BY_KIND = {"ctc": CTC, "classifier": CLASSIFIER}


def labelled_corpus(folder: Path) -> WaveformStore:
    """Utterance n: text n // 2, speaker n % 4; the label says whether one of the two low speakers speaks."""
    utterances: list[Utterance] = []
    for number in range(16):
        speaker = number % 4
        path = folder / f"{number:02}.wav"
        soundfile.write(path, tones(0.4 + 0.01 * number, speaker=speaker, seed=number), RATE)
        utterances.append(
            Utterance(
                audio=str(path),
                duration=0.0,
                speaker=f"s{speaker}",
                text=TEXTS[number // 2],
                label="low" if speaker < 2 else "high",
                split="test" if number >= 12 else "train",
            )
        )
    pack(utterances, folder / "corpus", workers=1)
    return WaveformStore(folder / "corpus")


def examples(store: WaveformStore, kind: str, speakers: str = "0123") -> list[Example]:
    """The utterances of these speakers, as they are learnt."""
    return [
        Example(index, str(item.text if kind == "ctc" else item.label))
        for index, item in enumerate(store.utterances)
        if str(item.speaker)[1:] in speakers
    ]


def waveforms(store: WaveformStore, part: list[Example]) -> list[np.ndarray]:
    """The utterances themselves."""
    return [store.waveform(example.index) for example in part]
