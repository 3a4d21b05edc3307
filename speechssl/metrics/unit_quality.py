"""Agreement of discrete units with phones, and the effective rank of vectors."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64


@dataclass(frozen=True)
class UnitQuality:
    """How well units and phones agree over frames (Hsu et al., "HuBERT", 2021, arXiv 2106.07447, section IV-D).

    Attributes:
        phone_purity: accuracy of the most frequent phone of each unit. It grows with the number of units.
        cluster_purity: accuracy of the most frequent unit of each phone. It falls with the number of units.
        pnmi: mutual information of both over the entropy of the phones: the fraction of the uncertainty about the phone
            that the unit removes.
        frames: counted frames.
        units: different units among them.
        phones: different phones among them.
    """

    phone_purity: float
    cluster_purity: float
    pnmi: float
    frames: int
    units: int
    phones: int


def unit_quality(units: Sequence[int], phones: Sequence[str | None]) -> UnitQuality:
    """Purities and PNMI of units against the phones of the same frames.

    Args:
        units: one per frame.
        phones: one per frame; None: the frame does not count.

    Raises:
        ValueError: sequences of different lengths, or fewer than two different phones.

    >>> found = unit_quality([0, 0, 1, 2], ["a", "a", "b", "b"])
    >>> found.phone_purity, found.cluster_purity, round(found.pnmi, 6)
    (1.0, 0.75, 1.0)
    """
    if len(units) != len(phones):
        raise ValueError(f"need one phone per unit, got {len(phones)} for {len(units)}")
    kept = [(unit, phone) for unit, phone in zip(units, phones, strict=True) if phone is not None]
    unit_names, unit_places = np.unique([unit for unit, _ in kept], return_inverse=True)
    phone_names, phone_places = np.unique([phone for _, phone in kept], return_inverse=True)
    if len(phone_names) < 2:
        raise ValueError(f"need frames of at least 2 phones, got {len(phone_names)}")
    joint = np.zeros((len(phone_names), len(unit_names)))
    np.add.at(joint, (phone_places, unit_places), 1)
    joint /= len(kept)
    own = _entropy(joint.sum(axis=1))
    shared = own + _entropy(joint.sum(axis=0)) - _entropy(joint.ravel())
    return UnitQuality(
        phone_purity=float(joint.max(axis=0).sum()),
        cluster_purity=float(joint.max(axis=1).sum()),
        pnmi=min(1.0, max(0.0, shared / own)),
        frames=len(kept),
        units=len(unit_names),
        phones=len(phone_names),
    )


def effective_rank(vectors: Float[np.ndarray, "vectors dim"], *, centre: bool = False) -> float:
    """The exponential of the entropy of the singular values, over their sum.

    Roy and Vetterli, "The effective rank", 2007; "RankMe" (Garrido et al., 2022, arXiv 2210.02885) is the same number
    of the embeddings of a model, which falls before a model collapses.

    Args:
        vectors: one per row.
        centre: whether their mean is subtracted first; RankMe does not.

    Returns:
        From 1 (all on one line) to the smaller of the number of vectors and their dimension (all directions equal).

    Raises:
        ValueError: no vectors, numbers that are not finite, or all zero.

    >>> round(effective_rank(np.eye(3)), 6), round(effective_rank(np.ones((5, 3))), 6)
    (3.0, 1.0)
    """
    if not vectors.size or not np.isfinite(vectors).all():
        raise ValueError(f"need finite vectors, got {len(vectors)} of dimension {vectors.shape[1]}")
    matrix = vectors.astype(np.float64)
    matrix = matrix - matrix.mean(axis=0) if centre else matrix
    values = np.linalg.svd(matrix, compute_uv=False)
    if values.sum() <= len(matrix) * np.finfo(np.float64).eps * np.abs(vectors).sum():  # what is left is rounding
        raise ValueError("all vectors are equal or zero: they have no direction")
    return float(np.exp(_entropy(values / values.sum())))


def _entropy(probabilities: Float64[np.ndarray, " outcomes"]) -> float:
    positive = probabilities[probabilities > 0]
    return float(-(positive * np.log(positive)).sum())
