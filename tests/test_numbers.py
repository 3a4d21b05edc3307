"""A few numbers that stay as they are, on any processor: what changes them has changed a method.

Two trees are compared to the last bit by `benchmarks/same_numbers.py`.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from speechssl.data.labelled import Example
from speechssl.data.waveforms import WaveformStore
from speechssl.embed.embedder import EmbeddingModel
from speechssl.models.encoder import PRESETS, SpeechEncoder
from speechssl.train.finetune import finetune
from speechssl.train.pretrain import pretrain
from tests.toys import MICRO_RUN, NO_DROPOUT, changed, tones, toy_corpus
from tests.train.conftest import rows
from tests.train.labelled import BY_KIND

NEAR = {"rel": 2e-3, "abs": 2e-3}  # between processors and versions of torch; another method is farther away


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_corpus(tmp_path_factory.mktemp("numbers"))


def losses(out: Path, *, valid: bool = False) -> list[float]:
    return [row["loss"] for row in rows(out) if ("valid" in row) == valid]


def test_pretraining(corpus: Path, tmp_path: Path) -> None:
    still = {f"encoder__{name}": value for name, value in NO_DROPOUT.items()}
    pretrain([corpus], tmp_path, config=changed(MICRO_RUN, loop__steps=3, **still))
    assert losses(tmp_path) == pytest.approx([3.3176, 3.2185, 3.1818], **NEAR)
    assert losses(tmp_path, valid=True) == pytest.approx([3.2304], **NEAR)


def test_vectors() -> None:
    torch.manual_seed(0)
    model = EmbeddingModel(SpeechEncoder(PRESETS["tiny"]), device="cpu")
    clips = [tones(1.0, seed=1), tones(2.5, speaker=2, seed=2)]
    vectors = model.embed(clips, pooling="mean+std")[:, ::64]
    assert vectors[0].tolist() == pytest.approx([1.4674, 0.5892, 0.6159, 0.5569, 0.5809, 0.4305], **NEAR)
    assert vectors[1].tolist() == pytest.approx([0.7289, 0.8396, 0.6544, 0.5906, 0.7143, 0.4849], **NEAR)
    minutes = model.embed(np.tile(clips[1], 30), layer="mean")[::48]  # longer than a window
    assert minutes.tolist() == pytest.approx([0.4567, -0.4209, -0.0512, 0.593], **NEAR)


@pytest.mark.parametrize(
    ("kind", "expected"), [("classifier", [0.6833, 0.6422, 0.6978]), ("ctc", [22.4691, 17.3999, 16.5841])]
)
def test_heads(kind: str, expected: list[float], corpus: Path, tmp_path: Path) -> None:
    targets = ["low", "high"] if kind == "classifier" else ["a b", "b a"]
    examples = [Example(index, targets[index % 4 // 2]) for index in range(16)]
    config = changed(BY_KIND[kind], loop__steps=3, optim__lr=1e-3)
    finetune(WaveformStore(corpus), tmp_path, config=config, start=None, train=examples, show=False)
    assert losses(tmp_path) == pytest.approx(expected, **NEAR)
