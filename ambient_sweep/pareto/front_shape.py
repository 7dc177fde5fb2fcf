"""Where a point lies on its front: near the knee, or alone."""

import numpy as np
from numpy.typing import ArrayLike

from ambient_sweep.pareto.dominance import pareto_mask
from ambient_sweep.pareto.rows import Floats, as_matrix, sorted_unique


def crowding_distance(front: ArrayLike) -> Floats:
    """Crowding distance within one front (NSGA-II, Deb et al. 2002, section III-B); larger is lonelier.

    front [N, 2], finite points of which none dominates another -> [N]: the distance between a point's two neighbours,
    summed over the objectives in units of the front's range; infinite at both ends. Equal points share their distance.
    """
    points, inverse = sorted_unique(as_matrix(front)[0])
    distance = np.full(len(points), np.inf)
    if len(points) > 2:
        gaps = np.abs(points[2:] - points[:-2]) / np.abs(points[-1] - points[0])
        distance[1:-1] = gaps[:, 0] + gaps[:, 1]
    return np.asarray(distance[inverse])


def knee_distance(values: ArrayLike) -> Floats:
    """Distance of each point of the front to the line between its ends, after min-max scaling over the front.

    values [N, 2] -> [N]. Positive towards the ideal point, negative on the far side of the line, 0 at the ends (and on a
    front of one point or two), -inf off the front. Raises ValueError if `values` is not [N, 2].
    """
    matrix, _ = as_matrix(values)
    mask = pareto_mask(matrix)
    result = np.full(len(matrix), -np.inf)
    front = matrix[mask]
    if (front == front[:1]).all():
        result[mask] = 0.0
    else:
        result[mask] = (1.0 - scale(front, front).sum(axis=1)) / np.sqrt(2.0)
    return result


def scale(values: ArrayLike, over: ArrayLike) -> Floats:
    """`values` [N, 2] mapped so that each objective runs from 0 to 1 over the rows of `over` [K, 2].

    An objective that is constant over `over` maps its value there to 0 and is not stretched.
    """
    (matrix, _), (frame, _) = as_matrix(values), as_matrix(over)
    low, high = frame.min(axis=0), frame.max(axis=0)
    return np.asarray((matrix - low) / np.where(high > low, high - low, 1.0))
