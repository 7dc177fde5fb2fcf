"""From the trials' records to both tables, complete with the columns on the frontier.

The records are the truth, and the tables are made anew from them each time: while a sweep runs, and after anything went
wrong.
"""

import json
from datetime import datetime
from pathlib import Path

import pyarrow as pa

from ambient_sweep.config import Config, build_config, dump, knobs
from ambient_sweep.config.cost import plain_images
from ambient_sweep.errors import UserError
from ambient_sweep.evaluation.measure import Measure
from ambient_sweep.results.frontier.candidates import Row
from ambient_sweep.results.frontier.standings import with_standings
from ambient_sweep.results.tables import schema
from ambient_sweep.results.tables.parquet import Tables, write_tables
from ambient_sweep.trial.records import (
    EvaluationRecord,
    TrialRecord,
    read_evaluations,
    read_remeasurements,
    read_trials,
    trial_folder,
    trial_path,
)


def export_tables(root: Path) -> Tables:
    """Writes trials.parquet and evaluations.parquet under `root` from the records, and returns them."""
    tables = build_tables(root)
    write_tables(root, tables)
    return tables


def build_tables(root: Path) -> Tables:
    """Both tables, from the records under `root`.

    Raises UserError for a folder that does not exist, and naming the file for a record that is damaged, belongs to no
    trial, or was written by another version.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; give the folder of a sweep")
    evaluations, again = read_evaluations(root), read_remeasurements(root)
    trials = read_trials(root)  # last, so that a trial begun in the meantime has its record
    by_trial: dict[str, list[EvaluationRecord]] = {trial.trial_id: [] for trial in trials}
    for evaluation in (*evaluations, *again):
        if evaluation.trial_id not in by_trial:
            folder = trial_folder(root, evaluation.trial_id)
            raise UserError(f"{folder}: has evaluations but no trial.json; restore it or remove the folder")
        by_trial[evaluation.trial_id].append(evaluation)
    trial_rows, evaluation_rows = [], []
    for trial in trials:
        config, measured = _config(root, trial), by_trial[trial.trial_id]
        columns = dump(config)
        trial_rows.append(_trial_row(root, trial, measured, columns))
        for evaluation in measured:
            row = _evaluation_row(trial, evaluation, columns)
            evaluation_rows.append(row | {schema.IMAGES_PLAIN: plain_images(config, evaluation.images)})
    return Tables(
        pa.Table.from_pylist(trial_rows, schema.TRIALS),
        with_standings(pa.Table.from_pylist(evaluation_rows, schema.EVALUATIONS)),
    )


def _config(root: Path, trial: TrialRecord) -> Config:
    """A trial's config. Raises UserError naming the record where it is not a config of this version."""
    path = str(trial_path(root, trial.trial_id))
    missing = [key for key in knobs() if key not in trial.config]
    if missing:
        raise UserError(f"{path}: its config lacks {missing[0]}; it was written by another version of ambient-sweep")
    return build_config(trial.config, where=path)


def _trial_row(root: Path, trial: TrialRecord, measured: list[EvaluationRecord], config: Row) -> Row:
    """A row of the trials table; the objectives are those at full length and the main endpoint, on its own samples."""
    own = [e for e in measured if e.main_endpoint and e.seed == config[schema.SAMPLES_SEED]]
    full = [e for e in own if e.images >= trial.images_asked]
    return {
        **_fields(trial, schema.TRIALS),
        schema.FIDELITY_MEASURE: config["evaluation.fidelity"],
        schema.MEMORIZATION_MEASURE: config["evaluation.memorization"],
        schema.IMAGES_FORKED: trial.forked_at,
        schema.STARTED: datetime.fromisoformat(trial.started),  # Arrow turns any zone into UTC
        schema.FINISHED: None if trial.finished is None else datetime.fromisoformat(trial.finished),
        schema.VERSIONS: json.dumps(trial.versions, sort_keys=True),
        schema.FOLDER: trial_folder(root, trial.trial_id).relative_to(root).as_posix(),
        **(_objectives(full[-1]) if full else {}),
        **config,
    }


def _evaluation_row(trial: TrialRecord, evaluation: EvaluationRecord, config: Row) -> Row:
    """A row of the evaluations table; `with_standings` fills the columns that compare rows."""
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
