"""Names and settings of transformers, there and back."""

import json

import pytest
import torch
from torch import Tensor, nn
from transformers import Wav2Vec2Config as TheirConfig
from transformers import Wav2Vec2ForPreTraining, Wav2Vec2Model

from speechssl.interop import huggingface
from speechssl.models.encoder import PRESETS, EncoderConfig, SpeechEncoder
from speechssl.nn.conv import ConvConfig
from speechssl.nn.masking import MaskConfig
from speechssl.nn.quantizer import QuantizerConfig
from speechssl.nn.transformer import TransformerConfig
from speechssl.objectives.wav2vec2 import PRESETS as OBJECTIVES
from speechssl.objectives.wav2vec2 import Wav2Vec2, Wav2Vec2Config

# No two values alike and none a default of either side: a swapped pair of names shows.
ENCODER = EncoderConfig(
    conv=ConvConfig(layers=((12, 9, 4), (16, 5, 3)), norm="layer", bias=True),
    transformer=TransformerConfig(
        dim=24,
        layers=2,
        heads=3,
        feedforward=40,
        pre_norm=True,
        position_kernel=7,
        position_groups=6,
        dropout=0.01,
        attention_dropout=0.02,
        activation_dropout=0.03,
        layer_drop=0.04,
        norm_eps=1e-4,
    ),
    normalize=True,
    feature_dropout=0.06,
)
OBJECTIVE = Wav2Vec2Config(
    mask=MaskConfig(probability=0.33, length=4, min_spans=3),
    quantizer=QuantizerConfig(groups=3, codes=11, dim=15),
    dim=14,
    negatives=17,
    logit_temperature=0.2,
    diversity_weight=0.3,
    feature_penalty=0.0,
    feature_gradient=1.0,
)


@pytest.mark.slow
def test_long_settings_and_names_are_cut_in_messages() -> None:
    long = [512] * 100_000
    for config in (
        {"conv_dim": long},
        {"conv_dim": long, "conv_kernel": [3] * 100_000, "conv_stride": [2] * 100_000},
        {"hidden_act": "gelu" * 10_000},
        {"hidden_size": "x" * 10_000},
        {"model_type": "x" * 10_000},
    ):
        with pytest.raises(ValueError, match="more characters") as caught:
            huggingface.import_config(config)
        assert next(iter(config)).removesuffix("_dim") in str(caught.value)
        assert "set_int_max_str_digits" not in str(caught.value)
        assert len(str(caught.value)) < 500
    with pytest.raises(ValueError, match="not weights of") as caught:
        huggingface.import_weights({f"name.{number}": torch.zeros(1) for number in range(10_000)})
    assert len(str(caught.value)) < 500


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(value, right[name]) for name, value in left.items())


def shuffled(module: nn.Module) -> dict[str, Tensor]:
    """A state dict in which no two tensors are alike."""
    return {name: torch.randn_like(value) for name, value in module.state_dict().items()}


@pytest.mark.parametrize("encoder", [ENCODER, PRESETS["base"], PRESETS["large"]], ids=["odd", "base", "large"])
def test_encoder_config_there_and_back(encoder: EncoderConfig) -> None:
    theirs = TheirConfig(**huggingface.export_config(encoder))
    kept = json.loads(theirs.to_json_string())  # only what differs from their defaults
    assert huggingface.import_config(kept, normalize=encoder.normalize) == encoder
    assert huggingface.import_config(theirs.to_dict(), normalize=encoder.normalize) == encoder


@pytest.mark.parametrize(
    "objective", [OBJECTIVE, OBJECTIVES["base"], OBJECTIVES["large"]], ids=["odd", "base", "large"]
)
def test_objective_config_there_and_back(objective: Wav2Vec2Config) -> None:
    theirs = TheirConfig(**huggingface.export_config(PRESETS["base"], objective))
    back = Wav2Vec2Config.model_validate(huggingface.import_objective(json.loads(theirs.to_json_string())))
    # What they do not have has no effect after the way back.
    schedule = {"gumbel_end": 0.5, "feature_penalty": 0.0, "feature_gradient": 1.0}
    assert back == objective.model_copy(update=schedule)


def test_each_setting_has_its_name() -> None:
    """The way back would hide two names that are swapped in both directions."""
    assert huggingface.export_config(ENCODER, OBJECTIVE) == {
        "conv_dim": (12, 16),
        "conv_kernel": (9, 5),
        "conv_stride": (4, 3),
        "conv_bias": True,
        "feat_extract_norm": "layer",
        "feat_extract_activation": "gelu",
        "hidden_act": "gelu",
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 40,
        "do_stable_layer_norm": True,
        "num_conv_pos_embeddings": 7,
        "num_conv_pos_embedding_groups": 6,
        "hidden_dropout": 0.01,
        "attention_dropout": 0.02,
        "activation_dropout": 0.03,
        "layerdrop": 0.04,
        "layer_norm_eps": 1e-4,
        "feat_proj_dropout": 0.06,
        "feat_quantizer_dropout": 0.0,
        "add_adapter": False,
        "adapter_attn_dim": None,
        "mask_time_prob": 0.33,
        "mask_time_length": 4,
        "mask_time_min_masks": 3,
        "mask_feature_prob": 0.0,
        "num_codevector_groups": 3,
        "num_codevectors_per_group": 11,
        "codevector_dim": 15,
        "proj_codevector_dim": 14,
        "num_negatives": 17,
        "contrastive_logits_temperature": 0.2,
        "diversity_loss_weight": 0.3,
    }


def test_defaults_are_theirs() -> None:
    default = TheirConfig().to_dict()
    assert huggingface.import_config({}) == huggingface.import_config(default)
    assert huggingface.import_objective({}) == huggingface.import_objective(default)


@pytest.mark.parametrize("weight_norm", ["parametrizations", "weight_g"])
@pytest.mark.parametrize("norm", ["group", "layer"])
def test_weights_of_ours_there_and_back(norm: str, weight_norm: huggingface.WeightNorm) -> None:
    conv = ENCODER.conv.model_copy(update={"norm": norm, "bias": norm == "layer"})
    model = Wav2Vec2(SpeechEncoder(ENCODER.model_copy(update={"conv": conv})), OBJECTIVE, seed=0)
    weights = shuffled(model)
    assert same(huggingface.import_weights(huggingface.export_weights(weights, weight_norm=weight_norm)), weights)
    encoder = {name: value for name, value in weights.items() if name.startswith("encoder.")}
    assert same(huggingface.import_weights(huggingface.export_weights(encoder, weight_norm=weight_norm)), encoder)


@pytest.mark.parametrize("kind", [Wav2Vec2Model, Wav2Vec2ForPreTraining])
def test_weights_of_theirs_there_and_back(kind: type[nn.Module]) -> None:
    weights = shuffled(kind(TheirConfig(**huggingface.export_config(ENCODER, OBJECTIVE))))
    assert same(huggingface.export_weights(huggingface.import_weights(weights)), weights)


def test_old_names_of_weight_norm() -> None:
    weights = shuffled(SpeechEncoder(ENCODER))
    exported = huggingface.export_weights(
        {f"encoder.{name}": value for name, value in weights.items()}, weight_norm="weight_g"
    )
    gain = exported["encoder.pos_conv_embed.conv.weight_g"]
    assert torch.equal(gain, weights["transformer.positions.conv.parametrizations.weight.original0"])
    assert exported["encoder.pos_conv_embed.conv.weight_v"].shape == (24, 4, 7)


def test_exported_weights_share_no_memory() -> None:
    """Files of safetensors refuse tensors that do."""
    exported = huggingface.export_weights({"encoder.transformer.layers.0.attention.qkv.bias": torch.arange(6.0)})
    assert [value.tolist() for value in exported.values()] == [[0, 1], [2, 3], [4, 5]]
    assert len({value.untyped_storage().data_ptr() for value in exported.values()}) == 3


def test_codebooks_keep_their_groups() -> None:
    weights = {
        "quantizer.codevectors": torch.arange(24.0).reshape(1, 6, 4),
        "project_q.weight": torch.zeros(5, 8),
    }
    codebooks = huggingface.import_weights(weights)["quantizer.codebooks"]
    assert codebooks.shape == (2, 3, 4)
    assert codebooks[1, 0].tolist() == [12, 13, 14, 15]


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        (PRESETS["tiny"], "front='gabor' cannot be expressed"),
        (EncoderConfig(conv=ConvConfig(layers=((8, 400, 160), (8, 3, 2)))), "720 samples gets 160 zeros"),
    ],
)
def test_encoders_they_cannot_express(encoder: EncoderConfig, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        huggingface.export_config(encoder)


def test_objectives_they_cannot_express() -> None:
    with pytest.raises(ValueError, match=r"quantizer\.normalize_input=True cannot be expressed"):
        huggingface.export_config(ENCODER, OBJECTIVES["tiny"])
    log_mel = OBJECTIVES["base"].model_copy(update={"targets": "log-mel"})
    with pytest.raises(ValueError, match="targets='log-mel': transformers quantises latents"):
        huggingface.export_config(ENCODER, log_mel)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"hidden_act": "relu"}, "hidden_act='relu' cannot be expressed here; only hidden_act='gelu' can"),
        ({"add_adapter": True}, "add_adapter=True cannot be expressed here"),
        ({"conv_kernel": (401, 3, 3, 3, 3, 2, 2)}, "zeros on both sides here and none in transformers"),
        ({"feat_extract_norm": "batch"}, "feat_extract_norm='batch' cannot be expressed here"),
    ],
)
def test_encoders_we_cannot_express(given: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        huggingface.import_config(given)


def test_objectives_we_cannot_express() -> None:
    with pytest.raises(ValueError, match=r"feat_quantizer_dropout=0\.1 cannot be expressed here"):
        huggingface.import_objective({"feat_quantizer_dropout": 0.1})


def test_foreign_weights() -> None:
    with pytest.raises(ValueError, match=r"not weights of Wav2Vec2Model or .*: lm_head\.bias, masked_spec_embed\.x$"):
        huggingface.import_weights({"lm_head.bias": torch.zeros(2), "masked_spec_embed.x": torch.zeros(2)})
    with pytest.raises(ValueError, match=r"not weights of a wav2vec 2\.0 encoder or objective: head\.bias"):
        huggingface.export_weights({"head.bias": torch.zeros(2)})
