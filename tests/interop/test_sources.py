"""One name for every place that an encoder can come from; a folder that was imported is the model it came from."""

import argparse
from pathlib import Path

import pytest
import torch

from speechssl.config import UserError
from speechssl.interop import huggingface_folder, torchaudio_read
from speechssl.interop.sources import import_model, open_source
from speechssl.models.encoder import EncoderConfig, SpeechEncoder
from speechssl.models.storage import load_encoder, model_hash, read_model_config, read_tensors, save_model
from speechssl.objectives.wav2vec2 import Wav2Vec2, Wav2Vec2Config
from speechssl.train.adapt import adaptation, carry_over
from speechssl.train.pretrain_config import config_of
from tests.interop.test_fairseq import EPS, LARGE, SETTINGS, as_cfg, their_names
from tests.interop.theirs import MODELS, SAMPLES, assert_equal, make, save
from tests.toys import MICRO_ENCODER


@pytest.fixture
def own(tmp_path: Path) -> Path:
    save_model(tmp_path / "own", SpeechEncoder(MICRO_ENCODER))
    return tmp_path / "own"


def test_own_folder(own: Path) -> None:
    before = torch.random.get_rng_state()
    source = open_source(own)
    assert torch.equal(torch.random.get_rng_state(), before)  # nothing is drawn
    assert (source.name, source.folder, source.digest) == (str(own), own, model_hash(own))
    assert not source.encoder.training
    weights = load_encoder(own).state_dict()
    assert source.encoder.state_dict().keys() == weights.keys()
    assert all(torch.equal(value, weights[name]) for name, value in source.encoder.state_dict().items())


def test_the_head_counts(own: Path) -> None:
    plain = open_source(own).digest
    save_model(own, open_source(own).encoder, extra={"head": {"kind": "x"}}, tensors={"head.bias": torch.zeros(2)})
    assert open_source(own).digest == model_hash(own) != plain


def test_own_folder_that_does_not_fit(own: Path) -> None:
    path = own / "config.json"
    path.write_text(path.read_text().replace('"layers": 2', '"layers": 3'))
    with pytest.raises(UserError, match=r"model\.safetensors: weights do not fit the config: .*Missing key"):
        open_source(own)
    path.write_text(path.read_text().replace('"heads": 2', '"heads": 2, "horns": 2'))
    with pytest.raises(UserError, match=r"config\.json: encoder\.transformer\.horns: Extra inputs are not permitted"):
        open_source(own)


def test_a_run_of_several_stages(own: Path, tmp_path: Path) -> None:
    assert open_source(tmp_path).folder == own
    save_model(tmp_path / "other", SpeechEncoder(MICRO_ENCODER))
    with pytest.raises(UserError, match="holds several models, name one: other, own"):
        open_source(tmp_path)
    save_model(tmp_path / "pretrain", SpeechEncoder(MICRO_ENCODER))
    assert open_source(tmp_path).folder == tmp_path / "pretrain"


def test_hub_and_bundles_have_their_own_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save(make("wav2vec2 layer"), tmp_path)
    monkeypatch.setattr(huggingface_folder, "download", lambda name: folder if name == "hf:org/name" else None)
    found = open_source("hf:org/name")
    assert (found.name, found.folder) == ("hf:org/name", None)
    monkeypatch.setattr(torchaudio_read, "read_bundle", lambda name: huggingface_folder.read_folder(folder))
    assert open_source("torchaudio:X").digest == found.digest


@pytest.mark.parametrize("name", MODELS)
def test_import_is_exact(name: str, tmp_path: Path) -> None:
    theirs = make(name)
    source = open_source(save(theirs, tmp_path / "theirs"))
    done = import_model(tmp_path / "theirs", tmp_path / "ours")
    assert (done.digest, done.left_out, done.objective) == (source.digest, (), False)
    again = open_source(tmp_path / "ours")
    assert again.digest == source.digest
    assert again.encoder.config == source.encoder.config
    weights = source.encoder.state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in again.encoder.state_dict().items())
    assert_equal(load_encoder(tmp_path / "ours"), theirs, torch.randn(1, SAMPLES))
    assert read_model_config(tmp_path / "ours")["provenance"]["imported_from"] == str(tmp_path / "theirs")


def test_pretraining_goes_on_from_an_imported_model(tmp_path: Path) -> None:
    """From transformers and from fairseq: the objective that comes with the folder is that of the source."""
    theirs = make("wav2vec2 layer", "ForPreTraining", **EPS)
    save(theirs, tmp_path / "theirs")
    content = as_cfg(SETTINGS | LARGE) | {"model": their_names(theirs)}
    torch.save(content, tmp_path / "model.pt")
    for number, name in enumerate([tmp_path / "theirs", tmp_path / "model.pt"]):
        out = tmp_path / str(number)
        assert import_model(name, out).objective
        settings = adaptation(config_of("wav2vec2").model_validate({}), out)
        assert settings.objective.quantizer.codes == 6
        assert settings.encoder == open_source(out).encoder.config
        objective = Wav2Vec2(SpeechEncoder(settings.encoder), settings.objective, seed=0)
        carry_over(out, objective)
        assert torch.equal(objective.project_target.weight, theirs.state_dict()["project_q.weight"])
    both = [read_tensors(tmp_path / name / "model.safetensors", prefix="") for name in "01"]
    assert both[0].keys() == both[1].keys()
    assert all(torch.equal(value, both[1][name]) for name, value in both[0].items())


def test_import_spares_what_is_there(own: Path, tmp_path: Path) -> None:
    folder = save(make("wav2vec2 layer"), tmp_path / "theirs")
    with pytest.raises(UserError, match="own: is a speechssl model folder already; nothing to import"):
        import_model(own, tmp_path / "new")
    with pytest.raises(UserError, match="own: holds a model already; replace it, or name another folder"):
        import_model(folder, own)
    with pytest.raises(UserError, match="theirs: holds a model already; name another folder"):
        import_model(folder, folder, replace=True)
    assert import_model(folder, own, replace=True).digest == open_source(folder).digest == model_hash(own)


def touch(folder: Path) -> Path:
    return folder


def text(folder: Path) -> Path:
    (folder / "notes.txt").write_text("nothing")
    return folder / "notes.txt"


def tensors(folder: Path) -> Path:
    torch.save({"a": torch.zeros(2)}, folder / "model.pt")
    return folder / "model.pt"


def settings_only(folder: Path) -> Path:
    torch.save({"args": argparse.Namespace(a=1), "model": {}}, folder / "model.pt")
    return folder / "model.pt"


def loose(folder: Path) -> Path:
    (folder / "model.safetensors").touch()
    return folder / "model.safetensors"


def unfinished(folder: Path) -> Path:
    (folder / "last.pt").touch()
    return folder


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (touch, "no model in it; a folder of speechssl has config.json and model.safetensors, one of transformers"),
        (text, "not readable as a checkpoint of torch"),
        (tensors, "neither a checkpoint of fairseq .with 'model'. nor a state dict of torchaudio"),
        (settings_only, "neither a checkpoint of fairseq"),
        (loose, "name its folder instead"),
        (unfinished, "a run that has not saved its model yet"),
    ],
)
def test_what_is_no_model(prepare, message: str, tmp_path: Path) -> None:
    path = prepare(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        open_source(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_models_of_today_load_unchanged(own: Path) -> None:
    """Settings that a folder of an older version does not have are at their defaults."""
    path = own / "config.json"
    later = ("position_stack", "relative_", "causal", "feature_norm")
    trimmed = "\n".join(line for line in path.read_text().splitlines() if not any(name in line for name in later))
    for comma in ('"norm_eps": 1e-05,', '"feature_dropout": 0.0,'):
        assert comma in trimmed
        trimmed = trimmed.replace(comma, comma[:-1])
    path.write_text(trimmed)
    assert load_encoder(own).config == MICRO_ENCODER == EncoderConfig.model_validate(MICRO_ENCODER.model_dump())
    assert Wav2Vec2Config() == Wav2Vec2Config.model_validate(Wav2Vec2Config().model_dump())
