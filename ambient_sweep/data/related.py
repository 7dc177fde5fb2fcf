"""Whether held-out images are related to training images: of one patient, burst or author, though no copies.

By the distances of the grey pictures in data/duplicates.py. Of images drawn independently of each other, the k-th nearest
lies at a distance that grows as k^(1/D), with one D at all scales, or a larger one at small scales. Where a group of m
images lies close together, the distance jumps at k = m. So a held-out image counts as related to the training set if
between two ranks its distances grow by more than FACTOR, and TIMES as steeply as they do beyond.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ambient_sweep.data.duplicates import Thumbnails, unit_pictures

FACTOR, TIMES = 1.5, 3
SPAN = 2  # ranks double; besides from the first, growth is looked at from this many ranks before
MOST, DISTANCES, _BLOCK = 256, 2**26, 4096  # held-out images compared, distances in memory, training images at once
NOISE = 0.02  # distance that rounding of the pictures alone makes
SHARE, LEAST = 0.25, 3  # of the held-out images related, from which on a warning is due; and how many


@dataclass(frozen=True)
class Related:
    """How many of the held-out images that were compared are related to a training image, and how near they lie."""

    count: int
    compared: int
    near: float  # median distance of the related ones to the nearest training image
    expected: float  # the same of independent images, by the growth of distances beyond the groups

    @property
    def is_many(self) -> bool:
        """Whether these are too many to be a matter of chance."""
        return self.count >= max(LEAST, SHARE * self.compared)


def find_related(thumbnails: Thumbnails, train: NDArray[np.int64], heldout: NDArray[np.int64]) -> Related:
    """The relations of the first held-out images, at most MOST, to all training images, given as rows of `thumbnails`."""
    train, heldout = (rows[~thumbnails.flat[rows]] for rows in (train, heldout))
    heldout = heldout[: min(MOST, DISTANCES // max(1, len(train)))]
    ranks = [2**power for power in range(int(math.log2(max(1, len(train) // 4))) + 1)]  # from 1, to a quarter
    found = Related(0, len(heldout), math.nan, math.nan)
    if len(ranks) == 1 or len(heldout) == 0:
        return found
    far = len(train) // 2
    log = np.log(_distances(thumbnails, train, heldout, [*ranks, far]))
    median = np.median(log, axis=0)
    for upper in range(1, len(ranks)):
        slope = (median[-1] - median[upper]) / math.log(far / ranks[upper])  # 1/D
        for lower in {0, max(0, upper - SPAN)}:
            growth = log[:, upper] - log[:, lower]
            steep = growth > max(math.log(FACTOR), TIMES * slope * math.log(ranks[upper] / ranks[lower]))
            if steep.sum() > found.count:
                near = math.exp(np.median(log[steep, 0]))
                expected = math.exp(median[upper] - slope * math.log(ranks[upper]))
                found = Related(int(steep.sum()), len(heldout), near, expected)
    return found


def _distances(
    thumbnails: Thumbnails, train: NDArray[np.int64], heldout: NDArray[np.int64], ranks: list[int]
) -> NDArray[np.float32]:
    """The distances of each held-out image to its nearest training images of these ranks, from 1, [held-out, ranks]."""
    distances, mine = np.empty((len(heldout), len(train)), dtype=np.float32), unit_pictures(thumbnails, heldout)
    for start in range(0, len(train), _BLOCK):
        block = slice(start, start + _BLOCK)
        distances[:, block] = 2 - 2 * mine @ unit_pictures(thumbnails, train[block]).T
    places = np.array(ranks) - 1
    distances.partition(places, axis=1)
    return np.sqrt(np.maximum(distances[:, places], NOISE**2))
