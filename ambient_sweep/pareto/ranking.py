"""A total order of trials by two objectives, for rungs that new trials keep joining."""

import numpy as np
from numpy.typing import ArrayLike

from ambient_sweep.pareto.dominance import nondominated_rank
from ambient_sweep.pareto.front_shape import crowding_distance
from ambient_sweep.pareto.rows import Floats, Ints, Mask


class Ranking:
    """Rows ordered by feasibility, then nondominated rank among equally feasible rows, then larger crowding distance.

    Rows that are not finite are equal, and worse than all others. Rows that are not `counted` have a place but are left
    out of everybody's count: a place is the number of counted rows that are strictly better.
    """

    def __init__(self) -> None:
        self.values: Floats = np.empty((0, 2))  # minimised; a row that is not finite is NaN throughout
        self.feasible: Mask = np.empty(0, dtype=np.bool_)
        self._counted: Mask = np.empty(0, dtype=np.bool_)
        self._fronts: Ints | None = None  # of each row; None: to be sorted anew

    def __len__(self) -> int:
        return len(self.values)

    def add(self, values: ArrayLike, feasible: bool, counted: bool = True) -> None:
        """One more row, values [2]."""
        row = np.asarray(values, dtype=np.float64).reshape(1, 2)
        self.values = np.concatenate([self.values, row if np.isfinite(row).all() else np.full((1, 2), np.nan)])
        self.feasible = np.append(self.feasible, feasible)
        self._counted = np.append(self._counted, counted)
        self._fronts = None

    def place(self, row: int) -> int:
        """How many counted rows are strictly better."""
        fronts = self._sorted()
        front = np.flatnonzero(fronts == fronts[row])
        distance = self._crowding(front)
        better = distance > distance[np.searchsorted(front, row)]
        return self.least_place(row) + int(np.count_nonzero(better & self._counted[front]))

    def least_place(self, row: int) -> int:
        """How many counted rows are on better fronts: a lower bound of the place, and quicker."""
        fronts = self._sorted()
        return int(np.count_nonzero(self._counted & (fronts < fronts[row])))

    def is_below(self, row: int, place: int) -> bool:
        """Whether fewer than `place` counted rows are strictly better."""
        return self.least_place(row) < place and self.place(row) < place

    def below(self, place: int) -> Mask:
        """Which rows have fewer than `place` counted rows that are strictly better."""
        fronts = self._sorted()
        through = np.bincount(fronts, weights=self._counted, minlength=1).cumsum()  # counted rows up to each front
        cut = int(np.searchsorted(through, place))  # the first front that reaches `place`
        result = np.asarray(fronts < cut)
        room = place - (int(through[cut - 1]) if cut else 0)
        if room > 0 and cut < len(through):
            front = np.flatnonzero(fronts == cut)
            distance = self._crowding(front)
            result[front] = distance >= -np.sort(-distance[self._counted[front]])[room - 1]
        return result

    def _sorted(self) -> Ints:
        """The front of each row: those of feasible rows come first, those of infeasible ones next, then the rest."""
        if self._fronts is None:
            finite = np.isfinite(self.values[:, 0])
            fronts, count = np.zeros(len(self), dtype=np.int64), 0
            for members in (finite & self.feasible, finite & ~self.feasible):
                fronts[members] = count + nondominated_rank(self.values[members])
                count = int(fronts[members].max(initial=count - 1)) + 1
            fronts[~finite] = count
            self._fronts = fronts
        return self._fronts

    def _crowding(self, front: Ints) -> Floats:
        values = self.values[front]
        return crowding_distance(values) if np.isfinite(values).all() else np.zeros(len(front))
