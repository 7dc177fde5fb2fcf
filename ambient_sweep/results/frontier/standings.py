"""The columns that compare rows with each other: on the frontier or not, and the means of the row's recipe.

A recipe has an expected fidelity and memorization over training and sampling seeds, which its few runs estimate
(recipes.py).
"""

import numpy as np
import pyarrow as pa

from ambient_sweep.pareto import pareto_mask
from ambient_sweep.results.frontier.candidates import candidate_mask, distinct, measured_mask, objectives
from ambient_sweep.results.frontier.recipes import Recipes
from ambient_sweep.results.tables import schema


def with_standings(table: pa.Table) -> pa.Table:
    """The evaluations table with the columns on the frontier and on recipes filled; null for rows not measured in full.

    Raises UserError for a table that mixes measures or references.
    """
    n = table.num_rows
    on_front, runs = np.zeros(n, dtype=bool), np.zeros(n, dtype=np.int64)
    mean, error = np.full((n, 2), np.nan), np.full((n, 2), np.nan)
    rows = np.flatnonzero(candidate_mask(table))
    rows = rows[distinct(table.take(pa.array(rows)))]
    on_front[rows] = pareto_mask(objectives(table)[rows])
    rows = np.flatnonzero(measured_mask(table))
    if len(rows):
        found = Recipes.of(table.take(pa.array(rows)))
        runs[rows], mean[rows], error[rows] = (each[found.labels] for each in (found.runs, found.mean, found.error))
    unknown = runs == 0
    columns = {
        schema.ON_FRONT: pa.array(on_front),
        schema.RUNS: pa.array(runs, mask=unknown),
        **{name: pa.array(mean[:, i], mask=unknown) for i, name in enumerate(schema.MEANS)},
        **{name: pa.array(error[:, i], mask=unknown) for i, name in enumerate(schema.ERRORS)},
    }
    for name, column in columns.items():
        position = table.schema.get_field_index(name)
        table = table.set_column(position, table.schema.field(position), column)
    return table
