"""One config trained for good: with one worker in this process, with more through Ray Train."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from ambient_sweep.config import Config, load_config, write_config
from ambient_sweep.errors import AmbientSweepError, UserError
from ambient_sweep.object_store import fetch, fetch_folder
from ambient_sweep.results.export import export_tables
from ambient_sweep.storage import remove, write_atomic
from ambient_sweep.sweep.folder import check_within, claim
from ambient_sweep.sweep.running.signals import stop_signals
from ambient_sweep.sweep.space.definition import SweepTrial
from ambient_sweep.sweep.space.file import SWEEP_FILE, check_name
from ambient_sweep.terminal import advance
from ambient_sweep.training.state import trained_config
from ambient_sweep.trial.recorder import LOG
from ambient_sweep.trial.records import (
    EvaluationRecord,
    TrialRecord,
    known_trial,
    read_trial,
    read_trial_evaluations,
    trial_folder,
)
from ambient_sweep.trial.run import run_trial
from ambient_sweep.trial.setup import prepare, preparing

TRIAL = "train"


def train_single(
    config: Config, root: Path, *, echo: Callable[[str], None] = print
) -> tuple[TrialRecord, list[EvaluationRecord]]:
    """Trains and evaluates `config` in `root`, or continues there, and writes the tables.

    Raises UserError where `root` holds another config or a sweep, or cannot be written; TrainingDiverged; Interrupted, with
    the state saved, after a SIGINT or SIGTERM.
    """
    if config.resources.workers > 1:
        from ambient_sweep.sweep.running.cluster import check_address
        from ambient_sweep.sweep.running.preflight import concurrent_trials, this_machine

        check_address()
        if "RAY_ADDRESS" not in os.environ:
            concurrent_trials(this_machine(), config.resources)
    new = _claim(config, root)
    try:
        echo(preparing(config))
        for line in prepare(config, root):
            echo(line)
    except AmbientSweepError:
        if new:  # nothing was trained: leave nothing behind
            remove(root)
        raise
    try:
        if config.resources.workers == 1:
            _run_here(config, root, echo)
        else:
            _run_with_workers(config, root, echo)
    except BaseException:
        with contextlib.suppress(OSError, AmbientSweepError):  # the trial's own error matters
            export_tables(root)
        raise
    export_tables(root)
    return read_trial(root, TRIAL), read_trial_evaluations(root, TRIAL)


def _claim(config: Config, root: Path) -> bool:
    """Makes the folder and writes the config there, by which the run is recognised; False if it exists already."""
    check_name("--name", root.name)
    fetch_folder(root, SWEEP_FILE, "/config.yaml")
    if (root / SWEEP_FILE).exists():
        raise UserError(f"{root}: holds a sweep; give another --name")
    file = trial_folder(root, TRIAL) / "config.yaml"
    if file.exists():
        mine, theirs = (trained_config(each.model_dump(mode="json")) for each in (config, load_config(file)))
        if mine != theirs:
            raise UserError(f"{root}: holds a run of another config; give another --name")
        check_within(root)
        return False
    claim(root, "remove it")
    try:
        file.parent.mkdir(parents=True)
        write_config(config, file)
    except OSError as error:
        remove(root)
        raise UserError(f"{root}: cannot be written ({error.strerror}); give another --storage") from None
    return True


def _run_here(config: Config, root: Path, echo: Callable[[str], None]) -> None:
    with stop_signals() as stop:
        run_trial(
            config, root, TRIAL, role="control", echo=echo, interrupted=stop.asked,
            on_report=lambda images, _: advance("images trained", images, config.length),
        )  # fmt: skip


def _run_with_workers(config: Config, root: Path, echo: Callable[[str], None]) -> None:
    """Trains with Ray Train; a signal becomes a file that the workers look for."""
    from ray.exceptions import RayError
    from ray.train import TrainingFailedError

    from ambient_sweep.sweep.running.cluster import ray_session, wait_for_room
    from ambient_sweep.sweep.running.faults import describe, worst
    from ambient_sweep.sweep.running.preflight import concurrent_trials, ray_nodes
    from ambient_sweep.sweep.running.workers import Job, fit_watched, stop_file

    stop_here, log = stop_file(root, TRIAL), trial_folder(root, TRIAL) / LOG
    remove(stop_here)
    fetch(log)
    told = len(log.read_bytes()) if log.exists() else 0
    with ray_session(dashboard=True), stop_signals() as stop:
        concurrent_trials(ray_nodes(), config.resources)  # refuses what would wait forever
        wait_for_room(config.resources, echo, stop)
        try:
            for _ in fit_watched(Job(config, root, SweepTrial("control", {}, trial_id=TRIAL))):
                if stop.asked():
                    write_atomic(stop_here, b"")
                if (record := known_trial(root, TRIAL)) is not None:
                    advance("images trained", record.images_done, config.length)
                fetch(log)
                new = log.read_bytes()[told:] if log.exists() else b""
                for line in new[: new.rfind(b"\n") + 1].splitlines(keepends=True):
                    told += len(line)
                    echo(line.decode().rstrip("\n").partition(" ")[2])  # without its time
        except (TrainingFailedError, RayError) as error:
            raise AmbientSweepError(
                f"{describe(worst(error)[1])}; the same command goes on from the last state"
            ) from None
