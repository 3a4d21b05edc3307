"""Fine-tuning: it can memorise, it resumes, it refuses leaks, and its model is whole."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import speechssl
from speechssl.config import UserError
from speechssl.data.augment import OFF
from speechssl.data.labelled import Example, LabelledConfig
from speechssl.data.manifest import Utterance
from speechssl.data.waveforms import WaveformStore, pack
from speechssl.models.ctc import CTCModel
from speechssl.models.heads import classify, emissions, load_head
from speechssl.models.storage import model_hash, save_model
from speechssl.nn.masking import HideConfig
from speechssl.scoring.decode import greedy
from speechssl.scoring.wer import count_errors
from speechssl.train import loop
from speechssl.train.examples import choose, examples_of
from speechssl.train.finetune import finetune
from speechssl.train.finetune_config import FinetuneConfig, FinetuneOptim
from speechssl.train.loop import LoopConfig
from tests.toys import MICRO_ENCODER, RATE, tones
from tests.train.conftest import tensors

TEXTS = ["a cab", "bad dad", "add a bed", "dead", "a bee", "bade", "fed a cab", "ace"]
STILL = {"augment": OFF, "hide": HideConfig(frames=0.0, channels=0.0)}
CTC = FinetuneConfig(
    kind="ctc",
    encoder=MICRO_ENCODER,
    train_conv=True,
    batches=LabelledConfig(batch_seconds=10.0),
    optim=FinetuneOptim(lr=3e-3, encoder_scale=1.0, clip=5.0),
    loop=LoopConfig(steps=260, precision="fp32"),
    **STILL,
)
CLASSES = CTC.model_copy(
    update={"kind": "classifier", "head_start": "random", "loop": LoopConfig(steps=60, precision="fp32")}
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> WaveformStore:
    """Sixteen utterances by four speakers, two of each text, with labels that say who (two by two) speaks."""
    folder = tmp_path_factory.mktemp("labelled")
    utterances: list[Utterance] = []
    for number in range(16):
        speaker, text = number % 4, TEXTS[number // 2]
        path = folder / f"{number}.wav"
        soundfile.write(path, tones(1.2 + 0.05 * number, speaker=speaker, seed=number), RATE)
        label = "low" if speaker < 2 else "high"
        utterances.append(Utterance(audio=str(path), duration=0.0, speaker=f"s{speaker}", text=text, label=label))
    pack(utterances, folder / "corpus")
    return WaveformStore(folder / "corpus")


def waveforms(store: WaveformStore, indices: list[int]) -> list[np.ndarray]:
    return [store.read(index).astype(np.float32) / 32768 for index in indices]


def test_it_memorises_eight_transcripts(store: WaveformStore, tmp_path: Path) -> None:
    train = [Example(index, TEXTS[index // 2]) for index in range(0, 16, 2)]
    finetune(store, tmp_path, config=CTC, start=None, train=train, show=False)
    model = load_head(tmp_path)
    assert isinstance(model, CTCModel)
    rows = emissions(model, waveforms(store, [example.index for example in train]))
    written = [greedy(row, model.vocabulary) for row in rows]
    assert written == [example.target for example in train]
    assert sum(each.errors for each in count_errors(TEXTS, written)) == 0
