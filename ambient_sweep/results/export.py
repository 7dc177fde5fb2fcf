"""From the trials' records to both tables, complete with the columns on the frontier.

The records are the truth, and the tables are made anew from them each time: while a sweep runs, and after anything went
wrong.
"""

from pathlib import Path

import pyarrow as pa

from ambient_sweep.errors import UserError
from ambient_sweep.results.frontier.standings import with_standings
from ambient_sweep.results.tables import schema
from ambient_sweep.results.tables.parquet import Tables, write_tables
from ambient_sweep.results.tables.rows import config_columns, evaluation_row, trial_row
from ambient_sweep.trial.records import (
    EvaluationRecord,
    read_evaluations,
    read_remeasurements,
    read_trials,
    trial_folder,
)


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
        config, measured = config_columns(root, trial), by_trial[trial.trial_id]
        own = [evaluation for evaluation in measured if evaluation.seed == config[schema.SAMPLES_SEED]]
        trial_rows.append(trial_row(root, trial, own, config))
        evaluation_rows += [evaluation_row(trial, evaluation, config) for evaluation in measured]
    return Tables(
        pa.Table.from_pylist(trial_rows, schema.TRIALS),
        with_standings(pa.Table.from_pylist(evaluation_rows, schema.EVALUATIONS)),
    )


def export_tables(root: Path) -> Tables:
    """Writes trials.parquet and evaluations.parquet under `root` from the records, and returns them."""
    tables = build_tables(root)
    write_tables(root, tables)
    return tables
