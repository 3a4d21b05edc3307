"""Model folders of every kind to export, at toy size; no parameter is at its default, where it would hide a mistake."""

from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from speechssl.models.classifier import Classifier, ClassifierConfig
from speechssl.models.ctc import CTCConfig, CTCModel
from speechssl.models.encoder import EncoderConfig, SpeechEncoder
from speechssl.models.heads import save_head
from speechssl.models.storage import save_model
from speechssl.nn.conv import ConvConfig
from speechssl.nn.masking import MaskConfig
from speechssl.nn.quantizer import QuantizerConfig
from speechssl.nn.transformer import TransformerConfig
from speechssl.objectives.wav2vec2 import Wav2Vec2, Wav2Vec2Config
from speechssl.text import Vocabulary
from tests.toys import tones

LAYERS = ((16, 10, 5), (16, 8, 8), (24, 4, 4), (24, 2, 2))  # 20 ms from frame to frame
SHAPE = {"dim": 32, "layers": 2, "heads": 4, "feedforward": 48, "position_kernel": 8, "position_groups": 4}
PRE = EncoderConfig(conv=ConvConfig(layers=LAYERS), transformer=TransformerConfig(**SHAPE, pre_norm=True))
POST = EncoderConfig(
    conv=ConvConfig(layers=LAYERS, norm="group", bias=False), transformer=TransformerConfig(**SHAPE), normalize=False
)
ENCODERS = {"pre": PRE, "post": POST}
OBJECTIVE = Wav2Vec2Config(
    mask=MaskConfig(probability=0.4, length=4),
    quantizer=QuantizerConfig(groups=3, codes=11, dim=15),
    dim=14,
    negatives=17,
    feature_penalty=0.0,
    feature_gradient=1.0,
)
VOCABULARY = Vocabulary.from_texts(["it's ёжик über 日本"])
CLASSES = ("sad", "glad", "keine Angst")
Module = TypeVar("Module", bound=nn.Module)
SECONDS = (1.0, 0.31, 0.6, 0.05)


def shaken(module: Module) -> Module:
    """The module with random numbers added to what starts as ones and zeros, in evaluation mode."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for value in module.state_dict().values():
            if value.ndim <= 1:
                value.add_(0.3 * torch.rand(value.shape, generator=generator))
    return module.eval()


def sounds() -> list[np.ndarray]:
    return [tones(seconds, speaker=number, seed=number) for number, seconds in enumerate(SECONDS)]


def encoder_folder(folder: Path, config: EncoderConfig) -> Path:
    save_model(folder, shaken(SpeechEncoder(config)))
    return folder


def pretraining_folder(folder: Path, config: EncoderConfig, objective: Wav2Vec2Config = OBJECTIVE) -> Path:
    model = shaken(Wav2Vec2(SpeechEncoder(config), objective, seed=0))
    rest = {f"objective.{name}": value for name, value in model.state_dict().items() if not name.startswith("encoder.")}
    extra = {"objective": {"name": "wav2vec2", **objective.model_dump(mode="json")}, "provenance": {"hours": 1.5}}
    save_model(folder, model.encoder, extra=extra, tensors=rest)
    return folder


def ctc_folder(folder: Path, config: EncoderConfig, head: CTCConfig) -> Path:
    model = shaken(CTCModel(SpeechEncoder(config), VOCABULARY, head))
    nn.init.normal_(model.output.weight)
    save_head(folder, model, extra={"training": {"minutes": 2.0}})
    return folder


def classifier_folder(folder: Path, config: EncoderConfig, head: ClassifierConfig) -> Path:
    save_head(folder, shaken(Classifier(SpeechEncoder(config), CLASSES, head)), extra={})
    return folder
