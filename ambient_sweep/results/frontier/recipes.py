"""Recipes, and their mean objectives over training runs.

A recipe is a config but for its seed, at one length and endpoint. It was trained by one run or, with replicates, by a
few; the values of a run scatter around the recipe's means.

The noise of a run is estimated from the recipes with several runs: their variance between runs, in units of the
sampling variance that the 95 % interval implies (both grow with the value), pooled over recipes by degrees of freedom. A
recipe's own runs are weighed against the pool, which counts as PRIOR_DEGREES further runs (an inverse chi-squared prior,
Smyth 2004 without its fitted degrees), and no run is more certain than its sampling. Where no recipe has several runs,
sampling is all the noise there is; an objective without interval then has none.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ambient_sweep.config import knobs
from ambient_sweep.evaluation.measure import Z95
from ambient_sweep.results.frontier.candidates import Floats, Ints, groups, keys, models, objectives, remeasured_mask
from ambient_sweep.results.tables import schema

# Config keys that do not define a recipe: which run of it this is, where it was stopped, and how it was looked at.
NOT_RECIPE = (schema.SEED, "training.stop", "training.checkpoints", "training.records")
NOT_RECIPE_SECTIONS = ("evaluation.", "resources.")
PRIOR_DEGREES = 4.0


@dataclass(frozen=True)
class Recipes:
    """The R recipes of rows, with means and standard errors over their runs; objectives as in the table."""

    labels: Ints  # each row's recipe, [N]
    runs: Ints  # [R]
    mean: Floats  # [R, 2]
    error: Floats  # [R, 2]

    @classmethod
    def of(cls, rows: pa.Table) -> "Recipes":
        """Of one row or more, all with finite objectives. Second measurements are averaged with the first."""
        labels = recipe_labels(rows)
        values, noise = objectives(rows), _sampling_errors(rows)
        members: list[list[Floats]] = [[] for _ in range(labels.max() + 1)]  # a value [2] for each run
        sampled = np.zeros((len(members), 2))
        for run in _runs(rows):
            recipe = labels[run[0]]
            members[recipe].append(values[run].mean(axis=0))
            sampled[recipe] += noise[run].mean(axis=0)
        runs = np.array([len(each) for each in members], dtype=np.int64)
        mean = np.array([np.mean(each, axis=0) for each in members])
        single = _run_errors(members, mean, sampled / runs[:, None])
        return cls(labels, runs, mean, single / np.sqrt(runs)[:, None])


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


def _runs(rows: pa.Table) -> list[Ints]:
    """Row numbers of each training run at each length and endpoint: its measurement, then those on fresh samples."""
    of_rows, again = models(rows), remeasured_mask(rows)
    places = keys(rows, (schema.TRIAL_ID, schema.IMAGES, schema.ENDPOINT))
    owner = {place: model for place, model, second in zip(places, of_rows, again, strict=True) if not second}
    runs = groups([owner.get(place, place) for place in places])
    first = [[group[0] for group in groups([of_rows[i] for i in run])] for run in runs]  # a shared model counts once
    return [run[np.array(kept)] for run, kept in zip(runs, first, strict=True)]


def _sampling_errors(rows: pa.Table) -> Floats:
    """Standard errors [N, 2] by the 95 % intervals; 0 where there is none."""
    columns = []
    for name in (schema.FIDELITY, schema.MEMORIZATION):
        low, high = (rows[end(name)].to_numpy().astype(np.float64) for end in (schema.low, schema.high))
        half = np.abs(high / 2 - low / 2) / Z95
        columns.append(np.where(np.isfinite(half), half, 0.0))
    return np.stack(columns, axis=1)


def _run_errors(members: list[list[Floats]], mean: Floats, sampled: Floats) -> Floats:
    """Standard error of a single run of each recipe [R, 2]."""
    freedom = np.array([len(each) - 1 for each in members])
    if not freedom.any():
        return sampled
    unit = np.where((sampled > 0).all(axis=0), sampled, 1.0)  # of noise; 1 where an interval is missing
    variance = np.array([np.var(each, axis=0, ddof=1) if len(each) > 1 else np.zeros(2) for each in members])
    pooled = [_run_variance(column, freedom) for column in (variance / unit**2).T]
    return np.asarray(np.maximum(np.sqrt(np.stack(pooled, axis=1)) * unit, sampled))


def _run_variance(variance: Floats, freedom: Ints) -> Floats:
    """Each recipe's variance of a run, weighed against the pool of all; both [R], freedom: runs - 1, above 0 somewhere."""
    squares = variance * freedom
    pool = squares.sum() / freedom.sum()
    return np.asarray((squares + PRIOR_DEGREES * pool) / (freedom + PRIOR_DEGREES))
