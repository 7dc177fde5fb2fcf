"""Nondominated fronts of points that come one after another, right after each of them.

A new point joins the first front that has nobody who dominates it. Those that it dominates there leave for the next
front, where they may do the same, and so on until nobody has to leave: efficient non-domination level update (Li, Deb,
Zhang and Zhang 2017). If a whole front has to leave, it stays together, and all behind it stand one further (Yakupov and
Buzdalov 2015). Sorting N points one by one takes about N^1.5 steps in this way, sorting them anew each time N^2 log N.
"""

from bisect import bisect_left, bisect_right
from typing import Protocol, Self

import numpy as np

from ambient_sweep.pareto.rows import Column, Floats, Ints


class Front(Protocol):
    """Points of which none dominates another, all different."""

    ids: list[int]

    @classmethod
    def of(cls, point: Floats, number: int) -> Self:
        """A front of one point."""

    def covers(self, point: Floats) -> bool:
        """Whether one of its points is nowhere larger than `point`."""

    def find(self, point: Floats) -> int | None:
        """The number of the point that equals this one."""

    def admit(self, others: Self) -> Self:
        """Takes points in that it does not dominate; those that are dominated by them leave, and are returned."""


class Staircase:
    """A front of one or two objectives: from step to step the first rises and the second falls.

    The points that are dominated by steps next to each other of the front before stand next to each other.
    """

    def __init__(self, first: list[float], second: list[float], ids: list[int]) -> None:
        self._first, self._second, self.ids = first, second, ids  # the second negated: both rise

    @classmethod
    def of(cls, point: Floats, number: int) -> "Staircase":
        first, second = _pair(point)
        return cls([first], [second], [number])

    def covers(self, point: Floats) -> bool:
        first, second = _pair(point)
        step = bisect_right(self._first, first) - 1  # of those that are not larger in the first, the lowest
        return step >= 0 and self._second[step] >= second

    def find(self, point: Floats) -> int | None:
        first, second = _pair(point)
        step = bisect_left(self._first, first)
        found = step < len(self.ids) and (self._first[step], self._second[step]) == (first, second)
        return self.ids[step] if found else None

    def admit(self, others: "Staircase") -> "Staircase":
        begin = bisect_left(self._first, others._first[0])
        end = bisect_right(self._second, others._second[-1], lo=begin)
        left = Staircase(self._first[begin:end], self._second[begin:end], self.ids[begin:end])
        self._first[begin:end], self._second[begin:end] = others._first, others._second
        self.ids[begin:end] = others.ids
        return left


def _pair(point: Floats) -> tuple[float, float]:
    return float(point[0]), -float(point[1]) if len(point) == 2 else 0.0


class Cloud:
    """A front of any number of objectives, compared point by point."""

    def __init__(self, points: Floats, ids: list[int]) -> None:
        self._points, self.ids = points, ids

    @classmethod
    def of(cls, point: Floats, number: int) -> "Cloud":
        return cls(np.array([point]), [number])

    def covers(self, point: Floats) -> bool:
        return bool((self._points <= point).all(axis=1).any())

    def find(self, point: Floats) -> int | None:
        found = np.flatnonzero((self._points == point).all(axis=1))
        return self.ids[found[0]] if len(found) else None

    def admit(self, others: "Cloud") -> "Cloud":
        leaves = (others._points[:, None] <= self._points).all(axis=2).any(axis=0)
        left = Cloud(self._points[leaves], [self.ids[i] for i in np.flatnonzero(leaves)])
        self._points = np.concatenate([self._points[~leaves], others._points])
        self.ids = [self.ids[i] for i in np.flatnonzero(~leaves)] + others.ids
        return left


class Fronts:
    """The rows that were added, each of finite values, all minimised, and their nondominated ranks."""

    def __init__(self, objectives: int) -> None:
        self._kind: type[Staircase] | type[Cloud] = Staircase if objectives <= 2 else Cloud
        self._fronts: list[Front] = []
        self._rank = Column((), np.int64)  # of each point; equal rows are one point
        self._point = Column((), np.int64)  # of each row

    def add(self, values: Floats) -> None:
        """One more row, values [M]."""
        rank = self._covering(values)
        known = self._fronts[rank - 1].find(values) if rank else None
        if known is None:
            known = len(self._rank)
            self._enter(self._kind.of(values, known), rank)
        self._point.append(known)

    @property
    def ranks(self) -> Ints:
        """Of all rows, as `nondominated_rank` gives them."""
        ranks: Ints = self._rank.array[self._point.array]
        return ranks

    def _covering(self, values: Floats) -> int:
        """How many fronts have a point that is nowhere larger: they are the first ones, as each covers those behind it."""
        low, high = 0, len(self._fronts)
        while low < high:
            middle = (low + high) // 2
            if self._fronts[middle].covers(values):
                low = middle + 1
            else:
                high = middle
        return low

    def _enter(self, moving: Front, rank: int) -> None:
        """A new point joins the front of `rank`; all who have to leave theirs for it move on by one."""
        left: list[int] = []
        at = rank
        while moving.ids:
            if at == len(self._fronts):
                self._fronts.append(moving)
                break
            front = self._fronts[at]
            leaving = front.admit(moving)
            if len(front.ids) == len(moving.ids):  # all who were there leave
                self._fronts.insert(at + 1, leaving)
                ranks = self._rank.array
                ranks[ranks >= at] += 1
                break
            left += leaving.ids
            moving, at = leaving, at + 1
        self._rank.array[left] += 1
        self._rank.append(rank)
