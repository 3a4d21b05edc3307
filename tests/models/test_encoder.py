"""An utterance gives the same output alone and in any batch; presets are what their table says."""

import pytest
import torch

from speechssl.audio import RECEPTIVE_FIELD
from speechssl.models.encoder import PRESETS, EncoderConfig, SpeechEncoder
from speechssl.nn import transformer
from speechssl.nn.conv import ConvConfig
from speechssl.nn.transformer import TransformerConfig
from tests.toys import MICRO_ENCODER

pytestmark = pytest.mark.usefixtures("two_threads_throughout")

TRANSFORMER = TransformerConfig(dim=48, layers=3, heads=4, feedforward=96, pre_norm=True, position_kernel=128)
PAPER_LIKE = EncoderConfig(
    conv=ConvConfig(layers=((32, 10, 5), *((32, 3, 2),) * 4, *((32, 2, 2),) * 2)), transformer=TRANSFORMER
)
POST_NORM = PAPER_LIKE.model_copy(update={"transformer": TRANSFORMER.model_copy(update={"pre_norm": False})})
GROUP = PAPER_LIKE.model_copy(update={"conv": PAPER_LIKE.conv.model_copy(update={"norm": "group", "bias": False})})
SQUEEZED = PAPER_LIKE.model_copy(update={"squeeze_factor": 2})
ENCODERS = {"tiny": PRESETS["tiny"], "paper-like": PAPER_LIKE, "post-norm": POST_NORM, "squeezed": SQUEEZED}
# Samples: one frame, one sample less than the next frame, odd, prime, whole seconds.
LENGTHS = [400, 719, 721, 1601, 16000, 23457, 32003]


def make(config: EncoderConfig) -> SpeechEncoder:
    torch.manual_seed(0)
    encoder = SpeechEncoder(config).eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            if parameter.ndim == 1:  # biases and norms that are not at their defaults
                parameter.add_(0.1 * torch.randn_like(parameter))
    return encoder


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("lengths", [LENGTHS, [400, 100_003]], ids=["many", "long"])
@torch.no_grad()
def test_alone_equals_in_a_batch(name: str, lengths: list[int]) -> None:
    encoder = make(ENCODERS[name])
    waveforms = torch.randn(len(lengths), max(lengths))  # what lies behind an utterance's end must not matter
    batch = encoder(waveforms, torch.tensor(lengths), all_layers=True)
    assert batch.num_frames is not None
    assert batch.hidden_states is not None
    assert batch.frames.shape[1] == (max(lengths) - 400) // 320 + 1
    for row, length in enumerate(lengths):
        alone = encoder(waveforms[row : row + 1, :length], all_layers=True)
        assert alone.hidden_states is not None
        count = int(batch.num_frames[row])
        assert alone.frames.shape[1] == count == (length - 400) // 320 + 1
        for state, single in zip(
            [*batch.hidden_states, batch.frames], [*alone.hidden_states, alone.frames], strict=True
        ):
            assert single.std() > 0.1
            torch.testing.assert_close(state[row, :count], single[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("plain", [True, False])
@torch.no_grad()
def test_both_ways_of_attention_ignore_padding(plain: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformer, "prefers_plain", lambda *_: plain)
    encoder = make(PAPER_LIKE)
    waveforms = torch.randn(2, 30_001)
    batch = encoder(waveforms, torch.tensor([30_001, 12_345]))
    alone = encoder(waveforms[1:, :12_345]).frames[0]
    torch.testing.assert_close(batch.frames[1, : len(alone)], alone, atol=1e-5, rtol=0)


@torch.no_grad()
def test_lengths_that_say_nothing_change_nothing() -> None:
    encoder = make(PAPER_LIKE)
    waveforms = torch.randn(2, 8000)
    assert torch.equal(encoder(waveforms, torch.tensor([8000, 8000])).frames, encoder(waveforms).frames)


def test_group_norm_takes_equal_lengths_only() -> None:
    encoder = make(GROUP)
    waveforms = torch.randn(2, 1000)
    with pytest.raises(ValueError, match="a group-norm encoder accepts batches of equal length"):
        encoder(waveforms, torch.tensor([1000, 999]))
    assert torch.equal(encoder(waveforms, torch.tensor([1000, 1000])).frames, encoder(waveforms).frames)


def test_too_short() -> None:
    with pytest.raises(ValueError, match="an utterance of 399 samples is shorter than one frame"):
        make(PAPER_LIKE)(torch.randn(2, 800), torch.tensor([800, 399]))


@pytest.mark.parametrize(("name", "millions"), [("tiny", 2.0), ("small", 18.9), ("base", 94.4)])
def test_presets(name: str, millions: float) -> None:
    encoder = SpeechEncoder(PRESETS[name])
    assert sum(parameter.numel() for parameter in encoder.parameters()) / 1e6 == pytest.approx(millions, rel=0.03)
    assert encoder.num_frames(torch.tensor([RECEPTIVE_FIELD - 1, RECEPTIVE_FIELD, 16000])).tolist() == [0, 1, 49]


def causal_encoder() -> SpeechEncoder:
    transformer = MICRO_ENCODER.transformer.model_copy(update={"causal": True})
    return SpeechEncoder(
        EncoderConfig.model_validate({**dict(MICRO_ENCODER), "transformer": transformer, "normalize": False})
    )


@torch.no_grad()
def test_samples_after_a_frame_change_nothing_up_to_it() -> None:
    encoder = causal_encoder().eval()
    conv = encoder.config.conv
    x, noise = torch.randn(1, 8000), torch.randn(1, 8000)
    expected = encoder(x, all_layers=True)
    assert expected.hidden_states is not None
    for frame in (0, 5, 20):
        end = frame * conv.hop - conv.padding + conv.receptive_field  # samples that the frame sees end here
        got = encoder(torch.cat([x[:, :end], noise[:, end:]], dim=1), all_layers=True)
        assert got.hidden_states is not None
        for ours, theirs in zip(got.hidden_states, expected.hidden_states, strict=True):
            torch.testing.assert_close(ours[:, : frame + 1], theirs[:, : frame + 1], rtol=1e-5, atol=1e-5)
            assert (ours[:, frame + 1] - theirs[:, frame + 1]).abs().max() > 1e-3


@torch.no_grad()
def test_a_causal_encoder_gives_the_same_alone_and_in_a_batch() -> None:
    encoder, x = causal_encoder().eval(), torch.randn(2, 8000)
    together = encoder(x, torch.tensor([8000, 5000]))
    alone = encoder(x[1:, :5000])
    torch.testing.assert_close(together.frames[1, : alone.frames.shape[1]], alone.frames[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("change", [{"normalize": True}, {"conv": PRESETS["base"].conv}])
def test_causal_encoders_have_no_statistic_over_the_whole(change: dict[str, object]) -> None:
    causal = {**dict(causal_encoder().config), **change}
    with pytest.raises(ValueError, match=r"transformer\.causal needs normalize=false and conv\.norm=layer"):
        EncoderConfig.model_validate(causal)
