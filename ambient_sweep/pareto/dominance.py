"""Nondominated sorting: the front, and the rank of every point."""

from bisect import bisect_right

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


def nondominated_rank(values: ArrayLike) -> Ints:
    """Rank of each point by repeated peeling of the front (Goldberg's nondominated sorting); 0 is the front.

    values [N, 2] -> [N], in N log N. Equal points share a rank. Points that are not finite share one rank, one past the
    worst finite point's and at least 1. Raises ValueError if `values` is not [N, 2].
    """
    matrix, finite = as_matrix(values)
    points, inverse = np.unique(matrix[finite], axis=0, return_inverse=True)
    # In lexicographic order, a point is dominated only by earlier ones, those whose second objective is not larger.
    # Its rank is the length of the longest chain of dominating points: patience sorting (Fredman 1975).
    ranks, lowest = [], list[float]()  # the lowest second objective of each rank so far; rises with the rank
    for second in points[:, 1].tolist():
        rank = bisect_right(lowest, second)
        lowest[rank : rank + 1] = [second]
        ranks.append(rank)
    result = np.full(len(matrix), max(1, len(lowest)), dtype=np.int64)
    result[finite] = np.array(ranks, dtype=np.int64)[inverse]
    return result


def pareto_mask(values: ArrayLike) -> Mask:
    """Which points [N, 2] are on the front: finite and dominated by no other. Raises ValueError for other shapes."""
    matrix, finite = as_matrix(values)
    rows = np.flatnonzero(finite)
    rows = rows[np.lexsort((matrix[rows, 1], matrix[rows, 0]))]
    points = matrix[rows]
    # In lexicographic order, the last point so far that lowered the second objective dominates what does not equal it.
    lowers = points[:, 1] < np.append(np.inf, np.minimum.accumulate(points[:, 1]))[:-1]
    last = np.maximum.accumulate(np.where(lowers, np.arange(len(points)), 0))
    finite[rows] = (points == points[last]).all(axis=1)
    return finite


def as_matrix(values: ArrayLike) -> tuple[Floats, Mask]:
    """`values` as float64 [N, 2], and which rows are finite. Raises ValueError otherwise."""
    matrix = np.asarray(values, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[1] != 2:
        raise ValueError(f"values: expected [N, 2], a row per point, not {matrix.shape}")
    return matrix, np.asarray(np.isfinite(matrix).all(axis=1))
