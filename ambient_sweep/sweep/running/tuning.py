"""The search and its trials behind Ray Tune's interfaces.

Each stretch of a trial between two pauses is a trial of Tune's own: Tune holds no paused trials, and what it forgets is in
the trial's folder. With one worker, training runs in the trial's own process; with more, in the workers of Ray Train
(workers.py).

A trial that cannot succeed (its training diverged, its config is bad) ends normally and reports why, since Tune would
start a failed one again. If its process dies, this stretch fails and the search begins another: see faults.py.
"""

import functools
import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from ambient_sweep.config import ResourcesConfig
from ambient_sweep.errors import AmbientSweepError
from ambient_sweep.object_store import drop
from ambient_sweep.stages.keys import FOLDER as STAGES
from ambient_sweep.stages.stages import Stages
from ambient_sweep.storage import keep_private
from ambient_sweep.sweep.folder import RAY_FOLDER
from ambient_sweep.sweep.outcomes import mark
from ambient_sweep.sweep.report import Report
from ambient_sweep.sweep.running.cluster import only_trainer, worker_bundle
from ambient_sweep.sweep.running.faults import Kind, Restarts, worst
from ambient_sweep.sweep.running.preflight import DRIVER_MEMORY
from ambient_sweep.sweep.running.signals import StopRequest
from ambient_sweep.sweep.running.workers import Job, fit_watched
from ambient_sweep.sweep.search.search import SweepSearch
from ambient_sweep.sweep.space.definition import Sweep, SweepTrial
from ambient_sweep.sweep.stopping.rungs import Decision
from ambient_sweep.trial.records import EvaluationRecord, read_trial, read_trial_evaluations, trial_folder


def trial_of(trial: Trial) -> SweepTrial:
    """The sweep's trial behind one of Tune's."""
    found: SweepTrial = trial.config["trial"]
    return found


class WithoutState:
    """Tune pickles what it is given; nothing reads that: the study and the trials' folders are the state."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


def ending_the_sweep(hook: Callable[..., None]) -> Callable[..., None]:
    """A hook of Tune's whose errors end the sweep: Tune would take some for failures of the trial."""

    @functools.wraps(hook)
    def guarded(self: Any, *arguments: Any, **more: Any) -> None:
        try:
            hook(self, *arguments, **more)
        except (OSError, AmbientSweepError) as error:
            self.stop.fail(error)

    return guarded


class TuneSearcher(WithoutState, Searcher):
    """Gives Tune the trials that the search wants to run, as `{"trial": SweepTrial}`, with plain values for trackers.

    concurrent: how many may run at once, as the cluster is now.
    """

    def __init__(
        self, search: SweepSearch, restarts: Restarts, concurrent: Callable[[], int], stop: StopRequest
    ) -> None:
        super().__init__()  # both objectives are read from the reports
        self._search, self._restarts, self._concurrent, self.stop = search, restarts, concurrent, stop
        self._ids: dict[str, str] = {}  # Tune's id of a stretch -> the trial's id

    def suggest(self, trial_id: str) -> Any:
        """The next trial; None where there is none yet; FINISHED at the end. Raises what ends the sweep."""
        self.stop.check()  # Tune asks for minutes where nothing runs
        while (lost := self._restarts.due()) is not None:
            self._search.again(lost)
        if len(self._search.running) - len(self._restarts.waiting) >= self._concurrent():
            return None
        trial = self._search.next(trial_id)
        if trial is None:
            return Searcher.FINISHED if self._search.finished else None
        self._ids[trial_id] = trial.trial_id
        return {"trial": trial, "trial_id": trial.trial_id, "role": trial.role, **trial.values}

    @ending_the_sweep
    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A stretch ended; a trial that paused goes on later. What becomes of one that failed, the callback decides."""
        ours = self._ids.pop(trial_id)
        if not error and not self._search.is_paused(ours):
            self._search.ended(ours, (result or {}).get("report"))

    def save(self, checkpoint_path: str) -> None:
        """Nothing: see `WithoutState`."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: see `WithoutState`."""


class TuneScheduler(WithoutState, FIFOScheduler):
    """Ends a stretch of a trial where the search says so."""

    def __init__(self, search: SweepSearch) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._search = search

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Asks the search about every full evaluation."""
        report: Report = result["report"]
        if report.ending is None and self._search.evaluated(trial_of(trial).trial_id, report) != Decision.CONTINUE:
            return str(FIFOScheduler.STOP)
        return str(FIFOScheduler.CONTINUE)


def run_tune(
    sweep: Sweep, root: Path, searcher: TuneSearcher, search: SweepSearch, callbacks: list[tune.Callback]
) -> None:
    """Runs the trials of `search` until it is finished."""
    resources = sweep.some_config().resources
    trainable = tune.with_parameters(train_trial, sweep=sweep, root=root)
    sessions = len(list((root / RAY_FOLDER).glob("session-*")))
    tune.Tuner(
        tune.with_resources(trainable, trial_bundles(resources)),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=TuneScheduler(search),
            num_samples=-1,  # the search says when it is finished
            reuse_actors=resources.workers == 1,  # a stopped trial of several workers cannot be reused
            trial_dirname_creator=lambda trial: str(trial.trial_id),
        ),
        run_config=tune.RunConfig(
            name=f"session-{sessions + 1}",
            storage_path=str(root / RAY_FOLDER),
            callbacks=callbacks,
            verbose=0,
        ),
    ).fit()


def trial_bundles(resources: ResourcesConfig) -> tune.PlacementGroupFactory:
    """What Tune reserves for a trial. The workers of a trial with several reserve their own."""
    if resources.workers > 1:
        return tune.PlacementGroupFactory([{"memory": DRIVER_MEMORY}])
    return tune.PlacementGroupFactory([worker_bundle(resources)])


def train_trial(config: dict[str, Any], *, sweep: Sweep, root: Path) -> None:
    """Trains the trial `config["trial"]`; reports each evaluation at its main endpoint to Tune, then how it ended."""
    keep_private()
    trial: SweepTrial = config["trial"]
    resolved = sweep.config_for({})  # stands in for the trial's own in the record, should that one be refused

    def tell(evaluation: EvaluationRecord | None, ending: Literal["completed"] | None = None) -> None:
        if evaluation is not None and evaluation.main_endpoint:
            report = Report.of(evaluation, read_trial(root, trial.trial_id))
            plain = {"images": report.images, "fidelity": report.fidelity, "memorization": report.memorization}
            tune.report({"report": replace(report, ending=ending), "timesteps_total": report.images, **plain})

    try:
        resolved = sweep.config_for(trial.values)
        stages = Stages(root, every_length=sweep.has_siblings) if sweep.search.stages else None
        job = Job(resolved, root, trial, stages)
        if resolved.resources.workers == 1:
            with only_trainer(trial_folder(root, trial.trial_id)):
                job.run(on_report=lambda images, evaluation: tell(evaluation))
        else:
            for evaluation in itertools.chain.from_iterable(fit_watched(job)):
                tell(evaluation)
    except AmbientSweepError as error:
        if (failure := worst(error))[0] != Kind.OWN:  # a file could not be read
            raise failure[1] from None
        mark(root, trial, resolved, "failed", str(error))
        executed = read_trial(root, trial.trial_id).images_executed
        tune.report({"report": Report(ending="failed", reason=str(error), images_executed=executed)})
        return
    finally:
        drop(trial_folder(root, trial.trial_id))
        drop(root / STAGES)
    last = [each for each in read_trial_evaluations(root, trial.trial_id) if each.main_endpoint][-1]
    tell(last, "completed")
