"""The shape of a front: its knee, its scale, and what repeated runs attain."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from ambient_sweep.pareto.dominance import pareto_mask
from ambient_sweep.pareto.rows import Floats, as_matrix


def knee(values: ArrayLike) -> int:
    """Index of the front's knee: the row farthest below the line between the front's two ends.

    values [N, 2], dominated rows allowed. See `knee_distance`. Rows at the same distance (both ends, where no row lies
    below the line) are told apart by the smaller second objective, then the smaller index. Raises ValueError if no row
    is finite.
    """
    matrix = as_matrix(values)
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
    matrix = as_matrix(values)
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
    matrix, frame = as_matrix(values), as_matrix(over)
    low, high = frame.min(axis=0), frame.max(axis=0)
    return np.asarray((matrix - low) / np.where(high > low, high - low, 1.0))


def attainment(fronts: Sequence[ArrayLike], at: ArrayLike, *, level: float = 0.5) -> Floats:
    """Empirical attainment surface of runs with 2 objectives (Grunert da Fonseca, Fonseca and Hall 2001).

    fronts: R matrices [N_r, 2], dominated rows allowed; at [K], values of the first objective -> float [K]: the lowest
    value that at least a share `level` of the runs attain in the second objective without exceeding that first one,
    infinite where fewer do. Raises ValueError for another number of objectives, no runs or a level outside of (0, 1].
    """
    if not fronts or not 0.0 < level <= 1.0:
        raise ValueError(f"attainment: needs at least one run and a level in (0, 1], not {len(fronts)} and {level!r}")
    places = np.asarray(at, dtype=np.float64).reshape(-1)
    attained = np.empty((len(fronts), len(places)))
    for run, front in zip(attained, fronts, strict=True):
        matrix = as_matrix(front)
        if matrix.shape[1] != 2:
            raise ValueError(f"fronts: attainment is defined here for 2 objectives, not {matrix.shape[1]}")
        matrix = matrix[np.isfinite(matrix).all(axis=1)]
        matrix = matrix[np.argsort(matrix[:, 0], kind="stable")]
        lowest = np.append(np.inf, np.minimum.accumulate(matrix[:, 1]))
        run[:] = lowest[np.searchsorted(matrix[:, 0], places, side="right")]
    needed = math.ceil(round(level * len(fronts), 9))  # 0.7 of 10 runs are 7
    return np.asarray(np.sort(attained, axis=0)[needed - 1])
