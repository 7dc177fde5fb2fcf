"""Rows of both tables, from the trials' records. Columns that compare rows with each other are left empty."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from ambient_sweep.config import build_config, dump, knobs
from ambient_sweep.errors import UserError
from ambient_sweep.evaluation.measure import Measure
from ambient_sweep.results.tables import schema
from ambient_sweep.trial.records import EvaluationRecord, TrialRecord, trial_folder, trial_path

Row = dict[str, Any]


def config_columns(root: Path, trial: TrialRecord) -> Row:
    """A trial's config under dotted keys. Raises UserError naming the record where it is not a config of this version."""
    path = str(trial_path(root, trial.trial_id))
    missing = [key for key in knobs() if key not in trial.config]
    if missing:
        raise UserError(f"{path}: its config lacks {missing[0]}; it was written by another version of ambient-sweep")
    return dump(build_config(trial.config, where=path))


def trial_row(root: Path, trial: TrialRecord, evaluations: list[EvaluationRecord], config: Row) -> Row:
    """A row of the trials table; the objectives are those at full length and the main endpoint."""
    full = [e for e in evaluations if e.main_endpoint and e.images >= trial.images_asked]
    return {
        **_fields(trial, schema.TRIALS),
        schema.FIDELITY_MEASURE: config["evaluation.fidelity"],
        schema.MEMORIZATION_MEASURE: config["evaluation.memorization"],
        schema.IMAGES_FORKED: trial.forked_at,
        schema.STARTED: _utc(trial.started),
        schema.FINISHED: None if trial.finished is None else _utc(trial.finished),
        schema.VERSIONS: json.dumps(trial.versions, sort_keys=True),
        schema.FOLDER: trial_folder(root, trial.trial_id).relative_to(root).as_posix(),
        **(_objectives(full[-1]) if full else {}),
        **config,
    }


def evaluation_row(trial: TrialRecord, evaluation: EvaluationRecord, config: Row) -> Row:
    row = {
        **_fields(trial, schema.EVALUATIONS),
        **_fields(evaluation, schema.EVALUATIONS),
        schema.TRIAL_STATUS: trial.status,
        schema.IMAGES_EXECUTED: trial.executed_at(evaluation.images),
        schema.ON_FRONT: False,
        schema.FIDELITY_MEASURE: evaluation.fidelity,
        schema.MEMORIZATION_MEASURE: evaluation.memorization,
        schema.EVALUATION_SEED: evaluation.seed,
        **_objectives(evaluation),
        **config,
    }
    for name, measure in evaluation.measures.items():
        row |= _interval(name, measure) | {schema.count(name): measure.n}
    return row


def _fields(record: TrialRecord | EvaluationRecord, table: pa.Schema) -> Row:
    """The fields of a record that have a column of the same name."""
    return {name: value for name, value in vars(record).items() if name in table.names}


def _objectives(evaluation: EvaluationRecord) -> Row:
    fidelity, memorization = evaluation.measures[evaluation.fidelity], evaluation.measures[evaluation.memorization]
    return _interval(schema.FIDELITY, fidelity) | _interval(schema.MEMORIZATION, memorization)


def _interval(name: str, measure: Measure) -> Row:
    return {name: measure.value, schema.low(name): measure.low, schema.high(name): measure.high}


def _utc(time: str) -> datetime:
    return datetime.fromisoformat(time).astimezone(UTC).replace(tzinfo=None)
