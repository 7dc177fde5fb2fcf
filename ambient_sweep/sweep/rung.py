"""One rung of MO-ASHA: where rungs lie, who has an entry at one, and which of the entries go on."""

import itertools
import math
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ambient_sweep.errors import UserError
from ambient_sweep.pareto import best, places
from ambient_sweep.pareto.rows import Floats, Ints


@dataclass(frozen=True)
class RungSettings:
    """Where the rungs lie and how trials are told apart there. Raises UserError for values that make no sense."""

    eta: float = 3.0  # one of eta goes on
    grace: int = 1  # images (or whatever positions count) of the first rung
    length: int | None = None  # of a full training; geometric rungs lie below it
    levels: tuple[int, ...] = ()  # the rungs, where they are not to be grace, grace * eta, ...
    brackets: int = 1  # bracket b leaves the first b rungs out
    variant: Literal["stop", "promote"] = "stop"
    ties: Literal["crowding", "epsilon"] = "crowding"
    relative_to: Literal["start", "phase"] = "start"  # a rung counts from the training's start or from its phase's
    directions: tuple[int, ...] = (1, 1)  # per objective: +1 is minimised, -1 maximised
    scales: tuple[float, ...] | None = None  # per objective: what counts as 1 among ties; None: the front's range
    positions: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.eta) and self.eta > 1):
            raise UserError(f"rungs: eta must be above 1, not {self.eta!r}")
        if not self.directions or any(each not in (1, -1) for each in self.directions):
            raise UserError(f"rungs: directions must be +1 (minimise) or -1 (maximise), not {self.directions!r}")
        if self.scales is not None and (
            len(self.scales) != len(self.directions) or not all(math.isfinite(s) and s > 0 for s in self.scales)
        ):
            raise UserError(f"rungs: scales must be one positive number per objective, not {self.scales!r}")
        for name, known in (
            ("variant", ("stop", "promote")),
            ("ties", ("crowding", "epsilon")),
            ("relative_to", ("start", "phase")),
        ):
            if getattr(self, name) not in known:
                raise UserError(f"rungs: {name} must be one of {', '.join(known)}, not {getattr(self, name)!r}")
        positions = self.levels or tuple(self._geometric())
        if not positions or positions[0] < 1 or any(a >= b for a, b in itertools.pairwise(positions)):
            raise UserError(f"rungs: levels must be whole numbers that rise from 1 or more, not {positions!r}")
        if not 1 <= self.brackets <= len(positions):
            raise UserError(f"rungs: brackets must be between 1 and the {len(positions)} rungs, not {self.brackets!r}")
        object.__setattr__(self, "positions", positions)

    def _geometric(self) -> Iterator[int]:
        if self.grace < 1 or self.length is None:
            raise UserError("rungs: give the levels, or a grace of at least 1 and the length of a full training")
        step = 0
        while (position := round(self.grace * self.eta**step)) < self.length:
            if step == 0 or position > round(self.grace * self.eta ** (step - 1)):
                yield position
            step += 1


@dataclass(frozen=True)
class Key:
    """Which entries are compared with each other."""

    bracket: int
    level: int  # index of the rung
    stratum: Hashable


class Rung:
    """The values of the trials that reached one rung, and which of them go on."""

    def __init__(self, settings: RungSettings) -> None:
        self._settings = settings
        self.trials: dict[str, int] = {}  # trial id -> row
        # With room for more; a row of memory per objective, as entries are compared objective by objective.
        self._columns = np.empty((len(settings.directions), 16))
        self._feasible = np.empty(16, dtype=np.bool_)
        self._kept: NDArray[np.bool_] | None = None

    @property
    def values(self) -> Floats:
        """Minimised, a row per trial in the order of `trials`; a row that is not finite is NaN throughout."""
        return self._columns[:, : len(self.trials)].T

    @property
    def feasible(self) -> NDArray[np.bool_]:
        """Which rows break no constraint."""
        return self._feasible[: len(self.trials)]

    @property
    def keeps(self) -> int:
        """How many of its entries go on."""
        return math.floor(len(self.trials) / self._settings.eta)

    def add(self, trial_id: str, values: Floats, feasible: bool) -> bool:
        """Enters a trial that has no entry here. False: that certainly changes nothing for the others."""
        row, keeps = len(self.trials), self.keeps
        if row == len(self._feasible):
            self._columns = np.concatenate([self._columns, np.empty_like(self._columns)], axis=1)
            self._feasible = np.concatenate([self._feasible, np.empty_like(self._feasible)])
        self._columns[:, row] = values if np.isfinite(values).all() else np.nan
        self._feasible[row] = feasible
        self.trials[trial_id] = row
        if self._kept is not None and self.keeps == keeps and self._dominating(row) >= keeps:
            self._kept = np.append(self._kept, False)  # one that so many dominate displaces none of them
            return False
        self._kept = None
        return True

    def goes_on(self, trial_id: str) -> bool:
        """Whether fewer than `keeps` entries are strictly better. Most often decided without sorting all."""
        row, keeps = self.trials[trial_id], self.keeps
        if self._kept is not None:
            return bool(self._kept[row])
        if self._dominating(row) >= keeps:
            return False
        if not (self.feasible[row] and np.isfinite(self._columns[:, row]).all()):
            return bool(self.kept[row])
        # Nothing that it dominates stands before it, or changes who does.
        others = ~self._related(row, np.greater_equal, np.greater)
        if int(others.sum()) <= keeps:
            return True
        return bool(self._best(others)[int(others[:row].sum())])

    @property
    def kept(self) -> NDArray[np.bool_]:
        """Which rows go on."""
        if self._kept is None:
            self._kept = self._best(np.ones(len(self.trials), dtype=np.bool_))
        return self._kept

    def places(self) -> Ints:
        """How many entries are strictly better than each."""
        return places(self.values, self.feasible, ties=self._settings.ties, scales=self._settings.scales)

    def _dominating(self, row: int) -> int:
        """How many feasible entries dominate a row, if it is feasible itself; each of them stands before it."""
        if not self.feasible[row]:
            return 0
        return int((self._related(row, np.less_equal, np.less) & self.feasible).sum())

    def _related(self, row: int, nowhere_not: np.ufunc, somewhere: np.ufunc) -> NDArray[np.bool_]:
        count = len(self.trials)
        everywhere, anywhere = np.ones(count, dtype=np.bool_), np.zeros(count, dtype=np.bool_)
        for column in self._columns:
            everywhere &= nowhere_not(column[:count], column[row])
            anywhere |= somewhere(column[:count], column[row])
        return everywhere & anywhere

    def _best(self, among: NDArray[np.bool_]) -> NDArray[np.bool_]:
        settings = self._settings
        return best(self.values[among], self.feasible[among], self.keeps, ties=settings.ties, scales=settings.scales)
