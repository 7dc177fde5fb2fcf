"""Whether held-out images are related to training images, as those of one patient, burst or author are.

Of independent images, the k-th nearest lies at a distance that grows as k^(1/D), with one D at all ranks k, or a larger one
at low ranks. Around an image with m relatives, distances jump at k = m. So a held-out image counts as related if its
distances to training images grow between two ranks by more than FACTOR, and TIMES as steeply as is usual at higher ranks.
Distances are those of the grey pictures in data/duplicates.py.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ambient_sweep.data.duplicates import Thumbnails, unit_pictures

FACTOR, TIMES = 1.5, 3
SPAN = 2  # growth is looked at from the first rank, and from this many doublings before
NOISE = 0.02  # distance that the rounding of pictures makes
SHARE, LEAST = 0.25, 3  # of the held-out images, by which they are too many to be a matter of chance
MOST, DISTANCES, _BLOCK = 256, 2**26, 4096  # held-out images compared, distances in memory, training images at once


@dataclass(frozen=True)
class Related:
    """How many held-out images are related to training images, of those compared, and how near they lie."""

    count: int
    compared: int
    near: float  # median distance of the related ones to the nearest training image
    expected: float  # the same of independent images, by the growth of distances at high ranks

    @property
    def is_many(self) -> bool:
        return self.count >= max(LEAST, SHARE * self.compared)


def find_related(thumbnails: Thumbnails, train: NDArray[np.int64], heldout: NDArray[np.int64]) -> Related:
    """How the first of the held-out images relate to all training images, given as rows of `thumbnails`."""
    train, heldout = (rows[~thumbnails.flat[rows]] for rows in (train, heldout))
    heldout = heldout[: min(MOST, DISTANCES // max(1, len(train)))]
    found = Related(0, len(heldout), math.nan, math.nan)
    if len(train) < 8 or len(heldout) == 0:
        return found
    ranks = [2**power for power in range(int(math.log2(len(train) // 4)) + 1)]
    log = np.log(_distances(thumbnails, train, heldout, np.array([*ranks, len(train) // 2])))
    median = np.median(log, axis=0)
    for high in range(1, len(ranks)):
        slope = (median[-1] - median[high]) / math.log(len(train) // 2 / ranks[high])  # 1 / D
        for low in {0, max(0, high - SPAN)}:
            growth = log[:, high] - log[:, low]
            steep = growth > max(math.log(FACTOR), TIMES * slope * math.log(ranks[high] / ranks[low]))
            if steep.sum() > found.count:
                expected = math.exp(median[high] - slope * math.log(ranks[high]))
                found = Related(int(steep.sum()), len(heldout), math.exp(np.median(log[steep, 0])), expected)
    return found


def _distances(
    thumbnails: Thumbnails, train: NDArray[np.int64], heldout: NDArray[np.int64], ranks: NDArray[np.int64]
) -> NDArray[np.float32]:
    """The distances of held-out images to their nearest training images of these ranks, from 1, [held-out, ranks]."""
    squares, mine = np.empty((len(heldout), len(train)), dtype=np.float32), unit_pictures(thumbnails, heldout)
    for start in range(0, len(train), _BLOCK):
        squares[:, start : start + _BLOCK] = 2 - 2 * mine @ unit_pictures(thumbnails, train[start : start + _BLOCK]).T
    squares.partition(ranks - 1, axis=1)
    return np.sqrt(np.maximum(squares[:, ranks - 1], NOISE**2))
