"""A trial of several workers: Ray Train's `TorchTrainer`, and the trial's folder, through which all is told.

Rank 0 writes every evaluation there, so nothing is lost with a process; the folder is the only channel.
"""

import contextlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ambient_sweep.config import Config, ResourcesConfig, build_config, dump
from ambient_sweep.errors import AmbientSweepError
from ambient_sweep.sweep.cluster import only_trainer
from ambient_sweep.trial.records import EvaluationRecord, read_trial_evaluations, trial_folder

if TYPE_CHECKING:
    from ambient_sweep.stages.stages import Stages

Shared = tuple[bool] | None  # every_length, as Stages takes it; None: nothing is shared

POLL_SECONDS = 1.0
EVALUATION_SECONDS = 24 * 3600  # at most; a worker that died is noticed by Ray at once


@dataclass(frozen=True)
class Job:
    """A trial's training, wherever it runs. `replicate_of`: the trial that one of that role repeats."""

    config: Config
    root: Path
    trial_id: str
    role: str
    shared: Shared = None
    replicate_of: str | None = None


def stages_of(root: Path, shared: Shared) -> "Stages | None":
    """Where a trial finds and leaves what it shares."""
    from ambient_sweep.stages.stages import Stages

    return None if shared is None else Stages(root, every_length=shared[0])


class NewEvaluations:
    """The evaluations that a running trial's workers add to those that are there when this is made, each once.

    By length and endpoint, not by their number: at one length the endpoints are not written in the order they are read.
    """

    def __init__(self, root: Path, trial_id: str) -> None:
        self._root, self._trial_id = root, trial_id
        self._seen: set[tuple[int, str]] = set()
        self.read()

    def read(self) -> list[EvaluationRecord]:
        """Those written since the last call."""
        new = [
            each
            for each in read_trial_evaluations(self._root, self._trial_id)
            if (each.images, each.endpoint) not in self._seen
        ]
        self._seen |= {(each.images, each.endpoint) for each in new}
        return new


def fit_watched(job: Job) -> Iterator[None]:
    """`fit_with_workers` in a thread; yields now and then while it trains and once after it, then raises what it raised."""
    failure: list[BaseException] = []

    def fit() -> None:
        try:
            fit_with_workers(job)
        except BaseException as error:  # noqa: BLE001 (handed to the caller's own thread, which raises it)
            failure.append(error)

    thread = threading.Thread(target=fit, name="trainer", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(POLL_SECONDS)
        yield
    if failure:
        raise failure[0]


def stop_file(root: Path, trial_id: str) -> Path:
    """The file that asks a trial's workers, wherever they run, to save their state and leave."""
    return trial_folder(root, trial_id) / "stop"


def fit_with_workers(job: Job) -> None:
    """Trains and evaluates with `resources.workers` workers, in or outside of a Tune trial; blocks until the end.

    Raises the workers' own AmbientSweepError if there was one, else what Ray Train raises.
    """
    from ray.train import WorkerGroupError

    os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.5"  # how soon the workers' end is seen; 2 by default
    task = {
        "config": dump(job.config), "root": str(job.root), "trial_id": job.trial_id, "role": job.role,
        "shared": job.shared, "replicate_of": job.replicate_of,
    }  # fmt: skip
    try:
        _trainer(job.config.resources, task).fit()
    except WorkerGroupError as error:
        ours = [failure for failure in error.worker_failures.values() if isinstance(failure, AmbientSweepError)]
        if not ours:
            raise
        raise ours[0] from None


def _trainer(resources: ResourcesConfig, task: dict[str, Any]) -> Any:
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    each = {"CPU": resources.cpus} | ({"GPU": resources.gpus} if resources.gpus else {})
    return TorchTrainer(
        train_worker,
        train_loop_config=task,
        scaling_config=ScalingConfig(
            num_workers=resources.workers, use_gpu=resources.gpus > 0, resources_per_worker=each
        ),
        # the others wait for rank 0, which evaluates alone
        torch_config=TorchConfig(backend="nccl" if resources.gpus else "gloo", timeout_s=EVALUATION_SECONDS),
        run_config=RunConfig(name=f"workers-{task['trial_id']}", storage_path=str(Path(task["root"]) / "ray")),
    )


def train_worker(task: dict[str, Any]) -> None:
    """One of a trial's workers; the process group stands when Ray Train calls it."""
    from ambient_sweep.training.group import Group
    from ambient_sweep.training.loop import never
    from ambient_sweep.trial.run import run_trial

    config = build_config(task["config"], where=task["trial_id"])
    root, trial_id, group = Path(task["root"]), task["trial_id"], Group.distributed()
    with only_trainer(trial_folder(root, trial_id)) if group.rank == 0 else contextlib.nullcontext():
        group.broadcast(None)  # the others wait here for rank 0's lock
        told = stop_file(root, trial_id).exists if group.rank == 0 else never
        run_trial(
            config,
            root,
            trial_id,
            role=task["role"],
            group=group,
            interrupted=told,
            stages=stages_of(root, task["shared"]),
            replicate_of=task["replicate_of"],
        )
