"""One config trained for good: with one worker in this process, with more through Ray Train."""

import shutil
from collections.abc import Callable
from pathlib import Path

from ambient_sweep.config import Config, load_config, write_config
from ambient_sweep.errors import AmbientSweepError, UserError
from ambient_sweep.results.records import (
    EvaluationRecord,
    TrialRecord,
    read_trial,
    read_trial_evaluations,
    trial_folder,
)
from ambient_sweep.results.table import export_tables
from ambient_sweep.sweep.space import NAME
from ambient_sweep.trial import Report, prepare, run_trial

TRIAL = "train"


def train_single(
    config: Config, root: Path, *, echo: Callable[[str], None] = print
) -> tuple[TrialRecord, list[EvaluationRecord]]:
    """Trains and evaluates `config` in `root`, or goes on there, and writes the tables.

    Raises UserError where `root` holds another config or a sweep, or cannot be written; TrainingDiverged.
    """
    new = _claim(config, root)
    try:
        prepare(config, root)
    except AmbientSweepError:
        if new:  # nothing was trained: leave nothing behind
            shutil.rmtree(root)
        raise
    try:
        if config.resources.workers == 1:
            run_trial(config, root, TRIAL, role="control", on_report=lambda report: _tell(report, echo))
        else:
            _run_with_workers(config, root)
    finally:
        export_tables(root)
    return read_trial(root, TRIAL), read_trial_evaluations(root, TRIAL)


def _claim(config: Config, root: Path) -> bool:
    """Makes the folder and writes the config there, by which the run is known again; False if it is there already."""
    if not NAME.fullmatch(root.name):
        raise UserError(f"--name: {root.name!r} cannot name a folder; use letters, digits and . _ - only")
    if (root / "sweep.yaml").exists():
        raise UserError(f"{root}: holds a sweep; give another --name")
    file = trial_folder(root, TRIAL) / "config.yaml"
    if file.exists():
        if load_config(file) != config:
            raise UserError(f"{root}: holds a run of another config; give another --name")
        return False
    try:
        root.mkdir(parents=True, exist_ok=True)
        if any(root.iterdir()):
            raise UserError(f"{root}: is there already and holds other files; give another --name")
        file.parent.mkdir(parents=True)
        write_config(config, file)
    except OSError as error:
        raise UserError(f"{root}: cannot be written ({error.strerror}); give another --storage") from None
    return True


def _run_with_workers(config: Config, root: Path) -> None:
    import ray

    from ambient_sweep.sweep.cluster import ray_session
    from ambient_sweep.sweep.resources import concurrent_trials, ray_nodes
    from ambient_sweep.sweep.trainable import fit_with_workers

    with ray_session(dashboard=True):
        # refuses what would wait for ever
        concurrent_trials(ray_nodes(ray.nodes()), config.resources)  # type: ignore[no-untyped-call]
        fit_with_workers(config, root, TRIAL, "control")


def _tell(report: Report, echo: Callable[[str], None]) -> None:
    if report.evaluation is not None:
        measures = ", ".join(f"{name} {m.value:.4g}" for name, m in report.evaluation.measures.items())
        echo(f"{report.images:,} images, sampled to {report.evaluation.endpoint}: {measures}")
