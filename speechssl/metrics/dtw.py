"""Distances of sequences of vectors: angles along the best path of dynamic time warping.

As in the ABX test of ZeroSpeech 2021 (arXiv 2011.11588): the path with the lowest sum of angles, and the mean along it.
Two differences: of equally cheap steps the path takes the diagonal one, as there, but then the one with the shorter
path, which makes distances symmetric; and a vector of zeros has an angle of 90 degrees to every vector.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Float64, Int

_CHUNK_NUMBERS = 4_000_000  # float64 numbers of padded frames per batch of pairs: 32 MB
_DECIMALS = 13  # of cosines: equal frames then have equal distances, whatever the order of the sums


def dtw_distances(
    frames: Mapping[int, Float[np.ndarray, "_ dim"]], pairs: Int[np.ndarray, "pairs 2"]
) -> Float64[np.ndarray, " pairs"]:
    """Angles along the best path of dynamic time warping, over pi and per step, for each pair of sequences.

    Args:
        frames: sequences by number.
        pairs: numbers of two sequences each.

    Returns:
        One number in [0, 1] per pair; pairs of one sequence with itself have 0 if no frame is zero.

    Raises:
        ValueError: a sequence without frames, or with numbers that are not finite.

    >>> dtw_distances({0: np.array([[1.0, 0.0]]), 1: np.array([[0.0, 1.0], [1.0, 0.0]])}, np.array([[0, 1]]))
    array([0.25])
    """
    units = {place: _unit(frames[place], place) for place in np.unique(pairs).tolist()}
    counts = np.array([[len(units[a]), len(units[b])] for a, b in pairs.tolist()])
    order = np.lexsort((counts[:, 1], counts[:, 0]))  # pairs of like lengths together: little padding
    dim = next(iter(units.values())).shape[1]
    found = np.empty(len(pairs))
    start = 0
    while start < len(order):
        longest, stop = counts[order[start]], start + 1
        while stop < len(order):
            grown = np.maximum(longest, counts[order[stop]])
            if (stop + 1 - start) * (int(grown.sum()) * dim + 4 * int(grown.prod())) > _CHUNK_NUMBERS:
                break
            longest, stop = grown, stop + 1
        chunk = order[start:stop]
        left, right = (_padded([units[place] for place in pairs[chunk, side].tolist()]) for side in (0, 1))
        cosines = np.round(left @ right.transpose(0, 2, 1), _DECIMALS)  # (pairs, rows, columns)
        angles = np.arccos(np.clip(cosines, -1, 1)) / np.pi
        found[chunk] = _warped(angles, counts[chunk])
        start = stop
    return found


def _warped(
    angles: Float64[np.ndarray, "pairs rows columns"], counts: Int[np.ndarray, "pairs 2"]
) -> Float64[np.ndarray, " pairs"]:
    """Lowest mean along a path from the first to the last frame of both, per pair, one anti-diagonal after another."""
    pairs, rows, columns = angles.shape
    steps = np.ascontiguousarray(angles.transpose(1, 2, 0))
    cost = np.full((rows + 1, columns + 1, pairs), np.inf)
    length = np.zeros((rows + 1, columns + 1, pairs))
    cost[0, 0] = 0
    for diagonal in range(rows + columns - 1):
        i = np.arange(max(0, diagonal - columns + 1), min(rows, diagonal + 1))
        j = diagonal - i
        straight, up, left = cost[i, j], cost[i, j + 1], cost[i + 1, j]
        up_length, left_length = length[i, j + 1], length[i + 1, j]
        side = np.minimum(up, left)
        side_length = np.where(
            up < left, up_length, np.where(left < up, left_length, np.minimum(up_length, left_length))
        )
        cost[i + 1, j + 1] = steps[i, j] + np.minimum(straight, side)
        length[i + 1, j + 1] = 1 + np.where(straight <= side, length[i, j], side_length)
    each = np.arange(pairs)
    last = (counts[:, 0], counts[:, 1], each)
    return cost[last] / length[last]


def _unit(frames: Float[np.ndarray, "frames dim"], place: int) -> Float64[np.ndarray, "frames dim"]:
    vectors = frames.astype(np.float64)
    if not len(vectors):
        raise ValueError(f"sequence {place} has no frames")
    if not np.isfinite(vectors).all():
        raise ValueError(f"sequence {place} has frames with numbers that are not finite")
    vectors = vectors / np.maximum(np.abs(vectors).max(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float64).tiny)


def _padded(sequences: Sequence[Float64[np.ndarray, "_ dim"]]) -> Float64[np.ndarray, "batch frames dim"]:
    padded = np.zeros((len(sequences), max(len(each) for each in sequences), sequences[0].shape[1]))
    for row, each in zip(padded, sequences, strict=True):
        row[: len(each)] = each
    return padded
