"""What a sweep does while Ray runs: the search, and the confirmation of what it found."""

import math
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from ambient_sweep.errors import UserError
from ambient_sweep.object_store import put
from ambient_sweep.results.export import build_tables, export_tables
from ambient_sweep.stages.keys import data_key
from ambient_sweep.stages.planner import Planner
from ambient_sweep.stages.stages import Stages
from ambient_sweep.sweep.board import begin_board
from ambient_sweep.sweep.checks.doctor import examine
from ambient_sweep.sweep.confirmation import Plan as Confirmation
from ambient_sweep.sweep.confirmation import plan as plan_confirmation
from ambient_sweep.sweep.folder import note_begun
from ambient_sweep.sweep.forecast import Forecast
from ambient_sweep.sweep.outcomes import read_histories, spent_before
from ambient_sweep.sweep.report import objectives
from ambient_sweep.sweep.running.callback import SweepCallback
from ambient_sweep.sweep.running.cluster import nodes_for, on_cluster, release_jobs, room, this_job, wait_for_room
from ambient_sweep.sweep.running.faults import Restarts, check_storage
from ambient_sweep.sweep.running.preflight import Fitting, largest, parameters, preflight, ray_nodes
from ambient_sweep.sweep.running.progress import Progress
from ambient_sweep.sweep.running.signals import Stopped, StopRequest
from ambient_sweep.sweep.running.tuning import TuneSearcher, run_tune
from ambient_sweep.sweep.search.budget import Budget
from ambient_sweep.sweep.search.samplers import build_sampler
from ambient_sweep.sweep.search.search import SweepSearch
from ambient_sweep.sweep.search.study import SECONDS, StudyRecord, open_study
from ambient_sweep.sweep.space.definition import Sweep
from ambient_sweep.sweep.space.file import SWEEP_FILE, write_sweep
from ambient_sweep.sweep.standing import Session, Step, clock_text
from ambient_sweep.sweep.tracking import trackers
from ambient_sweep.terminal import Screen
from ambient_sweep.text import counted
from ambient_sweep.trial.records import read_evaluations, read_trials
from ambient_sweep.trial.remeasure import remeasure
from ambient_sweep.trial.setup import prepare, preparing

Echo = Callable[[str], None]
JOURNAL = "study.journal"


def run_session(sweep: Sweep, root: Path, screen: Screen, stop: StopRequest, begun: float) -> None:
    """Runs what is left of the search and, once nothing can be refused any more, writes sweep.yaml; then confirms the best.

    begun: when the command began, by the monotonic clock. Raises Stopped.
    """
    stop.check()  # signals wait while Ray starts
    check_storage(root)
    echo, config, shared = screen.line, sweep.some_config(), "RAY_ADDRESS" in os.environ
    earlier = Session.read(root)
    jobs = earlier.jobs if earlier else ()
    release_jobs(jobs)
    if shared:  # nodes may be lost, busy or not started yet
        wait_for_room(config.resources, echo, stop, sweep.search.patience)
    plan = preflight(sweep, ray_nodes(), root, [trial for trial in read_trials(root) if trial.ended])
    for line in (f"sweep {sweep.name} in {root}", *plan.lines()):
        echo(line)
    if shared:  # of its nodes, nothing else is known
        for finding in examine(None, root):
            if not finding.well:
                echo(f"warning: {finding.text}")
    if sweep.confirm.seeds:
        most = sweep.confirm.top * sweep.confirm.seeds * max(config.length for config in largest(sweep))
        echo(f"confirmation will train on up to {most:,} images more")
    if sweep.baseline is None:
        echo("no baseline: observed.base_sigma > 0, so no clean images may be seen")
    if config.resources.gpus:  # what all trials share; the driver's node may have no GPU
        echo(preparing(config))
        for line in on_cluster(config.resources, prepare, [(config, root)], stop)[0]:
            echo(line)
    stop.check()
    stored = Planner(sweep.config_for, data_key(root), sweep.has_siblings, stored=Stages(root).states())
    search = open_search(sweep, root, stored if sweep.search.stages else None, plan.concurrent)
    names = (config.evaluation.fidelity, config.evaluation.memorization)
    points = [objectives(e) for e in read_evaluations(root) if e.main_endpoint]
    progress = Progress(
        root, names, screen, Forecast.of(sweep), points=points, room=lambda: room(config.resources),
        most_seconds=lambda: search.budget.seconds_left, jobs=tuple(dict.fromkeys((*jobs, this_job()))),
    )  # fmt: skip
    note_begun(sweep, root)  # its ranges may be wider now
    write_sweep(sweep, root / SWEEP_FILE)
    begin_board(sweep, root)
    searching = bool(search.left)
    began, worked = time.monotonic(), _worked(root)
    try:
        if searching:
            with nodes_for(config.resources, min(plan.trials, sweep.search.max_concurrent or plan.trials)):
                _train(sweep, root, search, progress, stop)
    finally:
        took = time.monotonic() - began
        search.took(took)
    if gave_up := search.proposals.gave_up:
        if not search.searched:
            export_tables(root)  # of the trials outside the search
            raise UserError(gave_up)
        echo(gave_up)
    if searching:
        slots = plan.concurrent * config.resources.workers
        echo(
            f"time: {clock_text(began - begun)} to start, {clock_text(took)} to search, of which trainings and evaluations "
            f"filled {(_worked(root) - worked) / took / slots:.0%} of {counted(slots, 'slot')}"
        )
    confirm(sweep, root, echo, search, progress, stop)


def _worked(root: Path) -> float:
    """Seconds in which workers trained and evaluated."""
    return sum(trial.device_seconds for trial in read_trials(root))


def open_search(sweep: Sweep, root: Path, planner: Planner | None = None, concurrent: int = 1) -> SweepSearch:
    """The search as far as it has come, by the study and the records. Raises UserError naming what is damaged."""
    study = open_study(sweep.name, build_sampler(sweep.search), root / JOURNAL)
    seconds = 3600 * (sweep.search.hours or math.inf) - study.user_attrs.get(SECONDS, 0.0)
    study.sampler = build_sampler(sweep.search, len(study.get_trials(deepcopy=False)))
    return SweepSearch(
        sweep,
        StudyRecord(study, sweep.space, partial(put, root / JOURNAL)),
        planner=planner or Planner(sweep.config_for, shares=False),
        parameters=lambda values: parameters(sweep.config_for(values)),
        budget=Budget(sweep.search.images, spent_before(root), whole=not sweep.rung_levels, seconds=seconds),
        histories=read_histories(root),
        concurrent=concurrent,
    )


def confirmation(sweep: Sweep, root: Path) -> Confirmation:
    """The next step of the confirmation of a finished search, by the records; empty at its end."""
    ended = [trial.trial_id for trial in read_trials(root) if trial.ended]
    return plan_confirmation(build_tables(root).evaluations, sweep.confirm, sweep.base, ended)


def confirm(sweep: Sweep, root: Path, echo: Echo, search: SweepSearch, progress: Progress, stop: StopRequest) -> None:
    """Measures again what could be on the frontier, and trains the best again: `confirm` in the file. Raises Stopped."""
    resources = sweep.some_config().resources
    while (step := confirmation(sweep, root)) != Confirmation():
        echo(f"confirming: {step.line}")
        given = {trial.trial_id: sweep.config_for(trial.values).length for trial in step.replicates}
        now = Step(step.line, given, len(step.remeasurements))
        progress.confirm(now)
        wait_for_room(resources, echo, stop, sweep.search.patience)
        if step.remeasurements:
            again = [
                (root, e.trial_id, e.images, root / e.checkpoint, e.seed, e.samples, sweep.base.get("model.base"))
                for e in step.remeasurements
            ]
            on_cluster(resources, remeasure, again, stop, partial(progress.confirm, now))
            stop.check()
            continue
        search.give(step.replicates)
        _train(sweep, root, search, progress, stop)


def _train(sweep: Sweep, root: Path, search: SweepSearch, progress: Progress, stop: StopRequest) -> None:
    """Runs `search` through Tune. Whatever ends it, the records say how the trials stand."""
    restarts = Restarts(root, sweep.search)
    fitting = Fitting(sweep.some_config().resources, sweep.search.max_concurrent)
    callback = SweepCallback(sweep, root, search, progress, stop, restarts)
    progress.note(f"starting workers, for up to {counted(fitting(), 'trial')} at once")
    try:
        searcher = TuneSearcher(search, restarts, fitting, stop)
        run_tune(sweep, root, searcher, search, [callback, *trackers(sweep, root)])
        if not search.finished:  # Tune took a SIGUSR1 before its first step
            raise Stopped
    finally:
        callback.mark_unfinished()
