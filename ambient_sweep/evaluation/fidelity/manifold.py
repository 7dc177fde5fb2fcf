"""Whether samples lie where real images lie, and the other way round: balls about each image up to its k-th neighbour.

Distances are exact, as those of `neighbours.nearest`: an image that is there twice lies in its copy's ball, and one as far
away as a ball's rim lies on it.
"""

import math

import torch
from torch import Tensor

from ambient_sweep.evaluation.measure import Z95, Measure
from ambient_sweep.evaluation.neighbours import bounded_squares, nearest, pair_distances

K, DENSITY_K = 3, 5  # as in the papers
BLOCK = 2**22  # distances held at once


def manifold_measures(features: Tensor, real: Tensor) -> dict[str, Measure]:
    """`precision`, `recall`, `density` and `coverage` of features [n, D] to real ones [m, D], n at least 4, m at least 6.

    Improved precision and recall (Kynkaanniemi et al. 2019): the share of samples within some real image's ball, and of real
    images within some sample's. A ball reaches to the third nearest *other* image of its own set, its rim included.
    Density and coverage (Naeem et al. 2020): the number of real balls that hold a sample, over k, on average, and the share
    of real images with a sample in their ball, which reaches to the fifth and has no rim. Wilson intervals for the shares,
    that of a mean over samples for density; the balls are taken as they are.
    """
    n, device = len(features), features.device
    real_radii, radii = _radii(real, DENSITY_K), _radii(features, K)[:, K]
    in_real = torch.zeros(n, dtype=torch.bool, device=device)
    in_generated, covered = (torch.zeros(len(real), dtype=torch.bool, device=device) for _ in range(2))
    balls = torch.zeros(n, dtype=torch.float64, device=device)
    centre, rows = real.mean(0, dtype=torch.float64), max(1, BLOCK // len(real))
    for start in range(0, n, rows):
        part = slice(start, start + rows)
        x = features[part]
        squares = bounded_squares(x - centre, real - centre)
        in_real[part] = _within(x, real, squares, real_radii[:, K], rim=True).any(1)
        in_generated |= _within(x, real, squares, radii[part, None], rim=True).any(0)
        inside = _within(x, real, squares, real_radii[:, DENSITY_K], rim=False)
        balls[part] = inside.sum(1).double() / DENSITY_K
        covered |= inside.any(0)
    density, half = float(balls.mean()), Z95 * float(balls.std()) / math.sqrt(n)
    return {
        "precision": Measure.share(in_real),
        "recall": Measure.share(in_generated),
        "density": Measure(density, max(0.0, density - half), density + half, n),
        "coverage": Measure.share(covered),
    }


def _radii(x: Tensor, k: int) -> Tensor:
    """Distances to the nearest other rows, [n, k + 1], the j-th in column j; an equal row is another one, at distance 0."""
    return nearest(x, x, k + 1, device=x.device)[0]


def _within(x: Tensor, y: Tensor, bounded: tuple[Tensor, Tensor], radii: Tensor, *, rim: bool) -> Tensor:
    """Whether each distance of rows x [n, D] to y [m, D] is below its radius, or equal to it with `rim`, bool [n, m].

    bounded: `bounded_squares` of the two, by which most are decided; the others by the differences. radii [m] or [n, 1].
    """
    squares, slack = bounded
    gap = squares - radii.square()
    inside, unsure = gap < 0, gap.abs() <= slack
    row, column = unsure.nonzero(as_tuple=True)
    if len(row):
        exact, bounds = pair_distances(x, y, row, column).sqrt(), radii.expand(unsure.shape)[row, column]
        inside[row, column] = exact <= bounds if rim else exact < bounds
    return inside
