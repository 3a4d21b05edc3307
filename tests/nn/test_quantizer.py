"""The Gumbel quantizer: what comes out, where gradients go, and noise that is never infinite."""

import math

import numpy as np
import pytest
import torch

from speechssl.nn.quantizer import GumbelQuantizer, QuantizerConfig, gumbel_noise

CONFIG = QuantizerConfig(groups=2, codes=6, dim=8)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_vectors_are_the_chosen_entries() -> None:
    quantizer = GumbelQuantizer(5, CONFIG)
    x, noise = torch.randn(9, 5), gumbel_noise(9, 2, 6, generator=generator())
    output = quantizer(x, temperature=0.7, noise=noise)
    logits = (x @ quantizer.scores.weight.T + quantizer.scores.bias).reshape(9, 2, 6)
    for frame in range(9):
        for group in range(2):
            code = int((logits[frame, group] + noise[frame, group]).argmax())
            assert int(output.codes[frame, group]) == code
            entry = output.vectors[frame].reshape(2, 4)[group]
            torch.testing.assert_close(entry, quantizer.codebooks[group, code], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(output.probs, logits.softmax(dim=-1))  # without noise and temperature


def test_without_noise_the_likeliest_entry_is_taken() -> None:
    quantizer = GumbelQuantizer(5, CONFIG)
    output = quantizer(torch.randn(20, 5), temperature=2.0)
    assert torch.equal(output.codes, output.probs.argmax(dim=-1))


def test_temperature_shapes_the_gradient_and_not_the_choice() -> None:
    quantizer = GumbelQuantizer(5, CONFIG)
    x, noise = torch.randn(30, 5), gumbel_noise(30, 2, 6, generator=generator())
    outputs = [quantizer(x, temperature=temperature, noise=noise) for temperature in (0.5, 2.0)]
    assert torch.equal(outputs[0].codes, outputs[1].codes)
    grads = [torch.autograd.grad(each.vectors.square().sum(), quantizer.scores.weight)[0] for each in outputs]
    assert not torch.allclose(grads[0], grads[1])


def test_straight_through_gradient() -> None:
    """The score gradient is that of the soft choice; the codebook's is that of the hard one."""
    quantizer = GumbelQuantizer(5, CONFIG)
    x, noise = torch.randn(7, 5), gumbel_noise(7, 2, 6, generator=generator())
    weight = torch.randn(7, 8)
    parameters = [quantizer.scores.weight, quantizer.codebooks]
    output = quantizer(x, temperature=0.8, noise=noise)
    to_scores, to_codebooks = torch.autograd.grad((output.vectors * weight).sum(), parameters)
    logits = quantizer.scores(x).unflatten(-1, (2, 6)) + noise
    soft = torch.einsum("fgv,gvd->fgd", (logits / 0.8).softmax(dim=-1), quantizer.codebooks).flatten(1)
    expected = torch.autograd.grad((soft * weight).sum(), quantizer.scores.weight)[0]
    torch.testing.assert_close(to_scores, expected, rtol=1e-4, atol=1e-5)
    hard = torch.zeros_like(to_codebooks)
    for frame, codes in enumerate(output.codes.tolist()):
        for group, code in enumerate(codes):
            hard[group, code] += weight[frame].reshape(2, 4)[group]
    torch.testing.assert_close(to_codebooks, hard, rtol=1e-4, atol=1e-5)


def test_arithmetic_stays_fp32_under_autocast() -> None:
    quantizer = GumbelQuantizer(16, CONFIG)
    x = torch.randn(50, 16).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        output = quantizer(x)
    assert output.vectors.dtype == output.probs.dtype == torch.float32
    assert torch.equal(output.codes, quantizer(x.float()).codes)


def test_noise_is_gumbel() -> None:
    noise = gumbel_noise(200_000, generator=generator()).double()
    assert float(noise.mean()) == pytest.approx(np.euler_gamma, abs=0.01)
    assert float(noise.std()) == pytest.approx(math.pi / math.sqrt(6), abs=0.01)
    same = gumbel_noise(200_000, generator=generator())
    assert torch.equal(same.double(), noise)


def test_noise_is_finite_for_the_most_extreme_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """A uniform draw may be exactly 0, and rounding may make it exactly 1: peers have met infinities there."""
    extremes = torch.tensor([0.0, 1.0, 1 - 2**-24, 2**-149, 0.5])
    monkeypatch.setattr(torch, "rand", lambda *shape, generator, device: extremes.clone())
    noise = gumbel_noise(5, generator=generator())
    assert noise.isfinite().all()
    assert noise.abs().max() < 20
    assert noise[0] == noise[3] < noise[4] < noise[2] == noise[1]


def test_logit_std_is_the_deviation_of_the_first_logits() -> None:
    x = torch.randn(2000, 64)
    for wanted, config in ((5.0, QuantizerConfig(logit_std=5.0)), (8.0, QuantizerConfig())):  # sqrt(64): code default
        logits = GumbelQuantizer(64, config).scores(x).detach()
        assert float(logits.std()) == pytest.approx(wanted, rel=0.05)


def test_groups_must_share_the_dimension() -> None:
    with pytest.raises(ValueError, match="dim 9 is not divisible by 2 groups"):
        GumbelQuantizer(4, QuantizerConfig(dim=9))
