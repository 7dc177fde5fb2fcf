"""Where a point lies on its front, near the knee or alone, and the hypervolume, here an area, that points dominate."""

import numpy as np
from numpy.typing import ArrayLike

from ambient_sweep.pareto.dominance import Floats, as_matrix, nondominated_rank


def crowding_distance(values: ArrayLike) -> Floats:
    """Crowding distance of each point within its own front (NSGA-II, Deb et al. 2002, section III-B); larger is lonelier.

    values [N, 2] -> [N]: the distance between a point's two neighbours on its front, summed over the objectives in units
    of the front's range; infinite at both ends. Equal points share their distance; points that are not finite get 0.
    """
    matrix, finite = as_matrix(values)
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
    matrix, _ = as_matrix(values)
    low, high = matrix.min(axis=0), matrix.max(axis=0)
    return np.asarray((matrix - low) / np.where(high > low, high - low, 1.0))


def hypervolume(values: ArrayLike, reference: ArrayLike) -> float:
    """Area that is dominated by some point and dominates `reference`; exact, larger is better.

    values [N, 2], reference [2] -> float. Points that are not below `reference` in both objectives add nothing. Raises
    ValueError for other shapes.
    """
    matrix, finite = as_matrix(values)
    corner = np.asarray(reference, dtype=np.float64)
    if corner.shape != (2,) or not np.isfinite(corner).all():
        raise ValueError(f"reference: expected two finite values, one per objective, not {reference!r}")
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
