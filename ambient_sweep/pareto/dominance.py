"""Non-dominated sorting: the front, and the rank of every row.

Both work on distinct rows in lexicographic order, where a row can be dominated by earlier rows only and `<=` everywhere
means dominated.
"""

from bisect import bisect_left, bisect_right

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ambient_sweep.pareto.rows import Floats, Ints, as_matrix, sorted_unique

SMALL = 256  # up to so many rows, comparing with all is faster than dividing


def nondominated_rank(values: ArrayLike) -> Ints:
    """Rank of each row by repeated peeling of the front (Goldberg's non-dominated sorting); 0 is the front.

    values [N, M] -> int [N]. Equal rows share a rank. All rows that are not finite share one rank, one past the worst
    finite row and at least 1. N log N for 2 objectives, about N log^2 N for 3, N^2 for more. Raises ValueError if
    `values` is not a matrix.
    """
    matrix = as_matrix(values)
    finite = np.isfinite(matrix).all(axis=1)
    rows, inverse = sorted_unique(matrix[finite])
    objectives = matrix.shape[1]
    if objectives == 1:
        ranks = np.arange(len(rows))
    elif objectives == 2:
        ranks = _ranks_2d(rows)
    elif objectives == 3:
        ranks = _ranks_3d(rows)
    else:
        ranks = _ranks_nd(rows)
    result = np.full(len(matrix), max(1, ranks.max(initial=-1) + 1), dtype=np.int64)
    result[finite] = ranks[inverse]
    return result


def pareto_mask(values: ArrayLike) -> NDArray[np.bool_]:
    """Which rows are on the front: finite and dominated by no other. values [N, M] -> bool [N]; equal rows agree.

    N log N for up to 3 objectives, N times the size of the front for more. Raises ValueError if `values` is not a matrix.
    """
    matrix = as_matrix(values)
    finite = np.isfinite(matrix).all(axis=1)
    rows, inverse = sorted_unique(matrix[finite])
    objectives = matrix.shape[1]
    if objectives == 1:
        front = np.arange(len(rows)) == 0
    elif objectives == 2:
        front = np.ones(len(rows), dtype=np.bool_)
        front[1:] = rows[1:, 1] < np.minimum.accumulate(rows[:, 1])[:-1]
    elif objectives == 3 and len(rows) > SMALL:
        front = _front_3d(rows)
    else:
        front = _front_nd(rows)
    result = np.zeros(len(matrix), dtype=np.bool_)
    result[finite] = front[inverse]
    return result


def _ranks_2d(rows: Floats) -> Ints:
    """A row's rank is the length of the longest chain of dominating rows before it: patience sorting (Fredman 1975)."""
    ranks, lowest = [0] * len(rows), list[float]()  # the lowest second objective of each rank; rising with the rank
    for row, second in enumerate(rows[:, 1].tolist()):
        rank = ranks[row] = bisect_right(lowest, second)
        try:
            lowest[rank] = second
        except IndexError:
            lowest.append(second)
    return np.array(ranks, dtype=np.int64)


def _ranks_3d(rows: Floats) -> Ints:
    """A binary search over the fronts (Zhang et al. 2015, ENS-BS), each kept as a staircase in the last two objectives
    (Kung, Luccio and Preparata 1975): a front dominates a row if its step at or below the row's y is not above its z."""
    ranks, fronts = [], list[tuple[list[float], list[float]]]()  # y rising, z falling
    for y, z in rows[:, 1:].tolist():
        low, high = 0, len(fronts)
        while low < high:
            middle = (low + high) // 2
            ys, zs = fronts[middle]
            step = bisect_right(ys, y) - 1
            if step >= 0 and zs[step] <= z:
                low = middle + 1
            else:
                high = middle
        if low == len(fronts):
            fronts.append(([], []))
        ys, zs = fronts[low]
        first = past = bisect_left(ys, y)
        while past < len(zs) and zs[past] >= z:
            past += 1
        ys[first:past], zs[first:past] = [y], [z]
        ranks.append(low)
    return np.array(ranks, dtype=np.int64)


def _ranks_nd(rows: Floats) -> Ints:
    ranks = np.zeros(len(rows), dtype=np.int64)
    for i in range(1, len(rows)):
        dominating = (rows[:i] <= rows[i]).all(axis=1)
        ranks[i] = ranks[:i][dominating].max(initial=-1) + 1
    return ranks


def _front_nd(rows: Floats) -> NDArray[np.bool_]:
    """The first row left is on the front; it takes those that it dominates away."""
    front = np.zeros(len(rows), dtype=np.bool_)
    left = np.arange(len(rows))
    while len(left):
        front[left[0]] = True
        left = left[(rows[left, 1:] < rows[left[0], 1:]).any(axis=1)]
    return front


def _front_3d(rows: Floats) -> NDArray[np.bool_]:
    """Divide and conquer (Kung, Luccio and Preparata 1975), all blocks of a level at once.

    At each level the rows stand in blocks of a power of two by their place in the first objective, within a block by the
    second. A row of a block's second half is dominated from its first half if the lowest third objective among the
    first half's rows before it is not above its own.
    """
    count = len(rows)
    third = np.unique(rows[:, 2], return_inverse=True)[1].reshape(-1)
    dominated = np.zeros(count, dtype=np.bool_)
    standing = np.argsort(rows[:, 1], kind="stable")  # equal y: a lexicographically earlier row stands before
    half = 1 << (count - 1).bit_length() >> 1
    while half:
        block = standing // (2 * half)
        first = (standing & half) == 0
        level = third[standing]
        # Lowered by more than any value from block to block, so that the running minimum begins anew in each.
        lowered = block * (count + 1)
        lowest = np.minimum.accumulate(np.where(first, level, count) - lowered) + lowered
        dominated[standing[~first & (lowest <= level)]] = True
        halves = np.minimum(half, count - 2 * half * block)
        seat = np.where(first, np.cumsum(first) - 1 + half * block, np.cumsum(~first) - 1 + halves + half * block)
        following = np.empty_like(standing)
        following[seat] = standing
        standing, half = following, half >> 1
    return ~dominated
