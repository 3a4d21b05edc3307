"""Layer by layer against torchaudio's wav2vec 2.0, in both modes."""

import warnings

import pytest
import torch
from torch import nn

from speechssl.interop import torchaudio as interop
from speechssl.models.encoder import EncoderConfig, SpeechEncoder
from speechssl.nn.conv import ConvConfig
from speechssl.nn.transformer import TransformerConfig

TOLERANCE = 1e-4
KERNELS = ((10, 5), *((3, 2),) * 4, *((2, 2),) * 2)
TRANSFORMER = TransformerConfig(dim=48, layers=3, heads=4, feedforward=80, position_kernel=16, position_groups=4)
MODES = {
    "group": EncoderConfig(
        conv=ConvConfig(layers=tuple((24, *shape) for shape in KERNELS), norm="group", bias=False),
        transformer=TRANSFORMER,
    ),
    "layer": EncoderConfig(
        conv=ConvConfig(layers=tuple((24, *shape) for shape in KERNELS)),
        transformer=TRANSFORMER.model_copy(update={"pre_norm": True, "position_kernel": 15}),
    ),
}


def make_pair(config: EncoderConfig) -> tuple[nn.Module, SpeechEncoder]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchaudio 2.11 announces its own retirement on import
        from torchaudio.models import wav2vec2_model
    torch.manual_seed(0)
    theirs, ours = wav2vec2_model(**interop.export_config(config)).eval(), SpeechEncoder(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.ndim == 1:  # ones and zeros of norms and biases would hide mistakes
                parameter.add_(0.1 * torch.randn_like(parameter))
    weights = interop.import_weights(theirs.state_dict())
    ours.load_state_dict({name.removeprefix("encoder."): value for name, value in weights.items()})
    return theirs, ours


@pytest.mark.parametrize("mode", MODES)
def test_every_layer(mode: str) -> None:
    theirs, ours = make_pair(MODES[mode])
    waveforms = torch.randn(2, 7001)
    with torch.no_grad():
        latents, _ = theirs.feature_extractor(waveforms, None)
        torch.testing.assert_close(ours.features(waveforms), latents, atol=TOLERANCE, rtol=0)
        projected = theirs.encoder.feature_projection(latents)
        torch.testing.assert_close(ours.project(ours.latents(waveforms)), projected, atol=TOLERANCE, rtol=0)
        positions = theirs.encoder.transformer.pos_conv_embed(projected)
        torch.testing.assert_close(ours.transformer.positions(projected), positions, atol=TOLERANCE, rtol=0)
        output = ours(waveforms, all_layers=True)
        states, _ = theirs.extract_features(waveforms)
        final, _ = theirs(waveforms)
    assert output.hidden_states is not None
    if mode == "layer":
        states = states[:-1]  # theirs is before the final norm, ours after it
    for ours_state, their_state in zip(output.hidden_states[1:], states, strict=mode == "group"):
        assert their_state.std() > 0.1
        torch.testing.assert_close(ours_state, their_state, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(output.frames, final, atol=TOLERANCE, rtol=0)


def test_padded_batch() -> None:
    theirs, ours = make_pair(MODES["layer"])
    num_samples = torch.tensor([9000, 4321, 400])
    waveforms = torch.randn(3, 9000) * (torch.arange(9000) < num_samples[:, None])
    with torch.no_grad():
        frames, num_frames = theirs(waveforms, num_samples)
        output = ours(waveforms, num_samples)
    assert output.num_frames is not None
    assert output.num_frames.tolist() == num_frames.tolist()
    for row, count in enumerate(num_frames.tolist()):
        torch.testing.assert_close(output.frames[row, :count], frames[row, :count], atol=TOLERANCE, rtol=0)


def test_gradients() -> None:
    theirs, ours = make_pair(MODES["layer"].model_copy(update={"transformer": _without_dropout(TRANSFORMER)}))
    waveforms, direction = torch.randn(2, 5000), torch.randn(2, 15, 48)
    (theirs(waveforms)[0] * direction).sum().backward()
    (ours(waveforms).frames * direction).sum().backward()
    gradients = {f"encoder.{name}": parameter.grad for name, parameter in ours.named_parameters()}
    exported = interop.export_weights(gradients)
    for name, parameter in theirs.named_parameters():
        if "k_proj.bias" not in name:  # softmax does not see it
            error = (exported[name] - parameter.grad).abs().max() / parameter.grad.abs().max()
            assert error < 1e-3, f"{name}: {error:.1e}"


def _without_dropout(config: TransformerConfig) -> TransformerConfig:
    return config.model_copy(update={"dropout": 0.0, "attention_dropout": 0.0, "layer_drop": 0.0})
