"""The order of `places` for rows that come one after another, without sorting them anew each time."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ambient_sweep.pareto.fronts import Fronts
from ambient_sweep.pareto.order import Ties, tie_breaks
from ambient_sweep.pareto.rows import Column, Floats, Ints

FEASIBLE, INFEASIBLE, NOT_FINITE = 0, 1, 2


class Ranking:
    """Rows in the order of `places`. What is kept up to date are the fronts; ties are broken when somebody asks.

    Rows that are not `counted` take part in the order, and nobody counts them: a place is that among the counted ones.
    """

    def __init__(self, objectives: int, *, ties: Ties = "crowding", scales: Sequence[float] | None = None) -> None:
        self._ties, self._scales = ties, scales
        self._values = Column((objectives,), np.float64)
        self._feasible = Column((), np.bool_)
        self._counted = Column((), np.bool_)
        self._group = Column((), np.int8)
        self._number = Column((), np.int64)  # a row's number within its group
        self._rows = tuple(Column((), np.int64) for _ in range(3))  # of each group
        self._fronts = (Fronts(objectives), Fronts(objectives))  # feasible, infeasible

    def __len__(self) -> int:
        return len(self._group)

    @property
    def values(self) -> Floats:
        """[N, M] in the order of being added, minimised; a row that is not finite is NaN throughout."""
        return self._values.array

    @property
    def feasible(self) -> NDArray[np.bool_]:
        """Which rows break no constraint."""
        return self._feasible.array

    def add(self, values: Floats, feasible: bool, counted: bool = True) -> None:
        """One more row, values [M], minimised."""
        self._counted.append(counted)
        finite = bool(np.isfinite(values).all())
        group = NOT_FINITE if not finite else FEASIBLE if feasible else INFEASIBLE
        self._number.append(len(self._rows[group]))
        self._rows[group].append(len(self))
        self._group.append(group)
        self._values.append(values if finite else np.nan)
        self._feasible.append(feasible)
        if finite:
            self._fronts[group].add(values)

    def place(self, row: int) -> int:
        """How many counted rows are strictly better."""
        before, front = self._standing(row)
        return before + self._better(row, front)

    def least_place(self, row: int) -> int:
        """How many counted rows are better by group and front alone."""
        return self._standing(row)[0]

    def is_below(self, row: int, place: int) -> bool:
        """Whether fewer than `place` counted rows are strictly better; most often known by the row's front alone."""
        before, front = self._standing(row)
        mates = int(np.count_nonzero(self._counted.array[front]))
        return before < place and (before + mates <= place or before + self._better(row, front) < place)

    def below(self, place: int) -> NDArray[np.bool_]:
        """Which rows have fewer than `place` counted rows that are strictly better: ties tell one front at most apart."""
        result, before, counted = np.zeros(len(self), dtype=np.bool_), 0, self._counted.array
        for group, fronts in enumerate(self._fronts):
            rows, ranks = self._rows[group].array, fronts.ranks
            # how many there are up to each front's end, and the first front that goes beyond `place`
            through = before + np.cumsum(np.bincount(ranks, weights=counted[rows])).astype(np.int64)
            cut = int(np.searchsorted(through, place, side="right"))
            result[rows[ranks < cut]] = True
            room = place - (int(through[cut - 1]) if cut else before)
            if room > 0 and cut < len(through):
                front = rows[ranks == cut]
                ties = self._tie_breaks(front)
                result[front] = ties <= np.sort(ties[counted[front]])[room - 1]
            before += int(np.count_nonzero(counted[rows]))
        if before < place:
            result[self._rows[NOT_FINITE].array] = True
        return result

    def _standing(self, row: int) -> tuple[int, Ints]:
        """How many counted rows come before a row's front, and the rows of that front."""
        group, counted = int(self._group.array[row]), self._counted.array
        rows = self._rows[group].array
        before = sum(int(np.count_nonzero(counted[self._rows[better].array])) for better in range(group))
        if group == NOT_FINITE:
            return before, rows
        ranks = self._fronts[group].ranks
        rank = ranks[self._number.array[row]]
        return before + int(np.count_nonzero(counted[rows[ranks < rank]])), rows[ranks == rank]

    def _better(self, row: int, front: Ints) -> int:
        """How many counted rows of its own front are better than a row."""
        if self._group.array[row] == NOT_FINITE:
            return 0
        ties = self._tie_breaks(front)
        return int(np.count_nonzero((ties < ties[np.searchsorted(front, row)]) & self._counted.array[front]))

    def _tie_breaks(self, front: Ints) -> Floats:
        return tie_breaks(self.values[front], self._ties, self._scales)
