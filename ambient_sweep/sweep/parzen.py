"""Parzen estimators of one searched key, and the value at which the good ones lie denser than the bad.

Tree-structured Parzen estimators (Bergstra et al. 2011; bandwidths and prior as in Watanabe 2023, arXiv 2304.11127). A
number is estimated in the coordinate in which it is drawn evenly, from 0 to 1; what has few values, by its masses.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from ambient_sweep.sweep.distributions import Distribution

DRAWS = 24  # from the good density, of which the best is taken
MOST_MASSES = 256  # values up to which a number is estimated by masses
NARROWEST = 0.01  # kernel, as a share of the range
Floats = NDArray[np.float64]


class Key:
    """The estimators of one key: made from good and bad values, asked for the next."""

    def __init__(self, distribution: Distribution, good: Sequence[Any], bad: Sequence[Any]) -> None:
        self._distribution = distribution
        self._grid = distribution.grid() if distribution.size <= MOST_MASSES or distribution.kind == "choice" else ()
        self._masses: tuple[Floats, Floats] | None = None
        if distribution.kind == "choice":
            self._masses = self._shares(good), self._shares(bad)
            return
        self._good, self._bad = (_Mixture([distribution.share(v) for v in values]) for values in (good, bad))
        if self._grid:
            edges = np.array([distribution.share(v) for v in self._grid])
            edges = np.concatenate(([0.0], (edges[1:] + edges[:-1]) / 2, [1.0]))
            self._masses = self._good.masses(edges), self._bad.masses(edges)

    def draw(self, shares: Floats) -> Any:
        """Of values from the good density, one for each row of uniform numbers [N, 2], that with the largest ratio of good
        over bad."""
        if self._masses is not None:
            good, bad = self._masses
            indices = np.minimum(np.searchsorted(np.cumsum(good), shares[:, 0], side="right"), len(good) - 1)
            best = int(indices[np.argmax(good[indices] / bad[indices])])
            return self._grid[best]
        points = self._good.draw(shares)
        ratio = self._good.density(points) / self._bad.density(points)
        return self._distribution.at(min(float(points[np.argmax(ratio)]), math.nextafter(1, 0)))

    def _shares(self, values: Sequence[Any]) -> Floats:
        """How often each choice occurs, with one more spread over all."""
        choices = self._distribution.values
        counts = np.full(len(choices), 1 / len(choices))
        for value in values:
            counts[self._distribution.index(value)] += 1
        shares: Floats = counts / counts.sum()
        return shares


class _Mixture:
    """Normal kernels in [0, 1], each cut off at the ends and as a whole of weight one, and a wide one as prior."""

    def __init__(self, centres: Sequence[float]) -> None:
        count = len(centres)
        width = max(NARROWEST, 0.2 * max(count, 1) ** -0.2)  # Scott's rule in one dimension
        self._centres = np.array([*centres, 0.5])
        self._widths = np.array([*[width] * count, 1.0])
        self._below = ndtr(-self._centres / self._widths)
        self._inside = ndtr((1 - self._centres) / self._widths) - self._below

    def draw(self, shares: Floats) -> Floats:
        """A point for each row of uniform numbers [N, 2]: the first chooses the kernel, the second the place in it."""
        which = (shares[:, 0] * len(self._centres)).astype(np.int64)
        within = self._below[which] + shares[:, 1] * self._inside[which]
        points: Floats = np.clip(self._centres[which] + self._widths[which] * ndtri(within), 0.0, 1.0)
        return points

    def density(self, points: Floats) -> Floats:
        scaled = (points[:, None] - self._centres) / self._widths
        kernels = np.exp(-0.5 * scaled * scaled) / (self._widths * self._inside * math.sqrt(2 * math.pi))
        density: Floats = kernels.mean(axis=1)
        return density

    def masses(self, edges: Floats) -> Floats:
        """The mass of each interval between `edges`, which span [0, 1]."""
        under = ndtr((edges[:, None] - self._centres) / self._widths)
        masses: Floats = (np.diff(under, axis=0) / self._inside).mean(axis=1)
        return np.asarray(masses / masses.sum(), dtype=np.float64)
