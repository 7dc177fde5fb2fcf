"""The Tune trainable: one suggestion of the searcher, trained and evaluated.

With one worker, training runs in the trial's own process, or, for small trials, in one that it shares with others
(sweep/packs.py). With more, the trial starts Ray Train's `TorchTrainer` and
watches the trial's folder, where rank 0 writes every evaluation: the folder is the only channel, so nothing is lost
with a process.

A trial that cannot succeed (its training diverged, its config is bad) ends normally and reports why, since Tune would
start an errored one again. A worker that dies makes the trial fail, and Tune start it again: `run_trial` goes on from
the trial's own training state.
"""

import contextlib
import math
import os
import resource
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import tune

from ambient_sweep.config import Config, ResourcesConfig, build_config, dump
from ambient_sweep.errors import AmbientSweepError
from ambient_sweep.results.records import (
    EvaluationRecord,
    TrialRecord,
    read_trial,
    read_trial_evaluations,
    trial_folder,
)
from ambient_sweep.sweep.cluster import only_trainer
from ambient_sweep.sweep.outcomes import (
    full_length_objectives,
    mark,
    objectives,
)
from ambient_sweep.sweep.resources import DRIVER_MEMORY
from ambient_sweep.sweep.searcher import FAILED, FULL_LENGTH
from ambient_sweep.sweep.space import Sweep

if TYPE_CHECKING:
    from ambient_sweep.trial.pack import Trainer

Shared = (
    tuple[str | None, bool] | None
)  # as Stages.open takes them: where stages lie, every_length. None: nothing is shared

POLL_SECONDS = 1.0
EVALUATION_SECONDS = 24 * 3600  # at most; a worker that died is noticed by Ray at once


def make_trainable(sweep: Sweep, root: Path) -> Callable[[dict[str, Any]], None]:
    """The function that Tune calls with a suggestion. Ray must run: the sweep goes to its object store."""
    trainable: Callable[[dict[str, Any]], None] = tune.with_parameters(train_suggestion, sweep=sweep, root=root)
    return trainable


def trial_bundles(resources: ResourcesConfig, *, hosted: bool = False) -> tune.PlacementGroupFactory:
    """What Tune reserves for a trial. Hosts, and the workers of a trial with several, reserve their own."""
    if resources.workers > 1 or hosted:
        return tune.PlacementGroupFactory([{"memory": DRIVER_MEMORY}])
    bundle = {"CPU": resources.cpus} | ({"GPU": resources.gpus} if resources.gpus else {})
    return tune.PlacementGroupFactory([bundle])


def train_suggestion(
    suggestion: dict[str, Any],
    *,
    sweep: Sweep,
    root: Path,
    report: Callable[[dict[str, Any]], None] = tune.report,
    trainer: "Trainer | None" = None,
    interrupted: Callable[[], bool] | None = None,
) -> None:
    """Trains one suggestion and reports each evaluation at its main endpoint, then how it ended.

    `trainer` and `interrupted`: as of `run_trial`, for trials of one worker that do not have a process of their own.
    """
    trial_id, role = suggestion["trial_id"], suggestion["role"]
    config = sweep.config_for({})  # stands in for the trial's own in the record, should that one be refused
    try:
        config = sweep.config_for(suggestion["values"])
        shared, original = shared_by(sweep), original_of(suggestion)
        if config.resources.workers == 1:
            _in_process(config, root, trial_id, role, shared, original, report, trainer, interrupted)
        else:
            _with_workers(config, root, trial_id, role, shared, original, report)
        trial, evaluations = read_trial(root, trial_id), read_trial_evaluations(root, trial_id)
    except AmbientSweepError as error:
        if interrupted is not None and interrupted():  # it goes on elsewhere
            raise
        mark(root, trial_id, role, config, "failed", str(error), original_of(suggestion))
        report(result(failed=str(error)))
        return
    values = full_length_objectives(trial, evaluations)
    last = evaluations[-1] if evaluations else None
    memory = _memory_gib(config, trainer)
    report(result(last, trial, values=values, full_length=trial.status == "completed", memory=memory))


def shared_by(sweep: Sweep) -> Shared:
    """Where trials of the sweep find and leave their stages."""
    return (sweep.search.stages_at, sweep.has_siblings) if sweep.search.stages else None


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
    return {
        "fidelity": fidelity,
        "memorization": memorization,
        "images": evaluation.images if evaluation else 0,
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


def _memory_gib(config: Config, trainer: "Trainer | None") -> float | None:
    """The most that this process has held, of the GPU where it has one; None where it does not train this trial alone."""
    import torch

    if trainer is not None or config.resources.workers > 1:
        return None
    if config.resources.gpus:
        return float(torch.cuda.max_memory_allocated() / 2**30)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


# -- one worker -----------------------------------------------------------------------------------------------------


def _in_process(
    config: Config,
    root: Path,
    trial_id: str,
    role: str,
    shared: Shared,
    replicate_of: str | None,
    report: Callable[[dict[str, Any]], None],
    trainer: "Trainer | None",
    interrupted: Callable[[], bool] | None,
) -> None:
    from ambient_sweep.training.loop import never
    from ambient_sweep.trial import Report, run_trial
    from ambient_sweep.trial.stages import Stages

    def forward(told: Report) -> None:
        if told.evaluation is not None and told.evaluation.main_endpoint:
            report(result(told.evaluation, read_trial(root, trial_id), memory=_memory_gib(config, trainer)))

    with only_trainer(trial_folder(root, trial_id)) if trainer is None else contextlib.nullcontext():
        run_trial(
            config,
            root,
            trial_id,
            role=role,
            on_report=forward,
            interrupted=interrupted or never,
            stages=None if shared is None else Stages.open(root, *shared),
            replicate_of=replicate_of,
            trainer=trainer,
        )


# -- several workers ------------------------------------------------------------------------------------------------


def _with_workers(
    config: Config,
    root: Path,
    trial_id: str,
    role: str,
    shared: Shared,
    replicate_of: str | None,
    report: Callable[[dict[str, Any]], None],
) -> None:
    told = NewEvaluations(root, trial_id)
    for _ in fit_watched(config, root, trial_id, role, shared, replicate_of):
        for evaluation in told.read():
            if evaluation.main_endpoint:
                report(result(evaluation, read_trial(root, trial_id)))


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


def fit_watched(
    config: Config, root: Path, trial_id: str, role: str, shared: Shared = None, replicate_of: str | None = None
) -> Iterator[None]:
    """`fit_with_workers` in a thread; yields now and then while it trains and once after it, then raises what it raised."""
    failure: list[BaseException] = []

    def fit() -> None:
        try:
            fit_with_workers(config, root, trial_id, role, shared, replicate_of)
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


def fit_with_workers(
    config: Config, root: Path, trial_id: str, role: str, shared: Shared = None, replicate_of: str | None = None
) -> None:
    """Trains and evaluates `config` with `resources.workers` workers, in or outside of a Tune trial; blocks until the end.

    Raises the workers' own AmbientSweepError if there was one, else what Ray Train raises.
    """
    from ray.train import WorkerGroupError

    os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.5"  # how soon the workers' end is seen; 2 by default
    task = {
        "config": dump(config), "root": str(root), "trial_id": trial_id, "role": role,
        "shared": shared, "replicate_of": replicate_of,
    }  # fmt: skip
    try:
        _trainer(config.resources, task).fit()
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
    from ambient_sweep.trial import run_trial
    from ambient_sweep.trial.stages import Stages

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
            stages=None if task["shared"] is None else Stages.open(root, *task["shared"]),
            replicate_of=task["replicate_of"],
        )
