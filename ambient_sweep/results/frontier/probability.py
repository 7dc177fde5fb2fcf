"""The probability that a candidate is on the front of the true values, given noisy measurements of all candidates."""

import numpy as np
from scipy.special import ndtri

from ambient_sweep.pareto import pareto_mask
from ambient_sweep.results.frontier.candidates import Floats

DRAWS = 1000  # Monte Carlo error of a probability: 0.016 at most


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
