"""Draws of negatives and scores of later frames against loops."""

import numpy as np
import pytest
import torch

from speechssl.nn.future import (
    Negatives,
    StepHeads,
    constancy,
    constant_share,
    draw_negatives,
    step_scores,
)
from speechssl.nn.transformer import TransformerConfig

BLOCK = TransformerConfig(
    dim=8, heads=2, feedforward=16, causal=True, pre_norm=True, dropout=0.0, attention_dropout=0.0
)


def drawn(groups: list[int], rows: list[int], *, seed: int = 0) -> Negatives:
    return draw_negatives(
        np.array(groups),
        np.array(rows),
        global_rows=4,
        anchors=5,
        frames=7,
        count=300,
        rng=np.random.default_rng(seed),
    )


def test_negatives_are_all_frames_of_the_group_equally_often() -> None:
    found = drawn([3, 1, 3, 2], [0, 1, 2, 3])
    assert [each.unique().tolist() for each in found.row] == [[0, 2], [1], [0, 2], [3]]
    place = found.row[0] * 7 + found.frame[0]
    counts = np.bincount(place.flatten().numpy(), minlength=21)
    assert counts[7:14].sum() == 0
    used = counts[counts > 0]
    assert len(used) == 14
    assert used.max() < 1.4 * used.mean()


def test_slices_of_a_batch_have_its_draws() -> None:
    """Where each row is a group of its own; rows are places in the part, as the tensors are."""
    whole, part = drawn([0, 1, 2, 3], [0, 1, 2, 3]), drawn([2, 3], [2, 3])
    assert torch.equal(part.frame, whole.frame[2:])
    assert part.row.unique().tolist() == [0, 1]


@pytest.mark.parametrize("within", [True, False])
def test_scores_equal_a_loop(within: bool) -> None:
    torch.manual_seed(0)
    frames, predicted = torch.randn(2, 7, 4), torch.randn(2, 5, 2, 4)
    groups = np.array([0, 1] if within else [0, 0])
    negatives = draw_negatives(
        groups, np.arange(2), global_rows=2, anchors=5, frames=7, count=6, rng=np.random.default_rng(1)
    )
    for step, found in enumerate(step_scores(predicted, frames, negatives, within=within)):
        for row in range(2):
            for anchor in range(5):
                query, target = predicted[row, anchor, step], anchor + step + 1
                assert float(found.positive[row, anchor]) == pytest.approx(float(query @ frames[row, target]), abs=1e-5)
                for place in range(6):
                    at = int(negatives.row[row, anchor, place]), int(negatives.frame[row, anchor, place])
                    score = float(found.negatives[row, anchor, place])
                    assert score == pytest.approx(float(query @ frames[at]), abs=1e-5)
                    assert bool(found.same[row, anchor, place]) == (at == (row, target))
                    assert bool(found.own[row, anchor, place]) == (at[0] == row and at != (row, target))


@pytest.mark.parametrize("block", [None, BLOCK])
def test_heads_do_not_look_ahead(block: TransformerConfig | None) -> None:
    heads, x = StepHeads(8, 6, 2, std=0.1, bias=True, block=block).eval(), torch.randn(1, 9, 8)
    later = torch.cat([x[:, :4], torch.randn(1, 5, 8)], dim=1)
    torch.testing.assert_close(heads(later)[:, :4], heads(x)[:, :4])
    assert (heads(later)[:, 4] - heads(x)[:, 4]).abs().max() > 1e-3
    assert (heads(x)[:, :, 0] - heads(x)[:, :, 1]).abs().max() > 1e-3


def test_constant_share() -> None:
    frames = torch.randn(3, 500, 4)
    parts = [constancy(part) for part in frames.split(1)]
    summed = {name: torch.stack([each[name] for each in parts]).sum(dim=0) for name in parts[0]}
    assert constant_share(summed) == pytest.approx(constant_share(constancy(frames)), abs=1e-6)
    assert constant_share(summed) < 0.01
    assert constant_share(constancy(frames * 0.01 + 1)) > 0.99
