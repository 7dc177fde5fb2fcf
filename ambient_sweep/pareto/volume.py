"""The hypervolume that a set of points dominates: of the whole set, row by row, and of each row alone."""

import math
from bisect import bisect_right
from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ambient_sweep.pareto.dominance import nondominated_rank, pareto_mask
from ambient_sweep.pareto.rows import Floats, as_matrix


def hypervolume(values: ArrayLike, reference: ArrayLike) -> float:
    """Volume of the points that a row dominates and that dominate `reference`; exact, larger is better.

    values [N, M], reference [M] -> float. Rows that are not below `reference` in every objective add nothing. N log N for
    up to 3 objectives, by slices along the last one for more. Raises ValueError for shapes that do not fit.
    """
    matrix, corner, inside = _checked(values, reference)
    return _volume(matrix[inside], corner)


def hypervolume_history(values: ArrayLike, reference: ArrayLike) -> Floats:
    """Hypervolume of the first row, the first two, ...: values [N, M], reference [M] -> float [N], never falling.

    Row by row: N log N for 2 objectives, N times the volume of a front for more. Raises as `hypervolume`.
    """
    matrix, corner, inside = _checked(values, reference)
    gains = np.zeros(len(matrix))
    rows = matrix[inside]
    if len(corner) == 2:
        staircase = _Staircase(*corner.tolist())
        gains[inside] = [staircase.add(x, y) for x, y in rows.tolist()]
    else:
        gains[inside] = list(_gains(rows, corner))
    return np.cumsum(gains)


def contributions(values: ArrayLike, reference: ArrayLike) -> Floats:
    """What the hypervolume loses if the row alone is taken out: values [N, M], reference [M] -> float [N].

    Dominated rows and rows that are there twice contribute nothing. N log N for 2 objectives, K^2 for 3, K the number of
    rows of rank 0 and 1; K volumes for more. Raises as `hypervolume`.
    """
    matrix, corner, inside = _checked(values, reference)
    result = np.zeros(len(matrix))
    # Where a row of rank 2 or more dominates, two of lower ranks do too.
    kept = np.flatnonzero(inside)[nondominated_rank(matrix[inside]) <= 1]
    rows = matrix[kept]
    if len(rows) == 0:
        return result
    if len(corner) <= 2:
        flat = rows if len(corner) == 2 else np.column_stack([np.zeros(len(rows)), rows])
        result[kept] = _alone_2d(flat, np.array([1.0, corner[0]]) if len(corner) == 1 else corner)
    elif len(corner) == 3:
        result[kept] = _alone_3d(rows, corner)
    else:
        whole = _volume(rows, corner)
        for place, row in enumerate(kept):
            result[row] = max(0.0, whole - _volume(np.delete(rows, place, axis=0), corner))
        result[kept[nondominated_rank(rows) > 0]] = 0.0
    return result


class _Staircase:
    """The front of points in a plane, below a corner; a point that is added says how much area it brings."""

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


def _checked(values: ArrayLike, reference: ArrayLike) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    matrix = as_matrix(values)
    corner = np.asarray(reference, dtype=np.float64)
    if corner.shape != (matrix.shape[1],) or not np.isfinite(corner).all():
        raise ValueError(f"reference: expected {matrix.shape[1]} finite values, one per objective, not {reference!r}")
    return matrix, corner, np.asarray(np.isfinite(matrix).all(axis=1) & (matrix < corner).all(axis=1))


def _volume(points: Floats, corner: Floats) -> float:
    if len(points) == 0:
        return 0.0
    if len(corner) == 1:
        return float(corner[0] - points.min())
    if len(corner) > 3:
        points = points[pareto_mask(points)]
    points = points[np.argsort(points[:, -1], kind="stable")]
    if len(corner) == 2:
        heights = np.diff(points[:, -1], append=corner[-1])
        return float((corner[0] - np.minimum.accumulate(points[:, 0])) @ heights)
    if len(corner) == 3:
        # Swept along z: the area that a point brings lasts from its own z to the corner's.
        staircase = _Staircase(*corner[:2].tolist())
        areas = np.array([staircase.add(x, y) for x, y in points[:, :2].tolist()])
        return float(areas @ (corner[2] - points[:, 2]))
    heights = np.diff(points[:, -1], append=corner[-1])
    slices = (_volume(points[: i + 1, :-1], corner[:-1]) * height for i, height in enumerate(heights) if height > 0)
    return float(sum(slices))


def _gains(rows: Floats, corner: Floats) -> Iterable[float]:
    """What each row adds to those before it: its own box less what they dominate of it."""
    front = np.empty((0, len(corner)))
    for row in rows:
        if (front <= row).all(axis=1).any():
            yield 0.0
            continue
        yield max(0.0, float((corner - row).prod()) - _volume(np.maximum(front, row), corner))
        front = np.vstack([front[(front < row).any(axis=1)], row])


def _alone_2d(rows: Floats, corner: Floats) -> Floats:
    """Swept along x: between two rows, the lowest y so far dominates alone up to the second lowest."""
    order = np.argsort(rows[:, 0], kind="stable")
    ys = rows[order, 1]
    before = np.append(corner[1], np.minimum.accumulate(ys)[:-1])
    lowest = np.minimum(before, ys)
    second = np.minimum.accumulate(np.maximum(before, ys))
    holder = np.maximum.accumulate(np.where(ys < before, np.arange(len(ys)), 0))
    areas = (second - lowest) * np.diff(rows[order, 0], append=corner[0])
    return np.asarray(np.bincount(order[holder], weights=areas, minlength=len(rows)))


def _alone_3d(rows: Floats, corner: Floats) -> Floats:
    """As `_alone_2d`, along x for all y at once: over each cell in x and y the lowest z dominates alone up to the second
    lowest."""
    by_y = np.argsort(rows[:, 1], kind="stable")
    place = np.empty(len(rows), dtype=np.int64)
    place[by_y] = np.arange(len(rows))
    depths = np.diff(rows[by_y, 1], append=corner[1])
    lowest, second = np.full(len(rows), corner[2]), np.full(len(rows), corner[2])
    holder = np.zeros(len(rows), dtype=np.int64)
    order = np.argsort(rows[:, 0], kind="stable")
    widths = np.diff(rows[order, 0], append=corner[0])
    result = np.zeros(len(rows))
    for row, width in zip(order, widths, strict=True):
        behind, z = slice(place[row], None), rows[row, 2]
        np.minimum(second[behind], np.maximum(lowest[behind], z), out=second[behind])
        holder[behind][z < lowest[behind]] = row
        np.minimum(lowest[behind], z, out=lowest[behind])
        if width > 0:
            result += width * np.bincount(holder, weights=(second - lowest) * depths, minlength=len(rows))
    return result
