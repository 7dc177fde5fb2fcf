"""Whether samples lie where real images lie, and the other way round: balls about each image up to its k-th neighbour.

Distances are exact, as those of `neighbours.nearest`: an image that is there twice lies in its copy's ball, and one as far
away as a ball's rim lies on it.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from ambient_sweep.errors import AmbientSweepError
from ambient_sweep.evaluation.measure import Z95, Measure
from ambient_sweep.evaluation.neighbours import nearest
from ambient_sweep.evaluation.neighbours.exact import bounded_squares, pair_distances

K, DENSITY_K = 3, 5  # as in the papers
BLOCK = 2**22  # distances held at once


def manifold_measures(features: Tensor, real: Tensor) -> dict[str, Measure]:
    """`precision`, `recall`, `density` and `coverage` of features [n, D] to real ones [m, D].

    Improved precision and recall (Kynkaanniemi et al. 2019): the share of samples within some real image's ball, and of real
    images within some sample's. A ball reaches to the third nearest *other* image of its own set, its rim included.
    Density and coverage (Naeem et al. 2020): the number of real balls that hold a sample, over k, on average, and the share
    of real images with a sample in their ball, which reaches to the fifth and has no rim. Wilson intervals for the shares,
    that of a mean over samples for density; the balls are taken as they are. Raises AmbientSweepError for fewer than four
    samples, fewer than six real images or non-finite features.
    """
    for part, least in ((features, K + 1), (real, DENSITY_K + 1)):
        if len(part) < least:
            raise AmbientSweepError(
                f"precision, recall, density and coverage need at least {least} images, not {len(part)}"
            )
        if not part.isfinite().all():
            raise AmbientSweepError(
                "precision, recall, density and coverage need finite features; the encoder gave others"
            )
    n, device = len(features), features.device
    real_radii, radii = _radii(real, DENSITY_K), _radii(features, K)[:, K]
    in_real = torch.zeros(n, dtype=torch.bool, device=device)
    in_generated, covered = (torch.zeros(len(real), dtype=torch.bool, device=device) for _ in range(2))
    balls = torch.zeros(n, dtype=torch.float64, device=device)
    for rows, distances in _blocks(features, real):
        in_real[rows] = distances.within(real_radii[:, K], rim=True).any(1)
        in_generated |= distances.within(radii[rows, None], rim=True).any(0)
        inside = distances.within(real_radii[:, DENSITY_K], rim=False)
        balls[rows] = inside.sum(1).double() / DENSITY_K
        covered |= inside.any(0)
    density, half = float(balls.mean()), Z95 * float(balls.std()) / math.sqrt(n)
    return {
        "precision": _share(in_real),
        "recall": _share(in_generated),
        "density": Measure(density, max(0.0, density - half), density + half, n),
        "coverage": _share(covered),
    }


def _radii(x: Tensor, k: int) -> Tensor:
    """Distances to the nearest other rows, [n, k + 1], the j-th in column j; an equal row is another one, at distance 0."""
    return nearest(x, x, k + 1, device=x.device)[0]


def _share(mask: Tensor) -> Measure:
    return Measure.share(int(mask.sum()), len(mask))


def _blocks(x: Tensor, y: Tensor) -> Iterator[tuple[slice, "_Distances"]]:
    """Rows of x with their distances to all of y."""
    centre, rows = y.mean(0, dtype=torch.float64), max(1, BLOCK // len(y))
    targets = y - centre
    for start in range(0, len(x), rows):
        part = slice(start, start + rows)
        yield part, _Distances(x[part], y, *bounded_squares(x[part] - centre, targets))


class _Distances:
    """Distances of rows x [n, D] to y [m, D]: by a product, and by the differences where its bound leaves doubt."""

    def __init__(self, x: Tensor, y: Tensor, squares: Tensor, slack: Tensor) -> None:
        self._x, self._y, self._squares, self._slack = x, y, squares, slack

    def within(self, radii: Tensor, *, rim: bool) -> Tensor:
        """Whether each distance is below its radius, or equal to it with `rim`, bool [n, m]; radii [m] or [n, 1]."""
        gap = self._squares - radii.square()
        inside, unsure = gap < 0, gap.abs() <= self._slack
        row, column = unsure.nonzero(as_tuple=True)
        if len(row):
            exact, bounds = (
                pair_distances(self._x, self._y, row, column).sqrt(),
                radii.expand(unsure.shape)[row, column],
            )
            inside[row, column] = exact <= bounds if rim else exact < bounds
        return inside
