"""A total order of rows, but for those that are equal in all that counts.

By feasibility, then non-dominated rank among the equally feasible, then the larger crowding distance or the earlier place
in the front's epsilon-net. Rows that are not finite are worse than all others, and equal.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

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
            tie[members] = _ties(matrix[members], ties, scales)
    order = np.lexsort((tie, rank, group))
    keys = np.column_stack([group, rank, tie])[order]
    new = np.ones(len(matrix), dtype=np.bool_)
    new[1:] = (keys[1:] != keys[:-1]).any(axis=1)
    result = np.empty(len(matrix), dtype=np.int64)
    result[order] = np.maximum.accumulate(np.where(new, np.arange(len(matrix)), 0))
    return result


def best(
    values: ArrayLike,
    feasible: ArrayLike,
    keep: int,
    *,
    ties: Ties = "crowding",
    scales: Sequence[float] | None = None,
) -> NDArray[np.bool_]:
    """Which rows have a place below `keep`: `places(...) < keep`, but only one front is told apart by ties."""
    matrix = as_matrix(values)
    group = _groups(matrix, feasible)
    result, before = np.zeros(len(matrix), dtype=np.bool_), 0
    for each in (0, 1, 2):
        members = np.flatnonzero(group == each)
        if before >= keep or len(members) == 0:
            continue
        rank = nondominated_rank(matrix[members]) if each < 2 else np.zeros(len(members), dtype=np.int64)
        through = before + np.cumsum(np.bincount(rank))  # how many there are up to each front's end
        last = int(np.searchsorted(through, keep))  # the first front that fills what is kept, or goes beyond
        result[members[rank < last]] = True
        if last < len(through):
            front = members[rank == last]
            room = keep - (int(through[last]) - len(front))
            if each == 2 or room >= len(front):
                result[front] = True
            else:
                tie = _ties(matrix[front], ties, scales)
                result[front] = tie <= np.sort(tie)[room - 1]
        before = int(through[-1])
    return result


def _groups(matrix: Floats, feasible: ArrayLike) -> Ints:
    return np.where(np.isfinite(matrix).all(axis=1), np.where(np.asarray(feasible, dtype=np.bool_), 0, 1), 2)


def _ties(matrix: Floats, ties: Ties, scales: Sequence[float] | None) -> Floats:
    if ties == "crowding":
        return -crowding_distance(matrix, scales=scales)
    return epsilon_net_place(matrix, scales=scales).astype(np.float64)
