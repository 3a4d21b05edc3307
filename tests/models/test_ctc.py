"""CTC against the sum over all paths, and what cannot be aligned."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from speechssl.config import UserError
from speechssl.decoding.phones import PhoneVocabulary
from speechssl.inference.batches import pad
from speechssl.models.ctc import CTCConfig, CTCModel, CTCOutput, ctc_loss, frames_needed
from speechssl.models.encoder import SpeechEncoder
from speechssl.models.heads import load_head, save_head
from speechssl.text import Vocabulary

pytestmark = pytest.mark.usefixtures("two_threads_throughout")


def collapsed(path: tuple[int, ...]) -> tuple[int, ...]:
    """Graves et al. 2006, section 3.1: repeated symbols become one, then blanks (0) go."""
    return tuple(symbol for symbol, _ in itertools.groupby(path) if symbol != 0)


def brute_force(log_probs: torch.Tensor, target: tuple[int, ...]) -> float:
    """The negative logarithm of the summed probability of every path that spells the target."""
    frames, symbols = log_probs.shape
    total = 0.0
    for path in itertools.product(range(symbols), repeat=frames):
        if collapsed(path) == target:
            total += float(torch.stack([log_probs[frame, symbol] for frame, symbol in enumerate(path)]).sum().exp())
    return -np.log(total) if total else float("inf")


TARGETS = [(), (1,), (2, 2), (1, 2), (2, 1, 2), (1, 1, 1), (1, 2, 1, 2)]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("frames", [1, 3, 5])
def test_every_path_counts(target: tuple[int, ...], frames: int) -> None:
    log_probs = torch.randn(1, frames, 3, dtype=torch.float32).log_softmax(dim=-1)
    expected = brute_force(log_probs[0], target)
    (got,) = ctc_loss(CTCOutput(log_probs, torch.tensor([frames])), [list(target)]).tolist()
    assert got == pytest.approx(expected if np.isfinite(expected) else 0.0, abs=1e-5)
    assert np.isfinite(expected) == (frames_needed(target) <= frames)


def test_a_batch_of_all_of_them() -> None:
    """Targets and frames of unequal numbers side by side; frames beyond the end do not count."""
    counts = [5, 4, 3, 5, 4, 5, 4]
    log_probs = torch.randn(len(TARGETS), 5, 3).log_softmax(dim=-1)
    losses = ctc_loss(CTCOutput(log_probs, torch.tensor(counts)), TARGETS).tolist()
    for row, (target, frames) in enumerate(zip(TARGETS, counts, strict=True)):
        expected = brute_force(log_probs[row, :frames], target)
        assert losses[row] == pytest.approx(expected if np.isfinite(expected) else 0.0, abs=1e-5)


def test_what_cannot_be_aligned_has_no_gradient() -> None:
    logits = torch.randn(2, 3, 3, requires_grad=True)
    losses = ctc_loss(CTCOutput(logits.log_softmax(dim=-1), torch.tensor([3, 3])), [[1, 1, 2], [1, 2]])
    losses.sum().backward()
    assert losses[0] == 0
    assert logits.grad is not None
    assert not logits.grad[0].any()
    assert logits.grad[1].abs().max() > 0
    assert torch.isfinite(logits.grad).all()


def test_the_gradient_is_that_of_the_sum_over_paths() -> None:
    logits = torch.randn(1, 4, 3, dtype=torch.float64, requires_grad=True)
    ctc_loss(CTCOutput(logits.float().log_softmax(dim=-1), torch.tensor([4])), [[1, 2]]).sum().backward()
    ours, logits.grad = logits.grad.clone(), None
    paths = [path for path in itertools.product(range(3), repeat=4) if collapsed(path) == (1, 2)]
    log_probs = logits.log_softmax(dim=-1)[0]
    scores = torch.stack([sum(log_probs[frame, symbol] for frame, symbol in enumerate(path)) for path in paths])
    (-scores.logsumexp(dim=0)).backward()
    torch.testing.assert_close(ours, logits.grad, rtol=0, atol=1e-6)


def test_no_target_at_all() -> None:
    """Held-out transcripts none of whose characters can be written leave an empty target."""
    log_probs = torch.randn(2, 3, 3).log_softmax(dim=-1)
    losses = ctc_loss(CTCOutput(log_probs, torch.tensor([3, 2])), [[], []])
    expected = [-float(log_probs[0, :, 0].sum()), -float(log_probs[1, :2, 0].sum())]
    assert losses.tolist() == pytest.approx(expected, abs=1e-5)


@given(target=st.lists(st.integers(1, 2), min_size=0, max_size=4))
def test_frames_needed(target: list[int]) -> None:
    """As many as the shortest path that spells it."""
    shortest = next(
        frames
        for frames in range(9)
        if any(collapsed(path) == tuple(target) for path in itertools.product(range(3), repeat=frames))
    )
    assert frames_needed(target) == shortest


@pytest.mark.parametrize("conv_layers", [0, 3])
@torch.no_grad()
def test_alone_as_in_a_batch(encoder: SpeechEncoder, waveforms: list[np.ndarray], conv_layers: int) -> None:
    model = CTCModel(encoder, Vocabulary.from_texts(["abc"]), CTCConfig(conv_layers=conv_layers, conv_dim=16)).eval()
    torch.nn.init.normal_(model.output.weight)
    output = model(*pad(waveforms))
    assert output.log_probs.dtype == torch.float32
    torch.testing.assert_close(output.log_probs.exp().sum(dim=-1), torch.ones(output.log_probs.shape[:2]))
    for row, waveform in enumerate(waveforms):
        alone = model(torch.from_numpy(waveform)[None], torch.tensor([len(waveform)]))
        frames = int(alone.num_frames[0])
        assert output.num_frames[row] == frames == alone.log_probs.shape[1]
        torch.testing.assert_close(output.log_probs[row, :frames], alone.log_probs[0], rtol=0, atol=2e-5)


def test_probabilities_stay_fp32_under_bf16(encoder: SpeechEncoder, waveforms: list[np.ndarray]) -> None:
    model = CTCModel(encoder, Vocabulary.from_texts(["abc"]), CTCConfig()).eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        log_probs = model(*pad(waveforms)).log_probs
    assert log_probs.dtype == torch.float32
    assert float((log_probs.exp().sum(dim=-1) - 1).abs().max()) < 1e-6  # bf16 would be 1e-3 off


def test_frozen_keeps_gradients_from_the_encoder(encoder: SpeechEncoder, waveforms: list[np.ndarray]) -> None:
    model = CTCModel(encoder, Vocabulary.from_texts(["abc"]), CTCConfig())
    for frozen in (True, False):
        output = model(*pad(waveforms), frozen=frozen)
        ctc_loss(output, [[2], [3], [4], [2]]).sum().backward()
        assert all((each.grad is None) == frozen for each in encoder.parameters())
        assert model.mix is not None
        assert model.mix.weights.grad is not None


@torch.no_grad()
def test_the_papers_head_reads_the_last_layer(
    encoder: SpeechEncoder, waveforms: list[np.ndarray], tmp_path: Path
) -> None:
    model = CTCModel(encoder, Vocabulary.from_texts(["abc"]), CTCConfig(layers="last")).eval()
    torch.nn.init.normal_(model.output.weight)
    assert {name for name in model.state_dict() if not name.startswith("trunk.")} == {"output.weight", "output.bias"}
    for waveform in waveforms:
        alone = torch.from_numpy(waveform)[None]
        expected = model.output(encoder(alone).frames).log_softmax(dim=-1)
        got = model(alone, torch.tensor([len(waveform)])).log_probs
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
    save_head(tmp_path, model, extra={})
    again = load_head(tmp_path)
    assert isinstance(again, CTCModel)
    assert again.config == model.config
    assert torch.equal(again.output.weight, model.output.weight)


def test_convolutions_that_differ_from_the_file(encoder: SpeechEncoder, tmp_path: Path) -> None:
    model = CTCModel(encoder, Vocabulary.from_texts(["abc"]), CTCConfig(conv_layers=2, conv_dim=8))
    save_head(tmp_path, model, extra={})
    path = tmp_path / "config.json"
    stored = path.read_text(encoding="utf-8")
    for key, value in (
        ("conv_layers", 3),
        ("conv_layers", 1),
        ("conv_dim", 1 << 40),
        ("conv_kernel", 7),
        ("conv_kernel", 4),
    ):
        content = json.loads(stored)
        content["head"]["config"][key] = value
        path.write_text(json.dumps(content), encoding="utf-8")
        with pytest.raises(UserError, match="not a head this version reads"):
            load_head(tmp_path)


def test_a_recogniser_of_phones_comes_back(encoder: SpeechEncoder, tmp_path: Path) -> None:
    model = CTCModel(encoder, PhoneVocabulary(), CTCConfig(units="phones", conv_layers=1, conv_dim=8))
    save_head(tmp_path, model, extra={})
    again = load_head(tmp_path)
    assert isinstance(again, CTCModel)
    assert again.vocabulary == model.vocabulary
    assert not again.vocabulary.writes_words
    path = tmp_path / "config.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"@"', '"?"'), encoding="utf-8")
    with pytest.raises(UserError, match="phones"):
        load_head(tmp_path)
