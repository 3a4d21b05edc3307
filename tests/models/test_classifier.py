"""Classifiers: padding changes nothing, whatever the pooling, and standardisation comes before the linear layer."""

from typing import Literal

import numpy as np
import pytest
import torch

from speechssl.inference.batches import pad
from speechssl.models.classifier import Classifier, ClassifierConfig, LogMelClassifier
from speechssl.models.encoder import SpeechEncoder
from speechssl.models.logmel_cnn import LogMelCNNConfig
from speechssl.nn.pooling import mean_std_pool

pytestmark = pytest.mark.usefixtures("two_threads_throughout")

Pooling = Literal["mean", "mean+std", "attention"]


@pytest.mark.parametrize("pooling", ["mean", "mean+std", "attention"])
@torch.no_grad()
def test_alone_as_in_a_batch(encoder: SpeechEncoder, waveforms: list[np.ndarray], pooling: Pooling) -> None:
    model = Classifier(encoder, ("a", "b", "c"), ClassifierConfig(pooling=pooling)).eval()
    logits = model(*pad(waveforms))
    for row, waveform in enumerate(waveforms):
        alone = model(torch.from_numpy(waveform)[None], torch.tensor([len(waveform)]))
        torch.testing.assert_close(logits[row], alone[0], rtol=0, atol=1e-5)
    assert float((logits[0] - logits[1]).abs().max()) > 1e-3  # they do differ


@torch.no_grad()
def test_noise_behind_the_end_is_ignored(encoder: SpeechEncoder, waveforms: list[np.ndarray]) -> None:
    model = Classifier(encoder, ("a", "b"), ClassifierConfig()).eval()
    padded, num_samples = pad(waveforms)
    noisy = padded.clone()
    for row, count in zip(noisy, num_samples.tolist(), strict=True):
        row[count:] = 100.0
    torch.testing.assert_close(model(noisy, num_samples), model(padded, num_samples), rtol=0, atol=1e-6)


@torch.no_grad()
def test_the_head_by_hand(encoder: SpeechEncoder, waveforms: list[np.ndarray]) -> None:
    model = Classifier(encoder, ("a", "b"), ClassifierConfig()).eval()
    for values in (model.mix.weights, model.centre, model.output.bias):
        torch.nn.init.normal_(values)
    torch.nn.init.uniform_(model.spread, 0.5, 2.0)
    waveform = torch.from_numpy(waveforms[0])[None]
    states = encoder(waveform, all_layers=True).hidden_states
    shares = model.mix.weights.exp() / model.mix.weights.exp().sum()
    frames = sum(share * state for share, state in zip(shares, states, strict=True))
    standard = (mean_std_pool(frames) - model.centre) / model.spread
    expected = standard @ model.output.weight.T + model.output.bias
    torch.testing.assert_close(model(waveform, torch.tensor([16000])), expected)


def test_frozen_keeps_gradients_from_the_encoder(encoder: SpeechEncoder, waveforms: list[np.ndarray]) -> None:
    model = Classifier(encoder, ("a", "b"), ClassifierConfig())
    for frozen in (True, False):
        model(*pad(waveforms), frozen=frozen).square().sum().backward()
        assert all((each.grad is None) == frozen for each in encoder.parameters())
        assert model.output.weight.grad is not None


@torch.no_grad()
def test_dropout_only_while_it_trains(encoder: SpeechEncoder, waveforms: list[np.ndarray]) -> None:
    model = Classifier(encoder, ("a", "b"), ClassifierConfig(dropout=0.5))
    batch = pad(waveforms)
    assert not torch.equal(model(*batch), model(*batch))
    model.eval()
    assert torch.equal(model(*batch), model(*batch))


@torch.no_grad()
def test_log_mel_alone_as_in_a_batch(waveforms: list[np.ndarray]) -> None:
    model = LogMelClassifier(("a", "b"), LogMelCNNConfig(channels=(4, 8))).eval()
    logits = model(*pad(waveforms))
    for row, waveform in enumerate(waveforms):
        alone = model(torch.from_numpy(waveform)[None], torch.tensor([len(waveform)]))
        torch.testing.assert_close(logits[row], alone[0], rtol=0, atol=1e-5)
