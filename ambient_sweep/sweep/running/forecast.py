"""How many images a sweep will still train, as far as one can tell."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ambient_sweep.sweep.space.definition import Role

SURPLUS = 1.25  # early promotions, and the last ones, exceed one in eta: by a fifth to a third in simulated sweeps


@dataclass
class _Trial:
    role: Role
    done: int = 0  # where the trial stands, in images
    executed: int = 0  # of these, trained by the trial itself
    left: int = 0


class Forecast:
    """Fixed trials run to their ends. Searched ones are expected to pass from rung to rung as MO-ASHA lets them, and to find
    as much trained by others as those before them did.

    images: of a whole training. fixed, searched: numbers of trials. levels, eta: of the rungs. budget: search.images.
    """

    def __init__(
        self,
        images: int,
        fixed: int,
        searched: int,
        levels: Sequence[float] = (),
        eta: int = 2,
        budget: int | None = None,
    ) -> None:
        self._images, self._fixed, self._searched, self._budget = images, fixed, searched, budget
        bounds = [0.0, *levels, 1.0]
        share = sum((high - low) / eta**i for i, (low, high) in enumerate(itertools.pairwise(bounds)))
        self._share = min(1.0, share * SURPLUS) if levels else 1.0
        self._trials: dict[str, _Trial] = {}

    def report(self, trial_id: str, role: Role, done: int, executed: int | None, left: int) -> None:
        """A trial stands after `done` images, and has `left` to its own end."""
        trial = self._trials.setdefault(trial_id, _Trial(role))
        trial.done, trial.left = done, left
        trial.executed = trial.executed if executed is None else executed

    def ended(self, trial_id: str) -> None:
        """A trial trains no more."""
        if trial_id in self._trials:
            self._trials[trial_id].left = 0

    def confirm(self, replicates: Mapping[str, int]) -> None:
        """The search is over; what is left are these trials, with their lengths in images."""
        self._searched, self._budget = 0, None
        for trial_id, images in replicates.items():
            self._trials.setdefault(trial_id, _Trial("replicate", left=images))

    @property
    def executed(self) -> int:
        """Images trained so far."""
        return sum(trial.executed for trial in self._trials.values())

    def images_left(self) -> float:
        """Images that will still be trained."""
        searched = [trial for trial in self._trials.values() if trial.role == "search"]
        others = [trial for trial in self._trials.values() if trial.role != "search"]
        left: float = sum(trial.left for trial in others)
        left += self._images * max(0, self._fixed - len(others))
        executed, done = sum(trial.executed for trial in searched), sum(trial.done for trial in searched)
        if self._budget is not None:
            return left + max(0.0, self._budget - executed)
        saving = executed / done if done else 1.0
        expected: float = self._searched * self._images * self._share * saving
        return left + max(0.0, expected - executed)
