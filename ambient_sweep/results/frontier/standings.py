"""The columns that compare rows with each other: on the frontier or not, and what their recipe gives over its runs.

A recipe is a config but for its seed, at one length and endpoint. It was trained by one run or, with replicates, by a
few; the values of a run scatter around the recipe's means.
"""

import numpy as np
import pyarrow as pa

from ambient_sweep.pareto import pareto_mask
from ambient_sweep.results.frontier.candidates import (
    RECIPE,
    Floats,
    Ints,
    candidate_mask,
    distinct,
    firsts,
    is_value,
    labels,
    measured_mask,
    models,
    objectives,
    stated,
)
from ambient_sweep.results.tables import schema


def with_standings(table: pa.Table) -> pa.Table:
    """The evaluations table with the columns on the frontier and on recipes filled.

    Candidates are compared by their first full measurement; `on_front` marks the last of those on the frontier. Recipes are
    null for rows not measured in full. Raises UserError for a table that mixes measures or references.
    """
    n = table.num_rows
    on_front, runs = np.zeros(n, dtype=np.bool_), np.zeros(n, dtype=np.int64)
    mean, error = np.full((n, 2), np.nan), np.full((n, 2), np.nan)
    rows = np.flatnonzero(candidate_mask(table))
    rows = rows[distinct(table.take(pa.array(rows)))]
    on_front[stated(table, rows[pareto_mask(objectives(table)[rows])])] = True
    measured = np.flatnonzero(measured_mask(table))
    if len(measured):
        last, same = np.unique(stated(table, measured), return_inverse=True)
        finite = np.flatnonzero(np.isfinite(objectives(table)).all(axis=1))
        recipes = recipe_labels(table.take(pa.array(finite)))  # of two trials that share a model, one is measured again
        recipes = np.unique(recipes[np.searchsorted(finite, last)], return_inverse=True)[1]
        over_runs = _over_runs(table.take(pa.array(last)), recipes)
        runs[measured], mean[measured], error[measured] = (values[same] for values in over_runs)
    columns = {
        schema.ON_FRONT: pa.array(on_front),
        schema.RUNS: pa.array(runs, mask=runs == 0),
        **{name: pa.array(mean[:, i], mask=runs == 0) for i, name in enumerate(schema.MEANS)},
        **{name: pa.array(error[:, i], mask=runs <= 1) for i, name in enumerate(schema.ERRORS)},
    }
    for name, column in columns.items():
        position = table.schema.get_field_index(name)
        table = table.set_column(position, table.schema.field(position), column)
    return table


def _over_runs(rows: pa.Table, recipes: Ints) -> tuple[Ints, Floats, Floats]:
    """For each row, the runs of its recipe [N], the means over them [N, 2] and their standard errors; NaN for a single run.

    Of rows with finite objectives and these recipes, one for each checkpoint and endpoint. The run of a recipe that a sweep
    chose is a lucky one; so where it has replicates, they count alone.
    """
    fresh = is_value(rows, schema.ROLE, "replicate")
    counted = np.flatnonzero(fresh | ~np.isin(recipes, recipes[fresh]))
    counted = counted[firsts(models(rows)[counted])]  # a shared model counts once
    own, values = recipes[counted], objectives(rows)[counted]
    runs = np.bincount(own)[:, None]
    mean = _sums(own, values) / runs
    variance = _sums(own, (values - mean[own]) ** 2) / np.where(runs > 1, runs - 1, np.nan)
    return runs[recipes, 0], mean[recipes], (np.sqrt(variance) / np.sqrt(runs))[recipes]


def recipe_labels(rows: pa.Table) -> Ints:
    """The recipe of each row, numbered from 0 by first appearance.

    Recipes that share a model are one: at that length, the settings in which they differ have not acted yet.
    """
    from scipy.sparse import coo_array  # slow to import, and `select` does without
    from scipy.sparse.csgraph import connected_components

    recipes, same = labels(rows, RECIPE), models(rows)
    nodes = recipes.max(initial=-1) + 1  # a node for each recipe, then one for each model
    graph = coo_array((np.ones(len(same)), (recipes, nodes + same)), shape=(2 * rows.num_rows, 2 * rows.num_rows))
    return np.asarray(connected_components(graph, directed=False)[1][recipes], dtype=np.int64)


def _sums(labels: Ints, values: Floats) -> Floats:
    """The sums of values [N, 2] with the same label, [R, 2]."""
    return np.stack([np.bincount(labels, weights=column) for column in values.T], axis=1)
