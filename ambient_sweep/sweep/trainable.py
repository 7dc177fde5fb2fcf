"""The Tune trainable: one suggestion of the searcher, trained and evaluated.

With one worker, training runs in the trial's own process; with more, the trial watches its workers (sweep/workers.py).

A trial that cannot succeed (its training diverged, its config is bad) ends normally and reports why, since Tune would
start an errored one again. A worker that dies makes the trial fail, and Tune start it again: `run_trial` goes on from
the trial's own training state.
"""

import math
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray import tune

from ambient_sweep.config import Config, ResourcesConfig
from ambient_sweep.errors import AmbientSweepError
from ambient_sweep.sweep.cluster import only_trainer
from ambient_sweep.sweep.outcomes import (
    full_length_objectives,
    mark,
    objectives,
)
from ambient_sweep.sweep.resources import DRIVER_MEMORY
from ambient_sweep.sweep.searcher import FAILED, FULL_LENGTH
from ambient_sweep.sweep.space import Sweep
from ambient_sweep.sweep.workers import Job, NewEvaluations, Shared, fit_watched, stages_of
from ambient_sweep.trial.records import (
    EvaluationRecord,
    TrialRecord,
    read_trial,
    read_trial_evaluations,
    trial_folder,
)


def make_trainable(sweep: Sweep, root: Path) -> Callable[[dict[str, Any]], None]:
    """The function that Tune calls with a suggestion. Ray must run: the sweep goes to its object store."""
    trainable: Callable[[dict[str, Any]], None] = tune.with_parameters(train_suggestion, sweep=sweep, root=root)
    return trainable


def trial_bundles(resources: ResourcesConfig) -> tune.PlacementGroupFactory:
    """What Tune reserves for a trial. The workers of a trial with several reserve their own."""
    if resources.workers > 1:
        return tune.PlacementGroupFactory([{"memory": DRIVER_MEMORY}])
    bundle = {"CPU": resources.cpus} | ({"GPU": resources.gpus} if resources.gpus else {})
    return tune.PlacementGroupFactory([bundle])


def train_suggestion(
    suggestion: dict[str, Any],
    *,
    sweep: Sweep,
    root: Path,
    report: Callable[[dict[str, Any]], None] = tune.report,
) -> None:
    """Trains one suggestion and reports each evaluation at its main endpoint, then how it ended."""
    trial_id, role = suggestion["trial_id"], suggestion["role"]
    config = sweep.config_for({})  # stands in for the trial's own in the record, should that one be refused
    try:
        config = sweep.config_for(suggestion["values"])
        job = Job(config, root, trial_id, role, _shared(sweep), original_of(suggestion))
        if config.resources.workers == 1:
            _in_process(job, report)
        else:
            _with_workers(job, report)
        trial, evaluations = read_trial(root, trial_id), read_trial_evaluations(root, trial_id)
    except AmbientSweepError as error:
        mark(root, trial_id, role, config, "failed", str(error), original_of(suggestion))
        report(result(trial=read_trial(root, trial_id), failed=str(error)))
        return
    values = full_length_objectives(trial, evaluations)
    last = evaluations[-1] if evaluations else None
    memory = _memory_gib(config)
    report(result(last, trial, values=values, full_length=trial.status == "completed", memory=memory))


def _shared(sweep: Sweep) -> Shared:
    return (sweep.has_siblings,) if sweep.search.stages else None


def original_of(suggestion: dict[str, Any]) -> str | None:
    """The trial that a replicate is one of; None for other roles."""
    return str(suggestion["label"]) if suggestion["role"] == "replicate" else None


def result(
    evaluation: EvaluationRecord | None = None,
    trial: TrialRecord | None = None,
    *,
    values: tuple[float, float] | None = None,
    full_length: bool = False,
    failed: str | None = None,
    memory: float | None = None,
) -> dict[str, Any]:
    """What is reported to Tune: always the same keys. `evaluated` is False in the last report, which repeats values.

    What constraints may bound is told as far as it is known; memory where a process trains one trial.
    """
    if values is None and evaluation is not None and not full_length:
        values = objectives(evaluation)
    fidelity, memorization = values or (math.nan, math.nan)
    asked = 0 if trial is None else trial.config["evaluation.samples"]
    images = evaluation.images if evaluation else 0
    return {
        "fidelity": fidelity,
        "memorization": memorization,
        "images": images,
        "images_left": 0 if trial is None else trial.images_asked - images,
        "images_executed": None if trial is None else trial.images_executed,
        "fraction": evaluation.fraction if evaluation else 0.0,
        "endpoint": evaluation.endpoint if evaluation else "",
        "full_samples": evaluation is not None and evaluation.samples >= asked,
        "evaluated": evaluation is not None and not full_length,
        "parameters": None if trial is None else trial.parameters,
        "device_seconds": None if trial is None else trial.device_seconds,
        "memory_gib": memory,
        FULL_LENGTH: full_length,
        FAILED: failed,
    }


def _memory_gib(config: Config) -> float | None:
    """The most that this process has held, of the GPU where it has one."""
    if config.resources.workers > 1:
        return None
    import torch

    if config.resources.gpus:
        return float(torch.cuda.max_memory_allocated() / 2**30)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _in_process(job: Job, report: Callable[[dict[str, Any]], None]) -> None:
    from ambient_sweep.trial.recorder import Report
    from ambient_sweep.trial.run import run_trial

    def forward(told: Report) -> None:
        if told.evaluation is not None and told.evaluation.main_endpoint:
            memory = _memory_gib(job.config)
            report(result(told.evaluation, read_trial(job.root, job.trial_id), memory=memory))

    with only_trainer(trial_folder(job.root, job.trial_id)):
        run_trial(
            job.config,
            job.root,
            job.trial_id,
            role=job.role,
            on_report=forward,
            stages=stages_of(job.root, job.shared),
            replicate_of=job.replicate_of,
        )


def _with_workers(job: Job, report: Callable[[dict[str, Any]], None]) -> None:
    told = NewEvaluations(job.root, job.trial_id)
    for _ in fit_watched(job):
        for evaluation in told.read():
            if evaluation.main_endpoint:
                report(result(evaluation, read_trial(job.root, job.trial_id)))
