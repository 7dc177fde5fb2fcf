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
from ambient_sweep.config import knobs
from ambient_sweep.errors import UserError
from ambient_sweep.results import schema

VIEWS = ("checkpoints", "full-length", "per-trial")
COMPARABLE = (schema.FIDELITY_MEASURE, schema.MEMORIZATION_MEASURE, schema.REFERENCE_KEY)
SAMPLES_SEED = "evaluation.seed"  # a config column: a row of another seed measures a candidate once more
# What tells no recipe from another: which run of it this is, where it was stopped, and how it was looked at.
NO_RECIPE = ("seed", "training.stop", "training.checkpoints", "training.records")
NO_RECIPE_SECTIONS = ("evaluation.", "resources.")

Row = dict[str, Any]
Mask = NDArray[np.bool_]


def candidates(table: pa.Table) -> pa.Table:
    """The rows that may be ranked: both objectives finite, on all the samples asked for, and as many as any such row.

    The role does not matter (the baseline competes, and so do replicates), nor how the trial ended (a checkpoint
    outlives it). A second measurement of a checkpoint, on fresh samples, is none. Raises UserError for a table that
    mixes measures or references.
    """
    for name in COMPARABLE:
        values = sorted(set(table[name].to_pylist()))
        if len(values) > 1:
            raise UserError(
                f"{name}: the table mixes {' and '.join(values)}, which do not compare; keep the rows of one"
            )
    return table.filter(pa.array(candidate_mask(table)))


def candidate_mask(table: pa.Table) -> Mask:
    """Which rows `candidates` keeps of a table whose rows compare."""
    return measured_mask(table) & ~again_mask(table)


def measured_mask(table: pa.Table) -> Mask:
    """Rows with finite objectives, on all the samples asked for and as many as any such row."""
    finite = np.isfinite(objectives(table)).all(axis=1)
    samples = table[schema.SAMPLES].to_numpy()
    full = finite & (samples >= table[schema.SAMPLES_ASKED].to_numpy())
    return np.asarray(full & (samples == samples[full].max(initial=0)))


def again_mask(table: pa.Table) -> Mask:
    """Rows that measure a checkpoint once more, on samples of another seed than its config's."""
    return np.asarray(table[schema.EVALUATION_SEED].to_numpy() != table[SAMPLES_SEED].to_numpy())


def front_mask(table: pa.Table) -> Mask:
    """Which rows are on the frontier over all candidates that compare with them; for the column `on_front`.

    Of rows that are the same model, measured the same, one.
    """
    result = np.zeros(table.num_rows, dtype=bool)
    for rows in comparable_groups(table):
        part = table.take(pa.array(rows))
        rows = rows[candidate_mask(part)]
        rows = rows[distinct(table.take(pa.array(rows)))]
        result[rows] = pareto.pareto_mask(objectives(table.take(pa.array(rows))))
    return result


def comparable_groups(table: pa.Table) -> list[NDArray[np.int64]]:
    """Row numbers of the table, a group for all rows that compare."""
    return groups(list(zip(*(table[name].to_pylist() for name in COMPARABLE), strict=True)))


def frontier(table: pa.Table, view: str = "checkpoints") -> pa.Table:
    """The candidates of `view` that no other one beats in both objectives, by rising memorization; each model once.

    Views: `checkpoints`: all; `full-length`: those at their trial's full length; `per-trial`: of each trial, the
    longest at its main endpoint. Raises UserError as `candidates`, and for an unknown view.
    """
    return front_of(viewed(table, view))


def front_of(rows: pa.Table) -> pa.Table:
    """Of candidates, those that no other one beats in both objectives, by rising memorization."""
    front = rows.filter(pa.array(pareto.pareto_mask(objectives(rows))))
    return front.take(pa.array(ordered(front, objectives(front)[:, 1])))


def viewed(table: pa.Table, view: str = "checkpoints") -> pa.Table:
    """The candidates of a view; of those that are the same model, measured the same, one. Raises as `frontier`."""
    rows = _view(candidates(table), view)
    return rows.take(pa.array(distinct(rows)))


def _view(rows: pa.Table, view: str) -> pa.Table:
    if view == "checkpoints":
        return rows
    if view == "full-length":
        return rows.filter(pa.array(rows[schema.IMAGES].to_numpy() >= rows[schema.IMAGES_ASKED].to_numpy()))
    if view == "per-trial":
        longest: dict[str, tuple[int, int]] = {}
        columns = (rows[name].to_pylist() for name in (schema.TRIAL_ID, schema.MAIN_ENDPOINT, schema.IMAGES))
        for index, (trial_id, main, images) in enumerate(zip(*columns, strict=True)):
            if main and images > longest.get(trial_id, (0, 0))[0]:
                longest[trial_id] = (images, index)
        return rows.take(pa.array(sorted(index for _, index in longest.values()), pa.int64()))
    raise UserError(f"unknown view {view!r}; use {', '.join(VIEWS[:-1])} or {VIEWS[-1]}")


# -- what is the same -----------------------------------------------------------------------------------------------


def distinct(rows: pa.Table) -> NDArray[np.int64]:
    """Row numbers, in order, one for each model: see `models`. Of several rows, that of the least trial id."""
    ids = rows[schema.TRIAL_ID].to_pylist()
    return np.array(sorted(min(group, key=lambda i: (ids[i], i)) for group in groups(models(rows))), dtype=np.int64)


def models(rows: pa.Table) -> list[Hashable]:
    """A key for each row, equal where rows are one model, measured once: a checkpoint that several trials share.

    Trials whose training is the same up to some length share its checkpoints and their evaluations (training/prefix.py
    says which are). So the rows agree in length, endpoint, seeds and every single measure; two models that do so by
    chance, all digits of every measure, are not met with.
    """
    names = (schema.IMAGES, schema.ENDPOINT, schema.SAMPLES, schema.EVALUATION_SEED, "seed", *COMPARABLE)
    measures = (schema.FIDELITY, schema.MEMORIZATION, *schema.MEASURES)
    keys: list[Hashable] = list(zip(*(rows[name].to_pylist() for name in (*names, *measures)), strict=True))
    return keys


def recipes(rows: pa.Table) -> NDArray[np.int64]:
    """A number for each row, equal where the recipe is: config but for its seed, length and endpoint.

    Rows of one recipe are training runs with different seeds, and second measurements of these. Trials that differ in
    what had not acted yet at that length have the recipe in common: their rows are the same model there (`models`).
    """
    keys = [key for key in knobs() if key not in NO_RECIPE and not key.startswith(NO_RECIPE_SECTIONS)]
    columns = [_hashable(rows[key].to_pylist()) for key in keys]
    columns += [rows[name].to_pylist() for name in (schema.IMAGES, schema.ENDPOINT, *COMPARABLE)]
    labels = np.empty(rows.num_rows, dtype=np.int64)
    for label, group in enumerate(groups(list(zip(*columns, strict=True)))):
        labels[group] = label
    parents = np.arange(rows.num_rows)  # of recipes that shared models make one

    def root(label: int) -> int:
        while parents[label] != label:
            label = parents[label] = int(parents[parents[label]])
        return label

    for group in groups(models(rows)):
        for row in group[1:]:
            first, second = sorted((root(int(labels[group[0]])), root(int(labels[row]))))
            parents[second] = first
    return np.array([root(int(label)) for label in labels], dtype=np.int64)


def groups(keys: Sequence[Hashable]) -> list[NDArray[np.int64]]:
    """Positions of equal keys, a group for each key, by first appearance."""
    found: dict[Hashable, list[int]] = {}
    for index, key in enumerate(keys):
        found.setdefault(key, []).append(index)
    return [np.array(group, dtype=np.int64) for group in found.values()]


def _hashable(values: list[Any]) -> list[Hashable]:
    return [tuple(value) if isinstance(value, list) else value for value in values]


# -- rows -----------------------------------------------------------------------------------------------------------


def objectives(rows: pa.Table) -> NDArray[np.float64]:
    """Fidelity and memorization, [N, 2]; both are minimised; a missing value is NaN."""
    columns = [rows[name].to_numpy() for name in (schema.FIDELITY, schema.MEMORIZATION)]
    return np.stack(columns, axis=1).astype(np.float64)


def ordered(rows: pa.Table, *keys: NDArray[np.float64]) -> NDArray[np.int64]:
    """Row numbers by `keys`, the first one first, then by whatever makes the order complete."""
    ids, endpoints = (np.array(rows[name].to_pylist(), dtype=str) for name in (schema.TRIAL_ID, schema.ENDPOINT))
    last = (objectives(rows)[:, 1], objectives(rows)[:, 0], rows[schema.IMAGES].to_numpy(), ids, endpoints)
    return np.asarray(np.lexsort((*keys, *last)[::-1]), dtype=np.int64)
