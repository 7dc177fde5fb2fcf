"""Pareto dominance between points with two objectives, both minimised: fronts, ranks, crowding and hypervolume.

A point dominates another if it is nowhere larger and somewhere smaller. Points with a NaN or an infinity dominate
nothing, are never on the front, rank last and enclose no volume.
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
    worst finite point's and at least 1.
    """
    matrix, finite = _as_matrix(values)
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
    """Which points [N, 2] are on the front: finite and dominated by no other."""
    matrix, finite = _as_matrix(values)
    rows = np.flatnonzero(finite)
    rows = rows[np.lexsort((matrix[rows, 1], matrix[rows, 0]))]
    points = matrix[rows]
    # In lexicographic order, the last point so far that lowered the second objective dominates what does not equal it.
    lowers = points[:, 1] < np.append(np.inf, np.minimum.accumulate(points[:, 1]))[:-1]
    last = np.maximum.accumulate(np.where(lowers, np.arange(len(points)), 0))
    finite[rows] = (points == points[last]).all(axis=1)
    return finite


def crowding_distance(values: ArrayLike) -> Floats:
    """Crowding distance of each point within its own front (NSGA-II, Deb et al. 2002, section III-B); larger is lonelier.

    values [N, 2] -> [N]: the distance between a point's two neighbours on its front, summed over the objectives in units
    of the front's range; infinite at both ends. Equal points share their distance; points that are not finite get 0.
    """
    matrix, finite = _as_matrix(values)
    points, inverse = np.unique(matrix[finite], axis=0, return_inverse=True)
    rank = nondominated_rank(points)
    order = np.lexsort((points[:, 0], rank))
    points, rank = points[order], rank[order]
    first, last = np.searchsorted(rank, rank), np.searchsorted(rank, rank, side="right") - 1
    at = np.arange(len(points))
    inner = at[(at > first) & (at < last)]
    spans = np.abs(points[last[inner]] - points[first[inner]])
    gaps = np.abs(points[inner + 1] - points[inner - 1]) / spans
    distance = np.full(len(points), np.inf)
    distance[order[inner]] = gaps[:, 0] + gaps[:, 1]
    result = np.zeros(len(matrix))
    result[finite] = distance[inverse]
    return result


def scale(values: ArrayLike) -> Floats:
    """`values` [N, 2] mapped so that each objective runs from 0 to 1; to 0 where it is constant."""
    matrix, _ = _as_matrix(values)
    low, high = matrix.min(axis=0), matrix.max(axis=0)
    return np.asarray((matrix - low) / np.where(high > low, high - low, 1.0))


def hypervolume(values: ArrayLike, reference: ArrayLike) -> float:
    """The area that is dominated by some point and dominates `reference`; exact, larger is better.

    values [N, 2], reference [2] -> float. Points that are not below `reference` in both objectives add nothing.
    """
    matrix, finite = _as_matrix(values)
    corner = np.asarray(reference, dtype=np.float64)
    points = matrix[finite & (matrix < corner).all(axis=1)]
    points = points[np.argsort(points[:, 1], kind="stable")]
    heights = np.diff(points[:, 1], append=corner[1])
    return float((corner[0] - np.minimum.accumulate(points[:, 0])) @ heights)


def contributions(front: ArrayLike, reference: ArrayLike) -> Floats:
    """What the hypervolume loses if a point alone is taken out: front [N, 2], reference [2] -> [N], in N log N.

    No point of the front dominates another, and all are finite and below `reference`. Equal points contribute exactly 0.
    """
    points, (right, top) = np.asarray(front, dtype=np.float64), np.asarray(reference)
    order = np.lexsort((points[:, 1], points[:, 0]))
    x, y = points[order].T
    result = np.empty(len(points))
    result[order] = np.diff(x, append=right) * -np.diff(y, prepend=top)
    return result


def _as_matrix(values: ArrayLike) -> tuple[Floats, Mask]:
    """`values` as float64 [N, 2], and which rows are finite."""
    matrix = np.asarray(values, dtype=np.float64)
    return matrix, np.asarray(np.isfinite(matrix).all(axis=1))
