"""Fine-tuned models on disk and in use: a model folder with a head, and what it says about waveforms.

The folder is that of an encoder (:mod:`speechssl.models.storage`) with the key ``head`` in ``config.json`` and the
prefix ``head.`` in the weights: one file says and holds all that is needed to classify or to write down.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from speechssl.audio import RECEPTIVE_FIELD, SAMPLE_RATE, normalize
from speechssl.config import UserError, brief_value
from speechssl.models.classifier import Classifier, ClassifierConfig, LogMelClassifier
from speechssl.models.ctc import CTCConfig, CTCModel
from speechssl.models.encoder import EncoderConfig, SpeechEncoder
from speechssl.models.files import brief, read_header, read_tensors
from speechssl.models.logmel_cnn import LogMelCNNConfig
from speechssl.models.storage import HEAD, PREFIX, read_encoder_config, read_model_config, save_model
from speechssl.text import Vocabulary

Head = Classifier | LogMelClassifier | CTCModel
Waveform = Float32[np.ndarray, " _"]

BATCH_SECONDS = 20.0  # of padded audio in a batch
WINDOW_SECONDS = 30.0  # a longer waveform is cut into windows of this length
CONTEXT_SECONDS = 2.0  # that a window of a longer recording has on either side of the frames it gives


def encoder_of(model: Head) -> SpeechEncoder | None:
    """The encoder of a model, None where it has none."""
    return None if isinstance(model, LogMelClassifier) else model.trunk.encoder


def save_head(folder: Path, model: Head, *, extra: Mapping[str, Any]) -> None:
    """Write a fine-tuned model as one folder.

    Args:
        folder: made when missing.
        model: the model.
        extra: further keys of ``config.json``, such as what it was trained on.
    """
    head: dict[str, Any] = {"kind": "ctc" if isinstance(model, CTCModel) else "classifier"}
    head["config"] = model.config.model_dump(mode="json")
    if isinstance(model, CTCModel):
        head["symbols"] = list(model.vocabulary.symbols)
    else:
        head["network"] = "logmel-cnn" if isinstance(model, LogMelClassifier) else "encoder"
        head["classes"] = list(model.classes)
    tensors = {
        HEAD + name: value for name, value in model.state_dict().items() if not name.startswith("trunk.encoder.")
    }
    save_model(folder, encoder_of(model), extra={"head": head, **extra}, tensors=tensors)


def load_head(folder: Path) -> Head:
    """The fine-tuned model of a folder, in evaluation mode on the CPU.

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
        return CTCModel(SpeechEncoder(encoder), Vocabulary(names), CTCConfig.model_validate_json(settings))
    return Classifier(SpeechEncoder(encoder), names, ClassifierConfig.model_validate_json(settings))


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


def classify(
    model: Classifier | LogMelClassifier, waveforms: Sequence[Waveform]
) -> Float32[np.ndarray, "clips classes"]:
    """Probabilities of the classes, one row a waveform.

    A waveform above WINDOW_SECONDS is cut into equal windows, and its probabilities are their mean.

    Args:
        model: in evaluation mode.
        waveforms: mono at 16 kHz in [-1, 1], 400 samples or more.
    """
    pieces: list[Waveform] = []
    owners: list[int] = []
    for number, waveform in enumerate(waveforms):
        ready = normalize(waveform) if model.normalized else waveform
        count = -(-len(ready) // round(WINDOW_SECONDS * SAMPLE_RATE))
        for piece in np.array_split(ready, count):
            pieces.append(piece.astype(np.float32, copy=False))
            owners.append(number)
    probabilities = np.zeros((len(waveforms), len(model.classes)), dtype=np.float32)
    for places in batches_by_length([len(piece) for piece in pieces], equal=_needs_equal(model)):
        rows = class_probabilities(model, [pieces[place] for place in places])
        for place, row in zip(places, rows, strict=True):
            probabilities[owners[place]] += row
    windows = np.bincount(np.array(owners, dtype=np.int64), minlength=len(waveforms))
    return probabilities / windows[:, None].astype(np.float32)


def emissions(model: CTCModel, waveforms: Sequence[Waveform]) -> list[Float32[np.ndarray, "frames symbols"]]:
    """Natural logarithms of symbol probabilities, one array of frames a waveform.

    A waveform above WINDOW_SECONDS is encoded in overlapping windows; every frame then has two seconds of context.

    Args:
        model: in evaluation mode.
        waveforms: mono at 16 kHz in [-1, 1], 400 samples or more.
    """
    ready = [normalize(waveform) if model.normalized else waveform for waveform in waveforms]
    found: list[list[Float32[np.ndarray, "frames symbols"]]] = [[] for _ in ready]
    hop = model.trunk.encoder.config.conv.hop
    windows = [
        window
        for number, waveform in enumerate(ready)
        for window in _windows(
            number, len(waveform), int(model.trunk.encoder.num_frames(torch.tensor(len(waveform)))), hop
        )
    ]
    results: dict[int, Float32[np.ndarray, "frames symbols"]] = {}
    lengths = [stop - start for _, start, stop, _, _ in windows]
    for places in batches_by_length(lengths, equal=_needs_equal(model)):
        cut = [ready[windows[place][0]][windows[place][1] : windows[place][2]] for place in places]
        for place, rows in zip(places, symbol_log_probs(model, cut), strict=True):
            results[place] = rows[windows[place][3] : windows[place][4]]
    for place, window in enumerate(windows):
        found[window[0]].append(results[place])
    return [np.concatenate(parts) for parts in found]


@torch.inference_mode()
def class_probabilities(
    model: Classifier | LogMelClassifier, waveforms: Sequence[Waveform]
) -> Float32[np.ndarray, "clips classes"]:
    """One pass over waveforms that are ready: normalised where the model asks for it, none of them long."""
    padded, num_samples = pad(waveforms)
    device = next(model.parameters()).device
    return model(padded.to(device), num_samples.to(device)).float().softmax(dim=-1).cpu().numpy()


@torch.inference_mode()
def symbol_log_probs(model: CTCModel, waveforms: Sequence[Waveform]) -> Float32[np.ndarray, "clips frames symbols"]:
    """One pass over waveforms as for `class_probabilities`; frames behind the end of a shorter one mean nothing."""
    padded, num_samples = pad(waveforms)
    device = next(model.parameters()).device
    return model(padded.to(device), num_samples.to(device)).log_probs.cpu().numpy()


def window_frames(hop: int) -> tuple[int, int]:
    """Frames of context on either side of a window, and frames that a window gives; samples from frame to frame.

    >>> window_frames(320)
    (100, 1300)
    """
    context = round(CONTEXT_SECONDS * SAMPLE_RATE / hop)
    return context, round(WINDOW_SECONDS * SAMPLE_RATE / hop) - 2 * context


def _windows(number: int, samples: int, frames: int, hop: int) -> Iterator[tuple[int, int, int, int, int]]:
    """Owner, first and last sample of each window, and which of its frames count."""
    if samples <= WINDOW_SECONDS * SAMPLE_RATE:
        yield number, 0, samples, 0, frames
        return
    context, step = window_frames(hop)
    for first in range(0, frames, step):
        last = min(first + step, frames)
        start, stop = max(0, first - context), min(frames, last + context)
        end = samples if stop == frames else (stop - 1) * hop + RECEPTIVE_FIELD
        yield number, start * hop, end, first - start, last - start


def batches_by_length(lengths: Sequence[int], *, equal: bool = False) -> Iterator[list[int]]:
    """Places by rising length, cut so that a padded batch stays below BATCH_SECONDS.

    Args:
        lengths: samples of each.
        equal: only equal lengths share a batch, for encoders whose result padding would change.

    >>> list(batches_by_length([16000, 320000, 16000]))
    [[0, 2], [1]]
    """
    batch: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda each: lengths[each]):
        full = (len(batch) + 1) * lengths[place] > BATCH_SECONDS * SAMPLE_RATE
        if batch and (full or (equal and lengths[batch[0]] != lengths[place])):
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


def pad(waveforms: Sequence[Waveform]) -> tuple[Tensor, Tensor]:
    """Zero-padded (batch, samples) and the number of samples of each."""
    lengths = [len(waveform) for waveform in waveforms]
    padded = np.zeros((len(waveforms), max(lengths)), dtype=np.float32)
    for row, waveform in zip(padded, waveforms, strict=True):
        row[: len(waveform)] = waveform
    return torch.from_numpy(padded), torch.tensor(lengths)


def _needs_equal(model: Head) -> bool:
    encoder = encoder_of(model)
    return encoder is not None and encoder.config.conv.norm == "group"
