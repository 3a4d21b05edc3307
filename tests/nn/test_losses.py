"""Losses against slow loops in float64, gradients included; sums over parts; batches without targets."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from speechssl.nn.losses import (
    LossSum,
    binary_contrast,
    code_cross_entropy,
    info_nce,
    negative_cosine,
    nt_xent,
    regression,
    semi_hard_triplet,
)

SHAPE = (3, 4)  # rows and frames
MASK = torch.tensor([[1, 0, 1, 1], [0, 0, 0, 0], [1, 1, 0, 1]], dtype=torch.bool)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum() / (a.square().sum().sqrt() * b.square().sum().sqrt())


def cross_entropy(scores: list[Tensor]) -> Tensor:
    """Of the first of some scores, by the definition."""
    return torch.log(sum((each.exp() for each in scores), torch.zeros(()))) - scores[0]


# One slow loop a loss: sum over the targets, and how many there were


def slow_info_nce(positive: Tensor, negatives: Tensor, same: Tensor, mask: Tensor) -> list[Tensor]:
    losses: list[Tensor] = []
    for place in np.ndindex(*positive.shape):
        if mask[place]:
            others = [negatives[place][k] for k in range(negatives.shape[-1]) if not same[place][k]]
            losses.append(cross_entropy([positive[place], *others]))
    return losses


def slow_binary_contrast(positive: Tensor, negatives: Tensor, same: Tensor, weight: float) -> list[Tensor]:
    losses: list[Tensor] = []
    for place in np.ndindex(*positive.shape):
        fakes = [-torch.log(1 - negatives[place][k].sigmoid()) for k in range(5) if not same[place][k]]
        losses.append(-torch.log(positive[place].sigmoid()) + weight * sum(fakes, torch.zeros(())) / len(fakes))
    return losses


def slow_nt_xent(views: Tensor, rows: range, temperature: float, groups: list[int]) -> list[Tensor]:
    """``views`` (2, all rows, dim): the losses of the queries in ``rows``."""
    losses: list[Tensor] = []
    for view in range(2):
        for row in rows:
            query = views[view, row]
            scores = [cosine(query, views[1 - view, row]) / temperature]
            for other_view in range(2):
                for other in range(views.shape[1]):
                    if groups[other] != groups[row]:
                        scores.append(cosine(query, views[other_view, other]) / temperature)
            losses.append(cross_entropy(scores))
    return losses


def slow_negative_cosine(predictions: Tensor, targets: Tensor, mask: Tensor) -> list[Tensor]:
    return [-cosine(predictions[place], targets[place]) for place in np.ndindex(*mask.shape) if mask[place]]


def slow_triplet(
    anchors: Tensor, positives: Tensor, candidates: Tensor, allowed: Tensor, margin: float
) -> list[Tensor]:
    losses: list[Tensor] = []
    for row in range(len(anchors)):

        def distance(other: Tensor, anchor: Tensor = anchors[row]) -> Tensor:
            return (anchor / anchor.norm() - other / other.norm()).square().sum()

        near = distance(positives[row])
        distances = [distance(each) for each, use in zip(candidates, allowed[row], strict=True) if use]
        farther = [each for each in distances if each > near]
        if distances:
            far = min(farther) if farther else max(distances)
            losses.append(torch.clamp(near - far + margin, min=0))
    return losses


def slow_code_cross_entropy(logits: Tensor, targets: Tensor, mask: Tensor) -> list[Tensor]:
    losses: list[Tensor] = []
    for place in np.ndindex(*mask.shape):
        if mask[place]:
            each = [-F.log_softmax(logits[place][g], dim=0)[targets[place][g]] for g in range(logits.shape[-2])]
            losses.append(sum(each, torch.zeros(())) / len(each))
    return losses


def slow_regression(predictions: Tensor, targets: Tensor, mask: Tensor, of: Callable[[Tensor], Tensor]) -> list[Tensor]:
    losses: list[Tensor] = []
    for place in np.ndindex(*mask.shape):
        if mask[place]:
            gaps = [of(p - t) for p, t in zip(predictions[place], targets[place], strict=True)]
            losses.append(sum(gaps, torch.zeros(())) / len(gaps))
    return losses


@dataclass(frozen=True)
class Case:
    """A loss and its slow twin as functions of the tensors that may have gradients."""

    inputs: tuple[Tensor, ...]
    fast: Callable[..., LossSum]
    slow: Callable[..., list[Tensor]]


def smooth_l1(gap: Tensor) -> Tensor:
    return gap * gap / (2 * 0.5) if gap.abs() < 0.5 else gap.abs() - 0.25


SAME = draw(*SHAPE, 5, seed=3) > 0.7
GROUPS = torch.tensor([4, 1, 4, 2])
ALLOWED = torch.tensor([[0, 1, 1, 1, 1], [1, 0, 1, 0, 1], [0, 0, 0, 0, 0], [1, 1, 1, 0, 1]], dtype=torch.bool)
CODES = torch.randint(6, (*SHAPE, 2), generator=torch.Generator().manual_seed(0))
PAIR = (draw(*SHAPE, 5), draw(*SHAPE, 5, seed=1))
CASES = {
    "info_nce": Case(
        (draw(*SHAPE), draw(*SHAPE, 5, seed=1)),
        lambda positive, negatives: info_nce(positive, negatives, same=SAME, mask=MASK),
        lambda positive, negatives: slow_info_nce(positive, negatives, SAME, MASK),
    ),
    "binary_contrast": Case(
        (draw(*SHAPE), draw(*SHAPE, 5, seed=1)),
        lambda positive, negatives: binary_contrast(positive, negatives, weight=3.0, same=SAME),
        lambda positive, negatives: slow_binary_contrast(positive, negatives, SAME, 3.0),
    ),
    "nt_xent": Case(
        (draw(4, 5), draw(4, 5, seed=1)),
        lambda first, second: nt_xent(first, second, temperature=0.2),
        lambda first, second: slow_nt_xent(torch.stack([first, second]), range(4), 0.2, [0, 1, 2, 3]),
    ),
    "nt_xent with groups": Case(
        (draw(4, 5), draw(4, 5, seed=1)),
        lambda first, second: nt_xent(first, second, temperature=0.2, groups=GROUPS),
        lambda first, second: slow_nt_xent(torch.stack([first, second]), range(4), 0.2, GROUPS.tolist()),
    ),
    "negative_cosine": Case(
        PAIR, lambda a, b: negative_cosine(a, b, mask=MASK), lambda a, b: slow_negative_cosine(a, b, MASK)
    ),
    "semi_hard_triplet": Case(
        (draw(4, 6), draw(4, 6, seed=1), draw(5, 6, seed=2)),
        lambda a, p, c: semi_hard_triplet(a, p, c, allowed=ALLOWED, margin=0.5),
        lambda a, p, c: slow_triplet(a, p, c, ALLOWED, 0.5),
    ),
    "code_cross_entropy": Case(
        (draw(*SHAPE, 2, 6),),
        lambda logits: code_cross_entropy(logits, CODES, mask=MASK),
        lambda logits: slow_code_cross_entropy(logits, CODES, MASK),
    ),
    "l1": Case(
        PAIR,
        lambda a, b: regression(a, b, distance="l1", mask=MASK),
        lambda a, b: slow_regression(a, b, MASK, torch.abs),
    ),
    "mse": Case(
        PAIR,
        lambda a, b: regression(a, b, distance="mse", mask=MASK),
        lambda a, b: slow_regression(a, b, MASK, torch.square),
    ),
    "smooth_l1": Case(
        PAIR,
        lambda a, b: regression(a, b, distance="smooth_l1", beta=0.5, mask=MASK),
        lambda a, b: slow_regression(a, b, MASK, smooth_l1),
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_value_and_gradients_equal_a_slow_loop(case: Case) -> None:
    inputs = [each.clone().requires_grad_() for each in case.inputs]
    loss = case.fast(*inputs)
    doubles = [each.double().requires_grad_() for each in case.inputs]
    losses = case.slow(*doubles)
    expected = torch.stack(losses).sum()
    assert loss.total.dtype == torch.float32
    assert loss.total.item() == pytest.approx(expected.item(), rel=1e-5)
    assert float(loss.count) == len(losses)
    for got, wanted in zip(
        torch.autograd.grad(loss.total, inputs), torch.autograd.grad(expected, doubles), strict=True
    ):
        torch.testing.assert_close(got, wanted.float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_arithmetic_is_fp32_whatever_comes_in(case: Case) -> None:
    half = [each.bfloat16() for each in case.inputs]
    expected = case.fast(*(each.float() for each in half))
    with torch.autocast("cpu", torch.bfloat16):
        got = case.fast(*half)
    assert torch.equal(got.total, expected.total)
    assert all(each.dtype == torch.float32 and not each.requires_grad for each in got.stats.values())


# Without targets


NOTHING = torch.zeros(SHAPE, dtype=torch.bool)
EMPTY: dict[str, tuple[tuple[Tensor, ...], Callable[..., LossSum]]] = {
    "info_nce": (CASES["info_nce"].inputs, lambda p, n: info_nce(p, n, mask=NOTHING)),
    "binary_contrast": ((draw(0), draw(0, 5)), lambda p, n: binary_contrast(p, n, weight=2.0)),
    "nt_xent": ((draw(0, 5), draw(0, 5)), lambda a, b: nt_xent(a, b, temperature=0.1)),
    "negative_cosine": (PAIR, lambda a, b: negative_cosine(a, b, mask=NOTHING)),
    "semi_hard_triplet": (
        CASES["semi_hard_triplet"].inputs,
        lambda a, p, c: semi_hard_triplet(a, p, c, allowed=torch.zeros_like(ALLOWED), margin=0.5),
    ),
    "code_cross_entropy": (
        CASES["code_cross_entropy"].inputs,
        lambda x: code_cross_entropy(x, torch.full_like(CODES, -1), mask=NOTHING),
    ),
    "regression": (PAIR, lambda a, b: regression(a, b, distance="l1", mask=NOTHING)),
}


@pytest.mark.parametrize("name", EMPTY)
def test_no_targets(name: str) -> None:
    tensors, loss_of = EMPTY[name]
    inputs = [each.clone().requires_grad_() for each in tensors]
    loss = loss_of(*inputs)
    assert loss.total.item() == 0
    assert all(not each.any() for each in loss.stats.values())
    gradients = torch.autograd.grad(loss.total, inputs, allow_unused=True)
    assert gradients[0] is not None
    assert all(each is None or not each.any() for each in gradients)


def test_padding_may_hold_anything() -> None:
    rubbish = PAIR[0].masked_fill(~MASK.unsqueeze(-1), math.nan).requires_grad_()
    codes = CODES.masked_fill(~MASK.unsqueeze(-1), -1)
    logits = CASES["code_cross_entropy"].inputs[0].masked_fill(~MASK[..., None, None], math.inf).requires_grad_()
    total = regression(rubbish, PAIR[1], distance="mse", mask=MASK).total
    total = total + negative_cosine(rubbish, PAIR[1], mask=MASK).total
    total = total + code_cross_entropy(logits, codes, mask=MASK).total
    assert total.isfinite()
    assert all(each.isfinite().all() for each in torch.autograd.grad(total, [rubbish, logits]))


# Sums add up


@given(rows=st.integers(2, 7), cut=st.integers(1, 6), seed=st.integers(0, 99))
def test_parts_equal_the_whole(rows: int, cut: int, seed: int) -> None:
    a, b, scores = draw(rows, 3, 4, seed=seed), draw(rows, 3, 4, seed=seed + 1), draw(rows, 3, seed=seed + 2)
    mask = draw(rows, 3, seed=seed + 3) > 0
    codes = torch.randint(4, (rows, 3, 1), generator=torch.Generator().manual_seed(seed))

    def losses(part: slice) -> list[LossSum]:
        m = mask[part]
        return [
            info_nce(scores[part], a[part], mask=m),
            negative_cosine(a[part], b[part], mask=m),
            code_cross_entropy(a[part].unsqueeze(2), codes[part], mask=m),
            regression(a[part], b[part], distance="smooth_l1", beta=1.0, mask=m),
        ]

    parts = zip(losses(slice(cut)), losses(slice(cut, None)), losses(slice(None)), strict=True)
    for first, second, whole in parts:
        torch.testing.assert_close(first.total + second.total, whole.total)
        for name, each in whole.stats.items():
            torch.testing.assert_close(first.stats[name] + second.stats[name], each)


@pytest.mark.parametrize("groups", [None, torch.tensor([0, 1, 0, 2, 3])])
def test_some_rows_as_targets(groups: Tensor | None) -> None:
    views = draw(2, 5, 6)
    whole = nt_xent(views[0], views[1], temperature=0.3, groups=groups)
    parts = [
        nt_xent(views[0], views[1], temperature=0.3, groups=groups, targets=torch.tensor(rows))
        for rows in ([3, 0], [1, 2, 4])
    ]
    torch.testing.assert_close(parts[0].total + parts[1].total, whole.total)
    for name, each in whole.stats.items():
        torch.testing.assert_close(parts[0].stats[name] + parts[1].stats[name], each)
    slow = slow_nt_xent(views, range(1, 2), 0.3, [0, 1, 2, 3, 4] if groups is None else groups.tolist())
    alone = nt_xent(views[0], views[1], temperature=0.3, groups=groups, targets=torch.tensor([1]))
    assert float(alone.total) == pytest.approx(float(torch.stack(slow).sum()), rel=1e-5)


# What each loss counts


def test_info_nce_left_out_negatives() -> None:
    positive, negatives = torch.tensor([1.0, 1.0, 0.0]), torch.tensor([[0.0, 2.0], [2.0, 3.0], [0.0, -math.inf]])
    same = torch.tensor([[False, True], [True, True], [False, False]])
    loss = info_nce(positive, negatives, same=same)
    expected = math.log(1 + math.exp(-1)) + 0 + math.log(2)
    assert loss.total.item() == pytest.approx(expected)
    assert float(loss.stats["correct"]) == 2  # a tie is not correct
    assert float(loss.stats["chance"]) == pytest.approx(2 * math.log(2))
    inputs = [positive.requires_grad_(), negatives.masked_fill(same, -math.inf).requires_grad_()]
    gradients = torch.autograd.grad(info_nce(*inputs).total, inputs)
    assert all(each.isfinite().all() for each in gradients)
    assert not gradients[1][same].any()


def test_binary_contrast_counts() -> None:
    """Two targets, the second without a negative that is another frame; its chance loss is zero."""
    positive, negatives = torch.tensor([1.0, -1.0]), torch.tensor([[0.5, -0.5], [3.0, 3.0]])
    same = torch.tensor([[False, False], [True, True]])
    loss = binary_contrast(positive, negatives, weight=4.0, same=same)
    found = {name: float(each) for name, each in loss.stats.items()}
    chance = -math.log(1 / 5) - 4 * math.log(4 / 5)
    assert found == pytest.approx({"count": 2, "chance": chance, "correct": 2, "real": 1, "fake": 0.5})


def test_triplet_chooses_semi_hard() -> None:
    def at(*degrees: float) -> Tensor:
        angles = torch.tensor(degrees).deg2rad()
        return torch.stack([angles.cos(), angles.sin()], dim=-1)

    def squared(degrees: float) -> float:
        return 2 - 2 * math.cos(math.radians(degrees))

    candidates = at(10, 50, 90)
    allowed = torch.tensor([[1, 1, 1], [1, 0, 1], [1, 1, 0], [0, 0, 0]], dtype=torch.bool)
    loss = semi_hard_triplet(at(0, 0, 0, 0), at(40, 40, 80, 5), candidates, allowed=allowed, margin=0.1)
    far = squared(50) + squared(90) + squared(50)  # the third finds nobody farther than its positive
    assert float(loss.stats["far"]) == pytest.approx(far, rel=1e-5)
    assert float(loss.stats["near"]) == pytest.approx(2 * squared(40) + squared(80), rel=1e-5)
    assert loss.total.item() == pytest.approx(squared(80) - squared(50) + 0.1, rel=1e-5)
    assert [float(loss.stats[name]) for name in ("count", "correct", "active")] == [3, 2, 1]


def test_codes_are_counted_in_each_codebook() -> None:
    logits = F.one_hot(CODES, 6).float()
    logits[0, 0, 1] = -logits[0, 0, 1]
    loss = code_cross_entropy(logits, CODES)
    assert loss.stats["correct"].tolist() == [12, 11]


def test_zero_vectors_have_finite_gradients() -> None:
    """Silence or a dead network gives zeros, and the direction of zero is nothing."""
    zeros = torch.zeros(2, 4, requires_grad=True)
    others = draw(2, 4)
    total = negative_cosine(zeros, others).total + nt_xent(zeros, others, temperature=0.1).total
    total = total + semi_hard_triplet(zeros, others, others, allowed=~torch.eye(2, dtype=torch.bool), margin=0.1).total
    assert total.isfinite()
    assert torch.autograd.grad(total, zeros)[0].isfinite().all()


@pytest.mark.parametrize(("distance", "beta"), [("l1", 1.0), ("smooth_l1", None), ("smooth_l1", 0.0)])
def test_beta_is_for_smooth_l1_alone(distance: str, beta: float | None) -> None:
    with pytest.raises(ValueError, match="smooth_l1 needs a beta above 0"):
        regression(*PAIR, distance=distance, beta=beta)
