"""Both tables as Parquet files, with the schema checked when they are read."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ambient_sweep.errors import UserError
from ambient_sweep.results.tables import schema
from ambient_sweep.storage import new_file
from ambient_sweep.text import command

TRIALS_FILE = "trials.parquet"
EVALUATIONS_FILE = "evaluations.parquet"
ROWS = 16384  # of a row group: few enough that single rows are read fast
BATCH = 4 * ROWS  # that are read at once


class Tables(NamedTuple):
    """A row per trial, and a row per evaluation; see schema.py."""

    trials: pa.Table
    evaluations: pa.Table


def write_tables(root: Path, tables: Tables) -> None:
    """Writes trials.parquet and evaluations.parquet under `root`, each atomically."""
    for name, table in ((TRIALS_FILE, tables.trials), (EVALUATIONS_FILE, tables.evaluations)):
        with new_file(root / name) as temporary, temporary.open("wb") as file:
            pq.write_table(table, file, row_group_size=ROWS)


def read_table(path: Path | str, columns: Iterable[str] | None = None, varying: Iterable[str] = ()) -> pa.Table:
    """A trials or evaluations table, for `select` or `.to_pandas()`.

    columns: those to read, by default all; varying: those to read as well unless they hold the same in every row. Raises
    UserError for a file that is missing, not a table of this package, or of another schema version.
    """
    path = Path(path)
    cure = f"`{command('report', path.parent)}` writes the tables of a run again"
    try:
        # Without threads: a process that ends right after `pq.read_table` aborts now and then (pyarrow 26).
        with pq.ParquetFile(path, pre_buffer=False) as file:
            found = file.schema_arrow
            names = found.names if columns is None else {*columns, *_varying(file, varying)}
            fields = pa.schema([field for field in found if field.name in names], found.metadata)
            batches = file.iter_batches(BATCH, columns=fields.names, use_threads=False)
            table = pa.Table.from_batches(_sharing(batches), fields)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {cure}") from None
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path}: cannot be read as Parquet ({' '.join(str(error).split())}); {cure}") from None
    metadata = found.metadata or {}
    known = {each.metadata[schema.TABLE_KEY]: each for each in (schema.TRIALS, schema.EVALUATIONS)}
    expected = known.get(metadata.get(schema.TABLE_KEY))
    if expected is None:
        raise UserError(f"{path}: not a table of ambient-sweep; give a {TRIALS_FILE} or {EVALUATIONS_FILE}")
    if metadata.get(schema.VERSION_KEY) != expected.metadata[schema.VERSION_KEY] or not found.equals(expected):
        raise UserError(f"{path}: was written by another version of ambient-sweep; {cure}")
    return table


def _sharing(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The batches, with columns that repeat from one to the next, as most of the config do, held in memory once."""
    last: list[pa.Array] = []
    for batch in batches:
        columns = zip(batch.columns, last or batch.columns, strict=True)
        last = [old if new.equals(old) else new for new, old in columns]
        yield pa.RecordBatch.from_arrays(last, schema=batch.schema)


def read_rows(path: Path, rows: Sequence[int]) -> pa.Table:
    """The rows of these numbers, in this order, of a file that `read_table` reads; of the rest, little is read."""
    with pq.ParquetFile(path, pre_buffer=False) as file:
        sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        ends = np.cumsum(sizes)
        needed, part = np.unique(np.searchsorted(ends, rows, side="right"), return_inverse=True)
        found = file.read_row_groups(needed.tolist(), use_threads=False)
        offsets = ends[needed] - np.cumsum(np.take(sizes, needed))  # rows of the file that were not read, before each
        return found.take(pa.array(np.asarray(rows) - offsets[part]))


def _varying(file: pq.ParquetFile, names: Iterable[str]) -> list[str]:
    """Of the columns `names`, those that may hold several values by the file's statistics, which tell nothing of lists."""
    groups = [file.metadata.row_group(i) for i in range(file.num_row_groups)]
    places = {column.path: place for place, column in enumerate(file.schema)}
    return [name for name in names if name not in places or _varies([group.column(places[name]) for group in groups])]


def _varies(chunks: list[pq.ColumnChunkMetaData]) -> bool:
    found = [chunk.statistics for chunk in chunks]
    if any(each is None or (each.num_values and not each.has_min_max) for each in found):
        return True
    return len({end for each in found for end in (each.min, each.max, *([None] if each.null_count else []))}) > 1
