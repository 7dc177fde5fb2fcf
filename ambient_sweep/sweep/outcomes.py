"""How trials stand, read from the records in their folders, which outlive workers, driver and Ray."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from ambient_sweep.config import Config, dump
from ambient_sweep.object_store import with_urls
from ambient_sweep.sweep.report import Report
from ambient_sweep.sweep.search.search import History
from ambient_sweep.sweep.space.definition import SweepTrial
from ambient_sweep.trial.records import (
    UNUSABLE,
    EvaluationRecord,
    TrialRecord,
    known_trial,
    read_evaluations,
    read_trials,
    trial_folder,
    write_trial,
)
from ambient_sweep.trial.tensorboard import TrialBoard


def read_histories(root: Path) -> dict[str, History]:
    """Every trial of the search with a record, and its reports. Raises UserError naming a damaged record."""
    evaluations: dict[str, list[EvaluationRecord]] = {}
    for evaluation in read_evaluations(root):
        if evaluation.main_endpoint:
            evaluations.setdefault(evaluation.trial_id, []).append(evaluation)
    found = {}
    for trial in read_trials(root):
        if trial.role != "replicate":
            rising = sorted(evaluations.get(trial.trial_id, []), key=lambda each: each.images)
            reports = tuple(Report.of(each, trial) for each in rising)
            found[trial.trial_id] = History(trial.ended, reports, trial.status == "stopped", trial.images_done)
    return found


def spent_before(root: Path) -> dict[str, int]:
    """Images that were trained for each trial that `search.images` counts. Raises UserError naming a damaged record."""
    return {trial.trial_id: trial.images_executed for trial in read_trials(root) if trial.role == "search"}


def note_rung(root: Path, trial_id: str, rung: int) -> None:
    """Writes into a trial's record at which rung it was compared last, if it has a record."""
    if (record := known_trial(root, trial_id)) is not None:
        write_trial(root, replace(record, rung=rung))


def mark(root: Path, trial: SweepTrial, config: Config, status: str, reason: str) -> None:
    """Writes into a trial's record and events how it ended; makes them if the trial ended before it wrote any.

    A record that says completed or failed keeps what it says, and every record what is wrong with its model.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds")
    record, reason = known_trial(root, trial.trial_id), with_urls(reason)
    if record is not None:
        if record.status in ("completed", "failed"):
            return
        if (record.reason or "").startswith(UNUSABLE):
            reason = f"{reason}; {record.reason}"
        record = replace(record, status=status, reason=reason, finished=now)
    else:
        record = TrialRecord(
            trial_id=trial.trial_id,
            role=trial.role,
            status=status,
            reason=reason,
            config=dump(config),
            images_asked=config.length,
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
            replicate_of=trial.replicate_of,
        )
    write_trial(root, record)
    if record.ended:
        TrialBoard(trial_folder(root, trial.trial_id), config, trial.role).end(status)
