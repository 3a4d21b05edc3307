"""Bundles and state dicts of torchaudio: equal to its models, with every published architecture known by its shapes."""

import urllib.error
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from speechssl.config import UserError
from speechssl.interop import published, torchaudio_read
from speechssl.interop.naming import split_qkv
from speechssl.interop.pickled import load_pickled
from speechssl.interop.reading import skeleton
from speechssl.interop.torchaudio import export_config, import_config
from speechssl.interop.torchaudio_read import is_state_dict, read_bundle, read_content
from speechssl.models.encoder import EncoderConfig
from speechssl.nn.conv import ConvConfig
from speechssl.nn.transformer import TransformerConfig

SMALL = TransformerConfig(dim=32, layers=2, heads=4, feedforward=48, position_kernel=8, position_groups=4)
LAYERS = ((16, 10, 5), (16, 4, 4), (16, 4, 4))
MODELS = {
    "wav2vec2": EncoderConfig(
        conv=ConvConfig(layers=LAYERS, norm="group", bias=False), transformer=SMALL, normalize=False
    ),
    "wavlm": EncoderConfig(
        conv=ConvConfig(layers=LAYERS),
        transformer=SMALL.model_copy(update={"pre_norm": True, "relative_buckets": 16, "relative_distance": 20}),
    ),
}
NO_DROPOUT = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0, "layer_drop": 0.0}


def make(name: str, **more: object) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchaudio 2.11 announces its own retirement on import
        from torchaudio import models
    build = models.wavlm_model if name == "wavlm" else models.wav2vec2_model
    torch.manual_seed(0)
    model = build(**(export_config(MODELS[name]) | more)).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "rel_attn_embed" in key:
                parameter.normal_()
            elif parameter.ndim == 1 or "gru_rel_pos" in key:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model


@torch.no_grad()
def assert_equal(ours: Any, theirs: nn.Module, *, pre_norm: bool) -> None:
    waveforms = torch.randn(2, 3000)
    output = ours(waveforms, all_layers=True)
    states, _ = theirs.extract_features(waveforms)
    if not pre_norm:
        assert len(states) == 2
        torch.testing.assert_close(output.hidden_states[-1], states[-1], atol=1e-5, rtol=0)
    torch.testing.assert_close(output.hidden_states[1], states[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(output.frames, theirs(waveforms)[0], atol=1e-5, rtol=0)


def offer(monkeypatch: pytest.MonkeyPatch, name: str, answer: Any) -> None:
    """A small bundle TOY whose download is ``answer``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torchaudio import pipelines
        from torchaudio.pipelines._wav2vec2 import utils
    config = MODELS[name]
    bundle = pipelines.Wav2Vec2Bundle(
        _path="toy.pth",
        _params=export_config(config),
        _sample_rate=16000,
        _normalize_waveform=config.normalize,
        _model_type="WavLM" if name == "wavlm" else "Wav2Vec2",
    )

    def load(url: str, **how: object) -> dict[str, Tensor]:
        assert url.endswith("/toy.pth")
        assert how == {"map_location": "cpu", "weights_only": True}
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(utils, "load_state_dict_from_url", load)
    monkeypatch.setattr(torchaudio_read, "_bundles", lambda: {"TOY": bundle})


@pytest.mark.parametrize("name", MODELS)
def test_bundle(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = make(name)
    offer(monkeypatch, name, theirs.state_dict())
    found = read_bundle("torchaudio:TOY")
    assert found.config == MODELS[name]
    assert found.left_out == ()
    assert_equal(found.encoder(), theirs, pre_norm=MODELS[name].transformer.pre_norm)


def test_heads_of_recognisers_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, "wav2vec2", make("wav2vec2", aux_num_out=12).state_dict())
    assert read_bundle("torchaudio:TOY").left_out == ("aux.bias", "aux.weight")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (
            urllib.error.URLError("no route"),
            "download.pytorch.org cannot be reached and the model is not in torch's cache",
        ),
        (
            urllib.error.HTTPError("https://x/toy.pth", 404, "gone", None, None),
            "https://x/toy.pth: the server says 404",
        ),  # pyright: ignore
        (
            {"encoder.transformer.layer_norm.bias": torch.zeros(3)},
            "does not fit its settings: missing tensors: encoder",
        ),
    ],
)
def test_downloads_that_fail(answer: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, "wav2vec2", answer)
    with pytest.raises(UserError, match=f"^torchaudio:TOY: {message}"):
        read_bundle("torchaudio:TOY")


def test_no_such_bundle() -> None:
    with pytest.raises(
        UserError, match=r"torchaudio:WAV2VEC: no such bundle; torchaudio has WAV2VEC2_BASE, .*WAVLM_LARGE"
    ):
        read_bundle("torchaudio:WAV2VEC")


@pytest.mark.parametrize("name", MODELS)
def test_state_dict(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = make(name)
    # As a bundle's model that normalises waveforms itself has them.
    torch.save({f"model.{key}": value for key, value in theirs.state_dict().items()}, tmp_path / "model.pt")
    content = load_pickled(tmp_path / "model.pt")
    assert is_state_dict(content)
    with pytest.raises(
        UserError, match=r"model\.pt: a state dict has no settings, and these tensors are those of no pub"
    ):
        read_content(tmp_path / "model.pt", content)
    monkeypatch.setattr(published, "PUBLISHED", (MODELS[name],))
    found = read_content(tmp_path / "model.pt", content)
    assert_equal(found.encoder(), theirs, pre_norm=MODELS[name].transformer.pre_norm)
    with pytest.raises(UserError, match="not a state dict: it holds more than tensors by name"):
        read_content(tmp_path / "model.pt", content | {"epoch": 3})


# What shapes alone can tell


def essence(config: EncoderConfig) -> EncoderConfig:
    """Without what only training sees."""
    plain = config.transformer.model_copy(update=NO_DROPOUT)
    return config.model_copy(update={"transformer": plain, "feature_dropout": 0.0})


def test_every_bundle_is_a_published_architecture() -> None:
    bundles = torchaudio_read._bundles()
    assert len(bundles) > 25
    known = [essence(config) for config in published.PUBLISHED]
    for name, bundle in bundles.items():
        config = import_config(bundle._params, normalize=bundle._normalize_waveform)
        assert essence(config) in known, name


def test_no_two_published_architectures_have_the_same_shapes() -> None:
    seen: list[dict[str, torch.Size]] = []
    for config in published.PUBLISHED:
        shallow = config.model_copy(update={"transformer": config.transformer.model_copy(update={"layers": 1})})
        shapes = {name: value.shape for name, value in split_qkv(skeleton(shallow).state_dict()).items()}
        shapes["layers"] = torch.Size([config.transformer.layers])
        assert shapes not in seen
        seen.append(shapes)


def test_a_published_architecture_is_recognised() -> None:
    config = published.PUBLISHED[0]
    given = {f"encoder.{name}": value for name, value in skeleton(config).state_dict().items()}
    shapes = {name: value.shape for name, value in split_qkv(given).items()}
    assert published.recognised(shapes) == config
    assert published.recognised(shapes | {"encoder.x": (1,)}) is None
    assert published.recognised(shapes | {"mask_embedding": (1,)}) == config
