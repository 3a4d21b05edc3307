"""A model as a folder that ``transformers.Auto*`` loads: config, weights, feature extractor, tokenizer, card.

Four kinds: the encoder (``AutoModel``), pretraining with its quantizer (``AutoModelForPreTraining``), a recogniser
(``AutoModelForCTC``) and a classifier (``AutoModelForAudioClassification``). transformers itself is not needed to write
them. Differences:

* its heads for CTC read the last layer without a norm of their own: a recogniser with ``ctc.layers="mix"`` cannot be
  exported;
* its classifier mixes layers, projects, takes the mean over frames. The projection has our standardisation, a diagonal
  and a shift, which commutes with the mean. Other poolings cannot be exported;
* its list of hidden states ends before the final norm of a pre-norm encoder unless ``tie_last_hidden_states`` is set
  (transformers 4 needs no such setting): it is set;
* its tokenizer keeps a space for each word boundary, ours merges consecutive ones.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pydantic
import torch
from safetensors.torch import save
from torch import Tensor

from speechssl.audio import SAMPLE_RATE
from speechssl.config import Config, UserError
from speechssl.files import write_atomic
from speechssl.interop import huggingface
from speechssl.interop.export_card import card
from speechssl.interop.exportable import head_reason
from speechssl.interop.stored import StoredModel
from speechssl.models.classifier import Classifier
from speechssl.models.ctc import CTCModel
from speechssl.text import BLANK, WORD_BOUNDARY

PAD = "<pad>"  # transformers' name of CTC's blank
_CLASSES = {  # model type: beginning of the class names, name of the encoder in a model with a head
    "wav2vec2": ("Wav2Vec2", "wav2vec2"),
    "hubert": ("Hubert", "hubert"),
    "wavlm": ("WavLM", "wavlm"),
    "data2vec-audio": ("Data2VecAudio", "data2vec_audio"),
}
_ENDINGS = {
    "encoder": "Model",
    "pretraining": "ForPreTraining",
    "ctc": "ForCTC",
    "classifier": "ForSequenceClassification",
}
_MASK_SHARE = 0.05  # mask_time_prob, their default; above zero the model has a mask embedding


class _Mask(Config, extra="ignore"):
    probability: float
    length: int
    min_spans: int
    drop: bool = False


class _Quantizer(Config, extra="ignore"):
    groups: int
    codes: int
    dim: int
    normalize_input: bool = False


class _Objective(Config, extra="ignore"):
    """Settings of :class:`speechssl.objectives.wav2vec2.Wav2Vec2Config` that transformers has, too."""

    mask: _Mask
    quantizer: _Quantizer
    targets: str = "features"
    dim: int
    negatives: int
    logit_temperature: float
    diversity_weight: float


def write_folder(folder: Path, model: StoredModel, *, facts: Mapping[str, str]) -> None:
    """Write the folder.

    Args:
        folder: created when missing; files in it are replaced.
        model: the model to write.
        facts: facts for the card, as text.

    Raises:
        UserError: a model that transformers does not support; names the setting, and a way out.
    """
    config = _config(model)
    weights = _weights(model, prefix=_CLASSES[config["model_type"]][1])
    files: dict[str, Any] = {"config.json": config, "preprocessor_config.json": _feature_extractor(model)}
    if isinstance(model.head, CTCModel):
        files |= _tokenizer(model.head)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_atomic(folder / name, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())
    write_atomic(folder / "model.safetensors", save(weights, metadata={"format": "pt"}))
    write_atomic(folder / "README.md", card(model, facts=facts, model_class=config["architectures"][0]).encode())


def _config(model: StoredModel) -> dict[str, Any]:
    _check_head(model)
    try:
        settings = _Objective.model_validate(model.config.get("objective")) if model.kind == "pretraining" else None
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, ("objective", *first["loc"])))
        raise UserError(f"{model.folder / 'config.json'}: {place}: {first['msg']}") from None
    try:
        kind = huggingface.model_type(model.encoder.config)
        shared = huggingface.export_config(model.encoder.config, settings)
    except ValueError as error:
        objectives = any(name in str(error) for name in ("quantizer", "mask.drop", "targets"))
        way = "--encoder-only leaves the objective out" if objectives else "ONNX can hold it (--to onnx)"
        raise UserError(f"{model.folder}: {error}; {way}") from None
    own: dict[str, Any] = {
        "model_type": kind,
        "architectures": [_CLASSES[kind][0] + _ENDINGS[model.kind]],
        "dtype": "float32",
    }
    if model.encoder.config.transformer.pre_norm:
        own["tie_last_hidden_states"] = True
    if settings is None:
        masks = model.mask_embedding is not None
        own |= {"apply_spec_augment": masks, "mask_time_prob": _MASK_SHARE if masks else 0.0, "mask_feature_prob": 0.0}
    return own | shared | _head_config(model)


def _head_config(model: StoredModel) -> dict[str, Any]:
    if isinstance(model.head, CTCModel):
        blank = model.head.vocabulary.symbols.index(BLANK)
        return {
            "vocab_size": len(model.head.vocabulary),
            "pad_token_id": blank,
            "bos_token_id": None,
            "eos_token_id": None,
            "final_dropout": model.head.config.dropout,
            "ctc_zero_infinity": True,
        }
    if isinstance(model.head, Classifier):
        return {
            "use_weighted_layer_sum": True,
            "classifier_proj_size": model.encoder.config.dim,
            "id2label": {str(number): name for number, name in enumerate(model.head.classes)},
            "label2id": {name: number for number, name in enumerate(model.head.classes)},
        }
    return {}


def _check_head(model: StoredModel) -> None:
    reason = None if model.head is None else head_reason("transformers", model.head.config)
    if reason is not None:
        ways = "ONNX can hold it (--to onnx), --encoder-only leaves the head out"
        raise UserError(f"{model.folder}: {reason}; {ways}")


def _weights(model: StoredModel, *, prefix: str) -> dict[str, Tensor]:
    ours = {f"encoder.{name}": value for name, value in model.encoder.state_dict().items()}
    if model.mask_embedding is not None:
        ours["mask_embedding"] = model.mask_embedding
    theirs = huggingface.export_weights(ours | dict(model.objective), weight_norm="weight_g")
    if model.head is not None:
        theirs = {f"{prefix}.{name}": value for name, value in theirs.items()} | _head_weights(model.head)
    return {name: value.detach().contiguous() for name, value in theirs.items()}


def _head_weights(head: CTCModel | Classifier) -> dict[str, Tensor]:
    if isinstance(head, CTCModel):
        return {"lm_head.weight": head.output.weight, "lm_head.bias": head.output.bias}
    return {
        "layer_weights": head.mix.weights,
        "projector.weight": torch.diag(1 / head.spread),
        "projector.bias": -head.centre / head.spread,
        "classifier.weight": head.output.weight,
        "classifier.bias": head.output.bias,
    }


def _feature_extractor(model: StoredModel) -> dict[str, Any]:
    encoder = model.encoder.config
    settings: dict[str, Any] = {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "feature_size": 1,
        "sampling_rate": SAMPLE_RATE,
        "padding_side": "right",
        "padding_value": 0.0,
        "do_normalize": encoder.normalize,
        "return_attention_mask": encoder.conv.norm == "layer",
    }
    return settings | ({"processor_class": "Wav2Vec2Processor"} if model.kind == "ctc" else {})


def _tokenizer(model: CTCModel) -> dict[str, dict[str, Any]]:
    special = {"pad_token": PAD, "unk_token": None, "bos_token": None, "eos_token": None}
    symbols = (PAD if symbol == BLANK else symbol for symbol in model.vocabulary.symbols)
    settings = {
        "tokenizer_class": "Wav2Vec2CTCTokenizer",
        "processor_class": "Wav2Vec2Processor",
        **special,
        "word_delimiter_token": WORD_BOUNDARY,
        "replace_word_delimiter_char": " ",
        "do_lower_case": False,  # transformers would convert to upper case
        "clean_up_tokenization_spaces": False,
    }
    return {
        "vocab.json": {symbol: number for number, symbol in enumerate(symbols)},
        "tokenizer_config.json": settings,
        "special_tokens_map.json": {name: token for name, token in special.items() if token is not None},
    }
