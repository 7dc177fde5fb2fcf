"""Nondominated ranks, crowding and the order of trials, straight from their definitions."""

import math
from collections.abc import Sequence

import numpy as np


def peel(values: np.ndarray) -> list[int]:
    """Nondominated ranks of finite rows: take off the front, count, repeat."""
    nowhere_larger = (values[:, None] <= values).all(axis=2)
    dominates = nowhere_larger & ~nowhere_larger.T
    ranks, left = np.zeros(len(values), dtype=int), np.ones(len(values), dtype=bool)
    while left.any():
        front = left & ~dominates[left].any(axis=0)
        left &= ~front
        ranks[left] += 1
    return ranks.tolist()


def crowding(front: np.ndarray) -> list[float]:
    """Crowding distances by a search for each row's neighbours."""
    distances = [0.0] * len(front)
    for column in front.T.tolist():
        span = max(column) - min(column)
        for i, value in enumerate(column):
            below = max((v for v in column if v < value), default=-math.inf)
            above = min((v for v in column if v > value), default=math.inf)
            distances[i] += (above - below) / span if span else 0.0
    return distances if len(np.unique(front, axis=0)) > 1 else [math.inf] * len(front)


def places(values: np.ndarray, feasible: Sequence[bool] | np.ndarray) -> list[int]:
    """How many rows are strictly better: by feasibility, rank, crowding; rows that are not finite last and equal."""
    groups = np.where(np.isfinite(values).all(axis=1), np.where(feasible, 0, 1), 2)
    keys = [(2, 0, 0.0)] * len(values)
    for group in (0, 1):
        rows = np.flatnonzero(groups == group)
        ranks = np.array(peel(values[rows]), dtype=int)
        for rank in set(ranks.tolist()):
            front = rows[ranks == rank]
            for row, distance in zip(front, crowding(values[front]), strict=True):
                keys[row] = (group, rank, -distance)
    return [sum(other < key for other in keys) for key in keys]
