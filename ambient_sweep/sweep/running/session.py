"""What a sweep does while Ray runs: the search, and the confirmation of what it found."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast, get_args

import ray

from ambient_sweep.config import Config, ModelConfig
from ambient_sweep.errors import UserError
from ambient_sweep.results.export import build_tables, export_tables
from ambient_sweep.stages.keys import data_key
from ambient_sweep.stages.planner import Planner
from ambient_sweep.stages.stages import Stages
from ambient_sweep.sweep.confirmation import Plan, Remeasurement, most_images, plan
from ambient_sweep.sweep.outcomes import read_histories, spent_before
from ambient_sweep.sweep.report import objectives
from ambient_sweep.sweep.running.callback import SweepCallback
from ambient_sweep.sweep.running.cluster import results
from ambient_sweep.sweep.running.forecast import Forecast
from ambient_sweep.sweep.running.preflight import concurrent_trials, largest, parameters, preflight, ray_nodes
from ambient_sweep.sweep.running.progress import Progress
from ambient_sweep.sweep.running.signals import StopRequest
from ambient_sweep.sweep.running.tuning import run_tune
from ambient_sweep.sweep.search.budget import Budget
from ambient_sweep.sweep.search.given import GivenTrials
from ambient_sweep.sweep.search.samplers import build_sampler
from ambient_sweep.sweep.search.search import SweepSearch
from ambient_sweep.sweep.search.study import StudyRecord, open_study
from ambient_sweep.sweep.space.definition import Role, Sweep
from ambient_sweep.trial.records import read_evaluations, read_trials
from ambient_sweep.trial.remeasure import is_remeasured, remeasure
from ambient_sweep.trial.setup import prepare

Echo = Callable[[str], None]
JOURNAL = "study.journal"


def search(sweep: Sweep, root: Path, echo: Echo, start: Callable[[], object], stop: StopRequest) -> None:
    """Runs what is left of the search. `start` is called when nothing can be refused any more. Raises Stopped."""
    plan = preflight(sweep, ray_nodes(ray.nodes()), root)  # type: ignore[no-untyped-call]
    for line in (f"sweep {sweep.name} in {root}", *plan.lines()):
        echo(line)
    if sweep.confirm is not None:
        most = most_images(sweep.confirm, max(c.images_at(c.training.stop) for c in largest(sweep)))
        echo(f"confirmation will train on up to {most:,} images more")
    if sweep.baseline is None:
        echo("no baseline: observed.base_sigma > 0, so no clean images may be seen")
    config = sweep.some_config()
    if config.resources.gpus:
        _prepare_on_gpu(config, root, stop)
    stop.check()
    planner = _planner(sweep, root) if sweep.search.stages else None
    known = open_search(sweep, root, planner=planner, concurrent=plan.concurrent)
    stopping, images = sweep.search.stopping, config.images_at(config.training.stop)
    fixed = plan.trials - plan.searched
    forecast = Forecast(images, fixed, plan.searched, sweep.rung_levels, stopping.eta, sweep.search.images)
    progress = _progress(sweep, root, plan.trials, echo, forecast, known.budget)
    callback = SweepCallback(sweep, root, known, progress, forecast, planner, stop.check)
    start()
    try:
        run_tune(sweep, root, known, plan.concurrent, [callback])
    finally:
        callback.mark_unfinished()
        progress.status(force=True)
    if known.gave_up and not known.searched:
        export_tables(root)  # of the trials outside the search
        raise UserError(known.gave_up)
    if known.gave_up:
        echo(known.gave_up)


def open_search(sweep: Sweep, root: Path, *, planner: Planner | None = None, concurrent: int = 1) -> SweepSearch:
    """The search as far as it has come, by the study and the records. Raises UserError naming what is damaged."""
    sizes: dict[ModelConfig, int] = {}

    def count(values: Any) -> int:
        config = sweep.config_for(values)
        if config.model not in sizes:
            sizes[config.model] = parameters(config)
        return sizes[config.model]

    path = root / JOURNAL
    study = open_study(sweep.name, build_sampler(sweep.search), path)
    study.sampler = build_sampler(sweep.search, len(study.get_trials(deepcopy=False)))
    return SweepSearch(
        sweep,
        StudyRecord(study, sweep.space),
        images_of=partial(_images, sweep),
        parameters=count,
        planner=planner,
        budget=Budget(sweep.search.images, spent_before(root), whole=not sweep.rung_levels),
        histories=read_histories(root),
        concurrent=concurrent,
    )


def _images(sweep: Sweep, values: Mapping[str, Any]) -> int:
    """Images of a whole training of a trial."""
    config = sweep.config_for(values)
    return config.images_at(config.training.stop)


def _planner(sweep: Sweep, root: Path) -> Planner:
    """What is stored already, of trials of an earlier session."""
    data = data_key(root)
    try:
        stored = Stages(root).states()
    except OSError as error:
        raise UserError(f"stages: {error.filename or root}: cannot be listed ({error.strerror or error})") from None
    return Planner(sweep.config_for, data, sweep.has_siblings, stored)


def _progress(
    sweep: Sweep, root: Path, trials: int, echo: Echo, forecast: Forecast, budget: Budget | None = None
) -> Progress:
    known, roles = read_trials(root), get_args(Role) if trials == 0 else ("baseline", "control", "search")
    for trial in known:
        left = trial.images_asked - trial.images_done
        forecast.report(trial.trial_id, cast(Role, trial.role), trial.images_done, trial.images_executed, left)
        if trial.ended:
            forecast.ended(trial.trial_id)
    ended = Counter(trial.status for trial in known if trial.ended and trial.role in roles)
    points = [objectives(e) for e in read_evaluations(root) if e.main_endpoint]
    names = (sweep.base["evaluation.fidelity"], sweep.base["evaluation.memorization"])
    done, failed = ended["completed"] + ended["stopped"], ended["failed"]
    return Progress(trials, names, echo, done=done, failed=failed, points=points, budget=budget, forecast=forecast)


def _prepare_on_gpu(config: Config, root: Path, stop: StopRequest) -> None:
    """What all trials share, made on a node that has the GPU; the driver's node may have none."""
    need = config.resources
    task = ray.remote(num_cpus=need.cpus, num_gpus=need.gpus)(prepare)
    results([task.remote(config, root)], stop)


# -- confirmation -----------------------------------------------------------------------------------------------------


def confirmation(sweep: Sweep, root: Path) -> Plan:
    """What is left of the confirmation of a finished search; empty where none is asked for."""
    if sweep.confirm is None:
        return Plan()
    whole = plan(build_tables(root).evaluations, sweep.confirm, sweep.base)
    ended = {trial.trial_id for trial in read_trials(root) if trial.ended}
    replicates = tuple(trial for trial in whole.replicates if trial.trial_id not in ended)
    again = tuple(e for e in whole.remeasurements if not is_remeasured(root, e.trial_id, e.images, e.seed))
    images = sum(_images(sweep, trial.values) for trial in replicates)
    return replace(whole, remeasurements=again, replicates=replicates, images=images)


def confirm(sweep: Sweep, root: Path, echo: Echo, stop: StopRequest) -> None:
    """Measures the best candidates again on fresh samples, and trains them again with fresh seeds: `confirm` in the file.

    Raises Stopped.
    """
    left = confirmation(sweep, root)
    if not left.replicates and not left.remeasurements:
        return
    stop.check()
    for line in left.lines():
        echo(line)
    _remeasure(sweep, root, left.remeasurements, stop)
    stop.check()
    if not left.replicates:
        return
    forecast = Forecast(0, 0, 0)
    for trial in left.replicates:  # the records know more of those that began
        forecast.report(trial.trial_id, trial.role, 0, 0, _images(sweep, trial.values))
    progress = _progress(sweep, root, 0, echo, forecast)
    progress.total = progress.done + progress.failed + len(left.replicates)
    nodes = ray_nodes(ray.nodes())  # type: ignore[no-untyped-call]
    _, concurrent = concurrent_trials(nodes, sweep.some_config().resources, sweep.search.max_concurrent)
    planner = _planner(sweep, root) if sweep.search.stages else None
    given = GivenTrials(left.replicates, planner)
    callback = SweepCallback(sweep, root, given, progress, forecast, planner, stop.check)
    try:
        run_tune(sweep, root, given, min(concurrent, len(left.replicates)), [callback])
    finally:
        callback.mark_unfinished()
        progress.status(force=True)


def _remeasure(sweep: Sweep, root: Path, wanted: tuple[Remeasurement, ...], stop: StopRequest) -> None:
    need = sweep.some_config().resources
    task = ray.remote(num_cpus=need.cpus, num_gpus=need.gpus)(remeasure)
    tasks = [task.remote(root, e.trial_id, e.images, root / e.checkpoint, e.seed) for e in wanted]
    results(tasks, stop)
