"""What a sweep does while Ray runs: the search, and the confirmation of what it found."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray

from ambient_sweep.errors import UserError
from ambient_sweep.results.export import build_tables, export_tables
from ambient_sweep.stages.keys import data_key
from ambient_sweep.stages.planner import Planner
from ambient_sweep.stages.stages import Stages
from ambient_sweep.sweep.confirmation import Plan as Confirmation
from ambient_sweep.sweep.confirmation import plan as plan_confirmation
from ambient_sweep.sweep.outcomes import read_histories, spent_before
from ambient_sweep.sweep.report import objectives
from ambient_sweep.sweep.running.callback import SweepCallback
from ambient_sweep.sweep.running.cluster import results, wait_for_room
from ambient_sweep.sweep.running.preflight import Plan, concurrent_trials, largest, parameters, preflight, ray_nodes
from ambient_sweep.sweep.running.progress import Forecast, Progress
from ambient_sweep.sweep.running.signals import Stopped, StopRequest
from ambient_sweep.sweep.running.tuning import run_tune
from ambient_sweep.sweep.search.budget import Budget
from ambient_sweep.sweep.search.given import GivenTrials
from ambient_sweep.sweep.search.samplers import build_sampler
from ambient_sweep.sweep.search.search import SweepSearch
from ambient_sweep.sweep.search.study import StudyRecord, open_study
from ambient_sweep.sweep.space.definition import Sweep
from ambient_sweep.sweep.space.file import SWEEP_FILE, write_sweep
from ambient_sweep.text import counted
from ambient_sweep.trial.records import TrialRecord, read_evaluations, read_trial, read_trials, trial_path
from ambient_sweep.trial.remeasure import remeasure
from ambient_sweep.trial.setup import image_lines, prepare, preparing

Echo = Callable[[str], None]
JOURNAL = "study.journal"


def search(sweep: Sweep, root: Path, echo: Echo, stop: StopRequest) -> Progress:
    """Runs what is left of the search, and writes sweep.yaml once nothing can be refused any more. Raises Stopped."""
    plan = preflight(sweep, ray_nodes(ray.nodes()), root)  # type: ignore[no-untyped-call]
    for line in (f"sweep {sweep.name} in {root}", *plan.lines()):
        echo(line)
    if sweep.confirm is not None:
        most = sweep.confirm.top * sweep.confirm.seeds * max(config.length for config in largest(sweep))
        echo(f"confirmation will train on up to {most:,} images more")
    if sweep.baseline is None:
        echo("no baseline: observed.base_sigma > 0, so no clean images may be seen")
    config = sweep.some_config()
    wait_for_room(config.resources, echo, stop)
    if config.resources.gpus:  # what all trials share; the driver's node may have no GPU
        echo(preparing(config))
        _on_cluster(sweep, prepare, [(config, root)], stop)
        for line in _on_cluster(sweep, image_lines, [(config,)], stop)[0]:
            echo(line)
    stop.check()
    planner = _planner(sweep, root)
    known = open_search(sweep, root, planner=planner, concurrent=plan.concurrent)
    progress = _progress(sweep, root, plan, known.budget, echo)
    write_sweep(sweep, root / SWEEP_FILE)
    _train(sweep, root, known, plan.concurrent, progress, planner, stop)
    if known.gave_up and not known.searched:
        export_tables(root)  # of the trials outside the search
        raise UserError(known.gave_up)
    if known.gave_up:
        echo(known.gave_up)
    return progress


def open_search(sweep: Sweep, root: Path, *, planner: Planner | None = None, concurrent: int = 1) -> SweepSearch:
    """The search as far as it has come, by the study and the records. Raises UserError naming what is damaged."""
    path = root / JOURNAL
    study = open_study(sweep.name, build_sampler(sweep.search), path)
    study.sampler = build_sampler(sweep.search, len(study.get_trials(deepcopy=False)))
    return SweepSearch(
        sweep,
        StudyRecord(study, sweep.space),
        images_of=lambda values: sweep.config_for(values).length,
        parameters=lambda values: parameters(sweep.config_for(values)),
        planner=planner,
        budget=Budget(sweep.search.images, spent_before(root), whole=not sweep.rung_levels),
        histories=read_histories(root),
        concurrent=concurrent,
    )


def confirmation(sweep: Sweep, root: Path) -> Confirmation:
    """The next step of the confirmation of a finished search, by the records; empty at its end."""
    ended = [trial.trial_id for trial in read_trials(root) if trial.ended]
    return plan_confirmation(build_tables(root).evaluations, sweep.confirm, sweep.base, ended)


def confirm(sweep: Sweep, root: Path, echo: Echo, progress: Progress, stop: StopRequest) -> None:
    """Measures again what could be on the frontier, and trains the best again: `confirm` in the file. Raises Stopped."""
    while (step := confirmation(sweep, root)) != Confirmation():
        echo(f"confirming: {step.line}")
        wait_for_room(sweep.some_config().resources, echo, stop)
        if step.remeasurements:
            measurements = [
                (root, e.trial_id, e.images, root / e.checkpoint, e.seed, e.samples) for e in step.remeasurements
            ]
            _on_cluster(sweep, remeasure, measurements, stop)
            stop.check()
            continue
        progress.confirm({trial.trial_id: sweep.config_for(trial.values).length for trial in step.replicates})
        nodes = ray_nodes(ray.nodes())  # type: ignore[no-untyped-call]
        concurrent = concurrent_trials(nodes, sweep.some_config().resources, sweep.search.max_concurrent)
        planner = _planner(sweep, root)
        _train(sweep, root, GivenTrials(step.replicates, planner), concurrent, progress, planner, stop)


def _train(
    sweep: Sweep,
    root: Path,
    trials: SweepSearch | GivenTrials,
    concurrent: int,
    progress: Progress,
    planner: Planner | None,
    stop: StopRequest,
) -> None:
    """Trains `trials` through Tune. Whatever ends it, the records say how the trials stand."""
    callback = SweepCallback(sweep, root, trials, progress, planner, stop)
    progress.note(f"starting workers, for up to {counted(concurrent, 'trial')} at once")
    try:
        run_tune(sweep, root, trials, concurrent, [callback])
        if not trials.finished:  # Tune took a SIGUSR1 before its first step
            raise Stopped("interrupted")
    finally:
        callback.mark_unfinished()
        progress.status(force=True)


def _planner(sweep: Sweep, root: Path) -> Planner | None:
    """With search.stages, what is stored already, of trials of an earlier session."""
    if not sweep.search.stages:
        return None
    return Planner(sweep.config_for, data_key(root), sweep.has_siblings, Stages(root).states())


def _progress(sweep: Sweep, root: Path, plan: Plan, budget: Budget, echo: Echo) -> Progress:
    """The progress of this session, which knows what earlier ones did."""
    images, eta = sweep.some_config().length, sweep.search.stopping.eta
    forecast = Forecast(images, plan.trials - plan.searched, plan.searched, sweep.rung_levels, eta, budget.images)
    known = read_trials(root)
    for trial in known:
        forecast.stands(trial)
    ended = Counter(trial.status for trial in known if trial.ended and trial.role != "replicate")
    points = [objectives(e) for e in read_evaluations(root) if e.main_endpoint]
    names = (sweep.base["evaluation.fidelity"], sweep.base["evaluation.memorization"])
    done, failed = ended["completed"] + ended["stopped"], ended["failed"]

    def record(trial_id: str) -> TrialRecord | None:
        return read_trial(root, trial_id) if trial_path(root, trial_id).exists() else None

    return Progress(
        plan.trials, names, echo, forecast, done=done, failed=failed, points=points, budget=budget, record=record
    )


def _on_cluster(
    sweep: Sweep, function: Callable[..., Any], calls: list[tuple[Any, ...]], stop: StopRequest
) -> list[Any]:
    """What `function` returns for each of these arguments, in processes with the resources of a worker. Raises Stopped."""
    need = sweep.some_config().resources
    task = ray.remote(num_cpus=need.cpus, num_gpus=need.gpus)(function)
    return results([task.remote(*arguments) for arguments in calls], stop)
