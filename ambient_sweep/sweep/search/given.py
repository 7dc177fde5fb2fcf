"""Trials that are known beforehand, behind the interface of `SweepSearch`: those with the least to train go first."""

from collections.abc import Sequence

from ambient_sweep.stages.planner import Planner
from ambient_sweep.sweep.report import Report
from ambient_sweep.sweep.search.budget import Budget
from ambient_sweep.sweep.space.definition import SweepTrial
from ambient_sweep.sweep.stopping.rungs import Decision


class GivenTrials:
    """Every trial runs to its end; none starts while a part of its training runs in another."""

    def __init__(self, trials: Sequence[SweepTrial], planner: Planner | None) -> None:
        self._left, self._planner = list(trials), planner
        self.trials: dict[str, SweepTrial] = {}
        self.budget = Budget()

    def next(self, trial_id: str) -> SweepTrial | None:
        """The trial to begin now; None where there is none. They have ids of their own."""
        planner = self._planner
        free = [trial for trial in self._left if planner is None or not planner.busy(trial.values)]
        if not free:
            return None
        chosen = free[0] if planner is None else min(free, key=lambda trial: planner.cost(trial.values))
        self._left.remove(chosen)
        self.trials[chosen.trial_id] = chosen
        if planner is not None:
            planner.started(chosen.trial_id, chosen.values)
        return chosen

    @property
    def finished(self) -> bool:
        return not self._left

    def is_paused(self, trial_id: str) -> bool:
        return False

    def rung_of(self, trial_id: str) -> int | None:
        return None

    def evaluated(self, trial_id: str, report: Report) -> Decision:
        if self._planner is not None:
            self._planner.reached(trial_id, report.images)
        return Decision.CONTINUE

    def ended(self, trial_id: str, report: Report | None = None, *, lost: bool = False) -> None:
        del self.trials[trial_id]
        if self._planner is not None:
            self._planner.ended(trial_id)

    def end_paused(self) -> list[SweepTrial]:
        return []
