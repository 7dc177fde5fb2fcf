"""The hypervolume, here an area, that points dominate: of all of them, and of each point alone."""

import numpy as np
from numpy.typing import ArrayLike

from ambient_sweep.pareto.dominance import Floats, as_matrix


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
