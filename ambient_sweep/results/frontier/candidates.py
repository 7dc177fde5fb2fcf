"""Which rows of the evaluations table compete, which of them are the same model, and the frontier over them.

Every evaluated checkpoint is a candidate, so training length and sampling endpoint are chosen with the config. Values
of different measures, references or numbers of samples are never ranked together.
"""

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ambient_sweep import pareto
from ambient_sweep.errors import UserError
from ambient_sweep.results.tables import schema

Row = dict[str, Any]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

COMPARABLE = (schema.FIDELITY_MEASURE, schema.MEMORIZATION_MEASURE, schema.REFERENCE_KEY)


def candidates(table: pa.Table) -> pa.Table:
    """The rows that may be ranked: both objectives finite, on all the samples asked for, and as many as any such row.

    Any role competes, however its trial ended. Second measurements of a checkpoint, on fresh samples, do not. Raises
    UserError for a table that mixes measures or references.
    """
    for name in COMPARABLE:
        values = sorted(set(table[name].to_pylist()))
        if len(values) > 1:
            raise UserError(
                f"{name}: the table mixes {' and '.join(values)}, which do not compare; keep the rows of one"
            )
    return _where(table, measured_mask(table) & ~remeasured_mask(table))


def frontier(table: pa.Table) -> pa.Table:
    """The rows of a complete table that are on its frontier, by rising memorization; each model once."""
    return _by_memorization(table.filter(table[schema.ON_FRONT]))


def front_of(rows: pa.Table) -> pa.Table:
    """Of candidates, those that no other one dominates, by rising memorization."""
    return _by_memorization(_where(rows, pareto.pareto_mask(objectives(rows))))


def front_mask(table: pa.Table) -> Mask:
    """Which rows are on the frontier of the candidates that compare with them; each model once."""
    result = np.zeros(table.num_rows, dtype=bool)
    for rows in comparable_groups(table):
        part = table.take(pa.array(rows))
        rows = rows[measured_mask(part) & ~remeasured_mask(part)]
        rows = rows[distinct(table.take(pa.array(rows)))]
        result[rows] = pareto.pareto_mask(objectives(table.take(pa.array(rows))))
    return result


# -- which rows compare ---------------------------------------------------------------------------------------------


def measured_mask(table: pa.Table) -> Mask:
    """Rows with finite objectives, on all the samples asked for and as many as any such row."""
    finite = np.isfinite(objectives(table)).all(axis=1)
    samples = table[schema.SAMPLES].to_numpy()
    full = finite & (samples >= table[schema.SAMPLES_ASKED].to_numpy())
    return np.asarray(full & (samples == samples[full].max(initial=0)))


def remeasured_mask(table: pa.Table) -> Mask:
    """Rows that measure a checkpoint again, on samples of another seed than its config's."""
    return np.asarray(table[schema.EVALUATION_SEED].to_numpy() != table[schema.SAMPLES_SEED].to_numpy())


def comparable_groups(table: pa.Table) -> list[Ints]:
    """Row numbers of the table, a group for all rows that compare."""
    return groups(_keys(table, COMPARABLE))


def models(rows: pa.Table) -> list[Hashable]:
    """A key for each row, equal where rows are one measurement of one model: a checkpoint that several trials share.

    Trials whose training is the same up to some length share its checkpoints and evaluations. Such rows agree in length,
    endpoint, seeds and every single measure, and other rows do not: all digits of all measures never agree by chance.
    """
    places = (schema.IMAGES, schema.ENDPOINT, schema.SAMPLES, schema.EVALUATION_SEED, schema.SEED)
    return _keys(rows, (*places, *COMPARABLE, schema.FIDELITY, schema.MEMORIZATION, *schema.MEASURES))


def distinct(rows: pa.Table) -> Ints:
    """Row numbers, rising, one for each model: that of the least trial id."""
    ids = rows[schema.TRIAL_ID].to_pylist()
    return np.array(sorted(min(group, key=lambda i: (ids[i], i)) for group in groups(models(rows))), dtype=np.int64)


def groups(keys: Sequence[Hashable]) -> list[Ints]:
    """Positions of equal keys, a group for each key, by first appearance."""
    found: dict[Hashable, list[int]] = {}
    for index, key in enumerate(keys):
        found.setdefault(key, []).append(index)
    return [np.array(group, dtype=np.int64) for group in found.values()]


def _keys(rows: pa.Table, names: Sequence[str]) -> list[Hashable]:
    return list(zip(*(rows[name].to_pylist() for name in names), strict=True))


# -- rows -----------------------------------------------------------------------------------------------------------


def objectives(rows: pa.Table) -> Floats:
    """Fidelity and memorization, [N, 2]; both are minimised; a missing value is NaN."""
    columns = [rows[name].to_numpy() for name in (schema.FIDELITY, schema.MEMORIZATION)]
    return np.stack(columns, axis=1).astype(np.float64)


def _by_memorization(rows: pa.Table) -> pa.Table:
    return rows.take(pa.array(ordered(rows, objectives(rows)[:, 1])))


def ordered(rows: pa.Table, *keys: Floats) -> Ints:
    """Row numbers by `keys`, the first one first, then by memorization, fidelity, length, trial and endpoint."""
    ids, endpoints = (np.array(rows[name].to_pylist(), dtype=str) for name in (schema.TRIAL_ID, schema.ENDPOINT))
    last = (objectives(rows)[:, 1], objectives(rows)[:, 0], rows[schema.IMAGES].to_numpy(), ids, endpoints)
    return np.asarray(np.lexsort((*keys, *last)[::-1]), dtype=np.int64)


def _where(rows: pa.Table, mask: Mask) -> pa.Table:
    return rows.filter(pa.array(mask))
