"""What a sweep does while Ray runs: the search, and the confirmation of what it found."""

import contextlib
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.search import Searcher

from ambient_sweep.config import Config
from ambient_sweep.errors import UserError
from ambient_sweep.results.table import build_tables, export_tables
from ambient_sweep.stages.keys import data_key
from ambient_sweep.stages.planner import Prefixes
from ambient_sweep.stages.stages import Stages
from ambient_sweep.sweep.budget import Budget
from ambient_sweep.sweep.callback import SCHEDULER_FILE, SweepCallback
from ambient_sweep.sweep.cluster import StopRequest
from ambient_sweep.sweep.confirm import Plan, ReEvaluation, most_images, plan
from ambient_sweep.sweep.outcomes import INTERRUPTED, LOST, objectives, read_outcomes, spent_before
from ambient_sweep.sweep.progress import Progress
from ambient_sweep.sweep.resources import concurrent_trials, largest, preflight, ray_nodes
from ambient_sweep.sweep.rules import stopping_rule
from ambient_sweep.sweep.scheduler import SweepScheduler
from ambient_sweep.sweep.searcher import SweepSearcher
from ambient_sweep.sweep.space import Sweep
from ambient_sweep.sweep.trainable import make_trainable, trial_bundles
from ambient_sweep.trial.records import read_evaluations, read_trials
from ambient_sweep.trial.remeasure import is_remeasured, remeasure
from ambient_sweep.trial.setup import prepare

Echo = Callable[[str], None]
JOURNAL, TUNE_FOLDER = "study.journal", "ray"


def search(sweep: Sweep, root: Path, echo: Echo, start: Callable[[], None], stop: StopRequest) -> None:
    """Runs what is left of the search. `start` is called when nothing can be refused any more. Raises Stopped."""
    plan = preflight(sweep, ray_nodes(ray.nodes()), root)  # type: ignore[no-untyped-call]
    for line in (f"sweep {sweep.name} in {root}", *plan.lines()):
        echo(line)
    if sweep.confirm is not None:
        most = most_images(sweep.confirm, max(c.images_at(c.training.stop) for c in largest(sweep)))
        echo(f"to train afterwards, for confirm: at most {most:,} images more")
    if sweep.baseline is None:
        echo("no baseline: observed.base_sigma > 0, so no clean images may be seen")
    config = sweep.some_config()
    if config.resources.gpus:
        _prepare_on_gpu(config, root, stop)
    stop.check()
    prefixes = _prefixes(sweep, root) if sweep.search.stages else None
    hooks: dict[str, Any] = {}
    if prefixes is not None:
        hooks = {"cost": prefixes.cost, "busy": prefixes.busy, "begun": prefixes.started}
    rule = stopping_rule(sweep, None if prefixes is None else prefixes.busy)
    budget = Budget(sweep.search.images, spent_before(root), whole=rule is None)
    searcher = SweepSearcher(
        sweep, root / JOURNAL, outcomes=read_outcomes(root), concurrent=plan.concurrent, budget=budget, **hooks
    )
    scheduler = None if rule is None else SweepScheduler(rule, concurrent=plan.concurrent, budget=budget)
    if scheduler is not None and (root / SCHEDULER_FILE).exists():
        _load(scheduler, root / SCHEDULER_FILE)
    progress = _progress(sweep, root, plan.trials, echo, budget)
    callback = SweepCallback(sweep, root, progress, prefixes, scheduler)
    start()
    try:
        with contextlib.closing(searcher):
            _run_tune(sweep, root, searcher, plan.concurrent, [callback, _Heed(stop)], scheduler)
    finally:
        progress.status(force=True)
        callback.mark_interrupted()
    if searcher.gave_up and not searcher.searched:
        export_tables(root)  # of the trials outside the search
        raise UserError(searcher.gave_up)
    if searcher.gave_up:
        echo(searcher.gave_up)


class _Heed(tune.Callback):
    """Ends Tune's loop, between two of its steps, by Stopped."""

    def __init__(self, stop: StopRequest) -> None:
        self._stop = stop

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        self._stop.check()


def _run_tune(
    sweep: Sweep,
    root: Path,
    searcher: Searcher,
    concurrent: int,
    callbacks: list[tune.Callback],
    scheduler: SweepScheduler | None = None,
) -> None:
    resources = sweep.some_config().resources
    sessions = len(list((root / TUNE_FOLDER).glob("session-*")))
    tune.run(
        make_trainable(sweep, root),
        name=f"session-{sessions + 1}",
        storage_path=str(root / TUNE_FOLDER),
        search_alg=searcher,
        scheduler=scheduler,
        num_samples=-1,  # the searcher says when it is finished
        max_concurrent_trials=concurrent,
        resources_per_trial=trial_bundles(resources),
        max_failures=sweep.search.max_failures,
        raise_on_failed_trial=False,
        reuse_actors=resources.workers == 1,  # a stopped trial of several workers cannot be reused
        trial_dirname_creator=_trial_dirname,
        callbacks=callbacks,
        verbose=0,
    )


def _trial_dirname(trial: Trial) -> str:
    return str(trial.trial_id)


def _prefixes(sweep: Sweep, root: Path) -> Prefixes:
    """What is stored already, of trials of an earlier session."""
    data = data_key(root)
    try:
        stored = Stages(root).states()
    except OSError as error:
        raise UserError(f"stages: {error.filename or root}: cannot be listed ({error.strerror or error})") from None
    return Prefixes(sweep.config_for, data, sweep.has_siblings, stored)


def _load(scheduler: SweepScheduler, path: Path) -> None:
    try:
        scheduler.load(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read ({error!r}); restore it, or start again under another name") from None


def _progress(sweep: Sweep, root: Path, trials: int, echo: Echo, budget: Budget | None = None) -> Progress:
    ended = Counter(t.status for t in read_trials(root) if not (t.reason or "").startswith((LOST, INTERRUPTED)))
    points = [objectives(e) for e in read_evaluations(root) if e.main_endpoint]
    names = (sweep.base["evaluation.fidelity"], sweep.base["evaluation.memorization"])
    done, failed = ended["completed"] + ended["stopped"], ended["failed"]
    return Progress(trials, names, echo, done=done, failed=failed, points=points, budget=budget)


def _prepare_on_gpu(config: Config, root: Path, stop: StopRequest) -> None:
    """What all trials share, made on a node that has the GPU; the driver's node may have none."""
    need = config.resources
    task = ray.remote(num_cpus=need.cpus, num_gpus=need.gpus)(prepare)
    stop.results([task.remote(config, root)])


# -- confirmation -----------------------------------------------------------------------------------------------------


def confirmation(sweep: Sweep, root: Path) -> Plan:
    """What is left of the confirmation of a finished search; empty where none is asked for."""
    if sweep.confirm is None:
        return Plan((), (), (), 0, 0)
    whole = plan(build_tables(root).evaluations, sweep.confirm, base=sweep.base)
    outcomes = read_outcomes(root)
    ended = {trial_id for trial_id, outcome in outcomes.items() if outcome.ended}
    replicates = tuple(each for each in whole.replicates if each.trial_id not in ended)
    again = tuple(e for e in whole.reevaluations if not is_remeasured(root, e.trial_id, e.images, e.seed))
    return Plan(whole.candidates, again, replicates, sum(each.cost for each in replicates), whole.left_out)


def confirm(sweep: Sweep, root: Path, echo: Echo, stop: StopRequest) -> None:
    """Measures the best candidates again on fresh samples, and trains them again with fresh seeds: `confirm` in the file.

    Raises Stopped.
    """
    left = confirmation(sweep, root)
    if not left.replicates and not left.reevaluations:
        return
    stop.check()
    for line in left.lines():
        echo(line)
    _evaluate_again(sweep, root, left.reevaluations, stop)
    stop.check()
    progress = _progress(sweep, root, 0, echo)
    progress.total = progress.done + progress.failed + len(left.replicates)
    resources, limit = sweep.some_config().resources, sweep.search.max_concurrent
    nodes = ray_nodes(ray.nodes())  # type: ignore[no-untyped-call]
    _, concurrent = concurrent_trials(nodes, resources, limit)
    prefixes = _prefixes(sweep, root) if sweep.search.stages else None
    callback = SweepCallback(sweep, root, progress, prefixes)
    suggestions = [each.suggestion() for each in left.replicates]
    searcher, concurrent = _HandedOut(suggestions, prefixes), min(concurrent, len(suggestions))
    try:
        if suggestions:
            _run_tune(sweep, root, searcher, concurrent, [callback, _Heed(stop)])
    finally:
        progress.status(force=True)
        callback.mark_interrupted()


class _HandedOut(Searcher):
    """Hands out given trials: those first that have the least to train, and none that others are training a part of now."""

    def __init__(self, suggestions: list[dict[str, Any]], prefixes: Prefixes | None) -> None:
        super().__init__()
        self._left, self._prefixes = suggestions, prefixes

    def suggest(self, trial_id: str) -> Any:
        prefixes = self._prefixes
        if not self._left:
            return Searcher.FINISHED
        if prefixes is None:
            return self._left.pop(0)
        free = [each for each in self._left if not prefixes.busy(each["values"])]
        if not free:
            return None
        chosen = min(free, key=lambda each: prefixes.cost(each["values"]))
        self._left.remove(chosen)
        prefixes.started(chosen["trial_id"], chosen["values"])  # Tune starts it later
        return chosen

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing to learn."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the records say what is left."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the records say what is left."""


def _evaluate_again(sweep: Sweep, root: Path, wanted: tuple[ReEvaluation, ...], stop: StopRequest) -> None:
    need = sweep.some_config().resources
    task = ray.remote(num_cpus=need.cpus, num_gpus=need.gpus)(remeasure)
    stop.results([task.remote(root, e.trial_id, e.images, root / e.checkpoint, e.seed) for e in wanted])
