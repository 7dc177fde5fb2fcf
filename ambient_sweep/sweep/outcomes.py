"""How trials stand, read from the records in their folders, which outlive workers, driver and Ray."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from ambient_sweep.config import Config, dump
from ambient_sweep.sweep.budget import ROLES
from ambient_sweep.sweep.searcher import Outcome
from ambient_sweep.trial.records import (
    INTERRUPTED as INTERRUPTED,
)
from ambient_sweep.trial.records import (
    LOST as LOST,
)
from ambient_sweep.trial.records import (
    EvaluationRecord,
    TrialRecord,
    read_evaluations,
    read_trial,
    read_trials,
    trial_path,
    write_trial,
)

STOPPED, SPENT = "stopped by search.stopping", "stopped by search.images"


def read_outcomes(root: Path) -> dict[str, Outcome]:
    """How every trial with a record ended. Raises UserError naming a damaged record."""
    evaluations: dict[str, list[EvaluationRecord]] = {}
    for evaluation in read_evaluations(root):
        evaluations.setdefault(evaluation.trial_id, []).append(evaluation)
    return {trial.trial_id: outcome(trial, evaluations.get(trial.trial_id, [])) for trial in read_trials(root)}


def spent_before(root: Path) -> dict[str, int]:
    """Images that were trained for each trial that `search.images` counts. Raises UserError naming a damaged record."""
    return {trial.trial_id: trial.images_executed for trial in read_trials(root) if trial.role in ROLES}


def outcome(trial: TrialRecord, evaluations: list[EvaluationRecord]) -> Outcome:
    """How a trial ended, from its record and its evaluations."""
    if trial.status == "completed":
        return Outcome(True, full_length_objectives(trial, evaluations))
    return Outcome(trial.ended, stopped=trial.status == "stopped")


def full_length_objectives(trial: TrialRecord, evaluations: list[EvaluationRecord]) -> tuple[float, float] | None:
    """Fidelity and memorization at the trial's full length and main endpoint."""
    full = [e for e in evaluations if e.main_endpoint and e.images >= trial.images_asked]
    return objectives(full[-1]) if full else None


def objectives(evaluation: EvaluationRecord) -> tuple[float, float]:
    """Fidelity and memorization of one evaluation."""
    measures = evaluation.measures
    return measures[evaluation.fidelity].value, measures[evaluation.memorization].value


def note_rung(root: Path, trial_id: str, rung: int) -> None:
    """Writes into a trial's record at which rung it was compared last, if it has a record."""
    if trial_path(root, trial_id).exists():
        write_trial(root, replace(read_trial(root, trial_id), rung=rung))


def mark(
    root: Path,
    trial_id: str,
    role: str,
    config: Config,
    status: str,
    reason: str,
    replicate_of: str | None = None,
) -> None:
    """Writes into a trial's record how it ended; makes the record where the trial did not come to writing one.

    A record that says completed or failed already keeps what it says.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds")
    if trial_path(root, trial_id).exists():
        record = read_trial(root, trial_id)
        if record.status in ("completed", "failed"):
            return
        record = replace(record, status=status, reason=reason, finished=now)
    else:
        record = TrialRecord(
            trial_id=trial_id,
            role=role,
            status=status,
            reason=reason,
            config=dump(config),
            images_asked=config.images_at(config.training.stop),
            images_done=0,
            images_executed=0,
            device_seconds=0.0,
            parameters=0,
            device="",
            started=now,
            finished=now,
            data_fingerprint="",
            reference_key="",
            versions={},
            code_revision=None,
            replicate_of=replicate_of,
        )
    write_trial(root, record)
