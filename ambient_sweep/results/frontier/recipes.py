"""Recipes, and what they give over training seeds.

A recipe is a config but for its seed, at one length and endpoint. It was trained by one run or, with replicates, by a
few; the values of a run scatter around the recipe's means.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ambient_sweep.config import knobs
from ambient_sweep.results.frontier.candidates import Floats, Ints, groups, is_value, models, objectives
from ambient_sweep.results.tables import schema

# Config keys that do not define a recipe: which run of it this is, where it was stopped, and how it was looked at.
NOT_RECIPE = (schema.SEED, "training.stop", "training.checkpoints", "training.records")
NOT_RECIPE_SECTIONS = ("evaluation.", "resources.")


@dataclass(frozen=True)
class Recipes:
    """The R recipes of rows, with means and standard errors over their runs; objectives as in the table."""

    labels: Ints  # each row's recipe, [N]
    runs: Ints  # [R]
    mean: Floats  # [R, 2]
    error: Floats  # of the mean [R, 2]; NaN for a single run

    @classmethod
    def of(cls, rows: pa.Table) -> "Recipes":
        """Of rows with finite objectives, one for each checkpoint and endpoint.

        The run of a recipe that a sweep chose is a lucky one; so where it has replicates, they count alone.
        """
        labels, values, same = recipe_labels(rows), objectives(rows), models(rows)
        fresh = is_value(rows, schema.ROLE, "replicate")
        runs, mean, error = [], [], []
        for members in groups(labels.tolist()):
            chosen = members[fresh[members]] if fresh[members].any() else members
            chosen = chosen[[group[0] for group in groups([same[i] for i in chosen])]]  # a shared model counts once
            n = len(chosen)
            runs.append(n)
            mean.append(values[chosen].mean(axis=0))
            error.append(values[chosen].std(axis=0, ddof=1) / np.sqrt(n) if n > 1 else np.full(2, np.nan))
        return cls(labels, np.array(runs, dtype=np.int64), np.array(mean), np.array(error))


def recipe_labels(rows: pa.Table) -> Ints:
    """The recipe of each row, numbered from 0 by first appearance.

    Recipes that share a model are one: at that length, the settings in which they differ have not acted yet.
    """
    own = [key for key in knobs() if key not in NOT_RECIPE and not key.startswith(NOT_RECIPE_SECTIONS)]
    columns = [rows[name].to_pylist() for name in (*own, schema.IMAGES, schema.ENDPOINT)]
    recipes = [tuple(tuple(v) if isinstance(v, list) else v for v in row) for row in zip(*columns, strict=True)]
    equal = [(group[0], row) for same in (recipes, models(rows)) for group in groups(same) for row in group]
    first, second = np.array(equal, dtype=np.int64).reshape(-1, 2).T
    graph = coo_array((np.ones(len(first)), (first, second)), shape=(rows.num_rows, rows.num_rows))
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.int64)
