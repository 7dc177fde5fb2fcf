"""Ray Tune's scheduler: asks a stopping rule about every full evaluation, and does what it says.

Tune's own schedulers take one metric. This one leaves `TuneConfig.metric` unset and hands the whole result to its rule.

A paused trial gives its worker away. When the rule promotes it, Tune starts its function again, which goes on from the
trial's own folder. Paused trials that no one is left to make room for are stopped at the end: they keep what they have.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import ConcurrencyLimiter

from ambient_sweep.sweep.budget import ROLES, Budget
from ambient_sweep.sweep.rules import RungRule, StoppingRule, Stratum
from ambient_sweep.sweep.rungs import Decision

__all__ = ["RungRule", "StoppingRule", "Stratum", "SweepScheduler"]

SEARCH_ROLE = "search"


class SweepScheduler(TrialScheduler):
    """Stops, pauses and restarts the searched trials of a sweep as `rule` decides.

    A trial's config is the searcher's suggestion, `{"trial_id", "role", "label", "values"}`. The rule hears of the
    evaluations of all roles; it never stops or pauses trials of another role than `search`. `concurrent`: how many
    trials may train at once, where the cluster's resources alone do not limit that. A limit by Tune's
    `max_concurrent_trials` counts trials until they end; paused ones are taken out of it here. Once `budget` is spent, every
    trial ends at its next evaluation and none is promoted; what is left of it when no more will come goes to paused trials.
    """

    _supports_buffered_results = False  # a trial must not train on while its report waits

    def __init__(self, rule: StoppingRule, *, concurrent: int | None = None, budget: Budget | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.rule, self.budget = rule, budget or Budget()
        self._concurrent = concurrent
        self._live: set[str] = set()  # trial ids, all three
        self._held: set[str] = set()  # paused in an earlier session, not yet handed out in this one
        self._paused: dict[str, Trial] = {}
        self._new: dict[str, Trial] = {}  # not started yet
        self._promoted: dict[str, Trial] = {}  # not restarted yet
        self._last: list[str] = []  # those that may go on since no more will come

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """True as long as Tune is given no metric: the rule reads the objectives from the result."""
        return metric is None

    # -- told by Tune -------------------------------------------------------------------------------------------------

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """A new trial, one of an earlier session, or one whose worker died and that starts again."""
        trial_id = _id(trial)
        self._live.add(trial_id)
        if trial_id in self._held:
            self._held.remove(trial_id)
            # Tune sorts the trial by its status right after this call.
            trial.set_status(Trial.PAUSED)  # type: ignore[no-untyped-call]
            self._pause(tune_controller, trial)
        else:
            self._new[trial_id] = trial

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: Mapping[str, Any]) -> str:
        """What becomes of the trial after this report."""
        if not result["evaluated"]:
            return str(TrialScheduler.CONTINUE)
        decision, role = self.rule.report(_id(trial), trial.config["values"], result), trial.config["role"]
        if self.budget.limited and role in ROLES:
            self.budget.report(_id(trial), result["images_executed"])
            trains_on = decision == Decision.CONTINUE or role != SEARCH_ROLE
            if trains_on and self.budget.spent and result["images_left"] > 0:
                return str(TrialScheduler.STOP)
        if decision == Decision.CONTINUE or role != SEARCH_ROLE:
            return str(TrialScheduler.CONTINUE)
        if decision == Decision.STOP:
            return str(TrialScheduler.STOP)
        self._pause(tune_controller, trial)
        return str(TrialScheduler.PAUSE)

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: Mapping[str, Any]) -> None:
        """A running trial ended, by itself or stopped."""
        self._end(tune_controller, trial)

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        """A trial that was not running was stopped."""
        self._end(tune_controller, trial)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """A trial's worker died; Tune adds the trial again if it is to go on."""
        self._end(tune_controller, trial)

    # -- asked by Tune ------------------------------------------------------------------------------------------------

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """Promoted trials first, then new ones in their order. Stops the paused trials once nothing else is left.

        Costs nothing per trial: Tune asks at every step of its loop.
        """
        starting = _first_pending(self._promoted)
        if self.budget.spent:
            self._last = []
        elif self._paused and (self._has_room() if self._concurrent else starting is None):
            ready = self.rule.promotable() or [each for each in self._last if not self.rule.busy(each)]
            promoted = self._promote(tune_controller, ready)
            if promoted is not None:
                return promoted
        chosen = starting or _first_pending(self._new)
        if chosen is None and self._paused and self._only_paused(tune_controller):
            self._last = self._last_ones()  # side by side, as many as there is room for
            chosen = self._promote(tune_controller, self._last)
            for trial in list(self._paused.values()) if chosen is None else ():
                tune_controller.stop_trial(trial)
        return chosen

    def is_paused(self, trial_id: str) -> bool:
        """Whether a trial waits, or is on its way to it."""
        return trial_id in self._paused

    def debug_string(self) -> str:
        """For Tune's own progress report."""
        return f"{type(self.rule).__name__}: {len(self._live)} trials, {len(self._paused)} of them paused"

    # -- state --------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """The rule's state and which trials are paused, as JSON can hold it."""
        return {"rule": self.rule.state(), "paused": [*self._paused, *sorted(self._held)]}

    def load(self, state: Mapping[str, Any]) -> None:
        """Takes up a state: trials that were paused stay so when the searcher hands them out again."""
        self.rule.restore(state["rule"])
        self._held = set(state["paused"])

    def save(self, checkpoint_path: str) -> None:
        """Writes `state` as JSON."""
        Path(checkpoint_path).write_text(json.dumps(self.state()), encoding="utf-8")

    def restore(self, checkpoint_path: str) -> None:
        """Reads what `save` wrote."""
        self.load(json.loads(Path(checkpoint_path).read_text(encoding="utf-8")))

    # -- inside -------------------------------------------------------------------------------------------------------

    def _last_ones(self) -> list[str]:
        """The paused trials that may go on when nothing runs and no more will come."""
        if self.budget.spent:
            return []
        last = self.rule.promotable(final=True)
        if not last and self.budget.limited:
            last = self.rule.nearest(self._concurrent or 1)
        return last

    def _promote(self, tune_controller: Any, promotable: list[str]) -> Trial | None:
        """The first of these that is paused, on its way to a worker."""
        for trial_id in promotable:
            trial = self._paused.get(trial_id)
            if trial is not None and trial.status == Trial.PAUSED:  # and not still on its way there
                self._unpause(tune_controller, trial)
                self._promoted[trial_id] = trial
                self._last = [each for each in self._last if each != trial_id]  # once, however soon it pauses again
                return trial
        return None

    def _has_room(self) -> bool:
        return self._concurrent is None or len(self._live) - len(self._paused) < self._concurrent

    def _only_paused(self, tune_controller: Any) -> bool:
        """Whether every live trial is paused and no more will come."""
        return (
            len(self._live) == len(self._paused)
            and tune_controller.search_alg.is_finished()
            and all(trial.status == Trial.PAUSED for trial in self._paused.values())
        )

    def _pause(self, tune_controller: Any, trial: Trial) -> None:
        self._paused[_id(trial)] = trial
        limiter = _limiter(tune_controller)
        if limiter is not None:
            limiter.live_trials.discard(trial.trial_id)

    def _unpause(self, tune_controller: Any, trial: Trial) -> None:
        limiter = _limiter(tune_controller)
        # It must be there again before it ends, or the limiter keeps the end from the searcher.
        if self._paused.pop(_id(trial), None) is not None and limiter is not None:
            limiter.live_trials.add(trial.trial_id)

    def _end(self, tune_controller: Any, trial: Trial) -> None:
        trial_id = _id(trial)
        self._unpause(tune_controller, trial)
        self._live.discard(trial_id)
        self._new.pop(trial_id, None)
        self._promoted.pop(trial_id, None)
        self.rule.ended(trial_id)


def _id(trial: Trial) -> str:
    return str(trial.config["trial_id"])


def _first_pending(trials: dict[str, Trial]) -> Trial | None:
    """The first that waits for its worker; those that got one are let go."""
    while trials:
        trial_id, trial = next(iter(trials.items()))
        if trial.status == Trial.PENDING:
            return trial
        del trials[trial_id]
    return None


def _limiter(tune_controller: Any) -> ConcurrencyLimiter | None:
    searcher = getattr(tune_controller.search_alg, "searcher", None)
    while searcher is not None and not isinstance(searcher, ConcurrencyLimiter):
        searcher = getattr(searcher, "searcher", None)
    return searcher
