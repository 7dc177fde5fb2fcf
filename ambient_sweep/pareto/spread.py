"""How far apart the rows of a front are: what tells rows of one rank apart.

Both measures depend on the values alone: not on the order of the rows, nor, without `scales`, on the objectives' units.
Equal rows share their value.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike

from ambient_sweep.pareto.dominance import nondominated_rank
from ambient_sweep.pareto.rows import Floats, Ints, as_matrix, sorted_unique


def crowding_distance(values: ArrayLike, *, scales: Sequence[float] | None = None) -> Floats:
    """Crowding distance of each row within its own front (NSGA-II, Deb et al. 2002, section III-B); larger is lonelier.

    values [N, M] -> float [N]: summed over the objectives, the distance between the next smaller and the next larger
    value in the front, in units of the front's range or of `scales`; infinite at an objective's ends. An objective that
    is constant over the front adds nothing; a front of one point is infinitely far from others. Rows that are not finite
    get 0.
    """
    matrix = as_matrix(values)
    finite = np.isfinite(matrix).all(axis=1)
    rows, inverse = sorted_unique(matrix[finite])
    ranks = nondominated_rank(rows)
    distance = np.zeros(len(rows))
    for objective, column in enumerate(rows.T):
        distance += _gaps(column, ranks, None if scales is None else scales[objective])
    distance[np.bincount(ranks, minlength=1)[ranks] == 1] = np.inf
    result = np.zeros(len(matrix))
    result[finite] = distance[inverse]
    return result


def _gaps(column: Floats, ranks: Ints, unit: float | None) -> Floats:
    """From the next smaller to the next larger value of the same rank, for all ranks at once; 0 where all are equal."""
    order = np.lexsort((column, ranks))
    value, rank = column[order], ranks[order]
    first = np.ones(len(order), dtype=np.bool_)  # of a rank; then, of a value within a rank
    first[1:] = rank[1:] != rank[:-1]
    starts = np.flatnonzero(first)
    spans = (np.maximum.reduceat(value, starts) - np.minimum.reduceat(value, starts))[rank] if len(starts) else value
    first[1:] |= value[1:] != value[:-1]
    level = np.cumsum(first) - 1
    values, of = value[first], rank[first]
    below, above = np.full(len(values), -np.inf), np.full(len(values), np.inf)
    same = of[1:] == of[:-1]
    below[1:][same], above[:-1][same] = values[:-1][same], values[1:][same]
    result = np.zeros(len(order))
    varies = spans > 0
    units = spans if unit is None else np.full(len(spans), unit)
    result[order[varies]] = (above - below)[level[varies]] / units[varies]
    return result


def epsilon_net_place(values: ArrayLike, *, scales: Sequence[float] | None = None) -> Ints:
    """Place of each row within its own front when the front is filled from its far ends inwards; 0 comes first.

    values [N, M] -> int [N]. The first is the row with the smallest first objective, each next one the row farthest
    (Euclid, in units of the front's range or of `scales`) from those taken: the first k form an epsilon-net for the
    smallest epsilon that this greedy choice gives (MO-ASHA, Schmucker et al. 2021, section 3). Rows at the same distance
    come in lexicographic order. K^2 for a front of K rows. Rows that are not finite get 0.
    """
    matrix = as_matrix(values)
    result = np.zeros(len(matrix), dtype=np.int64)
    for members in _fronts(matrix):
        rows, inverse = sorted_unique(matrix[members])
        result[members] = _net(rows / _units(rows, scales))[inverse]
    return result


def _fronts(matrix: Floats) -> Iterator[Ints]:
    """The indices of each front's rows, rank by rank; rows that are not finite left out."""
    finite = np.flatnonzero(np.isfinite(matrix).all(axis=1))
    ranks = nondominated_rank(matrix[finite])
    order = np.argsort(ranks, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(ranks[order])) + 1):
        if len(members):
            yield finite[members]


def _units(rows: Floats, scales: Sequence[float] | None) -> Floats:
    spans = rows.max(axis=0) - rows.min(axis=0)
    units = spans if scales is None else np.asarray(scales, dtype=np.float64)
    return np.where(spans > 0, units, 1.0)


def _net(rows: Floats) -> Ints:
    places, near = np.empty(len(rows), dtype=np.int64), np.full(len(rows), np.inf)
    chosen = 0
    for place in range(len(rows)):
        places[chosen] = place
        near = np.minimum(near, ((rows - rows[chosen]) ** 2).sum(axis=1))
        near[chosen] = -1.0
        chosen = int(near.argmax())
    return places
