"""Losses of self-supervised learning as pure functions: no model, no random draw, no process group.

Each returns a :class:`LossSum`: the *sum* over its targets and the number of targets, so that micro-batches and ranks
add up to the same loss and gradient as one large batch. All arithmetic is fp32 with autocast off, for inputs of any
type. Without targets the total is zero and still has a gradient path, as data parallelism needs.

Losses that compare the rows of a batch (NT-Xent, triplets) depend on the given rows; across ranks, gather the rows
first.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

Distance = Literal["l1", "mse", "smooth_l1"]


@dataclass(frozen=True)
class LossSum:
    """A loss summed over its targets.

    Attributes:
        total: differentiable sum, fp32.
        stats: detached fp32 sums that add up over micro-batches and ranks. ``count`` is the number of targets: the
            loss per target is ``total / count`` after both have been summed.
    """

    total: Float[Tensor, ""]
    stats: dict[str, Float[Tensor, "*shape"]]

    @property
    def count(self) -> Float[Tensor, ""]:
        """Number of targets."""
        return self.stats["count"]


def cosine_scores(
    queries: Float[Tensor, "*batch queries dim"], keys: Float[Tensor, "*batch keys dim"], *, temperature: float
) -> Float[Tensor, "*batch queries keys"]:
    """Cosine similarities of all pairs divided by a temperature, fp32; the scores of contrastive losses.

    >>> cosine_scores(torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 3.0]]), temperature=0.5).tolist()
    [[2.0, 0.0]]
    """
    with torch.autocast(queries.device.type, enabled=False):
        return F.normalize(queries.float(), dim=-1) @ F.normalize(keys.float(), dim=-1).mT / temperature


def info_nce(
    positive: Float[Tensor, "*shape"],
    negatives: Float[Tensor, "*shape negatives"],
    *,
    same: Bool[Tensor, "*shape negatives"] | None = None,
    mask: Bool[Tensor, "*shape"] | None = None,
) -> LossSum:
    """InfoNCE: cross-entropy of each positive among its negatives, in nats.

    van den Oord et al. 2018, "Representation Learning with Contrastive Predictive Coding", equation 4 (arXiv
    1807.03748).

    Args:
        positive: score of each positive, a logit such as a cosine divided by a temperature.
        negatives: scores of its negatives. A score of minus infinity leaves a negative out.
        same: True where a negative equals its positive: left out. Compare indices, not vectors of floats: vectors that
            should be equal differ in bf16.
        mask: True where there is a target; default everywhere.

    Returns:
        ``stats``: ``correct``, targets whose positive scored above every negative; ``chance``, the loss that equal
        scores would have, ln(1 + number of negatives), summed.

    >>> loss = info_nce(torch.zeros(2), torch.zeros(2, 3), same=torch.tensor([[False] * 3, [True, False, False]]))
    >>> loss.total.exp().round().item(), int(loss.count)  # 4 choices, then 3
    (12.0, 2)
    """
    with torch.autocast(positive.device.type, enabled=False):
        positive, negatives = positive.float(), negatives.float()
        if same is not None:
            negatives = negatives.masked_fill(same, float("-inf"))
        if mask is not None:
            positive, negatives = positive[mask], negatives[mask]
        losses = torch.logsumexp(torch.cat([positive.unsqueeze(-1), negatives], dim=-1), dim=-1) - positive
        correct = (positive.unsqueeze(-1) > negatives).all(dim=-1)
        chance = torch.log1p((negatives > float("-inf")).sum(dim=-1).float())
        return _summed(losses, correct=correct.sum(), chance=chance.sum())


def binary_contrast(
    positive: Float[Tensor, "*shape"],
    negatives: Float[Tensor, "*shape negatives"],
    *,
    weight: float,
    same: Bool[Tensor, "*shape negatives"] | None = None,
) -> LossSum:
    """Binary cross-entropy of each positive, and of its negatives with a weight, in nats.

    Schneider et al. 2019, "wav2vec: Unsupervised Pre-training for Speech Recognition", equation 2 (arXiv 1904.05862):
    the expectation over negatives is the mean of the given ones.

    Args:
        positive: score of each positive, the logit of being real.
        negatives: scores of its negatives.
        weight: of the mean over the negatives (paper: their number).
        same: True where a negative equals its positive: left out of the mean.

    Returns:
        ``stats``: ``chance``, the loss of the best equal score, summed; ``correct``, targets whose positive scored
        above every negative; ``real``, positives with a score above zero; ``fake``, shares of the negatives with a
        score below zero, summed over targets.

    >>> loss = binary_contrast(torch.zeros(1), torch.zeros(1, 4), weight=4.0)
    >>> round(float(loss.total), 4), round(float(loss.stats["chance"]), 4)  # 5 ln 2; ln 5 + 4 ln 5/4
    (3.4657, 2.502)
    """
    with torch.autocast(positive.device.type, enabled=False):
        positive, negatives = positive.float(), negatives.float()
        kept = torch.ones_like(negatives) if same is None else (~same).float()
        number = kept.sum(dim=-1)
        share = kept / number.clamp(min=1).unsqueeze(-1)
        losses = F.softplus(-positive) + weight * (F.softplus(negatives) * share).sum(dim=-1)
        equal = math.log1p(weight) + weight * math.log1p(1 / weight)
        above = (positive.unsqueeze(-1) > negatives) | (kept == 0)
        return _summed(
            losses,
            chance=equal * (number > 0).sum(),
            correct=above.all(dim=-1).sum(),
            real=(positive > 0).sum(),
            fake=((negatives < 0) * share).sum(),
        )


def nt_xent(
    first: Float[Tensor, "rows dim"],
    second: Float[Tensor, "rows dim"],
    *,
    temperature: float,
    groups: Int[Tensor, " rows"] | None = None,
    targets: Int[Tensor, " targets"] | None = None,
) -> LossSum:
    """NT-Xent of two views of each row: cross-entropy of the other view of the same row among all views, in nats.

    Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual Representations" (SimCLR), algorithm 1
    (arXiv 2002.05709). The similarity is the cosine. The negatives are both views of all other rows.

    Args:
        first: one view of each row of the global batch.
        second: the other view.
        temperature: divides the cosines (paper: 0.1 on ImageNet, 0.5 on CIFAR-10).
        groups: one number per row, such as its recording; rows with the same number are not negatives.
        targets: places of the rows whose two views are targets; default all (:mod:`speechssl.nn.rows`).

    Returns:
        Two targets per row; ``stats`` as :func:`info_nce`.

    >>> rows = torch.eye(3)
    >>> loss = nt_xent(rows, rows, temperature=1.0)
    >>> round(float(loss.total / loss.count), 4), int(loss.stats["correct"])  # ln(e + 4) - 1
    (0.9048, 6)
    """
    rows = torch.arange(len(first), device=first.device)
    targets, groups = (rows if each is None else each for each in (targets, groups))
    keys = torch.cat([first, second])
    queries = torch.cat([targets, targets + len(first)])  # their places among the keys
    scores = cosine_scores(keys[queries], keys, temperature=temperature)  # 2*targets 2*rows
    other_view = torch.cat([targets + len(first), targets])  # place of each query's positive among the keys
    positive = scores.gather(1, other_view.unsqueeze(1)).squeeze(1)
    key_groups = groups.repeat(2)
    return info_nce(positive, scores, same=key_groups[queries].unsqueeze(1) == key_groups)


def negative_cosine(
    predictions: Float[Tensor, "*shape dim"],
    targets: Float[Tensor, "*shape dim"],
    *,
    mask: Bool[Tensor, "*shape"] | None = None,
) -> LossSum:
    """Minus the cosine of each prediction and its target, from -1 to 1.

    Grill et al. 2020, "Bootstrap Your Own Latent" (BYOL), equation 2 (arXiv 2006.07733), whose loss is 2 plus twice
    this one. Both arguments get gradients: detach the targets, or compute them without gradients.

    Args:
        predictions: any length, not zero.
        targets: of the same shape.
        mask: True where there is a target; default everywhere.

    >>> negative_cosine(torch.tensor([[3.0, 0.0]]), torch.tensor([[2.0, 0.0]])).total.item()
    -1.0
    """
    with torch.autocast(predictions.device.type, enabled=False):
        predictions, targets = _selected(mask, predictions.float(), targets.float())
        cosines = (F.normalize(predictions, dim=-1) * F.normalize(targets, dim=-1)).sum(dim=-1)
        return _summed(-cosines)


def semi_hard_triplet(
    anchors: Float[Tensor, "rows dim"],
    positives: Float[Tensor, "rows dim"],
    candidates: Float[Tensor, "candidates dim"],
    *,
    allowed: Bool[Tensor, "rows candidates"],
    margin: float,
) -> LossSum:
    """Triplet loss with a semi-hard negative: the nearest candidate that is farther from the anchor than its positive.

    Schroff et al. 2015, "FaceNet", section 3.2 (arXiv 1503.03832); for speech, Shor et al. 2020 (TRILL, arXiv
    2002.12764). Vectors are scaled to unit length, distances are squared. Where no allowed candidate is farther than
    the positive, the farthest one is used (as in TensorFlow Addons), so that the worst anchors have a gradient.

    Args:
        anchors: one vector per row.
        positives: positive of each anchor.
        candidates: possible negatives, those of other processes included.
        allowed: which candidates may be the negative of which anchor: not the anchor itself, nor its positive, nor
            others of the same recording.
        margin: required difference of the squared distances to negative and positive (0 to 4).

    Returns:
        Anchors without an allowed candidate are not targets. ``stats``: ``correct``, anchors nearer to the positive
        than to the negative; ``active``, anchors with a loss above zero; ``near`` and ``far``, squared distances to
        positive and negative, summed.

    >>> rows = torch.eye(2)
    >>> loss = semi_hard_triplet(rows, rows, rows, allowed=~torch.eye(2, dtype=torch.bool), margin=3.0)
    >>> loss.total.item(), loss.stats["far"].item()  # twice 0 - 2 + 3
    (2.0, 4.0)
    """
    with torch.autocast(anchors.device.type, enabled=False):
        anchors, positives, candidates = (F.normalize(x.float(), dim=-1) for x in (anchors, positives, candidates))
        usable = allowed.any(dim=1)
        anchors, positives, allowed = anchors[usable], positives[usable], allowed[usable]
        near = 2 - 2 * (anchors * positives).sum(dim=-1)
        distances = 2 - 2 * anchors @ candidates.T
        farther = allowed & (distances > near.unsqueeze(1))
        nearest = distances.masked_fill(~farther, float("inf")).amin(dim=1)
        farthest = distances.masked_fill(~allowed, float("-inf")).amax(dim=1)
        far = torch.where(farther.any(dim=1), nearest, farthest)
        losses = F.relu(near - far + margin)
        return _summed(losses, correct=(near < far).sum(), active=(losses > 0).sum(), near=near.sum(), far=far.sum())


def code_cross_entropy(
    logits: Float[Tensor, "*shape codebooks codes"],
    targets: Int[Tensor, "*shape codebooks"],
    *,
    mask: Bool[Tensor, "*shape"] | None = None,
) -> LossSum:
    """Cross-entropy of a frame's code in each codebook, in nats, mean over the codebooks.

    Args:
        logits: scores of all codes.
        targets: indices of the correct codes; any value where there is no target.
        mask: True at frames that are targets; default everywhere.

    Returns:
        Targets are frames. ``stats``: ``correct`` of shape (codebooks,), frames whose code scored highest.

    >>> loss = code_cross_entropy(torch.zeros(5, 2, 8), torch.zeros(5, 2, dtype=torch.long))
    >>> round(float(loss.total / loss.count), 4)  # ln 8
    2.0794
    """
    with torch.autocast(logits.device.type, enabled=False):
        logits, targets = _selected(mask, logits.float(), targets)
        logits = logits.reshape(-1, *logits.shape[-2:])  # frames codebooks codes
        targets = targets.reshape(-1, targets.shape[-1])  # frames codebooks
        losses = F.cross_entropy(logits.mT, targets, reduction="none").mean(dim=-1)  # frames
        return _summed(losses, correct=(logits.argmax(dim=-1) == targets).sum(dim=0))


def regression(
    predictions: Float[Tensor, "*shape dim"],
    targets: Float[Tensor, "*shape dim"],
    *,
    distance: Distance,
    beta: float | None = None,
    mask: Bool[Tensor, "*shape"] | None = None,
) -> LossSum:
    """Distance of each predicted vector from its target, mean over the vector's elements.

    Args:
        predictions: both arguments get gradients; detach the targets to prevent that.
        targets: of the same shape.
        distance: "l1", "mse" (no factor of one half) or "smooth_l1", which is the square divided by ``2 * beta`` up to
            ``beta`` and the absolute value less ``beta / 2`` beyond.
        beta: where "smooth_l1" becomes linear; for that distance alone.
        mask: True at frames that are targets; default everywhere. NaN elsewhere affects neither loss nor gradient.

    Raises:
        ValueError: a ``beta`` that is missing, not above zero, or given for another distance.

    >>> regression(torch.tensor([[1.0, 5.0]]), torch.tensor([[0.0, 2.0]]), distance="mse").total.item()
    5.0
    """
    if (distance == "smooth_l1") != (beta is not None) or (beta is not None and beta <= 0):
        raise ValueError(f"distance={distance!r} with beta={beta}; smooth_l1 needs a beta above 0, the others none")
    with torch.autocast(predictions.device.type, enabled=False):
        predictions, targets = _selected(mask, predictions.float(), targets.float())
        if distance == "l1":
            elements = F.l1_loss(predictions, targets, reduction="none")
        elif distance == "mse":
            elements = F.mse_loss(predictions, targets, reduction="none")
        else:
            assert beta is not None
            elements = F.smooth_l1_loss(predictions, targets, reduction="none", beta=beta)
        return _summed(elements.mean(dim=-1))


def _selected(mask: Tensor | None, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Select the targets; multiplication by zero would keep NaN."""
    return (first, second) if mask is None else (first[mask], second[mask])


def _summed(losses: Float[Tensor, "*shape"], **stats: Tensor) -> LossSum:
    count = torch.full((), float(losses.numel()), device=losses.device)
    return LossSum(losses.sum(), {"count": count, **{name: each.detach().float() for name, each in stats.items()}})
