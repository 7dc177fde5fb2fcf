"""The Frechet distance of endlessly many samples, from its fall with their number (Chong and Forsyth 2020)."""

import numpy as np
import torch
from torch import Tensor

from ambient_sweep import rng
from ambient_sweep.errors import AmbientSweepError
from ambient_sweep.evaluation.fidelity.frechet import Statistics, frechet
from ambient_sweep.evaluation.measure import Z95, Measure

POINTS = 8
LEAST = 20


def frechet_infinity(features: Tensor, real: Statistics, *, points: int = POINTS, seed: int = 0) -> Measure:
    """The intercept of a line through distances at n' of the n samples over 1 / n', n' from n / 4 to n; may be below 0.

    Subsets are drawn by a key and evenly spaced in 1 / n'. It removes the bias that the number of *samples* has, to first
    order; that of the real images' number stays. The interval is the larger of the line's own and that of the distance at
    n. Raises AmbientSweepError for fewer than 20 features or non-finite ones.
    """
    n = len(features)
    if n < LEAST:
        raise AmbientSweepError(f"a distance extrapolated to endlessly many samples needs at least {LEAST}, not {n}")
    inverse = np.linspace(1 / n, 4 / n, points)
    sizes = np.maximum(2, np.rint(1 / inverse)).astype(int)
    whole = frechet(features, real)
    values = [whole.value]
    for index, size in enumerate(sizes[1:].tolist()):
        rows = torch.from_numpy(rng.permutation("frechet.infinity", seed, index, n)[:size])
        values.append(frechet(features[rows], real).value)
    design = np.stack([np.ones(points), 1 / sizes], axis=1)
    solution = np.linalg.lstsq(design, np.array(values), rcond=None)[0]
    residual = np.array(values) - design @ solution
    covariance = np.linalg.inv(design.T @ design) * (residual @ residual) / (points - 2)
    value = float(solution[0])
    own = 0.0 if whole.high is None else whole.high - whole.value
    half = max(Z95 * float(np.sqrt(covariance[0, 0])), own)
    return Measure(value, value - half, value + half, n, seed=seed)
