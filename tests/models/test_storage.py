"""Model folders: round trip, one line for every mistake, a hash that changes with what the model is."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from speechssl.config import UserError
from speechssl.models.encoder import EncoderConfig, SpeechEncoder
from speechssl.models.storage import encoder_hash, load_encoder, model_hash, read_model_config, read_tensors, save_model
from speechssl.nn.conv import ConvConfig
from speechssl.nn.transformer import TransformerConfig

CONFIG = EncoderConfig(
    conv=ConvConfig(layers=((8, 10, 5), (8, 8, 8), (8, 8, 8))),
    transformer=TransformerConfig(dim=16, layers=1, heads=2, feedforward=16, position_kernel=4, position_groups=2),
)


@pytest.fixture
def encoder() -> SpeechEncoder:
    torch.manual_seed(0)
    return SpeechEncoder(CONFIG)


@pytest.fixture
def folder(tmp_path: Path, encoder: SpeechEncoder) -> Path:
    save_model(tmp_path / "model", encoder)
    return tmp_path / "model"


def test_round_trip(folder: Path, encoder: SpeechEncoder) -> None:
    loaded = load_encoder(folder)
    assert loaded.config == CONFIG
    assert not loaded.training
    assert loaded.state_dict().keys() == encoder.state_dict().keys()
    for name, value in encoder.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
    waveforms = torch.randn(1, 4000)
    assert torch.equal(loaded(waveforms).frames, encoder.eval()(waveforms).frames)


def test_what_else_is_kept(tmp_path: Path, encoder: SpeechEncoder) -> None:
    save_model(tmp_path, encoder, extra={"trained_on": ["a", 2]}, tensors={"quantizer.codebooks": torch.arange(3)})
    assert read_model_config(tmp_path)["trained_on"] == ["a", 2]
    assert read_tensors(tmp_path / "model.safetensors", prefix="quantizer.")["codebooks"].tolist() == [0, 1, 2]
    assert set(load_file(tmp_path / "model.safetensors")) == {
        "quantizer.codebooks",
        *(f"encoder.{name}" for name in encoder.state_dict()),
    }
    load_encoder(tmp_path)


@pytest.mark.parametrize(
    ("extra", "tensors"), [({"format": 2}, {}), ({"encoder": {}}, {}), ({}, {"encoder.feature_norm.bias": 0})]
)
def test_names_of_the_encoder_are_taken(
    tmp_path: Path, encoder: SpeechEncoder, extra: dict[str, object], tensors: dict[str, int]
) -> None:
    with pytest.raises(ValueError, match=r"names reserved for the encoder: (format|encoder)"):
        save_model(tmp_path, encoder, extra=extra, tensors={name: torch.zeros(1) for name in tensors})


def test_a_new_model_replaces_the_old_one_and_leaves_nothing_behind(folder: Path, encoder: SpeechEncoder) -> None:
    with torch.no_grad():
        encoder.projection.bias.add_(1.0)
    save_model(folder, encoder)
    assert torch.equal(load_encoder(folder).projection.bias, encoder.projection.bias)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def break_missing(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def break_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def break_kind(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "wav2vec2"}')


def break_format(folder: Path) -> None:
    edit_config(folder, format=99)


def break_setting(folder: Path) -> None:
    encoder = json.loads((folder / "config.json").read_text())["encoder"]
    encoder["transformer"]["dims"] = 16
    edit_config(folder, encoder=encoder)


def break_shape(folder: Path) -> None:
    encoder = json.loads((folder / "config.json").read_text())["encoder"]
    encoder["transformer"]["layers"] = 2
    edit_config(folder, encoder=encoder)


def break_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_missing, r"model: not a model folder \(config\.json and model\.safetensors are expected in it\)"),
        (break_json, r"config\.json: not readable as JSON: "),
        (break_kind, r"config\.json: not the config of a speechssl model \(no key 'encoder'\)"),
        (break_format, r"config\.json: model format 99, this version reads 1"),
        (break_setting, r"config\.json: encoder\.transformer\.dims: Extra inputs are not permitted"),
        (break_shape, r"model\.safetensors: weights do not fit the config: .*Missing key"),
        (break_weights, r"model\.safetensors: not a readable safetensors file: "),
    ],
)
def test_a_damaged_folder_is_one_line(folder: Path, damage, message: str) -> None:
    damage(folder)
    with pytest.raises(UserError, match=message) as caught:
        load_encoder(folder)
    assert str(caught.value).startswith(str(folder))
    assert "\n" not in str(caught.value)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere: not a model folder"):
        load_encoder(tmp_path / "nowhere")


def test_hash_follows_weights_and_config(tmp_path: Path, encoder: SpeechEncoder) -> None:
    def hashed(model: SpeechEncoder, **kept: object) -> str:
        save_model(tmp_path, model, **kept)
        return model_hash(tmp_path)

    first = hashed(encoder)
    assert len(first) == 16
    assert int(first, 16) >= 0
    assert hashed(encoder, extra={"note": "x"}, tensors={"head.bias": torch.zeros(1)}) == first
    other = SpeechEncoder(CONFIG.model_copy(update={"feature_dropout": 0.5}))
    other.load_state_dict(encoder.state_dict())
    assert hashed(other) != first
    with torch.no_grad():
        encoder.projection.bias[0] = torch.nextafter(encoder.projection.bias[0], torch.tensor(1.0))
    assert hashed(encoder) != first


def test_a_setting_that_is_off_changes_neither_folder_nor_hash(tmp_path: Path) -> None:
    """Models that were saved before ``squeeze_factor`` existed keep their hash."""
    config = CONFIG.model_copy(update={"squeeze_factor": 2})
    assert "squeeze_factor" not in CONFIG.model_dump()
    assert EncoderConfig.model_validate(CONFIG.model_dump()) == CONFIG
    torch.manual_seed(0)
    encoder = SpeechEncoder(config).eval()
    save_model(tmp_path, encoder)
    assert load_encoder(tmp_path).config == config
    assert model_hash(tmp_path) == encoder_hash(encoder)
    waveform = torch.randn(1, 4000)
    assert torch.equal(load_encoder(tmp_path)(waveform).frames, encoder(waveform).frames)
