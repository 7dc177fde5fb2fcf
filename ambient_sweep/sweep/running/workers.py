"""A trial of several workers: Ray Train's `TorchTrainer`, and the trial's folder as the only channel.

Rank 0 writes every evaluation to the folder, so a lost process loses nothing.
"""

import contextlib
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import PlacementGroupID
from ray.train import RunConfig, ScalingConfig, WorkerGroupError
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util import get_current_placement_group, remove_placement_group
from ray.util.placement_group import PlacementGroup, placement_group_table

from ambient_sweep.config import Config, ResourcesConfig
from ambient_sweep.errors import AmbientSweepError
from ambient_sweep.object_store import fetch, fetch_folder
from ambient_sweep.stages.stages import Stages
from ambient_sweep.storage import keep_private, remove, write_atomic
from ambient_sweep.sweep.folder import RAY_FOLDER
from ambient_sweep.sweep.running.cluster import TRAINER_LOCK, only_trainer, worker_bundle
from ambient_sweep.sweep.space.definition import SweepTrial
from ambient_sweep.training.group import Group
from ambient_sweep.trial.records import EvaluationRecord, read_trial_evaluations, trial_folder
from ambient_sweep.trial.run import run_trial

PLACEMENT_GROUP = "placement_group"  # file with the id of what the workers hold of the cluster
POLL_SECONDS = 1.0
UNNOTED_SECONDS, UNNOTED_LOOK_SECONDS = 180, 10  # Ray Train gives workers 60 to start
LOOK_SECONDS = 5.0  # between two looks at an object store, whether to stop
EVALUATION_SECONDS = 24 * 3600  # at most; Ray notices at once when a worker dies


@dataclass(frozen=True)
class Job:
    """A trial's training, wherever it runs. stages: where it finds and leaves what it shares, if anything."""

    config: Config
    root: Path
    trial: SweepTrial
    stages: Stages | None = None

    def run(self, stop: Callable[[], bool] = lambda: False, **more: Any) -> None:
        """Trains in this process, as `run_trial` does, which takes `more`, until `stop`. Raises OSError where the trial's
        folder has gone, before anything is written in its place."""
        lock = trial_folder(self.root, self.trial.trial_id) / TRAINER_LOCK
        fetch(lock)  # of rank 0
        more["interrupted"] = lambda: lock.stat() is None or stop()
        more |= {"role": self.trial.role, "replicate_of": self.trial.replicate_of, "stages": self.stages}
        run_trial(self.config, self.root, self.trial.trial_id, **more)


def fit_watched(job: Job) -> Iterator[list[EvaluationRecord]]:
    """Trains in a thread; yields the evaluations that the workers have added, each once, while it trains and after it.

    Raises what the training raised. Tune's own callback for reports of workers, `TuneReportCallback`, is not used: the
    trial hangs where the training ends before its last report was fetched.
    """
    failure: list[BaseException] = []

    def fit() -> None:
        try:
            fit_with_workers(job)
        except BaseException as error:  # noqa: BLE001 (handed to the caller's own thread, which raises it)
            failure.append(error)

    # by length and endpoint: at one length, the endpoints are not written in the order they are read
    seen = {(each.images, each.endpoint) for each in read_trial_evaluations(job.root, job.trial.trial_id)}
    thread = threading.Thread(target=fit, name="trainer", daemon=True)
    thread.start()
    running = True
    while running:
        thread.join(POLL_SECONDS)
        running = thread.is_alive()
        evaluations = read_trial_evaluations(job.root, job.trial.trial_id)
        new = [each for each in evaluations if (each.images, each.endpoint) not in seen]
        seen |= {(each.images, each.endpoint) for each in new}
        yield new
    if failure:
        raise failure[0]


def stop_file(root: Path, trial_id: str) -> Path:
    """The file that asks a trial's workers, wherever they run, to save their state and leave."""
    return trial_folder(root, trial_id) / "stop"


class WorkerSlots:
    """What the workers of a sweep's trials hold of the cluster, given back when an attempt has ended.

    Ray's own cleaner does so where it finds the cluster and lives: not beside a second cluster on the machine, and not where
    the trial's processes died together with it. Workers note the id of their placement group in the trial's folder. One that
    a controller asked for before it died is in no note: it was there before all attempts began that may yet note theirs.
    """

    def __init__(self, root: Path, need: ResourcesConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self._root, self._clock, self._looked = root, clock, clock()
        self._bundles = [worker_bundle(need)] * need.workers
        self._began, self._seen, self._created = dict[str, float](), dict[str, float](), dict[str, float]()

    def begin(self, trial_id: str) -> None:
        """An attempt of a trial begins; what an earlier one held is given back."""
        self.end(trial_id)
        self._look()
        self._began[trial_id] = self._clock()

    def end(self, trial_id: str) -> None:
        """No attempt of a trial is running."""
        self._began.pop(trial_id, None)
        file = self._note(trial_id)
        fetch(file)
        if file.exists():
            _release(file.read_text(errors="replace"))
            remove(file)

    def release_unnoted(self) -> None:
        """Gives back, now and then, what attempts that are over asked for."""
        if self._clock() - self._looked > UNNOTED_LOOK_SECONDS:
            self._look()

    def _look(self) -> None:
        if len(self._bundles) == 1:  # which a trial's own process holds
            return
        fetch_folder(self._root / "trials", f"/{PLACEMENT_GROUP}")
        noted = {file.read_text(errors="replace") for file in self._root.glob(f"trials/*/{PLACEMENT_GROUP}")}
        ours, now = ray.get_runtime_context().get_job_id(), self._clock()
        states = {
            group_id: group["state"] for group_id, group in placement_group_table().items()
            if group_id.endswith(ours) and group["state"] != "REMOVED" and list(group["bundles"].values()) == self._bundles
        }  # fmt: skip
        self._looked, unnoted = now, states.keys() - noted
        self._seen = {group_id: self._seen.get(group_id, now) for group_id in unnoted}
        self._created = {key: self._created.get(key, now) for key in unnoted if states[key] == "CREATED"}
        first = min((began for key, began in self._began.items() if not self._note(key).exists()), default=math.inf)
        for group_id, seen in self._seen.items():
            if seen < first or now - self._created.get(group_id, now) > UNNOTED_SECONDS:
                _release(group_id)

    def _note(self, trial_id: str) -> Path:
        return trial_folder(self._root, trial_id) / PLACEMENT_GROUP


def _release(group_id: str) -> None:
    """Gives a placement group back, if the cluster knows it: not one of an earlier cluster, or a damaged note."""
    if group_id in placement_group_table():
        remove_placement_group(PlacementGroup(PlacementGroupID.from_hex(group_id)))


def fit_with_workers(job: Job) -> None:
    """Trains and evaluates with `resources.workers` workers, in or outside of a Tune trial; blocks until the end.

    Raises the workers' own AmbientSweepError if there was one, else what Ray Train raises.
    """
    os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.5"  # how soon the workers' end is seen; 2 by default
    os.environ["RAY_TRAIN_ENABLE_STATE_TRACKING"] = "1"  # Ray's dashboard lists the trial and its workers
    os.environ["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "0"  # a process per trial, whose warning nothing heeds
    need = job.config.resources
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"job": job},
        scaling_config=ScalingConfig(
            num_workers=need.workers, use_gpu=need.gpus > 0, resources_per_worker=worker_bundle(need)
        ),
        # the others wait for rank 0, which evaluates alone
        torch_config=TorchConfig(backend="nccl" if need.gpus else "gloo", timeout_s=EVALUATION_SECONDS),
        run_config=RunConfig(name=f"workers-{job.trial.trial_id}", storage_path=str(job.root / RAY_FOLDER)),
    )
    try:
        trainer.fit()
    except WorkerGroupError as error:
        ours = [failure for failure in error.worker_failures.values() if isinstance(failure, AmbientSweepError)]
        if not ours:
            raise
        raise ours[0] from None


def train_worker(task: dict[str, Job]) -> None:
    """One of a trial's workers; the process group stands when Ray Train calls it."""
    keep_private()
    job, group = task["job"], Group.distributed()
    folder = trial_folder(job.root, job.trial.trial_id)
    with only_trainer(folder) if group.rank == 0 else contextlib.nullcontext():
        held = get_current_placement_group()
        if group.rank == 0 and held is not None:
            write_atomic(folder / PLACEMENT_GROUP, held.id.hex().encode())
        group.broadcast(None)  # the others wait here for rank 0's lock
        stop, looked = stop_file(job.root, job.trial.trial_id), 0.0

        def asked() -> bool:
            nonlocal looked
            if time.monotonic() - looked > LOOK_SECONDS:
                fetch(stop)
                looked = time.monotonic()
            return stop.exists()

        job.run(asked if group.rank == 0 else lambda: False, group=group)
