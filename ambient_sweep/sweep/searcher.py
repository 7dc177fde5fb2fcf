"""Ray Tune's searcher: first the trials outside the search, then the searched ones.

The study file (Optuna's journal, `<root>/study.journal`) holds all that a resumed sweep needs to know: which trial got
which values, what was observed of it, and how it ended. Tune's own snapshots are not needed, and not read.

What the study is told. Every full evaluation before a trial's full length is a COMPLETE trial of its own, with the
config's values and its `length` (search.observations). A trial that ended at full length with finite objectives is
COMPLETE; one stopped before is PRUNED, without values; one that failed, or whose objectives are missing or not finite, is
FAIL, and so is a config that was refused before training. Nothing else is ever COMPLETE: Ray's OptunaSearch takes a
stopped trial's last values, and infinities, for results.
"""

from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from ray.tune.search import Searcher

from ambient_sweep.config import ModelConfig
from ambient_sweep.errors import UserError
from ambient_sweep.sweep.asking import check_sampler
from ambient_sweep.sweep.budget import ROLES, Budget
from ambient_sweep.sweep.candidates import Candidate, Candidates, Nothing, Source
from ambient_sweep.sweep.ledger import OBSERVATION_OF, REPLICATE_OF, SEED, TRIAL_ID, WHY, Ledger, Live, searched
from ambient_sweep.sweep.resources import parameters as count_parameters
from ambient_sweep.sweep.sources import make_source
from ambient_sweep.sweep.space import Sweep
from ambient_sweep.sweep.study import LENGTH, open_journal

FULL_LENGTH = "done_full_length"  # in a reported result: the trial ended on its own at its full length
FAILED = "failed"  # in a reported result: why the trial failed, or None

POINT = "point"  # user attribute of Optuna's trials: number of the point of the sweep file
SAMPLED = "sampled"  # where the values come from, if not from the sampler
FIXED = "fixed trials"  # user attribute of the study: trial ids of the fixed trials, in their order

AHEAD = 4  # proposals that a sampler in a process of its own makes beforehand, at most

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Outcome:
    """How a trial of an earlier session ended. Objectives are those at full length; None: it did not come that far."""

    ended: bool  # False: it goes on in this session
    objectives: tuple[float, float] | None = None
    stopped: bool = False


class SweepSearcher(Searcher):
    """Hands out the fixed trials, then the searched ones; what goes on from an earlier session comes before both.

    A suggestion is `{"trial_id", "role", "label", "values"}`, values under flat dotted keys. The trial id is Tune's,
    except for a trial that goes on from an earlier session, which keeps its own. The label of a replicate is the id of
    the trial that it repeats. `outcomes` maps the ids of earlier sessions' trials to how they ended; ids that are missing
    there never began, and start now. `cost`, `busy` and `parameters` are told a trial's values: see candidates.Candidates;
    parameters are counted by default. `budget` is told what trials train; once it is spent nothing begins. `begun` hears of
    every trial that is handed out for the first time, since Tune may ask for many before it starts one.
    Raises UserError for a damaged study file, one that is not of these trials, and an impossible sampler.
    """

    def __init__(
        self,
        sweep: Sweep,
        journal: Path,
        *,
        outcomes: Mapping[str, Outcome] | None = None,
        concurrent: int = 1,
        budget: Budget | None = None,
        cost: Callable[[Values], int] | None = None,
        busy: Callable[[Values], bool] | None = None,
        parameters: Callable[[Values], int] | None = None,
        begun: Callable[[str, Values], object] | None = None,
    ) -> None:
        check_sampler(sweep.search)
        super().__init__()  # both objectives are read from the reports
        self._sweep, self._path, self._concurrent, self._budget = sweep, journal, concurrent, budget or Budget()
        self._hooks: dict[str, Any] = {"cost": cost, "busy": busy, "parameters": parameters or self._parameters}
        self._begun = begun or (lambda trial_id, values: None)
        self._sizes: dict[ModelConfig, int] = {}
        self._study, earlier, attrs = open_journal(journal, sweep.name)
        self._ledger = Ledger(sweep, self._study)
        self._fixed_trials = sweep.fixed_trials()
        self._fixed_ids: list[str] = list(attrs.get(FIXED, []))
        self._tune_ids: dict[str, str] = {}  # Tune's id -> trial id, where they differ
        self._waiting: deque[dict[str, Any]] = deque()  # suggestions that go on from an earlier session
        self._replicas: deque[tuple[str, dict[str, Any], int]] = deque()  # repeated trial, its values, the seed
        self._searched = 0
        self._points: list[int] = list(range(len(sweep.points)))  # those that were not handed out
        self._tried: list[dict[str, Any]] = []
        self._source: Source | None = None
        self._candidates: Candidates | None = None  # made with the first one that is wanted
        self._recover(earlier, outcomes or {})

    # -- an earlier session -------------------------------------------------------------------------------------------

    def _recover(self, earlier: list[FrozenTrial], outcomes: Mapping[str, Outcome]) -> None:
        going_on = Outcome(ended=False)
        for trial_id, fixed in zip(self._fixed_ids, self._fixed_trials, strict=False):
            if not outcomes.get(trial_id, going_on).ended:
                self._waiting.append(_suggestion(trial_id, fixed.role, fixed.label, fixed.values))
        ids = {trial.user_attrs.get(TRIAL_ID) for trial in earlier} | {*self._fixed_ids}
        if outcomes and not ids & outcomes.keys():
            raise UserError(
                f"{self._path}: knows none of the {len(outcomes)} trials of this sweep, so they would be trained again; "
                "restore it, or start again under another name"
            )
        trials: dict[str, FrozenTrial] = {}  # the last one told of each id
        lengths: dict[str, set[float]] = {}
        for trial in earlier:
            attrs = trial.user_attrs
            if TRIAL_ID in attrs:
                trials[attrs[TRIAL_ID]] = trial
                continue
            if OBSERVATION_OF in attrs:
                lengths.setdefault(attrs[OBSERVATION_OF], set()).add(trial.params[LENGTH])
            elif WHY in attrs:  # refused
                self._tried.append(searched(trial))
            elif trial.state == TrialState.RUNNING:  # of an older version: drawn, and not handed out
                self._study.end(trial._trial_id, TrialState.FAIL)
            self._ledger.recall(trial)
        for trial_id, trial in trials.items():
            self._recover_trial(trial_id, trial, outcomes.get(trial_id, going_on), lengths.get(trial_id, set()))
        repeated = Counter(
            trial.user_attrs[REPLICATE_OF] for trial in trials.values() if REPLICATE_OF in trial.user_attrs
        )
        for trial_id, trial in trials.items():
            failed = outcomes.get(trial_id, going_on).ended and trial.state == TrialState.FAIL
            if REPLICATE_OF not in trial.user_attrs and not failed:
                self._want_replicas(trial_id, searched(trial), repeated[trial_id])

    def _recover_trial(self, trial_id: str, trial: FrozenTrial, outcome: Outcome, lengths: set[float]) -> None:
        if REPLICATE_OF not in trial.user_attrs:
            self._searched += 1
            self._tried.append(searched(trial))
            if trial.user_attrs.get(POINT) in self._points:
                self._points.remove(trial.user_attrs[POINT])
        if trial.state != TrialState.RUNNING:
            self._ledger.recall(trial)
        if not outcome.ended:
            self._waiting.append(_suggest_live(trial_id, self._ledger.take_up(trial_id, trial, lengths)))
        elif trial.state == TrialState.RUNNING:
            self._ledger.take_up(trial_id, trial, lengths)
            self._ledger.end(trial_id, outcome.objectives, stopped=outcome.stopped)

    @property
    def finished(self) -> bool:
        """Whether all trials were handed out and ended."""
        left = self._candidates.left if self._candidates else len(self._tried) < self._sweep.size()
        searching = (self._searched < self._sweep.trials and left) or self._replicas
        more = searching and not self._budget.spent
        return not (more or self._waiting) and len(self._fixed_ids) >= len(self._fixed_trials)

    @property
    def gave_up(self) -> str:
        """Why the search ended before its time: config after config was refused. Empty where it did not."""
        return self._candidates.gave_up if self._candidates else ""

    @property
    def searched(self) -> int:
        """Configs that were handed out, in earlier sessions too."""
        return self._searched

    # -- asked by Tune ------------------------------------------------------------------------------------------------

    def suggest(self, trial_id: str) -> Any:
        """The next trial; None where there is none yet; `Searcher.FINISHED` when all were handed out."""
        self._study.tick()
        if self._waiting:
            suggestion = self._waiting.popleft()
            self._tune_ids[trial_id] = suggestion["trial_id"]
            self._count(suggestion)
            return suggestion
        if len(self._fixed_ids) < len(self._fixed_trials):
            fixed = self._fixed_trials[len(self._fixed_ids)]
            self._fixed_ids.append(trial_id)
            self._study.set_study_attr(FIXED, self._fixed_ids)
            return self._begin_trial(_suggestion(trial_id, fixed.role, fixed.label, fixed.values))
        if self._budget.spent:
            return Searcher.FINISHED
        replica = self._free_replica()
        if replica is not None:
            return self._begin_trial(_suggest_live(trial_id, self._ledger.repeat(trial_id, *replica)))
        if self._searched < self._sweep.trials and (found := self._search(trial_id)) != Searcher.FINISHED:
            return found
        return None if self._replicas else Searcher.FINISHED  # what they share is being trained

    def _free_replica(self) -> tuple[str, dict[str, Any], int] | None:
        """The next replicate of which no part is being trained right now."""
        busy = self._hooks["busy"]
        for replica in self._replicas:
            _, values, seed = replica
            if busy is None or not self._ledger.live or not busy({**values, SEED: seed}):
                self._replicas.remove(replica)
                return replica
        return None

    def _search(self, trial_id: str) -> Any:
        candidates = self._candidates or self._begin()
        attrs: dict[str, Any] = {}
        candidate: Candidate | Nothing | None = None
        while candidate is None and self._points:
            attrs = {POINT: self._points.pop(0)}
            candidate = candidates.given(self._sweep.points[attrs[POINT]])
        if candidate is None:
            attrs = {}
            candidate = candidates.next(waiting_helps=bool(self._ledger.live))
        if isinstance(candidate, Nothing):
            return None if candidate is Nothing.YET else Searcher.FINISHED
        if candidate.note is not None:
            attrs[SAMPLED] = candidate.note
        self._searched += 1
        self._want_replicas(trial_id, candidate.values, 0)
        return self._begin_trial(_suggest_live(trial_id, self._ledger.begin(trial_id, candidate, attrs)))

    def _begin_trial(self, suggestion: dict[str, Any]) -> dict[str, Any]:
        self._count(suggestion)
        self._begun(suggestion["trial_id"], suggestion["values"])
        return suggestion

    def _count(self, suggestion: dict[str, Any]) -> None:
        """What a trial will train, for the budget."""
        if suggestion["role"] in ROLES and self._budget.limited:
            cost, values = self._hooks["cost"], suggestion["values"]
            config = self._sweep.config_for(values)
            left = cost(values) if cost else config.images_at(config.training.stop)
            self._budget.begin(suggestion["trial_id"], left)

    def _begin(self) -> Candidates:
        """Makes the source, and tells it of what was before."""
        search = self._sweep.search
        ahead = search.lookahead if self._hooks["cost"] else min(self._concurrent, AHEAD)
        self._source = make_source(self._sweep.space, search, self._searched, ahead)
        self._ledger.attach(self._source)
        self._candidates = Candidates(
            self._sweep, self._source, self._tried, refused=self._ledger.refuse, drawn=self._searched, **self._hooks
        )
        self._tried = []
        return self._candidates

    def _parameters(self, values: Values) -> int:
        config = self._sweep.config_for(values)
        if config.model not in self._sizes:
            self._sizes[config.model] = count_parameters(config)
        return self._sizes[config.model]

    def _want_replicas(self, trial_id: str, values: dict[str, Any], done: int) -> None:
        first = int(self._sweep.base["seed"]) + 1
        for number in range(done, self._sweep.search.replicates - 1):
            self._replicas.append((trial_id, values, first + number))

    # -- told by Tune -------------------------------------------------------------------------------------------------

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Observes a full evaluation of a searched trial."""
        self._study.tick()
        ours = self._tune_ids.get(trial_id, trial_id)
        self._spend(ours, result)
        if ours in self._ledger.live and result.get("evaluated") and result.get(FAILED) is None:
            self._ledger.observe(ours, result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tells the study how a searched trial ended; fixed trials stay outside of it."""
        ours = self._tune_ids.pop(trial_id, trial_id)
        live = self._ledger.live.get(ours)
        if live is None:
            return
        self._spend(ours, result or {})
        self._budget.ended(ours)
        if error or (result and result.get(FAILED) is not None):
            why = "its worker failed" if error or not result else str(result[FAILED])
            self._ledger.end(ours, None, why=why)
        elif result and result.get(FULL_LENGTH, False):
            self._ledger.complete(ours, result)
        else:  # stopped at its full length, it is whole
            if result and result.get("evaluated"):  # where it was stopped, which Tune tells here alone
                self._ledger.observe(ours, result)
            self._ledger.end(ours, live.full, stopped=live.full is None)

    def _spend(self, trial_id: str, result: Mapping[str, Any]) -> None:
        if trial_id in self._ledger.live and result.get("images_executed") is not None:
            self._budget.report(trial_id, result["images_executed"])

    def close(self) -> None:
        """Flushes the study file and ends the sampler's process, if it has one."""
        self._study.close()
        if self._source is not None:
            self._source.close()

    # -- Tune's snapshots ---------------------------------------------------------------------------------------------

    def save(self, checkpoint_path: str) -> None:
        """Leaves a note: the study file is the state."""
        Path(checkpoint_path).write_text(str(self._path), encoding="utf-8")

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to do: a new searcher on the same study file knows all."""


def _suggestion(trial_id: str, role: str, label: str, values: Values) -> dict[str, Any]:
    return {"trial_id": trial_id, "role": role, "label": label, "values": dict(values)}


def _suggest_live(trial_id: str, live: Live) -> dict[str, Any]:
    if live.replicate_of is None:
        return _suggestion(trial_id, "search", "", live.overlay)
    return _suggestion(trial_id, "replicate", live.replicate_of, live.overlay)
