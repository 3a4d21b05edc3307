"""Pairs of frames against torch's own convolution, and what they do not depend on."""

import pytest
import torch
import torch.nn.functional as F

from speechssl.nn.squeeze import PairSqueeze, repeated


@pytest.mark.parametrize("frames", [1, 2, 7, 8])
def test_a_pair_is_a_convolution_of_kernel_and_stride_two(frames: int) -> None:
    torch.manual_seed(0)
    squeeze, x = PairSqueeze(6), torch.randn(3, frames, 6)
    torch.nn.init.normal_(squeeze.merge.weight)
    torch.nn.init.normal_(squeeze.merge.bias)
    kernel = squeeze.merge.weight.unflatten(1, (2, 6)).transpose(1, 2)  # outputs inputs taps
    even = F.pad(x, (0, 0, 0, frames % 2))
    expected = F.conv1d(even.transpose(1, 2), kernel, squeeze.merge.bias, stride=2).transpose(1, 2)
    found = squeeze(x, None)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    back = repeated(found, frames)
    assert back.shape == x.shape
    for frame in range(frames):
        assert torch.equal(back[:, frame], found[:, frame // 2])


def test_it_begins_as_the_mean_of_a_pair() -> None:
    x = torch.randn(2, 6, 5)
    torch.testing.assert_close(PairSqueeze(5)(x, None), x.unflatten(1, (3, 2)).mean(dim=2))


def test_frames_beyond_the_end_count_as_zero() -> None:
    x, valid = torch.randn(2, 6, 5), torch.arange(6) < torch.tensor([[6], [3]])
    squeeze = PairSqueeze(5)
    found = squeeze(x.masked_fill(~valid.unsqueeze(-1), float("nan")), valid)
    torch.testing.assert_close(found[1:, :2], squeeze(x[1:, :3], None))
    torch.testing.assert_close(found[:1], squeeze(x[:1], None))
