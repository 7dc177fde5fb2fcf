"""The columns that compare rows with each other: on the frontier or not, how certainly, and by how many training runs.

What is uncertain: a recipe has an expected fidelity and memorization over training and sampling seeds, and its few runs
estimate them (recipes.py). The frontier meant by `front_probability` is that of the expected values. Runs of one recipe at
several lengths count as independent.
"""

import numpy as np
import pyarrow as pa
from scipy.special import ndtri

from ambient_sweep.pareto import pareto_mask
from ambient_sweep.results.frontier.candidates import Floats, candidate_mask, distinct, measured_mask, objectives
from ambient_sweep.results.frontier.recipes import Recipes
from ambient_sweep.results.tables import schema

DRAWS = 1000  # Monte Carlo error of a probability: 0.016 at most


def with_standings(table: pa.Table) -> pa.Table:
    """The evaluations table with the columns on the frontier and on recipes filled; null for rows not measured in full.

    Raises UserError for a table that mixes measures or references.
    """
    n = table.num_rows
    on_front, probability, runs = np.zeros(n, dtype=bool), np.full(n, np.nan), np.zeros(n, dtype=np.int64)
    mean, error = np.full((n, 2), np.nan), np.full((n, 2), np.nan)
    rows = np.flatnonzero(candidate_mask(table))
    rows = rows[distinct(table.take(pa.array(rows)))]
    on_front[rows] = pareto_mask(objectives(table)[rows])
    rows = np.flatnonzero(measured_mask(table))
    if len(rows):
        found = Recipes.of(table.take(pa.array(rows)))
        of_recipes = front_probability(found.mean, found.error)
        probability[rows], runs[rows] = of_recipes[found.labels], found.runs[found.labels]
        mean[rows], error[rows] = found.mean[found.labels], found.error[found.labels]
    unknown = runs == 0
    columns = {
        schema.ON_FRONT: pa.array(on_front),
        schema.FRONT_PROBABILITY: pa.array(probability, mask=unknown),
        schema.RUNS: pa.array(runs, mask=unknown),
        **{name: pa.array(mean[:, i], mask=unknown) for i, name in enumerate(schema.MEANS)},
        **{name: pa.array(error[:, i], mask=unknown) for i, name in enumerate(schema.ERRORS)},
    }
    for name, column in columns.items():
        position = table.schema.get_field_index(name)
        table = table.set_column(position, table.schema.field(position), column)
    return table


def front_probability(points: Floats, errors: Floats) -> Floats:
    """The share of DRAWS in which each candidate is on the front, with normal noise drawn around all measured values.

    points [N, 2]: measured values, both minimised; errors [N, 2]: their standard errors, from 0. Equal points without error
    are on the front together. docs/measurements/confidence.md says how well it holds on planted fronts.
    """
    from ambient_sweep import rng  # which imports torch, and tables are read without it

    hits = np.zeros(len(points))
    for draw in range(DRAWS):
        normal = ndtri(rng.uniform("front", 0, draw, 1, points.size)).reshape(points.shape)
        hits += pareto_mask(points + errors * normal)
    return hits / DRAWS
