"""Which rows of the evaluations table compete, which values state what they are, and which rows are the same model.

Every evaluated checkpoint is a candidate, so training length and sampling endpoint are chosen with the config. Values
of different measures, references or numbers of samples are never ranked together: once a sweep was confirmed on more
samples, the checkpoints measured on these compete alone.

A checkpoint that was chosen for its value has a lucky value (the winner's curse). So a confirmed checkpoint is measured on
two sets of fresh samples: the first decides whether it is on the frontier, the second states its values.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ambient_sweep.config import knobs
from ambient_sweep.errors import UserError
from ambient_sweep.evaluation.measure import Z95
from ambient_sweep.results.tables import schema

Row = dict[str, Any]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

COMPARABLE = (schema.FIDELITY_MEASURE, schema.MEMORIZATION_MEASURE, schema.REFERENCE_KEY)
PLACE = (schema.TRIAL_ID, schema.IMAGES, schema.ENDPOINT)
ORDER = (schema.MEMORIZATION, schema.FIDELITY, schema.IMAGES, schema.TRIAL_ID, schema.ENDPOINT)
MODEL = (schema.IMAGES, schema.ENDPOINT, schema.SAMPLES, schema.EVALUATION_SEED, schema.SEED, *schema.MEASURES)
# Config keys that do not define a recipe: which run of it this is, where its base lay, where it was stopped, and how it
# was looked at.
NOT_RECIPE = (schema.SEED, "model.base", "training.stop", "training.checkpoints", "training.records")
NOT_RECIPE_SECTIONS = ("evaluation.", "resources.")
RECIPE = (
    *(key for key in knobs() if key not in NOT_RECIPE and not key.startswith(NOT_RECIPE_SECTIONS)),
    schema.IMAGES,
    schema.ENDPOINT,
)
BY_MEMORIZATION = [(name, "ascending") for name in ORDER]


def candidates(table: pa.Table) -> pa.Table:
    """The rows that may be ranked, one for each checkpoint and endpoint. Raises as `candidate_mask`."""
    return table.filter(pa.array(candidate_mask(table)))


def stated_candidates(table: pa.Table) -> pa.Table:
    """The candidates, each by the row that states its values. Raises as `candidate_mask`."""
    return table.take(pa.array(stated(table, np.flatnonzero(candidate_mask(table)))))


def frontier(table: pa.Table) -> pa.Table:
    """The rows of a complete table that are on its frontier, each model once: by memorization, then as ORDER says."""
    return table.filter(table[schema.ON_FRONT]).sort_by(BY_MEMORIZATION)


def candidate_mask(table: pa.Table) -> Mask:
    """The first full measurement (`measured_mask`) of each checkpoint that is neither a replicate nor an untouched base.

    Raises UserError for a table that mixes measures or references.
    """
    for name in COMPARABLE:
        values = sorted(table[name].unique().to_pylist())
        if len(values) > 1:
            raise UserError(
                f"{name}: the table mixes {' and '.join(values)}, which do not compare; keep the rows of one"
            )
    competing = measured_mask(table) & ~is_value(table, schema.ROLE, "replicate") & ~untouched_mask(table)
    result = np.zeros(table.num_rows, dtype=np.bool_)
    result[_by_seed(table, competing, places(table), 1)] = True
    return result


def measured_mask(table: pa.Table) -> Mask:
    """Rows with finite objectives, on all the samples asked for and as many as any such row that is no replicate."""
    finite = np.isfinite(objectives(table)).all(axis=1)
    samples = table[schema.SAMPLES].to_numpy()
    full = finite & (samples >= table[schema.SAMPLES_ASKED].to_numpy())
    most = samples[full & ~is_value(table, schema.ROLE, "replicate")].max(initial=0)
    return np.asarray(full & (samples == most))


def stated(table: pa.Table, rows: Ints) -> Ints:
    """For each of these candidates' row numbers, that of its last measurement, whose values stand for the checkpoint."""
    of, last = places(table), np.zeros(table.num_rows, dtype=np.int64)
    found = _by_seed(table, measured_mask(table), of, -1)
    last[of[found]] = found
    return np.asarray(last[of[rows]])


def _by_seed(table: pa.Table, mask: Mask, of: Ints, sign: int) -> Ints:
    """The row of each place with the least (sign 1) or largest (-1) seed of its samples, among the rows of `mask`."""
    rows = np.flatnonzero(mask)
    rows = rows[np.argsort(sign * table[schema.EVALUATION_SEED].to_numpy()[rows], kind="stable")]
    return np.asarray(rows[firsts(of[rows])])


def places(table: pa.Table) -> Ints:
    """A number for each row, equal where rows measure one checkpoint at one endpoint: where some was measured again."""
    return np.arange(table.num_rows) if own_mask(table).all() else labels(table, PLACE)


def own_mask(table: pa.Table) -> Mask:
    """Rows that a trial measured itself, on samples of its config's seed."""
    return np.asarray(table[schema.EVALUATION_SEED].to_numpy() == table[schema.SAMPLES_SEED].to_numpy())


def choosing_mask(table: pa.Table) -> Mask:
    """Rows whose values chose the frontier, lucky ones among them, beside rows that state values on samples after those."""
    after = table[schema.EVALUATION_SEED].to_numpy() > table[schema.SAMPLES_SEED].to_numpy() + 1
    return np.asarray(~after & after.any())


def clean_mask(table: pa.Table) -> Mask:
    """Rows of ordinary training on clean images, which is what noise has to beat."""
    clean = (table[schema.SIGMA].to_numpy() == 0) & is_value(table, schema.OBJECTIVE, "denoising")
    return np.asarray(clean & ~untouched_mask(table))


def untouched_mask(table: pa.Table) -> Mask:
    """Rows of the untouched base, a reference: no training took place, so nothing was copied."""
    return np.asarray(table[schema.LEARNING_RATE].to_numpy() == 0)


def is_value(table: pa.Table, column: str, value: str) -> Mask:
    return np.asarray(pc.equal(table[column], value).to_numpy(zero_copy_only=False))


def errors(rows: pa.Table) -> Floats:
    """Standard errors of sampling [N, 2], by the 95 % intervals; 0 where there is none."""
    columns = []
    for name in (schema.FIDELITY, schema.MEMORIZATION):
        low, high = (rows[end(name)].to_numpy().astype(np.float64) for end in (schema.low, schema.high))
        half = np.abs(high / 2 - low / 2) / Z95
        columns.append(np.where(np.isfinite(half), half, 0.0))
    return np.stack(columns, axis=1)


def models(rows: pa.Table) -> Ints:
    """A number for each row, equal where rows are one measurement of one model: a checkpoint that several trials share.

    Trials whose training is the same up to some length share its checkpoints and evaluations. Such rows agree in length,
    endpoint, seeds and every single measure, and other rows do not: all digits of all measures never agree by chance.
    """
    return labels(rows, present(rows, MODEL))


def distinct(rows: pa.Table) -> Ints:
    """Row numbers, rising, one for each model: that of the least config, then trial id, as ids are random."""
    alike = labels(rows, (schema.FIDELITY,))  # most models differ in it, and one column is compared fast
    positions = np.flatnonzero(np.bincount(alike)[alike] > 1)
    if not len(positions):
        return np.arange(rows.num_rows)
    shared = rows.take(pa.array(positions))
    names = present(shared, (*RECIPE, schema.TRIAL_ID))
    keys = [name for name in names if not pa.types.is_list(shared[name].type) and labels(shared, (name,)).any()]
    if keys:
        order = pc.sort_indices(shared.select(keys), [(name, "ascending") for name in keys])
        positions, shared = positions[order.to_numpy()], shared.take(order)
    return np.delete(np.arange(rows.num_rows), np.delete(positions, firsts(models(shared))))


def present(table: pa.Table, names: Iterable[str]) -> list[str]:
    """Those of `names` that are columns of `table`, each once."""
    columns = set(table.column_names)
    return [name for name in dict.fromkeys(names) if name in columns]


def labels(rows: pa.Table, names: Sequence[str]) -> Ints:
    """A number for each row, from 0 by first appearance, equal where rows agree in all columns `names`."""
    result = np.zeros(rows.num_rows, dtype=np.int64)
    for name in names:
        column = rows[name].combine_chunks()
        found = _numbered(pa.array(map(str, column.to_pylist())) if pa.types.is_list(column.type) else column)
        if found.any():
            result = _numbered(pa.array(result * (found.max() + 1) + found))
    return result


def _numbered(column: pa.Array) -> Ints:
    """The values of a column, numbered from 0 by first appearance; null is a value."""
    return np.asarray(column.dictionary_encode("encode").indices.to_numpy(), dtype=np.int64)


def firsts(labels: Ints) -> Ints:
    """The first position of each label that occurs, by label."""
    first = np.full(labels.max(initial=-1) + 1, -1, dtype=np.int64)
    first[labels[::-1]] = np.arange(len(labels))[::-1]
    return np.asarray(first[first >= 0])


def objectives(rows: pa.Table) -> Floats:
    """Fidelity and memorization, [N, 2]; both are minimised; a missing value is NaN."""
    columns = [rows[name].to_numpy() for name in (schema.FIDELITY, schema.MEMORIZATION)]
    return np.stack(columns, axis=1).astype(np.float64)
