"""Export of a model as one ONNX file for any batch and length, checked in onnxruntime before it is renamed.

Inputs are ``waveforms`` (batch, samples; float32, mono, 16 kHz, in [-1, 1], padded at the end with any values) and
``num_samples`` (batch; int64). Outputs are ``num_frames`` (batch) with ``frames`` (batch, frames, dim), with
``log_probs`` (batch, frames, symbols; natural logarithms) or, without it, ``probabilities`` (batch, classes); on
request ``hidden_states`` (layers + 1, batch, frames, dim).

The normalisation of a model (zero mean and unit variance) is part of the file; normalised waveforms are valid input,
too. Padding does not change a result, with any values (NaN and infinities too), not even with the group norm of public
BASE models, whose statistics are computed over each utterance's own frames here. An utterance shorter than one frame,
one of zero samples for example, has ``num_frames`` 0 and ``probabilities`` of zero; the rest of the batch is not
affected. Dropout and layer drop are removed, and the weight norm is folded into the weights.

Traced by torch.export, which supports dynamic lengths; torch's older tracer fixed the example's length in places.
"""

import contextlib
import copy
import importlib.util
import json
import logging
import warnings
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from speechssl.audio import SAMPLE_RATE, normalize
from speechssl.config import UserError
from speechssl.files import replacing_path
from speechssl.models.classifier import Classifier
from speechssl.models.ctc import CTCModel
from speechssl.models.encoder import EncoderOutput, SpeechEncoder
from speechssl.nn.conv import ConvConfig, ConvLayer, convolve
from speechssl.nn.pooling import valid_frames, zero_padding
from speechssl.nn.time_norm import TimeNorm

OPSET = 20  # the first with GELU as one operator
TOLERANCE = 1e-4  # largest allowed difference from torch
EXTRA = "ONNX needs the extra 'onnx': pip install 'speechssl[onnx]'"

_FLOOR = 1e-7  # of the variance, as in speechssl.audio.normalize
_PROTOBUF_LIMIT = 2**31 - 2**20  # bytes of one message, with a margin
_CHECKS = ((1.0,), (0.31, 0.8), (1.7, 0.6, 0.05))  # seconds of each utterance in the batches that are compared

Model = SpeechEncoder | CTCModel | Classifier
_MAIN: dict[type[Model], str] = {SpeechEncoder: "frames", CTCModel: "log_probs", Classifier: "probabilities"}


@dataclass(frozen=True)
class OnnxFile:
    """Result of the export: ``outputs`` in their order, and the largest difference from torch."""

    outputs: tuple[str, ...]
    max_error: float


def export_onnx(
    model: Model, path: Path, *, hidden_states: bool = False, metadata: Mapping[str, str] | None = None
) -> OnnxFile:
    """Write a model as ONNX.

    Args:
        model: an encoder, a recogniser or a classifier; it is not changed.
        path: replaced in one step, after the check.
        hidden_states: also output all layers.
        metadata: further entries of the file's ``metadata_props``.

    Raises:
        UserError: the extra ``onnx`` is not installed, the model is too large for one file, or onnxruntime differs
            from torch by more than ``TOLERANCE``.
    """
    if any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxruntime", "onnxscript")):
        raise UserError(EXTRA)
    if sum(each.numel() * each.element_size() for each in model.parameters()) > _PROTOBUF_LIMIT:
        raise UserError(f"{path}: the weights take more than 2 GiB, which is as much as one ONNX file holds")
    network = _Network(model, hidden_states=hidden_states).eval()
    program = _traced(network)
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # source locations of the operations
    program.model.metadata_props.update({**_metadata(model), **(metadata or {})})
    with replacing_path(path) as partial:
        program.save(str(partial), external_data=False)
        error = largest_error(model, partial)
        if error > TOLERANCE:
            raise UserError(
                f"{path}: not written: onnxruntime differs from torch by {error:.1e}, allowed: {TOLERANCE:g}"
            )
    return OnnxFile(outputs=network.outputs, max_error=error)


def largest_error(model: Model, path: Path) -> float:
    """The largest difference of an ONNX file's outputs from a model's, over batches of unequal lengths.

    torch gets each utterance alone, so an effect of padding in the file is part of the difference.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]
    rng = np.random.default_rng(0)
    worst = 0.0
    for seconds in _CHECKS:
        lengths = [round(each * SAMPLE_RATE) for each in seconds]
        padded = rng.normal(0.02, 0.1, (len(lengths), max(lengths) + 7)).astype(np.float32)
        given = {"waveforms": padded, "num_samples": np.array(lengths, dtype=np.int64)}
        found: dict[str, Any] = dict(zip(names, session.run(names, given), strict=True))
        for row, length in enumerate(lengths):
            expected = _alone(model, padded[row, :length])
            frames = expected["hidden_states"].shape[1]
            if int(found["num_frames"][row]) != frames:
                return float("inf")
            for name in names:
                if name == "num_frames":
                    continue
                got = found[name][:, row, :frames] if name == "hidden_states" else found[name][row]
                got = got[:frames] if name in ("frames", "log_probs") else got
                worst = max(worst, _difference(got, expected[name], frames=name in ("frames", "hidden_states")))
    return worst


def _difference(got: np.ndarray, expected: np.ndarray, *, frames: bool) -> float:
    """Largest difference; for frames relative to the largest value of their layer where that is above one."""
    size = np.sqrt(np.square(expected).mean(axis=(-2, -1), keepdims=True)).clip(min=1.0) if frames else 1.0
    return float((np.abs(got - expected) / size).max())


@torch.no_grad()
def _alone(model: Model, waveform: np.ndarray) -> dict[str, np.ndarray]:
    """All outputs of the model for one utterance."""
    encoder = model if isinstance(model, SpeechEncoder) else model.trunk.encoder
    ready = torch.from_numpy(normalize(waveform) if encoder.config.normalize else waveform)[None]
    num_samples = torch.tensor([len(waveform)])
    output = encoder(ready, all_layers=True)
    assert output.hidden_states is not None
    said = {"hidden_states": torch.stack(output.hidden_states)[:, 0], "frames": output.frames[0]}
    if isinstance(model, CTCModel):
        said["log_probs"] = model(ready, num_samples).log_probs[0]
    if isinstance(model, Classifier):
        said["probabilities"] = model(ready, num_samples).softmax(dim=-1)[0]
    return {name: value.numpy() for name, value in said.items()}


class _Network(nn.Module):
    """A model without data-dependent branches: the mask is applied to every batch."""

    def __init__(self, model: Model, *, hidden_states: bool):
        super().__init__()
        model = copy.deepcopy(model)
        _multiply_weight_norms(model)
        self.encoder = model if isinstance(model, SpeechEncoder) else model.trunk.encoder
        self.model, self.hidden_states = model, hidden_states
        self.outputs = (_MAIN[type(model)], "num_frames", *(["hidden_states"] if hidden_states else []))

    def forward(self, waveforms: Tensor, num_samples: Tensor) -> tuple[Tensor, ...]:
        """The outputs listed in ``outputs``."""
        waveforms = zero_padding(waveforms, num_samples)
        if self.encoder.config.normalize:
            waveforms = _normalized(waveforms, num_samples)
        latents = self.latents(waveforms, num_samples)
        num_frames = _num_frames(num_samples, self.encoder.config.conv)
        # An utterance without a frame attends to one frame of silence: the mean of nothing would be NaN.
        counted = num_frames.clamp(min=1)
        valid = valid_frames(counted, latents.shape[1])
        context = self.encoder.transform(self.encoder.project(latents), valid, all_layers=True)
        assert context.hidden_states is not None
        output = EncoderOutput(context.frames, counted, context.hidden_states)
        layers = (torch.stack(context.hidden_states),) if self.hidden_states else ()
        return (self.main(output, num_frames), num_frames, *layers)

    def main(self, output: EncoderOutput, num_frames: Tensor) -> Tensor:
        """Main output of the model; probabilities of an utterance without a frame are zeros."""
        if isinstance(self.model, CTCModel):
            return self.model.logits(output).log_softmax(dim=-1)
        if isinstance(self.model, Classifier):
            probabilities = self.model.logits(self.model.pool(output)).softmax(dim=-1)
            return probabilities.masked_fill((num_frames < 1).unsqueeze(-1), 0.0)
        return output.frames

    def latents(self, waveforms: Tensor, num_samples: Tensor) -> Tensor:
        """Latents as in the encoder, with a group norm over each utterance's own frames."""
        config = self.encoder.config.conv
        x = F.pad(waveforms, (config.padding, config.padding)).unsqueeze(-1)
        for layer in self.encoder.features.layers:
            if isinstance(layer, ConvLayer) and isinstance(layer.norm, TimeNorm):  # the first one
                _, kernel, stride = config.layers[0]
                x = _time_normed(layer, layer.norm, x, _strided(num_samples + 2 * config.padding, kernel, stride))
            else:
                x = layer(x)
        return self.encoder.feature_norm(x)


def _multiply_weight_norms(model: nn.Module) -> None:
    """Replace weight-normalised convolutions of a copied model by plain ones.

    torch's own function changes the class of the module, which the copy shares with the original.
    """
    for parent in list(model.modules()):
        for name, conv in list(parent.named_children()):
            if isinstance(conv, nn.Conv1d) and nn.utils.parametrize.is_parametrized(conv):
                shape = conv.in_channels, conv.out_channels, conv.kernel_size[0]
                plain = nn.utils.skip_init(nn.Conv1d, *shape, padding=conv.padding[0], groups=conv.groups)
                assert isinstance(plain, nn.Conv1d)
                plain.weight, plain.bias = nn.Parameter(conv.weight.detach().clone()), conv.bias
                setattr(parent, name, plain)


def _normalized(
    waveforms: Float[Tensor, "batch samples"], num_samples: Int[Tensor, " batch"]
) -> Float[Tensor, "batch samples"]:
    """Zero mean and unit variance of each; ``waveforms`` are zero beyond their end, and remain so."""
    count = num_samples.clamp(min=1).unsqueeze(-1).to(waveforms.dtype)
    mean = waveforms.sum(dim=-1, keepdim=True) / count
    centred = zero_padding(waveforms - mean, num_samples)
    return centred / (centred.square().sum(dim=-1, keepdim=True) / count + _FLOOR).sqrt()


def _time_normed(layer: ConvLayer, norm: TimeNorm, x: Tensor, num_frames: Tensor) -> Tensor:
    """A first layer whose norm over time leaves out frames beyond an utterance's end."""
    y = convolve(x, layer.conv.weight, layer.conv.bias, stride=layer.conv.stride[0])
    count = num_frames.clamp(min=1)[:, None, None].to(y.dtype)
    centred = y - zero_padding(y, num_frames).sum(dim=1, keepdim=True) / count
    variance = zero_padding(centred, num_frames).square().sum(dim=1, keepdim=True) / count
    return F.gelu(centred / (variance + norm.eps).sqrt() * norm.weight + norm.bias)


def _num_frames(num_samples: Tensor, config: ConvConfig) -> Tensor:
    length = num_samples + 2 * config.padding
    for _, kernel, stride in config.layers:
        length = _strided(length, kernel, stride)
    return length


def _strided(length: Tensor, kernel: int, stride: int) -> Tensor:
    """Steps of a kernel; integers throughout, ONNX rounds a quotient of integers towards zero."""
    return torch.div((length - kernel + stride).clamp(min=0), stride, rounding_mode="trunc")


def _traced(network: _Network) -> Any:
    """The network traced by torch.export and torch.onnx."""
    example = (torch.zeros(2, SAMPLE_RATE), torch.tensor([SAMPLE_RATE, SAMPLE_RATE // 2]))
    batch, samples = torch.export.Dim("batch"), torch.export.Dim("samples")
    with torch.no_grad(), _tracing():
        program = torch.onnx.export(
            network,
            example,
            input_names=["waveforms", "num_samples"],
            output_names=network.outputs,
            dynamic_shapes={"waveforms": {0: batch, 1: samples}, "num_samples": {0: batch}},
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    return program


@contextlib.contextmanager
def _tracing() -> Generator[None]:
    """Disable shape checks, as shapes are symbolic during tracing, and silence the exporter's warnings.

    The warnings are about its own deprecations and about torchvision, which is not installed.
    """
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level, unchecked = logger.level, jaxtyping.config.jaxtyping_disable
    logger.setLevel(logging.ERROR)
    jaxtyping.config.update("jaxtyping_disable", True)  # noqa: FBT003 -- jaxtyping's own signature
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r"# The axis name")
            for category in (DeprecationWarning, FutureWarning):
                warnings.filterwarnings(
                    "ignore", category=category, module=r"(torch|onnx|onnxscript|onnx_ir|copyreg)\b"
                )
            yield
    finally:
        logger.setLevel(level)
        jaxtyping.config.update("jaxtyping_disable", unchecked)


def _metadata(model: Model) -> dict[str, str]:
    encoder = model if isinstance(model, SpeechEncoder) else model.trunk.encoder
    config = encoder.config
    entries = {
        "opset": str(OPSET),
        "sample_rate": str(SAMPLE_RATE),
        "normalization": "zero mean and unit variance, inside" if config.normalize else "none",
        "padding": "at the end, of any value; never changes a result",
        "hop": str(config.conv.hop),
        "shortest": str(max(1, config.conv.receptive_field - 2 * config.conv.padding)),
        "output": _MAIN[type(model)],
    }
    if isinstance(model, CTCModel):
        entries["symbols"] = _json(model.vocabulary.symbols)
        entries["units"] = model.config.units
    if isinstance(model, Classifier):
        entries["classes"] = _json(model.classes)
    return entries


def _json(words: Sequence[str]) -> str:
    return json.dumps(list(words), ensure_ascii=False)
