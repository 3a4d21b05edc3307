"""What stands in the padding never matters: NaN, infinities and huge numbers there change no bit of a result.

Nor of a gradient: zero times NaN is NaN, so padding must be masked by selection before anything is computed from it.
"""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from speechssl.inference.pooling import Moments, Piece
from speechssl.interop import onnx
from speechssl.models.classifier import Classifier, ClassifierConfig
from speechssl.models.ctc import CTCConfig, CTCModel, ctc_loss
from speechssl.models.encoder import EncoderConfig, SpeechEncoder
from speechssl.models.logmel_cnn import LogMelCNN, LogMelCNNConfig
from speechssl.nn.conv import ConvConfig
from speechssl.nn.pooling import AttentionPool, mean_pool, mean_std_pool, valid_frames
from speechssl.text import Vocabulary
from tests.toys import MICRO_ENCODER, changed

pytestmark = pytest.mark.usefixtures("two_threads_throughout")

RUBBISH = (math.nan, math.inf, -math.inf, 1e30)
SAMPLES = torch.tensor([4000, 2503, 400])
GROUP = changed(
    MICRO_ENCODER, conv=ConvConfig(layers=((24, 160, 40), (32, 4, 4), (32, 2, 2)), norm="group"), normalize=False
)
ENCODERS = {
    "gabor": MICRO_ENCODER,
    "post": changed(MICRO_ENCODER, transformer__pre_norm=False),
    "wavlm": changed(MICRO_ENCODER, transformer__relative_buckets=8, transformer__relative_distance=20),
    "data2vec": changed(MICRO_ENCODER, transformer__position_stack=2),
    "squeezed": changed(MICRO_ENCODER, squeeze_factor=2),
}
ANY_NORM = ENCODERS | {"group": GROUP}
Result = Callable[[nn.Module, Tensor], Tensor]


def padded(rubbish: float) -> Tensor:
    waveforms = torch.randn(3, 4000, generator=torch.Generator().manual_seed(5))
    return waveforms.masked_fill(~valid_frames(SAMPLES, 4000), rubbish)


def valid_part(frames: Tensor, num_frames: Tensor) -> Tensor:
    return frames[valid_frames(num_frames, frames.shape[1])]


def check(model: nn.Module, result: Result) -> None:
    """The result and every parameter's gradient are those of a padding of zeros, bit for bit."""
    expected, gradients = _outcome(model, result, 0.0)
    assert expected.isfinite().all()
    assert any(float(each.abs().max()) > 0 for each in gradients.values())
    for rubbish in RUBBISH:
        found, others = _outcome(model, result, rubbish)
        assert torch.equal(found, expected), rubbish
        assert others.keys() == gradients.keys()
        assert [name for name, each in others.items() if not torch.equal(each, gradients[name])] == [], rubbish


def _outcome(model: nn.Module, result: Result, rubbish: float) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    found = result(model, padded(rubbish))
    found.square().sum().backward()
    return found.detach(), {name: each.grad for name, each in model.named_parameters() if each.grad is not None}


@pytest.mark.parametrize("name", ENCODERS)
def test_encoder(name: str) -> None:
    def states(model: nn.Module, waveforms: Tensor) -> Tensor:
        output = model(waveforms, SAMPLES, all_layers=True)
        return torch.cat([valid_part(state, output.num_frames) for state in output.hidden_states])

    check(SpeechEncoder(ENCODERS[name]).eval(), states)


@pytest.mark.parametrize("name", ENCODERS)
def test_transformer_alone(name: str) -> None:
    """Projected frames from elsewhere, with anything in their padding."""
    encoder, num_frames = SpeechEncoder(ENCODERS[name]).eval(), torch.tensor([9, 5, 1])
    frames = torch.randn(3, 9, encoder.config.dim)
    valid = valid_frames(num_frames, 9).unsqueeze(-1)
    expected = encoder.contextualize(frames.masked_fill(~valid, 0.0), num_frames).frames
    for rubbish in RUBBISH:
        found = encoder.contextualize(frames.masked_fill(~valid, rubbish), num_frames).frames
        assert torch.equal(found, expected)


@pytest.mark.parametrize("pooling", ["mean", "mean+std", "attention"])
@pytest.mark.parametrize("name", ["gabor", "group"])
def test_classifier(name: str, pooling: str) -> None:
    config = ClassifierConfig.model_validate({"pooling": pooling})
    model = Classifier(SpeechEncoder(ANY_NORM[name]), ("a", "b"), config).eval()
    check(model, lambda model, waveforms: model(waveforms, SAMPLES))


@pytest.mark.parametrize("layers", ["mix", "last"])
@pytest.mark.parametrize("name", ["gabor", "group"])
def test_ctc(name: str, layers: str) -> None:
    config = CTCConfig.model_validate({"layers": layers})
    model = CTCModel(SpeechEncoder(ANY_NORM[name]), Vocabulary.from_texts(["ab"]), config).eval()
    check(model, lambda model, waveforms: ctc_loss(model(waveforms, SAMPLES), [[2, 3], [3], [2]]))


def test_logmel_cnn() -> None:
    model = LogMelCNN(3, LogMelCNNConfig(channels=(4, 8))).eval()
    check(model, lambda model, waveforms: model(waveforms, SAMPLES))


@pytest.mark.parametrize("name", ANY_NORM)
def test_what_onnx_is_traced_from(name: str) -> None:
    network = onnx._Network(SpeechEncoder(ANY_NORM[name]), hidden_states=True).eval()

    def states(model: nn.Module, waveforms: Tensor) -> Tensor:
        _, num_frames, layers = model(waveforms, SAMPLES)
        return torch.cat([valid_part(state, num_frames) for state in layers])

    check(network, states)


@pytest.mark.parametrize("name", ANY_NORM)
@pytest.mark.parametrize("none", [0, 399])
def test_what_onnx_is_traced_from_without_a_frame(name: str, none: int) -> None:
    """No frames and probabilities of zero, and the rest of the batch as ever."""
    model = Classifier(SpeechEncoder(ANY_NORM[name]), ("a", "b"), ClassifierConfig())
    network = onnx._Network(model, hidden_states=False).eval()
    expected, _ = network(padded(0.0), SAMPLES)
    for rubbish in (0.0, *RUBBISH):
        probabilities, num_frames = network(padded(rubbish), torch.tensor([4000, none, 400]))
        assert num_frames.tolist() == [12, 0, 1]
        assert torch.equal(probabilities[[0, 2]], expected[[0, 2]])
        assert probabilities[1].tolist() == [0.0, 0.0]


def pools() -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    return {"mean": mean_pool, "mean+std": mean_std_pool, "attention": AttentionPool(6)}


@pytest.mark.parametrize("name", pools())
def test_gradients_of_pooling(name: str) -> None:
    """Of the frames themselves, as they would come from a model that leaves NaN behind an utterance's end."""
    pool, num_frames = pools()[name], torch.tensor([7, 3])
    behind = ~valid_frames(num_frames, 7).unsqueeze(-1)
    frames = torch.randn(2, 7, 6)

    def outcome(rubbish: float) -> tuple[Tensor, Tensor]:
        leaf = frames.masked_fill(behind, rubbish).requires_grad_()
        found = pool(leaf, num_frames)
        found.square().sum().backward()
        assert leaf.grad is not None
        return found.detach(), leaf.grad

    expected = outcome(0.0)
    for rubbish in RUBBISH:
        assert all(torch.equal(*pair) for pair in zip(outcome(rubbish), expected, strict=True))


def test_moments_of_extraction() -> None:
    states, num_frames = torch.randn(2, 3, 7, 6), torch.tensor([7, 3, 1])
    behind = ~valid_frames(num_frames, 7)[None, :, :, None]
    expected = Moments.of(Piece(states.masked_fill(behind, 0.0), num_frames)).pooled("mean+std")
    for rubbish in RUBBISH:
        found = Moments.of(Piece(states.masked_fill(behind, rubbish), num_frames)).pooled("mean+std")
        assert (found == expected).all()


@pytest.mark.parametrize("samples", [0, 399])
def test_utterances_without_a_frame_are_refused(samples: int) -> None:
    encoder, lengths = SpeechEncoder(MICRO_ENCODER), torch.tensor([4000, samples, 400])
    models: list[nn.Module] = [
        encoder,
        Classifier(encoder, ("a", "b"), ClassifierConfig()),
        CTCModel(encoder, Vocabulary.from_texts(["ab"]), CTCConfig()),
        Classifier(SpeechEncoder(GROUP), ("a", "b"), ClassifierConfig()),
        LogMelCNN(2, LogMelCNNConfig(channels=(4,))),
    ]
    for model in models:
        with pytest.raises(ValueError, match=f"an utterance of {samples} samples is shorter than one frame"):
            model(padded(0.0), lengths)


def test_group_norm_refuses_unequal_lengths() -> None:
    config: EncoderConfig = GROUP
    with pytest.raises(ValueError, match="accepts batches of equal length"):
        SpeechEncoder(config)(padded(math.nan), SAMPLES)
