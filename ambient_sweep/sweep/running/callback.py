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
from ambient_sweep.sweep.running.progress import Progress
from ambient_sweep.sweep.running.signals import StopRequest
from ambient_sweep.sweep.running.tuning import WithoutState, trial_of
from ambient_sweep.sweep.running.workers import release_workers
from ambient_sweep.sweep.search.search import SweepSearch
from ambient_sweep.sweep.space.definition import Sweep, SweepTrial
from ambient_sweep.text import counted
from ambient_sweep.trial.records import INTERRUPTED, LOST, known_trial

GIB = 2**30


class SweepCallback(WithoutState, tune.Callback):
    """Keeps the records true and the user informed."""

    def __init__(self, sweep: Sweep, root: Path, search: SweepSearch, progress: Progress, stop: StopRequest) -> None:
        self._sweep, self._root, self._search, self._progress, self._stop = sweep, root, search, progress, stop

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        self._stop.check()
        self._stop.listen()

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        release_workers(self._root, trial_of(trial).trial_id)  # of an attempt that died
        self._progress.trial_started(trial_of(trial))

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        if result["report"].ending is None:
            self._progress.reported(trial_of(trial), result["report"])

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        ours = trial_of(trial)
        release_workers(self._root, ours.trial_id)
        if self._search.is_paused(ours.trial_id):
            self._progress.trial_paused(ours)
            return
        report: Report = (trial.last_result or {}).get("report", Report())
        if report.ending is None:
            self.stopped(ours)
        self._end(ours, report.reason)

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        ours = trial_of(trial)
        self._progress.trial_paused(ours)  # until it has a worker again
        restart = f"restart {trial.run_metadata.num_failures} of {self._sweep.search.max_failures}"
        self._progress.note(
            f"{ours.trial_id} {ours.name}: its worker failed; it goes on from its last state ({restart})"
        )

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        release_workers(self._root, trial_of(trial).trial_id)
        ours, attempts = trial_of(trial), counted(self._sweep.search.max_failures + 1, "attempt")
        reason = f"{LOST}, after {attempts}: {describe_error(_error_log(trial))}"
        mark(self._root, ours, self._sweep.config_for(ours.values), "failed", reason)
        self._end(ours, reason)

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        self._status()

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
            release_workers(self._root, trial.trial_id)
            config = self._sweep.config_for(trial.values)
            mark(self._root, trial, config, "stopped", f"{INTERRUPTED}; `ambient-sweep resume` continues it")
        self._status(force=True)

    def _status(self, *, force: bool = False) -> None:
        self._progress.status(self._search.running, len(self._search.rungs.paused), force=force)

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


def _error_log(trial: Trial) -> str:
    path = trial.error_file  # in the driver's own folder; the copy in storage may come later
    return Path(path).read_text(encoding="utf-8") if path and Path(path).exists() else ""


def describe_error(log: str) -> str:
    """The last failure in Tune's error log of a trial, as one line."""
    last = log.rpartition("Failure # ")[2]
    if "ActorDiedError" in last or "actor died" in last or "actor is dead" in last:
        return "the worker process died (killed, or out of memory)"
    if "OutOfMemoryError" in last and "memory on the node" in last:
        return "the worker ran out of memory"
    lines = [line.strip() for line in last.splitlines()[1:] if line.strip()]
    return lines[-1] if lines else "Ray gave no reason"
