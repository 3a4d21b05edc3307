"""Folders of transformers: every kind of model equals theirs, in every form of weights; every mistake is one line."""

import json
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import errors
from safetensors.torch import load_file, save_file
from torch import Tensor

from speechssl.config import UserError
from speechssl.interop.huggingface_folder import download, read_folder
from tests.interop.theirs import MODELS, PADDABLE, SAMPLES, assert_equal, make, save


@pytest.mark.parametrize("name", MODELS)
def test_every_hidden_state(name: str, tmp_path: Path) -> None:
    theirs = make(name)
    found = read_folder(save(theirs, tmp_path))
    assert found.kind == f"transformers {theirs.config.model_type}"
    assert found.left_out == ()
    assert found.objective is None
    assert list(found.tensors) == ["objective.mask_embedding"]
    assert_equal(found.encoder(), theirs, torch.randn(2, SAMPLES))


@pytest.mark.filterwarnings("ignore:Support for mismatched:UserWarning")  # of their WavLM
@pytest.mark.parametrize("name", PADDABLE)
@torch.no_grad()
def test_padding(name: str, tmp_path: Path) -> None:
    """Alone and padded give the same; so do theirs, but for data2vec, whose stack carries their padding along."""
    theirs = make(name)
    ours = read_folder(save(theirs, tmp_path)).encoder()
    num_samples = torch.tensor([SAMPLES, 2111, 400])
    waveforms = torch.randn(3, SAMPLES)
    valid = torch.arange(SAMPLES) < num_samples[:, None]
    output = ours(waveforms, num_samples)
    padded = theirs(waveforms * valid, attention_mask=valid.long()).last_hidden_state
    for row, (samples, frames) in enumerate(zip(num_samples.tolist(), output.num_frames.tolist(), strict=True)):
        alone = theirs(waveforms[row : row + 1, :samples]).last_hidden_state[0]
        assert alone.shape[0] == frames
        torch.testing.assert_close(output.frames[row, :frames], alone, atol=1e-5, rtol=0)
        if not name.startswith("data2vec"):
            torch.testing.assert_close(output.frames[row, :frames], padded[row, :frames], atol=1e-5, rtol=0)


HEADS = {  # model, class, some of the names left out
    "pretraining": ("wav2vec2 group", "ForPreTraining", []),
    "ctc": ("wav2vec2 layer", "ForCTC", ["lm_head.bias", "lm_head.weight"]),
    "classes": ("wav2vec2 group", "ForSequenceClassification", ["classifier.bias", "projector.weight"]),
    "mixed layers": ("hubert group", "ForSequenceClassification", ["layer_weights"]),
    "frames": ("data2vec", "ForAudioFrameClassification", ["classifier.bias"]),
    "speakers": ("wavlm group", "ForXVector", ["tdnn.0.kernel.weight", "feature_extractor.bias", "objective.weight"]),
}


@pytest.mark.parametrize("case", HEADS)
def test_heads_are_named_and_left_out(case: str, tmp_path: Path) -> None:
    name, head, some = HEADS[case]
    theirs = make(name, head, use_weighted_layer_sum=case == "mixed layers", tdnn_dim=(8,) * 5, xvector_output_dim=8)
    found = read_folder(save(theirs, tmp_path))
    assert set(some) <= set(found.left_out)
    assert (found.objective is not None) == (case == "pretraining")
    assert_equal(found.encoder(), theirs.base_model, torch.randn(1, SAMPLES))


def test_objective(tmp_path: Path) -> None:
    theirs = make("wav2vec2 layer", "ForPreTraining", mask_time_prob=0.65)
    found = read_folder(save(theirs, tmp_path))
    assert found.objective is not None
    assert found.objective["quantizer"] == {"groups": 2, "codes": 6, "dim": 8}
    assert found.objective["mask"]["probability"] == 0.65
    weights = theirs.state_dict()
    codebooks = weights["quantizer.codevectors"].reshape(2, 6, 4)
    assert torch.equal(found.tensors["objective.quantizer.codebooks"], codebooks)
    assert torch.equal(found.tensors["objective.project_target.bias"], weights["project_q.bias"])
    assert torch.equal(found.tensors["objective.project_context.weight"], weights["project_hid.weight"])


def test_objective_that_cannot_be_followed_is_left_out(tmp_path: Path) -> None:
    found = read_folder(save(make("wav2vec2 layer", "ForPreTraining", feat_quantizer_dropout=0.1), tmp_path))
    assert found.objective is None
    assert "quantizer.codevectors" in found.left_out


# The forms of weights


def old_names(folder: Path) -> None:
    """As published files have them."""
    weights = load_file(folder / "model.safetensors")
    old = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    for modern, name in old.items():
        weights = {key.replace(modern, name): value for key, value in weights.items()}
    assert any(key.endswith("weight_g") for key in weights)
    save_file(weights, folder / "model.safetensors")


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def pickled_shards(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places = {name: f"pytorch_model-0000{number % 2}.bin" for number, name in enumerate(weights)}
    for shard in set(places.values()):
        torch.save({name: weights[name] for name in weights if places[name] == shard}, folder / shard)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))


@pytest.mark.parametrize("change", [old_names, pickled, pickled_shards])
def test_forms_of_weights(change: Callable[[Path], None], tmp_path: Path) -> None:
    theirs = make("wav2vec2 layer")
    change(save(theirs, tmp_path))
    assert_equal(read_folder(tmp_path).encoder(), theirs, torch.randn(1, SAMPLES))


def test_shards(tmp_path: Path) -> None:
    theirs = make("hubert layer")
    save(theirs, tmp_path, max_shard_size="30KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    assert_equal(read_folder(tmp_path).encoder(), theirs, torch.randn(1, SAMPLES))
    next(tmp_path.glob("model-00002*")).unlink()
    with pytest.raises(UserError, match=r"model\.safetensors\.index\.json: names the shard 'model-00002-of-\d+\.safe"):
        read_folder(tmp_path)


def test_halves_become_float32(tmp_path: Path) -> None:
    found = read_folder(save(make("wav2vec2 layer").half(), tmp_path))
    assert {value.dtype for value in found.encoder().state_dict().values()} == {torch.float32}


# Whether waveforms are normalised


def test_normalisation(tmp_path: Path) -> None:
    save(make("wav2vec2 layer"), tmp_path, do_normalize=False)
    assert not read_folder(tmp_path).config.normalize
    path = tmp_path / "preprocessor_config.json"
    settings = json.loads(path.read_text())
    path.unlink()
    assert read_folder(tmp_path).config.normalize  # their default
    (tmp_path / "processor_config.json").write_text(json.dumps({"feature_extractor": settings}))
    assert not read_folder(tmp_path).config.normalize


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"feature_extractor_type": "SeamlessM4TFeatureExtractor"}, "feature_extractor_type='SeamlessM4TFeatureEx"),
        ({"sampling_rate": 8000}, "sampling_rate=8000; only 16000 is read"),
    ],
)
def test_inputs_that_are_no_waveforms_at_16_khz(change: dict[str, object], message: str, tmp_path: Path) -> None:
    path = save(make("wav2vec2 layer"), tmp_path) / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=rf"preprocessor_config\.json: {message}"):
        read_folder(tmp_path)


# Mistakes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"model_type": "wav2vec2-conformer"},
            "model_type='wav2vec2-conformer' cannot be read; allowed: wav2vec2, hub",
        ),
        ({"add_adapter": True}, "add_adapter=True cannot be expressed here"),
        ({"adapter_attn_dim": 16}, "adapter_attn_dim=16 cannot be expressed here"),
        ({"hidden_act": "relu"}, "hidden_act='relu' cannot be expressed here; only hidden_act='gelu' can"),
        ({"feat_extract_norm": "batch"}, "feat_extract_norm='batch' cannot be expressed here: Input should be 'layer'"),
        ({"num_hidden_layers": "two"}, "num_hidden_layers='two' cannot be expressed here: Input should be a valid int"),
        ({"conv_dim": [16, 16]}, r"one value per layer is needed: conv_dim=\[16, 16\], conv_kernel=\[10, 4, 4\]"),
        ({"conv_dim": None}, "a setting is missing or of another kind"),
        ({"model_type": "hubert", "conv_pos_batch_norm": True}, "conv_pos_batch_norm=True cannot be expressed here"),
    ],
)
def test_settings_that_cannot_be_followed(change: dict[str, object], message: str, tmp_path: Path) -> None:
    path = save(make("wav2vec2 layer"), tmp_path) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=message) as caught:
        read_folder(tmp_path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_heads_of_attention_that_do_not_divide(tmp_path: Path) -> None:
    path = save(make("wav2vec2 layer"), tmp_path) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_attention_heads": 5}))
    with pytest.raises(UserError, match="its settings give no valid encoder: dim 32 is not divisible by 5 heads"):
        read_folder(tmp_path)


def without(name: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda weights: {key: value for key, value in weights.items() if not key.startswith(name)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            without("encoder.layers.1.attention.k_proj.bias"),
            r"missing tensors: encoder\.layers\.1\.attention\.k_proj\.b",
        ),
        (without("encoder.layers.1."), r"missing tensors: encoder\.layers\.1\.attention\.\S+ .* and 15 more$"),
        (without("encoder.layers.0.attention.rel_attn_embed"), r"missing tensors: encoder\.layers\.0\.attention\.rel_"),
        (lambda weights: weights | {"adapter.x": torch.zeros(2)}, r"unknown tensors: adapter\.x$"),
        (
            lambda weights: weights | {"encoder.layer_norm.bias": torch.zeros(3)},
            r"encoder\.layer_norm\.bias has the shape \[3\], its settings need \[32\]$",
        ),
        (lambda weights: weights | {"masked_spec_embed": torch.zeros(3)}, r"masked_spec_embed has the shape \[3\]"),
    ],
)
def test_tensors_that_do_not_fit(
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]], message: str, tmp_path: Path
) -> None:
    path = save(make("wavlm layer"), tmp_path) / "model.safetensors"
    save_file(change(load_file(path)), path)
    with pytest.raises(UserError, match=message) as caught:
        read_folder(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}: ")


def test_pretraining_without_masks_is_an_encoder(tmp_path: Path) -> None:
    found = read_folder(save(make("wav2vec2 group", "ForPreTraining", mask_time_prob=0.0), tmp_path))
    assert found.objective is None
    assert "project_q.bias" in found.left_out


def test_stale_settings_that_data2vec_has_none_of(tmp_path: Path) -> None:
    theirs = make("data2vec")
    path = save(theirs, tmp_path) / "config.json"
    stale = {"feat_extract_norm": "group", "do_stable_layer_norm": True}
    path.write_text(json.dumps(json.loads(path.read_text()) | stale))
    assert_equal(read_folder(tmp_path).encoder(), theirs, torch.randn(1, SAMPLES))


def test_objective_in_parts(tmp_path: Path) -> None:
    path = save(make("wav2vec2 group", "ForPreTraining"), tmp_path) / "model.safetensors"
    save_file(without("project_q.bias")(load_file(path)), path)
    with pytest.raises(UserError, match=r"missing tensors: project_q\.bias$"):
        read_folder(tmp_path)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    save(make("wav2vec2 layer"), tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:200])
    with pytest.raises(UserError, match=r"model\.safetensors: not a readable safetensors file: "):
        read_folder(tmp_path)
    weights.rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pytorch_model\.bin: not readable as a state dict of tensors: "):
        read_folder(tmp_path)
    torch.save({"a": [1]}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pytorch_model\.bin: not a state dict: it holds more than tensors by name"):
        read_folder(tmp_path)
    (tmp_path / "pytorch_model.bin").unlink()
    with pytest.raises(
        UserError, match=r"no weights \(model\.safetensors or pytorch_model\.bin, whole or with \.index"
    ):
        read_folder(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(UserError, match=r"config\.json: holds no settings but a list"):
        read_folder(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(UserError, match=r"config\.json: no such file"):
        read_folder(tmp_path)


# The hub


def test_only_what_is_needed_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str | None, list[str]]] = []

    def snapshot(repository: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((repository, revision, allow_patterns))
        if any("bin" in pattern for pattern in allow_patterns):
            (tmp_path / "pytorch_model.bin").touch()
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    (tmp_path / "model-00001-of-00001.safetensors").touch()
    assert download("hf:org/name@v1.0") == tmp_path
    repository, revision, patterns = asked[0]
    assert (len(asked), repository, revision) == (1, "org/name", "v1.0")
    assert not any("bin" in pattern for pattern in patterns)
    (tmp_path / "model-00001-of-00001.safetensors").unlink()
    assert download("hf:org/name") == tmp_path
    assert [each[1] for each in asked[1:]] == [None, None]
    assert "pytorch_model*.bin" in asked[2][2]


def test_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        UserError, match=r"hf:org/name: huggingface\.co cannot be reached and the model is not in the cache"
    ):
        download("hf:org/name")


class _Answer:
    """What the hub's errors want to know of an answer."""

    headers: dict[str, str] = {}  # noqa: RUF012 -- read by the library, written by nobody
    request = None
    status_code = 404


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (errors.RepositoryNotFoundError, "huggingface.co has no such model, or it is private"),
        (errors.GatedRepoError, "the model needs a login"),
        (errors.RevisionNotFoundError, "the model has no revision 'x'"),
        (RuntimeError, "not downloaded: broken"),
    ],
)
def test_answers_of_the_hub(error: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot(*_: object, **__: object) -> str:
        raise error("broken") if error is RuntimeError else error("broken", response=_Answer())  # pyright: ignore

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    with pytest.raises(UserError, match=f"^hf:org/name@x: {message}"):
        download("hf:org/name@x")


@pytest.mark.parametrize("name", ["hf:", "hf:name", "hf:a/b/c", "hf:../b", "hf:a/b@"])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(UserError, match="write a model of the hub as hf:organisation/name"):
        download(name)
