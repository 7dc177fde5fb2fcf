"""A trial of several workers: Ray Train's `TorchTrainer`, and the trial's folder as the only channel.

Rank 0 writes every evaluation to the folder, so a lost process loses nothing.
"""

import contextlib
import os
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ambient_sweep.config import Config, ResourcesConfig, build_config, dump
from ambient_sweep.errors import AmbientSweepError
from ambient_sweep.sweep.folder import RAY_FOLDER
from ambient_sweep.sweep.running.cluster import only_trainer
from ambient_sweep.sweep.space.definition import SweepTrial
from ambient_sweep.trial.records import EvaluationRecord, read_trial_evaluations, trial_folder

if TYPE_CHECKING:
    from ambient_sweep.stages.stages import Stages

POLL_SECONDS = 1.0
EVALUATION_SECONDS = 24 * 3600  # at most; Ray notices at once when a worker dies


@dataclass(frozen=True)
class Job:
    """A trial's training, wherever it runs. every_length: as of `Stages`; None: nothing is shared."""

    config: Config
    root: Path
    trial: SweepTrial
    every_length: bool | None = None


def stages_of(root: Path, every_length: bool | None) -> "Stages | None":
    """Where a trial finds and leaves what it shares."""
    from ambient_sweep.stages.stages import Stages

    return None if every_length is None else Stages(root, every_length=every_length)


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


def fit_with_workers(job: Job) -> None:
    """Trains and evaluates with `resources.workers` workers, in or outside of a Tune trial; blocks until the end.

    Raises the workers' own AmbientSweepError if there was one, else what Ray Train raises.
    """
    from ray.train import WorkerGroupError

    os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.5"  # how soon the workers' end is seen; 2 by default
    os.environ["RAY_TRAIN_ENABLE_STATE_TRACKING"] = "1"  # Ray's dashboard lists the trial and its workers
    task = {
        "config": dump(job.config), "root": str(job.root), "trial": asdict(job.trial), "every_length": job.every_length,
    }  # fmt: skip
    try:
        _trainer(job.config.resources, job.trial.trial_id, task).fit()
    except WorkerGroupError as error:
        ours = [failure for failure in error.worker_failures.values() if isinstance(failure, AmbientSweepError)]
        if not ours:
            raise
        raise ours[0] from None


def _trainer(resources: ResourcesConfig, trial_id: str, task: dict[str, Any]) -> Any:
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
        run_config=RunConfig(name=f"workers-{trial_id}", storage_path=str(Path(task["root"]) / RAY_FOLDER)),
    )


def train_worker(task: dict[str, Any]) -> None:
    """One of a trial's workers; the process group stands when Ray Train calls it."""
    from ambient_sweep.training.group import Group
    from ambient_sweep.trial.run import run_trial

    trial = SweepTrial(**task["trial"])
    config, root, group = build_config(task["config"], where=trial.trial_id), Path(task["root"]), Group.distributed()
    with only_trainer(trial_folder(root, trial.trial_id)) if group.rank == 0 else contextlib.nullcontext():
        group.broadcast(None)  # the others wait here for rank 0's lock
        run_trial(
            config,
            root,
            trial.trial_id,
            role=trial.role,
            group=group,
            interrupted=stop_file(root, trial.trial_id).exists if group.rank == 0 else lambda: False,
            stages=stages_of(root, task["every_length"]),
            replicate_of=trial.replicate_of,
        )
