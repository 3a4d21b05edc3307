"""Fine-tuned models on disk: a model folder with a head (`inference.heads` runs it).

The folder is that of an encoder (:mod:`speechssl.models.storage`) with the key ``head`` in ``config.json`` and the
prefix ``head.`` in the weights: the folder has all that is needed to classify or to recognise.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from speechssl.config import UserError, brief_value
from speechssl.decoding.phones import PhoneVocabulary
from speechssl.models.classifier import Classifier, ClassifierConfig, LogMelClassifier
from speechssl.models.ctc import CTCConfig, CTCModel
from speechssl.models.encoder import EncoderConfig, SpeechEncoder
from speechssl.models.files import brief, read_header, read_tensors
from speechssl.models.logmel_cnn import LogMelCNNConfig
from speechssl.models.storage import HEAD, PREFIX, read_encoder_config, read_model_config, save_model
from speechssl.text import Vocabulary

Head = Classifier | LogMelClassifier | CTCModel


def encoder_of(model: Head) -> SpeechEncoder | None:
    """The encoder of a model; None if it has none."""
    return None if isinstance(model, LogMelClassifier) else model.trunk.encoder


def save_head(folder: Path, model: Head, *, extra: Mapping[str, Any]) -> None:
    """Write a fine-tuned model as one folder.

    Args:
        folder: created when missing.
        model: the model.
        extra: further keys of ``config.json``, such as its training data.
    """
    head: dict[str, Any] = {"kind": "ctc" if isinstance(model, CTCModel) else "classifier"}
    head["config"] = model.config.model_dump(mode="json")
    if isinstance(model, CTCModel):
        head["symbols"] = list(model.vocabulary.symbols)
    else:
        head["network"] = "logmel-cnn" if isinstance(model, LogMelClassifier) else "encoder"
        head["classes"] = list(model.classes)
        if isinstance(model, Classifier) and model.by_speaker:
            head["standardise"] = "speaker"
    tensors = {
        HEAD + name: value for name, value in model.state_dict().items() if not name.startswith("trunk.encoder.")
    }
    save_model(folder, encoder_of(model), extra={"head": head, **extra}, tensors=tensors)


def load_head(folder: Path) -> Head:
    """Load the fine-tuned model of a folder, in evaluation mode on the CPU.

    Raises:
        UserError: not a model folder, a model without a head, or weights that do not fit its config.
    """
    config = read_model_config(folder)
    if "head" not in config:
        raise UserError(f"{folder}: a pretrained encoder without a head; `speechssl finetune` gives it one")
    path = folder / "model.safetensors"
    on_encoder = config["head"].get("network") != "logmel-cnn"
    encoder = read_encoder_config(folder) if on_encoder else None
    shapes = read_header(path).shapes
    weights = {f"trunk.encoder.{name}": value for name, value in read_tensors(path, prefix=PREFIX).items()}
    weights |= read_tensors(path, prefix=HEAD)
    try:
        model = _build(config["head"], encoder, shapes)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{folder / 'config.json'}: not a head this version reads: {brief(error)}") from None
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(f"{path}: weights do not fit the config: {brief(error)}") from None
    return model.eval()


def _build(head: Mapping[str, Any], encoder: EncoderConfig | None, shapes: Mapping[str, Sequence[int]]) -> Head:
    """A head of the size that its tensors have; ``shapes`` are those of the file."""
    settings = json.dumps(head["config"])
    if head.get("network", "encoder") not in ("encoder", "logmel-cnn"):
        raise ValueError(f"network {brief_value(head['network'])}")
    if encoder is None:
        cnn = LogMelCNNConfig.model_validate_json(settings)
        classes = _names(head, "classes", shapes.get(f"{HEAD}network.head.bias"))
        widths = [shapes.get(f"{HEAD}network.blocks.{number}.norm.bias") for number in range(len(cnn.channels))]
        if widths != [(width,) for width in cnn.channels]:
            raise ValueError(f"channels are {list(cnn.channels)}, and the file has others")
        return LogMelClassifier(classes, cnn)
    if head["kind"] not in ("ctc", "classifier"):
        raise ValueError(f"kind {brief_value(head['kind'])}")
    names = _names(head, "symbols" if head["kind"] == "ctc" else "classes", shapes.get(f"{HEAD}output.bias"))
    if head["kind"] == "ctc":
        ctc = CTCConfig.model_validate_json(settings)
        _check_layers(ctc, shapes)
        vocabulary = PhoneVocabulary(names) if ctc.units == "phones" else Vocabulary(names)
        return CTCModel(SpeechEncoder(encoder), vocabulary, ctc)
    if head.get("standardise", "speaker") != "speaker":
        raise ValueError(f"standardise {brief_value(head['standardise'])}")
    config = ClassifierConfig.model_validate_json(settings)
    return Classifier(SpeechEncoder(encoder), names, config, by_speaker="standardise" in head)


def _check_layers(config: CTCConfig, shapes: Mapping[str, Sequence[int]]) -> None:
    """Compare the convolutions of a CTC head with those of the file, before any is allocated."""
    prefix = f"{HEAD}context.convs."
    stored = {
        name: tuple(shape) for name, shape in shapes.items() if name.startswith(prefix) and name.endswith("weight")
    }
    given = [shape for _, shape in sorted(stored.items())]
    if len(given) != config.conv_layers or any(
        len(shape) != 3 or (shape[0], shape[2]) != (config.conv_dim, config.conv_kernel) for shape in given
    ):
        raise ValueError(f"{config.conv_layers} convolutions of {config.conv_dim} channels, and the file has others")


def _names(head: Mapping[str, Any], key: str, shape: Sequence[int] | None) -> tuple[str, ...]:
    """Classes or symbols, one per number of the last layer's bias."""
    names = head[key]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{key} must be a list of texts")
    if len(set(names)) < len(names):
        raise ValueError(f"{key} holds one of its texts twice")
    if shape is None or tuple(shape) != (len(names),):
        raise ValueError(f"{len(names)} {key}, and the last layer has {'none' if shape is None else list(shape)}")
    return tuple(names)
