"""Pareto dominance among rows of objective values; every objective is minimised. Pure numpy.

A row dominates another if it is nowhere larger and somewhere smaller. Rows with a NaN or an infinity are no answers:
they dominate nothing, are never on the front, and rank last.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def nondominated_rank(values: ArrayLike) -> NDArray[np.int64]:
    """Rank of each row by repeated peeling of the front (Goldberg's non-dominated sorting); 0 is the front.

    values [N, M] -> int [N]. Equal rows share a rank. All rows that are not finite share one rank, one past the worst
    finite row and at least 1. Raises ValueError if `values` is not a matrix.
    """
    matrix = _matrix(values)
    finite = np.isfinite(matrix).all(axis=1)
    # Sorted, a row can be dominated by earlier rows only; without duplicates, <= everywhere means dominated.
    unique, inverse = np.unique(matrix[finite], axis=0, return_inverse=True)
    ranks = np.zeros(len(unique), dtype=np.int64)
    for i in range(1, len(unique)):
        dominating = (unique[:i] <= unique[i]).all(axis=1)
        ranks[i] = ranks[:i][dominating].max(initial=-1) + 1
    result = np.full(len(matrix), max(1, ranks.max(initial=-1) + 1), dtype=np.int64)
    result[finite] = ranks[inverse.reshape(-1)]
    return result


def pareto_mask(values: ArrayLike) -> NDArray[np.bool_]:
    """Which rows are on the front: finite and dominated by no other. values [N, M] -> bool [N]; equal rows agree."""
    return np.asarray(nondominated_rank(values) == 0)


def hypervolume(values: ArrayLike, reference: ArrayLike) -> float:
    """Volume of the points that a row dominates and that dominate `reference`; exact, larger is better.

    values [N, M], reference [M] -> float. Rows that are not below `reference` in every objective add nothing. By slices
    along the last objective, N^(M-1) log N: meant for few objectives. Raises ValueError for shapes that do not fit.
    """
    matrix = _matrix(values)
    corner = np.asarray(reference, dtype=np.float64)
    if corner.shape != (matrix.shape[1],) or not np.isfinite(corner).all():
        raise ValueError(f"reference: expected {matrix.shape[1]} finite values, one per objective, not {reference!r}")
    inside = np.isfinite(matrix).all(axis=1) & (matrix < corner).all(axis=1)
    return _volume(matrix[inside], corner)


def _volume(points: Floats, corner: Floats) -> float:
    if len(points) == 0:
        return 0.0
    if len(corner) == 1:
        return float(corner[0] - points.min())
    points = points[np.argsort(points[:, -1], kind="stable")]
    heights = np.diff(points[:, -1], append=corner[-1])
    if len(corner) == 2:
        return float((corner[0] - np.minimum.accumulate(points[:, 0])) @ heights)
    slices = (_volume(points[: i + 1, :-1], corner[:-1]) * height for i, height in enumerate(heights) if height > 0)
    return float(sum(slices))


def knee(values: ArrayLike) -> int:
    """Index of the front's knee: the row farthest below the line between the front's two ends.

    values [N, 2], dominated rows allowed. See `knee_distance`. Rows at the same distance (both ends, where no row lies
    below the line) are told apart by the smaller second objective, then the smaller index. Raises ValueError if no row
    is finite.
    """
    matrix = _matrix(values)
    distance = knee_distance(matrix)
    if not np.isfinite(distance).any():
        raise ValueError("values: no finite row, so there is no front and no knee")
    order = np.lexsort((np.arange(len(matrix)), matrix[:, 1], -distance.round(12)))
    return int(order[0])


def knee_distance(values: ArrayLike) -> Floats:
    """Distance of each row of the front to the line between its ends, after min-max scaling over the front.

    values [N, 2] -> float [N]. Positive towards the ideal point, negative on the far side of the line, 0 at the ends
    (and on a front of one point or two), -inf for rows not on the front. Raises ValueError for any other number of
    objectives.
    """
    matrix = _matrix(values)
    if matrix.shape[1] != 2:
        raise ValueError(f"values: the knee is defined for 2 objectives, not {matrix.shape[1]}")
    mask = pareto_mask(matrix)
    result = np.full(len(matrix), -np.inf)
    if np.unique(matrix[mask], axis=0).shape[0] < 2:
        result[mask] = 0.0
    else:
        result[mask] = (1.0 - scale(matrix[mask], matrix[mask]).sum(axis=1)) / np.sqrt(2.0)
    return result


def scale(values: ArrayLike, over: ArrayLike) -> Floats:
    """`values` [N, M] mapped so that each objective runs from 0 to 1 over the rows of `over` [K, M].

    An objective that is constant over `over` maps its value there to 0 and is not stretched.
    """
    matrix, frame = _matrix(values), _matrix(over)
    low, high = frame.min(axis=0), frame.max(axis=0)
    return np.asarray((matrix - low) / np.where(high > low, high - low, 1.0))


def _matrix(values: ArrayLike) -> Floats:
    matrix = np.asarray(values, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[1] == 0:
        raise ValueError(f"values: expected a matrix, a row per point and a column per objective, not {matrix.shape}")
    return matrix
