"""Whether samples lie where real images lie, and the other way round: balls about each image up to its k-th neighbour.

Distances are those of `neighbours.nearest`, exact in float64: an image that is there twice lies in its copy's ball, and
one as far away as a ball's rim lies on it.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from ambient_sweep.errors import AmbientSweepError
from ambient_sweep.evaluation.measure import Z95, Measure, wilson
from ambient_sweep.evaluation.neighbours import nearest
from ambient_sweep.evaluation.neighbours.exact import squared_distances

K, DENSITY_K = 3, 5  # as in the papers
BLOCK = 2**22  # distances held at once
FEW = 64  # one pair in so many may be decided by its differences before a more precise product is worth its cost


def precision_recall(features: Tensor, real: Tensor, k: int = K) -> tuple[Measure, Measure]:
    """Improved precision and recall (Kynkaanniemi et al. 2019) of features [n, D] to real ones [m, D].

    Precision: share of samples within some real image's ball; recall: share of real images within some sample's. A ball
    reaches to the k-th nearest *other* image of its own set, its rim included. Wilson intervals, for the draw of the images
    that are counted with the balls as they are. Raises AmbientSweepError for fewer than k + 1 of either or non-finite ones.
    """
    x, y = (_checked("precision and recall need", part, k) for part in (features, real))
    both = _PrecisionRecall(_radii(y, k)[:, k], _radii(x, k)[:, k])
    for rows, distances in _blocks(x, y):
        both.add(rows, distances)
    return both.measures()


def density_coverage(features: Tensor, real: Tensor, k: int = DENSITY_K) -> tuple[Measure, Measure]:
    """Density and coverage (Naeem et al. 2020) of features [n, D] to real ones [m, D].

    Density: the number of real balls that hold a sample, over k, on average; coverage: share of real images with a sample in
    their ball. A ball as in `precision_recall`, its rim left out, as published. Density's interval is that of a mean over
    samples, coverage's is Wilson's; the balls are taken as they are. Raises AmbientSweepError for fewer than k + 1 real
    features, no others or non-finite ones.
    """
    x, y = (_checked("density and coverage need", part, least) for part, least in ((features, 0), (real, k)))
    both = _DensityCoverage(_radii(y, k)[:, k], k, len(x))
    for rows, distances in _blocks(x, y):
        both.add(rows, distances)
    return both.measures()


def manifold_measures(features: Tensor, real: Tensor, *, k: int = K, density_k: int = DENSITY_K) -> dict[str, Measure]:
    """`precision_recall` and `density_coverage` at 0.6 of their cost: `precision`, `recall`, `density`, `coverage`."""
    x, y = (
        _checked("precision, recall, density and coverage need", part, least)
        for part, least in ((features, k), (real, max(k, density_k)))
    )
    real_radii = _radii(y, max(k, density_k))
    first = _PrecisionRecall(real_radii[:, k], _radii(x, k)[:, k])
    second = _DensityCoverage(real_radii[:, density_k], density_k, len(x))
    for rows, distances in _blocks(x, y):
        first.add(rows, distances)
        second.add(rows, distances)
    return dict(zip(("precision", "recall", "density", "coverage"), first.measures() + second.measures(), strict=True))


class _PrecisionRecall:
    def __init__(self, real_radii: Tensor, generated_radii: Tensor) -> None:
        self.real_radii, self.generated_radii = real_radii, generated_radii
        self.in_real = torch.zeros(len(generated_radii), dtype=torch.bool, device=real_radii.device)
        self.in_generated = torch.zeros(len(real_radii), dtype=torch.bool, device=real_radii.device)

    def add(self, rows: slice, distances: "_Distances") -> None:
        self.in_real[rows] = distances.within(self.real_radii, rim=True).any(1)
        self.in_generated |= distances.within(self.generated_radii[rows, None], rim=True).any(0)

    def measures(self) -> tuple[Measure, Measure]:
        return _share(self.in_real), _share(self.in_generated)


class _DensityCoverage:
    def __init__(self, real_radii: Tensor, k: int, n: int) -> None:
        self.real_radii, self.k = real_radii, k
        self.balls = torch.zeros(n, dtype=torch.float64, device=real_radii.device)
        self.covered = torch.zeros(len(real_radii), dtype=torch.bool, device=real_radii.device)

    def add(self, rows: slice, distances: "_Distances") -> None:
        inside = distances.within(self.real_radii, rim=False)
        self.balls[rows] = inside.sum(1).double() / self.k
        self.covered |= inside.any(0)

    def measures(self) -> tuple[Measure, Measure]:
        n, mean = len(self.balls), float(self.balls.mean())
        half = Z95 * float(self.balls.std()) / math.sqrt(n) if n > 1 else None
        density = Measure(mean, None, None, n) if half is None else Measure(mean, max(0.0, mean - half), mean + half, n)
        return density, _share(self.covered)


def _checked(need: str, features: Tensor, k: int) -> Tensor:
    if len(features) < k + 1:
        raise AmbientSweepError(f"{need} at least {k + 1} images, not {len(features)}")
    if not features.isfinite().all():
        raise AmbientSweepError(f"{need} finite features; the encoder gave others")
    return features


def _radii(x: Tensor, k: int) -> Tensor:
    """Distances to the nearest other rows, [n, k + 1], the j-th in column j; an equal row is another one, at distance 0."""
    return nearest(x, x, k + 1, device=x.device)[0]


def _share(mask: Tensor) -> Measure:
    count, n = int(mask.sum()), len(mask)
    return Measure(count / n, *wilson(count, n), n)


# -- distances, held in blocks ----------------------------------------------------------------------------------------


def _blocks(x: Tensor, y: Tensor) -> Iterator[tuple[slice, "_Distances"]]:
    """Rows of x with their distances to all of y."""
    targets = _Targets(y, max(float(part.abs().max()) for part in (x, y)))
    rows = max(1, BLOCK // len(y))
    for start in range(0, len(x), rows):
        part = slice(start, start + rows)
        yield part, _Distances(x[part], targets)


class _Targets:
    """Rows [m, D], and what products with them need, made once: centred, and scaled so that no square overflows."""

    def __init__(self, rows: Tensor, largest: float) -> None:
        self.rows, self._centre = rows, rows.mean(0, dtype=torch.float64)
        self.scale = 2.0 ** -(math.frexp(largest)[1] + 1)  # exact
        self._operands: dict[torch.dtype, tuple[Tensor, Tensor]] = {}

    def operand(self, rows: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Any rows centred, scaled and in that type, and their squared norms."""
        parts = torch.split(rows, max(1, BLOCK // rows.shape[1]))
        a = torch.cat([((part - self._centre) * self.scale).to(dtype) for part in parts])
        return a, torch.linalg.vecdot(a, a)

    def operands(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """These rows in that way."""
        if dtype not in self._operands:
            self._operands[dtype] = self.operand(self.rows, dtype)
        return self._operands[dtype]


class _Distances:
    """Distances of rows q [n, D] to the targets: by a product, and by the differences where the product cannot decide.

    The product's error bound is that of `neighbours.exact`.
    """

    def __init__(self, q: Tensor, targets: _Targets) -> None:
        self._q, self._targets = q, targets
        self._products: dict[torch.dtype, tuple[Tensor, Tensor]] = {}

    def within(self, radii: Tensor, *, rim: bool) -> Tensor:
        """Whether each distance is below its radius, or equal to it with `rim`, bool [n, m]; radii [m] or [n, 1]."""
        # on other devices a float32 product may be of TF32, which the bound does not cover
        for dtype in (torch.float32, torch.float64) if self._q.device.type == "cpu" else (torch.float64,):
            squared, slack = self._squared(dtype)
            gap = squared - (radii * self._targets.scale).square().to(dtype)
            inside, unsure = gap < 0, gap.abs() <= slack
            if int(unsure.sum()) <= unsure.numel() // FEW:
                break
        i, j = unsure.nonzero(as_tuple=True)
        bounds = radii.expand(unsure.shape)[i, j]
        at_once = max(1, BLOCK // self._q.shape[1])
        pairs = zip(torch.split(i, at_once), torch.split(j, at_once), strict=True)
        q, t = self._q, self._targets.rows
        exact = torch.cat([squared_distances(q[a].double(), t[b].double()).sqrt() for a, b in pairs])
        inside[i, j] = exact <= bounds if rim else exact < bounds
        return inside

    def _squared(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The squared distances by a product, [n, m], and a bound of their error."""
        if dtype not in self._products:
            (a, of_a), (b, of_b) = self._targets.operand(self._q, dtype), self._targets.operands(dtype)
            info, size = torch.finfo(dtype), a.shape[1]
            n_u = (size + 128) * info.eps / 2
            sums = of_a[:, None] + of_b
            slack = sums * (2 * n_u / (1 - n_u)) + 4 * size * info.tiny
            self._products[dtype] = torch.addmm(sums, a, b.T, alpha=-2), slack
        return self._products[dtype]
