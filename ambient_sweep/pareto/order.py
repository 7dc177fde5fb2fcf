"""A total order of rows, but for those that are equal in all that counts.

By feasibility, then non-dominated rank among the equally feasible, then the larger crowding distance or the earlier place
in the front's epsilon-net. Rows that are not finite are worse than all others, and equal.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from ambient_sweep.pareto.dominance import nondominated_rank
from ambient_sweep.pareto.rows import Floats, Ints, as_matrix
from ambient_sweep.pareto.spread import crowding_distance, epsilon_net_place

Ties = Literal["crowding", "epsilon"]


def places(
    values: ArrayLike, feasible: ArrayLike, *, ties: Ties = "crowding", scales: Sequence[float] | None = None
) -> Ints:
    """How many rows are strictly better than each: values [N, M], minimised, feasible [N] -> int [N].

    Raises ValueError if `values` is not a matrix.
    """
    matrix = as_matrix(values)
    group = _groups(matrix, feasible)
    rank, tie = np.zeros(len(matrix)), np.zeros(len(matrix))
    for each in (0, 1):
        members = group == each
        if members.any():
            rank[members] = nondominated_rank(matrix[members])
            tie[members] = tie_breaks(matrix[members], ties, scales)
    order = np.lexsort((tie, rank, group))
    keys = np.column_stack([group, rank, tie])[order]
    new = np.ones(len(matrix), dtype=np.bool_)
    new[1:] = (keys[1:] != keys[:-1]).any(axis=1)
    result = np.empty(len(matrix), dtype=np.int64)
    result[order] = np.maximum.accumulate(np.where(new, np.arange(len(matrix)), 0))
    return result


def _groups(matrix: Floats, feasible: ArrayLike) -> Ints:
    return np.where(np.isfinite(matrix).all(axis=1), np.where(np.asarray(feasible, dtype=np.bool_), 0, 1), 2)


def tie_breaks(matrix: Floats, ties: Ties, scales: Sequence[float] | None) -> Floats:
    """What orders rows of one front, the least first: finite values [N, M] -> [N]."""
    if ties == "crowding":
        return -crowding_distance(matrix, scales=scales)
    return epsilon_net_place(matrix, scales=scales).astype(np.float64)
