"""Which trial a sweep trains next, which ones pause, and when it is done. Knows no Ray, no clock and no trial's folder.

Fixed trials come first, outside the study, and run to their ends. Then come searched trials: proposals of Optuna, and paused
trials that may go on. A paused trial frees its worker; it continues from its own folder when `next` returns it again. Once
the search is over, trials may be given to it: the confirmation's.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from optuna.trial import TrialState

from ambient_sweep.errors import UserError
from ambient_sweep.stages.planner import Planner
from ambient_sweep.sweep.folder import AGAIN
from ambient_sweep.sweep.report import Report
from ambient_sweep.sweep.search.budget import Budget
from ambient_sweep.sweep.search.proposals import Proposals
from ambient_sweep.sweep.search.study import FIXED, POINT, SECONDS, Earlier, StudyRecord, violations
from ambient_sweep.sweep.space.definition import Sweep, SweepTrial
from ambient_sweep.sweep.stopping.rungs import Decision, Entry, Rungs

Values = Mapping[str, Any]


@dataclass(frozen=True)
class History:
    """A trial of an earlier session, by the records in its folder. ended: it is not to go on in this session."""

    ended: bool
    reports: tuple[Report, ...] = ()  # of its evaluations at the main endpoint, by rising images
    stopped: bool = False
    images: int = 0  # that it has trained

    @property
    def stands(self) -> bool:
        """Whether it has not trained beyond its last evaluation."""
        return bool(self.reports) and self.images <= self.reports[-1].images

    @property
    def full(self) -> Report | None:
        """The evaluation at the full length, if the trial reached it with finite objectives."""
        last = self.reports[-1] if self.reports else None
        return last if last is not None and last.images_left <= 0 and last.finite else None


class SweepSearch:
    """The search of a sweep, as its driver asks for it: see the module's text.

    planner: what a config costs, and whether another trains its part now; raises UserError for values that contradict each
    other. histories: trials of earlier sessions by id; trials that are missing there never began, and start now.
    """

    def __init__(
        self,
        sweep: Sweep,
        record: StudyRecord,
        *,
        planner: Planner,
        parameters: Callable[[Values], int] = lambda values: 0,
        budget: Budget | None = None,
        histories: Mapping[str, History] | None = None,
        concurrent: int = 1,
    ) -> None:
        self._sweep, self._record, self.planner, self._concurrent = sweep, record, planner, concurrent
        self.budget = budget or Budget(sweep.search.images)
        self.rungs = Rungs(sweep.rung_levels, sweep.search.stopping.eta)
        self.proposals = Proposals(sweep, record, planner, parameters)
        self.trials: dict[str, SweepTrial] = {}  # begun, and not ended
        self.searched = 0  # configs tried, those of earlier sessions included
        self.finished = False  # whether nothing is left to train, as of the last call of `next`
        self.running: set[str] = set()
        self._waiting: list[SweepTrial] = []  # of earlier sessions; they go first
        self._observed: dict[str, set[float]] = {}  # lengths by trial
        self._given: list[SweepTrial] = []
        self._last: list[str] = []  # paused trials that go on since nothing else is left
        self._fixed = sweep.fixed_trials()
        self._fixed_ids: list[str] = list(record.study.user_attrs.get(FIXED, []))
        self._recover(record.earlier(), histories or {})

    # -- an earlier session -------------------------------------------------------------------------------------------

    def _recover(self, earlier: Earlier, histories: Mapping[str, History]) -> None:
        lost = histories.keys() - earlier.trials.keys() - {*self._fixed_ids}
        if lost:
            raise UserError(
                f"study.journal lacks {len(lost)} of the {len(histories)} trials of this sweep, so they would be trained "
                f"again; restore it, or {AGAIN}"
            )
        unknown, at_rungs, decided = History(ended=False), set[str](), set[str]()
        for trial_id, fixed in zip(self._fixed_ids, self._fixed, strict=False):
            if not histories.get(trial_id, unknown).ended:
                self._waiting.append(replace(fixed, trial_id=trial_id))
        for values in (*earlier.refused, *(trial.values for trial, _ in earlier.trials.values())):
            self.proposals.remember(values)
        self.searched, self._observed = len(earlier.trials), earlier.lengths
        for trial_id, (trial, state) in earlier.trials.items():
            history = histories.get(trial_id, unknown)
            if history.stands and history.reports[-1].fraction in self._observed.get(trial_id, ()):
                decided.add(trial_id)
            for report in history.reports:  # whose driver died before it recorded them
                self._observe(trial, report)
            if not history.ended:
                self.trials[trial_id] = trial
                if history.full is None and history.stands:
                    at_rungs.add(trial_id)
            elif state in (TrialState.RUNNING, TrialState.FAIL):
                self._end_earlier(trial, history)
        entries = [(t, r.fraction, self._entry(r)) for t, h in histories.items() for r in h.reports if not r.teacher]
        self.rungs.recall(entries, at_rungs, decided)
        self._waiting += [trial for trial in self.trials.values() if not self.is_paused(trial.trial_id)]
        for values in earlier.held:
            self.proposals.give(values, {})
        for index, point in enumerate(self._sweep.points):
            if index not in earlier.points:
                self.proposals.give(point, {POINT: index})

    def _end_earlier(self, trial: SweepTrial, history: History) -> None:
        """The driver died between a trial's last record and its end in the study."""
        assert trial.number is not None
        if history.stopped:
            self._record.prune(trial)
        elif (full := history.full) is not None:
            self._record.complete(trial, full, self._violations(full))
        else:
            self._record.drop(trial.number)

    # -- asked by the driver ------------------------------------------------------------------------------------------

    def next(self, trial_id: str) -> SweepTrial | None:
        """The trial to begin, or to go on with, now; None where there is none. `trial_id`: for one that begins.

        Raises AmbientSweepError for what the sampler raises.
        """
        trial = self._next(trial_id)
        self.finished = trial is None and not self.running
        if trial is None:
            return None
        self.trials[trial.trial_id] = trial
        self.running.add(trial.trial_id)
        self.rungs.leave(trial.trial_id)
        if trial.role == "search":
            self.budget.begin(trial.trial_id, self.planner.cost(trial.values))
        self.planner.started(trial.trial_id, trial.values)
        return trial

    def give(self, trials: Sequence[SweepTrial]) -> None:
        """Trials with ids of their own that run to their ends, after all others: those with the least to train go first."""
        self._given, self.finished = list(trials), not trials

    def _next(self, trial_id: str) -> SweepTrial | None:
        if self._given:
            free = [trial for trial in self._given if not self.planner.busy(trial.values)]
            if not free:
                return None
            chosen = min(free, key=lambda trial: self.planner.cost(trial.values))
            self._given.remove(chosen)
            return chosen
        if self._waiting:
            return self._waiting.pop(0)
        if len(self._fixed_ids) < len(self._fixed):
            fixed = self._fixed[len(self._fixed_ids)]
            self._fixed_ids.append(trial_id)
            self._record.note_fixed(self._fixed_ids)
            return replace(fixed, trial_id=trial_id)
        if self.budget.spent:
            return None
        promoted = self._first_free(self.rungs.promotable()) or self._first_free(self._last)
        if promoted is not None:
            return promoted
        if self.searched < self._sweep.trials:
            proposal = self.proposals.next(waiting_helps=bool(self.running))
            if proposal is not None:
                self.searched += 1
                return self._record.begin(proposal, trial_id)
        if not self.running:
            self._last = self.rungs.promotable(at_least=1)
            if not self._last and self.budget.images is not None:
                self._last = self.rungs.nearest(self._concurrent)
            return self._first_free(self._last)
        return None

    def _first_free(self, trial_ids: list[str]) -> SweepTrial | None:
        """The first of some paused trials whose next images nobody is training."""
        for trial_id in filter(self.is_paused, trial_ids):
            trial = self.trials[trial_id]
            if not self.planner.busy(trial.values):
                if trial_id in self._last:
                    self._last.remove(trial_id)  # once, however soon it pauses again
                return trial
        return None

    def is_paused(self, trial_id: str) -> bool:
        """Whether a trial waits for its promotion."""
        return trial_id in self.rungs

    @property
    def left(self) -> bool:
        """Whether there is something to train in a session that has not begun."""
        fixed = len(self._fixed_ids) < len(self._fixed)
        more = self.searched < self._sweep.trials and self.proposals.left
        return bool(self._waiting or self.trials or fixed or (more and not self.budget.spent))

    # -- reported by the driver --------------------------------------------------------------------------------------

    def evaluated(self, trial_id: str, report: Report) -> Decision:
        """A running trial was measured in full: what becomes of it. STOP: the budget is spent."""
        trial = self.trials[trial_id]
        self.planner.reached(trial_id, report.images)
        if trial.role == "replicate":
            return Decision.CONTINUE
        self._spend(trial, report)
        to_its_end = trial.role != "search" or report.images_left <= 0
        decision = Decision.CONTINUE
        if not report.teacher:
            decision = self.rungs.report(trial_id, report.fraction, self._entry(report), last=to_its_end)
        if trial.role == "search":
            self._observe(trial, report)
        if decision == Decision.PAUSE:
            self._free(trial_id)
        elif not to_its_end and self.rungs.levels and self.budget.spent:
            return Decision.STOP
        return decision

    def ended(self, trial_id: str, report: Report | None = None, *, lost: bool = False) -> None:
        """A running trial ended: by itself, stopped, or, where its worker was `lost`, for good."""
        trial = self.trials.pop(trial_id)
        if report is not None:
            self._spend(trial, report)
        self._free(trial_id)
        self.rungs.leave(trial_id)
        if trial.role != "search":
            return
        if lost:
            self._record.fail(trial, "its worker failed")
        elif report is None or report.ending is None:
            self._record.prune(trial)
        elif report.ending == "failed":
            self._record.fail(trial, report.reason or "")
        elif report.finite:
            self._record.complete(trial, report, self._violations(report))
        else:
            self._record.fail(trial, f"objectives missing or not finite: {report.objectives}")

    @property
    def seconds(self) -> float:
        """That the search has taken in earlier sessions."""
        return float(self._record.study.user_attrs.get(SECONDS, 0.0))

    def took(self, seconds: float) -> None:
        """The search went on for so long in this session."""
        self._record.study.set_user_attr(SECONDS, self.seconds + seconds)

    def again(self, trial_id: str) -> None:
        """A running trial whose process was lost goes on from its last state, before all others."""
        self._free(trial_id)
        self._waiting.insert(0, self.trials[trial_id])

    def end_paused(self) -> list[SweepTrial]:
        """The trials that paused and will not go on, since the search is over; they count as stopped from now on."""
        paused = [self.trials[trial_id] for trial_id in self.rungs.paused]
        for trial in paused:
            self.ended(trial.trial_id)
        self.proposals.drop_held()
        return paused

    def _free(self, trial_id: str) -> None:
        self.running.discard(trial_id)
        self.budget.ended(trial_id)
        self.planner.ended(trial_id)

    def _spend(self, trial: SweepTrial, report: Report) -> None:
        if trial.role == "search" and report.images_executed is not None:
            self.budget.report(trial.trial_id, report.images_executed)

    def _observe(self, trial: SweepTrial, report: Report) -> None:
        """Records each length of a trial before its full one once."""
        lengths = self._observed.setdefault(trial.trial_id, set())
        if report.images_left > 0 and not report.teacher and report.finite and report.fraction not in lengths:
            lengths.add(report.fraction)
            self._record.observe(trial, report, self._violations(report))

    def _violations(self, report: Report) -> dict[str, float]:
        return violations(self._sweep.search.constraints, report)

    def _entry(self, report: Report) -> Entry:
        return Entry(report.objectives, all(over <= 0 for over in self._violations(report).values()))
