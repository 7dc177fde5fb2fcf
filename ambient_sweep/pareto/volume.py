"""The hypervolume, here an area, that points dominate: of all of them, and of each point alone."""

import numpy as np
from numpy.typing import ArrayLike

from ambient_sweep.pareto.dominance import Floats, Mask, as_matrix


def hypervolume(values: ArrayLike, reference: ArrayLike) -> float:
    """Area that is dominated by some point and dominates `reference`; exact, larger is better.

    values [N, 2], reference [2] -> float. Points that are not below `reference` in both objectives add nothing. Raises
    ValueError for other shapes.
    """
    matrix, corner, inside = _checked(values, reference)
    points = matrix[inside]
    points = points[np.argsort(points[:, 1], kind="stable")]
    heights = np.diff(points[:, 1], append=corner[1])
    return float((corner[0] - np.minimum.accumulate(points[:, 0])) @ heights)


def contributions(values: ArrayLike, reference: ArrayLike) -> Floats:
    """What the hypervolume loses if a point alone is taken out: values [N, 2], reference [2] -> [N], in N log N.

    Dominated points, and points that occur twice, contribute exactly 0. Raises as `hypervolume`.
    """
    matrix, corner, inside = _checked(values, reference)
    rows = np.flatnonzero(inside)
    rows = rows[np.argsort(matrix[rows, 0], kind="stable")]
    # Swept along x: from each point to the next, the lowest y so far dominates alone up to the second lowest.
    xs, ys = matrix[rows].T
    before = np.append(corner[1], np.minimum.accumulate(ys))[: len(ys)]
    lowest = np.minimum(before, ys)
    second = np.minimum.accumulate(np.maximum(before, ys))
    holder = np.maximum.accumulate(np.where(ys < before, np.arange(len(ys)), 0))
    areas = (second - lowest) * np.diff(xs, append=corner[0])
    return np.asarray(np.bincount(rows[holder], weights=areas, minlength=len(matrix)))


def _checked(values: ArrayLike, reference: ArrayLike) -> tuple[Floats, Floats, Mask]:
    """The points, the reference point, and which points are finite and below it in both objectives."""
    matrix, finite = as_matrix(values)
    corner = np.asarray(reference, dtype=np.float64)
    if corner.shape != (2,) or not np.isfinite(corner).all():
        raise ValueError(f"reference: expected two finite values, one per objective, not {reference!r}")
    return matrix, corner, np.asarray(finite & (matrix < corner).all(axis=1))
