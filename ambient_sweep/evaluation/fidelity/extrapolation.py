"""The Frechet distance of endlessly many samples, from its fall with their number (Chong and Forsyth 2020)."""

import math

import numpy as np
import torch
from torch import Tensor

from ambient_sweep import rng
from ambient_sweep.errors import AmbientSweepError
from ambient_sweep.evaluation.fidelity.frechet import Resampled, Statistics, frechet
from ambient_sweep.evaluation.measure import Measure

PARTS = 3
LEAST = 5  # images in a part


def frechet_infinity(
    features: Tensor, real: Statistics, *, parts: int = PARTS, seed: int = 0, at_n: Measure | None = None
) -> Measure:
    """The distance at 1/n -> 0, on a line through the distances at n, n/2, ..., n/parts samples; may be below 0.

    The distance at n/p is the mean over the p parts of one random partition, by (seed, p): all images count alike at every
    point, so what is particular to them shifts the line as a whole, and the end of the line varies as the distance at n.
    The interval is that of the distance at n, and in quadrature how far the end of a parabola lies from that of the line. To
    be trusted from some 8 images a feature on: with fewer the fall is no line, which the interval shows only in part, and at
    1 or 2 images a feature not at all. The real images are taken as given.

    at_n: what `frechet` gave for the same features, with its interval, where that is known: half of the cost. Raises
    AmbientSweepError for fewer than 5 features a part or non-finite ones, ValueError for fewer than three parts.
    """
    n, least = len(features), LEAST * parts
    if parts < 3:
        raise ValueError(f"frechet_infinity: a line and its bend need 3 points, not {parts}")
    if n < least:
        raise AmbientSweepError(f"a distance extrapolated to endlessly many images needs at least {least}, not {n}")
    whole = at_n or frechet(features, real)
    if whole.high is None:
        raise ValueError("frechet_infinity: at_n has no interval")
    resampled = Resampled(features, real)
    inverse = np.arange(1, parts + 1)  # of the number of samples, in units of 1/n
    values = [whole.value, *(_mean_over_parts(resampled, n, count, seed) for count in inverse[1:].tolist())]
    line, parabola = (float(np.polyfit(inverse, values, degree)[-1]) for degree in (1, 2))
    half = math.hypot(whole.high - whole.value, line - parabola)
    return Measure(line, line - half, line + half, n, seed=seed)


def _mean_over_parts(resampled: Resampled, n: int, parts: int, seed: int) -> float:
    order = torch.from_numpy(rng.permutation("frechet.infinity", seed, parts, n))
    chosen = (torch.zeros(n).index_fill_(0, rows, 1.0) for rows in order.tensor_split(parts))
    return sum(resampled.distance(counts) for counts in chosen) / parts
