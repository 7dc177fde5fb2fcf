"""The two tables: made from the trials' records, written as Parquet, read back with their schema checked.

The records are the truth and the tables are made anew from them, so a table can be written while the sweep runs, and
again after anything went wrong.
"""

import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ambient_sweep.config import build_config, dump, knobs
from ambient_sweep.errors import UserError
from ambient_sweep.evaluation.measure import Measure
from ambient_sweep.results import schema
from ambient_sweep.results.confidence import with_standings
from ambient_sweep.results.select import front_mask
from ambient_sweep.storage import write_atomic
from ambient_sweep.trial.records import (
    EvaluationRecord,
    TrialRecord,
    read_evaluations,
    read_remeasurements,
    read_trials,
    trial_folder,
    trial_path,
)

TRIALS_FILE = "trials.parquet"
EVALUATIONS_FILE = "evaluations.parquet"

Row = dict[str, Any]


class Tables(NamedTuple):
    """A row per trial, and a row per evaluation; see results/schema.py."""

    trials: pa.Table
    evaluations: pa.Table


def build_tables(root: Path) -> Tables:
    """Both tables as the records under `root` stand now.

    Raises UserError for a folder that is not there, and naming the file for a record that is damaged, stray, or of
    another version.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; give the folder of a sweep")
    # Before the trials: one that is begun in between then lacks nothing.
    evaluations, again = read_evaluations(root), read_remeasurements(root)
    trials = read_trials(root)
    configs = {trial.trial_id: _config_columns(root, trial) for trial in trials}
    by_trial: dict[str, list[EvaluationRecord]] = {trial_id: [] for trial_id in configs}
    for evaluation in (*evaluations, *again):
        if evaluation.trial_id not in by_trial:
            folder = trial_folder(root, evaluation.trial_id)
            raise UserError(f"{folder}: has evaluations but no trial.json; restore it or remove the folder")
    for evaluation in evaluations:
        by_trial[evaluation.trial_id].append(evaluation)
    trial_rows = [_trial_row(root, t, by_trial[t.trial_id], configs[t.trial_id]) for t in trials]
    for evaluation in again:
        by_trial[evaluation.trial_id].append(evaluation)
    evaluation_rows = [_evaluation_row(t, e, configs[t.trial_id]) for t in trials for e in by_trial[t.trial_id]]
    table = pa.Table.from_pylist(evaluation_rows, schema.EVALUATIONS)
    position = schema.EVALUATIONS.get_field_index(schema.ON_FRONT)
    table = table.set_column(position, schema.EVALUATIONS.field(position), pa.array(front_mask(table)))
    return Tables(pa.Table.from_pylist(trial_rows, schema.TRIALS), with_standings(table).cast(schema.EVALUATIONS))


def export_tables(root: Path) -> Tables:
    """Writes trials.parquet and evaluations.parquet under `root` from the records, each atomically; returns them."""
    tables = build_tables(root)
    for name, table in ((TRIALS_FILE, tables.trials), (EVALUATIONS_FILE, tables.evaluations)):
        buffer = io.BytesIO()
        pq.write_table(table, buffer)
        write_atomic(root / name, buffer.getvalue())
    return tables


def read_tables(root: Path) -> Tables:
    """Both tables that `export_tables` wrote under `root`. Raises UserError as `read_table` does."""
    tables = []
    for name, expected in ((TRIALS_FILE, schema.TRIALS), (EVALUATIONS_FILE, schema.EVALUATIONS)):
        table = read_table(root / name)
        if table.schema.metadata[schema.TABLE_KEY] != expected.metadata[schema.TABLE_KEY]:
            raise UserError(f"{root / name}: holds another table than its name says; export the tables again")
        tables.append(table)
    return Tables(*tables)


def read_table(path: Path | str) -> pa.Table:
    """A trials or evaluations table, for `select` or `.to_pandas()`.

    Raises UserError for a file that is missing, not ours, or of another schema version.
    """
    path = Path(path)
    try:
        # Without threads: a process that ends right after `pq.read_table` aborts now and then (pyarrow 26).
        with pq.ParquetFile(path, pre_buffer=False) as file:
            table = file.read(use_threads=False)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; give a table that a sweep exported") from None
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path}: cannot be read as Parquet: {' '.join(str(error).split())}") from None
    metadata = table.schema.metadata or {}
    kind, version = metadata.get(schema.TABLE_KEY), metadata.get(schema.VERSION_KEY, b"")
    expected = {s.metadata[schema.TABLE_KEY]: s for s in (schema.TRIALS, schema.EVALUATIONS)}.get(kind)
    if expected is None or not version.isdigit():
        raise UserError(f"{path}: not a table of ambient-sweep; give a {TRIALS_FILE} or {EVALUATIONS_FILE}")
    if int(version) != schema.VERSION:
        side = "a newer" if int(version) > schema.VERSION else "an older"
        raise UserError(
            f"{path}: schema version {int(version)}, of {side} ambient-sweep; this one reads {schema.VERSION}: "
            "use that version, or export the tables again"
        )
    if not table.schema.equals(expected):
        names = sorted(set(table.schema.names) ^ set(expected.names)) or ["their types"]
        raise UserError(f"{path}: its columns differ from this ambient-sweep's ({names[0]}); export the tables again")
    return table


# -- rows -----------------------------------------------------------------------------------------------------------


def _config_columns(root: Path, trial: TrialRecord) -> Row:
    path = str(trial_path(root, trial.trial_id))
    missing = [key for key in knobs() if key not in trial.config]
    if missing:
        raise UserError(f"{path}: its config lacks {missing[0]}; it was written by another version of ambient-sweep")
    return dump(build_config(trial.config, where=path))


def _trial_row(root: Path, trial: TrialRecord, evaluations: list[EvaluationRecord], config: Row) -> Row:
    full = [e for e in evaluations if e.main_endpoint and e.images >= trial.images_asked]
    objectives = _objectives(full[-1]) if full else {}
    return {
        schema.TRIAL_ID: trial.trial_id,
        schema.ROLE: trial.role,
        schema.STATUS: trial.status,
        schema.REPLICATE_OF: trial.replicate_of,
        schema.REASON: trial.reason,
        schema.FIDELITY_MEASURE: config["evaluation.fidelity"],
        schema.MEMORIZATION_MEASURE: config["evaluation.memorization"],
        schema.IMAGES_ASKED: trial.images_asked,
        schema.IMAGES_DONE: trial.images_done,
        schema.IMAGES_EXECUTED: trial.images_executed,
        schema.IMAGES_FORKED: trial.forked_at,
        schema.DEVICE_SECONDS: trial.device_seconds,
        schema.PARAMETERS: trial.parameters,
        schema.DEVICE: trial.device,
        schema.STARTED: _utc(trial.started),
        schema.FINISHED: None if trial.finished is None else _utc(trial.finished),
        schema.DATA_FINGERPRINT: trial.data_fingerprint,
        schema.REFERENCE_KEY: trial.reference_key,
        schema.VERSIONS: json.dumps(trial.versions, sort_keys=True),
        schema.CODE_REVISION: trial.code_revision,
        schema.FOLDER: trial_folder(root, trial.trial_id).relative_to(root).as_posix(),
        schema.RUNG: trial.rung,
        schema.STAGE: trial.stage,
        **objectives,
        **config,
    }


def _evaluation_row(trial: TrialRecord, evaluation: EvaluationRecord, config: Row) -> Row:
    row = {
        schema.TRIAL_ID: trial.trial_id,
        schema.ROLE: trial.role,
        schema.TRIAL_STATUS: trial.status,
        schema.REPLICATE_OF: trial.replicate_of,
        schema.IMAGES: evaluation.images,
        schema.IMAGES_EXECUTED: trial.executed_at(evaluation.images),
        schema.FRACTION: evaluation.fraction,
        schema.IMAGES_ASKED: trial.images_asked,
        schema.ENDPOINT: evaluation.endpoint,
        schema.MAIN_ENDPOINT: evaluation.main_endpoint,
        schema.ON_FRONT: False,
        schema.FIDELITY_MEASURE: evaluation.fidelity,
        schema.MEMORIZATION_MEASURE: evaluation.memorization,
        schema.SAMPLES: evaluation.samples,
        schema.EVALUATION_SEED: evaluation.seed,
        schema.SECONDS: evaluation.seconds,
        schema.CHECKPOINT: evaluation.checkpoint,
        schema.DATA_FINGERPRINT: trial.data_fingerprint,
        schema.REFERENCE_KEY: trial.reference_key,
        **_objectives(evaluation),
        **config,
    }
    for name in schema.MEASURES:
        measure = evaluation.measures.get(name)
        row |= _interval(name, measure)
        row[schema.count(name)] = None if measure is None else measure.n
    return row


def _objectives(evaluation: EvaluationRecord) -> Row:
    fidelity, memorization = evaluation.measures[evaluation.fidelity], evaluation.measures[evaluation.memorization]
    return _interval(schema.FIDELITY, fidelity) | _interval(schema.MEMORIZATION, memorization)


def _interval(name: str, measure: Measure | None) -> Row:
    if measure is None:
        return {name: None, schema.low(name): None, schema.high(name): None}
    return {name: measure.value, schema.low(name): measure.low, schema.high(name): measure.high}


def _utc(time: str) -> datetime:
    return datetime.fromisoformat(time).astimezone(UTC).replace(tzinfo=None)
