"""Layer by layer against transformers: random weights of every parameter carried over, nothing downloaded."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Wav2Vec2Config as TheirConfig
from transformers import Wav2Vec2ForPreTraining as TheirModel

from speechssl.interop import huggingface
from speechssl.models.encoder import SpeechEncoder
from speechssl.nn.masking import MaskConfig, sample_negatives, span_mask
from speechssl.nn.quantizer import gumbel_noise
from speechssl.objectives.wav2vec2 import Draws, Wav2Vec2, Wav2Vec2Config

TOLERANCE = 1e-4
TEMPERATURE = 1.3  # of the Gumbel softmax
SMALL = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "conv_dim": (32,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "num_codevectors_per_group": 12,  # few: distractors with the target's codes do occur
    "codevector_dim": 24,
    "proj_codevector_dim": 20,
    "num_negatives": 30,
    "mask_time_prob": 0.65,
}
MODES = {
    "group": {"feat_extract_norm": "group", "do_stable_layer_norm": False, "conv_bias": False},
    "layer": {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True, "layer_norm_eps": 1e-3},
    "odd kernel": {"feat_extract_norm": "layer", "conv_bias": True, "num_conv_pos_embeddings": 15},
}
NO_DROPOUT = dict.fromkeys(
    ["hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout", "layerdrop"], 0.0
)
# Where the same quantity passes: (theirs, ours). Their feature extractor is channels-first.
PLACES = {
    "wav2vec2.feature_extractor": "encoder.features",
    "wav2vec2.feature_projection.layer_norm": "encoder.feature_norm",
    "wav2vec2.feature_projection.projection": "encoder.projection",
    "wav2vec2.encoder.pos_conv_embed": "encoder.transformer.positions",
}


@dataclass
class Pair:
    theirs: TheirModel
    ours: Wav2Vec2


def make_pair(**settings: object) -> Pair:
    """Both models with the same weights, none of which is at its default."""
    torch.manual_seed(0)
    theirs = TheirModel(TheirConfig(**(NO_DROPOUT | settings))).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.ndim == 1:  # ones and zeros of norms and biases would hide mistakes; matrices are random
                parameter.add_(0.1 * torch.randn_like(parameter))
    config = theirs.config.to_dict()
    encoder = SpeechEncoder(huggingface.import_config(config))
    ours = Wav2Vec2(encoder, Wav2Vec2Config.model_validate(huggingface.import_objective(config)), seed=0).eval()
    ours.load_state_dict(huggingface.import_weights(theirs.state_dict()))
    return Pair(theirs, ours)


@pytest.fixture(params=MODES)
def pair(request: pytest.FixtureRequest) -> Pair:
    return make_pair(**(SMALL | MODES[request.param]))


@contextmanager
def recorded(model: nn.Module, names: list[str]) -> Iterator[dict[str, Tensor]]:
    """What the named modules give while the context is open."""
    outputs: dict[str, Tensor] = {}

    def record(name: str):
        def hook(module: nn.Module, inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
            outputs[name] = output if isinstance(output, Tensor) else output[0]

        return hook

    handles = [model.get_submodule(name).register_forward_hook(record(name)) for name in names]
    yield outputs
    for handle in handles:
        handle.remove()


def assert_same(ours: Tensor, theirs: Tensor, name: str) -> None:
    assert theirs.std() > 0.02, f"{name}: too small to say anything"
    torch.testing.assert_close(ours, theirs, atol=TOLERANCE, rtol=0, msg=lambda text: f"{name}: {text}")


def compare_layers(pair: Pair, waveforms: Tensor) -> None:
    layers = range(pair.ours.encoder.config.transformer.layers)
    places = PLACES | {f"wav2vec2.encoder.layers.{i}": f"encoder.transformer.layers.{i}" for i in layers}
    with (
        torch.no_grad(),
        recorded(pair.theirs, list(places)) as theirs,
        recorded(pair.ours, list(places.values())) as ours,
    ):
        their_output = pair.theirs(waveforms, output_hidden_states=True)
        our_output = pair.ours.encoder(waveforms, all_layers=True)
    theirs["wav2vec2.feature_extractor"] = theirs["wav2vec2.feature_extractor"].transpose(1, 2)
    for their_name, our_name in places.items():
        assert_same(ours[our_name], theirs[their_name], our_name)
    assert_same(pair.ours.project_context(our_output.frames), their_output.projected_states, "final output")
    # transformers' last hidden state is before the final norm in the pre-norm mode; ours is after it.
    for index, (our_state, their_state) in enumerate(
        zip(our_output.hidden_states[:-1], their_output.hidden_states[:-1], strict=True)
    ):
        assert_same(our_state, their_state, f"hidden state {index}")


def test_every_layer(pair: Pair) -> None:
    compare_layers(pair, torch.randn(2, 6123))


@pytest.mark.slow
def test_every_layer_at_base_size() -> None:
    compare_layers(make_pair(), torch.randn(1, 8000))


@pytest.mark.parametrize("mode", ["layer", "odd kernel"])
def test_padded_batch(mode: str) -> None:
    pair = make_pair(**(SMALL | MODES[mode]))
    num_samples = torch.tensor([8000, 5321, 400])
    waveforms = torch.randn(3, 8000)
    valid = torch.arange(8000) < num_samples[:, None]
    with torch.no_grad():
        theirs = pair.theirs.wav2vec2(waveforms * valid, attention_mask=valid.long())
        ours = pair.ours.encoder(waveforms, num_samples)
    assert ours.num_frames is not None
    assert ours.num_frames.tolist() == [24, 16, 1]
    for row, frames in enumerate(ours.num_frames.tolist()):
        assert_same(ours.frames[row, :frames], theirs.last_hidden_state[row, :frames], f"row {row}")


@dataclass
class LossInputs:
    """One batch with everything that is drawn at random."""

    waveforms: Tensor
    mask: Tensor  # batch frames
    negatives: Tensor  # batch masked negatives: positions among the masked frames of the row
    noise: Tensor  # batch*frames groups codes

    @property
    def draws(self) -> Draws:
        return Draws(self.mask, self.negatives)

    @property
    def flat_negatives(self) -> Tensor:
        """As transformers wants them: positions in the flattened batch, one row a frame, used at masked frames."""
        batch, frames = self.mask.shape
        flat = torch.zeros(batch, frames, self.negatives.shape[-1], dtype=torch.long)
        for row in range(batch):
            positions = self.mask[row].nonzero().squeeze(1)
            flat[row, positions] = positions[self.negatives[row]] + row * frames
        return flat


@pytest.fixture
def inputs(pair: Pair) -> LossInputs:
    rng = np.random.default_rng(5)
    frames = int(pair.ours.encoder.num_frames(torch.tensor(16000)))
    mask = span_mask(np.full(3, frames), MaskConfig(), rng=rng)
    negatives = sample_negatives(3, int(mask[0].sum()), 30, rng=rng)
    noise = gumbel_noise(3 * frames, 2, 12, generator=torch.Generator().manual_seed(1))
    waveforms = torch.randn(3, 16000, generator=torch.Generator().manual_seed(2))
    return LossInputs(waveforms, torch.from_numpy(mask), torch.from_numpy(negatives), noise)


def their_loss(pair: Pair, inputs: LossInputs):
    return pair.theirs(inputs.waveforms, mask_time_indices=inputs.mask, sampled_negative_indices=inputs.flat_negatives)


def test_contrastive_loss_without_noise(pair: Pair, inputs: LossInputs) -> None:
    with torch.no_grad():
        theirs = their_loss(pair, inputs)
        ours = pair.ours.loss(inputs.waveforms, inputs.draws, temperature=TEMPERATURE)
    torch.testing.assert_close(ours.terms["contrastive"], theirs.contrastive_loss, rtol=1e-5, atol=0)


def test_loss_and_every_gradient_in_training(pair: Pair, inputs: LossInputs, monkeypatch: pytest.MonkeyPatch) -> None:
    def gumbel_softmax(logits: Tensor, tau: float = 1.0, *, hard: bool = False) -> Tensor:
        # As torch's with given noise, but exactly one-hot: transformers recognises distractors that equal the target
        # by comparing floats, which torch's rounding defeats. Codes are compared here.
        assert hard
        soft = ((logits + inputs.noise.reshape(logits.shape)) / tau).softmax(dim=-1)
        one_hot = F.one_hot(soft.argmax(dim=-1), soft.shape[-1]).to(soft)
        return one_hot + (soft - soft.detach())

    monkeypatch.setattr(F, "gumbel_softmax", gumbel_softmax)
    pair.theirs.train().set_gumbel_temperature(TEMPERATURE)  # pyright: ignore[reportArgumentType]
    theirs = their_loss(pair, inputs)
    theirs.loss.backward()
    noise = inputs.noise.unflatten(0, inputs.mask.shape)[inputs.mask]
    ours = pair.ours.train().loss(inputs.waveforms, inputs.draws, temperature=TEMPERATURE, noise=noise)
    ours.total.backward()

    torch.testing.assert_close(ours.terms["contrastive"], theirs.contrastive_loss, rtol=1e-5, atol=0)
    torch.testing.assert_close(ours.terms["diversity"], 0.1 * theirs.diversity_loss, rtol=1e-4, atol=0)
    torch.testing.assert_close(ours.total, theirs.loss, rtol=1e-5, atol=0)
    gradients = {name: parameter.grad for name, parameter in pair.ours.named_parameters()}
    assert all(gradient is not None for gradient in gradients.values())
    exported = huggingface.export_weights(gradients)  # pyright: ignore[reportArgumentType]
    expected = {name: parameter.grad for name, parameter in pair.theirs.named_parameters()}
    assert exported.keys() == expected.keys()
    for name, gradient in expected.items():
        assert gradient is not None
        scale = gradient.abs().max()
        if name.endswith("k_proj.bias"):  # softmax does not see it: rounding is all there is
            scale = pair.theirs.get_parameter(name.replace("k_proj", "q_proj")).grad.abs().max()
        error = (exported[name] - gradient).abs().max() / scale
        assert error < 1e-3, f"{name}: {error:.1e} of {scale:.1e}"


def test_distractors_with_the_targets_codes_are_there(pair: Pair, inputs: LossInputs) -> None:
    """Otherwise the two tests above would not see whether they are left out."""
    with torch.no_grad():
        latents = pair.ours.encoder.latents(inputs.waveforms)[inputs.mask]
        codes = pair.ours.quantizer(latents).codes.unflatten(0, (3, -1))
    rows = torch.arange(3)[:, None, None]
    assert (codes[rows, inputs.negatives] == codes.unsqueeze(2)).all(dim=-1).any()
