"""Both tables as Parquet files, with the schema checked when they are read."""

from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ambient_sweep.errors import UserError
from ambient_sweep.results.tables import schema
from ambient_sweep.storage import new_file

TRIALS_FILE = "trials.parquet"
EVALUATIONS_FILE = "evaluations.parquet"


class Tables(NamedTuple):
    """A row per trial, and a row per evaluation; see schema.py."""

    trials: pa.Table
    evaluations: pa.Table


def write_tables(root: Path, tables: Tables) -> None:
    """Writes trials.parquet and evaluations.parquet under `root`, each atomically."""
    for name, table in ((TRIALS_FILE, tables.trials), (EVALUATIONS_FILE, tables.evaluations)):
        with new_file(root / name) as temporary, temporary.open("wb") as file:
            pq.write_table(table, file)


def read_table(path: Path | str) -> pa.Table:
    """A trials or evaluations table, for `select` or `.to_pandas()`.

    Raises UserError for a file that is missing, not a table of this package, or of another schema version.
    """
    path = Path(path)
    try:
        # Without threads: a process that ends right after `pq.read_table` aborts now and then (pyarrow 26).
        with pq.ParquetFile(path, pre_buffer=False) as file:
            table = file.read(use_threads=False)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; `ambient-sweep report` writes the tables of a run") from None
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path}: cannot be read as Parquet: {' '.join(str(error).split())}") from None
    metadata = table.schema.metadata or {}
    known = {each.metadata[schema.TABLE_KEY]: each for each in (schema.TRIALS, schema.EVALUATIONS)}
    expected = known.get(metadata.get(schema.TABLE_KEY))
    if expected is None:
        raise UserError(f"{path}: not a table of ambient-sweep; give a {TRIALS_FILE} or {EVALUATIONS_FILE}")
    if metadata.get(schema.VERSION_KEY) != expected.metadata[schema.VERSION_KEY] or not table.schema.equals(expected):
        raise UserError(
            f"{path}: was written by another version of ambient-sweep; `ambient-sweep report` writes the tables again"
        )
    return table
