"""The columns that compare rows with each other: on the frontier or not, how certainly, and by how many training runs.

What is uncertain: a recipe has an expected fidelity and memorization over training and sampling seeds, and its few runs
estimate them (recipes.py). The frontier meant by `front_probability` is that of the expected values. Runs of one recipe at
several lengths count as independent.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ambient_sweep.results.frontier.candidates import Floats, Ints, comparable_groups, front_mask, measured_mask
from ambient_sweep.results.frontier.probability import DRAWS, front_probability
from ambient_sweep.results.frontier.recipes import Recipes
from ambient_sweep.results.tables import schema

LARGEST_ERROR = 1e100  # keeps sums finite


@dataclass(frozen=True)
class Standings:
    """The standing of each row's recipe, in the order of the rows; NaN and 0 runs for rows not measured in full."""

    probability: Floats  # [N]
    runs: Ints  # [N]
    mean: Floats  # [N, 2], fidelity and memorization
    error: Floats  # [N, 2], standard errors


def standings(table: pa.Table, *, draws: int = DRAWS) -> Standings:
    """Runs, means, errors and probabilities of the recipes of an evaluations table, for each set of rows that compare."""
    n = table.num_rows
    result = Standings(
        np.full(n, np.nan), np.zeros(n, dtype=np.int64), np.full((n, 2), np.nan), np.full((n, 2), np.nan)
    )
    for rows in comparable_groups(table):
        rows = rows[measured_mask(table.take(pa.array(rows)))]
        if len(rows) == 0:
            continue
        found = Recipes.of(table.take(pa.array(rows)))
        error = np.nan_to_num(found.error).clip(0.0, LARGEST_ERROR)
        probability = front_probability(found.mean, error, correlation=found.correlation, draws=draws)
        result.probability[rows], result.runs[rows] = probability[found.labels], found.runs[found.labels]
        result.mean[rows], result.error[rows] = found.mean[found.labels], found.error[found.labels]
    return result


def with_standings(table: pa.Table) -> pa.Table:
    """The evaluations table with the columns of `standings`, and that of the frontier, filled."""
    found = standings(table)
    unknown = ~np.isfinite(found.probability)
    columns = {
        schema.ON_FRONT: pa.array(front_mask(table)),
        schema.FRONT_PROBABILITY: pa.array(found.probability, mask=unknown),
        schema.RUNS: pa.array(found.runs, mask=unknown),
        **{name: pa.array(found.mean[:, i], mask=unknown) for i, name in enumerate(schema.MEANS)},
        **{name: pa.array(found.error[:, i], mask=unknown) for i, name in enumerate(schema.ERRORS)},
    }
    for name, column in columns.items():
        position = table.schema.get_field_index(name)
        table = table.set_column(position, table.schema.field(position), column)
    return table
