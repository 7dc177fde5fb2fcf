"""Which trial a sweep trains next, which ones pause, and when it is done. Knows no Ray, no clock and no trial's folder.

Fixed trials come first, outside the study, and run to their ends. Then come searched trials: proposals of Optuna, and paused
trials that may go on. A paused trial frees its worker; it continues from its own folder when `next` returns it again.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from ambient_sweep.errors import UserError
from ambient_sweep.stages.planner import Planner
from ambient_sweep.sweep.report import Report
from ambient_sweep.sweep.search.budget import Budget
from ambient_sweep.sweep.search.proposals import Proposals
from ambient_sweep.sweep.search.study import FIXED, POINT, Earlier, StudyRecord, violations
from ambient_sweep.sweep.space.definition import Sweep, SweepTrial
from ambient_sweep.sweep.stopping.rungs import Decision, Entry, Rungs

Values = Mapping[str, Any]


@dataclass(frozen=True)
class History:
    """A trial of an earlier session, by the records in its folder. ended: it is not to go on in this session."""

    ended: bool
    reports: tuple[Report, ...] = ()  # of its evaluations at the main endpoint, by rising images
    stopped: bool = False


class SweepSearch:
    """The search of a sweep, as its driver asks for it: see the module's text.

    planner: with stages. images_of: images of a whole training of some values; raises UserError where these contradict each
    other. histories: trials of earlier sessions by id; trials that are missing there never began, and start now.
    """

    def __init__(
        self,
        sweep: Sweep,
        record: StudyRecord,
        *,
        images_of: Callable[[Values], int],
        parameters: Callable[[Values], int] = lambda values: 0,
        planner: Planner | None = None,
        budget: Budget | None = None,
        histories: Mapping[str, History] | None = None,
        concurrent: int = 1,
    ) -> None:
        self._sweep, self._record, self._planner, self._concurrent = sweep, record, planner, concurrent
        self._cost = planner.cost if planner else images_of
        self.budget = budget or Budget(sweep.search.images)
        self.rungs = Rungs(sweep.rung_levels, sweep.search.stopping.eta)
        busy = None if planner is None else planner.busy
        self._proposals = Proposals(sweep, record, cost=self._cost, busy=busy, parameters=parameters)
        self.trials: dict[str, SweepTrial] = {}  # begun, and not ended
        self._running: set[str] = set()
        self._waiting: list[SweepTrial] = []  # of earlier sessions; they go first
        self._full: dict[str, Report] = {}  # searched trials' reports at full length
        self._observed: dict[str, set[float]] = {}  # lengths by trial
        self._last: list[str] = []  # paused trials that go on since nothing else is left
        self._searched = 0
        self._begun = self._exhausted = False
        self._fixed = sweep.fixed_trials()
        self._fixed_ids: list[str] = list(record.study.user_attrs.get(FIXED, []))
        self._recover(record.earlier(), histories or {})

    # -- an earlier session -------------------------------------------------------------------------------------------

    def _recover(self, earlier: Earlier, histories: Mapping[str, History]) -> None:
        lost = histories.keys() - earlier.trials.keys() - {*self._fixed_ids}
        if lost:
            raise UserError(
                f"study.journal lacks {len(lost)} of the {len(histories)} trials of this sweep, so they would be trained "
                "again; restore it, or start again under another name"
            )
        unknown = History(ended=False)
        for trial_id, fixed in zip(self._fixed_ids, self._fixed, strict=False):
            if not histories.get(trial_id, unknown).ended:
                self._waiting.append(replace(fixed, trial_id=trial_id))
        for refused in earlier.refused:
            self._proposals.remember(self._record.values(refused))
        self._searched = len(earlier.trials)
        self._observed = earlier.lengths
        unfinished: dict[str, FrozenTrial] = {}
        for trial_id, trial in earlier.trials.items():
            ours = SweepTrial("search", self._record.values(trial), trial_id=trial_id, number=trial.number)
            self._proposals.remember(ours.values)
            history = histories.get(trial_id, unknown)
            self._catch_up(ours, history)
            if not history.ended:
                unfinished[trial_id] = trial
            elif (running := trial.state == TrialState.RUNNING) or trial.state == TrialState.FAIL:
                self._end_earlier(ours, history, running=running)
        self._unfinished, self._unused, self._points = unfinished, earlier.proposals, earlier.points
        reports = [(t, r.fraction, self._entry(r)) for t, h in histories.items() for r in h.reports]
        self.rungs.recall(reports, unfinished.keys() - self._full.keys())

    def _catch_up(self, trial: SweepTrial, history: History) -> None:
        """Records evaluations that are in the trial's folder and not in the study."""
        for report in history.reports:
            if report.images_left > 0:
                self._observe(trial, report)
            elif report.finite:
                self._full[trial.trial_id] = report

    def _end_earlier(self, trial: SweepTrial, history: History, *, running: bool) -> None:
        """The driver ended between a trial's last record and its end in the study."""
        if running and trial.number is not None:
            self._record.drop(trial.number, stopped=history.stopped)
        full = self._full.pop(trial.trial_id, None)
        if full is not None and not history.stopped:
            self._record.complete(trial, full, self._violations(full))

    def _begin(self) -> None:
        """Proposes again, in this session, what an earlier one proposed and left unfinished."""
        for trial in self._unused:
            self._record.drop(trial.number)
            self._proposals.give(self._record.values(trial), trial.user_attrs)
        for trial_id, trial in self._unfinished.items():
            again = self.trials[trial_id] = replace(self._record.propose_again(trial), trial_id=trial_id)
            if not self.is_paused(trial_id):
                self._waiting.append(again)
        for index, point in enumerate(self._sweep.points):
            if index not in self._points:
                self._proposals.give(point, {POINT: index})
        self._begun = True

    # -- asked by the driver ------------------------------------------------------------------------------------------

    def next(self, trial_id: str) -> SweepTrial | None:
        """The trial to begin, or to go on with, now; None where there is none. `trial_id`: for one that begins.

        Raises AmbientSweepError for what the sampler raises.
        """
        if not self._begun:
            self._begin()
        trial = self._next(trial_id)
        if trial is None:
            self._exhausted = not self._running
            return None
        self._exhausted = False
        self.trials[trial.trial_id] = trial
        self._running.add(trial.trial_id)
        self.rungs.leave(trial.trial_id)
        if trial.role == "search":
            self.budget.begin(trial.trial_id, self._cost(trial.values))
        if self._planner is not None:
            self._planner.started(trial.trial_id, trial.values)
        return trial

    def _next(self, trial_id: str) -> SweepTrial | None:
        if self._waiting:
            return self._waiting.pop(0)
        if len(self._fixed_ids) < len(self._fixed):
            fixed = self._fixed[len(self._fixed_ids)]
            self._fixed_ids.append(trial_id)
            self._record.study.set_user_attr(FIXED, self._fixed_ids)
            return replace(fixed, trial_id=trial_id)
        if self.budget.spent:
            return None
        promoted = self._first_free(self.rungs.promotable()) or self._first_free(self._last)
        if promoted is not None:
            return promoted
        if self._searched < self._sweep.trials:
            proposal = self._proposals.next(waiting_helps=bool(self._running))
            if proposal is not None:
                self._searched += 1
                return self._record.begin(proposal, trial_id)
        if not self._running:
            self._last = self.rungs.promotable(at_least=1)
            if not self._last and self.budget.limited:
                self._last = self.rungs.nearest(self._concurrent)
            return self._first_free(self._last)
        return None

    def _first_free(self, trial_ids: list[str]) -> SweepTrial | None:
        """The first of some paused trials whose next images nobody is training."""
        paused = set(self.rungs.paused)
        for trial_id in list(trial_ids):
            trial = self.trials.get(trial_id)
            if trial is None or trial_id not in paused:
                continue
            if self._planner is None or not self._planner.busy(trial.values):
                if trial_id in self._last:
                    self._last.remove(trial_id)  # once, however soon it pauses again
                return trial
        return None

    def is_paused(self, trial_id: str) -> bool:
        """Whether a trial waits for its promotion."""
        return trial_id in self.rungs

    def rung_of(self, trial_id: str) -> int | None:
        """The index of the highest rung at which a trial was compared."""
        return self.rungs.reached(trial_id)

    @property
    def finished(self) -> bool:
        """Whether nothing is left to train, as of the last call of `next`."""
        return self._exhausted

    @property
    def left(self) -> bool:
        """Whether there is something to train in a session that has not begun."""
        fixed = len(self._fixed_ids) < len(self._fixed)
        more = self._searched < self._sweep.trials and self._proposals.left
        return bool(self._waiting or self._unfinished or fixed or (more and not self.budget.spent))

    @property
    def gave_up(self) -> str:
        """Why the search ended before its time; empty where it did not."""
        return self._proposals.gave_up

    @property
    def searched(self) -> int:
        """Configs tried, those of earlier sessions included."""
        return self._searched

    # -- told by the driver -------------------------------------------------------------------------------------------

    def evaluated(self, trial_id: str, report: Report) -> Decision:
        """A running trial was measured in full: what becomes of it. STOP: the budget is spent."""
        trial = self.trials[trial_id]
        if self._planner is not None:
            self._planner.reached(trial_id, report.images)
        self._spend(trial, report)
        last = report.images_left <= 0
        decision = self.rungs.report(
            trial_id, report.fraction, self._entry(report), last=last or trial.role != "search"
        )
        if trial.role == "search" and last and report.finite:
            self._full[trial_id] = report
        elif trial.role == "search":
            self._observe(trial, report)
        if decision == Decision.PAUSE:
            self._free(trial_id)
        elif trial.role == "search" and self.rungs.levels and self.budget.spent and not last:
            return Decision.STOP
        return decision

    def ended(self, trial_id: str, report: Report | None = None, *, lost: bool = False) -> None:
        """A running trial ended: by itself, stopped, or, where its worker was `lost`, for good."""
        trial = self.trials.pop(trial_id)
        if report is not None:
            self._spend(trial, report)
        self._free(trial_id)
        self.rungs.leave(trial_id)
        full = self._full.pop(trial_id, None)
        if trial.role != "search":
            return
        failure = "its worker failed" if lost else report.reason if report and report.ending == "failed" else None
        if failure is not None:
            self._record.fail(trial, failure)
        elif full is not None:
            self._record.complete(trial, full, self._violations(report or full) | self._violations(full))
        elif report is not None and report.ending == "completed":
            self._record.fail(trial, f"objectives missing or not finite: {report.objectives}")
        else:
            self._record.prune(trial)

    def end_paused(self) -> list[SweepTrial]:
        """The trials that paused and will not go on, since the search is over; they count as stopped from now on."""
        paused = [self.trials[trial_id] for trial_id in self.rungs.paused]
        for trial in paused:
            self.ended(trial.trial_id)
        self._proposals.drop_held()
        return paused

    def _free(self, trial_id: str) -> None:
        self._running.discard(trial_id)
        self.budget.ended(trial_id)
        if self._planner is not None:
            self._planner.ended(trial_id)

    def _spend(self, trial: SweepTrial, report: Report) -> None:
        if trial.role == "search" and report.images_executed is not None:
            self.budget.report(trial.trial_id, report.images_executed)

    def _observe(self, trial: SweepTrial, report: Report) -> None:
        """Each length of a trial is an observation once."""
        lengths = self._observed.setdefault(trial.trial_id, set())
        if report.finite and report.full_samples and report.fraction not in lengths:
            lengths.add(report.fraction)
            self._record.observe(trial, report, self._violations(report))

    def _violations(self, report: Report) -> dict[str, float]:
        return violations(self._sweep.search.constraints, report)

    def _entry(self, report: Report) -> Entry:
        return Entry(report.objectives, all(over <= 0 for over in self._violations(report).values()))
