"""How sure it is that a candidate is on the frontier: the spread between training seeds, carried over to the front.

What is uncertain. A recipe (config but for its seed, length, endpoint: `candidates.recipes`) has an expected fidelity
and memorization over training and sampling seeds. It was measured by one run, or by a few; the frontier is that of the
expected values, and a probability says in which share of the values that fit the measurements a recipe is on it.

The noise of a run. Where recipes have several runs, their variance between runs, in units of the variance that the 95 %
interval tells of sampling alone (both grow with the value), pooled over recipes by degrees of freedom; a recipe's own
runs are weighed against the pool as if it stood for PRIOR_DEGREES further runs of it (an inverse chi-squared prior,
Smyth 2004 without its fitted degrees), and no run is taken to be surer than its sampling. Where no recipe has several
runs, sampling alone; an objective without interval then has no noise. Runs of one recipe at several lengths are taken as
independent.

The values that fit. Of hundreds of candidates, those measured on the front are there by luck in part, and noise added
to noisy values makes fronts that are too good. So what values recipes have is learnt from all candidates (empirical
Bayes, see `deconvolution`), and values are drawn from each candidate's posterior: luck is not drawn anew, but taken back.
Below FEW candidates the prior is flat.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from ambient_sweep.evaluation.measure import Z95
from ambient_sweep.results import schema
from ambient_sweep.results.candidates import (
    Mask,
    again_mask,
    comparable_groups,
    groups,
    measured_mask,
    models,
    objectives,
    recipes,
)
from ambient_sweep.results.deconvolution import Posterior

Floats = NDArray[np.float64]

FRONT_PROBABILITY, RUNS, MEANS, ERRORS = schema.FRONT_PROBABILITY, schema.RUNS, schema.MEANS, schema.ERRORS

DRAWS = 4096  # Monte Carlo error of a probability: 0.008 at most
AT_ONCE = 1 << 20  # numbers held at once
PRIOR_DEGREES = 4.0
FEW = 10
LARGEST = 1e100  # error that is reckoned with
HOPELESS = 5.0  # dominated by so many standard errors in both objectives: probability 0


@dataclass(frozen=True)
class Standings:
    """What is known of each row's recipe, in the order of the rows; NaN and 0 runs for rows that are no measurement."""

    probability: Floats  # [N]
    runs: NDArray[np.int64]  # [N]
    mean: Floats  # [N, 2], fidelity and memorization
    error: Floats  # [N, 2], standard errors


# -- the front of noisy values --------------------------------------------------------------------------------------


def front_probability(
    points: ArrayLike,
    errors: ArrayLike,
    *,
    correlation: float = 0.0,
    prior: str = "flat",
    draws: int = DRAWS,
    seed: int = 0,
) -> Floats:
    """The probability of each candidate to be on the front of the true values, both minimised, by Monte Carlo.

    points [N, 2]: measured values, finite; errors [N, 2]: their standard errors, normal; correlation: between the two
    errors of a candidate. prior: `flat`, or `empirical`, learnt from the points (see the module). Equal points without
    error are on the front together. The numbers are keyed by the seed: the same for any order of the rows, but for rows
    that are equal. Raises ValueError for shapes that do not fit, negative errors and another prior.
    """
    from ambient_sweep import rng  # which imports torch, and tables are read without it

    values, spread = np.asarray(points, dtype=np.float64), np.asarray(errors, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] != 2 or values.shape != spread.shape:
        raise ValueError(f"front_probability: expected [N, 2] twice, not {values.shape} and {spread.shape}")
    if not (np.isfinite(values).all() and np.isfinite(spread).all() and (spread >= 0).all() and abs(correlation) < 1):
        raise ValueError("front_probability: expected finite points, errors from 0, a correlation inside (-1, 1)")
    if prior not in ("flat", "empirical"):
        raise ValueError(f"front_probability: unknown prior {prior!r}; use flat or empirical")
    result = np.zeros(len(values))
    order = np.lexsort((*spread.T, *values.T[::-1]))
    order = order[~_hopeless(values[order], spread[order])]
    values, spread = values[order], spread[order]
    learnt = prior == "empirical" and len(values) >= FEW and bool((spread > 0).all() and (values.std(axis=0) > 0).all())
    posterior = Posterior.fit(values, spread, correlation) if learnt else None
    hits, step = np.zeros(len(values)), max(1, AT_ONCE // max(1, len(values)))
    for first in range(0, draws, step):
        count = min(step, draws - first)
        u = rng.uniform("front", seed, first, count, 3 * len(values)).reshape(count, len(values), 3)
        normal = ndtri(u[..., 1:])
        if posterior is None:
            normal[..., 1] = correlation * normal[..., 0] + np.sqrt(1 - correlation**2) * normal[..., 1]
            drawn = values + spread * normal
        else:
            drawn = posterior.draw(u[..., 0], normal)
        hits += _on_front(drawn).sum(axis=0)
    result[order] = hits / draws
    return result


def _hopeless(values: Floats, spread: Floats) -> Mask:
    """Which points are surely dominated by some point of the measured front."""
    result = np.zeros(len(values), dtype=bool)
    for index in np.flatnonzero(_on_front(values[None])[0]):
        result |= (values - values[index] > HOPELESS * np.hypot(spread, spread[index])).all(axis=1)
    return result


def _on_front(values: Floats) -> Mask:
    """For each draw [D, N, 2], which rows no other dominates [D, N]; equal rows agree."""
    first, second = values[..., 0], values[..., 1]
    order = np.lexsort((second, first), axis=-1)
    x, y = (np.take_along_axis(each, order, axis=-1) for each in (first, second))
    best = np.minimum.accumulate(y, axis=-1)
    edge = np.full((len(x), 1), np.inf)
    on = y < np.concatenate([edge, best[:, :-1]], axis=-1)  # less than every row before it
    equal = (x[:, 1:] == x[:, :-1]) & (y[:, 1:] == y[:, :-1])
    leader = np.arange(x.shape[1]) * np.concatenate([np.ones_like(on[:, :1]), ~equal], axis=-1)
    on = np.take_along_axis(on, np.maximum.accumulate(leader, axis=-1), axis=-1)  # as the first of those equal to it
    result = np.empty_like(on)
    np.put_along_axis(result, order, on, axis=-1)
    return result


# -- the noise of runs ----------------------------------------------------------------------------------------------


def run_variance(variance: ArrayLike, freedom: ArrayLike) -> tuple[Floats, float]:
    """Each recipe's variance of a run, weighed against the pool of all, and the pool.

    variance [N]: between a recipe's runs; freedom [N]: its degrees, runs - 1; at 0 the variance is not looked at. Some
    freedom must be above 0.
    """
    degrees = np.asarray(freedom, dtype=np.float64)
    squares = np.where(degrees > 0, np.asarray(variance, dtype=np.float64), 0.0) * degrees
    pool = float(squares.sum() / degrees.sum())
    return (squares + PRIOR_DEGREES * pool) / (degrees + PRIOR_DEGREES), pool


def standings(table: pa.Table, *, draws: int = DRAWS, seed: int = 0) -> Standings:
    """Runs, means, errors and probabilities of the recipes of an evaluations table; rows that compare are judged together.

    Second measurements of a checkpoint are averaged with the first; a recipe's runs count alike.
    """
    n = table.num_rows
    result = Standings(
        np.full(n, np.nan), np.zeros(n, dtype=np.int64), np.full((n, 2), np.nan), np.full((n, 2), np.nan)
    )
    for rows in comparable_groups(table):
        rows = rows[measured_mask(table.take(pa.array(rows)))]
        if len(rows) == 0:
            continue
        found = Recipes.of(table.take(pa.array(rows)))
        error = np.nan_to_num(np.abs(found.error), nan=0.0, posinf=LARGEST)  # of odd intervals
        probability = front_probability(
            found.mean, error, correlation=found.correlation, prior="empirical", draws=draws, seed=seed
        )
        result.probability[rows], result.runs[rows] = probability[found.labels], found.runs[found.labels]
        result.mean[rows], result.error[rows] = found.mean[found.labels], found.error[found.labels]
    return result


@dataclass(frozen=True)
class Recipes:
    """The recipes of rows that compare: means and standard errors over their runs."""

    labels: NDArray[np.int64]  # each row's recipe
    runs: NDArray[np.int64]  # [R]
    mean: Floats  # [R, 2], fidelity and memorization
    error: Floats  # [R, 2]
    correlation: float  # of the two errors

    @classmethod
    def of(cls, rows: pa.Table) -> "Recipes":
        """Of one row or more, all with finite objectives."""
        _, labels = np.unique(recipes(rows), return_inverse=True)
        values, noise = objectives(rows), _sampling_errors(rows)
        members: list[list[Floats]] = [[] for _ in range(labels.max() + 1)]  # a value [2] for each run
        sampled = np.zeros((len(members), 2))
        for run in _runs(rows):
            recipe = labels[run[0]]
            members[recipe].append(values[run].mean(axis=0))
            sampled[recipe] += noise[run].mean(axis=0)
        runs = np.array([len(each) for each in members], dtype=np.int64)
        mean = np.array([np.mean(each, axis=0) for each in members])
        single, correlation = _run_errors(members, mean, sampled / runs[:, None])
        return cls(labels, runs, mean, single / np.sqrt(runs)[:, None], correlation)


def _run_errors(members: list[list[Floats]], mean: Floats, sampled: Floats) -> tuple[Floats, float]:
    """Standard error of a single run of each recipe [R, 2], and the correlation of the two objectives' errors."""
    freedom = np.array([len(each) - 1 for each in members])
    if not freedom.any():
        return sampled, 0.0
    unit = np.where((sampled > 0).all(axis=0), sampled, 1.0)  # of noise; 1 where an interval is missing
    variance = np.array([np.var(each, axis=0, ddof=1) if len(each) > 1 else np.zeros(2) for each in members])
    pooled = [run_variance(column, freedom)[0] for column in (variance / unit**2).T]
    deviations = np.concatenate([(each - mean[i]) / unit[i] for i, each in enumerate(members)])
    size = float(np.sqrt((deviations**2).sum(axis=0).prod()))
    product = deviations.prod(axis=1).sum()
    correlation = float(np.clip(product / size, -0.95, 0.95)) if size > 0 and np.isfinite(product / size) else 0.0
    return np.maximum(np.sqrt(np.stack(pooled, axis=1)) * unit, sampled), correlation


def _runs(rows: pa.Table) -> list[NDArray[np.int64]]:
    """Row numbers of each training run at each length and endpoint: its measurement, then those on fresh samples."""
    again = again_mask(rows)
    keys = models(rows)
    places = list(zip(*(rows[n].to_pylist() for n in (schema.TRIAL_ID, schema.IMAGES, schema.ENDPOINT)), strict=True))
    owner = {place: key for place, key, second in zip(places, keys, again, strict=True) if not second}
    runs = groups([owner.get(place, place) for place in places])
    first = [[group[0] for group in groups([keys[i] for i in run])] for run in runs]  # what trials share counts once
    return [run[np.array(kept)] for run, kept in zip(runs, first, strict=True)]


def _sampling_errors(rows: pa.Table) -> Floats:
    """Standard errors [N, 2] by the 95 % intervals; 0 where there is none."""
    columns = []
    for name in (schema.FIDELITY, schema.MEMORIZATION):
        low, high = (rows[end(name)].to_numpy().astype(np.float64) for end in (schema.low, schema.high))
        half = (high - low) / (2 * Z95)
        columns.append(np.where(np.isfinite(half), half, 0.0))
    return np.stack(columns, axis=1)


# -- in the table ---------------------------------------------------------------------------------------------------


def with_standings(table: pa.Table) -> pa.Table:
    """The evaluations table with its columns on standings filled, or added where it has none of them."""
    found = standings(table)
    known = np.isfinite(found.probability)
    columns = {
        FRONT_PROBABILITY: (found.probability, pa.float64()),
        RUNS: (found.runs, pa.int64()),
        **{name: (found.mean[:, i], pa.float64()) for i, name in enumerate(MEANS)},
        **{name: (found.error[:, i], pa.float64()) for i, name in enumerate(ERRORS)},
    }
    for name, (values, kind) in columns.items():
        column, field = pa.array(values, kind, mask=~known), pa.field(name, kind)
        position = table.schema.get_field_index(name)
        table = table.append_column(field, column) if position < 0 else table.set_column(position, field, column)
    return table
