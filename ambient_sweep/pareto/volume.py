"""The hypervolume, here an area, that points dominate: of all of them, point by point, and of each point alone."""

import math
from bisect import bisect_right

import numpy as np
from numpy.typing import ArrayLike

from ambient_sweep.pareto.rows import Floats, Mask, as_matrix


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


def hypervolume_history(values: ArrayLike, reference: ArrayLike) -> Floats:
    """Hypervolume of the first point, the first two, ...: values [N, 2], reference [2] -> [N], in N log N.

    Raises as `hypervolume`.
    """
    matrix, corner, inside = _checked(values, reference)
    staircase = _Staircase(*corner.tolist())
    gains = np.zeros(len(matrix))
    gains[inside] = [staircase.add(x, y) for x, y in matrix[inside].tolist()]
    return np.cumsum(gains)


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


class _Staircase:
    """The front of points below a corner; adding a point returns the area that it gains."""

    def __init__(self, corner_x: float, corner_y: float) -> None:
        self._xs, self._ys = [-math.inf, corner_x], [corner_y, -math.inf]  # x rising, y falling; an end on either side

    def add(self, x: float, y: float) -> float:
        """The area that (x, y) dominates and no earlier point does; (x, y) must be below the corner."""
        xs, ys = self._xs, self._ys
        first = bisect_right(xs, x)
        if ys[first - 1] <= y:
            return 0.0
        if xs[first - 1] == x:
            first -= 1
        gain, left, top, past = 0.0, x, ys[first - 1], first
        while ys[past] >= y:
            gain += (xs[past] - left) * (top - y)
            left, top = xs[past], ys[past]
            past += 1
        gain += (xs[past] - left) * (top - y)
        xs[first:past], ys[first:past] = [x], [y]
        return gain


def _checked(values: ArrayLike, reference: ArrayLike) -> tuple[Floats, Floats, Mask]:
    """The points, the reference point, and which points are finite and below it in both objectives."""
    matrix, finite = as_matrix(values)
    corner = np.asarray(reference, dtype=np.float64)
    if corner.shape != (2,) or not np.isfinite(corner).all():
        raise ValueError(f"reference: expected two finite values, one per objective, not {reference!r}")
    return matrix, corner, np.asarray(finite & (matrix < corner).all(axis=1))
