"""Whether held-out images are related to training images, as those of one patient, burst or author are.

Of independent images, the k-th nearest lies at a distance that grows as k^(1/D), with one D at all ranks k, or a larger one
at low ranks. Around an image with m relatives, distances jump at k = m. So a held-out image counts as related if its
distances to training images grow between two ranks by more than FACTOR, and TIMES as steeply as is usual at higher ranks;
of large groups, beyond which there are no such ranks, if they grow by GAP from one rank to the next. Pictures of a small
shape that do not overlap all lie at one distance, which says nothing: ranks count below UNRELATED of the median alone.
Distances are those of the grey pictures in data/duplicates.py; copies, which these find, are left out.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ambient_sweep.data.duplicates import NEAR, Thumbnails, unit_pictures

FACTOR, TIMES, GAP, UNRELATED = 1.5, 3, 1.4, 0.95
SPAN = 2  # growth is looked at from the first rank, and from this many doublings before
SHARE, LEAST = 0.4, 3  # of the held-out images, by which they are too many to be a matter of chance
FEWEST = 8  # training images to compare with
MOST, DISTANCES = 256, 2**25  # held-out images compared, distances in memory


@dataclass(frozen=True)
class Related:
    """How many held-out images are related to training images, of those compared, and how near they lie."""

    count: int
    compared: int
    near: float  # median distance of the related ones to the nearest training image
    expected: float  # the same of independent images

    @property
    def is_many(self) -> bool:
        return self.count >= max(LEAST, SHARE * self.compared)

    @property
    def line(self) -> str:
        """For people."""
        return (
            f"{self.count:,} of {self.compared:,} held-out images are related to training images: the nearest lies at a "
            f"distance of {self.near:.2f} (median), where {self.expected:.2f} is usual of independent images; if images "
            "come in groups (of a patient, a burst, an author), mem_excess overlooks copies: name the groups by "
            "data.group_column or data.group_pattern"
        )


def find_related(thumbnails: Thumbnails, train: NDArray[np.int64], heldout: NDArray[np.int64]) -> Related:
    """How the first of the held-out images relate to all training images, given as rows of `thumbnails`."""
    train, heldout = (rows[~thumbnails.flat[rows]] for rows in (train, heldout))
    heldout = heldout[: min(MOST, DISTANCES // max(1, len(train)))]
    found = Related(0, len(heldout), math.nan, math.nan)
    products = unit_pictures(thumbnails, heldout) @ unit_pictures(thumbnails, train).T
    distances = np.sqrt(np.maximum(2 - 2 * products, 0))
    distances = np.sort(np.where(distances < NEAR, np.inf, distances), axis=1)
    count = int(np.isfinite(distances).sum(axis=1).min(initial=len(train)))
    if count < FEWEST or len(heldout) == 0:
        return found
    log = np.log(distances[:, :count])
    jumps = np.diff(log[:, count // 8 :])
    apart, place = jumps.max(axis=1) > math.log(GAP), count // 8 + 1 + jumps.argmax(axis=1)
    if apart.any():
        beyond = np.take_along_axis(log, place[:, None], axis=1)
        found = _related(log, apart, float(np.median(beyond[apart])))
    median = np.median(log, axis=0)
    usual = median < median[count // 2] + math.log(UNRELATED)
    ranks = [2**power for power in range(int(math.log2(count // 4)) + 1) if usual[2**power - 1]]
    for high in range(1, len(ranks) - 1):
        slope = (median[ranks[-1] - 1] - median[ranks[high] - 1]) / math.log(ranks[-1] / ranks[high])  # 1 / D
        for low in {0, max(0, high - SPAN)}:
            growth = log[:, ranks[high] - 1] - log[:, ranks[low] - 1]
            steep = growth > max(math.log(FACTOR), TIMES * slope * math.log(ranks[high] / ranks[low]))
            if steep.sum() > found.count:
                found = _related(log, steep, median[ranks[high] - 1] - slope * math.log(ranks[high]))
    return found


def _related(log: NDArray[np.float32], related: NDArray[np.bool_], expected: float) -> Related:
    return Related(int(related.sum()), len(log), math.exp(np.median(log[related, 0])), math.exp(expected))
