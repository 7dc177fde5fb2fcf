"""Recipes, and what they give over training seeds.

A recipe is a config but for its seed, at one length and endpoint. It was trained by one run or, with replicates, by a
few; the values of a run scatter around the recipe's means.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ambient_sweep.config import knobs
from ambient_sweep.results.frontier.candidates import Floats, Ints, firsts, is_value, labels, models, objectives
from ambient_sweep.results.tables import schema

# Config keys that do not define a recipe: which run of it this is, where it was stopped, and how it was looked at.
NOT_RECIPE = (schema.SEED, "training.stop", "training.checkpoints", "training.records")
NOT_RECIPE_SECTIONS = ("evaluation.", "resources.")
RECIPE = (
    *(key for key in knobs() if key not in NOT_RECIPE and not key.startswith(NOT_RECIPE_SECTIONS)),
    schema.IMAGES,
    schema.ENDPOINT,
)


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
        recipes, fresh = recipe_labels(rows), is_value(rows, schema.ROLE, "replicate")
        counted = np.flatnonzero(fresh | ~np.isin(recipes, recipes[fresh]))
        counted = counted[firsts(models(rows)[counted])]  # a shared model counts once
        own, values = recipes[counted], objectives(rows)[counted]
        runs = np.bincount(own)[:, None]
        mean = _sums(own, values) / runs
        variance = _sums(own, (values - mean[own]) ** 2) / np.where(runs > 1, runs - 1, np.nan)
        return cls(recipes, runs[:, 0], mean, np.sqrt(variance) / np.sqrt(runs))


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
