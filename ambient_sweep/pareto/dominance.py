"""Nondominated sorting: the front, and the rank of every point.

Both sort the distinct points lexicographically: a point can then be dominated only by earlier ones, namely by those
whose second objective is not larger.
"""

from bisect import bisect_right

import numpy as np
from numpy.typing import ArrayLike

from ambient_sweep.pareto.rows import Ints, Mask, as_matrix, sorted_unique


def nondominated_rank(values: ArrayLike) -> Ints:
    """Rank of each point by repeated peeling of the front (Goldberg's nondominated sorting); 0 is the front.

    values [N, 2] -> [N], in N log N. Equal points share a rank. Points that are not finite share one rank, one past the
    worst finite point's and at least 1. Raises ValueError if `values` is not [N, 2].
    """
    matrix, finite = as_matrix(values)
    points, inverse = sorted_unique(matrix[finite])
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
    """Which points are on the front: finite and dominated by no other. values [N, 2] -> [N]; equal points agree.

    Raises ValueError if `values` is not [N, 2].
    """
    matrix, finite = as_matrix(values)
    points, inverse = sorted_unique(matrix[finite])
    front = np.ones(len(points), dtype=np.bool_)
    front[1:] = points[1:, 1] < np.minimum.accumulate(points[:, 1])[:-1]
    result = np.zeros(len(matrix), dtype=np.bool_)
    result[finite] = front[inverse]
    return result
