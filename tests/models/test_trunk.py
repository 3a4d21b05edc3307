"""The trunk hides what it is told, and padding changes nothing."""

import numpy as np
import torch

from speechssl.inference.batches import pad
from speechssl.models.encoder import SpeechEncoder
from speechssl.models.trunk import Hidden, Trunk
from speechssl.nn.masking import HideConfig, hide_spans
from tests.toys import changed


def generators(rows: int) -> list[np.random.Generator]:
    return [np.random.default_rng((3, row)) for row in range(rows)]


@torch.no_grad()
def test_alone_as_in_a_batch(encoder: SpeechEncoder, waveforms: list[np.ndarray]) -> None:
    """With something hidden and without; for group norm too, which normalises over time."""
    trunk = Trunk(encoder).eval()
    padded, num_samples = pad(waveforms)
    config = HideConfig(frame_length=3)
    hidden = trunk.draw(num_samples, config, rngs=generators(len(waveforms)))
    for hide in (None, hidden):
        batch = trunk(padded, num_samples, hidden=hide)
        for row, waveform in enumerate(waveforms):
            frames = int(encoder.num_frames(torch.tensor(len(waveform))))
            part = None if hide is None else Hidden(hide.frames[row : row + 1, :frames], hide.channels[row : row + 1])
            alone = trunk(torch.from_numpy(waveform)[None], torch.tensor([len(waveform)]), hidden=part)
            for ours, theirs in zip(batch.hidden_states, alone.hidden_states, strict=True):
                torch.testing.assert_close(ours[row, :frames], theirs[0], rtol=0, atol=1e-5)


@torch.no_grad()
def test_nothing_hidden_is_the_encoder(encoder: SpeechEncoder, waveforms: list[np.ndarray]) -> None:
    trunk = Trunk(encoder).eval()
    waveform = torch.from_numpy(waveforms[0])[None]
    expected = encoder(waveform, all_layers=True).hidden_states
    nothing = Hidden(torch.zeros(1, 49, dtype=torch.bool), torch.zeros(1, 32, dtype=torch.bool))
    for hide in (None, nothing):
        got = trunk(waveform, torch.tensor([len(waveforms[0])]), hidden=hide).hidden_states
        for ours, theirs in zip(got, expected, strict=True):
            torch.testing.assert_close(ours, theirs)


@torch.no_grad()
def test_what_is_hidden_becomes_embedding_and_zero(
    encoder: SpeechEncoder, waveforms: list[np.ndarray], monkeypatch
) -> None:
    trunk = Trunk(encoder).eval()
    padded, num_samples = pad(waveforms)
    hidden = trunk.draw(num_samples, HideConfig(frame_length=4), rngs=generators(len(waveforms)))
    assert hidden.frames.any()
    assert hidden.channels.any()
    seen: list[torch.Tensor] = []
    contextualize = encoder.contextualize

    def watch(projected, *args, **options):
        seen.append(projected)
        return contextualize(projected, *args, **options)

    monkeypatch.setattr(encoder, "contextualize", watch)
    trunk(padded, num_samples)
    trunk(padded, num_samples, hidden=hidden)
    plain, masked = seen
    for row in range(len(waveforms)):
        for frame in range(plain.shape[1]):
            expected = trunk.mask_embedding if hidden.frames[row, frame] else plain[row, frame]
            assert torch.equal(masked[row, frame], expected * ~hidden.channels[row])


def test_drawn_by_row_and_never_beyond_the_end(encoder: SpeechEncoder, waveforms: list[np.ndarray]) -> None:
    trunk = Trunk(encoder)
    _, num_samples = pad(waveforms)
    config = HideConfig(frames=0.9, frame_length=4, channels=0.5, channel_length=0.1)
    hidden = trunk.draw(num_samples, config, rngs=generators(4))
    for row, samples in enumerate(num_samples):
        rng = np.random.default_rng((3, row))
        frames = int(encoder.num_frames(samples))
        assert hidden.frames[row, :frames].tolist() == hide_spans(frames, 0.9, 4, rng=rng).tolist()
        assert not hidden.frames[row, frames:].any()
        assert hidden.channels[row].tolist() == hide_spans(32, 0.5, 3, rng=rng).tolist()
    assert not hidden.frames[3].any()  # 50 ms hold no span of four frames
    again = trunk.draw(num_samples[1:2], config, rngs=generators(4)[1:2])
    assert torch.equal(again.channels[0], hidden.channels[1])


def test_gradients_reach_the_mask_embedding(encoder: SpeechEncoder, waveforms: list[np.ndarray]) -> None:
    trunk = Trunk(encoder)
    padded, num_samples = pad(waveforms)
    hidden = trunk.draw(num_samples, HideConfig(frame_length=4), rngs=generators(4))
    trunk(padded, num_samples, hidden=hidden).frames.square().sum().backward()
    assert trunk.mask_embedding.grad is not None
    assert trunk.mask_embedding.grad.abs().max() > 0


def test_dropped_layers_still_give_a_state_each(waveforms: list[np.ndarray], config) -> None:
    """Public checkpoints train with layer drop, and a head mixes a fixed number of layers."""
    trunk = Trunk(SpeechEncoder(changed(config, transformer__layer_drop=1.0))).train()
    assert len(trunk(*pad(waveforms)).hidden_states) == 3
