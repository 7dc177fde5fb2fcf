"""The Tune trainable: one trial, trained and evaluated.

With one worker, training runs in the trial's own process; with more, in the workers of Ray Train (workers.py).

A trial that cannot succeed (its training diverged, its config is bad) ends normally and reports why, since Tune would
start a failed one again. If a worker dies, the trial fails and Tune starts it again: it goes on from its own training state.
"""

import resource
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray import tune

from ambient_sweep.config import Config, ResourcesConfig
from ambient_sweep.errors import AmbientSweepError
from ambient_sweep.sweep.outcomes import mark
from ambient_sweep.sweep.report import Report
from ambient_sweep.sweep.running.cluster import only_trainer
from ambient_sweep.sweep.running.preflight import DRIVER_MEMORY
from ambient_sweep.sweep.running.workers import Job, fit_watched, stages_of
from ambient_sweep.sweep.space.definition import Sweep, SweepTrial
from ambient_sweep.trial.records import read_trial, read_trial_evaluations, trial_folder


def make_trainable(sweep: Sweep, root: Path) -> Callable[[dict[str, Any]], None]:
    """The function that Tune calls with `{"trial": SweepTrial}`. Ray must run: the sweep goes to its object store."""
    trainable: Callable[[dict[str, Any]], None] = tune.with_parameters(_train, sweep=sweep, root=root)
    return trainable


def trial_bundles(resources: ResourcesConfig) -> tune.PlacementGroupFactory:
    """What Tune reserves for a trial. The workers of a trial with several reserve their own."""
    if resources.workers > 1:
        return tune.PlacementGroupFactory([{"memory": DRIVER_MEMORY}])
    bundle = {"CPU": resources.cpus} | ({"GPU": resources.gpus} if resources.gpus else {})
    return tune.PlacementGroupFactory([bundle])


def _train(config: dict[str, Any], *, sweep: Sweep, root: Path) -> None:
    train_trial(config["trial"], sweep, root, lambda report: tune.report(report.as_result()))


def train_trial(trial: SweepTrial, sweep: Sweep, root: Path, report: Callable[[Report], None]) -> None:
    """Trains one trial and reports each evaluation at its main endpoint, then how it ended."""
    config = sweep.config_for({})  # stands in for the trial's own in the record, should that one be refused
    try:
        config = sweep.config_for(trial.values)
        job = Job(config, root, trial, sweep.has_siblings if sweep.search.stages else None)
        if config.resources.workers == 1:
            _in_process(job, report)
        else:
            _with_workers(job, report)
    except AmbientSweepError as error:
        mark(root, trial, config, "failed", str(error))
        report(
            Report(ending="failed", reason=str(error), images_executed=read_trial(root, trial.trial_id).images_executed)
        )
        return
    record, evaluations = read_trial(root, trial.trial_id), read_trial_evaluations(root, trial.trial_id)
    last = [each for each in evaluations if each.main_endpoint][-1]
    report(replace(Report.of(last, record, _memory_gib(config)), ending="completed"))


def _memory_gib(config: Config) -> float | None:
    """The most that this process has held, of the GPU where it has one; None where workers train the trial."""
    if config.resources.workers > 1:
        return None
    import torch

    if config.resources.gpus:
        return float(torch.cuda.max_memory_allocated() / 2**30)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _in_process(job: Job, report: Callable[[Report], None]) -> None:
    from ambient_sweep.trial import recorder
    from ambient_sweep.trial.run import run_trial

    def forward(told: recorder.Report) -> None:
        if told.evaluation is not None and told.evaluation.main_endpoint:
            record = read_trial(job.root, job.trial.trial_id)
            report(Report.of(told.evaluation, record, _memory_gib(job.config)))

    with only_trainer(trial_folder(job.root, job.trial.trial_id)):
        run_trial(
            job.config,
            job.root,
            job.trial.trial_id,
            role=job.trial.role,
            on_report=forward,
            stages=stages_of(job.root, job.every_length),
            replicate_of=job.trial.replicate_of,
        )


def _with_workers(job: Job, report: Callable[[Report], None]) -> None:
    for new in fit_watched(job):
        for evaluation in new:
            if evaluation.main_endpoint:
                report(Report.of(evaluation, read_trial(job.root, job.trial.trial_id)))
