"""Which rows of the evaluations table compete, and which of them are the same model.

Every evaluated checkpoint is a candidate, so training length and sampling endpoint are chosen with the config. Values
of different measures, references or numbers of samples are never ranked together.
"""

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ambient_sweep.errors import UserError
from ambient_sweep.results.tables import schema

Row = dict[str, Any]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

COMPARABLE = (schema.FIDELITY_MEASURE, schema.MEMORIZATION_MEASURE, schema.REFERENCE_KEY)


def candidates(table: pa.Table) -> pa.Table:
    """The rows that may be ranked, whatever their role and however their trial ended. Raises as `candidate_mask`."""
    return table.filter(pa.array(candidate_mask(table)))


def frontier(table: pa.Table) -> pa.Table:
    """The rows of a complete table that are on its frontier, by rising memorization; each model once."""
    return by_memorization(table.filter(table[schema.ON_FRONT]))


def candidate_mask(table: pa.Table) -> Mask:
    """Rows measured in full (`measured_mask`) that are no second measurement of a checkpoint, on fresh samples.

    Raises UserError for a table that mixes measures or references.
    """
    for name in COMPARABLE:
        values = sorted(table[name].unique().to_pylist())
        if len(values) > 1:
            raise UserError(
                f"{name}: the table mixes {' and '.join(values)}, which do not compare; keep the rows of one"
            )
    return measured_mask(table) & ~remeasured_mask(table)


def measured_mask(table: pa.Table) -> Mask:
    """Rows with finite objectives, on all the samples asked for and as many as any such row."""
    finite = np.isfinite(objectives(table)).all(axis=1)
    samples = table[schema.SAMPLES].to_numpy()
    full = finite & (samples >= table[schema.SAMPLES_ASKED].to_numpy())
    return np.asarray(full & (samples == samples[full].max(initial=0)))


def remeasured_mask(table: pa.Table) -> Mask:
    """Rows that measure a checkpoint again, on samples of another seed than its config's."""
    return np.asarray(table[schema.EVALUATION_SEED].to_numpy() != table[schema.SAMPLES_SEED].to_numpy())


def models(rows: pa.Table) -> list[Hashable]:
    """A key for each row, equal where rows are one measurement of one model: a checkpoint that several trials share.

    Trials whose training is the same up to some length share its checkpoints and evaluations. Such rows agree in length,
    endpoint, seeds and every single measure, and other rows do not: all digits of all measures never agree by chance.
    """
    places = (schema.IMAGES, schema.ENDPOINT, schema.SAMPLES, schema.EVALUATION_SEED, schema.SEED)
    return keys(rows, (*places, *schema.MEASURES))


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


def keys(rows: pa.Table, names: Sequence[str]) -> list[Hashable]:
    """The values of each row in the columns `names`, as a tuple."""
    return list(zip(*(rows[name].to_pylist() for name in names), strict=True))


def objectives(rows: pa.Table) -> Floats:
    """Fidelity and memorization, [N, 2]; both are minimised; a missing value is NaN."""
    columns = [rows[name].to_numpy() for name in (schema.FIDELITY, schema.MEMORIZATION)]
    return np.stack(columns, axis=1).astype(np.float64)


def by_memorization(rows: pa.Table) -> pa.Table:
    """The rows by memorization, then by fidelity, length, trial and endpoint."""
    columns = (schema.MEMORIZATION, schema.FIDELITY, schema.IMAGES, schema.TRIAL_ID, schema.ENDPOINT)
    return rows.sort_by([(name, "ascending") for name in columns])
