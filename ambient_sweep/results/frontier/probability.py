"""The probability that a candidate is on the front of the true values, given noisy measurements of all candidates.

Of hundreds of candidates, some are measured on the front by luck, and drawing noise around noisy values makes fronts that
are too good. So values are shrunk first, as in empirical Bayes: the true values are taken as a sample of one normal
distribution, whose mean and covariance are estimated from the measurements (method of moments), and values are drawn from
each candidate's posterior. docs/measurements/confidence.md says how well that holds on planted fronts.
"""

import numpy as np
from scipy.special import ndtri

from ambient_sweep.pareto import pareto_mask
from ambient_sweep.results.frontier.candidates import Floats, Mask

DRAWS = 4096  # Monte Carlo error of a probability: 0.008 at most
AT_ONCE = 1 << 20  # numbers held at once
FEW = 10  # candidates below which nothing is shrunk
LEAST_SPREAD = 0.5  # of true values along any axis, as a variance in units of the noise: see _shrunk
HOPELESS = 5.0  # dominated by so many standard errors in both objectives: probability 0


def front_probability(points: Floats, errors: Floats, *, correlation: float = 0.0, draws: int = DRAWS) -> Floats:
    """The probability that each candidate is on the front of the true values, both minimised, by Monte Carlo.

    points [N, 2]: measured values, finite; errors [N, 2]: standard errors of normal noise, from 0; correlation: between
    the two errors of a candidate, inside (-1, 1). Equal points without error are on the front together. Unless rows are
    equal, their order does not matter.
    """
    from ambient_sweep import rng  # which imports torch, and tables are read without it

    order = np.lexsort((*errors.T, *points.T[::-1]))
    order = order[~_hopeless(points[order], errors[order])]
    means, spread = points[order], errors[order]
    noise = spread[:, :, None] * spread[:, None, :] * np.array([[1.0, correlation], [correlation, 1.0]])  # [N, 2, 2]
    if len(means) >= FEW and (spread > 0).all():
        means, noise = _shrunk(means, noise)
    roots = _roots(noise)
    hits, step = np.zeros(len(means)), max(1, AT_ONCE // max(1, len(means)))
    for first in range(0, draws, step):
        count = min(step, draws - first)
        normal = ndtri(rng.uniform("front", 0, first, count, 2 * len(means))).reshape(count, len(means), 2)
        drawn = means + roots[:, :, 0] * normal[..., :1]
        drawn[..., 1] += roots[:, 1, 1] * normal[..., 1]
        hits += pareto_mask(drawn).sum(axis=0)
    result = np.zeros(len(points))
    result[order] = hits / draws
    return result


def _hopeless(values: Floats, spread: Floats) -> Mask:
    """Which points are surely dominated by some point of the measured front."""
    result = np.zeros(len(values), dtype=bool)
    for index in np.flatnonzero(pareto_mask(values)):
        result |= (values - values[index] > HOPELESS * np.hypot(spread, spread[index])).all(axis=1)
    return result


def _shrunk(values: Floats, noise: Floats) -> tuple[Floats, Floats]:
    """Means [N, 2] and covariances [N, 2, 2] of the true values, given measurements and the covariances of their noise.

    True values that spread less than noise across the front would all be placed on one line, that is on one front; so
    their variance along any axis is taken as LEAST_SPREAD of the noise's at least.
    """
    unit = np.sqrt(noise.mean(axis=0).diagonal())
    x, noise = values / unit, noise / np.outer(unit, unit)
    centre, spread = x.mean(axis=0), np.cov(x.T, bias=True)
    if not np.isfinite(spread).all():
        return values, noise * np.outer(unit, unit)
    variances, axes = np.linalg.eigh(spread - noise.mean(axis=0))
    prior = axes * np.maximum(variances, LEAST_SPREAD) @ axes.T
    gain = prior @ np.linalg.inv(prior + noise)
    means = centre + (gain @ (x - centre)[..., None])[..., 0]
    return means * unit, gain @ noise * np.outer(unit, unit)


def _roots(covariances: Floats) -> Floats:
    """Cholesky factors [N, 2, 2], lower triangular; variances that rounding makes negative count as 0."""
    result = np.zeros_like(covariances)
    first = result[:, 0, 0] = np.sqrt(covariances[:, 0, 0].clip(0.0))
    np.divide(covariances[:, 1, 0], first, out=result[:, 1, 0], where=first > 0)
    result[:, 1, 1] = np.sqrt((covariances[:, 1, 1] - result[:, 1, 0] ** 2).clip(0.0))
    return result
