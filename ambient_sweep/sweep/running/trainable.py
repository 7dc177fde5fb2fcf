"""The Tune trainable: one trial, trained and evaluated.

With one worker, training runs in the trial's own process; with more, in the workers of Ray Train (workers.py).

A trial that cannot succeed (its training diverged, its config is bad) ends normally and reports why, since Tune would
start a failed one again. If a worker dies, the trial fails and Tune starts it again: it goes on from its own training state.
"""

import itertools
import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from ray import tune

from ambient_sweep.config import Config, ResourcesConfig
from ambient_sweep.errors import AmbientSweepError
from ambient_sweep.stages.stages import Stages
from ambient_sweep.sweep.outcomes import mark
from ambient_sweep.sweep.report import Report
from ambient_sweep.sweep.running.cluster import only_trainer, worker_bundle
from ambient_sweep.sweep.running.preflight import DRIVER_MEMORY
from ambient_sweep.sweep.running.workers import Job, fit_watched
from ambient_sweep.sweep.space.definition import Sweep, SweepTrial
from ambient_sweep.trial.records import EvaluationRecord, read_trial, read_trial_evaluations, trial_folder


def trial_bundles(resources: ResourcesConfig) -> tune.PlacementGroupFactory:
    """What Tune reserves for a trial. The workers of a trial with several reserve their own."""
    if resources.workers > 1:
        return tune.PlacementGroupFactory([{"memory": DRIVER_MEMORY}])
    return tune.PlacementGroupFactory([worker_bundle(resources)])


def train_trial(config: dict[str, Any], *, sweep: Sweep, root: Path) -> None:
    """Trains the trial `config["trial"]`; reports each evaluation at its main endpoint to Tune, then how it ended."""
    trial: SweepTrial = config["trial"]
    resolved = sweep.config_for({})  # stands in for the trial's own in the record, should that one be refused
    try:
        resolved = sweep.config_for(trial.values)
        stages = Stages(root, every_length=sweep.has_siblings) if sweep.search.stages else None
        job = Job(resolved, root, trial, stages)
        if resolved.resources.workers == 1:
            with only_trainer(trial_folder(root, trial.trial_id)):
                job.run(on_report=lambda told: _forward(job, told.evaluation))
        else:
            for evaluation in itertools.chain.from_iterable(fit_watched(job)):
                _forward(job, evaluation)
    except AmbientSweepError as error:
        mark(root, trial, resolved, "failed", str(error))
        executed = read_trial(root, trial.trial_id).images_executed
        _report(Report(ending="failed", reason=str(error), images_executed=executed))
        return
    last = [each for each in read_trial_evaluations(root, trial.trial_id) if each.main_endpoint][-1]
    _report(replace(_report_of(job, last), ending="completed"))


def _forward(job: Job, evaluation: EvaluationRecord | None) -> None:
    if evaluation is not None and evaluation.main_endpoint:
        _report(_report_of(job, evaluation))


def _report(report: Report) -> None:
    tune.report({"report": report})


def _report_of(job: Job, evaluation: EvaluationRecord) -> Report:
    return Report.of(evaluation, read_trial(job.root, job.trial.trial_id), _memory_gib(job.config))


def _memory_gib(config: Config) -> float | None:
    """The most that this process has held, of the GPU where it has one; None where workers train the trial."""
    if config.resources.workers > 1:
        return None
    if config.resources.gpus:
        return float(torch.cuda.max_memory_allocated() / 2**30)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
