"""What happens in the driver while Tune runs: records of lost trials, tables, progress."""

import time
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial

from ambient_sweep.config import build_config, knobs
from ambient_sweep.errors import UserError
from ambient_sweep.results.select import frontier
from ambient_sweep.results.table import build_tables, export_tables
from ambient_sweep.stages.keys import stage_keys
from ambient_sweep.stages.planner import Prefixes
from ambient_sweep.stages.stages import Stages
from ambient_sweep.sweep.outcomes import INTERRUPTED, LOST, SPENT, STOPPED, mark, note_rung
from ambient_sweep.sweep.progress import Progress
from ambient_sweep.sweep.scheduler import SweepScheduler
from ambient_sweep.sweep.searcher import FAILED, FULL_LENGTH
from ambient_sweep.sweep.space import Sweep
from ambient_sweep.sweep.trainable import original_of
from ambient_sweep.trial.records import read_trial, trial_path, write_json

SCHEDULER_FILE = "scheduler.json"
GIB = 2**30
EXPORT_SECONDS, SAVE_SECONDS = 5.0, 1.0
EXPORT_SHARE = 0.05  # of the driver's time at most


class SweepCallback(tune.Callback):
    """Keeps the records true, the tables fresh and the user informed. Trials are known by the searcher's ids."""

    def __init__(
        self,
        sweep: Sweep,
        root: Path,
        progress: Progress,
        prefixes: Prefixes | None = None,
        scheduler: SweepScheduler | None = None,
    ) -> None:
        self._sweep, self._root, self._progress = sweep, root, progress
        self._prefixes, self._scheduler = prefixes, scheduler
        self._changed = False
        self._next_export = self._next_save = 0.0
        self._running: dict[str, dict[str, Any]] = {}  # suggestions of the trials that did not end yet

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        trial_id = trial.config["trial_id"]
        self._running[trial_id] = trial.config
        self._progress.trial_started(trial_id)
        if self._prefixes is not None:
            self._prefixes.started(trial_id, trial.config["values"])

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        self._changed = True
        if result["evaluated"]:
            if self._prefixes is not None:
                self._prefixes.reached(trial.config["trial_id"], result["images"])
            if self._scheduler is not None:
                self._save_scheduler()
            point = (result["fidelity"], result["memorization"])
            self._progress.evaluated(trial.config["trial_id"], _name(trial.config), result["fraction"], point)
            if self._scheduler is not None and self._scheduler.is_paused(trial.config["trial_id"]):
                self._progress.trial_paused(trial.config["trial_id"])
                if self._prefixes is not None:
                    self._prefixes.ended(trial.config["trial_id"])

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        last, suggestion = trial.last_result or {}, trial.config
        if last and not last.get(FULL_LENGTH) and last.get(FAILED) is None:
            spent = self._scheduler is not None and self._scheduler.budget.spent
            known = trial_path(self._root, suggestion["trial_id"]).exists()
            images = read_trial(self._root, suggestion["trial_id"]).images_done if known else 0
            reason = f"{SPENT if spent else STOPPED} after {images:,} images"
            config = self._sweep.config_for(suggestion["values"])
            original = original_of(suggestion)
            mark(self._root, suggestion["trial_id"], suggestion["role"], config, "stopped", reason, original)
        self._end(trial, last.get(FAILED))

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        failures = trial.run_metadata.num_failures
        allowed = self._sweep.search.max_failures
        self._progress.trial_lost(trial.config["trial_id"], _name(trial.config), failures, allowed)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        suggestion = trial.config
        attempts = self._sweep.search.max_failures + 1
        tried = "1 attempt" if attempts == 1 else f"{attempts} attempts"
        reason = f"{LOST}, after {tried}: {describe_error(_error_log(trial))}"
        config = self._sweep.config_for(suggestion["values"])
        original = original_of(suggestion)
        mark(self._root, suggestion["trial_id"], suggestion["role"], config, "failed", reason, original)
        self._end(trial, reason)

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        self._progress.status()
        if self._changed and time.monotonic() >= self._next_export:
            self._export()

    def _save_scheduler(self, *, force: bool = False) -> None:
        """Writes how trials stand at their rungs, now and then: what a resumed sweep goes on from."""
        if self._scheduler is not None and (force or time.monotonic() >= self._next_save):
            begun = time.monotonic()
            write_json(self._root / SCHEDULER_FILE, self._scheduler.state())
            self._next_save = begun + max(SAVE_SECONDS, (time.monotonic() - begun) / EXPORT_SHARE)

    def mark_interrupted(self) -> None:
        """Writes into the records of the trials that did not end that they were interrupted."""
        self._save_scheduler(force=True)
        for trial_id, suggestion in self._running.items():
            config = self._sweep.config_for(suggestion["values"])
            reason, original = f"{INTERRUPTED}; `resume` goes on with it", original_of(suggestion)
            mark(self._root, trial_id, suggestion["role"], config, "stopped", reason, original)

    def _end(self, trial: Trial, reason: str | None) -> None:
        self._changed = True
        trial_id = trial.config["trial_id"]
        self._running.pop(trial_id, None)
        rung = None if self._scheduler is None else self._scheduler.rule.reached(trial_id)
        if rung is not None:
            note_rung(self._root, trial_id, rung)
        self._progress.trial_ended(trial_id, _name(trial.config), reason)
        if self._prefixes is not None:
            self._prefixes.ended(trial_id)
            self._collect(self._prefixes)

    def _collect(self, prefixes: Prefixes) -> None:
        """Removes stages where they take more than search.stages_gib: all but what the frontier and live trials need."""
        try:
            stages = Stages(self._root)
            if stages.bytes() <= self._sweep.search.stages_gib * GIB:
                return
            front = frontier(build_tables(self._root).evaluations).to_pylist()
            best = [build_config({key: row[key] for key in knobs()}, where=row["trial_id"]) for row in front]
            keep = {key for config in best for key in stage_keys(config, prefixes.data).values()}
            live = [self._sweep.config_for(suggestion["values"]) for suggestion in self._running.values()]
            removed = stages.collect(keep, running=live)
        except (UserError, OSError) as error:  # the sweep goes on, and tries again when the next trial ends
            self._progress.note(f"stages could not be removed: {error}")
            return
        prefixes.forget(removed)
        if removed:
            self._progress.note(f"stages: {len(removed)} removed, to stay within search.stages_gib")

    def _export(self) -> None:
        start = time.monotonic()
        try:
            export_tables(self._root)
            self._changed = False
        except (UserError, OSError) as error:  # the sweep goes on; the last export, after its end, raises
            self._progress.note(f"the tables could not be written: {error}")
        seconds = time.monotonic() - start
        self._next_export = time.monotonic() + max(EXPORT_SECONDS, seconds / EXPORT_SHARE)


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
    return lines[-1] if lines else "for a reason that Ray does not tell"


def _name(suggestion: dict[str, Any]) -> str:
    """What a trial is, in short: the last parts of its keys where those tell them apart."""
    values = suggestion["values"]
    if suggestion["role"] != "search":
        label = suggestion["label"]
        return f"{label} (seed {values['seed']})" if "seed" in values else str(label)
    names = [key.rpartition(".")[2] for key in values]
    keys = names if len(set(names)) == len(names) else list(values)
    return ", ".join(f"{key}={_short(value)}" for key, value in zip(keys, values.values(), strict=True))


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
