"""Whether samples lie where real images lie, and the other way round: balls about each image up to its k-th neighbour.

Distances come from `neighbours.nearest`, exact in float64, so an image that is there twice lies in its copy's ball.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from ambient_sweep.errors import AmbientSweepError
from ambient_sweep.evaluation.measure import Z95, Measure, wilson
from ambient_sweep.evaluation.neighbours.exact import nearest, squared_distances

_BLOCK = 2**24  # float64 values of one block of distances


def precision_recall(features: Tensor, real: Tensor, k: int = 3) -> tuple[Measure, Measure]:
    """Improved precision and recall (Kynkaanniemi et al. 2019) of features [n, D] to real ones [m, D].

    Precision: share of samples within some real image's ball; recall: share of real images within some sample's. A ball
    reaches to the k-th nearest other image of its own set, its rim included. Wilson intervals. Raises AmbientSweepError
    for fewer than k + 1 of either.
    """
    x, y = _checked("precision and recall", features, k), _checked("precision and recall", real, k)
    inside_real, inside_generated = torch.zeros(len(x), dtype=torch.bool), torch.zeros(len(y), dtype=torch.bool)
    real_radii, generated_radii = _radii(y, k), _radii(x, k)
    for rows in _blocks(x, y):
        distances = _Distances(x[rows], y)
        inside_real[rows] = distances.below(real_radii, rim=True).any(1).cpu()
        inside_generated |= distances.below(generated_radii[rows, None], rim=True).any(0).cpu()
    return _share(inside_real), _share(inside_generated)


def density_coverage(features: Tensor, real: Tensor, k: int = 5) -> tuple[Measure, Measure]:
    """Density and coverage (Naeem et al. 2020) of features [n, D] to real ones [m, D].

    Density: real balls about a sample over k, on average; coverage: share of real images with a sample in their ball,
    its rim left out, as published. Density's interval is that of a mean over samples, coverage's is Wilson's. Raises
    AmbientSweepError for fewer than k + 1 of either.
    """
    x, y = _checked("density and coverage", features, k), _checked("density and coverage", real, k)
    balls, covered = torch.zeros(len(x), dtype=torch.float64), torch.zeros(len(y), dtype=torch.bool)
    radii = _radii(y, k)
    for rows in _blocks(x, y):
        inside = _Distances(x[rows], y).below(radii, rim=False)
        balls[rows] = inside.sum(1).double().cpu() / k
        covered |= inside.any(0).cpu()
    mean, half = float(balls.mean()), Z95 * float(balls.std()) / math.sqrt(len(balls))
    return Measure(mean, mean - half, mean + half, len(balls)), _share(covered)


def _checked(what: str, features: Tensor, k: int) -> Tensor:
    if len(features) < k + 1:
        raise AmbientSweepError(f"{what} need at least {k + 1} images, not {len(features)}")
    x = features.double()
    if not x.isfinite().all():
        raise AmbientSweepError(f"{what} need finite features; the encoder gave others")
    return x


def _radii(x: Tensor, k: int) -> Tensor:
    """The distance to the k-th nearest other row, [n]; an equal row is another one, at distance 0."""
    return nearest(x, x, k + 1, device=str(x.device))[0][:, k]


def _blocks(x: Tensor, y: Tensor) -> Iterator[slice]:
    """Rows of x whose distances to all of y are held at once."""
    rows = max(1, _BLOCK // len(y))
    return (slice(start, min(start + rows, len(x))) for start in range(0, len(x), rows))


class _Distances:
    """Distances of rows q [n, D] to t [m, D]: by one product, and by the differences where the product cannot decide."""

    def __init__(self, q: Tensor, t: Tensor) -> None:
        self.q, self.t = q, t
        sums = q.square().sum(1)[:, None] + t.square().sum(1)
        self.squared = torch.addmm(sums, q, t.T, alpha=-2)
        self.slack = sums * (4 * (q.shape[1] + 8) * torch.finfo(torch.float64).eps)

    def below(self, radii: Tensor, *, rim: bool) -> Tensor:
        """Whether each distance is below its radius, or equal to it with `rim`, bool [n, m]; radii [m] or [n, 1]."""
        bounds = radii.expand(len(self.q), len(self.t))
        gap = self.squared - bounds.square()
        inside = gap < 0
        i, j = (gap.abs() <= self.slack).nonzero(as_tuple=True)
        step = max(1, _BLOCK // self.q.shape[1])
        for a, b in zip(torch.split(i, step), torch.split(j, step), strict=True):
            exact = squared_distances(self.q[a], self.t[b]).sqrt()
            inside[a, b] = exact <= bounds[a, b] if rim else exact < bounds[a, b]
        return inside


def _share(mask: Tensor) -> Measure:
    count, n = int(mask.sum()), len(mask)
    return Measure(count / n, *wilson(count, n), n)
