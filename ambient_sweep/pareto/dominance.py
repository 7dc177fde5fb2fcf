"""Nondominated sorting: the front, and the rank of every point.

Both sort the points lexicographically: a point can then be dominated only by earlier ones, namely by those
whose second objective is not larger.
"""

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
    # The rank is the length of the longest chain of dominating points: patience sorting (Fredman 1975).
    ranks, lowest = [], list[float]()  # the lowest second objective of each rank so far; rises with the rank
    for second in points[:, 1].tolist():
        rank = bisect_right(lowest, second)
        lowest[rank : rank + 1] = [second]
        ranks.append(rank)
    result = np.full(len(matrix), max(1, len(lowest)), dtype=np.int64)
    result[finite] = np.array(ranks, dtype=np.int64)[inverse]
    return result


def pareto_mask(values: ArrayLike) -> Mask:
    """Which points are on the front: finite and dominated by no other. values [..., N, 2] -> [..., N]; equal points agree.

    Leading dimensions hold sets of points, each with a front of its own. Raises ValueError for other shapes.
    """
    matrix, finite = as_matrix(values, batched=True)
    first, second = np.moveaxis(np.where(finite[..., None], matrix, np.inf), -1, 0)
    order = np.lexsort((second, first), axis=-1)
    x, y = (np.take_along_axis(each, order, axis=-1) for each in (first, second))
    edge = np.full((*x.shape[:-1], 1), np.inf)
    lowest_before = np.concatenate([edge, np.minimum.accumulate(y, axis=-1)], axis=-1)[..., :-1]
    new = np.ones(x.shape, dtype=np.bool_)
    new[..., 1:] = (x[..., 1:] != x[..., :-1]) | (y[..., 1:] != y[..., :-1])
    leader = np.maximum.accumulate(np.where(new, np.arange(x.shape[-1]), 0), axis=-1)  # the first of those equal to it
    front = np.empty(x.shape, dtype=np.bool_)
    np.put_along_axis(front, order, np.take_along_axis(y < lowest_before, leader, axis=-1), axis=-1)
    return front


def as_matrix(values: ArrayLike, *, batched: bool = False) -> tuple[Floats, Mask]:
    """`values` as float64 [N, 2], or [..., N, 2] if `batched`, and which rows are finite. Raises ValueError otherwise."""
    matrix = np.asarray(values, dtype=np.float64)
    if matrix.shape[-1:] != (2,) or matrix.ndim < 2 or (matrix.ndim > 2 and not batched):
        raise ValueError(f"values: expected [N, 2], a row per point, not {matrix.shape}")
    return matrix, np.asarray(np.isfinite(matrix).all(axis=-1))
