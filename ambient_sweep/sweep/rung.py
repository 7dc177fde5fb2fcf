"""One rung of MO-ASHA: where rungs lie, who has an entry at one, and which of the entries go on."""

import itertools
import math
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ambient_sweep.errors import UserError
from ambient_sweep.pareto import Ranking
from ambient_sweep.pareto.rows import Floats


@dataclass(frozen=True)
class RungSettings:
    """Where the rungs lie and how trials are told apart there. Raises UserError for values that make no sense."""

    eta: float = 3.0  # one of eta goes on
    grace: int = 1  # images (or whatever positions count) of the first rung
    length: int | None = None  # of a full training; geometric rungs lie below it
    levels: tuple[int, ...] = ()  # the rungs, where they are not to be grace, grace * eta, ...
    brackets: int = 1  # bracket b leaves the first b rungs out
    variant: Literal["stop", "promote"] = "stop"
    among: Literal["rung", "shorter"] = "rung"  # what an entry is ranked among: its rung, or with it all shorter ones
    relative_to: Literal["start", "phase"] = "start"  # a rung counts from the training's start or from its phase's
    directions: tuple[int, ...] = (1, 1)  # per objective: +1 is minimised, -1 maximised
    positions: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.eta) and self.eta > 1):
            raise UserError(f"rungs: eta must be above 1, not {self.eta!r}")
        if not self.directions or any(each not in (1, -1) for each in self.directions):
            raise UserError(f"rungs: directions must be +1 (minimise) or -1 (maximise), not {self.directions!r}")
        for name, known in (
            ("variant", ("stop", "promote")),
            ("among", ("rung", "shorter")),
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
        self.shorter = 0  # entries of shorter rungs, among which the order is made as well
        self.ranking = Ranking()

    @property
    def keeps(self) -> int:
        """How many of its entries go on."""
        return math.floor(len(self.trials) / self._settings.eta)

    def add(self, trial_id: str, values: Floats, feasible: bool) -> None:
        """Enters a trial that has no entry here."""
        self.trials[trial_id] = len(self.ranking)
        self.ranking.add(values, feasible)

    def add_shorter(self, values: Floats, feasible: bool) -> None:
        """Takes an entry of a shorter rung into the order: whoever goes on should beat what less training gives."""
        self.shorter += 1
        self.ranking.add(values, feasible, counted=False)

    def entries(self) -> list[tuple[list[float], bool]]:
        """The values of each trial, NaN throughout where one is not finite, and whether they break no constraint."""
        rows = list(self.trials.values())
        return list(zip(self.ranking.values[rows].tolist(), self.ranking.feasible[rows].tolist(), strict=True))

    def goes_on(self, trial_id: str) -> bool:
        """Whether fewer than `keeps` entries are strictly better."""
        return self.ranking.is_below(self.trials[trial_id], self.keeps)

    @property
    def kept(self) -> NDArray[np.bool_]:
        """Which rows go on."""
        return self.ranking.below(self.keeps)
