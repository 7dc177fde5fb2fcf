"""The columns that compare rows with each other: on the frontier or not, and what their recipe gives over its runs."""

import numpy as np
import pyarrow as pa

from ambient_sweep.pareto import pareto_mask
from ambient_sweep.results.frontier.candidates import (
    candidate_mask,
    distinct,
    measured_mask,
    objectives,
    places,
    stated,
)
from ambient_sweep.results.frontier.recipes import Recipes
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
        last = np.unique(stated(table, measured))
        found, of = Recipes.of(table.take(pa.array(last))), places(table)
        recipe_of = np.zeros(n, dtype=np.int64)
        recipe_of[of[last]] = found.labels
        own = recipe_of[of[measured]]
        runs[measured], mean[measured], error[measured] = found.runs[own], found.mean[own], found.error[own]
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
