"""What happens in the driver while Tune runs: records of lost and stopped trials, stages, progress."""

from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial

from ambient_sweep.config import build_config, knobs
from ambient_sweep.errors import UserError
from ambient_sweep.results.export import build_tables
from ambient_sweep.results.frontier.candidates import frontier
from ambient_sweep.stages.stages import Stages
from ambient_sweep.sweep.outcomes import mark, note_rung
from ambient_sweep.sweep.report import Report
from ambient_sweep.sweep.running.faults import Kind, Restarts, describe, failure_of, worst
from ambient_sweep.sweep.running.progress import Progress
from ambient_sweep.sweep.running.signals import StopRequest
from ambient_sweep.sweep.running.tuning import WithoutState, ending_the_sweep, trial_of
from ambient_sweep.sweep.running.workers import WorkerSlots
from ambient_sweep.sweep.search.search import SweepSearch
from ambient_sweep.sweep.space.definition import Sweep, SweepTrial
from ambient_sweep.sweep.space.file import SWEEP_FILE
from ambient_sweep.text import counted
from ambient_sweep.trial.records import INTERRUPTED, LOST, known_trial

GIB = 2**30


class SweepCallback(WithoutState, tune.Callback):
    """Keeps the records true and the user informed."""

    def __init__(
        self, sweep: Sweep, root: Path, search: SweepSearch, progress: Progress, stop: StopRequest, restarts: Restarts
    ) -> None:
        self._sweep, self._root, self._search, self._progress, self.stop = sweep, root, search, progress, stop
        self._restarts, self._slots = restarts, WorkerSlots(root, sweep.some_config().resources)

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        self.stop.check()
        self.stop.listen()
        (self._root / SWEEP_FILE).stat()  # before anything is written where storage is away

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._slots.begin(trial_of(trial).trial_id)
        self._progress.trial_started(trial_of(trial))

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        if result["report"].ending is None:
            self._progress.reported(trial_of(trial), result["report"])

    @ending_the_sweep
    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        ours = trial_of(trial)
        self._slots.end(ours.trial_id)
        if self._search.is_paused(ours.trial_id):
            self._progress.trial_paused(ours)
            return
        report: Report = (trial.last_result or {}).get("report", Report())
        if report.ending is None:
            self.stopped(ours)
        self._end(ours, report.reason)

    @ending_the_sweep
    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        ours, (kind, cause) = trial_of(trial), worst(failure_of(trial))
        self._slots.end(ours.trial_id)
        if kind == Kind.STORAGE:
            raise cause
        if (restart := self._restarts.plan(ours.trial_id, kind)) is not None:
            self._progress.trial_paused(ours)  # until it has a worker again
            said = f"{describe(cause)}; it goes on from its last state ({restart})"
            self._progress.note(f"{ours.trial_id} {ours.name}: {said}")
            return
        reason = f"{LOST}, after {counted(self._restarts.attempts[ours.trial_id], 'attempt')}: {describe(cause)}"
        self._search.ended(ours.trial_id, lost=True)
        mark(self._root, ours, self._sweep.config_for(ours.values), "failed", reason)
        self._end(ours, reason)

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        self._slots.release_unnoted()
        self._status()
        self._progress.check_patience(self._sweep.search.patience)

    def stopped(self, trial: SweepTrial) -> None:
        """Writes into a trial's record that it was stopped."""
        record = known_trial(self._root, trial.trial_id)
        images = 0 if record is None else record.images_done
        why = self._search.budget.spent_by or "search.stopping"
        reason = f"stopped by {why} after {images:,} images"
        mark(self._root, trial, self._sweep.config_for(trial.values), "stopped", reason)

    def mark_unfinished(self) -> None:
        """Writes how the trials stand that have not ended: stopped where the search is over, else interrupted."""
        if self._search.finished:
            for trial in self._search.end_paused():
                self.stopped(trial)
                self._end(trial, None)
        for trial in self._search.trials.values():
            self._slots.end(trial.trial_id)
        for trial in self._search.trials.values():
            config = self._sweep.config_for(trial.values)
            mark(self._root, trial, config, "stopped", f"{INTERRUPTED}; `ambient-sweep resume` continues it")
        self._status(force=True)

    def _status(self, *, force: bool = False) -> None:
        resting = self._restarts.waiting.keys()
        self._progress.status(self._search.running, len(self._search.rungs.paused), resting, force=force)

    def _end(self, trial: SweepTrial, reason: str | None) -> None:
        rung = self._search.rungs.reached(trial.trial_id)
        if rung is not None:
            note_rung(self._root, trial.trial_id, rung)
        self._progress.trial_ended(trial, reason)
        self._collect()

    def _collect(self) -> None:
        """Removes stages beyond search.stages_gib that neither the frontier nor live trials need."""
        try:
            stages = Stages(self._root)
            if stages.bytes() <= self._sweep.search.stages_gib * GIB:
                return
            front = frontier(build_tables(self._root).evaluations).to_pylist()
            best = [build_config({key: row[key] for key in knobs()}, where=row["trial_id"]) for row in front]
            live = [self._sweep.config_for(trial.values) for trial in self._search.trials.values()]
            removed = stages.collect([*best, *live])
        except (UserError, OSError) as error:  # the sweep goes on, and tries again when the next trial ends
            self._progress.note(f"stages could not be removed: {error}")
            return
        self._search.planner.forget(removed)
        if removed:
            self._progress.note(f"stages: {len(removed)} removed, to stay within search.stages_gib")
