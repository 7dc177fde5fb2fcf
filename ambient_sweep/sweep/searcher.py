"""Ray Tune's searcher: first the trials outside the search, then Optuna's.

The study file (Optuna's journal, `<root>/study.journal`) holds all that a resumed sweep needs to know: which trial got
which values, and how it ended. Tune's own snapshots are not needed, and not read.

What the study is told. A trial that ended on its own at full length with finite objectives is COMPLETE; one stopped
before is PRUNED, without values; one that failed, or whose objectives are missing or not finite, is FAIL. Nothing else
is ever COMPLETE: OptunaSearch itself takes a stopped trial's last values, and infinities, for results.
"""

import itertools
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial, TrialState
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from ambient_sweep.sweep.space import Sweep
from ambient_sweep.sweep.study import OBJECTIVES, build_sampler, open_study, optuna_distribution

FULL_LENGTH = "done_full_length"  # in a reported result: the trial ended on its own at its full length
FAILED = "failed"  # in a reported result: why the trial failed, or None

TRIAL_ID = "trial_id"  # user attributes of Optuna's trials
WHY = "why"
FIXED = "fixed trials"  # user attribute of the study: trial ids of the fixed trials, in their order

ENUMERABLE = 4096  # spaces up to this size are searched without repeats to their end
ASKS = 20


@dataclass(frozen=True)
class Outcome:
    """How a trial of an earlier session ended. Objectives are those at full length; None: it did not come that far."""

    ended: bool  # False: it goes on in this session
    objectives: tuple[float, float] | None = None
    stopped: bool = False


class SweepSearcher(OptunaSearch):
    """Hands out the fixed trials, then the searched ones; what goes on from an earlier session comes before both.

    A suggestion is `{"trial_id", "role", "label", "values"}`, values under flat dotted keys. The trial id is Tune's,
    except for a trial that goes on from an earlier session, which keeps its own. `outcomes` maps the ids of earlier
    sessions' trials to how they ended; ids that are missing there never began, and start now.
    """

    def __init__(
        self, sweep: Sweep, journal: Path, *, outcomes: Mapping[str, Outcome] | None = None, concurrent: int = 1
    ) -> None:
        self._sweep = sweep
        self._journal = journal
        space = {key: optuna_distribution(d) for key, d in sweep.space.items()}
        study = open_study(journal, sweep.name, RandomSampler(seed=0))
        earlier = study.get_trials(deepcopy=False)
        study.sampler = build_sampler(sweep.search, concurrent, len(earlier))
        for point in sweep.points:
            study.enqueue_trial(point, skip_if_exists=True)
        # The space goes in afterwards: with it, OptunaSearch would make a study of its own.
        super().__init__(metric=list(OBJECTIVES), mode=["min", "min"])
        self._space = self._distributions = space
        self._ot_study: optuna.Study = study  # type: ignore[assignment]
        self._fixed_trials = sweep.fixed_trials()
        self._fixed_ids: list[str] = list(study.user_attrs.get(FIXED, []))
        self._numbers = {t.user_attrs[TRIAL_ID]: t.number for t in earlier if TRIAL_ID in t.user_attrs}
        self._tune_ids: dict[str, str] = {}  # Tune's id -> trial id
        self._waiting: list[dict[str, Any]] = []  # suggestions that go on from an earlier session
        self._recover(earlier, outcomes or {})

    def _recover(self, earlier: list[FrozenTrial], outcomes: Mapping[str, Outcome]) -> None:
        going_on = Outcome(ended=False)
        for trial_id, fixed in zip(self._fixed_ids, self._fixed_trials, strict=False):
            if not outcomes.get(trial_id, going_on).ended:
                self._waiting.append(_suggestion(trial_id, fixed.role, fixed.label, fixed.values))
        for trial in earlier:
            if TRIAL_ID not in trial.user_attrs and trial.state == TrialState.RUNNING:
                self._ot_study.tell(trial.number, state=TrialState.FAIL)  # the driver died before handing it out
        for trial_id, number in self._numbers.items():
            trial, outcome = earlier[number], outcomes.get(trial_id, going_on)
            if not outcome.ended:
                self._waiting.append(_suggestion(trial_id, "search", "", trial.params))
            elif trial.state == TrialState.RUNNING:
                self._tell(trial_id, outcome.objectives, stopped=outcome.stopped)

    @property
    def finished(self) -> bool:
        """Whether all trials were handed out and ended."""
        searched = len(self._numbers) >= self._sweep.search.trials or len(self._tried()) >= self._sweep.size()
        return searched and not self._waiting and len(self._fixed_ids) >= len(self._fixed_trials)

    # -- asked by Tune ----------------------------------------------------------------------------------------------

    def suggest(self, trial_id: str) -> Any:
        """The next trial; `Searcher.FINISHED` when all were handed out."""
        if self._waiting:
            suggestion = self._waiting.pop(0)
            self._tune_ids[trial_id] = suggestion["trial_id"]
            return suggestion
        self._tune_ids[trial_id] = trial_id
        if len(self._fixed_ids) < len(self._fixed_trials):
            fixed = self._fixed_trials[len(self._fixed_ids)]
            self._fixed_ids.append(trial_id)
            self._ot_study.set_user_attr(FIXED, self._fixed_ids)
            return _suggestion(trial_id, fixed.role, fixed.label, fixed.values)
        if len(self._numbers) >= self._sweep.search.trials:
            return Searcher.FINISHED
        trial = self._ask_new()
        if trial is None:
            return Searcher.FINISHED
        trial.set_user_attr(TRIAL_ID, trial_id)
        self._numbers[trial_id] = trial.number
        return _suggestion(trial_id, "search", "", trial.params)

    def _ask_new(self) -> optuna.Trial | None:
        """A trial whose values no other has; None where the space holds no more."""
        tried = self._tried()
        if len(tried) >= self._sweep.size():
            return None
        for _ in range(ASKS):
            trial = self._ot_study.ask(fixed_distributions=self._distributions)
            if _mark(trial.params) not in tried:
                return trial
            self._reject(trial)
        if self._sweep.size() <= ENUMERABLE:
            self._ot_study.enqueue_trial(self._untried(tried))
        return self._ot_study.ask(fixed_distributions=self._distributions)

    def _tried(self) -> set[tuple[tuple[str, Any], ...]]:
        return {_mark(t.params) for t in self._ot_study.get_trials(deepcopy=False) if TRIAL_ID in t.user_attrs}

    def _reject(self, trial: optuna.Trial) -> None:
        trial.set_user_attr(WHY, "the same values as an earlier trial")
        self._ot_study.tell(trial, state=TrialState.FAIL)

    def _untried(self, tried: set[tuple[tuple[str, Any], ...]]) -> dict[str, Any]:
        axes = [
            d.values if d.kind == "choice" else range(d.values[0], d.values[1] + 1) for d in self._sweep.space.values()
        ]
        points = [dict(zip(self._sweep.space, values, strict=True)) for values in itertools.product(*axes)]
        left = [point for point in points if _mark(point) not in tried]
        return random.Random(f"{self._sweep.search.seed}/{len(tried)}").choice(left)

    # -- told by Tune -----------------------------------------------------------------------------------------------

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Nothing: Optuna takes no intermediate values for two objectives."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tells the study how a searched trial ended; fixed trials stay outside of it."""
        ours = self._tune_ids.get(trial_id, trial_id)
        if ours not in self._numbers:
            return
        if error or (result and result.get(FAILED) is not None):
            why = "its worker failed" if error or not result else str(result[FAILED])
            self._tell(ours, None, why=why)
        elif not result or not result.get(FULL_LENGTH, False):
            self._tell(ours, None, stopped=True)
        else:
            fidelity, memorization = (result.get(name) for name in OBJECTIVES)
            values = None if fidelity is None or memorization is None else (fidelity, memorization)
            self._tell(ours, values)

    def _tell(self, trial_id: str, values: tuple[float, float] | None, *, stopped: bool = False, why: str = "") -> None:
        study, number = self._ot_study, self._numbers[trial_id]
        trial = study.get_trials(deepcopy=False)[number]
        finite = values is not None and all(math.isfinite(v) for v in values)
        if trial.state.is_finished():
            # It failed in an earlier session, went on in this one and came through: a trial that is told stays told.
            if trial.state == TrialState.FAIL and finite and not stopped:
                again = optuna.trial.create_trial(
                    params=trial.params,
                    distributions=trial.distributions,
                    values=values,
                    user_attrs={TRIAL_ID: trial_id},
                )
                study.add_trial(again)
                self._numbers[trial_id] = study.get_trials(deepcopy=False)[-1].number
            return
        if stopped:
            study.tell(number, state=TrialState.PRUNED)
        elif finite:
            study.tell(number, values)
        else:
            storage, key = study._storage, trial._trial_id
            storage.set_trial_user_attr(key, WHY, why or f"objectives missing or not finite: {values}")
            study.tell(number, state=TrialState.FAIL)

    # -- Tune's snapshots -------------------------------------------------------------------------------------------

    def save(self, checkpoint_path: str) -> None:
        """Leaves a note: the study file is the state."""
        Path(checkpoint_path).write_text(str(self._journal), encoding="utf-8")

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to do: a new searcher on the same study file knows all."""


def _suggestion(trial_id: str, role: str, label: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {"trial_id": trial_id, "role": role, "label": label, "values": dict(values)}


def _mark(values: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted((key, (type(value).__name__, value)) for key, value in values.items()))
