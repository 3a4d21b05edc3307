"""Dropout with cheap masks: the law of torch's, the same mask in the gradient, one stream of torch's generator."""

import pytest
import torch

from speechssl.nn.dropout import dropout


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("probability", [0.05, 0.1, 0.5, 0.9])
def test_share_and_scale(probability: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    kept = dropout(torch.ones(400_001, dtype=dtype), probability, training=True)
    assert kept.dtype == dtype
    expected = torch.tensor([0, 1 / (1 - probability)], dtype=dtype)
    torch.testing.assert_close(kept.unique(), expected, rtol=2e-4, atol=0)  # 16 bits decide: 0.9 is 58982 / 65536
    assert (kept == 0).float().mean().item() == pytest.approx(probability, abs=0.004)


def test_elements_are_independent() -> None:
    """Four masks come from one 64-bit draw: neighbours at any distance must not know of one another."""
    torch.manual_seed(0)
    kept = (dropout(torch.ones(1_000_000), 0.5, training=True) > 0).float() - 0.5
    for distance in (1, 2, 3, 4, 5, 8, 624):
        correlation = 4 * (kept[distance:] * kept[:-distance]).mean().item()
        assert abs(correlation) < 0.005, f"{distance}: {correlation}"


def test_gradient_has_the_same_mask() -> None:
    x = torch.randn(3, 5, 7, requires_grad=True)
    y = dropout(x, 0.3, training=True)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(gradient * x.detach(), y.detach())
    assert (gradient == 0).any()


def test_same_seed_same_mask() -> None:
    x, masks, threads = torch.ones(999), [], torch.get_num_threads()
    for number in (1, 2):
        torch.set_num_threads(number)
        torch.manual_seed(7)
        masks.append(dropout(x, 0.4, training=True))
    torch.set_num_threads(threads)
    assert torch.equal(*masks)
    assert not torch.equal(masks[0], dropout(x, 0.4, training=True))


def test_nothing_and_everything() -> None:
    x = torch.randn(10)
    assert dropout(x, 0.5, training=False) is x
    assert dropout(x, 0.0, training=True) is x
    assert dropout(x, 1.0, training=True).tolist() == [0.0] * 10
    assert dropout(torch.zeros(0, 3), 0.5, training=True).shape == (0, 3)
    with pytest.raises(ValueError, match="has to be between 0 and 1"):
        dropout(x, 1.5, training=True)


def test_layouts() -> None:
    x = torch.randn(4, 6, requires_grad=True)
    y = dropout(x.t(), 0.5, training=True)
    assert y.shape == (6, 4)
    torch.testing.assert_close(y[y != 0], 2 * x.detach().t()[y != 0])
