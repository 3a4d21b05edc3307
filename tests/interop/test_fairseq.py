"""Checkpoints in fairseq's names and layouts, made from random models of transformers, equal those models."""

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from speechssl.config import UserError
from speechssl.interop import fairseq, published
from speechssl.interop.pickled import load_pickled
from speechssl.interop.reading import Checkpoint
from tests.interop.theirs import SAMPLES, assert_equal, foreign, make, pretend

# As examples/wav2vec's configurations have them, for the small models of theirs.py.
SETTINGS: dict[str, Any] = {
    "_name": "wav2vec2",
    "extractor_mode": "default",
    "encoder_layers": 2,
    "encoder_embed_dim": 32,
    "encoder_ffn_embed_dim": 48,
    "encoder_attention_heads": 4,
    "activation_fn": "gelu",
    "layer_norm_first": False,
    "conv_feature_layers": "[(16, 10, 5)] + [(16, 4, 4)] * 2",
    "conv_bias": False,
    "conv_pos": 8,
    "conv_pos_groups": 4,
    "dropout": 0.11,
    "attention_dropout": 0.12,
    "activation_dropout": 0.13,
    "encoder_layerdrop": 0.14,
    "dropout_input": 0.15,
    "mask_prob": 0.6,
    "mask_length": 9,
    "num_negatives": 50,
    "logit_temp": 0.2,
    "latent_temp": "(2,0.25,0.999)",
    "feature_grad_mult": 0.3,
    "quantize_input": False,
}
LARGE = {"extractor_mode": "layer_norm", "layer_norm_first": True, "conv_bias": True, "conv_pos": 7}
EPS = {"layer_norm_eps": 1e-5}  # fairseq has no other


def their_names(model: transformers.PreTrainedModel, *, prefix: str = "") -> dict[str, Tensor]:
    """The inverse of transformers' converter: fairseq's names for a model's weights."""
    group = getattr(model.config, "feat_extract_norm", "layer") == "group"
    conv_norm = r"feature_extractor.conv_layers.\1.2." + ("" if group else "1.")
    rules = (
        (r"^(wav2vec2|hubert|wavlm|data2vec_audio)\.", ""),
        (r"parametrizations\.weight\.original0", "weight_g"),
        (r"parametrizations\.weight\.original1", "weight_v"),
        (r"^masked_spec_embed$", "mask_emb"),
        (r"^feature_extractor\.conv_layers\.(\d+)\.conv\.", r"feature_extractor.conv_layers.\1.0."),
        (r"^feature_extractor\.conv_layers\.(\d+)\.layer_norm\.", conv_norm),
        (r"^feature_projection\.layer_norm\.", "layer_norm."),
        (r"^feature_projection\.projection\.", "post_extract_proj."),
        (r"^encoder\.pos_conv_embed\.conv\.", "encoder.pos_conv.0."),
        (r"^encoder\.pos_conv_embed\.layers\.(\d+)\.conv\.", r"encoder.pos_conv.\1.0."),
        (r"\.attention\.rel_attn_embed\.", ".attention.relative_attention_bias."),
        (r"\.attention\.gru_rel_pos_linear\.", ".attention.grep_linear."),
        (r"\.attention\.gru_rel_pos_const", ".attention.grep_a"),
        (r"^(encoder\.layers\.\d+)\.attention\.", r"\1.self_attn."),
        (r"^(encoder\.layers\.\d+)\.layer_norm\.", r"\1.self_attn_layer_norm."),
        (r"\.feed_forward\.intermediate_dense\.", ".fc1."),
        (r"\.feed_forward\.output_dense\.", ".fc2."),
        (r"^quantizer\.codevectors$", "quantizer.vars"),
        (r"^project_hid\.", "final_proj."),
    )
    renamed: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        renamed[prefix + name] = value
    return renamed


def read(path: Path) -> Checkpoint:
    content = load_pickled(path)
    assert fairseq.is_checkpoint(content)
    return fairseq.read_content(path, content)


# The layouts in which the same settings come


def as_args(settings: dict[str, Any], **top: object) -> dict[str, Any]:
    return {"args": argparse.Namespace(**settings, normalize=False, loss_weights="[0.1, 10]", **top), "cfg": None}


def as_cfg(settings: dict[str, Any]) -> dict[str, Any]:
    task = {"_name": "audio_pretraining", "normalize": False}
    criterion = {"_name": "wav2vec", "loss_weights": [0.1, 10.0]}
    return {"args": None, "cfg": {"model": settings, "task": task, "criterion": criterion}}


Dictionary = foreign("fairseq.data.dictionary", "Dictionary")
DictConfig, ListConfig = foreign("omegaconf.dictconfig", "DictConfig"), foreign("omegaconf.listconfig", "ListConfig")
AnyNode, Metadata = foreign("omegaconf.nodes", "AnyNode"), foreign("omegaconf.base", "ContainerMetadata")


def as_omegaconf(settings: dict[str, Any]) -> dict[str, Any]:
    """As objects that are pickled as omegaconf's are."""

    def node(value: object) -> Any:
        if isinstance(value, dict):
            made: Any = DictConfig()
            made._content = {key: node(each) for key, each in value.items()}
        elif isinstance(value, list):
            made = ListConfig()
            made._content = [node(each) for each in value]
        else:
            made = AnyNode()
            made._val = value
        made._parent, made._metadata = None, Metadata()
        return made

    cfg = as_cfg(settings)["cfg"]
    cfg["model"] = cfg["model"] | {"normalize": "${task.normalize}"}
    return {"args": None, "cfg": node(cfg)}


@pytest.mark.parametrize("layout", [as_args, as_cfg, as_omegaconf])
@pytest.mark.parametrize("old_file", [True, False])
def test_pretraining(
    layout: Callable[[dict[str, Any]], dict[str, Any]],
    old_file: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    theirs = make("wav2vec2 group", "ForPreTraining", **EPS)
    content = layout(SETTINGS) | {"model": their_names(theirs)}
    content["task_state"] = {"dictionaries": [Dictionary()]}
    content["last_optimizer_state"] = {"state": {0: {"exp_avg": torch.zeros(3)}}}
    remove = pretend(monkeypatch, Dictionary, DictConfig, ListConfig, AnyNode, Metadata)
    torch.save(content, tmp_path / "model.pt", _use_new_zipfile_serialization=not old_file)
    remove()
    found = read(tmp_path / "model.pt")
    assert found.left_out == ()
    assert not found.config.normalize
    transformer = found.config.transformer
    regularisation = transformer.dropout, transformer.attention_dropout, transformer.activation_dropout
    assert (*regularisation, transformer.layer_drop, found.config.feature_dropout) == (0.11, 0.12, 0.13, 0.14, 0.15)
    assert_equal(found.encoder(), theirs.wav2vec2, torch.randn(1, SAMPLES))
    weights = theirs.state_dict()
    assert torch.equal(found.tensors["objective.mask_embedding"], weights["wav2vec2.masked_spec_embed"])
    codebooks = weights["quantizer.codevectors"].reshape(2, 6, 4)
    assert torch.equal(found.tensors["objective.quantizer.codebooks"], codebooks)
    assert torch.equal(found.tensors["objective.quantizer.scores.weight"], weights["quantizer.weight_proj.weight"])
    assert torch.equal(found.tensors["objective.project_target.weight"], weights["project_q.weight"])
    assert torch.equal(found.tensors["objective.project_context.bias"], weights["project_hid.bias"])
    assert found.objective == {
        "mask": {"probability": 0.6, "length": 9},
        "quantizer": {"groups": 2, "codes": 6, "dim": 8},
        "dim": 12,
        "negatives": 50,
        "logit_temperature": 0.2,
        "diversity_weight": 0.1,
        "feature_penalty": 10.0,
        "feature_gradient": 0.3,
        "gumbel_start": 2.0,
        "gumbel_end": 0.25,
    }


OTHERS = {  # name in theirs.py: settings beside the usual ones
    "wav2vec2 layer": LARGE,
    "hubert layer": LARGE | {"_name": "hubert", "conv_pos": 8},
    "wavlm layer": LARGE
    | {"conv_pos": 8, "relative_position_embedding": True, "gru_rel_pos": True, "num_buckets": 16, "max_distance": 20},
    "data2vec": {
        "_name": "data2vec_audio",
        "extractor_mode": "layer_norm",
        "conv_bias": True,
        "conv_pos": 15,
        "pos_conv_depth": 3,
    },
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_models(name: str, tmp_path: Path) -> None:
    theirs = make(name, **EPS)
    settings = SETTINGS | OTHERS[name]
    # The settings of WavLM lie at the top.
    cfg = (
        settings | {"normalize": True} if name.startswith("wavlm") else {"model": settings, "task": {"normalize": True}}
    )
    beside = {"hubert layer": ["label_embs_concat", "final_proj.weight"], "data2vec": ["final_proj.bias", "_ema"]}
    extra = {key: torch.zeros(2) for key in beside.get(name, [])}
    torch.save({"cfg": cfg, "model": their_names(theirs) | extra}, tmp_path / "model.pt")
    found = read(tmp_path / "model.pt")
    assert found.left_out == tuple(sorted(extra))
    assert found.config.normalize
    assert found.objective is None
    assert_equal(found.encoder(), theirs, torch.randn(1, SAMPLES))


def ctc_args(inner: dict[str, Any]) -> dict[str, Any]:
    return {
        "args": argparse.Namespace(arch="wav2vec_ctc", normalize=False, w2v_args=as_args(inner)["args"], dropout=0.5)
    }


def ctc_cfg(inner: dict[str, Any]) -> dict[str, Any]:
    model = {"_name": "wav2vec_ctc", "w2v_args": as_cfg(inner)["cfg"], "dropout": 0.5, "layerdrop": 0.25}
    return {"args": None, "cfg": {"model": model, "task": {"_name": "audio_finetuning", "normalize": False}}}


@pytest.mark.parametrize("layout", [ctc_args, ctc_cfg])
def test_fine_tuned(layout: Callable[[dict[str, Any]], dict[str, Any]], tmp_path: Path) -> None:
    theirs = make("wav2vec2 group", **EPS)
    head = {"w2v_encoder.proj.weight": torch.zeros(12, 32), "w2v_encoder.proj.bias": torch.zeros(12)}
    weights = their_names(theirs, prefix="w2v_encoder.w2v_model.") | head
    torch.save(layout(SETTINGS) | {"model": weights}, tmp_path / "model.pt")
    found = read(tmp_path / "model.pt")
    assert found.kind == "fairseq wav2vec2 ctc"
    assert found.left_out == ("w2v_encoder.proj.bias", "w2v_encoder.proj.weight")
    assert found.objective is None
    assert found.config.transformer.dropout == 0.5
    assert found.config.transformer.attention_dropout == 0.12
    assert_equal(found.encoder(), theirs, torch.randn(1, SAMPLES))


def test_without_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fine-tuned model that only names the file it started from: known by its shapes, or not at all."""
    theirs = make("wav2vec2 layer", **EPS)
    weights = their_names(theirs, prefix="w2v_encoder.w2v_model.")
    args = argparse.Namespace(w2v_path="/checkpoints/pretrained.pt", normalize=True)
    torch.save({"args": args, "model": weights}, tmp_path / "model.pt")
    with pytest.raises(
        UserError, match=r"model\.pt: has no settings of its encoder, and its tensors are those of no pub"
    ):
        read(tmp_path / "model.pt")
    torch.save({"args": as_args(SETTINGS | LARGE)["args"], "model": their_names(theirs)}, tmp_path / "known.pt")
    known = read(tmp_path / "known.pt").config
    monkeypatch.setattr(published, "PUBLISHED", (known,))
    found = read(tmp_path / "model.pt")
    assert found.config == known.model_copy(update={"normalize": True})
    assert_equal(found.encoder(), theirs, torch.randn(1, SAMPLES))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation_fn": "relu"}, "activation_fn='relu' cannot be expressed here; only activation_fn='gelu' can"),
        ({"layer_type": "conformer"}, "layer_type='conformer' cannot be expressed here"),
        ({"extractor_mode": "mel"}, "extractor_mode='mel' cannot be expressed here; allowed: default, layer_norm"),
        ({"conv_feature_layers": "__import__('os').system('true')"}, "is no list of"),
        ({"conv_feature_layers": "[(16, 10, 5)"}, "is no list of"),
        ({"encoder_layers": "many"}, "setting transformer.layers='many': Input should be a valid integer"),
        ({"relative_position_embedding": True, "gru_rel_pos": False}, "gru_rel_pos=False cannot be expressed here"),
        (
            {"encoder_layers": 1},
            r"does not fit its settings: unknown tensors: encoder\.layers\.1\.fc1\.bias, .* and 12 more",
        ),
        ({"encoder_layers": 3}, r"does not fit its settings: missing tensors: encoder\.layers\.2\.fc1\.bias"),
        ({"conv_pos_groups": 2}, r"encoder\.pos_conv\.0\.weight_v has the shape \[32, 8, 8\], its settings need"),
    ],
)
def test_what_cannot_be_followed(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    weights = their_names(make("wav2vec2 group", **EPS))
    torch.save(as_cfg(SETTINGS | change) | {"model": weights}, tmp_path / "model.pt")
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path / "model.pt")
    assert str(caught.value).startswith(f"{tmp_path / 'model.pt'}: ")
    assert "\n" not in str(caught.value)
